"""Which chunks of an HDF5 dataset a box touches, and what their stored bytes mean.

Bytes and integers only: nothing here opens a dataset, so nothing waits for HDF5's global lock.
"""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from isal import isal_zlib

from cellucid_lazy.readers.hdf5_lzf import LZF, lzf_decoder, lzf_decompress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

Box = tuple[tuple[int, int], ...]

DEFLATE = 1
SHUFFLE = 2
_PACKED = (DEFLATE,) if lzf_decoder() is None else (DEFLATE, LZF)
# In writing order. Whatever else a file uses (fletcher32, szip, blosc) HDF5 decodes itself.
DECODABLE = {
    (),
    (SHUFFLE,),
    *((packed,) for packed in _PACKED),
    *((SHUFFLE, packed) for packed in _PACKED),
}


class ChunkError(ValueError):
    """Stored bytes that are not what the chunk index promises; the message says what was found."""


class Piece(NamedTuple):
    """The part of one chunk that a box asks for."""

    chunk: int
    source: tuple[slice, ...]
    target: tuple[slice, ...]


def box_of(shape: Sequence[int], selection: Sequence[slice]) -> Box:
    """Turn slices into plain bounds.

    Parameters
    ----------
    shape
        Shape of the dataset.
    selection
        One slice per dimension, of step 1; missing trailing ones mean the whole dimension.

    Returns
    -------
    Box
        ``(start, stop)`` per dimension, with ``start <= stop <= size``.

    Raises
    ------
    IndexError
        For more slices than dimensions, something that is no slice, or another step.
    """
    if len(selection) > len(shape):
        raise IndexError(f"{len(selection)} slices for {len(shape)} dimensions")
    bounds = []
    for size, part in itertools.zip_longest(shape, selection, fillvalue=slice(None)):
        if not isinstance(part, slice) or not isinstance(size, int):
            raise IndexError(f"expected a slice per dimension, found {part!r}")
        start, stop, step = part.indices(size)
        if step != 1:
            raise IndexError(f"expected slices of step 1, found {part!r}")
        bounds.append((start, max(start, stop)))
    return tuple(bounds)


def grid_of(shape: Sequence[int], chunks: Sequence[int]) -> tuple[int, ...]:
    """Count the chunks along each dimension."""
    return tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))


def pieces(shape: Sequence[int], chunks: Sequence[int], box: Box) -> Iterator[Piece]:
    """List the chunks that a box touches, with the part of each.

    Parameters
    ----------
    shape, chunks
        Of the dataset.
    box
        What is asked for; no side of it empty.

    Yields
    ------
    Piece
        Together they cover the box, each element once.
    """
    sides = [_side(chunk, *bounds) for chunk, bounds in zip(chunks, box, strict=True)]
    grid = grid_of(shape, chunks)
    strides = [prod(grid[axis + 1 :]) for axis in range(len(grid))]
    for parts in itertools.product(*sides):
        yield Piece(
            sum(part[0] * stride for part, stride in zip(parts, strides, strict=True)),
            tuple([part[1] for part in parts]),
            tuple([part[2] for part in parts]),
        )


def _side(chunk: int, start: int, stop: int) -> list[tuple[int, slice, slice]]:
    """List the chunks along one dimension: position, slice of the chunk, slice of the output."""
    side = []
    for position in range(start // chunk, -(-stop // chunk)):
        low, high = max(start, position * chunk), min(stop, (position + 1) * chunk)
        inner = slice(low - position * chunk, high - position * chunk)
        side.append((position, inner, slice(low - start, high - start)))
    return side


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a file for reading bytes; gives its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_into(descriptor: int, target: NDArray[np.uint8], offset: int) -> None:
    """Fill ``target`` (1-D uint8) with the bytes of a file from ``offset`` on.

    Raises
    ------
    ChunkError
        If the file ends before.
    """
    done = 0
    while done < len(target):
        count = os.preadv(descriptor, [target[done:].data], offset + done)
        if count == 0:
            raise ChunkError(f"the file ends {len(target) - done:,} bytes before its end")
        done += count


def bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """View a C-contiguous array as its bytes, shape (nbytes,)."""
    return array.reshape(-1).view(np.uint8)


def decode(
    raw: NDArray[np.uint8],
    filters: Sequence[int],
    chunks: Sequence[int],
    source: tuple[slice, ...],
    dtype: np.dtype[Any],
    target: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Decode one stored chunk and take a part of it.

    Parameters
    ----------
    raw
        The stored bytes.
    filters
        The filters this chunk was written with, one of ``DECODABLE``.
    chunks
        Shape of a chunk.
    source
        The wanted part of the chunk.
    dtype
        Type of its elements.
    target
        Array of that part's shape and element size, contiguous along its last axis, that receives
        the part. Default: none, and the part may be a view that is not to be written to.

    Returns
    -------
    numpy.ndarray
        The part; ``target``, if there is one.

    Raises
    ------
    ChunkError
        For a damaged stream, or one that holds another number of bytes than a chunk.
    """
    nbytes = prod(chunks) * dtype.itemsize
    data: Any = raw
    if DEFLATE in filters:
        data = _inflate(raw, nbytes)
    elif LZF in filters:
        data = _expand(raw, nbytes)
    if len(data) != nbytes:
        raise ChunkError(f"it holds {len(data):,} bytes, and a chunk {nbytes:,}")
    if SHUFFLE not in filters:
        part = np.frombuffer(data, dtype).reshape(chunks)[source]
        if target is None:
            return part
        target[...] = part
        return target
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, *chunks)
    if target is None:
        target = np.empty(planes[0][source].shape, dtype)
    octets = target.view(np.uint8)
    for position, plane in enumerate(planes):
        octets[..., position :: dtype.itemsize] = plane[source]
    return target


def _inflate(raw: NDArray[np.uint8], nbytes: int) -> bytes:
    """Decompress a zlib stream of about ``nbytes`` bytes, verifying its checksum."""
    try:
        # A little room to spare: isal doubles a buffer that is full when the stream ends.
        data: bytes = isal_zlib.decompress(raw.data, bufsize=nbytes + 64)
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stubs call it an instance
        raise ChunkError(f"its deflate stream is damaged ({error})") from error
    return data


def _expand(raw: NDArray[np.uint8], nbytes: int) -> NDArray[np.uint8]:
    """Decompress an LZF stream of ``nbytes`` bytes."""
    data = lzf_decompress(raw, nbytes)
    if not len(data):
        raise ChunkError(f"its LZF stream is damaged, or holds more than {nbytes:,} bytes")
    return data
