"""The description of a dataset, independent of its storage.

A `Source` holds metadata, and functions that build lazy arrays when they are called, so opening
an atlas costs nothing per column or per gene. Everything here pickles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple, Protocol

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from cellucid_lazy.errors import CellucidLazyError, DataError, format_count, missing_key
from cellucid_lazy.show import as_html, format_names, format_shape

ColumnKind = Literal["continuous", "category"]
Layout = Literal["csr", "csc", "dense"]


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of the blocks that arrays are cut into; results do not depend on them.

    The ranges of rows over which sums run are not among them, because sums depend on those.

    Attributes
    ----------
    array_bytes
        Bytes of a block of an obs column or an obsm array.
    matrix_values
        Stored values of a block of a lazy matrix.
    min_gene_values, max_gene_values
        Bounds of the stored values of a block that is transposed. More are taken where there would
        be too many blocks.
    """

    array_bytes: int = 4 * 2**20
    matrix_values: int = 2**20
    min_gene_values: int = 2**14
    max_gene_values: int = 2 * 2**20


DEFAULT_SIZES = BlockSizes()


class ArrayReader(Protocol):
    """One stored array, whose metadata are known and whose values are read inside tasks.

    Readers hold paths and keys, never open files, so they pickle and work in any process.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that ``read`` returns; object for text."""

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Stored chunk shape; None where the storage has no chunks."""

    @property
    def token(self) -> str:
        """Name of the content; it changes when the file does."""

    def read(self, *selection: slice) -> NDArray[Any]:
        """Read one contiguous slice per dimension; trailing dimensions left out are read whole."""


@dataclass(frozen=True)
class ObsmArray:
    """An array with a row per cell, such as an embedding.

    Attributes
    ----------
    shape
        ``(n_cells,)`` or ``(n_cells, width)``.
    dtype
        Type of the stored values.
    build
        ``build(sizes, again=False)`` makes the lazy array, chunked along cells only. With
        ``again=True`` its tasks have other names, so that a second pass reads anew.
    is_normalized
        Whether it is in the viewer's coordinates already, and must not be centred or scaled.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    build: Callable[..., da.Array]
    is_normalized: bool = False

    def array(self, sizes: BlockSizes = DEFAULT_SIZES, *, again: bool = False) -> da.Array:
        """Make the lazy array, chunked along cells only."""
        return self.build(sizes, again=again)

    @property
    def n_bytes(self) -> int:
        """Size of all values in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class ObsColumn:
    """A column of obs.

    Attributes
    ----------
    name
        The column's key.
    kind
        ``"continuous"`` or ``"category"``.
    build
        ``build(sizes)`` makes the lazy array (n_cells,): numbers for a continuous column; integer
        codes with -1 for missing where ``read_labels`` is given; else the labels themselves.
    read_labels
        Reads the category labels in category order; None where they must be found in the values.
    max_categories
        Upper bound of the number of categories; None where metadata gives none.
    drop_unused
        Drop unused categories, as AnnData views do.
    read_colors
        Reads the colours of the labels, in the order of these; None where none are stored.
    outliers
        ``outliers(sizes)`` makes the lazy outlier quantiles, where they come with the column.
    """

    name: str
    kind: ColumnKind
    build: Callable[[BlockSizes], da.Array]
    read_labels: Callable[[], Sequence[object]] | None = None
    max_categories: int | None = None
    drop_unused: bool = False
    read_colors: Callable[[], Sequence[str]] | None = None
    outliers: Callable[[BlockSizes], da.Array] | None = None

    def array(self, sizes: BlockSizes = DEFAULT_SIZES) -> da.Array:
        """Make the lazy array (n_cells,)."""
        return self.build(sizes)


class Block(NamedTuple):
    """A rectangle of a matrix that one task reads.

    Attributes
    ----------
    cells, genes
        First and past-the-last cell and gene.
    pointers
        For a sparse matrix that is cut at borders of stored chunks: int64, where each of the
        block's cells (CSR) or genes (CSC) begins among the stored values, and where the last one
        ends. The first and the last may be cut short, with the rest in the neighbouring blocks.
        None: the rectangle is read whole.
    """

    cells: tuple[int, int]
    genes: tuple[int, int]
    pointers: NDArray[np.int64] | None = None


class Matrix(Protocol):
    """A matrix of cells by genes, as it is stored. It pickles."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that ``read_block`` returns."""

    @property
    def layout(self) -> Layout:
        """How it is stored: by cell, by gene, or dense."""

    @property
    def n_stored(self) -> int:
        """Number of stored values: nonzeros, or cells times genes when dense."""

    @property
    def genes_per_chunk(self) -> int | None:
        """Genes per stored chunk; None if every read touches all genes."""

    @property
    def token(self) -> str:
        """Name of the content; it changes when the file does."""

    def whole_blocks(self, values: int) -> list[Block]:
        """Cut into a grid of whole rectangles of about `values` stored values.

        CSR is cut into runs of cells, CSC of genes, dense into both. From metadata only. In the
        order of cells, then of genes.
        """

    def chunk_blocks(self, values: int, genes: NDArray[np.intp]) -> list[Block]:
        """Cut into blocks of about `values` at borders of stored chunks, so none is read twice.

        Blocks that hold none of `genes` (positions, rising) are left out. In the order of genes for
        CSC and dense, of cells within them. May read where cells or genes begin.
        """

    def read_block(self, block: Block, genes: NDArray[np.intp] | None = None) -> Any:
        """Read a block: SciPy CSR or CSC, or a NumPy array, of cells by genes, checked.

        Where `genes` (positions, rising) are given, the values of others may be left out.
        """


@dataclass(frozen=True, eq=False)
class DaskMatrix:
    """A matrix that is given as a dask array, with sparse or dense blocks.

    Attributes
    ----------
    array
        Cells by genes.
    """

    array: da.Array

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        return int(self.array.shape[0]), int(self.array.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def layout(self) -> Layout:
        """Layout of the blocks."""
        layout: Layout = getattr(self.array._meta, "format", "dense")
        return layout if layout in ("csr", "csc") else "dense"

    @property
    def n_stored(self) -> int:
        """Number of values, counted as if dense: nothing else is known."""
        return self.shape[0] * self.shape[1]

    @property
    def genes_per_chunk(self) -> int | None:
        """Width of the widest block, where blocks hold all cells of some genes."""
        rows, widths = self.array.chunks
        return int(max(widths)) if len(rows) == 1 and len(widths) > 1 else None

    @property
    def token(self) -> str:
        """Name of the array."""
        return str(self.array.name)

    def whole_blocks(self, values: int) -> list[Block]:
        """List the array's blocks."""
        del values
        rows, columns = (_spans(chunks) for chunks in self.array.chunks)
        return [Block(cells, genes) for cells in rows for genes in columns]

    def chunk_blocks(self, values: int, genes: NDArray[np.intp]) -> list[Block]:
        """List the array's blocks that hold one of the genes, by genes, then by cells."""
        blocks = sorted(self.whole_blocks(values), key=lambda block: block.genes)
        return [
            block
            for block in blocks
            if np.searchsorted(genes, block.genes[0]) < np.searchsorted(genes, block.genes[1])
        ]

    def read_block(self, block: Block, genes: NDArray[np.intp] | None = None) -> Any:
        """Compute a block."""
        del genes
        return self.array[slice(*block.cells), slice(*block.genes)].compute()


def _spans(chunks: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(accumulate(chunks, initial=0)))


@dataclass(frozen=True, eq=False)
class ExpressionMatrix:
    """The expression matrix of a dataset: a matrix, or chosen cells and genes of one.

    Attributes
    ----------
    matrix
        As it is stored.
    cells, genes
        Positions of the dataset's cells and genes in it, in order; None for all.
    """

    matrix: Matrix
    cells: NDArray[np.intp] | None = None
    genes: NDArray[np.intp] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes of the dataset."""
        n_cells, n_genes = self.matrix.shape
        return (
            n_cells if self.cells is None else len(self.cells),
            n_genes if self.genes is None else len(self.genes),
        )

    @property
    def layout(self) -> Layout:
        """How the matrix is stored."""
        return self.matrix.layout

    @cached_property
    def token(self) -> str:
        """Name of the content."""
        return str(tokenize(self.matrix.token, self.cells, self.genes))


@dataclass(frozen=True, eq=False)
class NeighbourGraph:
    """The neighbour graph of the cells.

    Attributes
    ----------
    matrix
        Cells by cells; CSR or dense. The transpose has the same edges, so one stored by column is
        described as its transpose.
    row_to_cell
        Cell of each row of the matrix, -1 for none; None when they are the same.
    edges
        Lazy edges (n_edges, 2) in place of a matrix, in any order; `row_to_cell` then maps their
        cells.
    """

    matrix: Matrix | None
    row_to_cell: NDArray[np.int64] | None = None
    edges: da.Array | None = None

    @property
    def layout(self) -> str:
        """How it is stored."""
        return "edges" if self.matrix is None else self.matrix.layout


@dataclass(frozen=True)
class Source:
    """An opened dataset: names, shapes and kinds are known, arrays are built on demand.

    Attributes
    ----------
    name
        What messages call the dataset: its path, ``"AnnData in memory"``, or ``"AnnData from
        read_lazy"`` if its path is unknown.
    storage
        Name of the storage: ``"h5ad"``, ``"zarr"``, ``"memory"``, or ``"lazy"`` if an
        AnnData from `read_lazy` does not have it.
    path
        Absolute path or URL; None for data in memory.
    is_backed
        Whether the AnnData given was a backed one.
    n_cells, n_genes
        Size of the dataset.
    obs
        Columns of obs by key, in order.
    obsm
        Arrays per cell by key, in order.
    expression
        The expression matrix, or None.
    connectivities
        The neighbour graph, or None.
    var_keys
        Columns of var.
    var_name
        Where these are stored: ``"var"``, or ``"raw/var"`` where raw serves as expression.
    cell_names
        ``cell_names(sizes)`` makes the lazy names of the cells, text (n_cells,).
    read_gene_ids
        ``read_gene_ids("index")``, or with a column of var: the n_genes identifiers.
    left_out
        One sentence for each thing that could not be used.
    matrices
        Shape of each stored matrix that could serve as expression: ``"X"``, ``"layers/<key>"``,
        ``"raw/X"``.
    read_raw_gene_ids
        As `read_gene_ids`, of raw; None where there is no raw, or it serves as expression.
    checksum
        Checksum or codec that detects damage in the stored expression matrix, such as ``"gzip"``;
        "" if there is none, None where that is unknown.
    latent_key
        obsm key of the latent space of outlier quantiles that come with their columns.
    """

    name: str
    storage: str
    path: str | None
    is_backed: bool
    n_cells: int
    n_genes: int
    obs: Mapping[str, ObsColumn]
    obsm: Mapping[str, ObsmArray]
    expression: ExpressionMatrix | None
    connectivities: NeighbourGraph | None
    var_keys: tuple[str, ...]
    cell_names: Callable[[BlockSizes], da.Array]
    read_gene_ids: Callable[[str], list[str]]
    left_out: tuple[str, ...] = ()
    var_name: str = "var"
    matrices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    read_raw_gene_ids: Callable[[str], list[str]] | None = None
    checksum: str | None = None
    latent_key: str | None = None

    def missing(self, noun: str, key: object, available: Iterable[str]) -> CellucidLazyError:
        """Build the error for a key that is not there, or was left out.

        Parameters
        ----------
        noun
            What was looked up: ``"obs column"``, ``"obsm"``.
        key
            The key asked for.
        available
            The keys that can be used.

        Returns
        -------
        CellucidLazyError
            DataError with the reason where the key was left out, else MissingKeyError.
        """
        return self.left_out_error(noun, key) or missing_key(noun, key, available, where=self.name)

    def left_out_error(self, noun: str, key: object) -> DataError | None:
        """Build the error for a key that was left out, with the reason; None if it was not."""
        start = f"{noun} {key!r} is left out"
        reasons = (sentence for sentence in self.left_out if sentence.startswith(start))
        return next((DataError(f"{self.name}: {reason}") for reason in reasons), None)

    def __repr__(self) -> str:
        layout = self.expression.layout if self.expression else "none"
        return (
            f"Source({self.name!r}: {format_count(self.n_cells, 'cell')} x "
            f"{format_count(self.n_genes, 'gene')}, expression {layout}, "
            f"{format_count(len(self.obs), 'obs column')}, obsm {list(self.obsm)}, "
            f"connectivities {'yes' if self.connectivities else 'no'})"
        )

    def _repr_html_(self) -> str:
        expression, graph = self.expression, self.connectivities
        arrays = [f"{key} {format_shape(array.shape)}" for key, array in self.obsm.items()]
        matrices = [f"{key} {format_shape(shape)}" for key, shape in self.matrices.items()]
        rows = [
            ("storage", self.storage),
            ("cells", f"{self.n_cells:,}"),
            ("genes", f"{self.n_genes:,}"),
            ("expression", expression.layout if expression else "none"),
            ("matrices", format_names(matrices)),
            (format_count(len(self.obs), "obs column"), format_names(tuple(self.obs))),
            ("obsm", format_names(arrays)),
            ("neighbour graph", graph.layout if graph else "none"),
            *(("left out", sentence) for sentence in self.left_out),
        ]
        return as_html(f"Source {self.name}", rows)
