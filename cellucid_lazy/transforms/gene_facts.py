"""Facts of gene columns that manifests and colour maps need: minimum, maximum, finite count.

They are in float64, of values cast to float32, and the same from dense columns, from stored values
and from blocks of a matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.transforms.block_columns import summed_columns
from cellucid_lazy.transforms.float32 import to_float32


def column_facts(columns: NDArray[np.float32], /) -> NDArray[np.float64]:
    """Facts of dense columns.

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


def block_facts(block: Any, rows: NDArray[np.bool_], /) -> NDArray[np.float64]:
    """Facts of the columns of a block, without densifying a sparse one.

    Parameters
    ----------
    block
        Sparse or dense, (rows, genes).
    rows
        bool (rows,): those that count.

    Returns
    -------
    numpy.ndarray
        float64 (3, genes), as `column_facts` gives them.
    """
    if not rows.all():
        block = block[rows]
    if not sparse.issparse(block):
        return column_facts(to_float32(np.asarray(block)))
    columns = summed_columns(block)
    return stored_facts(to_float32(columns.data), columns.indptr, n_rows=columns.shape[0])


def merge_facts(parts: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Merge facts of the same columns over several runs of rows.

    Parameters
    ----------
    parts
        float64 (3, runs, columns).

    Returns
    -------
    numpy.ndarray
        float64 (3, columns).
    """
    low = np.fmin.reduce(parts[0], axis=0)
    high = np.fmax.reduce(parts[1], axis=0)
    return np.stack([low, high, parts[2].sum(axis=0)])


def _stacked(*facts: NDArray[np.float64]) -> NDArray[np.float64]:
    # Whether 0.0 or -0.0 is the minimum of both depends on the blocks: adding 0 leaves 0.0 only.
    return np.stack(facts) + 0.0
