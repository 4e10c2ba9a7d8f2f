"""Gzip members, in one piece or from parts compressed apart.

Browsers read one member per file, so the parts of a file are joined into one: each ends at a byte
boundary without ending the stream, and refers to nothing before itself.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from isal import isal_zlib
from zlib_ng import zlib_ng

from cellucid_lazy.sinks.deflate import deflate
from cellucid_lazy.sinks.sight import Octets, Sight

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class GzipPart(NamedTuple):
    """A stretch of a file, deflated: up to a byte boundary, without a final block.

    ``crc32`` and ``size`` are of the stretch before deflating.
    """

    deflate: bytes
    crc32: int
    size: int


# Deflate, no name, no time, an unknown system: the same bytes wherever and whenever it is written.
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
FINAL_BLOCK = b"\x03\x00"


def compress(
    data: bytes | memoryview | np.ndarray[Any, Any], level: int, sight: Sight | None = None
) -> bytes:
    """Compress a file that is at hand in one piece.

    Parameters
    ----------
    data
        Its bytes; an array gives its elements in C order.
    level
        1 to 9; a higher one is not larger.
    sight
        What the file looks like, if that is known. Default: it is looked at.

    Returns
    -------
    bytes
        One gzip member, without name or time.

    Raises
    ------
    ValueError
        For another level.
    """
    octets = _octets(data)
    stream = deflate(octets, level, zlib.Z_FINISH, sight)
    return HEADER + stream + _trailer(isal_zlib.crc32(octets), octets.nbytes)


def compress_part(data: bytes | memoryview | np.ndarray[Any, Any], level: int) -> GzipPart:
    """Compress one stretch of a file, apart from the others.

    Parameters
    ----------
    data, level
        As for ``compress``.

    Returns
    -------
    GzipPart
        For ``join_parts``.

    Raises
    ------
    ValueError
        For another level.
    """
    octets = _octets(data)
    stream = deflate(octets, level, zlib.Z_SYNC_FLUSH) if octets.nbytes else b""
    return GzipPart(stream, isal_zlib.crc32(octets), octets.nbytes)


def join_parts(parts: Iterable[GzipPart]) -> Iterator[bytes]:
    """Join stretches compressed apart into one gzip member.

    Parameters
    ----------
    parts
        In the order of the file; taken one at a time. None at all make an empty file.

    Yields
    ------
    bytes
        The pieces of the member; it inflates to what the parts were made from, in their order.
    """
    crc32, size = 0, 0
    yield HEADER
    for part in parts:
        crc32 = zlib_ng.crc32_combine(crc32, part.crc32, part.size)
        size += part.size
        yield part.deflate
    yield FINAL_BLOCK + _trailer(crc32, size)


def _trailer(crc32: int, size: int) -> bytes:
    return crc32.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")


def _octets(data: bytes | memoryview | np.ndarray[Any, Any]) -> Octets:
    """View data as its bytes, shape (nbytes,); copies only an array that is not C-contiguous."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)
