"""Functions that make lazy arrays of hand-written tasks, and that change graphs.

Names of tasks depend on functions, options and inputs alone, and nothing runs while a graph is
built.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate, pairwise, product
from math import isnan, nan, prod
from operator import getitem
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task as _Task
from dask._task_spec import convert_legacy_graph
from dask.base import clone_key, tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.optimization import cull
from dask.utils import ensure_dict, funcname
from numpy.typing import DTypeLike, NDArray

# Blocks merged by one task of a reduction tree.
SPLIT_EVERY = 8

_SPILLABLE = "spillable-"
_EXCLUSIVE = threading.Lock()
# With dask's option array.query-planning, arrays are expressions.
_HAS_EXPRESSIONS = hasattr(da.Array, "expr")


def block_keys(array: da.Array, /) -> list[Any]:
    """List the keys of an array's blocks, in C order."""
    return list(flatten(array.__dask_keys__()))


def from_graph(
    name: str,
    graph: Mapping[Any, Any],
    *dependencies: da.Array | None,
    chunks: tuple[tuple[float, ...], ...],
    dtype: DTypeLike,
    meta: Any = None,
) -> da.Array:
    """Make a lazy array of tasks.

    Parameters
    ----------
    name
        Name of the array.
    graph
        Tasks; the array's blocks have the keys ``(name, i, j, ...)``.
    dependencies
        Arrays whose blocks the tasks use; None is ignored.
    chunks
        Block lengths along each axis, NaN where unknown.
    dtype
        Of the array.
    meta
        An empty block, where blocks are not NumPy arrays.

    Returns
    -------
    dask.array.Array
        Reads and computes nothing yet.
    """
    arrays: list[Any] = [array for array in dependencies if array is not None]
    meta = np.empty((0,) * len(chunks), dtype=dtype) if meta is None else meta
    if _HAS_EXPRESSIONS:
        expression = _expression(name, merge_graphs(arrays) | dict(graph), chunks, meta)
        planned: da.Array = da.Array(expression)
        return planned
    layers = HighLevelGraph.from_collections(name, dict(graph), dependencies=arrays)
    result: da.Array = da.Array(layers, name, chunks=chunks, meta=meta)
    return result


def grid_array(
    name: str,
    read: Callable[[Any, Any, NDArray[np.intp]], Any],
    take: Callable[[Any, int, int], Any],
    *,
    source: Any,
    rows: Sequence[Any],
    row_lengths: Sequence[int],
    widths: Sequence[int],
    dtype: DTypeLike,
) -> da.Array:
    """Make a lazy matrix whose rows of blocks are each read once, in the needed columns only.

    Selecting columns of the result drops blocks; culling the graph then narrows the reads to the
    columns that are left, as dask does for columns of a stored dataframe.

    Parameters
    ----------
    name
        Name of the array.
    read
        ``read(row, source, columns)`` reads a row of blocks; `columns` are rising positions.
    take
        ``take(found, start, stop)`` makes the block of these columns from what was read.
    source
        What is read from; passed to every read.
    rows
        What `read` is given as ``row``, for each row of blocks.
    row_lengths, widths
        Rows and columns of the blocks.
    dtype
        Of the array.

    Returns
    -------
    dask.array.Array
        Of NumPy blocks.
    """
    layer = _GridTasks(name, read, take, source, rows, widths)
    chunks = (tuple(row_lengths), tuple(widths))
    if _HAS_EXPRESSIONS:
        return from_graph(name, dict(layer), chunks=chunks, dtype=dtype)
    layers = HighLevelGraph({name: layer}, {name: set()})
    result: da.Array = da.Array(layers, name, chunks=chunks, dtype=dtype)
    return result


class _DeferredTasks(Layer):  # type: ignore[misc]  # dask has no types
    """A layer whose tasks are made once it is known which blocks of an array are needed."""

    # If this were not set, dask would make all tasks to find out.
    has_legacy_tasks = False

    def __init__(self, name: str, n_blocks: Sequence[int]) -> None:
        super().__init__()
        self._name, self._n_blocks = name, tuple(n_blocks)

    def _tasks(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Make the tasks that some blocks need."""
        raise NotImplementedError

    @cached_property
    def _all(self) -> dict[Any, Any]:
        return self._tasks(self.get_output_keys())

    def get_output_keys(self) -> set[Any]:
        """List the keys of the blocks."""
        return {(self._name, *block) for block in product(*map(range, self._n_blocks))}

    def is_materialized(self) -> bool:
        """Whether all tasks have been made."""
        return "_all" in self.__dict__

    def cull(self, keys: set[Any], all_hlg_keys: Collection[Any]) -> tuple[Layer, Any]:
        """Make the tasks of some blocks."""
        del all_hlg_keys
        wanted = [key for key in keys if isinstance(key, tuple) and key[0] == self._name]
        tasks = self._tasks(wanted) if wanted else {}
        dependencies = {key: set(task.dependencies) for key, task in tasks.items()}
        return MaterializedLayer(tasks, annotations=self.annotations), dependencies

    def __getitem__(self, key: Any) -> Any:
        return self._all[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_all"}


class _GridTasks(_DeferredTasks):
    """The tasks of `grid_array`."""

    def __init__(
        self,
        name: str,
        read: Callable[..., Any],
        take: Callable[..., Any],
        source: Any,
        rows: Sequence[Any],
        widths: Sequence[int],
    ) -> None:
        super().__init__(name, (len(rows), len(widths)))
        self._read, self._take, self._source = read, take, source
        self._rows, self._bounds = tuple(rows), list(pairwise(accumulate(widths, initial=0)))

    def _tasks(self, keys: Iterable[Any]) -> dict[Any, Any]:
        wanted = list(keys)
        spans = sorted({self._bounds[column] for _, _, column in wanted})
        columns = np.concatenate([np.arange(*span) for span in spans])
        token = tokenize(self._name, spans)
        source, needed = f"source-{self._name}", f"columns-{token}"
        graph: dict[Any, Any] = {source: self._source, needed: columns}
        for key in wanted:
            row = (f"read-{token}", key[1])
            if row not in graph:
                # In a partial: dask would search a tuple for keys.
                graph[row] = (partial(self._read, self._rows[key[1]]), source, needed)
            graph[key] = (self._take, row, *self._bounds[key[2]])
        tasks: dict[Any, Any] = convert_legacy_graph(graph)
        return tasks


def column_blocks(matrix: da.Array, chunk: int, /) -> da.Array:
    """Take the blocks of one chunk of columns, as ``matrix.blocks[:, [chunk]]`` does."""
    name = f"column-blocks-{tokenize(matrix.name, chunk)}"
    graph = {(name, i, 0): row[chunk] for i, row in enumerate(matrix.__dask_keys__())}
    rows, columns = matrix.chunks
    return from_graph(name, graph, matrix, chunks=(rows, (columns[chunk],)), dtype=matrix.dtype)


def map_indexed(
    function: Callable[..., Any],
    output: str,
    *arrays: da.Array | str,
    dtype: DTypeLike,
    new_axes: Mapping[str, int] | None = None,
    adjust_chunks: Mapping[str, int | tuple[int, ...]] | None = None,
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
    dask.array.Array
        Of NumPy blocks.
    """
    if any(not isinstance(array, str) and _is_marked(array.name) for array in arrays):
        function = partial(_call_with_loaded, function)
    result: da.Array = da.blockwise(
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


def _call_with_loaded(function: Callable[..., Any], *blocks: Any) -> Any:
    return function(*map(np.asarray, blocks))


def rechunk(array: da.Array, /, chunks: Any) -> da.Array:
    """Rechunk by tasks, so that a graph does not depend on a cluster being connected."""
    result: da.Array = da.rechunk(array, chunks, method="tasks")
    # An array that has these chunks already keeps its name, and so stays marked as spillable.
    return array if result.chunks == array.chunks else result


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


def map_row_ranges(
    function: Callable[..., Any],
    rows: int | Sequence[int],
    *,
    arrays: Sequence[da.Array],
    broadcast: Sequence[da.Array] = (),
    shape: tuple[int, ...] | None = None,
    dtype: DTypeLike,
    exclusive: bool = False,
) -> da.Array:
    """Apply a function to ranges of rows that are independent of the chunks.

    One task per range takes its rows from the blocks that hold them, without rechunking.

    Parameters
    ----------
    function
        Called with the rows of each of `arrays`, then with each of `broadcast`, all as NumPy
        arrays. Pickles, and has a name that identifies it.
    rows
        Rows per range, counted from row 0, or the length of every range.
    arrays
        Arrays of equally many rows, chunked along rows only.
    broadcast
        Arrays that every call gets whole.
    shape
        Of what the function returns; a number per row by default.
    dtype
        Of the result.
    exclusive
        Run one call at a time in a process, because each takes much memory.

    Returns
    -------
    dask.array.Array
        What the calls return, one below the other.
    """
    single = [rechunk(array, -1) for array in broadcast]
    bounds = _row_bounds(arrays[0].shape[0], rows)
    lengths = tuple(stop - start if shape is None else shape[0] for start, stop in bounds)
    others = () if shape is None else shape[1:]
    inputs = [list(_row_parts(array, bounds)) for array in arrays]
    whole = [block_keys(array)[0] for array in single]
    token = tokenize(function, rows, [array.name for array in (*arrays, *single)], shape)
    name = f"{funcname(function)}-{token}"
    call = partial(_call_with_rows, function, exclusive)
    graph = {
        (name, i, *(0,) * len(others)): (call, [parts[i] for parts in inputs], whole)
        for i in range(len(bounds))
    }
    chunks = (lengths, *((length,) for length in others))
    return from_graph(name, graph, *arrays, *single, chunks=chunks, dtype=dtype)


def _call_with_rows(
    function: Callable[..., Any],
    exclusive: bool,
    rows: Sequence[Sequence[Any]],
    broadcast: Sequence[Any],
) -> Any:
    if exclusive:
        with _EXCLUSIVE:
            return function(*map(join_rows, rows), *broadcast)
    return function(*map(join_rows, rows), *broadcast)


def _row_bounds(n_rows: int, rows: int | Sequence[int]) -> list[tuple[int, int]]:
    if not isinstance(rows, int):
        return list(pairwise(accumulate(rows, initial=0)))
    starts = range(0, max(n_rows, 1), max(rows, 1))
    return [(start, min(start + rows, n_rows)) for start in starts]


def _row_parts(array: da.Array, bounds: Sequence[tuple[int, int]]) -> Iterator[list[Any]]:
    """Yield for each range of rows the tasks that cut it from the array's blocks."""
    lengths = array.chunks[0]
    ends = list(accumulate(lengths))
    keys = block_keys(array)
    for start, stop in bounds:
        parts: list[Any] = []
        # A range without rows gets an empty part of a block, which has the dtype and shape.
        block = min(bisect_right(ends, start), len(ends) - 1)
        while block < len(ends) and (not parts or ends[block] - lengths[block] < stop):
            first = ends[block] - lengths[block]
            low, high = max(start - first, 0), min(stop, ends[block]) - first
            whole = high - low == lengths[block]
            parts.append(keys[block] if whole else (getitem, keys[block], slice(low, high)))
            block += 1
        yield parts


def join_rows(parts: Sequence[Any], /) -> NDArray[Any]:
    """Join the rows of arrays or spilled blocks, reading one at a time.

    Parameters
    ----------
    parts
        At least one, of equal shape but for the first axis.

    Returns
    -------
    numpy.ndarray
        A single array is returned as it is, without a copy.
    """
    if len(parts) == 1:
        return np.asarray(parts[0])
    n_rows = sum(map(len, parts))
    joined = np.empty((n_rows, *parts[0].shape[1:]), dtype=parts[0].dtype)
    end = 0
    for part in parts:
        start, end = end, end + len(part)
        joined[start:end] = np.asarray(part)
    return joined


def merge_tree(
    array: da.Array,
    merge: Callable[[list[Any]], Any],
    finish: Callable[[list[Any]], Any] | None = None,
    *,
    shape: tuple[float, ...],
    dtype: DTypeLike,
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
    dask.array.Array
        One block.
    """
    token = tokenize(array.name, merge, finish, shape)
    merged, name = f"{funcname(merge)}-part-{token}", f"{funcname(finish or merge)}-{token}"
    graph: dict[Any, Any] = {}
    keys = block_keys(array)
    while len(keys) > SPLIT_EVERY:
        above: list[Any] = []
        for first in range(0, len(keys), SPLIT_EVERY):
            above.append((merged, len(graph)))
            graph[above[-1]] = (merge, keys[first : first + SPLIT_EVERY])
        keys = above
    graph[(name, *(0,) * len(shape))] = (finish or merge, keys)
    chunks = tuple((length,) for length in shape)
    return from_graph(name, graph, array, chunks=chunks, dtype=dtype)


def merge_lists(
    lists: da.Array, merge: Callable[[list[Any]], Any], n_arrays: int, *, dtype: DTypeLike
) -> da.Array:
    """Merge the first arrays of all lists, then the second ones, and so on: a shuffle.

    Parameters
    ----------
    lists
        Its blocks are lists of `n_arrays` arrays. It may be marked as spillable.
    merge
        Called with an array, or spilled block, of each list. Returns an array (m, 2). Pickles, and
        has a name that identifies it.
    n_arrays
        Length of the lists.
    dtype
        Of the result.

    Returns
    -------
    dask.array.Array
        Lazy (NaN, 2), a block for each position in the lists.
    """
    parts, token = block_keys(lists), tokenize(lists.name, merge, n_arrays)
    picked, name = f"pick-{token}", f"{funcname(merge)}-{token}"
    graph: dict[Any, Any] = {}
    for k in range(n_arrays):
        # Picked by tasks of their own, so that no worker gets the other arrays of a list.
        graph |= {(picked, i, k): (getitem, part, k) for i, part in enumerate(parts)}
        graph[name, k, 0] = (_merge_picked, merge, k, [(picked, i, k) for i in range(len(parts))])
    return from_graph(name, graph, lists, chunks=((nan,) * n_arrays, (2,)), dtype=dtype)


def _merge_picked(merge: Callable[[list[Any]], Any], position: int, arrays: list[Any]) -> Any:
    del position
    return merge(arrays)


def _merge_lists(
    merge: Callable[[list[Any]], Any], position: int, lists: Sequence[Sequence[Any]]
) -> Any:
    return merge([arrays[position] for arrays in lists])


def spillable(array: da.Array, /, *, n_bytes: int | None = None) -> da.Array:
    """Mark an array whose blocks may be saved to disk until a later step needs all of them.

    The array stays the same. The engine may save marked blocks as they are computed, so that they
    do not add up in memory. Later tasks then get spilled blocks, which ``np.asarray`` and slicing
    of rows read back.

    Parameters
    ----------
    array
        Chunked along its first axis only.
    n_bytes
        Size of all blocks, where the shape is unknown.

    Returns
    -------
    dask.array.Array
        The same shape, dtype and chunks.
    """
    if _is_marked(array.name):
        return array
    size = prod(array.shape) * array.dtype.itemsize if n_bytes is None else n_bytes
    name = f"{_SPILLABLE}{array.name}"
    tail = (0,) * (array.ndim - 1)
    graph = {
        (name, i, *tail): (_mark, key, 0 if i else size) for i, key in enumerate(block_keys(array))
    }
    return from_graph(name, graph, array, chunks=array.chunks, dtype=array.dtype)


def _mark(block: Any, n_bytes: float) -> Any:
    """Return a block unchanged; `spillable_bytes` reads the size from the task."""
    del n_bytes
    return block


def _is_marked(name: str) -> bool:
    return name.startswith(_SPILLABLE)


def _is_marked_task(task: Any) -> bool:
    return isinstance(task, tuple) and bool(task) and task[0] is _mark


def merge_graphs(arrays: Sequence[da.Array]) -> dict[Any, Any]:
    """Merge the graphs of arrays, so that what they share is computed once.

    The result has no layers: dask's work on thousands of them grows with their square.
    """
    graph: dict[Any, Any] = {}
    for array in arrays:
        graph |= ensure_dict(array.__dask_graph__())
    return graph


def spillable_bytes(graph: Mapping[Any, Any]) -> int:
    """Add up the bytes of all arrays of a merged graph that are marked as spillable."""
    return sum(task[2] for task in graph.values() if _is_marked_task(task))


def with_spilling(graph: Mapping[Any, Any], save: Callable[[Any], Any]) -> dict[Any, Any]:
    """Save the blocks of all spillable arrays as they are made.

    Parameters
    ----------
    graph
        As `merge_graphs` gives it.
    save
        Takes a block, an array or a list of arrays; returns the spilled block or blocks. Pickles.

    Returns
    -------
    dict
        The same keys. Merges of `merge_lists` take the spilled lists whole, not picked arrays.
    """
    return {key: _spilling_task(graph, task, save) for key, task in graph.items()}


def _spilling_task(graph: Mapping[Any, Any], task: Any, save: Callable[[Any], Any]) -> Any:
    if _is_marked_task(task):
        return (save, task[1])
    if isinstance(task, tuple) and task and task[0] is _merge_picked:
        _, merge, position, picks = task
        return (_merge_lists, merge, position, [graph[pick][1] for pick in picks])
    return task


def optimize_graph(graph: Mapping[Any, Any], keys: Sequence[Any]) -> dict[Any, Any]:
    """Optimize the graph of arrays that users made, as dask does, fusing tasks."""
    return dict(da.Array.__dask_optimize__(dict(graph), list(keys)))


def rename_keys(
    graph: Mapping[Any, Any], token: str
) -> tuple[dict[Any, Any], Callable[[Any], Any]]:
    """Give all keys of a merged graph new names, so that it shares none with other graphs.

    Returns
    -------
    tuple
        The same tasks, and a function that makes the new key of an old one.
    """
    tasks = convert_legacy_graph(dict(graph))
    new = {key: clone_key(key, token) for key in tasks}
    renamed = {new[key]: task.substitute(new, key=new[key]) for key, task in tasks.items()}
    return renamed, new.__getitem__


def needed_tasks(graph: Mapping[Any, Any], keys: Sequence[Any]) -> dict[Any, Any]:
    """Keep the tasks of a merged graph that the keys depend on; none is fused with another."""
    needed: dict[Any, Any] = cull(dict(graph), list(keys))[0]
    return needed


def unfused(array: da.Array, /) -> da.Array:
    """Make the same array, of tasks that dask does not fuse.

    dask fuses chains of tasks, differently for each set of arrays that is computed together. On a
    cluster one key would have several definitions, which can cause deadlocks. Tasks of
    arrays that are derived from it may be fused. An array that is an expression is returned as it
    is.
    """
    if _HAS_EXPRESSIONS:
        return array
    layers = HighLevelGraph({array.name: _UnfusedTasks(array)}, {array.name: set()})
    result: da.Array = da.Array(layers, array.name, array.chunks, meta=array._meta)
    return result


class Task(_Task):  # type: ignore[misc]  # dask has no types
    """A task that dask does not fuse. The class has the name of dask's, which is in tokens."""

    __slots__ = ()

    @property
    def block_fusion(self) -> bool:
        """Return whether fusion leaves it out."""
        return True


class _UnfusedTasks(_DeferredTasks):
    """All tasks of an array, as `Task`.

    A layer rather than an array type with its own ``__dask_optimize__``: dask mixes up the results
    of arrays that are computed together and optimized in different ways.
    """

    def __init__(self, array: da.Array) -> None:
        super().__init__(array.name, array.numblocks)
        self._graph = array.dask

    @cached_property
    def _all(self) -> dict[Any, Any]:
        # Unchanged, since the engine searches them for marks.
        return dict(ensure_dict(self._graph))

    def _tasks(self, keys: Iterable[Any]) -> dict[Any, Any]:
        needed = needed_tasks(self._all, list(keys))
        return {key: _unfused_task(task) for key, task in convert_legacy_graph(needed).items()}


def _unfused_task(task: Any) -> Any:
    if type(task) is not _Task:
        return task
    kept = task.copy()
    kept.__class__ = Task
    return kept


if _HAS_EXPRESSIONS:
    try:
        from dask.array._array_expr._io import FromGraph
    except ImportError as problem:
        raise RuntimeError(
            "this version of dask cannot make arrays of tasks with array.query-planning; set "
            "dask's configuration array.query-planning to False before dask.array is imported"
        ) from problem

    class _Tasks(FromGraph):  # type: ignore[misc]
        """Tasks as an expression."""

        def finalize_compute(self) -> Any:
            """Join blocks of unknown length along the first axis, which dask cannot do."""
            if not isnan(self.size):
                return super().finalize_compute()
            name, blocks = f"joined-{self._name}", self.operand("keys")
            tasks = {**self.operand("layer"), (name, *blocks[0][1:]): (join_rows, blocks)}
            return _expression(name, tasks, ((nan,), *self.chunks[1:]), self._meta)


def _expression(
    name: str, tasks: Mapping[Any, Any], chunks: tuple[tuple[float, ...], ...], meta: Any
) -> Any:
    keys = [(name, *block) for block in np.ndindex(*map(len, chunks))]
    # The name identifies the tasks, so that dask need not hash all of them.
    return _Tasks(tasks, meta, chunks, keys, name, _determ_token=tokenize(name))
