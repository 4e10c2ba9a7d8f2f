"""Small helpers shared by the tests."""

from __future__ import annotations

import importlib
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


_SIZES = (
    ("readers.expression", "BLOCK_VALUES"),
    ("readers.stored", "EDGE_VALUES"),
    ("readers.in_memory", "EDGE_VALUES"),
    ("outputs.var_manifest", "_BLOCK_VALUES"),
    ("plan", "_LEAST_VALUES"),
    ("plan", "_MOST_VALUES"),
)


def small_blocks(monkeypatch: Any, values: int = 500) -> None:
    """Blocks of about so many values, for the duration of a test: several of all that is read."""
    lazy = importlib.import_module("cellucid_lazy.readers.lazy_array")
    monkeypatch.setitem(lazy.rows_per_block.__kwdefaults__, "block_bytes", 2 * values)
    totals = importlib.import_module("cellucid_lazy.transforms.group_totals")
    monkeypatch.setattr(totals, "group_rows", lambda n_columns: max(1, values // 5))
    for name, constant in _SIZES:
        # By module, because cellucid_lazy.outputs is also the name of a function.
        module = importlib.import_module(f"cellucid_lazy.{name}")
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, values)
