"""The protocol of codecs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol


class Part(NamedTuple):
    """An encoded part of a file, for `Codec.join`.

    Attributes
    ----------
    data
        Encoded bytes: anything with the buffer interface.
    checksum, size
        CRC-32 and number of the bytes before encoding; 0 if the codec does not need them.
    """

    data: Any
    checksum: int = 0
    size: int = 0


class Codec(Protocol):
    """Encodes the bytes of a file: whole, or in parts that are then joined in order.

    Both decode to the same bytes. It pickles, since tasks encode.
    """

    @property
    def suffix(self) -> str:
        """Suffix of file names, such as ``".gz"``, or empty."""

    def encode(self, data: memoryview) -> Any:
        """Encode a whole file, as anything with the buffer interface."""

    def encode_part(self, data: memoryview) -> Part:
        """Encode a part of a file, independently of the others."""

    def join(self, parts: Iterable[Part]) -> Iterator[Any]:
        """Join parts in the order of the file, one at a time, and yield its bytes."""
