"""Gene columns and their facts, from an expression matrix that is cut into blocks of any grid.

Blocks may be CSR, CSC or dense. A column is returned as float32, duplicate entries of a sparse
matrix summed in the stored type first, as SciPy does when it densifies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.transforms.block_columns import pick_columns
from cellucid_lazy.transforms.gene_facts import block_facts, merge_facts

if TYPE_CHECKING:
    import dask.array as da


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
    import dask.array as da

    wanted = np.asarray(columns, dtype=np.intp)
    if len(matrix.chunks[1]) == 1:
        return _pick(matrix, wanted)
    parts, order = [], []
    for chunk, of_chunk, within in by_chunk(matrix.chunks[1], wanted):
        parts.append(_pick(matrix.blocks[:, chunk], within))
        order.append(of_chunk)
    if len(parts) == 1:
        return parts[0]
    joined = da.concatenate(parts, axis=1).rechunk({1: -1})
    back = np.argsort(np.concatenate(order))
    if (back == np.arange(len(back))).all():
        return joined
    return joined.map_blocks(partial(_reorder, columns=back), dtype=np.float32)


def by_chunk(
    chunks: Sequence[int], genes: NDArray[np.intp], /
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp]]]:
    """Group genes by the chunk of columns they lie in.

    Parameters
    ----------
    chunks
        Number of genes of each chunk.
    genes
        Positions in the matrix, in any order.

    Yields
    ------
    tuple
        A chunk that holds some, which of ``genes`` these are, and their positions within it.
    """
    borders = np.cumsum((0, *chunks))
    owner = np.searchsorted(borders, genes, side="right") - 1
    for chunk in np.unique(owner).tolist():
        of_chunk = np.flatnonzero(owner == chunk)
        yield chunk, of_chunk, genes[of_chunk] - borders[chunk]


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
        float64 (3, n_genes), as `gene_facts.column_facts` gives them.
    """
    import dask.array as da

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


def _first_column(block: NDArray[Any]) -> NDArray[Any]:
    return block[:, 0]


def _block_ranges(block: Any, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return block_facts(block, rows)[:, None, :]


def _pass_on(part: NDArray[np.float64], **_: Any) -> NDArray[np.float64]:
    return part


def _merge_ranges(parts: NDArray[np.float64], last: bool = False, **_: Any) -> NDArray[np.float64]:
    merged = merge_facts(parts)
    return merged if last else merged[:, None, :]
