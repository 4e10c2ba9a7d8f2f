"""gzip: one member per file, written whole or joined from parts compressed independently.

Browsers read one member per file. So each part ends at a byte boundary without ending the stream,
and refers to nothing before itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from isal import isal_zlib
from zlib_ng import zlib_ng

from cellucid_lazy.codecs.codec import Part

# Deflate, without name, time and system, so that equal data give equal bytes.
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_FINAL_BLOCK = b"\x03\x00"


@dataclass(frozen=True)
class Gzip:
    """Compress to one gzip member per file, without name or time.

    Attributes
    ----------
    level
        1 to 9; 1 is fastest. Level 1 is python-isal's, levels 2 to 9 are zlib-ng's.

    Raises
    ------
    ValueError
        For another level.
    """

    level: int

    suffix: ClassVar[str] = ".gz"

    def __post_init__(self) -> None:
        if self.level not in range(1, 10):
            raise ValueError(f"gzip level {self.level!r}: expected 1 to 9")

    def encode(self, data: memoryview) -> bytes:
        """Compress a whole file."""
        trailer = _trailer(isal_zlib.crc32(data), data.nbytes)
        return b"".join([HEADER, *self._deflate(data, zlib.Z_FINISH), trailer])

    def encode_part(self, data: memoryview) -> Part:
        """Compress a part of a file, up to a byte boundary and without a final block."""
        deflated = b"".join(self._deflate(data, zlib.Z_SYNC_FLUSH))
        return Part(deflated, isal_zlib.crc32(data), data.nbytes)

    def join(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Join compressed parts into one member; no parts make an empty file."""
        checksum, size = 0, 0
        yield HEADER
        for part in parts:
            checksum = isal_zlib.crc32_combine(checksum, part.checksum, part.size)
            size += part.size
            yield part.data
        yield _FINAL_BLOCK + _trailer(checksum, size)

    def _deflate(self, data: memoryview, flush: int) -> tuple[bytes, bytes]:
        """Return a raw deflate stream, ended by Z_FINISH or left open by Z_SYNC_FLUSH."""
        library = isal_zlib if self.level == 1 else zlib_ng
        # A negative window leaves out zlib's own header and checksum.
        stream = library.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return stream.compress(data), stream.flush(flush)


def _trailer(checksum: int, size: int) -> bytes:
    return checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")
