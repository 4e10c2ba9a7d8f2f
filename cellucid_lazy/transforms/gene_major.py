"""From cell-major to gene-major: the block maths of the external transpose.

A block of cells becomes a piece: its values ordered gene after gene. A range of genes is then a
contiguous slice of every piece, and joining the slices gives the genes' values for all cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.transforms.block_columns import one_column, summed_columns
from cellucid_lazy.transforms.float32 import to_float32

# Rows of a piece count from its first cell, so two bytes do for most blocks.
_SHORT = 2**16


class Piece(NamedTuple):
    """Values of some cells, gene after gene.

    Attributes
    ----------
    data
        float32 (n_stored,).
    rows
        uint16 or uint32 (n_stored,): cell of each value, counted from ``first_row``; rising
        within a gene.
    indptr
        int64 (n_genes + 1,): where each gene begins.
    first_row, n_rows
        The cells the piece covers.
    """

    data: NDArray[np.float32]
    rows: NDArray[Any]
    indptr: NDArray[np.int64]
    first_row: int
    n_rows: int

    def genes(self, start: int, stop: int) -> Piece:
        """Slice a range of genes, without a copy."""
        low, high = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - low
        return Piece(self.data[low:high], self.rows[low:high], indptr, self.first_row, self.n_rows)


def piece_of(block: Any, /, *, first_row: int, columns: NDArray[np.intp] | None = None) -> Piece:
    """Order the values of a block of cells gene after gene.

    Parameters
    ----------
    block
        (cells, genes), sparse or dense, any real dtype. Duplicate entries are summed in the
        stored dtype, as SciPy does when it densifies.
    first_row
        Number of the block's first cell.
    columns
        Genes to keep, in this order. Default: all.

    Returns
    -------
    Piece
        Zeros of a dense block are not stored, unless negative: their sign is kept.
    """
    if sparse.issparse(block):
        if columns is not None and len(columns) == 1 and block.format == "csr":
            chosen = sparse.csc_array(one_column(block, int(columns[0]))[:, None])
        else:
            chosen = block if columns is None else block[:, columns]
        data, rows, indptr = _columns_of(chosen)
    else:
        dense = np.asarray(block)
        data, rows, indptr = _stored_of(dense if columns is None else dense[:, columns])
    n_rows = int(block.shape[0])
    short = np.uint16 if n_rows <= _SHORT else np.uint32
    return Piece(data, rows.astype(short), indptr.astype(np.int64), first_row, n_rows)


def _columns_of(block: Any) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any]]:
    by_gene = summed_columns(block)
    data = to_float32(by_gene.data)
    # Densifying adds to zero, which turns a stored -0.0 into 0.0.
    data += np.float32(0)
    return data, by_gene.indices, by_gene.indptr


def _stored_of(block: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any]]:
    by_gene = to_float32(np.ascontiguousarray(block.T))
    stored = (by_gene != 0) | np.signbit(by_gene)
    rows = np.flatnonzero(stored)
    rows %= max(1, by_gene.shape[1])
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(stored, axis=1))])
    return by_gene[stored], rows, indptr


def gene_runs(lengths: NDArray[np.int64], /, *, most_values: int, most_genes: int) -> list[slice]:
    """Cut a sequence of genes into runs that are read or joined together.

    Parameters
    ----------
    lengths
        Stored values of each gene; may be 0.
    most_values
        Values in a run, which a gene that is a run by itself may exceed.
    most_genes
        Genes in a run.

    Returns
    -------
    list of slice
        The runs, in order; none is empty.
    """
    ends = np.cumsum(lengths)
    runs: list[slice] = []
    start = values = 0
    while start < len(ends):
        stop = int(np.searchsorted(ends, values + most_values, side="right"))
        stop = min(max(stop, start + 1), start + max(1, most_genes))
        runs.append(slice(start, stop))
        start, values = stop, int(ends[stop - 1])
    return runs


class GeneBlock(NamedTuple):
    """Some genes' values for all cells.

    Attributes
    ----------
    data
        float32 (n_stored,).
    cells
        int32 or int64 (n_stored,): cell of each value, rising within a gene.
    indptr
        Where each gene begins, (n_genes + 1,).
    n_cells
        Number of cells.
    """

    data: NDArray[np.float32]
    cells: NDArray[Any]
    indptr: NDArray[Any]
    n_cells: int


def join_pieces(pieces: list[Piece], /) -> GeneBlock:
    """Join pieces of successive cells that hold the same genes.

    Parameters
    ----------
    pieces
        In the order of their cells.

    Returns
    -------
    GeneBlock
        The values of every gene, cell after cell.
    """
    first = pieces[0].first_row
    n_cells = pieces[-1].first_row + pieces[-1].n_rows - first
    ends = np.cumsum([len(piece.rows) for piece in pieces])
    index = np.int32 if max(n_cells, ends[-1]) < 2**31 else np.int64
    cells = np.empty(int(ends[-1]), dtype=index)
    for piece, own in zip(pieces, np.split(cells, ends[:-1]), strict=True):
        np.add(piece.rows, piece.first_row - first, out=own, dtype=index, casting="unsafe")
    if len(pieces) == 1:
        return GeneBlock(pieces[0].data, cells, pieces[0].indptr, n_cells)
    # A matrix with a row for each gene of each piece: picking its rows, gene after gene, moves all
    # values in one call. A matrix for each piece takes longer to make than to join.
    data = np.concatenate([piece.data for piece in pieces])
    lengths = np.stack([np.diff(piece.indptr) for piece in pieces])
    n_pieces, n_genes = lengths.shape
    indptr = np.zeros(lengths.size + 1, dtype=index)
    np.cumsum(lengths, out=indptr[1:])
    rows = np.arange(lengths.size, dtype=index).reshape(n_pieces, n_genes).T.reshape(-1)
    joined = sparse.csr_array((data, cells, indptr), shape=(lengths.size, n_cells))[rows]
    return GeneBlock(joined.data, joined.indices, joined.indptr[::n_pieces], n_cells)
