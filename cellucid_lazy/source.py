"""Source: the lazy view of a dataset that everything above may ask. No format is known here.

A source answers from metadata at once. Its arrays are built by calling a function, so that opening
an atlas costs nothing per column, per embedding or per gene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from cellucid_lazy.wording import counted

if TYPE_CHECKING:
    import dask.array as da

ColumnKind = Literal["continuous", "category"]


class ArrayReader(Protocol):
    """One stored array: its metadata at hand, its values read inside tasks.

    Readers carry absolute paths and keys, never handles, so they pickle and work in any process.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that ``read`` returns."""

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Stored chunk shape, or None where the storage has none."""

    @property
    def token(self) -> str:
        """Name of the content: changes when the file does."""

    def read(self, *selection: slice) -> np.ndarray[Any, Any]:
        """Read one contiguous slice per dimension; dimensions left out are read whole."""


class PartsReader(ArrayReader, Protocol):
    """A stored array of numbers, which can be taken a part at a time where it has one dimension."""

    def parts(self, start: int, stop: int) -> Iterator[np.ndarray[Any, Any]]:
        """Read a stretch of a 1-D array: successive values as they are decoded, in any lengths.

        Parts are not to be written to, and all of them are to be taken.
        """


@dataclass(frozen=True)
class Element:
    """A 1-D or 2-D array with a row per cell: its facts, and the function that builds it.

    Attributes
    ----------
    shape
        ``(n_cells,)`` or ``(n_cells, width)``.
    dtype
        Type of the stored values.
    array
        ``array()`` builds the lazy array, chunked along cells only. ``array(again=True)`` builds
        it under other task names, for a second pass that shall not hold the first one's blocks.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: Callable[..., da.Array]


@dataclass(frozen=True)
class Column:
    """A column of obs.

    Attributes
    ----------
    name
        The column's key.
    kind
        ``"continuous"`` or ``"category"``.
    values
        Builds the lazy array of n_cells values: numbers for a continuous column; integer codes
        with -1 for missing where ``labels`` is given; otherwise the labels themselves.
    labels
        Reads the category labels in category order, or None where only the values tell them.
    at_most
        Upper bound of the number of categories, where metadata tells one.
    only_used
        Whether labels that no cell has do not count, as in anndata's views.
    """

    name: str
    kind: ColumnKind
    values: Callable[[], da.Array]
    labels: Callable[[], Sequence[object]] | None = None
    at_most: int | None = None
    only_used: bool = False


class Expression(Protocol):
    """The expression matrix, cells by genes, in whatever layout it is stored."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""

    @property
    def stored_shape(self) -> tuple[int, int]:
        """The same of the matrix as it is stored, of which this may be a subset."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""

    @property
    def layout(self) -> Literal["csr", "csc", "dense"]:
        """How the values are stored: by cell, by gene, or all of them."""

    @property
    def n_stored(self) -> int:
        """Number of stored values (nonzeros, or cells x genes when dense), all that are stored."""

    @property
    def genes_together(self) -> int | None:
        """Genes that reading one of them reads; None where that is all of them."""

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns, one pass over the matrix."""

    def blocks(self, stored_values: int) -> MatrixBlocks:
        """Lazy blocks of about ``stored_values``; reads nothing."""

    def gene_reads(
        self, genes: np.ndarray[Any, Any], *, block_values: int, most_genes: int
    ) -> GeneReads:
        """How to read genes for all cells, each stored chunk once.

        Blocks are of about ``block_values`` and equal, which may take a look at where rows begin;
        where genes are read apart from each other, at most ``most_genes`` share a block.
        """


@dataclass(frozen=True)
class MatrixBlocks:
    """A matrix as lazy blocks.

    Attributes
    ----------
    blocks
        2-D lazy array whose blocks are CSR, CSC or dense.
    cells, genes
        Positions of the dataset's cells and genes in ``blocks``; None when they are the same.
    """

    blocks: da.Array
    cells: np.ndarray[Any, Any] | None = None
    genes: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True)
class BlockRead:
    """A block of cells that is read within a task.

    Attributes
    ----------
    first_row
        Number of its first cell.
    read
        ``read(*inputs)`` gives the block, (cells, genes), CSR, CSC or dense.
    inputs
        What other tasks make for it: keys of a graph, or lists of keys.
    """

    first_row: int
    read: Callable[..., Any]
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class GeneGroup:
    """Genes that are read together.

    Attributes
    ----------
    wanted
        Their places among the genes asked for, rising.
    columns
        The column of each in the blocks; None when they are the blocks' columns in order.
    blocks
        All cells, in order.
    """

    wanted: np.ndarray[Any, Any]
    columns: np.ndarray[Any, Any] | None
    blocks: Sequence[BlockRead]


@dataclass(frozen=True)
class GeneReads:
    """How genes are read.

    Attributes
    ----------
    groups
        Each gene asked for is in one of them.
    graph
        The tasks that the blocks' inputs name.
    cells
        Positions of the dataset's cells among the rows of the blocks; None when they are the same.
    """

    groups: Sequence[GeneGroup]
    graph: Mapping[Any, Any]
    cells: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True)
class Connectivities:
    """The neighbour graph as stored.

    Attributes
    ----------
    shape
        Shape of the stored matrix.
    blocks
        Builds the row-blocked lazy matrix.
    n_stored
        Number of stored values.
    position
        Maps a stored row or column to its cell, -1 for none; None when they are the same.
    """

    shape: tuple[int, int]
    blocks: Callable[[], da.Array]
    n_stored: int
    position: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True)
class Source:
    """A dataset, opened: names, shapes and kinds at hand, arrays on demand.

    Attributes
    ----------
    name
        What messages call the dataset: its path, or ``"AnnData in memory"``.
    storage
        ``"h5ad"``, ``"zarr"`` or ``"memory"``.
    path
        Absolute path or URL, or None for data in memory.
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
    read_gene_ids
        ``read_gene_ids("index")``, or with a column of var: the n_genes identifiers.
    left_out
        One sentence for each thing that could not be used.
    """

    name: str
    storage: Literal["h5ad", "zarr", "memory"]
    path: str | None
    is_backed: bool
    n_cells: int
    n_genes: int
    obs: Mapping[str, Column]
    obsm: Mapping[str, Element]
    expression: Expression | None
    connectivities: Connectivities | None
    var_keys: tuple[str, ...]
    read_gene_ids: Callable[[str], list[str]]
    left_out: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        layout = self.expression.layout if self.expression else "none"
        return (
            f"Source({self.name!r}: {counted(self.n_cells, 'cell')} x "
            f"{counted(self.n_genes, 'gene')}, expression {layout}, "
            f"{counted(len(self.obs), 'obs column')}, obsm {list(self.obsm)}, "
            f"connectivities {'yes' if self.connectivities else 'no'})"
        )
