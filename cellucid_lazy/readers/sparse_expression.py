"""Expression matrices in CSR or CSC form: stored by cell, stored by gene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.readers.sparse_array import Layout, SparseReader
from cellucid_lazy.readers.sparse_blocks import major_array, major_cut
from cellucid_lazy.readers.sparse_reads import reads_by_cell, reads_by_gene
from cellucid_lazy.source import Expression, GeneReads, MatrixBlocks
from cellucid_lazy.transforms.float32 import to_float32
from cellucid_lazy.transforms.genes import gene_columns

if TYPE_CHECKING:
    import dask.array as da

# Stored values of one block: 8 MB of float32 values and int32 indices.
BLOCK_VALUES = 2**20
# Bytes of one dense block of columns read from a matrix stored by gene.
DENSE_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class StoredSparse:
    """What CSR and CSC matrices have in common.

    Attributes
    ----------
    reader
        The stored matrix, cells by genes.
    """

    reader: SparseReader

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.reader.shape

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.reader.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.reader.dtype

    @property
    def layout(self) -> Layout:
        """How it is stored."""
        return self.reader.layout

    @property
    def n_stored(self) -> int:
        """Number of stored values."""
        return self.reader.n_stored

    def blocks(self, stored_values: int) -> MatrixBlocks:
        """Blocks of whole rows (CSR) or columns (CSC)."""
        return MatrixBlocks(major_array(self.reader, major_cut(self.reader, stored_values)))


class StoredByCell(StoredSparse):
    """A CSR matrix: genes are picked from blocks of cells."""

    genes_together = None

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns."""
        return gene_columns(self.blocks(BLOCK_VALUES).blocks, genes)

    def gene_reads(
        self, genes: NDArray[np.intp], *, block_values: int, most_genes: int
    ) -> GeneReads:
        """Blocks of whole rows, of equally many values."""
        del most_genes  # all genes are read together
        return reads_by_cell(self.reader, genes, block_values=block_values)


class StoredByGene(StoredSparse):
    """A CSC matrix: a gene is one slice."""

    genes_together = 1

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns, each read as one slice."""
        import dask.array as da

        n_cells = self.shape[0]
        wanted = tuple(int(gene) for gene in genes)
        width = max(1, DENSE_BYTES // max(1, 4 * n_cells))
        return da.from_array(
            GeneSlices(self.reader, wanted),
            chunks=(n_cells, min(width, len(wanted))),
            name=f"genes-{self.reader.token}-{tokenize(wanted)}",
            asarray=False,
            fancy=False,
            inline_array=not isinstance(self.reader.data, MemoryArray),
            meta=np.empty((0, 0), dtype=np.float32),
        ).rechunk({1: -1})

    def gene_reads(
        self, genes: NDArray[np.intp], *, block_values: int, most_genes: int
    ) -> GeneReads:
        """Runs of genes, each read for all cells."""
        return reads_by_gene(self.reader, genes, block_values=block_values, most_genes=most_genes)


class GeneSlices:
    """Array-like of chosen genes of a CSC matrix."""

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, reader: SparseReader, genes: tuple[int, ...]) -> None:
        self.reader = reader
        self.genes = genes
        self.shape = (reader.shape[0], len(genes))

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.float32]:
        rows, columns = key
        wanted, place = np.unique(self.genes[columns], return_inverse=True)
        if not len(wanted):
            return np.empty(self.shape, dtype=np.float32)[key]
        first, stop = int(wanted[0]), int(wanted[-1]) + 1
        pointers = self.reader.pointers(first, stop)
        begins, ends = pointers[wanted - first], pointers[wanted - first + 1]
        block = self.reader.select(begins, ends, between=(first, stop))
        return to_float32(block.toarray())[:, place][rows]


def stored_sparse(reader: SparseReader) -> Expression:
    """Describe a stored sparse matrix as an expression matrix.

    Parameters
    ----------
    reader
        The stored matrix, cells by genes.

    Returns
    -------
    Expression
        By cell or by gene, as it is stored.
    """
    return StoredByGene(reader) if reader.layout == "csc" else StoredByCell(reader)
