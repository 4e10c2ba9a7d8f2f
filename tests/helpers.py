"""Small helpers shared by the tests."""

from __future__ import annotations

import gzip
import pickle
import re
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dask
import numpy as np
from zarr.abc.store import SuffixByteRequest
from zarr.storage import LocalStore

import cellucid_lazy as cl
from cellucid_lazy.kinds.dataset import Shared
from cellucid_lazy.readers import hdf5
from cellucid_lazy.readers.hdf5 import Hdf5Array
from cellucid_lazy.readers.zarr.array import ZarrArray
from cellucid_lazy.source import BlockSizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dask.array as da

# The files of chunks, in both versions of zarr.
_ZARR_CHUNK = re.compile(r"/(c(/\d+)+|c|\d+([./]\d+)*)$")

# Several blocks of all that a few hundred cells hold.
SMALL = BlockSizes(array_bytes=1_000, matrix_values=500, min_gene_values=500, max_gene_values=500)


def with_sizes(catalogue: cl.Catalogue, sizes: BlockSizes = SMALL) -> cl.Catalogue:
    """Offer the same in blocks of other sizes."""
    return cl.Catalogue(replace(catalogue.dataset, sizes=sizes, shared=Shared()))


def small_grid(monkeypatch: Any, rows: int = 100) -> None:
    """Run sums over ranges of so few rows, for the duration of a test. It decides bytes."""
    monkeypatch.setattr("cellucid_lazy.transforms.groups.GROUP_ROWS", rows)


def files_of(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder, by their names within it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def decoded(files: dict[str, bytes]) -> dict[str, bytes]:
    """Decompress what has the ending of gzip: how it is compressed may depend on the blocks."""
    return {
        name: gzip.decompress(data) if name.endswith(".gz") else data
        for name, data in files.items()
    }


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
    """What the readers read while this context is open: boxes by key, and stored chunks.

    Reading goes on as ever; only this process is watched.

    Attributes
    ----------
    boxes
        Key of an array and the bounds read along each dimension.
    chunks
        Stored chunks that were fetched: the key of an HDF5 dataset and the chunk's corner, or the
        key in a zarr store and the range of bytes.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.boxes: list[tuple[str, tuple[tuple[int, int], ...]]] = []
        self.chunks: list[tuple[str, str]] = []
        self._monkeypatch = monkeypatch
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._context = self._monkeypatch.context()
        patched = self._context.__enter__()
        for reader in (Hdf5Array, ZarrArray):
            patched.setattr(reader, "read", self._watched(reader.read))
        patched.setattr(hdf5, "fetch_chunk", self._watched_fetch(hdf5.fetch_chunk))
        patched.setattr(LocalStore, "get", self._watched_get(LocalStore.get))
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

    def _watched_fetch(self, fetch: Any) -> Any:
        def watched(dataset: Any, corner: tuple[int, ...]) -> Any:
            with self._lock:
                self.chunks.append((dataset.name.strip("/"), str(corner)))
            return fetch(dataset, corner)

        return watched

    def _watched_get(self, get: Any) -> Any:
        def watched(store: Any, key: str, prototype: Any, byte_range: Any = None) -> Any:
            # Indices of shards, at the end of the file, are no chunks.
            if _ZARR_CHUNK.search(key) and not isinstance(byte_range, SuffixByteRequest):
                with self._lock:
                    self.chunks.append((key, str(byte_range)))
            return get(store, key, prototype, byte_range)

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

    def assert_no_chunk_twice(self) -> None:
        """Assert that no stored chunk was fetched twice."""
        twice = [chunk for chunk, count in Counter(self.chunks).items() if count > 1]
        assert twice == []
