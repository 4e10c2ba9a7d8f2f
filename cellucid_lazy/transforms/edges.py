"""Edges of a neighbour graph from blocks of rows of its matrix.

A shuffle: every block of rows is turned to sorted, unique pairs and cut by ranges of source cells,
then every range merges what the blocks hold for it. The matrix is read once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from operator import getitem
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from dask.base import tokenize

from cellucid_lazy.transforms.blocks import as_lazy, from_graph, map_indexed, merge_tree, rechunk
from cellucid_lazy.transforms.edge_pairs import block_pairs, cut_pairs, edge_dtype, merge_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da
    import numpy.typing as npt

__all__ = ["edge_counts", "edge_destinations", "edge_dtype", "edge_sources", "edges"]


class Kept(Protocol):
    """An array that was put elsewhere."""

    def load(self) -> npt.NDArray[Any]:
        """Bring it back."""


Keep = Callable[[list["npt.NDArray[Any]"]], "Sequence[Kept]"]

# Blocks times ranges is the number of small tasks in between; more ranges save little memory.
MAX_RANGES = 256


def edges(
    connectivities: da.Array,
    /,
    *,
    n_cells: int,
    position: da.Array | npt.NDArray[np.integer[Any]] | None = None,
    keep: Keep | None = None,
) -> da.Array:
    """List the edges of a neighbour graph, each once.

    Two cells share an edge if the matrix or its transpose stores a value other than 0 for them;
    NaN is such a value. The diagonal is left out.

    Parameters
    ----------
    connectivities
        (n, n), chunked along rows only; blocks are scipy CSR, sorted or not, or NumPy arrays.
    n_cells
        Number of cells that edges refer to.
    position
        The cell number of each matrix row, shape (n,), negative for rows that are no cell; the
        row's own number by default. A NumPy array becomes part of the graph: pass a lazy one if
        it is long.
    keep
        Puts a list of arrays elsewhere, such as on disk, and gives for each an object whose
        ``load()`` brings it back. Without it the pairs stay in memory between the two steps of
        the shuffle: about 8 bytes per stored entry.

    Returns
    -------
    da.Array
        (m, 2) source and destination of :func:`edge_dtype`, source < destination, unique, sorted.
        m is unknown until computed; chunks are ranges of source cells.

    Raises
    ------
    ValueError
        If shapes or chunks are not as above; on computing, if a block's column indices or a
        position are out of range.
    """
    positions = None if position is None else rechunk(as_lazy(position), -1)
    _check_shapes(connectivities, n_cells, positions)
    token = tokenize(
        connectivities.name, n_cells, positions if positions is None else positions.name, keep
    )
    # Without cells there are no rows, and dask has one empty block.
    n_ranges = min(len(connectivities.chunks[0]), MAX_RANGES)
    graph = _shuffle_graph(connectivities, positions, n_cells, n_ranges, token, keep)
    return from_graph(
        f"edges-{token}",
        graph,
        connectivities,
        positions,
        chunks=((math.nan,) * n_ranges, (2,)),
        dtype=edge_dtype(n_cells),
    )


def edge_sources(edge_list: da.Array, /) -> da.Array:
    """Return the smaller cell number of each edge.

    Parameters
    ----------
    edge_list
        (m, 2), see :func:`edges`.

    Returns
    -------
    da.Array
        (m,) in the dtype and chunks of `edge_list`.
    """
    return _edge_column(edge_list, 0)


def edge_destinations(edge_list: da.Array, /) -> da.Array:
    """Return the larger cell number of each edge.

    Parameters
    ----------
    edge_list
        (m, 2), see :func:`edges`.

    Returns
    -------
    da.Array
        (m,) in the dtype and chunks of `edge_list`.
    """
    return _edge_column(edge_list, 1)


def edge_counts(edge_list: da.Array, /) -> da.Array:
    """Count the edges, and the neighbours of the cell that has most.

    Parameters
    ----------
    edge_list
        (m, 2), see :func:`edges`.

    Returns
    -------
    da.Array
        Lazy (2,) int64: number of edges, largest number of neighbours; 0 and 0 without edges.
    """
    degrees = map_indexed(_block_degrees, "i", edge_list, "ij", dtype=np.uint32)
    return merge_tree(degrees, _add_degrees, _count_degrees, shape=(2,), dtype=np.int64)


def _check_shapes(connectivities: da.Array, n_cells: int, positions: da.Array | None) -> None:
    n_rows = n_cells if positions is None else positions.shape[0]
    if connectivities.shape != (n_rows, n_rows):
        raise ValueError(
            f"connectivities must have shape ({n_rows}, {n_rows}), found {connectivities.shape}"
        )
    if len(connectivities.chunks[1]) != 1:
        raise ValueError(
            f"connectivities must be chunked along rows only, found chunks {connectivities.chunks}"
        )


def _shuffle_graph(
    connectivities: da.Array,
    positions: da.Array | None,
    n_cells: int,
    n_ranges: int,
    token: str,
    keep: Keep | None,
) -> dict[Any, Any]:
    pairs, piece = f"edge-pairs-{token}", f"edge-piece-{token}"
    position_key = None if positions is None else (positions.name, 0)
    cut = partial(_cut_block, n_cells=n_cells, n_ranges=n_ranges, keep=keep)
    merge = partial(merge_pairs if keep is None else _load_and_merge, n_cells=n_cells)
    starts = accumulate(connectivities.chunks[0][:-1], initial=0)
    graph: dict[Any, Any] = {}
    for i, start in enumerate(starts):
        graph[pairs, i] = (cut, (connectivities.name, i, 0), position_key, start)
        for k in range(n_ranges):
            graph[piece, i, k] = (getitem, (pairs, i), k)
    n_blocks = len(connectivities.chunks[0])
    for k in range(n_ranges):
        graph[f"edges-{token}", k, 0] = (merge, [(piece, i, k) for i in range(n_blocks)])
    return graph


def _cut_block(
    block: Any,
    position: npt.NDArray[Any] | None,
    start: int,
    *,
    n_cells: int,
    n_ranges: int,
    keep: Keep | None,
) -> Sequence[Any]:
    pairs = block_pairs(block, start, position, n_cells=n_cells)
    cut = cut_pairs(pairs, n_cells=n_cells, n_ranges=n_ranges)
    return cut if keep is None else keep(cut)


def _load_and_merge(kept: Sequence[Kept], *, n_cells: int) -> npt.NDArray[Any]:
    return merge_pairs([one.load() for one in kept], n_cells=n_cells)


def _edge_column(edge_list: da.Array, column: int) -> da.Array:
    take = partial(_take_column, column=column)
    return map_indexed(take, "i", edge_list, "ij", dtype=edge_list.dtype)


def _take_column(block: npt.NDArray[Any], *, column: int) -> npt.NDArray[Any]:
    return np.ascontiguousarray(block[:, column])


def _block_degrees(block: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    return np.bincount(block.ravel().astype(np.intp)).astype(np.uint32)


def _add_degrees(parts: list[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint32]:
    """Add counts of cells 0 to the last that has an edge, a different one in each part."""
    total = np.zeros(max(map(len, parts)), dtype=np.uint32)
    for part in parts:
        total[: len(part)] += part
    return total


def _count_degrees(parts: list[npt.NDArray[np.uint32]]) -> npt.NDArray[np.int64]:
    degrees = _add_degrees(parts)
    # Every edge was counted at both of its ends.
    n_edges = int(degrees.sum(dtype=np.int64)) // 2
    return np.array([n_edges, int(degrees.max(initial=0))], dtype=np.int64)
