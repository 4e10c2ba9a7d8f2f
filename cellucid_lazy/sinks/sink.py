"""What a sink is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol


class Writer(Protocol):
    """The half of a sink that travels to tasks. It pickles."""

    def put(self, name: str, parts: Iterable[Any]) -> Any:
        """Write a file from its bytes in order; a name written twice replaces, for tasks run again.

        Returns a small receipt, or the bytes themselves where there is nowhere else to put them.
        """


class Sink(Protocol):
    """Where named files go; this half stays with the caller.

    ``prepare`` comes first, then ``begin``. Then ``commit`` comes once all files are written.
    Whatever fails, ``abort`` comes last; it may come first, and twice. After it ``prepare`` may
    come again.
    """

    def prepare(self, inputs: Sequence[str]) -> None:
        """Check the target, and keep others from it, before any work.

        `inputs` are absolute paths that the work reads: nothing there may be replaced.
        """

    def begin(self, names: Sequence[str]) -> Writer:
        """Check the names, and make ready for their files."""

    def commit(self, receipts: Mapping[str, Any]) -> Any:
        """Finish, given the receipt of each name of ``begin``.

        What this returns is the caller's result.
        """

    def abort(self) -> None:
        """Leave nothing behind."""
