"""Stored matrices, sparse and dense, cut into blocks; and arrays in memory.

What is read is checked before it is used: a wrong index would move values to other cells, or crash.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import lcm
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.engine.resources import memory_budget
from cellucid_lazy.errors import DataError, format_size
from cellucid_lazy.source import ArrayReader, Block, Layout

# Bytes that may be read at once, whatever the budget.
_ALWAYS_FITS = 2**26
# Indices that are searched together: as many as stay in a processor's cache.
_CACHED_INDICES = 2**16
# Genes that are read together from an array in memory: a cache line of float32.
_MEMORY_GENES = 16


def check_fits(n_bytes: int, name: str, what: str) -> None:
    """Raise a DataError if what is read as a whole exceeds the memory budget.

    Parameters
    ----------
    n_bytes
        Its size in memory.
    name
        The file and the key.
    what
        What it is, such as ``"a row"``.

    Raises
    ------
    DataError
        When it takes more than the budget.
    """
    if n_bytes > _ALWAYS_FITS and n_bytes > memory_budget():
        raise DataError(
            f"{name}: {what} takes {format_size(n_bytes)}, but the memory budget is "
            f"{format_size(memory_budget())}; if that is no mistake, set dask's configuration "
            "cellucid_lazy.memory-budget"
        )


def cut(length: int, step: int) -> list[tuple[int, int]]:
    """Cut a length into spans of `step`, the last one shorter; one empty span for length 0."""
    return list(pairwise([*range(0, max(1, length), step), length]))


@dataclass(frozen=True, eq=False)
class MemoryArray:
    """An array in memory. Its values are part of the graph: there is no file to read from.

    Attributes
    ----------
    values
        The array.
    token
        Name of the content, unique for one opened dataset.
    """

    values: NDArray[Any]
    token: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        shape: tuple[int, ...] = self.values.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, in native byte order."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype.newbyteorder("=")

    @property
    def chunks(self) -> None:
        """Memory has no chunks."""
        return

    def read(self, *selection: slice) -> NDArray[Any]:
        """Take one slice per dimension, without a copy where the byte order is native."""
        return self.values[selection].astype(self.dtype, copy=False)


@dataclass(frozen=True, eq=False)
class DenseMatrix:
    """A stored dense matrix.

    Attributes
    ----------
    reader
        The matrix, cells by genes.
    """

    reader: ArrayReader

    layout: ClassVar[Layout] = "dense"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        n_cells, n_genes = self.reader.shape
        return n_cells, n_genes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.reader.dtype

    @property
    def n_stored(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    @property
    def genes_per_chunk(self) -> int | None:
        """Genes per stored chunk; None if a chunk has all genes."""
        return self._chunk[1] if self._chunk[1] < self.shape[1] else None

    @property
    def token(self) -> str:
        """Name of the content."""
        return self.reader.token

    def whole_blocks(self, values: int) -> list[Block]:
        """Cut into rectangles of whole stored chunks, with all cells where `values` allows that."""
        rows, width = self._block_shape(values)
        return [
            Block(cells, genes)
            for cells in cut(self.shape[0], rows)
            for genes in cut(self.shape[1], width)
        ]

    def chunk_blocks(self, values: int, genes: NDArray[np.intp]) -> list[Block]:
        """Cut the stored chunks that hold one of the genes into rectangles of whole chunks."""
        rows, width = self._block_shape(values)
        stripe = self._chunk[1]
        stripes = np.unique(np.asarray(genes) // stripe)
        neighbours = np.split(stripes, np.flatnonzero(np.diff(stripes) > 1) + 1)
        step = width // stripe
        runs = [run[at : at + step] for run in neighbours for at in range(0, len(run), step)]
        return [
            Block(cells, (int(run[0]) * stripe, min((int(run[-1]) + 1) * stripe, self.shape[1])))
            for run in runs
            for cells in cut(self.shape[0], rows)
        ]

    def read_block(self, block: Block, genes: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """Read a rectangle, with all of its genes."""
        del genes
        return self.reader.read(slice(*block.cells), slice(*block.genes))

    @property
    def _chunk(self) -> tuple[int, int]:
        """Cells and genes of a stored chunk."""
        width = _MEMORY_GENES if isinstance(self.reader, MemoryArray) else self.shape[1]
        rows, width = self.reader.chunks or (1, width)
        return max(1, rows), max(1, min(width, self.shape[1]))

    def _block_shape(self, values: int) -> tuple[int, int]:
        """Return the number of cells and of genes in a block: all cells, if `values` allows it."""
        n_cells, (chunk_rows, stripe) = max(1, self.shape[0]), self._chunk
        rows = min(values // stripe, n_cells)
        if rows < n_cells:
            rows = min(max(rows // chunk_rows, 1) * chunk_rows, n_cells)
        return rows, max(1, values // (rows * stripe)) * stripe


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A stored CSR or CSC matrix.

    Its major axis is the one it is stored by: cells for CSR, genes for CSC.

    Attributes
    ----------
    layout
        ``"csr"`` or ``"csc"``.
    shape
        Number of cells and of genes.
    data, indices, indptr
        Readers of the three arrays.
    name
        What messages call it: the file and the key.
    """

    layout: Literal["csr", "csc"]
    shape: tuple[int, int]
    data: ArrayReader
    indices: ArrayReader
    indptr: ArrayReader
    name: str

    def __post_init__(self) -> None:
        if len(self.data.shape) != 1 or self.data.shape != self.indices.shape:
            found = {"data": self.data.shape, "indices": self.indices.shape}
            raise DataError(f"{self.name}: data and indices differ in shape: {found}")
        if self.indptr.shape != (self._n_major + 1,):
            raise DataError(
                f"{self.name}: indptr has shape {self.indptr.shape}, but a {self.layout} matrix "
                f"of shape {self.shape} needs ({self._n_major + 1},)"
            )
        for part, reader in (("indices", self.indices), ("indptr", self.indptr)):
            if reader.dtype.kind not in "iu":
                raise DataError(f"{self.name}: {part} holds {reader.dtype}, not ints")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that are read; SciPy has no float16, so that is widened."""
        stored = self.data.dtype
        return np.dtype(np.float32) if stored == np.float16 else stored

    @property
    def n_stored(self) -> int:
        """Number of stored values."""
        return int(self.data.shape[0])

    @property
    def genes_per_chunk(self) -> int | None:
        """One for CSC; None for CSR, where every read touches all genes."""
        return 1 if self.layout == "csc" else None

    @property
    def token(self) -> str:
        """Name of the content."""
        return f"{self.layout}-{self.data.token}-{self.indices.token}-{self.indptr.token}"

    def transpose(self) -> SparseMatrix:
        """Describe the transpose: a CSR matrix becomes CSC, and the other way round."""
        layout: Literal["csr", "csc"] = "csc" if self.layout == "csr" else "csr"
        return replace(self, layout=layout, shape=self.shape[::-1])

    def whole_blocks(self, values: int) -> list[Block]:
        """Cut the major axis into equal runs; one may hold more values than the mean."""
        n_major = self._n_major
        step = max(1, min(n_major, n_major * values // max(1, self.n_stored)))
        return [self._block(start, stop) for start, stop in cut(n_major, step)]

    def chunk_blocks(self, values: int, genes: NDArray[np.intp]) -> list[Block]:
        """Cut the stored values at borders of stored chunks; reads indptr.

        Parameters
        ----------
        values
            Stored values of a block; at least those of one stored chunk.
        genes
            Positions, rising. Of a CSC matrix only what they need is in a block.

        Returns
        -------
        list of Block
            Each stored value of CSR, or of the genes of CSC, is in one block; each cell of CSR is
            in at least one.

        Raises
        ------
        DataError
            When the matrix cannot be read, or indptr is inconsistent.
        """
        pointers = self._read_pointers(0, self._n_major)
        unit = self._cut_unit(values)
        step = max(1, values // unit) * unit
        by_cell = self.layout == "csr"
        spans = [(0, self.n_stored)] if by_cell else _spans_of_genes(pointers, genes, unit)
        blocks = []
        for first, last in spans:
            bounds = [first, *range(first // unit * unit + step, last, step), last]
            blocks += [self._block_of_values(pointers, *pair) for pair in pairwise(bounds)]
        return blocks

    def read_block(self, block: Block, genes: NDArray[np.intp] | None = None) -> Any:
        """Read a block.

        Parameters
        ----------
        block
            Any rectangle, or one that `chunk_blocks` made.
        genes
            Positions, rising. The values of other genes are left out of CSR.

        Returns
        -------
        scipy.sparse.csr_matrix or csc_matrix
            Of `dtype`; indices as they are stored, sorted or not.

        Raises
        ------
        DataError
            When it cannot be read, or holds indices beyond the other axis.
        """
        by_cell = self.layout == "csr"
        major, minor = (block.cells, block.genes) if by_cell else (block.genes, block.cells)
        pointers = block.pointers
        if pointers is None:
            pointers = self._read_pointers(*major)
        stored = slice(int(pointers[0]), int(pointers[-1]))
        indices = self.indices.read(stored)
        self._check_indices(indices, *major)
        if genes is None or not by_cell:
            data = self.data.read(stored)
        else:
            kept = self._find(indices, genes)
            data = self._read_values(stored, kept)
            indices, pointers = indices[kept], np.searchsorted(kept, pointers - pointers[0])
        data = data.astype(self.dtype, copy=False)
        n_major, n_minor = major[1] - major[0], self._n_minor
        index_dtype = np.int32 if max(len(data), n_major, n_minor) < 2**31 else np.int64
        indices = indices.astype(index_dtype, copy=False)
        pointers = (pointers - pointers[0]).astype(index_dtype)
        matrix = sparse.csr_matrix((data, indices, pointers), shape=(n_major, n_minor), copy=False)
        if minor != (0, n_minor):
            matrix = matrix[:, slice(*minor)]
        return matrix if by_cell else matrix.T

    def _find(self, indices: NDArray[Any], genes: NDArray[np.intp]) -> NDArray[np.intp]:
        """Find the positions of indices that are among the genes."""
        wanted = np.zeros(self.shape[1], dtype=np.bool_)
        wanted[genes] = True
        # In parts, since NumPy converts the indices to a wider type.
        found = [
            start + np.flatnonzero(wanted.take(indices[start:stop]))
            for start, stop in cut(len(indices), _CACHED_INDICES)
        ]
        return np.concatenate(found)

    def _read_values(self, stored: slice, kept: NDArray[np.intp]) -> NDArray[Any]:
        """Read some of the stored values, and those between them."""
        if not len(kept):
            return np.empty(0, self.data.dtype)
        first, last = int(kept[0]), int(kept[-1])
        values = self.data.read(slice(stored.start + first, stored.start + last + 1))
        return values[kept - first]

    @property
    def _n_minor(self) -> int:
        return self.shape[1 if self.layout == "csr" else 0]

    @property
    def _n_major(self) -> int:
        return self.shape[0 if self.layout == "csr" else 1]

    def _block(self, start: int, stop: int, pointers: NDArray[np.int64] | None = None) -> Block:
        if self.layout == "csr":
            return Block((start, stop), (0, self.shape[1]), pointers)
        return Block((0, self.shape[0]), (start, stop), pointers)

    def _block_of_values(self, pointers: NDArray[np.int64], first: int, last: int) -> Block:
        """Make the block that holds the stored values from `first` until `last`."""
        start, stop = (int(position) for position in np.searchsorted(pointers, (first, last)))
        if pointers[start] > first:
            start -= 1  # `first` is within the row or column before
        if last == self.n_stored:
            stop = self._n_major  # with the empty ones at the end
        return self._block(start, stop, np.clip(pointers[start : stop + 1], first, last))

    def _cut_unit(self, values: int) -> int:
        """Return the number of stored values at whose multiples blocks may begin and end.

        If the chunks of data and indices differ in length, blocks end where chunks of both do. If
        that is too rare, some chunks are read by two blocks.
        """
        chunks = [one.chunks[0] for one in (self.data, self.indices) if one.chunks] or [1]
        units = (lcm(*chunks), max(chunks))
        return next((unit for unit in units if unit <= values), min(chunks))

    def _read_pointers(self, start: int, stop: int) -> NDArray[np.int64]:
        """Read where rows (CSR) or columns (CSC) begin among the stored values, checked."""
        pointers = self.indptr.read(slice(start, stop + 1)).astype(np.int64, copy=False)
        consistent = (
            bool((pointers[1:] >= pointers[:-1]).all())
            and (start > 0 or pointers[0] == 0)
            and (stop < self._n_major or pointers[-1] == self.n_stored)
            and 0 <= pointers[0] <= pointers[-1] <= self.n_stored
        )
        if not consistent:
            raise DataError(
                f"{self.name}: indptr is inconsistent between positions {start:,} and {stop:,} "
                f"(it must rise from 0 to the {self.n_stored:,} stored values); the matrix is "
                "corrupted, write the file again"
            )
        longest = int(np.diff(pointers).max(initial=0))
        n_bytes = longest * (self.dtype.itemsize + self.indices.dtype.itemsize)
        one = "a row" if self.layout == "csr" else "a column"
        check_fits(n_bytes, f"{self.name}: indptr", one)
        return pointers

    def _check_indices(self, indices: NDArray[Any], start: int, stop: int) -> None:
        if not len(indices):
            return
        low, high = int(indices.min()), int(indices.max())
        n_minor = self._n_minor
        if low < 0 or high >= n_minor:
            raise DataError(
                f"{self.name}: between positions {start:,} and {stop:,} indices reach from {low} "
                f"to {high}, but the other axis has {n_minor:,}; the matrix is corrupted, write "
                "the file again"
            )


def _spans_of_genes(
    pointers: NDArray[np.int64], genes: NDArray[np.intp], unit: int
) -> list[tuple[int, int]]:
    """Find where genes are stored; those in the same chunk, or in neighbours, make one span."""
    genes = genes[pointers[genes + 1] > pointers[genes]]
    first_chunks, last_chunks = pointers[genes] // unit, (pointers[genes + 1] - 1) // unit
    apart = np.flatnonzero(first_chunks[1:] > last_chunks[:-1] + 1) + 1
    groups = [group for group in np.split(genes, apart) if len(group)]
    return [(int(pointers[group[0]]), int(pointers[group[-1] + 1])) for group in groups]
