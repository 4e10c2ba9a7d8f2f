"""Numeric HDF5 datasets, read by path and key, without HDF5's global lock where that is possible.

An ``Hdf5Array`` is what a dask task carries: names and integers, never a handle.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.hdf5_chunks import (
    Box,
    ChunkError,
    Piece,
    box_of,
    bytes_of,
    decode,
    opened,
    pieces,
    read_into,
)
from cellucid_lazy.readers.hdf5_index import (
    Identity,
    Storage,
    StoredChunk,
    chunk_index,
    native,
    storage_of,
)
from cellucid_lazy.readers.hdf5_lzf import LZF, lzf_decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


# Stored chunks shorter than this are put together: each part costs its taker a few calls.
_PART_VALUES = 2**15


def identity_of(path: str | os.PathLike[str]) -> Identity:
    """Return the size in bytes and the modification time in nanoseconds of a file."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Hdf5Array:
    """One HDF5 dataset as a task may carry it: it pickles, and opens its file only to read.

    Attributes
    ----------
    path
        Absolute path of the file.
    key
        Full name of the dataset in it, such as ``"/X/data"``.
    identity
        Size and modification time (ns) the file had when opened; reading any other file fails.
    shape, dtype, chunks
        Of the dataset; the dtype in native byte order, the chunks None unless stored in chunks.
    storage
        How it lies in the file.
    """

    path: str
    key: str
    identity: Identity
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    storage: Storage

    @classmethod
    def of(cls, dataset: h5py.Dataset, identity: Identity) -> Hdf5Array:
        """Describe an open dataset; reads metadata only.

        Parameters
        ----------
        dataset
            Any dataset with a shape.
        identity
            ``identity_of`` its file, taken before the file was opened.

        Raises
        ------
        DataError
            For a dataset without a shape (HDF5's null dataspace), or of a type NumPy has not.
        """
        path, key = str(Path(dataset.file.filename).absolute()), str(dataset.name)
        if dataset.shape is None:
            raise DataError(f"{path}: {key} holds nothing (a null dataset); expected an array")
        shape = tuple(int(size) for size in dataset.shape)
        try:
            dtype = native(dataset.dtype)
        except TypeError as error:
            raise DataError(f"{path}: {key}: {error}; write it again as numbers or text") from error
        return cls(path, key, identity, shape, dtype, dataset.chunks, storage_of(dataset))

    @property
    def token(self) -> str:
        """A name for the content: equal for equal path, identity, key, dtype and shape."""
        facts = (self.path, self.identity, self.key, self.dtype.str, self.dtype.descr, self.shape)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    def __dask_tokenize__(self) -> str:
        return self.token

    def read(self, *selection: slice) -> NDArray[Any]:
        """Read a contiguous box.

        Parameters
        ----------
        selection
            One slice per dimension, of step 1; missing trailing ones mean the whole dimension.

        Returns
        -------
        numpy.ndarray
            A fresh array of the stored dtype, in native byte order.

        Raises
        ------
        DataError
            If the file changed since it was opened, is damaged, or cannot be read.
        IndexError
            For a selection that is not of this kind.
        """
        box = box_of(self.shape, selection)
        if any(start == stop for start, stop in box):
            return np.empty([stop - start for start, stop in box], self.dtype)
        with self._guarded():
            return self._read_box(box)

    def parts(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Read a stretch of a 1-D dataset, a few stored chunks at a time where it can.

        What takes the parts one by one needs no room for the whole; long chunks are not copied.

        Parameters
        ----------
        start, stop
            First and past-the-last position.

        Yields
        ------
        numpy.ndarray
            The values from ``start`` on, as `read` gives them; not to be written to.

        Raises
        ------
        DataError
            As `read` does; when the file changed meanwhile, after the last part.
        """
        if start >= stop:
            return
        with self._guarded():
            if self.storage.layout != "chunked" or not self._decodable:
                yield self._read_box(((start, stop),))
                return
            assert self.chunks is not None
            together = _PART_VALUES // self.chunks[0] * self.chunks[0]
            if together <= self.chunks[0]:
                for _, part in self._decoded(((start, stop),), None):
                    yield self._in_native_order(part)
                return
            while start < stop:
                end = min(start // self.chunks[0] * self.chunks[0] + together, stop)
                yield self._read_box(((start, end),))
                start = end

    def _read_box(self, box: Box) -> NDArray[Any]:
        if self.storage.layout == "chunked" and self._decodable:
            return self._read_chunks(box)
        if self.storage.layout == "contiguous" and self._whole_rows(box):
            return self._read_contiguous(box)
        return self._read_through_hdf5(box)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Refuse a file that is not the one opened, and name it in whatever goes wrong."""
        self._check_identity()
        try:
            yield
        except (OSError, RuntimeError, KeyError, ChunkError) as error:
            # A file replaced midway explains any error better than the error itself.
            self._check_identity()
            plugin = "required filter" in str(error)
            advice = "import hdf5plugin first" if plugin else "copy or write the file again"
            raise DataError(f"{self.path}: cannot read {self.key}: {error}; {advice}") from error
        self._check_identity()

    def _check_identity(self) -> None:
        try:
            found = identity_of(self.path)
        except OSError as error:
            raise DataError(f"{self.path}: cannot read {self.key}: {error}") from error
        if found != self.identity:
            raise DataError(
                f"{self.path}: the file changed since it was opened; open it again "
                f"(reading {self.key}; size and time were {self.identity}, are {found})"
            )

    @property
    def _decodable(self) -> bool:
        """Whether this process has what the opener had; another h5py may export no decoder."""
        return LZF not in self.storage.filters or lzf_decoder() is not None

    def _whole_rows(self, box: Box) -> bool:
        return all(b == (0, size) for b, size in zip(box[1:], self.shape[1:], strict=True))

    def _read_through_hdf5(self, box: Box) -> NDArray[Any]:
        with h5py.File(self.path, "r") as file:
            values = np.asarray(file[self.key][tuple(slice(*bounds) for bounds in box)])
        return values.astype(self.dtype, copy=False)

    def _read_contiguous(self, box: Box) -> NDArray[Any]:
        out = np.empty([stop - start for start, stop in box], self.dtype)
        with opened(self.path) as descriptor:
            read_into(descriptor, bytes_of(out), self.storage.offset + box[0][0] * self._row_bytes)
        return self._in_native_order(out)

    def _read_chunks(self, box: Box) -> NDArray[Any]:
        out = np.empty([stop - start for start, stop in box], self.dtype)
        for target, part in self._decoded(box, out):
            if target is not None and part is not target:
                target[...] = part
        return self._in_native_order(out)

    def _decoded(
        self, box: Box, out: NDArray[Any] | None
    ) -> Iterator[tuple[NDArray[Any] | None, NDArray[Any]]]:
        """Decode the chunks that a box touches: its part of ``out`` if there is one, the values."""
        assert self.chunks is not None
        index = chunk_index(self.path, self.identity, self.key)
        # Rows stored as they are need neither decoding nor the rest of their chunk.
        plain = not self.storage.filters and self.chunks[1:] == self.shape[1:]
        read = self._read_rows if plain and self._whole_rows(box) else self._read_chunk
        with opened(self.path) as descriptor:
            for piece in pieces(self.shape, self.chunks, box):
                target = None if out is None else out[piece.target]
                stored = index.at(piece.chunk)
                if stored.offset < 0:
                    yield target, self._fill(piece)
                    continue
                try:
                    part = read(descriptor, stored, piece, target)
                except ChunkError as error:
                    where = f"the chunk stored at byte {stored.offset:,}"
                    raise ChunkError(f"{where}: {error}") from error
                yield target, part

    def _fill(self, piece: Piece) -> NDArray[Any]:
        fill = np.frombuffer(self.storage.fill, self.dtype)
        return np.broadcast_to(fill, [one.stop - one.start for one in piece.target])

    def _read_rows(
        self, descriptor: int, stored: StoredChunk, piece: Piece, target: NDArray[Any] | None
    ) -> NDArray[Any]:
        assert self.chunks is not None
        nbytes = self.chunks[0] * self._row_bytes
        if stored.size != nbytes:
            raise ChunkError(f"it holds {stored.size:,} bytes, and a chunk {nbytes:,}")
        if target is None:
            target = np.empty([one.stop - one.start for one in piece.target], self.dtype)
        first = stored.offset + piece.source[0].start * self._row_bytes
        read_into(descriptor, bytes_of(target), first)
        return target

    def _read_chunk(
        self, descriptor: int, stored: StoredChunk, piece: Piece, target: NDArray[Any] | None
    ) -> NDArray[Any]:
        assert self.chunks is not None
        if stored.offset + stored.size > self.identity[0]:
            raise ChunkError(f"its {stored.size:,} bytes run past the end of the file")
        raw = np.empty(stored.size, np.uint8)
        read_into(descriptor, raw, stored.offset)
        # Bit i of the mask says that this chunk was written without filter i.
        filters = enumerate(self.storage.filters)
        used = [code for bit, code in filters if not stored.mask >> bit & 1]
        return decode(raw, used, self.chunks, piece.source, self.dtype, target)

    @property
    def _row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    def _in_native_order(self, out: NDArray[Any]) -> NDArray[Any]:
        return out.byteswap(inplace=out.flags.writeable) if self.storage.swapped else out
