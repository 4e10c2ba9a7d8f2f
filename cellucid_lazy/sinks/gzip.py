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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Encoder(NamedTuple):
    """One way to deflate: a library with zlib's interface, its level and its memory level."""

    library: Any
    level: int
    memory: int


class GzipPart(NamedTuple):
    """A stretch of a file, deflated: up to a byte boundary, without a final block.

    ``crc32`` and ``size`` are of the stretch before deflating.
    """

    deflate: bytes
    crc32: int
    size: int


# A level's size is the smallest of what its encoders give, and each tier holds the one before it
# (but for zlib-ng 2, which zlib-ng 6 betters), so that a higher level is not larger. Data that are
# mostly zeros, as genes are, need one encoder only. Measured on genes of a 200,000-cell atlas,
# log-normalized float32, by the share of bytes that are not zero; stdlib's gzip 6 is 1:
#
#   not zero     isal 1   zlib-ng 2   zlib-ng 6
#   below 0.2 %   2.31      0.99        0.99
#   0.2 - 0.5 %   1.79      0.99        0.98
#   0.5 - 1 %     1.44      1.00        0.98
#   1 - 2 %       1.18      1.01        0.99
#   2 - 10 %      1.08      1.02        0.99
#   above 10 %    1.04      1.01        1.00
#   MB/s          2,560       940         420     (stdlib 170)
#
# zlib-ng 1 is up to 9 times stdlib 6, zlib-ng 6 is larger than isal 1 on codes, and zlib-ng 9
# than 6 on noise.
FAST = Encoder(isal_zlib, 1, 8)
LEVELS: dict[int, tuple[Encoder, ...]] = {
    1: (FAST,),
    **dict.fromkeys((2, 3, 4, 5), (FAST, Encoder(zlib_ng, 2, 9))),
    **dict.fromkeys((6, 7, 8), (FAST, Encoder(zlib_ng, 6, 9))),
    9: (FAST, Encoder(zlib_ng, 6, 9), Encoder(zlib_ng, 9, 9)),
}
# Below this share of bytes that are not zero isal falls behind by a quarter and more.
SPARSE_SHARE = 1 / 80
SPARSE = Encoder(zlib_ng, 2, 9)
# Below this share isal never betters zlib-ng from level 2 on.
ZEROS_SHARE = 1 / 2
# zlib-ng finds no repeats of three bytes, as sorted integers have: stdlib's file is then a third
# smaller. A sample tells, so that the slow encoder runs only where it gains more than one percent.
PATIENT_FROM = 6
PATIENT = Encoder(zlib, 6, 8)
SAMPLE_BYTES = 16_384

# Deflate, no name, no time, an unknown system: the same bytes wherever and whenever it is written.
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
FINAL_BLOCK = b"\x03\x00"


def compress(data: bytes | memoryview | np.ndarray[Any, Any], level: int) -> bytes:
    """Compress a file that is at hand in one piece.

    Parameters
    ----------
    data
        Its bytes; an array gives its elements in C order.
    level
        1 to 9; a higher one is not larger.

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
    deflate = _smallest(octets, level, zlib.Z_FINISH)
    return HEADER + deflate + _trailer(isal_zlib.crc32(octets), octets.nbytes)


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
    deflate = _smallest(octets, level, zlib.Z_SYNC_FLUSH) if octets.nbytes else b""
    return GzipPart(deflate, isal_zlib.crc32(octets), octets.nbytes)


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


def _octets(data: bytes | memoryview | np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """View data as its bytes, shape (nbytes,); copies only an array that is not C-contiguous."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)


def _smallest(octets: np.ndarray[Any, Any], level: int, flush: int) -> bytes:
    """Deflate with the encoders that a level has for the data, and return the smallest."""
    if level not in LEVELS:
        raise ValueError(f"gzip level {level!r}: expected 1 to 9")
    return min((_deflate(octets, one, flush) for one in _encoders(octets, level)), key=len)


def _encoders(octets: np.ndarray[Any, Any], level: int) -> tuple[Encoder, ...]:
    """Choose the encoders by how many bytes are zero, which takes a twentieth of the fastest."""
    share = np.count_nonzero(octets) / max(1, octets.nbytes)
    if level == 1:
        return (SPARSE,) if share < SPARSE_SHARE else (FAST,)
    encoders = LEVELS[level]
    if share < ZEROS_SHARE:
        return encoders[1:]
    if level >= PATIENT_FROM and _patience_pays(octets):
        encoders += (PATIENT,)
    return encoders


def _patience_pays(octets: np.ndarray[Any, Any]) -> bool:
    """Whether stdlib's zlib gains on zlib-ng, told from a stretch in the middle."""
    middle = octets[len(octets) // 2 :][:SAMPLE_BYTES]
    quick = _deflate(middle, Encoder(zlib_ng, 6, 9), zlib.Z_FINISH)
    return len(_deflate(middle, PATIENT, zlib.Z_FINISH)) * 100 < len(quick) * 99


def _deflate(octets: np.ndarray[Any, Any], encoder: Encoder, flush: int) -> bytes:
    """Return a raw deflate stream, ended by ``Z_FINISH`` or left open by ``Z_SYNC_FLUSH``."""
    # A negative window leaves out zlib's header and checksum. The numbers are alike in all three.
    stream = encoder.library.compressobj(encoder.level, zlib.DEFLATED, -15, encoder.memory)
    head: bytes = stream.compress(octets.data)
    tail: bytes = stream.flush(flush)
    return head + tail
