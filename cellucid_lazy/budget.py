"""How much memory work may take, and how many tasks may run, where nothing else is said."""

from __future__ import annotations

import os
from pathlib import Path

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_bytes

from cellucid_lazy.errors import OptionError

_LEAST_BUDGET = 64 * 10**6


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
        return max(_LEAST_BUDGET, machine_memory() // 4)
    try:
        size = int(parse_bytes(chosen))
    except (ValueError, TypeError, AttributeError, OverflowError) as problem:
        raise OptionError(f"memory_budget={chosen!r}: a size is needed, such as '1GB'") from problem
    if size < _LEAST_BUDGET:
        raise OptionError(
            f"memory_budget={chosen!r}: at least {_LEAST_BUDGET // 10**6} MB are needed"
        )
    return size


def machine_memory() -> int:
    """Memory this process may use: the machine's, or its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return total


def local_workers() -> int:
    """Tasks that run at a time on this machine's threads, as dask is configured."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)
