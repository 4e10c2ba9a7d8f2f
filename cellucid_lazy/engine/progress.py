"""Progress of long work: a line on a terminal, nothing where output is piped."""

from __future__ import annotations

import sys
import time
from typing import Any

from dask.callbacks import Callback

_SECONDS_BETWEEN = 0.2
_ERASE = "\r\x1b[K"


class Progress(Callback):  # type: ignore[misc]
    """Shows the tasks done and the time left, for dask's local schedulers; a context manager.

    dask's own bar has neither a label nor an estimate, and leaves its line.

    Parameters
    ----------
    label
        What is being done.
    shown
        False for silence; None to show it on a terminal only.
    """

    def __init__(self, label: str, shown: bool | None = None) -> None:
        super().__init__()
        self._label = label
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._total = self._done = 0
        self._began = self._drawn = 0.0

    def _start_state(self, dsk: Any, state: Any) -> None:
        del dsk
        self._total = len(state["ready"]) + len(state["waiting"])
        self._done, self._began = 0, time.monotonic()
        self._drawn = self._began

    def _posttask(self, *_: Any) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._drawn < _SECONDS_BETWEEN and self._done < self._total:
            return
        self._drawn = now
        left = (now - self._began) * (self._total / self._done - 1)
        done = f"{self._done:,}/{self._total:,} tasks"
        self._write(f"{_ERASE}{self._label}: {done}, {left:,.0f} s left")

    def _finish(self, *_: Any) -> None:
        self._write(_ERASE)

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()
