"""Sparse matrices in HDF5 as AnnData encodes them, their chunks deflated on threads."""

from __future__ import annotations

import zlib
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    import h5py

CHUNK_ELEMENTS = 65_536
GZIP_LEVEL = 4


class StoredArray:
    """A one-dimensional h5 dataset that grows; chunks are deflated on threads, stored in order."""

    def __init__(self, group: h5py.Group, name: str, dtype: str, pool: ThreadPoolExecutor) -> None:
        self.dataset = group.create_dataset(
            name,
            shape=(0,),
            maxshape=(None,),
            dtype=dtype,
            chunks=(CHUNK_ELEMENTS,),
            compression="gzip",
            compression_opts=GZIP_LEVEL,
        )
        self.pool, self.length = pool, 0
        self._rest = np.empty(0, dtype=dtype)
        self._stored = 0
        self._waiting: deque[Future[bytes]] = deque()

    def append(self, values: np.ndarray) -> None:
        """Add values behind those that are there."""
        self.length += len(values)
        joined = np.concatenate([self._rest, values])
        whole = len(joined) - len(joined) % CHUNK_ELEMENTS
        for start in range(0, whole, CHUNK_ELEMENTS):
            self._submit(joined[start : start + CHUNK_ELEMENTS])
        self._rest = joined[whole:].copy()
        while len(self._waiting) > 64:
            self._store()

    def finish(self) -> None:
        """Store what is left; the last chunk is padded, as HDF5 has it, and the length exact."""
        if len(self._rest):
            padded = np.zeros(CHUNK_ELEMENTS, dtype=self._rest.dtype)
            padded[: len(self._rest)] = self._rest
            self._submit(padded)
        while self._waiting:
            self._store()
        self.dataset.resize((self.length,))

    def _submit(self, chunk: np.ndarray) -> None:
        self._waiting.append(self.pool.submit(zlib.compress, chunk, GZIP_LEVEL))

    def _store(self) -> None:
        stored = self._waiting.popleft().result()
        self.dataset.resize((self._stored + CHUNK_ELEMENTS,))
        self.dataset.id.write_direct_chunk((self._stored,), stored)
        self._stored += CHUNK_ELEMENTS


def create_sparse_group(file: h5py.File, name: str, kind: str, shape: tuple[int, int]) -> Any:
    """Create the group of a sparse matrix as AnnData encodes it."""
    group = file.create_group(name)
    group.attrs["encoding-type"] = kind
    group.attrs["encoding-version"] = "0.1.0"
    group.attrs["shape"] = np.array(shape, dtype=np.int64)
    return group


def write_indptr(group: h5py.Group, per_row: np.ndarray) -> None:
    """Write the row pointers: int32 while they fit, as scipy has them, else int64."""
    indptr = np.concatenate([[0], np.cumsum(per_row)])
    narrow = indptr[-1] < 2**31
    group.create_dataset("indptr", data=indptr.astype("<i4" if narrow else "<i8"))
