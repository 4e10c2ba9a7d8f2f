"""How a dataset lies in an HDF5 file, and where its chunks are stored.

HDF5 reads and inflates under one global lock, so threads do not help it. What is told here lets a
reader find the stored bytes once, through HDF5, and fetch and decode them on its own.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import h5py
import numpy as np

from cellucid_lazy.readers.hdf5_chunks import DECODABLE, SHUFFLE, ChunkError, grid_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Identity = tuple[int, int]

_KEPT_BYTES = 64 * 2**20
# An index of more chunks than this weighs over 20 MB; HDF5's own lookup serves such datasets.
_MOST_CHUNKS = 2**20


class Storage(NamedTuple):
    """How a dataset lies in its file.

    ``layout`` is "hdf5" where only HDF5 itself may read it. ``filters`` are HDF5 filter numbers in
    writing order, ``fill`` is one element's stored bytes, ``offset`` the first byte of a contiguous
    dataset, and ``swapped`` says that elements are stored in the other byte order.
    """

    layout: Literal["chunked", "contiguous", "hdf5"] = "hdf5"
    filters: tuple[int, ...] = ()
    fill: bytes = b""
    offset: int = 0
    swapped: bool = False


def storage_of(dataset: h5py.Dataset) -> Storage:
    """Describe how a dataset lies in its file; whatever is not plainly understood is HDF5's."""
    dtype, file, creation = dataset.dtype, dataset.file, dataset.id.get_create_plist()
    plain = dtype.kind in "biuf" and dataset.shape and hasattr(os, "preadv")
    # The equality rules out layouts NumPy does not have: odd precisions, bit fields, wide enums.
    plain = plain and dataset.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True))
    # Offsets are not reported alike by all HDF5 releases for files that begin with a user block.
    if not plain or file.driver != "sec2" or file.userblock_size:
        return Storage()
    swapped = not dtype.isnative
    if creation.get_layout() == h5py.h5d.CONTIGUOUS and not creation.get_external_count():
        offset = dataset.id.get_offset()
        return Storage() if offset is None else Storage("contiguous", (), b"", offset, swapped)
    if creation.get_layout() != h5py.h5d.CHUNKED or not hasattr(dataset.id, "chunk_iter"):
        return Storage()
    pipeline = [creation.get_filter(number) for number in range(creation.get_nfilters())]
    filters = tuple(code for code, *_ in pipeline)
    shuffled = [values[0] for code, _, values, _ in pipeline if code == SHUFFLE]
    small = prod(grid_of(dataset.shape, dataset.chunks)) <= _MOST_CHUNKS
    if filters not in DECODABLE or shuffled not in ([], [dtype.itemsize]) or not small:
        return Storage()
    return Storage("chunked", filters, _fill(dataset), 0, swapped)


def _fill(dataset: h5py.Dataset) -> bytes:
    """Return the stored bytes of the element that stands where no chunk is stored."""
    value = np.zeros((), dataset.dtype)
    creation = dataset.id.get_create_plist()
    if creation.fill_value_defined() != h5py.h5d.FILL_VALUE_UNDEFINED:
        creation.get_fill_value(value)
    return value.tobytes()


class StoredChunk(NamedTuple):
    """Where one chunk lies: bytes into the file (-1: nothing is stored), bytes, filter mask."""

    offset: int
    size: int
    mask: int


class ChunkIndex(NamedTuple):
    """Where each chunk lies, in C order of the chunk grid.

    ``offsets`` and ``sizes`` are int64, bytes into the file and stored bytes, with offset -1 where
    nothing is stored; ``masks`` is uint32, bit i set where the chunk was written without filter i.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    masks: NDArray[np.uint32]

    def at(self, position: int) -> StoredChunk:
        """Return the chunk at a flat position of the grid."""
        found = self.offsets[position], self.sizes[position], self.masks[position]
        return StoredChunk(*map(int, found))

    @property
    def nbytes(self) -> int:
        """Memory the index holds, in bytes."""
        return self.offsets.nbytes + self.sizes.nbytes + self.masks.nbytes


def index_chunks(dataset: Any) -> ChunkIndex:
    """Read where the chunks of an open dataset are stored.

    One iteration over HDF5's index: asking chunk by chunk would search it from its start each time.

    Raises
    ------
    ChunkError
        If the file lists a chunk that is not on the grid, or lists one twice.
    """
    chunks = dataset.chunks
    grid = grid_of(dataset.shape, chunks)
    offsets = np.full(prod(grid), -1, np.int64)
    sizes = np.zeros(prod(grid), np.int64)
    masks = np.zeros(prod(grid), np.uint32)
    found: list[tuple[tuple[int, ...], int, int, int]] = []
    dataset.id.chunk_iter(
        lambda info: found.append(
            (info.chunk_offset, info.byte_offset, info.size, info.filter_mask)
        )
    )
    strides = [prod(grid[axis + 1 :]) for axis in range(len(grid))]
    for start, offset, size, mask in found:
        place = [divmod(begin, chunk) for begin, chunk in zip(start, chunks, strict=True)]
        if any(rest or at >= count for (at, rest), count in zip(place, grid, strict=True)):
            raise ChunkError(f"it lists a chunk at element {start}, which is not on its grid")
        position = sum(at * stride for (at, _), stride in zip(place, strides, strict=True))
        if offsets[position] >= 0:
            raise ChunkError(f"it lists the chunk at element {start} twice")
        offsets[position], sizes[position], masks[position] = offset, size, mask
    return ChunkIndex(offsets, sizes, masks)


# The indexes used last, bounded in bytes, one such memory per process. Without it every read would
# walk the whole index: of hundreds of thousands of chunks, that costs more than decoding a few.
_kept: OrderedDict[tuple[str, Identity, str], ChunkIndex] = OrderedDict()
_lock = threading.Lock()


def chunk_index(path: str, identity: Identity, key: str) -> ChunkIndex:
    """Return the chunk index of a dataset, from memory if it was read before.

    Raises
    ------
    OSError, KeyError, RuntimeError
        As h5py does, for a file or dataset that cannot be opened.
    ChunkError
        If the index contradicts itself.
    """
    entry = (path, identity, key)
    # Held while reading too, so that threads starting together do not all walk the same index.
    with _lock:
        if entry not in _kept:
            with h5py.File(path, "r") as file:
                _kept[entry] = index_chunks(file[key])
        _kept.move_to_end(entry)
        while len(_kept) > 1 and sum(index.nbytes for index in _kept.values()) > _KEPT_BYTES:
            _kept.popitem(last=False)
        return _kept[entry]


def _renew_lock() -> None:
    """Free a forked child from a lock that another thread of its parent held."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in native byte order, without the HDF5 facts h5py attaches to it."""
    if dtype.kind == "O":
        return np.dtype(object)
    if dtype.names is None and dtype.subdtype is None:
        dtype = np.dtype(dtype.str)
    return dtype.newbyteorder("=")
