"""Where tasks run, and how much memory they may take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_bytes, parse_timedelta

from cellucid_lazy.errors import ClusterError, OptionError

_MIN_BUDGET = 64 * 10**6
_THREADS = (None, "threads", "threading")
_CLIENT: ContextVar[Any] = ContextVar("client", default=None)
_SYNCHRONOUS = ("sync", "synchronous", "single-threaded")


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
    retries
        How often a cluster runs a failed task again.
    """

    budget: int
    workers: int
    threads: int
    retries: int | None = None


def detect_resources(budget: int | str | None = None, retries: int | None = None) -> Resources:
    """Find where dask will run tasks, and the memory budget of each process.

    If a cluster has no worker yet, the call waits for one: 60 seconds, or dask's configuration
    ``cellucid_lazy.worker-timeout``.

    Parameters
    ----------
    budget
        As `memory_budget` takes it. On a cluster the default is a quarter of the smallest
        worker's limit.
    retries
        How often a cluster runs a failed task again.

    Returns
    -------
    Resources
        Of the current client, if there is one, else of this process.

    Raises
    ------
    ClusterError
        When the cluster has no worker.
    OptionError
        When the budget is no size, or too small, the retries are no number, or the client is
        asynchronous.
    """
    if retries is not None and (type(retries) is not int or retries < 0):
        raise OptionError(f"retries={retries!r}: a whole number is needed, from 0")
    client = current_client()
    if client is None:
        one_at_a_time = dask.config.get("scheduler", None) in _SYNCHRONOUS
        workers = 1 if one_at_a_time else int(dask.config.get("num_workers", None) or CPU_COUNT)
        return Resources(memory_budget(budget), workers, workers, retries)
    if getattr(client, "asynchronous", False):
        raise OptionError(
            f"{client}: is asynchronous, but calls wait for their results; make another Client, "
            "without asynchronous=True"
        )
    with explain_lost_cluster("starting"):
        if not client.nthreads():
            _wait_for_workers(client)
        threads = [int(number) for number in client.nthreads().values()] or [1]
        limits = [int(worker["memory_limit"] or 0) for worker in _workers_of(client)]
    limits = [limit for limit in limits if limit]
    if budget is None and limits and dask.config.get("cellucid_lazy.memory-budget", None) is None:
        budget = max(min(limits) // 4, 2**26)
    return Resources(memory_budget(budget), max(threads), sum(threads), retries)


def _wait_for_workers(client: Any) -> None:
    """Wait for the first worker of a cluster, as jobs of a batch system begin one by one."""
    timeout = parse_timedelta(dask.config.get("cellucid_lazy.worker-timeout", "60s"))
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError as problem:
        raise ClusterError(
            f"the cluster at {client.scheduler.address} has no worker after {timeout:g} s; start "
            "some, or wait longer: dask's configuration cellucid_lazy.worker-timeout"
        ) from problem


def _workers_of(client: Any) -> list[Mapping[str, Any]]:
    """List what the scheduler knows of each worker."""
    try:
        found = client.scheduler_info(n_workers=-1)
    except TypeError:  # of a version that always lists all
        found = client.scheduler_info()
    return list(found["workers"].values())


@contextmanager
def use_client(client: Any) -> Iterator[None]:
    """Make a client of dask.distributed the one that runs tasks; None for the current one.

    Raises
    ------
    ClusterError
        For a client that is closed.
    OptionError
        For anything else.
    """
    if client is not None:
        _check_client(client)
    before = _CLIENT.set(client)
    try:
        yield
    finally:
        _CLIENT.reset(before)


def _check_client(client: Any) -> None:
    if not hasattr(client, "as_current"):
        raise OptionError(f"client={client!r}: a distributed.Client is needed")
    if client.status in ("closing", "closed"):
        raise ClusterError(f"{client}: is closed; connect again")


@contextmanager
def explain_lost_cluster(doing: str) -> Iterator[None]:
    """Turn the errors of a lost cluster into ClusterError, which says what remains."""
    try:
        yield
    except Exception as problem:
        distributed = sys.modules.get("distributed")
        if distributed is None:
            raise
        if isinstance(problem, distributed.KilledWorker):
            raise ClusterError(
                f"{doing}: a task's workers died again and again ({problem}); what was begun is "
                "removed, an earlier export stays. Give them more memory, or a smaller "
                "memory_budget="
            ) from problem
        if isinstance(problem, (distributed.CancelledError, distributed.comm.CommClosedError)):
            raise ClusterError(
                f"{doing}: the cluster, its scheduler or the client went away ({problem}); what "
                "was begun is removed, an earlier export stays. Connect again and repeat the call"
            ) from problem
        raise


def memory_budget(given: int | str | None = None) -> int:
    """Return the memory budget: as given, as configured, or a quarter of the memory there is.

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
    given = _CLIENT.get()
    if given is not None:
        return given
    distributed = sys.modules.get("distributed")
    if distributed is None or dask.config.get("scheduler", None) not in (None, "dask.distributed"):
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def is_in_task() -> bool:
    """Return whether this code runs in a task of a cluster."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def scheduler_kwargs() -> dict[str, Any]:
    """Return the keyword arguments of ``dask.compute`` that name its scheduler.

    Returns
    -------
    dict
        The scheduler of the cluster, if there is one; empty where another scheduler is configured;
        else that of dask's threads. It is given as a function: to look up a name, dask imports
        distributed, which takes half a second.
    """
    client = current_client()
    if client is not None:
        return {"scheduler": client.get}
    if dask.config.get("scheduler", None) not in _THREADS:
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
