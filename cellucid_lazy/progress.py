"""Progress of long work: a line on a terminal, nothing where output is piped."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from dask.callbacks import Callback


class Progress(Callback):  # type: ignore[misc]
    """Shows tasks done, their rate and an estimate, for dask's local schedulers.

    Parameters
    ----------
    label
        What is being done.
    shown
        False for silence; None to show it on a terminal only.
    stream
        Where to. Default: standard error.
    """

    def __init__(
        self, label: str, *, shown: bool | None = None, stream: TextIO | None = None
    ) -> None:
        super().__init__()
        self._label = label
        self._stream = stream if stream is not None else sys.stderr
        self._shown = self._stream.isatty() if shown is None else shown
        self._total = self._done = 0
        self._began = self._drawn = 0.0

    def _start_state(self, dsk: Any, state: Any) -> None:
        del dsk
        self._total = sum(len(state[key]) for key in ("ready", "waiting"))
        self._done, self._began = 0, time.monotonic()
        self._drawn = self._began  # a rate of the first task alone says nothing

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        del key, result, dsk, state, worker_id
        self._done += 1
        now = time.monotonic()
        if self._shown and (now - self._drawn > 0.2 or self._done == self._total):
            self._drawn = now
            self._draw(now - self._began)

    def _draw(self, elapsed: float) -> None:
        rate = self._done / max(elapsed, 1e-3)
        left = (self._total - self._done) / rate
        filled = 24 * self._done // max(1, self._total)
        bar = "#" * filled + "-" * (24 - filled)
        self._stream.write(
            f"\r{self._label} [{bar}] {self._done:,}/{self._total:,} tasks, {rate:,.1f}/s, "
            f"{left:,.0f} s left \x1b[K"
        )
        self._stream.flush()

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
        del dsk, state, errored
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
