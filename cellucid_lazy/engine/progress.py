"""Progress of long work: a bar on a terminal or in a notebook, nothing where output is piped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dask.callbacks import Callback
from tqdm.auto import tqdm

# The time left is computed from the latest tasks: reading and writing take different times.
_SMOOTHING = 0.1
_FORMAT = "{desc}: {percentage:3.0f}% {bar:20} {n_fmt}/{total_fmt} tasks, {remaining} left"


def is_shown(progress: bool | None) -> bool:
    """Return whether progress is shown; None means on a terminal and in a notebook."""
    return sys.stderr.isatty() or _is_notebook() if progress is None else progress


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


@contextmanager
def task_bar(label: str) -> Iterator[Any]:
    """Show a progress bar, a ``tqdm``, while the context is open."""
    # Some terminals report a size of 0, with which tqdm would show nothing.
    size = shutil.get_terminal_size()
    with tqdm(
        desc=label,
        total=1,
        leave=False,
        smoothing=_SMOOTHING,
        bar_format=_FORMAT,
        ncols=None if _is_notebook() else size.columns,
        nrows=size.lines,
        file=sys.stderr,
    ) as bar:
        yield bar


class LocalProgress(Callback):  # type: ignore[misc]
    """Counts the tasks of dask's local schedulers on a bar; a context manager.

    Parameters
    ----------
    bar
        As `task_bar` gives it.
    """

    def __init__(self, bar: Any) -> None:
        super().__init__()
        self._bar = bar

    def _start_state(self, dsk: Any, state: Any) -> None:
        del dsk
        self._bar.reset(total=len(state["ready"]) + len(state["waiting"]))

    def _posttask(self, *_: Any) -> None:
        self._bar.update()


def gather_with_bar(client: Any, futures: Sequence[Any], bar: Any) -> list[Any]:
    """Count the futures of a cluster on a bar as they finish, and return their results."""
    bar.reset(total=len(futures))
    for future in futures:
        future.add_done_callback(lambda _: bar.update())
    results: list[Any] = client.gather(list(futures))
    return results
