"""Expression matrices that are lazy already, and subsets of any expression matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.source import (
    BlockRead,
    Expression,
    GeneGroup,
    GeneReads,
    MatrixBlocks,
)
from cellucid_lazy.transforms.genes import by_chunk, gene_columns

Layout = Literal["csr", "csc", "dense"]


@dataclass(frozen=True, eq=False)
class LazyExpression:
    """A matrix that is lazy already: genes are picked from its blocks.

    Attributes
    ----------
    matrix
        Cells by genes.
    layout
        Of its blocks.
    n_stored
        Number of stored values.
    """

    matrix: da.Array
    layout: Layout
    n_stored: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return int(self.matrix.shape[0]), int(self.matrix.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        dtype: np.dtype[Any] = self.matrix.dtype
        return dtype

    @property
    def genes_together(self) -> int | None:
        """Width of the widest block, where blocks hold all cells of some genes."""
        rows, widths = self.matrix.chunks
        return int(max(widths)) if len(rows) == 1 and len(widths) > 1 else None

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.shape

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns."""
        return gene_columns(self.matrix, genes)

    def blocks(self, stored_values: int) -> MatrixBlocks:
        """The blocks as they are, dense ones joined to about ``stored_values``."""
        if self.layout != "dense":
            return MatrixBlocks(self.matrix)
        most = stored_values // max(1, *self.matrix.chunks[0])
        widths = _joined(self.matrix.chunks[1], max(most, 1))
        return MatrixBlocks(self.matrix.rechunk({1: widths}))

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
    return LazyExpression(matrix, layout, n_stored or int(matrix.shape[0]) * int(matrix.shape[1]))


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
    def genes_together(self) -> int | None:
        """Genes of the whole that reading one of them reads."""
        return self.base.genes_together

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Cells and genes of the whole."""
        return self.base.stored_shape

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
