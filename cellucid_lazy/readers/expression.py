"""Expression matrices that are cut into blocks of a grid, and subsets of any expression matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.readers.lazy_array import lazy_array
from cellucid_lazy.source import (
    ArrayReader,
    BlockRead,
    Expression,
    GeneGroup,
    GeneReads,
    MatrixBlocks,
)
from cellucid_lazy.transforms.genes import by_chunk, gene_columns

# Values of one block when nothing else decides.
BLOCK_VALUES = 2**20

Layout = Literal["csr", "csc", "dense"]


@dataclass(frozen=True, eq=False)
class BlockedExpression:
    """A matrix whose genes are picked from lazy blocks.

    Attributes
    ----------
    build
        ``build(stored_values)`` gives the lazy matrix in blocks of about that many values.
    layout
        How it is stored.
    shape
        Cells and genes.
    dtype
        Type of the stored values.
    n_stored
        Number of stored values.
    """

    build: Callable[[int], da.Array]
    layout: Layout
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    n_stored: int

    by_gene = False

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns."""
        return gene_columns(self.build(BLOCK_VALUES), genes)

    def blocks(self, stored_values: int) -> MatrixBlocks:
        """Blocks of about ``stored_values``, of whole rows or, if dense, of chunked genes."""
        blocks = self.build(stored_values)
        widths: tuple[int, ...] = (blocks.shape[1],)
        if self.layout == "dense":
            most = stored_values // max(1, *blocks.chunks[0])
            widths = _joined(blocks.chunks[1], max(most, 1))
        return MatrixBlocks(blocks.rechunk({1: widths}))

    def gene_reads(
        self, genes: NDArray[np.intp], *, block_values: int, most_genes: int
    ) -> GeneReads:
        """A group for each column of blocks that holds one of the genes."""
        del most_genes  # the blocks decide
        (blocks,) = dask.optimize(self.blocks(block_values).blocks)
        groups = list(_column_groups(blocks, genes))
        return GeneReads(groups, dict(blocks.__dask_graph__()))


def _column_groups(blocks: da.Array, genes: NDArray[np.intp]) -> Iterator[GeneGroup]:
    first_rows = np.cumsum((0, *blocks.chunks[0][:-1])).tolist()
    for number, wanted, within in by_chunk(blocks.chunks[1], genes):
        reads = [
            BlockRead(row, _as_it_is, ((blocks.name, place, number),))
            for place, row in enumerate(first_rows)
        ]
        yield GeneGroup(wanted, within, reads)


def _as_it_is(block: Any) -> Any:
    return block


def _joined(chunks: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Join neighbouring chunks as long as they hold no more than ``most``."""
    joined = [0]
    for chunk in chunks:
        if joined[-1] and joined[-1] + chunk > most:
            joined.append(0)
        joined[-1] += chunk
    return tuple(joined)


def stored_dense(reader: ArrayReader) -> Expression:
    """Describe a stored dense matrix as an expression matrix.

    Blocks keep the stored chunks' columns where there are any, so that a gene reads only the
    chunks it lies in.

    Parameters
    ----------
    reader
        The stored matrix, cells by genes.

    Returns
    -------
    Expression
        Dense.
    """
    n_cells, n_genes = reader.shape
    chunk_rows, chunk_columns = reader.chunks or (1, n_genes)

    def build(stored_values: int) -> da.Array:
        rows = max(1, stored_values // max(1, n_genes)) // max(1, chunk_rows) * chunk_rows
        return lazy_array(reader, chunks=(max(rows, chunk_rows), chunk_columns))

    return BlockedExpression(build, "dense", (n_cells, n_genes), reader.dtype, n_cells * n_genes)


def dask_expression(matrix: da.Array, *, n_stored: int | None = None) -> Expression:
    """Describe a dask matrix of the user's, blocks sparse or dense.

    Parameters
    ----------
    matrix
        Cells by genes.
    n_stored
        Number of stored values, where known.

    Returns
    -------
    Expression
        Its layout follows the blocks' type.
    """
    layout: Layout = getattr(matrix._meta, "format", "dense")
    if layout not in ("csr", "csc"):
        layout = "dense"
    shape = (int(matrix.shape[0]), int(matrix.shape[1]))
    return BlockedExpression(
        lambda _values: matrix,
        layout,
        shape,
        matrix.dtype,
        n_stored or shape[0] * shape[1],
    )


@dataclass(frozen=True, eq=False)
class SubsetExpression:
    """Chosen cells and genes of another expression matrix, in their order.

    Attributes
    ----------
    base
        The whole matrix.
    cells, genes
        Positions in it; None for all.
    """

    base: Expression
    cells: NDArray[np.intp] | None
    genes: NDArray[np.intp] | None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes of the subset."""
        n_cells, n_genes = self.base.shape
        return (
            n_cells if self.cells is None else len(self.cells),
            n_genes if self.genes is None else len(self.genes),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.base.dtype

    @property
    def layout(self) -> Layout:
        """How the whole is stored."""
        return self.base.layout

    @property
    def n_stored(self) -> int:
        """Stored values of the whole: what a pass has to read."""
        return self.base.n_stored

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy columns of the subset."""
        wanted = genes if self.genes is None else [int(self.genes[gene]) for gene in genes]
        columns = self.base.columns(wanted)
        return columns if self.cells is None else columns[self.cells]

    @property
    def by_gene(self) -> bool:
        """Whether a gene can be read without the others."""
        return self.base.by_gene

    def blocks(self, stored_values: int) -> MatrixBlocks:
        """Blocks of the whole, and what of them belongs to the subset."""
        return MatrixBlocks(self.base.blocks(stored_values).blocks, self.cells, self.genes)

    def gene_reads(
        self, genes: NDArray[np.intp], *, block_values: int, most_genes: int
    ) -> GeneReads:
        """Genes of the whole: only the last step picks the cells, whatever their order."""
        wanted = genes if self.genes is None else self.genes[genes]
        whole = self.base.gene_reads(wanted, block_values=block_values, most_genes=most_genes)
        return replace(whole, cells=self.cells)
