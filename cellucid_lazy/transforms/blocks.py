"""The little of dask's wiring that the transforms share, with types.

Every helper passes ``dtype`` and ``meta`` on, so that nothing runs while a graph is built, and
names depend on functions, options and inputs alone.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.utils import funcname

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import dask.array as da
    import numpy.typing as npt

# Blocks merged by one task of a reduction tree.
SPLIT_EVERY = 8


def _dask_array() -> Any:
    """Import dask.array, which takes most of a second, when the first array is built.

    It is not typed; calls through Any keep the strict checks on for everything else.
    """
    import dask.array

    return dask.array


def map_indexed(
    function: Callable[..., Any],
    output: str,
    *arrays: da.Array | str,
    dtype: npt.DTypeLike,
    new_axes: dict[str, int] | None = None,
    adjust_chunks: dict[str, int | tuple[int, ...]] | None = None,
) -> da.Array:
    """Apply a function to blocks that are matched by index letters.

    Parameters
    ----------
    function
        Takes one block per array, pickles, and has a name that identifies it.
    output
        The letters of the result's axes, such as ``"ij"``.
    *arrays
        Arrays, each followed by its letters. An axis that is not in `output` reaches the function
        whole.
    dtype
        Of the result.
    new_axes
        Sizes of axes that only the result has.
    adjust_chunks
        Block lengths of axes that the function changes.

    Returns
    -------
    da.Array
        Lazy, NumPy blocks.
    """
    result: da.Array = _dask_array().blockwise(
        function,
        output,
        *arrays,
        new_axes=new_axes,
        adjust_chunks=adjust_chunks,
        concatenate=True,
        align_arrays=False,
        dtype=np.dtype(dtype),
        meta=np.empty((0,) * len(output), dtype=dtype),
    )
    return result


def as_lazy(array: da.Array | npt.NDArray[Any], /) -> da.Array:
    """Wrap a NumPy array, and leave a lazy one as it is."""
    lazy: da.Array = _dask_array().asarray(array)
    return lazy


def from_graph(
    name: str,
    graph: dict[Any, Any],
    *dependencies: da.Array | None,
    chunks: tuple[tuple[float, ...], ...],
    dtype: npt.DTypeLike,
) -> da.Array:
    """Wrap tasks whose keys are (`name`, block number, ...) as a lazy array."""
    arrays: list[Any] = [array for array in dependencies if array is not None]
    layers = HighLevelGraph.from_collections(name, graph, dependencies=arrays)
    meta = np.empty((0,) * len(chunks), dtype=dtype)
    result: da.Array = _dask_array().Array(layers, name, chunks=chunks, meta=meta)
    return result


def rechunk(array: da.Array, /, chunks: Any) -> da.Array:
    """Rechunk by tasks, so that a graph does not depend on a cluster being connected."""
    result: da.Array = _dask_array().rechunk(array, chunks, method="tasks")
    return result


def whole_rows(array: da.Array, /) -> da.Array:
    """Chunk a matrix along its rows only.

    Raises
    ------
    ValueError
        If `array` is not two-dimensional.
    """
    if array.ndim != 2:
        raise ValueError(f"expected cells by columns, found shape {array.shape}")
    return rechunk(array, {1: -1})


def map_rows(
    function: Callable[..., Any],
    rows: int | Sequence[int],
    *,
    pieces: Sequence[da.Array] = (),
    joined: Sequence[da.Array] = (),
    whole: Sequence[da.Array] = (),
    shape: tuple[int, ...] | None = None,
    dtype: npt.DTypeLike,
) -> da.Array:
    """Apply a function to ranges of rows that have nothing to do with chunks.

    There is one task per range, which cuts what it needs from the blocks it touches: no layers of
    rechunking, and no copies of what comes in pieces.

    Parameters
    ----------
    function
        Called with the rows of each of `pieces`, as a list of blocks' parts; of each of `joined`,
        as one array; then with each of `whole`. Pickles, and has a name that identifies it.
    rows
        Rows per range, counted from row 0, or the length of every range.
    pieces, joined
        Arrays of equally many rows, chunked along rows only. Blocks of `pieces` may be anything
        that has rows.
    whole
        Arrays of which every call gets all.
    shape
        Of what the function returns; by default a number per row.
    dtype
        Of the result.

    Returns
    -------
    da.Array
        Lazy, what the calls return below each other.
    """
    single = [rechunk(array, -1) for array in whole]
    bounds = _row_bounds((*pieces, *joined)[0].shape[0], rows)
    lengths = tuple(stop - start if shape is None else shape[0] for start, stop in bounds)
    others = () if shape is None else shape[1:]
    inputs: list[Sequence[Any]] = [
        *(list(_row_parts(array, bounds)) for array in pieces),
        *([(join_rows, parts) for parts in _row_parts(array, bounds)] for array in joined),
        *([(array.name, *(0,) * array.ndim)] * len(bounds) for array in single),
    ]
    arrays = (*pieces, *joined, *single)
    token = tokenize(function, rows, [array.name for array in arrays], len(pieces), shape)
    name = f"{funcname(function)}-{token}"
    graph = {
        (name, i, *(0,) * len(others)): (function, *(one[i] for one in inputs))
        for i in range(len(bounds))
    }
    chunks = (lengths, *((length,) for length in others))
    return from_graph(name, graph, *arrays, chunks=chunks, dtype=dtype)


def _row_bounds(n_rows: int, rows: int | Sequence[int]) -> list[tuple[int, int]]:
    if not isinstance(rows, int):
        return list(pairwise(accumulate(rows, initial=0)))
    starts = range(0, max(n_rows, 1), max(rows, 1))
    return [(start, min(start + rows, n_rows)) for start in starts]


def _row_parts(array: da.Array, bounds: Sequence[tuple[int, int]]) -> Iterator[list[Any]]:
    """Yield for each range of rows the tasks that cut it from the array's blocks."""
    lengths = array.chunks[0]
    ends = list(accumulate(lengths))
    for start, stop in bounds:
        parts: list[Any] = []
        # A range without rows takes none of the first block's.
        block = min(bisect_right(ends, start), len(ends) - 1)
        while block < len(ends) and (not parts or ends[block] - lengths[block] < stop):
            first = ends[block] - lengths[block]
            low, high = max(start - first, 0), min(stop, ends[block]) - first
            key = (array.name, block, *(0,) * (array.ndim - 1))
            whole = high - low == lengths[block]
            parts.append(key if whole else (getitem, key, slice(low, high)))
            block += 1
        yield parts


def join_rows(parts: Sequence[Any], /) -> npt.NDArray[Any]:
    """Join the rows of parts, which may wait elsewhere, one at a time."""
    if len(parts) == 1:
        rows: npt.NDArray[Any] = parts[0][:]
        return rows
    n_rows = sum(map(len, parts))
    joined = np.empty((n_rows, *parts[0].shape[1:]), dtype=parts[0].dtype)
    end = 0
    for part in parts:
        start, end = end, end + len(part)
        joined[start:end] = part[:]
    return joined


def merge_tree(
    array: da.Array,
    merge: Callable[[list[Any]], Any],
    finish: Callable[[list[Any]], Any] | None = None,
    *,
    shape: tuple[float, ...],
    dtype: npt.DTypeLike,
) -> da.Array:
    """Merge blocks along the first axis by a tree that depends on their number only.

    Parameters
    ----------
    array
        What to merge, chunked along its first axis only.
    merge
        Called with a list of up to ``SPLIT_EVERY`` blocks, or results of its own.
    finish
        Called in place of `merge` for the last step.
    shape
        Of the result; NaN for a length that is unknown.
    dtype
        Of the result.

    Returns
    -------
    da.Array
        Lazy, one block.
    """
    token = tokenize(array.name, merge, finish, shape)
    merged, name = f"{funcname(merge)}-part-{token}", f"{funcname(finish or merge)}-{token}"
    graph: dict[Any, Any] = {}
    tail = (0,) * (array.ndim - 1)
    keys: list[Any] = [(array.name, i, *tail) for i in range(array.numblocks[0])]
    while len(keys) > SPLIT_EVERY:
        above = []
        for first in range(0, len(keys), SPLIT_EVERY):
            above.append((merged, len(graph)))
            graph[above[-1]] = (merge, keys[first : first + SPLIT_EVERY])
        keys = above
    graph[(name, *(0,) * len(shape))] = (finish or merge, keys)
    chunks = tuple((length,) for length in shape)
    return from_graph(name, graph, array, chunks=chunks, dtype=dtype)
