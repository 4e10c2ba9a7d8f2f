"""The protocol of sinks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol


class Writer(Protocol):
    """The part of a sink that runs in tasks. It pickles."""

    def put(self, name: str, parts: Iterable[Any]) -> Any:
        """Write a file from its bytes in order, and return a small receipt.

        A task may run again: a file written twice replaces the first.
        """


class Sink(Protocol):
    """Where named files are written; this part stays with the caller.

    The calls are ``prepare``, ``begin``, and ``commit`` once all files are written. After any
    failure ``abort`` is called; it may also come first, or twice. ``prepare`` may follow it.
    """

    def prepare(self, inputs: Sequence[str]) -> None:
        """Check and lock the target before any work.

        `inputs` are absolute paths that the work reads; nothing in them may be replaced.
        """

    def begin(self, names: Sequence[str]) -> Writer:
        """Check the names, and prepare to write their files."""

    def commit(self, receipts: Mapping[str, Any]) -> Any:
        """Finish, given the receipt of each name of ``begin``, and return the caller's result."""

    def abort(self) -> None:
        """Remove all that was written."""
