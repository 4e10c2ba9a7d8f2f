"""Gene columns and their statistics, from an expression matrix in any chunks.

Blocks may be CSR, CSC or dense. A column is returned as float32, duplicate entries of a sparse
matrix summed in the stored type first, as SciPy does when it densifies.

Statistics are float64 (3, genes) of float32 values: minimum and maximum over finite values (NaN
where there is none), and the number of finite values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.graph import column_blocks, map_indexed, merge_tree, rechunk
from cellucid_lazy.transforms.transpose import sum_duplicates
from cellucid_lazy.transforms.values import to_float32


def gene_columns(matrix: da.Array, /, columns: Sequence[int]) -> da.Array:
    """Select genes in one pass: every block that holds one of them is read once.

    Parameters
    ----------
    matrix
        (n_cells, n_genes), sparse or dense blocks.
    columns
        Positions of the genes, in the order wanted; repeats are allowed.

    Returns
    -------
    dask.array.Array
        float32 (n_cells, len(columns)), chunked along cells as the matrix is; one block wide.
    """
    wanted = np.asarray(columns, dtype=np.intp)
    if len(matrix.chunks[1]) == 1:
        return _pick(matrix, wanted)
    parts, order = [], []
    for chunk, of_chunk, within in _by_chunk(matrix.chunks[1], wanted):
        parts.append(_pick(column_blocks(matrix, chunk), within))
        order.append(of_chunk)
    if len(parts) == 1:
        return parts[0]
    joined = rechunk(da.concatenate(parts, axis=1), {1: -1})
    back = np.argsort(np.concatenate(order))
    if (back == np.arange(len(back))).all():
        return joined
    return map_indexed(partial(_reorder, columns=back), "ij", joined, "ij", dtype=np.float32)


def gene_column(columns: da.Array, /) -> da.Array:
    """Take the column of an array of one column, (n_cells, 1), as (n_cells,).

    Unlike slicing, this makes no tasks before the array is computed.
    """
    return map_indexed(_first_column, "i", columns, "ij", dtype=columns.dtype)


def dense_genes(matrix: da.Array, /) -> da.Array:
    """Make the blocks of a matrix dense.

    Parameters
    ----------
    matrix
        (n_cells, n_genes), sparse or dense blocks.

    Returns
    -------
    dask.array.Array
        float32 (n_cells, n_genes), chunked as the matrix is.
    """
    return map_indexed(to_dense, "ij", matrix, "ij", dtype=np.float32)


def to_dense(block: Any, /) -> NDArray[np.float32]:
    """Make a block dense, float32; duplicate entries are summed in the stored type first."""
    return to_float32(block.toarray() if sparse.issparse(block) else np.asarray(block))


def gene_ranges(matrix: da.Array, /, *, rows: da.Array | None = None) -> da.Array:
    """Find each gene's statistics in one pass, without densifying sparse blocks.

    Parameters
    ----------
    matrix
        (n_cells, n_genes), sparse or dense blocks.
    rows
        bool (n_cells,), chunked as the matrix is: the cells that count. Default: all.

    Returns
    -------
    dask.array.Array
        float64 (3, n_genes): minimum and maximum over finite values (NaN where there is none), and
        their number.
    """
    if rows is None:
        rows = da.ones(matrix.shape[0], chunks=(matrix.chunks[0],), dtype=bool)
    of_chunks = []
    for chunk, width in enumerate(matrix.chunks[1]):
        blocks = column_blocks(matrix, chunk) if len(matrix.chunks[1]) > 1 else matrix
        parts = map_indexed(
            _block_statistics, "ij", blocks, "ij", rows, "i", adjust_chunks={"i": 3}, dtype=float
        )
        of_chunks.append(merge_tree(parts, _merge_statistics, shape=(3, width), dtype=float))
    ranges: da.Array = da.concatenate(of_chunks, axis=1)
    return ranges


def stored_statistics(
    data: NDArray[np.float32], indptr: NDArray[Any], /, *, n_rows: int
) -> NDArray[np.float64]:
    """Find the statistics of sparse columns; values that are not stored count as zeros.

    Parameters
    ----------
    data
        float32 (n_stored,), column after column, no duplicates.
    indptr
        Where each column begins, (n_columns + 1,).
    n_rows
        Length of the columns.

    Returns
    -------
    numpy.ndarray
        float64 (3, n_columns), as `gene_ranges` gives them.
    """
    stored = np.diff(indptr)
    finite = np.isfinite(data)
    whole = bool(finite.all())
    starts = indptr[:-1][stored > 0]
    low = np.full(len(stored), np.inf)
    high = np.full(len(stored), -np.inf)
    count = n_rows - stored.astype(np.float64)
    if len(starts):
        some = stored > 0
        low[some] = np.minimum.reduceat(data if whole else np.where(finite, data, np.inf), starts)
        high[some] = np.maximum.reduceat(data if whole else np.where(finite, data, -np.inf), starts)
        count[some] += np.add.reduceat(finite, starts, dtype=np.float64)
    has_zero = stored < n_rows
    low[has_zero] = np.minimum(low[has_zero], 0.0)
    high[has_zero] = np.maximum(high[has_zero], 0.0)
    return _stacked(low, high, count)


def _by_chunk(
    chunks: Sequence[int], genes: NDArray[np.intp]
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp]]]:
    """Yield each chunk that holds some genes, which of them, and their positions within it."""
    borders = np.cumsum((0, *chunks))
    owner = np.searchsorted(borders, genes, side="right") - 1
    for chunk in np.unique(owner).tolist():
        of_chunk = np.flatnonzero(owner == chunk)
        yield chunk, of_chunk, genes[of_chunk] - borders[chunk]


def _pick(matrix: da.Array, columns: NDArray[np.intp]) -> da.Array:
    pick = partial(_pick_columns, columns=columns)
    width = {"j": len(columns)}
    return map_indexed(pick, "ij", matrix, "ij", adjust_chunks=width, dtype=np.float32)


def _pick_columns(block: Any, columns: NDArray[np.intp]) -> NDArray[np.float32]:
    """Take columns of a sparse or dense block as dense float32."""
    if sparse.issparse(block):
        if len(columns) == 1 and block.format == "csr":
            return to_float32(_one_column(block, int(columns[0])))[:, None]
        return to_float32(block[:, columns].toarray())
    return to_float32(np.asarray(block)[:, columns])


def _one_column(block: Any, column: int) -> NDArray[Any]:
    """Take a column of a CSR block; SciPy's indexing takes 2.5 times as long."""
    stored = np.flatnonzero(block.indices == column)
    rows = np.searchsorted(block.indptr, stored, side="right") - 1
    values = np.zeros(block.shape[0], dtype=block.dtype)
    # Duplicate entries are summed. Infinities of both signs give NaN, without a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(values, rows, block.data[stored])
    return values


def _reorder(block: NDArray[np.float32], *, columns: NDArray[np.intp]) -> NDArray[np.float32]:
    return block[:, columns]


def _first_column(blocks: Any) -> NDArray[Any]:
    column: NDArray[Any] = blocks[:, 0]
    return column


def _block_statistics(block: Any, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Find the statistics of some rows of a block, without densifying a sparse one."""
    if not rows.all():
        block = block[rows]
    if not sparse.issparse(block):
        return _column_statistics(to_float32(np.asarray(block)))
    columns = sum_duplicates(block.tocsc(copy=block.format == "csc"))
    return stored_statistics(to_float32(columns.data), columns.indptr, n_rows=columns.shape[0])


def _column_statistics(columns: NDArray[np.float32]) -> NDArray[np.float64]:
    finite = np.isfinite(columns)
    count = finite.sum(axis=0, dtype=np.float64)
    low = np.min(columns, axis=0, where=finite, initial=np.inf).astype(np.float64)
    high = np.max(columns, axis=0, where=finite, initial=-np.inf).astype(np.float64)
    return _stacked(low, high, count)


def _stacked(
    low: NDArray[np.float64], high: NDArray[np.float64], count: NDArray[np.float64]
) -> NDArray[np.float64]:
    empty = count == 0
    low[empty] = high[empty] = np.nan
    # Whether 0.0 or -0.0 is the minimum of both depends on the blocks: adding 0 leaves 0.0 only.
    return np.stack([low, high, count]) + 0.0


def _merge_statistics(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Merge statistics of the same columns over several ranges of rows."""
    low, high, count = np.stack(parts, axis=1)
    return np.stack([np.fmin.reduce(low), np.fmax.reduce(high), count.sum(axis=0)])
