"""Expression matrices: stored by cell, stored by gene, dense, or an array of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from cellucid_lazy.readers.lazy_array import lazy_array
from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.readers.sparse_array import SparseReader
from cellucid_lazy.readers.sparse_blocks import major_array, major_cut
from cellucid_lazy.source import ArrayReader, Expression, PieceSource
from cellucid_lazy.transforms.genes import gene_columns, to_float32

# Stored values of one block: 8 MB of float32 values and int32 indices.
BLOCK_VALUES = 2**20
# Bytes of one dense block of columns read from a matrix stored by gene.
DENSE_BYTES = 64 * 2**20

Layout = Literal["csr", "csc", "dense"]


@dataclass(frozen=True, eq=False)
class BlockedExpression:
    """A matrix that is best read in blocks along cells, genes picked from each.

    Attributes
    ----------
    build
        ``build(stored_values, balanced)`` gives the lazy matrix in blocks of about that many
        values; ``balanced`` allows to read where rows begin, to cut evenly.
    layout
        How it is stored.
    shape
        Cells and genes.
    dtype
        Type of the stored values.
    n_stored
        Number of stored values.
    """

    build: Callable[[int, bool], da.Array]
    layout: Layout
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    n_stored: int

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns."""
        return gene_columns(self.build(BLOCK_VALUES, False), genes)

    def pieces(self, stored_values: int, *, balanced: bool = False) -> PieceSource:
        """Blocks of about ``stored_values``, of whole rows or, if dense, of chunked genes."""
        blocks = self.build(stored_values, balanced)
        widths: tuple[int, ...] = (blocks.shape[1],)
        if self.layout == "dense":
            most = stored_values // max(1, *blocks.chunks[0])
            widths = _joined(blocks.chunks[1], max(most, 1))
        return PieceSource(blocks.rechunk({1: widths}), by="cells")


def _joined(chunks: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Join neighbouring chunks as long as they hold no more than ``most``."""
    joined = [0]
    for chunk in chunks:
        if joined[-1] and joined[-1] + chunk > most:
            joined.append(0)
        joined[-1] += chunk
    return tuple(joined)


@dataclass(frozen=True, eq=False)
class ColumnExpression:
    """A CSC matrix in storage: a gene is one slice."""

    reader: SparseReader
    layout: Layout = "csc"

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.reader.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.reader.dtype

    @property
    def n_stored(self) -> int:
        """Number of stored values."""
        return self.reader.n_stored

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns, each read as one slice."""
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

    def pieces(self, stored_values: int, *, balanced: bool = False) -> PieceSource:
        """Blocks of genes of about ``stored_values``."""
        cut = major_cut(self.reader, stored_values, balanced=balanced)
        return PieceSource(major_array(self.reader, cut), by="genes")


class GeneSlices:
    """Array-like of chosen genes of a CSC matrix; neighbours are read in one stretch."""

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, reader: SparseReader, genes: tuple[int, ...]) -> None:
        self.reader = reader
        self.genes = genes
        self.shape = (reader.shape[0], len(genes))

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.float32]:
        rows, columns = key
        wanted = self.genes[columns]
        out = np.empty((self.shape[0], len(wanted)), dtype=np.float32, order="F")
        for first, last in self._stretches(sorted(set(wanted))):
            block = self.reader.major(first, last + 1)
            for place, gene in enumerate(wanted):
                if first <= gene <= last:
                    out[:, place] = to_float32(block[:, [gene - first]].toarray())[:, 0]
        return out[rows]

    def _stretches(self, genes: list[int]) -> list[tuple[int, int]]:
        """Join genes whose values lie within a stored chunk of each other."""
        chunk = self.reader.data.chunks[0] if self.reader.data.chunks else 0
        stretches = [(genes[0], genes[0])] if genes else []
        for gene in genes[1:]:
            first, last = stretches[-1]
            near = gene - last <= 64 and self._gap(last, gene) < chunk
            if near or gene == last + 1:
                stretches[-1] = (first, gene)
            else:
                stretches.append((gene, gene))
        return stretches

    def _gap(self, last: int, gene: int) -> int:
        pointers = self.reader.pointers(last, gene + 1)
        return int(pointers[-2] - pointers[1])


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
    if reader.layout == "csc":
        return ColumnExpression(reader)

    def build(stored_values: int, balanced: bool) -> da.Array:
        return major_array(reader, major_cut(reader, stored_values, balanced=balanced))

    return BlockedExpression(build, "csr", reader.shape, reader.dtype, reader.n_stored)


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

    def build(stored_values: int, balanced: bool) -> da.Array:
        del balanced  # dense rows are equal
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
        lambda _values, _balanced: matrix,
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

    def pieces(self, stored_values: int, *, balanced: bool = False) -> PieceSource:
        """Pieces of the whole: only the last step picks the cells, whatever their order."""
        whole = self.base.pieces(stored_values, balanced=balanced)
        return PieceSource(whole.blocks, whole.by, self.cells, self.genes)
