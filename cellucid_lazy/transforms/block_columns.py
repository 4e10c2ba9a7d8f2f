"""Genes of one block of an expression matrix: picked, summed, ordered.

Blocks may be CSR, CSC or dense. Duplicate entries of a sparse block are summed in the stored type,
in the order they are stored, as SciPy does when it densifies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.transforms.float32 import to_float32


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
