"""The little of dask's wiring that the transforms share, with types.

Every helper passes ``dtype`` and ``meta`` on, so that nothing runs while a graph is built, and
names depend on functions, options and inputs alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
from dask.highlevelgraph import HighLevelGraph

if TYPE_CHECKING:
    from collections.abc import Callable

    import dask.array as da
    import numpy.typing as npt

# dask.array is not typed; calls through Any keep the strict checks on for everything else.
_dask: Any = dask.array

# Blocks merged by one task of a reduction tree.
SPLIT_EVERY = 8


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
    result: da.Array = _dask.blockwise(
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
    lazy: da.Array = _dask.asarray(array)
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
    result: da.Array = _dask.Array(layers, name, chunks=chunks, meta=meta)
    return result


def rechunk(array: da.Array, /, chunks: Any) -> da.Array:
    """Rechunk by tasks, so that a graph does not depend on a cluster being connected."""
    result: da.Array = _dask.rechunk(array, chunks, method="tasks")
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


def reduce_rows(
    array: da.Array,
    /,
    chunk: Callable[..., Any],
    combine: Callable[..., Any],
    aggregate: Callable[..., Any],
    *,
    output_size: int,
    dtype: npt.DTypeLike,
    concatenate: bool = True,
) -> da.Array:
    """Reduce along the first axis with a tree that depends on the number of blocks only.

    Parameters
    ----------
    array
        What to reduce.
    chunk
        Called with each block, and ``axis`` and ``keepdims``.
    combine, aggregate
        Called with up to ``SPLIT_EVERY`` results of `chunk` or `combine`; `aggregate` makes the
        last step.
    output_size
        Length of the first axis of the result.
    dtype
        Of the result.
    concatenate
        Whether results are joined along the first axis, or handed over as a list.

    Returns
    -------
    da.Array
        Lazy, with the first axis `output_size` long.
    """
    result: da.Array = _dask.reduction(
        array,
        chunk=chunk,
        combine=combine,
        aggregate=aggregate,
        axis=0,
        keepdims=True,
        output_size=output_size,
        split_every=SPLIT_EVERY,
        concatenate=concatenate,
        dtype=np.dtype(dtype),
        meta=np.empty((0,) * array.ndim, dtype=dtype),
    )
    return result
