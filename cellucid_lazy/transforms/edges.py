"""Edges of a neighbour graph from blocks of rows of its matrix.

A shuffle: every block of rows is turned to sorted, unique pairs and cut by ranges of source cells,
then every range merges what the blocks hold for it. The matrix is read once.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize

from cellucid_lazy.transforms.blocks import as_lazy, from_graph, rechunk
from cellucid_lazy.transforms.edge_pairs import block_pairs, cut_pairs, edge_dtype, merge_pairs
from cellucid_lazy.transforms.keeping import keep_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da
    import numpy.typing as npt

    from cellucid_lazy.transforms.keeping import Keep, Kept

__all__ = ["edge_counts", "edge_destinations", "edge_dtype", "edge_sources", "edges"]


# Blocks times ranges is the number of small tasks in between, where pieces stay in memory.
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
        Puts a list of arrays elsewhere, such as on disk, and gives for each a `Kept`. There pairs
        wait between the two steps of the shuffle, about 8 bytes per stored entry, and edges for
        all that is made of them.

    Returns
    -------
    da.Array
        (m, 2) source and destination of :func:`edge_dtype`, source < destination, unique, sorted.
        m is unknown until computed; chunks are ranges of source cells. With `keep` its blocks are
        as those of `transforms.keeping.keep_rows`.

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
    n_blocks = len(connectivities.chunks[0])
    n_ranges = min(n_blocks if keep is None else 2 * n_blocks, MAX_RANGES)
    graph = _shuffle_graph(connectivities, positions, n_cells, n_ranges, token, keep)
    found = from_graph(
        f"edges-{token}",
        graph,
        connectivities,
        positions,
        chunks=((math.nan,) * n_ranges, (2,)),
        dtype=edge_dtype(n_cells),
    )
    return found if keep is None else keep_rows(found, keep)


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
    # One after the other, so that the neighbours of all cells are counted in one array: every block
    # has edges to cells anywhere.
    token = tokenize(edge_list.name)
    name, counted = f"edge-counts-{token}", f"edge-degrees-{token}"
    graph: dict[Any, Any] = {}
    before: Any = None
    for i in range(edge_list.numblocks[0]):
        graph[counted, i] = (_add_degrees, before, (edge_list.name, i, 0))
        before = (counted, i)
    graph[name, 0] = (_count_degrees, before)
    return from_graph(name, graph, edge_list, chunks=((2,),), dtype=np.int64)


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
    starts = accumulate(connectivities.chunks[0][:-1], initial=0)
    n_blocks = len(connectivities.chunks[0])
    graph: dict[Any, Any] = {}
    for i, start in enumerate(starts):
        graph[pairs, i] = (cut, (connectivities.name, i, 0), position_key, start)
    merge = partial(_merge_range, n_cells=n_cells)
    for k in range(n_ranges):
        parts: list[Any] = [(pairs, i) for i in range(n_blocks)]
        if keep is None:
            # Arrays are tasks of their own, so that no worker gets those of other ranges.
            graph |= {(piece, i, k): (_take, (pairs, i), k) for i in range(n_blocks)}
            parts = [(piece, i, k) for i in range(n_blocks)]
        graph[f"edges-{token}", k, 0] = (merge, parts, 0 if keep is None else k)
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


def _take(cut: Sequence[Any], k: int) -> list[Any]:
    return [cut[k]]


def _merge_range(cuts: Sequence[Sequence[Any]], k: int, *, n_cells: int) -> npt.NDArray[Any]:
    return merge_pairs([cut[k] for cut in cuts], n_cells=n_cells)


def _edge_column(edge_list: da.Array, column: int) -> da.Array:
    name = f"edge-column-{tokenize(edge_list.name, column)}"
    take = partial(_take_column, column=column)
    graph = {(name, i): (take, (edge_list.name, i, 0)) for i in range(edge_list.numblocks[0])}
    return from_graph(name, graph, edge_list, chunks=(edge_list.chunks[0],), dtype=edge_list.dtype)


def _take_column(block: npt.NDArray[Any] | Kept, *, column: int) -> npt.NDArray[Any]:
    return np.ascontiguousarray(block[:][:, column])


def _add_degrees(
    degrees: npt.NDArray[np.uint32] | None, block: npt.NDArray[Any] | Kept
) -> npt.NDArray[np.uint32]:
    """Count the neighbours of cells 0 to the last that has an edge so far."""
    edges = block[:]
    known = np.zeros(0, dtype=np.uint32) if degrees is None else degrees
    n_cells = int(edges.max()) + 1 if len(edges) else 0
    total = np.zeros(max(len(known), n_cells), dtype=np.uint32)
    total[: len(known)] = known
    for column in edges.T:
        np.add.at(total, column, np.uint32(1))
    return total


def _count_degrees(degrees: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    # Every edge was counted at both of its ends.
    n_edges = int(degrees.sum(dtype=np.int64)) // 2
    return np.array([n_edges, int(degrees.max(initial=0))], dtype=np.int64)
