"""Small helpers shared by the tests."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dask.array as da


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("dask computed something where nothing may be computed")


@contextmanager
def raise_if_dask_computes() -> Iterator[None]:
    """Fail as soon as dask computes anything inside the block."""
    with dask.config.set(scheduler=_refuse):
        yield


def graph_bytes(array: da.Array) -> bytes:
    """Pickle the graph with the standard library alone, as other processes need it."""
    return pickle.dumps(dict(array.__dask_graph__()))


def compute(array: da.Array) -> Any:
    """Compute in this thread."""
    return array.compute(scheduler="synchronous")
