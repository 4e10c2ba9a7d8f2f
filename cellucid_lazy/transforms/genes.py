"""Gene columns from an expression matrix that is cut into blocks of any grid.

Blocks may be CSR, CSC or dense. A column is returned as float32, duplicate entries of a sparse
matrix summed in the stored type first, as SciPy does when it densifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def to_float32(values: NDArray[Any], /) -> NDArray[np.float32]:
    """Cast to float32; values beyond its range become infinite, silently.

    Parameters
    ----------
    values
        Any real dtype, any shape.

    Returns
    -------
    numpy.ndarray
        float32, same shape; the same object when it is float32 already.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


def pick_columns(block: Any, columns: NDArray[np.intp], /) -> NDArray[np.float32]:
    """Take columns of one block as dense float32.

    Parameters
    ----------
    block
        Sparse or dense, (rows, genes).
    columns
        Positions within the block.

    Returns
    -------
    numpy.ndarray
        float32 (rows, len(columns)).
    """
    if sparse.issparse(block):
        if len(columns) == 1 and block.format == "csr":
            return to_float32(one_column(block, int(columns[0])))[:, None]
        return to_float32(block[:, columns].toarray())
    return to_float32(np.asarray(block)[:, columns])


def one_column(block: Any, column: int) -> NDArray[Any]:
    """Take one column of a CSR block; a comparison per stored value is all it takes.

    Parameters
    ----------
    block
        CSR (rows, genes), sorted or not.
    column
        Position of the gene.

    Returns
    -------
    numpy.ndarray
        (rows,) in the block's dtype, duplicate entries summed.
    """
    places = np.flatnonzero(block.indices == column)
    rows = np.searchsorted(block.indptr, places, side="right") - 1
    values = np.zeros(block.shape[0], dtype=block.dtype)
    # Infinities of both signs in one place are NaN, as SciPy has it, and no cause for a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(values, rows, block.data[places])
    return values


def gene_columns(matrix: da.Array, /, columns: Sequence[int]) -> da.Array:
    """Select genes in one pass: every block that holds one of them is read once.

    Parameters
    ----------
    matrix
        Lazy (n_cells, n_genes), sparse or dense blocks.
    columns
        Positions of the genes, in the order wanted; repeats are allowed.

    Returns
    -------
    dask.array.Array
        float32 (n_cells, len(columns)), cut along cells as the matrix is; one block wide.
    """
    wanted = np.asarray(columns, dtype=np.intp)
    if len(matrix.chunks[1]) == 1:
        return _pick(matrix, wanted)
    borders = np.cumsum((0, *matrix.chunks[1]))
    owner = np.searchsorted(borders, wanted, side="right") - 1
    parts, order = [], []
    for chunk in np.unique(owner):
        of_chunk = np.flatnonzero(owner == chunk)
        parts.append(_pick(matrix.blocks[:, int(chunk)], wanted[of_chunk] - borders[chunk]))
        order.append(of_chunk)
    if len(parts) == 1:
        return parts[0]
    joined = da.concatenate(parts, axis=1).rechunk({1: -1})
    back = np.argsort(np.concatenate(order))
    if (back == np.arange(len(back))).all():
        return joined
    return joined.map_blocks(partial(_reorder, columns=back), dtype=np.float32)


def gene_column(columns: da.Array, /) -> da.Array:
    """Take the only column of a column matrix.

    Slicing would write out a task per block when it is built, this only when it is computed.

    Parameters
    ----------
    columns
        Lazy (n_cells, 1), one block wide.

    Returns
    -------
    dask.array.Array
        Same dtype, (n_cells,).
    """
    meta = np.empty((0,), dtype=columns.dtype)
    return columns.map_blocks(_first_column, drop_axis=1, dtype=columns.dtype, meta=meta)


def _first_column(block: NDArray[Any]) -> NDArray[Any]:
    return block[:, 0]


def _pick(matrix: da.Array, columns: NDArray[np.intp]) -> da.Array:
    return matrix.map_blocks(
        partial(_pick_block, columns=columns),
        chunks=(matrix.chunks[0], (len(columns),)),
        dtype=np.float32,
        meta=np.empty((0, 0), dtype=np.float32),
    )


def _pick_block(block: Any, *, columns: NDArray[np.intp]) -> NDArray[np.float32]:
    return pick_columns(block, columns)


def _reorder(block: NDArray[np.float32], *, columns: NDArray[np.intp]) -> NDArray[np.float32]:
    return block[:, columns]


def column_facts(columns: NDArray[np.float32], /) -> NDArray[np.float64]:
    """Facts of dense columns that manifests and colour maps need.

    Parameters
    ----------
    columns
        float32 (n_cells, k).

    Returns
    -------
    numpy.ndarray
        float64 (3, k): min and max over finite values (NaN where there is none), finite count.
    """
    finite = np.isfinite(columns)
    count = finite.sum(axis=0, dtype=np.float64)
    low = np.min(columns, axis=0, where=finite, initial=np.inf).astype(np.float64)
    high = np.max(columns, axis=0, where=finite, initial=-np.inf).astype(np.float64)
    empty = count == 0
    low[empty] = high[empty] = np.nan
    return _stacked(low, high, count)


def _stacked(*facts: NDArray[np.float64]) -> NDArray[np.float64]:
    # Whether 0.0 or -0.0 is the minimum of both depends on the blocks: adding 0 leaves 0.0 only.
    return np.stack(facts) + 0.0


def gene_ranges(matrix: da.Array, /, *, rows: da.Array | None = None) -> da.Array:
    """Find each gene's facts in one pass, without densifying sparse blocks.

    Parameters
    ----------
    matrix
        Lazy (n_cells, n_genes), sparse or dense blocks.
    rows
        Lazy bool (n_cells,), cut as the matrix is: the cells that count. Default: all.

    Returns
    -------
    dask.array.Array
        float64 (3, n_genes), as `column_facts` gives them.
    """
    if rows is None:
        rows = da.ones(matrix.shape[0], chunks=(matrix.chunks[0],), dtype=bool)
    parts = da.blockwise(
        _block_ranges,
        "fij",
        matrix,
        "ij",
        rows,
        "i",
        new_axes={"f": 3},
        adjust_chunks={"i": 1},
        dtype=np.float64,
        meta=np.empty((0, 0, 0)),
    )
    return da.reduction(
        parts,
        chunk=_pass_on,
        combine=_merge_ranges,
        aggregate=partial(_merge_ranges, last=True),
        axis=1,
        dtype=np.float64,
        concatenate=True,
        meta=np.empty((0, 0)),
    )


def _pass_on(part: NDArray[np.float64], **_: Any) -> NDArray[np.float64]:
    return part


def _merge_ranges(parts: NDArray[np.float64], last: bool = False, **_: Any) -> NDArray[np.float64]:
    low = np.fmin.reduce(parts[0], axis=0)
    high = np.fmax.reduce(parts[1], axis=0)
    merged = np.stack([low, high, parts[2].sum(axis=0)])
    return merged if last else merged[:, None, :]


def _block_ranges(block: Any, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not rows.all():
        block = block[rows]
    if not sparse.issparse(block):
        return column_facts(to_float32(np.asarray(block)))[:, None, :]
    columns = summed_columns(block)
    facts = stored_facts(to_float32(columns.data), columns.indptr, n_rows=columns.shape[0])
    return facts[:, None, :]


def summed_columns(block: Any, /) -> Any:
    """Order a sparse block gene after gene, each cell of a gene once.

    Parameters
    ----------
    block
        SciPy sparse; it stays as it is.

    Returns
    -------
    scipy.sparse.csc_matrix
        Sorted, duplicate entries summed in the order they are stored, as SciPy densifies. Its
        parts are its own.
    """
    by_gene = block.tocsc(copy=block.format == "csc")
    if not by_gene.has_sorted_indices:
        # SciPy's sort is not stable: duplicates would be summed in another order, to another
        # float. Turning twice sorts stably, in about the same time.
        by_gene = by_gene.tocsr().tocsc()
    if _has_duplicates(by_gene.indices, by_gene.indptr):
        by_gene.sum_duplicates()
    return by_gene


def _has_duplicates(indices: NDArray[Any], indptr: NDArray[Any]) -> bool:
    same = indices[1:] == indices[:-1]
    borders = indptr[1:-1]
    same[borders[(borders > 0) & (borders < len(indices))] - 1] = False
    return bool(same.any())


def stored_facts(
    data: NDArray[np.float32], indptr: NDArray[Any], /, *, n_rows: int
) -> NDArray[np.float64]:
    """Facts of sparse columns; values that are not stored count as zeros.

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
        float64 (3, n_columns), as `column_facts` gives them.
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
    low[count == 0] = high[count == 0] = np.nan
    return _stacked(low, high, count)
