"""Small helpers shared by the tests."""

from __future__ import annotations

import importlib
import itertools
import pickle
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import dask
import numpy as np

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


class Reads:
    """What the readers read while this context is open: boxes by key, and bytes of the file.

    Reading goes on as ever; only this process is watched.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.boxes: list[tuple[str, tuple[tuple[int, int], ...]]] = []
        self.extents: list[tuple[int, int]] = []
        self._monkeypatch = monkeypatch
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._context = self._monkeypatch.context()
        patched = self._context.__enter__()
        for module, name in (("hdf5_array", "Hdf5Array"), ("zarr_array", "ZarrArray")):
            reader = getattr(importlib.import_module(f"cellucid_lazy.readers.{module}"), name)
            patched.setattr(reader, "read", self._watched(reader.read))
        hdf5 = importlib.import_module("cellucid_lazy.readers.hdf5_array")
        parts = self._watched(lambda reader, span: parts_of(reader, span.start, span.stop))
        parts_of = hdf5.Hdf5Array.parts
        patched.setattr(hdf5.Hdf5Array, "parts", lambda reader, *span: parts(reader, slice(*span)))
        patched.setattr(hdf5, "read_into", self._watched_bytes(hdf5.read_into))
        return self

    def __exit__(self, *problem: object) -> None:
        self._context.__exit__(*problem)

    def _watched(self, read: Any) -> Any:
        def watched(reader: Any, *selection: slice) -> Any:
            whole = (*selection, *[slice(None)] * (len(reader.shape) - len(selection)))
            spans = (one.indices(n)[:2] for one, n in zip(whole, reader.shape, strict=True))
            with self._lock:
                self.boxes.append((reader.key.strip("/"), tuple(spans)))
            return read(reader, *selection)

        return watched

    def _watched_bytes(self, read_into: Any) -> Any:
        def watched(descriptor: int, target: Any, offset: int) -> None:
            with self._lock:
                self.extents.append((offset, offset + len(target)))
            read_into(descriptor, target, offset)

        return watched

    def touched(self) -> set[str]:
        """Arrays that were read."""
        return {key for key, _ in self.boxes}

    def of(self, key: str) -> list[tuple[tuple[int, int], ...]]:
        """Boxes read of one array."""
        return [box for name, box in self.boxes if name == key]

    def assert_each_once(self, key: str, shape: tuple[int, ...] | None = None) -> None:
        """Assert that no element of an array was read twice; of ``shape``, that all were read."""
        boxes = self.of(key)
        reached = [
            max(stops) for stops in zip(*([b for _, b in box] for box in boxes), strict=True)
        ]
        count = np.zeros(reached if shape is None else shape, dtype=np.uint8)
        for box in boxes:
            count[tuple(slice(*bounds) for bounds in box)] += 1
        assert count.max() == 1, (key, boxes)
        assert shape is None or count.min() == 1, (key, boxes)

    def assert_no_byte_twice(self) -> None:
        """Assert that no byte of the HDF5 file was read twice."""
        ordered = sorted(self.extents)
        twice = [(one, other) for one, other in itertools.pairwise(ordered) if other[0] < one[1]]
        assert twice == []


_SIZES = (
    ("readers.dense_expression", "BLOCK_VALUES"),
    ("readers.sparse_expression", "BLOCK_VALUES"),
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
