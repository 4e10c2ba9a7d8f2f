"""MemorySink: files as bytes in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MemoryWriter:
    """Joins files; each file's receipt is its bytes."""

    def put(self, name: str, parts: Iterable[Any]) -> bytes:
        """Join a file's bytes."""
        del name
        return b"".join(parts)


class MemorySink:
    """Collects files as a dict of bytes."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()

    def prepare(self, inputs: Sequence[str]) -> None:
        """Do nothing: memory needs no preparation."""

    def begin(self, names: Sequence[str]) -> MemoryWriter:
        """Keep the order of the names."""
        self._names = tuple(names)
        return MemoryWriter()

    def commit(self, receipts: Mapping[str, Any]) -> dict[str, bytes]:
        """Return each file's bytes by its name, in the order of `begin`."""
        return {name: receipts[name] for name in self._names}

    def abort(self) -> None:
        """Do nothing: nothing was written."""
