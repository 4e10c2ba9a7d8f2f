"""From stored arrays to dask arrays, cut along cells in blocks of a chosen size."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.source import ArrayReader, Element

if TYPE_CHECKING:
    import dask.array as da

# Large enough that a task outweighs its overhead, small enough that a few fit any budget.
BLOCK_BYTES = 4 * 2**20
_ROW_BYTES = 8


class Slicing:
    """Gives a reader the slicing that dask asks for: one slice per dimension.

    A graph holds the reader once per task and calls ``[]``; all else goes through ``read``.
    """

    def __init__(self, reader: ArrayReader) -> None:
        self.reader = reader
        self.shape = reader.shape
        self.dtype = reader.dtype
        self.ndim = len(reader.shape)

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        selection = key if isinstance(key, tuple) else (key,)
        # Steps and single positions reach this place only when dask fuses a slice into the read.
        spans = tuple(_span(one, n) for one, n in zip(selection, self.shape, strict=False))
        block = self.reader.read(*(slice(start, stop) for start, stop, _ in spans))
        return block[tuple(rest for _, _, rest in spans)]

    def __dask_tokenize__(self) -> str:
        return self.reader.token


def _span(key: slice | int, length: int) -> tuple[int, int, slice | int]:
    """Split a key into the contiguous span to read and what to take of it."""
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        if step == 1:
            return start, max(start, stop), slice(None)
        return start, max(start, stop), slice(None, None, step)
    position = int(key) + (length if key < 0 else 0)
    return position, position + 1, 0


def rows_per_block(reader: ArrayReader, *, block_bytes: int = BLOCK_BYTES) -> int:
    """Choose how many rows a block holds, in whole stored chunks where there are any.

    Parameters
    ----------
    reader
        The stored array.
    block_bytes
        Size aimed at.

    Returns
    -------
    int
        At least 1.
    """
    width = int(np.prod(reader.shape[1:], dtype=np.int64)) if len(reader.shape) > 1 else 1
    itemsize = reader.dtype.itemsize if reader.dtype.kind != "O" else 64
    # Narrow values are widened by what takes them.
    rows = max(1, block_bytes // max(_ROW_BYTES, width * itemsize))
    if reader.chunks is not None:
        stored = max(1, reader.chunks[0])
        rows = max(stored, rows // stored * stored)
    return rows


def lazy_array(
    reader: ArrayReader,
    *,
    chunks: tuple[int, ...] | None = None,
    again: bool = False,
) -> da.Array:
    """Build the dask array of a stored array; reads nothing.

    Parameters
    ----------
    reader
        The stored array.
    chunks
        Block shape. Default: whole rows, of about ``BLOCK_BYTES``.
    again
        Use other task names, for a second pass.

    Returns
    -------
    dask.array.Array
        Same shape and dtype; task names follow the reader's token.
    """
    import dask.array as da

    if chunks is None:
        chunks = (rows_per_block(reader), *reader.shape[1:])
    chunks = tuple(max(1, min(c, n)) if n else n for c, n in zip(chunks, reader.shape, strict=True))
    name = f"read-{reader.token}-{'x'.join(map(str, chunks))}{'-again' if again else ''}"
    return da.from_array(
        Slicing(reader),
        chunks=chunks,
        name=name,
        asarray=False,
        fancy=False,
        # An array in memory is one node that all tasks share; a reader is small, and inlined.
        inline_array=not isinstance(reader, MemoryArray),
        meta=np.empty((0,) * len(reader.shape), dtype=reader.dtype),
    )


def element_of(reader: ArrayReader) -> Element:
    """Describe a stored array with a row per cell.

    Parameters
    ----------
    reader
        A 1-D or 2-D stored array.

    Returns
    -------
    Element
        Builds the lazy array on call.
    """
    return Element(reader.shape, reader.dtype, partial(lazy_array, reader))


def element_of_dask(array: da.Array) -> Element:
    """Describe a dask array with a row per cell; its columns are gathered into one block.

    Parameters
    ----------
    array
        1-D or 2-D.

    Returns
    -------
    Element
        Builds the row-blocked array on call.
    """
    return Element(array.shape, array.dtype, partial(_row_blocked, array))


def _row_blocked(array: da.Array, *, again: bool = False) -> da.Array:
    del again  # an array the user built: its tasks cannot be renamed without cloning them
    return array.rechunk({1: -1}) if array.ndim == 2 else array
