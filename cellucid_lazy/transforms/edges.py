"""Edges of a neighbour graph, from blocks of rows of its matrix.

A shuffle: each block of rows gives sorted, unique pairs of cells, cut into ranges of source cells;
then the pairs of all blocks are merged for each range. The matrix is read once.

A pair is one integer, ``source * 2**32 + destination``, so that sorting pairs sorts integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.graph import (
    block_keys,
    from_graph,
    join_rows,
    merge_lists,
    rechunk,
    spillable,
)

# The two steps are connected by a small task for each block and range.
MAX_RANGES = 256
_MAX_CELLS = 2**32 - 1
_PAIR_BYTES = 8
_SHIFT = np.uint64(32)
# Stored entries that become pairs at once.
_STEP_ENTRIES = 2**14


def edges(
    connectivities: da.Array,
    /,
    *,
    n_cells: int,
    row_to_cell: da.Array | NDArray[np.integer[Any]] | None = None,
    n_stored: int | None = None,
) -> da.Array:
    """List the edges of a neighbour graph, each once.

    Two cells share an edge if the matrix or its transpose stores a value other than 0 for them;
    NaN is such a value. The diagonal is left out.

    Parameters
    ----------
    connectivities
        (n, n), chunked along rows only; blocks are SciPy CSR, sorted or not, or NumPy arrays.
    n_cells
        Number of cells that edges refer to.
    row_to_cell
        The cell of each matrix row, shape (n,), negative for rows that are no cell; the row's own
        number by default. A NumPy array becomes part of the graph: pass a lazy one if it is long.
    n_stored
        Number of stored entries; 16 bytes for each are marked as spillable. None for unknown, which
        counts as none.

    Returns
    -------
    dask.array.Array
        (m, 2) source and destination of :func:`edge_dtype`, source < destination, unique, sorted.
        m is unknown until computed; chunks are ranges of source cells.

    Raises
    ------
    ValueError
        If shapes or chunks are not as above, or there are more cells than 32 bits can number; on
        computing, if a block's column indices or a cell number are out of range.
    """
    cells = None if row_to_cell is None else rechunk(da.asarray(row_to_cell), -1)
    _check_shapes(connectivities, n_cells, cells)
    return _edges_of(_block_pairs, connectivities, cells, n_cells, n_stored or 0)


def renumber_edges(
    edge_list: da.Array,
    /,
    *,
    n_cells: int,
    cell_of: da.Array | NDArray[np.integer[Any]] | None = None,
) -> da.Array:
    """Renumber the cells of edges, and leave out the edges of cells without a new number.

    Parameters
    ----------
    edge_list
        (m, 2), in any order, chunked along rows only.
    n_cells
        Number of cells that the result refers to.
    cell_of
        New number of each cell, negative to leave it out; its own number by default.

    Returns
    -------
    dask.array.Array
        Edges as :func:`edges` returns them.

    Raises
    ------
    ValueError
        On computing, if an edge has a cell beyond the last.
    """
    cells = None if cell_of is None else rechunk(da.asarray(cell_of), -1)
    n_edges = 0 if math.isnan(edge_list.shape[0]) else edge_list.shape[0]
    return _edges_of(_renumbered_pairs, edge_list, cells, n_cells, n_edges)


def _edges_of(
    make_pairs: Callable[..., NDArray[np.uint64]],
    rows: da.Array,
    cells: da.Array | None,
    n_cells: int,
    n_pairs: int,
) -> da.Array:
    n_bytes = _PAIR_BYTES * n_pairs
    # Without cells there are no rows, and dask has one empty block.
    n_ranges = min(2 * len(rows.chunks[0]), MAX_RANGES)
    pairs = spillable(_cut_blocks(rows, cells, make_pairs, n_cells, n_ranges), n_bytes=n_bytes)
    merge = partial(_merge_pairs, n_cells=n_cells)
    merged = merge_lists(pairs, merge, n_ranges, dtype=edge_dtype(n_cells))
    return spillable(merged, n_bytes=n_bytes)


def edge_dtype(n_cells: int, /) -> np.dtype[Any]:
    """Return the dtype of cell numbers in edges: uint16 up to 65,535 cells, else uint32.

    Raises
    ------
    ValueError
        If there are more cells than 32 bits can number.
    """
    if n_cells > _MAX_CELLS:
        raise ValueError(f"{n_cells:,} cells: edges can number {_MAX_CELLS:,} cells at most")
    return np.dtype(np.uint16 if n_cells <= np.iinfo(np.uint16).max else np.uint32)


def edge_sources(edge_list: da.Array, /) -> da.Array:
    """Return the smaller cell number of each edge, shape (m,), in the chunks of `edge_list`."""
    return _edge_column(edge_list, 0)


def edge_destinations(edge_list: da.Array, /) -> da.Array:
    """Return the larger cell number of each edge, shape (m,), in the chunks of `edge_list`."""
    return _edge_column(edge_list, 1)


def edge_counts(edge_list: da.Array, /) -> da.Array:
    """Count the edges, and the neighbours of the cell that has most.

    Parameters
    ----------
    edge_list
        (m, 2), see :func:`edges`.

    Returns
    -------
    dask.array.Array
        int64 (2,): number of edges, largest number of neighbours; 0 and 0 without edges.
    """
    # Each block adds to the counts of the block before: any block has edges to all cells, so
    # counting blocks apart would take an array of all cells for each.
    token = tokenize(edge_list.name)
    name, counted = f"edge-counts-{token}", f"edge-degrees-{token}"
    graph: dict[Any, Any] = {}
    before: Any = None
    for i, key in enumerate(block_keys(edge_list)):
        graph[counted, i] = (_add_degrees, before, key)
        before = (counted, i)
    graph[name, 0] = (_count_degrees, before)
    return from_graph(name, graph, edge_list, chunks=((2,),), dtype=np.int64)


def _check_shapes(connectivities: da.Array, n_cells: int, cells: da.Array | None) -> None:
    n_rows = n_cells if cells is None else cells.shape[0]
    if connectivities.shape != (n_rows, n_rows):
        raise ValueError(
            f"connectivities must have shape ({n_rows}, {n_rows}), found {connectivities.shape}"
        )
    if len(connectivities.chunks[1]) != 1:
        raise ValueError(
            f"connectivities must be chunked along rows only, found chunks {connectivities.chunks}"
        )


def _cut_blocks(
    rows: da.Array,
    cells: da.Array | None,
    make_pairs: Callable[..., NDArray[np.uint64]],
    n_cells: int,
    n_ranges: int,
) -> da.Array:
    """Make an array whose blocks are lists: for each range of sources the pairs of a block."""
    cut = partial(_cut_block, make_pairs, n_cells=n_cells, n_ranges=n_ranges)
    name = f"cut-pairs-{tokenize(rows.name, cells is not None and cells.name, cut)}"
    cells_key = None if cells is None else block_keys(cells)[0]
    keys, lengths = block_keys(rows), rows.chunks[0]
    starts = accumulate(lengths[:-1], initial=0)
    graph = {
        (name, i): (cut, key, start, cells_key)
        for i, (key, start) in enumerate(zip(keys, starts, strict=True))
    }
    chunks = ((math.nan,) * len(keys),)
    return from_graph(name, graph, rows, cells, chunks=chunks, dtype=np.uint64)


def _cut_block(
    make_pairs: Callable[..., NDArray[np.uint64]],
    block: Any,
    start: int,
    cells: NDArray[Any] | None,
    *,
    n_cells: int,
    n_ranges: int,
) -> list[NDArray[np.uint64]]:
    pairs = make_pairs(block, start, cells, n_cells)
    firsts = np.array([k * n_cells // n_ranges for k in range(1, n_ranges)], dtype=np.uint64)
    # Copies, so that each can be freed by itself.
    return [_unique(part) for part in np.split(pairs, np.searchsorted(pairs, firsts << _SHIFT))]


def _block_pairs(
    block: Any, start: int, row_to_cell: NDArray[Any] | None, n_cells: int
) -> NDArray[np.uint64]:
    """Return the sorted pairs of a block of rows; entries stored twice give two pairs."""
    if block.dtype == np.float16:
        block = block.astype(np.float32)  # SciPy has no float16
    matrix = sparse.csr_array(block)
    _check_columns(matrix, start)
    if row_to_cell is not None and row_to_cell.size and row_to_cell.max() >= n_cells:
        raise ValueError(f"position {row_to_cell.max()} is beyond the last of {n_cells} cells")
    # Some rows at a time: temporaries of the whole block would take several times its memory.
    pairs = np.empty(matrix.nnz, dtype=np.uint64)
    filled = 0
    for rows in _row_steps(matrix.indptr):
        one, other = _stored_entries(matrix, start, rows, row_to_cell)
        end = filled + len(one)
        pairs[filled:end] = _pack(np.minimum(one, other), np.maximum(one, other))
        filled = end
    pairs = pairs[:filled]
    pairs.sort()
    return pairs


def _renumbered_pairs(
    block: Any, start: int, cell_of: NDArray[Any] | None, n_cells: int
) -> NDArray[np.uint64]:
    """Return the sorted pairs of a block of edges."""
    del start
    ends = np.asarray(block)
    n_numbered = n_cells if cell_of is None else len(cell_of)
    if ends.size and not (ends.min() >= 0 and ends.max() < n_numbered):
        raise ValueError(
            f"edges between cells {ends.min()} and {ends.max()}, but there are {n_numbered} cells"
        )
    if cell_of is not None:
        ends = cell_of[ends]
        ends = ends[(ends >= 0).all(axis=1)]
    ends = ends[ends[:, 0] != ends[:, 1]]
    pairs = _pack(ends.min(axis=1), ends.max(axis=1))
    pairs.sort()
    return pairs


def _check_columns(matrix: sparse.csr_array[Any], start: int) -> None:
    n_rows, n_columns = matrix.shape
    columns = matrix.indices
    if columns.size and not (columns.min() >= 0 and columns.max() < n_columns):
        raise ValueError(
            f"column indices {columns.min()} to {columns.max()} in rows {start} to"
            f" {start + n_rows - 1}, but the matrix has {n_columns} columns"
        )


def _row_steps(pointers: NDArray[Any]) -> Iterator[slice]:
    """Cut rows so that each part stores about ``_STEP_ENTRIES`` entries, or is a single row."""
    n_rows = len(pointers) - 1
    first = 0
    while first < n_rows:
        last = int(np.searchsorted(pointers, pointers[first] + _STEP_ENTRIES, side="right")) - 1
        last = min(max(last, first + 1), n_rows)
        yield slice(first, last)
        first = last


def _stored_entries(
    matrix: sparse.csr_array[Any], start: int, rows: slice, row_to_cell: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both cells of each entry in some rows that is neither 0 nor on the diagonal."""
    pointers = matrix.indptr[rows.start : rows.stop + 1]
    entries = slice(int(pointers[0]), int(pointers[-1]))
    numbers = np.arange(start + rows.start, start + rows.stop, dtype=matrix.indices.dtype)
    sources, destinations = np.repeat(numbers, np.diff(pointers)), matrix.indices[entries]
    wanted = (matrix.data[entries] != 0) & (sources != destinations)
    if row_to_cell is not None:
        sources, destinations = row_to_cell[sources], row_to_cell[destinations]
        wanted &= (sources >= 0) & (destinations >= 0)
    return (sources, destinations) if wanted.all() else (sources[wanted], destinations[wanted])


def _pack(sources: NDArray[Any], destinations: NDArray[Any]) -> NDArray[np.uint64]:
    return (sources.astype(np.uint64) << _SHIFT) | destinations.astype(np.uint64)


def _unique(pairs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Copy sorted pairs without repeats; np.unique takes a hundred times as long."""
    first = np.ones(len(pairs), dtype=np.bool_)
    first[1:] = pairs[1:] != pairs[:-1]
    return pairs[first]


def _merge_pairs(parts: Sequence[Any], *, n_cells: int) -> NDArray[Any]:
    """Merge the pairs of one range of sources: a sorted, unique array or spilled block each."""
    pairs = join_rows(parts)
    if len(parts) > 1:
        pairs.sort()
        pairs = _unique(pairs)
    # The halves of each pair, without a copy: of little-endian integers the second is the source.
    halves = pairs.astype("<u8", copy=False).view("<u4").reshape(-1, 2)[:, ::-1]
    return halves.astype(edge_dtype(n_cells), copy=False)


def _edge_column(edge_list: da.Array, column: int) -> da.Array:
    name = f"edge-column-{tokenize(edge_list.name, column)}"
    take = partial(_take_column, column=column)
    graph = {(name, i): (take, key) for i, key in enumerate(block_keys(edge_list))}
    return from_graph(name, graph, edge_list, chunks=(edge_list.chunks[0],), dtype=edge_list.dtype)


def _take_column(block: Any, *, column: int) -> NDArray[Any]:
    return np.ascontiguousarray(np.asarray(block)[:, column])


def _add_degrees(degrees: NDArray[np.uint32] | None, block: Any) -> NDArray[np.uint32]:
    """Count the neighbours of cells 0 to the last that has an edge so far."""
    edges = np.asarray(block)
    known = np.zeros(0, dtype=np.uint32) if degrees is None else degrees
    n_cells = int(edges.max()) + 1 if len(edges) else 0
    total = np.zeros(max(len(known), n_cells), dtype=np.uint32)
    total[: len(known)] = known
    for column in edges.T:
        np.add.at(total, column, np.uint32(1))
    return total


def _count_degrees(degrees: NDArray[np.uint32]) -> NDArray[np.int64]:
    # Every edge was counted at both of its ends.
    n_edges = int(degrees.sum(dtype=np.int64)) // 2
    return np.array([n_edges, int(degrees.max(initial=0))], dtype=np.int64)
