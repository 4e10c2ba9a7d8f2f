"""NumPy kernels that turn a matrix stored by cell into one stored by gene.

The values of each block of a matrix are ordered gene after gene. A range of genes is then a
contiguous slice of every block, and joining the slices gives the genes' values for all cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# Cells are counted from the first one of a block, so two bytes are enough for most blocks.
_SHORT = 2**16


class CscBlock(NamedTuple):
    """Some genes of some cells, ordered gene after gene.

    Attributes
    ----------
    data
        Stored values (n_stored,), in the type they are stored in.
    rows
        Unsigned integers (n_stored,): the cell of each value, counted from ``first_cell``.
    indptr
        int64 (n_genes + 1,): where each gene begins.
    first_gene
        Number of the first gene, among those that are asked for.
    first_cell, n_cells
        The cells that the block covers.
    """

    data: NDArray[Any]
    rows: NDArray[Any]
    indptr: NDArray[np.int64]
    first_gene: int
    first_cell: int
    n_cells: int

    def genes(self, start: int, stop: int) -> CscBlock:
        """Slice a range of genes, without a copy; genes outside the block have no values."""
        indptr = slice_pointers(self.indptr, start - self.first_gene, stop - self.first_gene)
        low, high = int(indptr[0]), int(indptr[-1])
        return self._replace(
            data=self.data[low:high],
            rows=self.rows[low:high],
            indptr=indptr - low,
            first_gene=start,
        )


def slice_pointers(indptr: NDArray[np.int64], start: int, stop: int, /) -> NDArray[np.int64]:
    """Return where genes `start` to `stop` begin, and where the last ends.

    Genes outside 0 to n, which `indptr` (n + 1,) does not have, are without values.
    """
    return indptr[np.clip(np.arange(start, stop + 1), 0, len(indptr) - 1)]


def transpose_block(
    block: Any, /, *, first_cell: int, first_gene: int = 0, columns: NDArray[np.intp] | None = None
) -> CscBlock:
    """Order the values of a block gene after gene.

    Parameters
    ----------
    block
        (cells, genes), SciPy CSR or CSC or NumPy, any real dtype.
    first_cell, first_gene
        Number of the block's first cell, and of the first gene that is kept.
    columns
        Genes to keep, rising, each once. Default: all.

    Returns
    -------
    CscBlock
        Duplicate entries in the order they are stored. Zeros of a dense block are not stored,
        unless negative: their sign is kept.
    """
    if sparse.issparse(block):
        by_gene = (block if columns is None else block[:, columns]).tocsc()
        # Densifying adds to zero, which turns a stored -0.0 into 0.0.
        zero = by_gene.dtype.type(0)
        data = by_gene.data + zero if by_gene.dtype.kind == "f" else by_gene.data
        rows, indptr = by_gene.indices, by_gene.indptr
    else:
        # SciPy has no float16.
        dense = np.asarray(block, dtype=np.float32 if block.dtype == np.float16 else None)
        data, rows, indptr = _stored_values(dense if columns is None else dense[:, columns])
    n_cells = int(block.shape[0])
    short = np.uint16 if n_cells <= _SHORT else np.uint32
    return CscBlock(
        data, rows.astype(short), indptr.astype(np.int64), first_gene, first_cell, n_cells
    )


def _stored_values(block: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    by_gene = np.ascontiguousarray(block.T)
    stored = by_gene != 0
    if by_gene.dtype.kind == "f":
        stored |= np.signbit(by_gene)
    rows = np.flatnonzero(stored)
    rows %= max(1, by_gene.shape[1])
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(stored, axis=1))])
    return by_gene[stored], rows, indptr


def join_blocks(blocks: Sequence[CscBlock], /, *, n_cells: int) -> sparse.csc_matrix[Any]:
    """Join blocks that hold the same genes.

    Parameters
    ----------
    blocks
        At least one, in the order of their cells. Neighbours may share a cell, or a cell's values.
    n_cells
        Number of all cells.

    Returns
    -------
    scipy.sparse.csc_matrix
        (n_cells, n_genes), sorted; duplicate entries are summed in the stored type and order, as
        SciPy does when it densifies.
    """
    ends = np.cumsum([len(block.rows) for block in blocks])
    lengths = np.stack([np.diff(block.indptr) for block in blocks])
    n_blocks, n_genes = lengths.shape
    index = np.int32 if max(n_cells, lengths.size, ends[-1]) < 2**31 else np.int64
    cells = np.empty(int(ends[-1]), dtype=index)
    for block, own in zip(blocks, np.split(cells, ends[:-1]), strict=True):
        np.add(block.rows, block.first_cell, out=own, dtype=index, casting="unsafe")
    data = blocks[0].data if n_blocks == 1 else np.concatenate([block.data for block in blocks])
    indptr = np.zeros(lengths.size + 1, dtype=index)
    np.cumsum(lengths, out=indptr[1:])
    if n_blocks > 1:
        # A matrix with a row for each gene of each block: picking its rows, gene after gene, moves
        # all values in one call. A matrix for each block takes longer to make than to join.
        order = np.arange(lengths.size, dtype=index).reshape(n_blocks, n_genes).T.reshape(-1)
        rows = sparse.csr_matrix((data, cells, indptr), shape=(lengths.size, n_cells))[order]
        data, cells, indptr = rows.data, rows.indices, rows.indptr[::n_blocks]
    return sum_duplicates(sparse.csc_matrix((data, cells, indptr), shape=(n_cells, n_genes)))


def sum_duplicates(by_gene: sparse.csc_matrix[Any], /) -> sparse.csc_matrix[Any]:
    """Sort a matrix, which may be changed, and sum duplicate entries in the order stored."""
    if not by_gene.has_sorted_indices:
        # SciPy's sort is not stable: duplicates would be summed in another order, to another
        # float. Converting twice sorts stably, in about the same time.
        by_gene = by_gene.tocsr().tocsc()
    by_gene.sum_duplicates()
    return by_gene


def choose_cells(by_gene: sparse.csc_matrix[Any], cells: NDArray[np.intp], /) -> Any:
    """Choose cells of a sorted matrix by position, in any order, repeats allowed."""
    return by_gene.tocsr()[cells].tocsc()


def gene_runs(lengths: NDArray[np.int64], /, *, max_values: int, max_genes: int) -> list[slice]:
    """Cut a sequence of genes into runs that are joined together.

    Parameters
    ----------
    lengths
        Stored values of each gene; may be 0.
    max_values
        Values in a run; a gene that has more is a run by itself.
    max_genes
        Genes in a run.

    Returns
    -------
    list of slice
        In order; none is empty.
    """
    ends = np.cumsum(lengths)
    runs: list[slice] = []
    start = values = 0
    while start < len(ends):
        stop = int(np.searchsorted(ends, values + max_values, side="right"))
        stop = min(max(stop, start + 1), start + max(1, max_genes))
        runs.append(slice(start, stop))
        start, values = stop, int(ends[stop - 1])
    return runs
