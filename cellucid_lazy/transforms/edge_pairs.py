"""Pairs of cells in NumPy: packing, sorting, cutting by source, merging.

A pair is one integer, ``source * n_cells + destination``, so that sorting pairs sorts integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

# From here on a packed pair does not fit 64 bits.
_PACKED_CELLS = 2**32
_WIDE_PAIR = np.dtype([("source", np.uint64), ("destination", np.uint64)])


def edge_dtype(n_cells: int, /) -> np.dtype[Any]:
    """Return the dtype of cell numbers in edges.

    Parameters
    ----------
    n_cells
        Number of cells.

    Returns
    -------
    numpy.dtype
        uint16 up to 65,535 cells, uint32 below 2**32, else uint64.
    """
    if n_cells <= np.iinfo(np.uint16).max:
        return np.dtype(np.uint16)
    return np.dtype(np.uint32 if n_cells <= np.iinfo(np.uint32).max else np.uint64)


def block_pairs(
    block: Any, start: int, position: npt.NDArray[Any] | None, *, n_cells: int
) -> npt.NDArray[Any]:
    """Turn a block of rows to sorted, unique pairs.

    Parameters
    ----------
    block
        scipy CSR, sorted or not, or a NumPy array, shape (rows, n).
    start
        Matrix row of the block's first row.
    position
        Cell number of each matrix row, (n,), negative for none; None for the row's own number.
    n_cells
        Number of cells.

    Returns
    -------
    numpy.ndarray
        Packed pairs (m,), source < destination.

    Raises
    ------
    ValueError
        If a column index or a position is out of range.
    """
    rows, columns = _stored_entries(sparse.csr_array(block), start)
    if position is not None:
        rows, columns = _cell_numbers(rows, columns, position, n_cells)
    off_diagonal = rows != columns
    if not off_diagonal.all():
        rows, columns = rows[off_diagonal], columns[off_diagonal]
    return _sorted_unique(_pack(np.minimum(rows, columns), np.maximum(rows, columns), n_cells))


def cut_pairs(pairs: npt.NDArray[Any], *, n_cells: int, n_ranges: int) -> list[npt.NDArray[Any]]:
    """Cut sorted pairs into ranges of sources of equal length.

    Parameters
    ----------
    pairs
        Packed pairs, sorted.
    n_cells
        Number of cells.
    n_ranges
        Number of ranges.

    Returns
    -------
    list of numpy.ndarray
        One piece per range. Pieces are copies, so that each can be let go by itself.
    """
    firsts = np.array([k * n_cells // n_ranges for k in range(1, n_ranges)], dtype=np.uint64)
    cuts = np.searchsorted(pairs, _pack(firsts, np.zeros_like(firsts), n_cells))
    pieces = np.split(pairs, cuts)
    return pieces if n_ranges == 1 else [piece.copy() for piece in pieces]


def merge_pairs(pieces: Sequence[npt.NDArray[Any]], *, n_cells: int) -> npt.NDArray[Any]:
    """Merge what all blocks hold for one range of sources.

    Parameters
    ----------
    pieces
        Packed pairs, each sorted and unique.
    n_cells
        Number of cells.

    Returns
    -------
    numpy.ndarray
        (m, 2) of :func:`edge_dtype`, sorted and unique.
    """
    pairs = pieces[0] if len(pieces) == 1 else _sorted_unique(np.concatenate(pieces))
    return _unpack(pairs, n_cells)


def _stored_entries(
    block: sparse.csr_array[Any], start: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return matrix row and column of every entry that is not 0."""
    n_rows, n_columns = block.shape
    columns = block.indices
    if columns.size and not (columns.min() >= 0 and columns.max() < n_columns):
        raise ValueError(
            f"column indices {columns.min()} to {columns.max()} in rows {start} to"
            f" {start + n_rows - 1}, but the matrix has {n_columns} columns"
        )
    dtype = edge_dtype(n_columns)
    rows = np.repeat(np.arange(start, start + n_rows, dtype=dtype), np.diff(block.indptr))
    columns = columns.astype(dtype)
    stored = block.data != 0
    return (rows, columns) if stored.all() else (rows[stored], columns[stored])


def _cell_numbers(
    rows: npt.NDArray[Any], columns: npt.NDArray[Any], position: npt.NDArray[Any], n_cells: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if position.size and position.max() >= n_cells:
        raise ValueError(f"position {position.max()} is beyond the last of {n_cells} cells")
    both = (position[rows] >= 0) & (position[columns] >= 0)
    return position[rows[both]], position[columns[both]]


def _pack(
    sources: npt.NDArray[Any], destinations: npt.NDArray[Any], n_cells: int
) -> npt.NDArray[Any]:
    if n_cells >= _PACKED_CELLS:
        wide = np.empty(sources.shape, dtype=_WIDE_PAIR)
        wide["source"], wide["destination"] = sources, destinations
        return wide
    pairs = sources.astype(np.uint64)
    pairs *= np.uint64(n_cells)
    pairs += destinations.astype(np.uint64, copy=False)
    return pairs


def _unpack(pairs: npt.NDArray[Any], n_cells: int) -> npt.NDArray[Any]:
    edges = np.empty((len(pairs), 2), dtype=edge_dtype(n_cells))
    if pairs.dtype == _WIDE_PAIR:
        edges[:, 0], edges[:, 1] = pairs["source"], pairs["destination"]
    elif len(pairs):
        sources = pairs // np.uint64(n_cells)
        edges[:, 0] = sources
        sources *= np.uint64(n_cells)
        edges[:, 1] = pairs - sources
    return edges


def _sorted_unique(pairs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sort in place and drop repeats; np.unique hashes, which takes a hundred times as long."""
    pairs.sort()
    first = np.ones(len(pairs), dtype=np.bool_)
    first[1:] = pairs[1:] != pairs[:-1]
    return pairs if first.all() else pairs[first]
