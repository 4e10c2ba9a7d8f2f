"""Where tasks run, and how much memory they may take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_bytes

from cellucid_lazy.errors import OptionError

_MIN_BUDGET = 64 * 10**6
_THREADS = (None, "threads", "threading")
_IN_TURN = ("sync", "synchronous", "single-threaded")


@dataclass(frozen=True)
class Resources:
    """What the work may use; found once per call.

    Attributes
    ----------
    budget
        Bytes of memory per process.
    workers
        Tasks that run at a time in one process.
    threads
        Tasks that run at a time in all.
    """

    budget: int
    workers: int
    threads: int


def detect_resources(budget: int | str | None = None) -> Resources:
    """Find where dask will run tasks, and settle the memory budget of each process.

    Parameters
    ----------
    budget
        As `memory_budget` takes it. On a cluster the default is a quarter of the smallest
        worker's limit.

    Returns
    -------
    Resources
        Of the current client, if there is one, else of this process.

    Raises
    ------
    OptionError
        When the budget is no size, or too small.
    """
    client = current_client()
    if client is None:
        in_turn = dask.config.get("scheduler", None) in _IN_TURN
        workers = 1 if in_turn else int(dask.config.get("num_workers", None) or CPU_COUNT)
        return Resources(memory_budget(budget), workers, workers)
    threads = [int(number) for number in client.nthreads().values()] or [1]
    workers_info = client.scheduler_info()["workers"].values()
    limits = [int(worker["memory_limit"]) for worker in workers_info if worker["memory_limit"]]
    if budget is None and limits and dask.config.get("cellucid_lazy.memory-budget", None) is None:
        budget = max(min(limits) // 4, 2**26)
    return Resources(memory_budget(budget), max(threads), sum(threads))


def memory_budget(given: int | str | None = None) -> int:
    """Settle the budget: as given, as configured, or a quarter of the memory there is.

    Parameters
    ----------
    given
        Bytes, or text such as ``"1GB"``. Default: dask's configuration
        ``cellucid_lazy.memory-budget``, else a quarter of what the machine or container has.

    Returns
    -------
    int
        Bytes, at least 64 MB.

    Raises
    ------
    OptionError
        When it is no size, or too small to work with.
    """
    chosen = given if given is not None else dask.config.get("cellucid_lazy.memory-budget", None)
    if chosen is None:
        return max(_MIN_BUDGET, machine_memory() // 4)
    try:
        size = int(parse_bytes(chosen))
    except (ValueError, TypeError, AttributeError, OverflowError) as problem:
        raise OptionError(f"memory_budget={chosen!r}: a size is needed, such as '1GB'") from problem
    if size < _MIN_BUDGET:
        raise OptionError(
            f"memory_budget={chosen!r}: at least {_MIN_BUDGET // 10**6} MB are needed"
        )
    return size


def machine_memory() -> int:
    """Return the memory that this process may use: the machine's, or its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return total


def current_client() -> Any:
    """Return the connected client of a cluster, or None."""
    distributed = sys.modules.get("distributed")
    if distributed is None or dask.config.get("scheduler", None) not in (None, "dask.distributed"):
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def scheduler_kwargs() -> dict[str, Any]:
    """Return the keyword arguments of ``dask.compute`` that name its scheduler.

    Returns
    -------
    dict
        Empty where a cluster is connected or another scheduler is configured; else dask's threads,
        as the function itself: to look up a name, dask imports distributed, which takes half a
        second.
    """
    if current_client() is not None or dask.config.get("scheduler", None) not in _THREADS:
        return {}
    return {"scheduler": dask.threaded.get}


@contextmanager
def local_pool(workers: int) -> Iterator[dict[str, Any]]:
    """Run dask on a private thread pool that is joined on exit.

    dask leaves its threads running when it is interrupted; a task that still writes a file would
    then race with the removal of its folder.

    Parameters
    ----------
    workers
        Number of threads.

    Yields
    ------
    dict
        Keyword arguments for ``dask.compute``.
    """
    options = scheduler_kwargs()
    if not options:
        yield {}
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield {**options, "pool": pool, "num_workers": workers}
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
