"""Blocks that wait elsewhere than in memory, such as on disk, until a task needs their rows.

Nothing tells a scheduler to finish what a block is for before it makes the next one: blocks that
several fields need would pile up. What waits elsewhere is a few bytes in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from dask.base import tokenize

from cellucid_lazy.transforms.blocks import from_graph, join_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import dask.array as da
    import numpy.typing as npt


class Kept(Protocol):
    """An array that was put elsewhere."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        """Bring back some rows."""

    def __len__(self) -> int:
        """Number of rows."""


_ONE_AT_A_TIME = Lock()

Keep = Callable[[list["npt.NDArray[Any]"]], "Sequence[Kept]"]


def keep_rows(array: da.Array, keep: Keep, /) -> da.Array:
    """Put the blocks of an array elsewhere.

    Parameters
    ----------
    array
        Chunked along its first axis only, NumPy blocks.
    keep
        Puts a list of arrays elsewhere, and gives for each a `Kept`.

    Returns
    -------
    da.Array
        The same shape, dtype and chunks; its blocks are `Kept`, for functions that take rows of
        what they are given.
    """
    name = f"keep-{tokenize(array.name, keep)}"
    tail = (0,) * (array.ndim - 1)
    task = partial(_keep_block, keep=keep)
    graph = {(name, i, *tail): (task, (array.name, i, *tail)) for i in range(array.numblocks[0])}
    return from_graph(name, graph, array, chunks=array.chunks, dtype=array.dtype)


@contextmanager
def brought_back(parts: Sequence[npt.NDArray[Any] | Kept], /) -> Iterator[npt.NDArray[Any]]:
    """Join the rows of parts; what waited elsewhere fills memory once at a time in a process."""
    in_memory = all(isinstance(part, np.ndarray) for part in parts)
    with nullcontext() if in_memory else _ONE_AT_A_TIME:
        yield join_rows(parts)


def _keep_block(block: npt.NDArray[Any], *, keep: Keep) -> Kept:
    (kept,) = keep([block])
    return kept
