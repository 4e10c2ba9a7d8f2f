"""Pairs of cells in NumPy: packing, sorting, cutting by source, merging.

A pair is one integer, ``source * 2**32 + destination``, so that sorting pairs sorts integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellucid_lazy.transforms.blocks import join_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from cellucid_lazy.transforms.keeping import Kept

# Entries that are turned to pairs at once.
_STEP_ENTRIES = 2**14
# With more cells a packed pair does not fit 64 bits.
_PACKED_CELLS = 2**32
_HALF = np.uint64(32)
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
    """Turn a block of rows to sorted pairs.

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
        Packed pairs (m,), source < destination; pairs that are stored twice are there twice.

    Raises
    ------
    ValueError
        If a column index or a position is out of range.
    """
    matrix = sparse.csr_array(block)
    _check_columns(matrix, start)
    if position is not None and position.size and position.max() >= n_cells:
        raise ValueError(f"position {position.max()} is beyond the last of {n_cells} cells")
    # Some rows at a time: temporaries as long as the block would cost more than the arithmetic.
    pairs = np.empty(matrix.nnz, dtype=_pair_dtype(n_cells))
    filled = 0
    for rows in _row_steps(matrix.indptr):
        one, other = _stored_entries(matrix, start, rows, position)
        end = filled + len(one)
        pairs[filled:end] = _pack(np.minimum(one, other), np.maximum(one, other), n_cells)
        filled = end
    pairs = pairs[:filled]
    pairs.sort()
    return pairs


def cut_pairs(pairs: npt.NDArray[Any], *, n_cells: int, n_ranges: int) -> list[npt.NDArray[Any]]:
    """Cut sorted pairs into ranges of sources of equal length, and drop repeats.

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
        One piece per range, sorted and unique. Pieces are copies, so that each can be let go by
        itself.
    """
    firsts = np.array([k * n_cells // n_ranges for k in range(1, n_ranges)], dtype=np.uint64)
    cuts = np.searchsorted(pairs, _pack(firsts, np.zeros_like(firsts), n_cells))
    return [_unique(piece) for piece in np.split(pairs, cuts)]


def merge_pairs(pieces: Sequence[npt.NDArray[Any] | Kept], *, n_cells: int) -> npt.NDArray[Any]:
    """Merge what all blocks hold for one range of sources.

    Parameters
    ----------
    pieces
        Packed pairs, each sorted and unique; they may wait elsewhere.
    n_cells
        Number of cells.

    Returns
    -------
    numpy.ndarray
        (m, 2) of :func:`edge_dtype`, sorted and unique.
    """
    pairs = join_rows(pieces)
    if len(pieces) > 1:
        pairs.sort()
        pairs = _unique(pairs)
    return _unpack(pairs, n_cells)


def _check_columns(matrix: sparse.csr_array[Any], start: int) -> None:
    n_rows, n_columns = matrix.shape
    columns = matrix.indices
    if columns.size and not (columns.min() >= 0 and columns.max() < n_columns):
        raise ValueError(
            f"column indices {columns.min()} to {columns.max()} in rows {start} to"
            f" {start + n_rows - 1}, but the matrix has {n_columns} columns"
        )


def _row_steps(pointers: npt.NDArray[Any]) -> Iterator[slice]:
    """Cut rows so that each part stores about ``_STEP_ENTRIES`` entries, or is a single row."""
    n_rows = len(pointers) - 1
    first = 0
    while first < n_rows:
        last = int(np.searchsorted(pointers, pointers[first] + _STEP_ENTRIES, side="right")) - 1
        last = min(max(last, first + 1), n_rows)
        yield slice(first, last)
        first = last


def _stored_entries(
    matrix: sparse.csr_array[Any], start: int, rows: slice, position: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the cells of every entry in some rows that is neither 0 nor on the diagonal."""
    pointers = matrix.indptr[rows.start : rows.stop + 1]
    entries = slice(int(pointers[0]), int(pointers[-1]))
    numbers = np.arange(start + rows.start, start + rows.stop, dtype=matrix.indices.dtype)
    sources, destinations = np.repeat(numbers, np.diff(pointers)), matrix.indices[entries]
    wanted = (matrix.data[entries] != 0) & (sources != destinations)
    if position is not None:
        sources, destinations = position[sources], position[destinations]
        wanted &= (sources >= 0) & (destinations >= 0)
    return (sources, destinations) if wanted.all() else (sources[wanted], destinations[wanted])


def _pair_dtype(n_cells: int) -> np.dtype[Any]:
    return _WIDE_PAIR if n_cells > _PACKED_CELLS else np.dtype(np.uint64)


def _pack(
    sources: npt.NDArray[Any], destinations: npt.NDArray[Any], n_cells: int
) -> npt.NDArray[Any]:
    if _pair_dtype(n_cells) == _WIDE_PAIR:
        wide = np.empty(sources.shape, dtype=_WIDE_PAIR)
        wide["source"], wide["destination"] = sources, destinations
        return wide
    return (sources.astype(np.uint64) << _HALF) | destinations.astype(np.uint64)


def _unpack(pairs: npt.NDArray[Any], n_cells: int) -> npt.NDArray[Any]:
    if pairs.dtype == _WIDE_PAIR:
        return pairs.view(np.uint64).reshape(-1, 2)
    # No copy: the halves of a little-endian pair, the second one first.
    halves = pairs.astype("<u8", copy=False).view("<u4").reshape(-1, 2)[:, ::-1]
    return halves.astype(edge_dtype(n_cells), copy=False)


def _unique(pairs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy sorted pairs without repeats; np.unique hashes, which takes a hundred times as long."""
    first = np.ones(len(pairs), dtype=np.bool_)
    first[1:] = pairs[1:] != pairs[:-1]
    return pairs[first]
