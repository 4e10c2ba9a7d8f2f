"""What a codec is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol


class Part(NamedTuple):
    """An encoded stretch of a file, for `Codec.join`.

    Attributes
    ----------
    data
        Encoded bytes: anything with the buffer interface.
    checksum, size
        CRC-32 and number of the bytes before encoding; 0 where a codec needs neither.
    """

    data: Any
    checksum: int = 0
    size: int = 0


class Codec(Protocol):
    """How the bytes of a file are encoded: whole, or in parts that are joined in order.

    It pickles, and travels to the tasks that encode. What `join` makes of parts decodes to the
    parts' bytes in order, as what `encode` makes of them put together does.
    """

    @property
    def suffix(self) -> str:
        """What is appended to a file's name, such as ``".gz"``; empty for nothing."""

    def encode(self, data: memoryview) -> Any:
        """Encode a whole file; returns anything with the buffer interface."""

    def encode_part(self, data: memoryview) -> Part:
        """Encode a stretch of a file, apart from the others."""

    def join(self, parts: Iterable[Part]) -> Iterator[Any]:
        """Join parts in the order of the file, taken one at a time; yields its bytes."""
