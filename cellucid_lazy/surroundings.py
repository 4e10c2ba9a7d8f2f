"""Where tasks run, in this process's threads or on a cluster, and how much they may hold."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import dask
import dask.threaded

from cellucid_lazy.budget import local_workers, memory_budget

_THREADS = (None, "threads", "threading")


class Surroundings(NamedTuple):
    """What the work may use.

    Attributes
    ----------
    budget
        Bytes per process.
    workers
        Tasks that run at a time in one process.
    threads
        Tasks that run at a time in all.
    """

    budget: int
    workers: int
    threads: int


def look_around(budget: int | str | None) -> Surroundings:
    """Find out where dask will run tasks, and settle the budget of each process.

    Parameters
    ----------
    budget
        As `budget.memory_budget` takes it. On a cluster the default is a quarter of the smallest
        worker's limit.

    Returns
    -------
    Surroundings
        Of the current client, if there is one, else of this process.
    """
    client = _client()
    if client is None:
        scheduler = dask.config.get("scheduler", None)
        workers = 1 if scheduler in ("sync", "synchronous", "single-threaded") else local_workers()
        return Surroundings(memory_budget(budget), workers, workers)
    threads = [int(number) for number in client.nthreads().values()] or [1]
    shown = client.scheduler_info()["workers"].values()
    limits = [int(worker["memory_limit"]) for worker in shown if worker["memory_limit"]]
    if budget is None and limits and dask.config.get("cellucid_lazy.memory-budget", None) is None:
        budget = max(min(limits) // 4, 2**26)
    return Surroundings(memory_budget(budget), max(threads), sum(threads))


def _client() -> Any:
    distributed = sys.modules.get("distributed")
    if distributed is None or dask.config.get("scheduler", None) not in (None, "dask.distributed"):
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def dask_options() -> dict[str, Any]:
    """Name the scheduler of a dask call.

    Returns
    -------
    dict
        Keyword arguments for ``dask.compute``. Empty where a cluster is connected or another
        scheduler is configured; else dask's threads, as the function itself: dask imports
        distributed, half a second, to look up a name or nothing at all.
    """
    if _client() is not None or dask.config.get("scheduler", None) not in _THREADS:
        return {}
    return {"scheduler": dask.threaded.get}


def release_memory() -> None:
    """Hand freed memory back to the system; glibc keeps it for threads that are gone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def running(workers: int) -> Iterator[dict[str, Any]]:
    """Give the options of a dask call whose threads end before this context does.

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
    options = dask_options()
    if not options:
        yield {}
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield {**options, "pool": pool, "num_workers": workers}
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
