"""Stored dense expression matrices: chunks are read whole, and only those that hold a gene."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.readers.lazy_array import lazy_array
from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.source import ArrayReader, BlockRead, GeneGroup, GeneReads, MatrixBlocks
from cellucid_lazy.transforms.genes import gene_columns

# Values of one block when nothing else decides.
BLOCK_VALUES = 2**20
# Genes that are taken together from an array in memory: a cache line of float32.
MEMORY_GENES = 16


@dataclass(frozen=True, eq=False)
class StoredDense:
    """A stored dense matrix.

    Attributes
    ----------
    reader
        The matrix, cells by genes.
    """

    reader: ArrayReader

    layout: ClassVar[Literal["dense"]] = "dense"

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        n_cells, n_genes = self.reader.shape
        return n_cells, n_genes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.reader.dtype

    @property
    def n_stored(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    @property
    def genes_together(self) -> int | None:
        """Width of a chunk; None where a chunk holds all genes."""
        width = self._chunks[1]
        return width if width < self.shape[1] else None

    @property
    def _chunks(self) -> tuple[int, int]:
        """What is read together: rows and genes."""
        if self.reader.chunks is not None:
            rows, width = self.reader.chunks
            return max(1, rows), max(1, width)
        every = max(1, self.shape[1])
        return 1, min(MEMORY_GENES, every) if isinstance(self.reader, MemoryArray) else every

    def _rows(self, values: int, width: int) -> int:
        """Rows of a block so wide that holds about so many values: whole chunks."""
        chunk_rows = self._chunks[0]
        rows = values // width // chunk_rows * chunk_rows
        return max(1, min(max(rows, chunk_rows), self.shape[0]))

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns; reads the chunks that hold them."""
        # Blocks of memory are views, and cost nothing but their number.
        width = self.shape[1] if self.reader.chunks is None else self._chunks[1]
        chunks = (self._rows(BLOCK_VALUES, max(1, width)), width)
        return gene_columns(lazy_array(self.reader, chunks=chunks), genes)

    def blocks(self, stored_values: int) -> MatrixBlocks:
        """Blocks of about ``stored_values``, of whole chunks."""
        rows, stripes = self._block(stored_values)
        return MatrixBlocks(lazy_array(self.reader, chunks=(rows, stripes * self._chunks[1])))

    def _block(self, values: int) -> tuple[int, int]:
        """Rows, and stripes of genes as wide as a chunk, of a block of about so many values.

        As many rows as there are, for then a block is all there is of its genes.
        """
        width = self._chunks[1]
        rows = self._rows(values, width)
        return rows, max(1, values // (rows * width))

    def gene_reads(
        self, genes: NDArray[np.intp], *, block_values: int, most_genes: int
    ) -> GeneReads:
        """A group for each run of the stripes that hold one of the genes."""
        del most_genes  # a block may hold them all
        rows, most = self._block(block_values)
        name = f"matrix-{uuid.uuid4().hex}"
        cuts = [*range(0, self.shape[0], rows), self.shape[0]]
        groups = []
        for wanted, columns, spans in self._runs(genes, most):
            reads = [
                BlockRead(cut[0], partial(_read, cut, spans), (name,)) for cut in pairwise(cuts)
            ]
            groups.append(GeneGroup(wanted, columns, reads))
        return GeneReads(groups, {name: self.reader})

    def _runs(
        self, genes: NDArray[np.intp], most: int
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp] | None, list[tuple[int, int]]]]:
        """Group genes by runs of at most so many stripes.

        Yields which genes these are, their columns in what is read, and what is read.
        """
        width, n_genes = self._chunks[1], self.shape[1]
        stripes, place = np.unique(genes // width, return_inverse=True)
        for begin in range(0, len(stripes), most):
            run = stripes[begin : begin + most]
            wanted = np.flatnonzero((place >= begin) & (place < begin + most))
            columns = (place[wanted] - begin) * width + genes[wanted] % width
            # Neighbouring stripes are read at once.
            parts = np.split(run, np.flatnonzero(np.diff(run) > 1) + 1)
            spans = [(int(p[0]) * width, min(int(p[-1] + 1) * width, n_genes)) for p in parts]
            n_read = sum(stop - start for start, stop in spans)
            as_they_are = len(columns) == n_read and bool((np.diff(columns) == 1).all())
            yield wanted, None if as_they_are else columns, spans


def _read(
    rows: tuple[int, int], spans: Sequence[tuple[int, int]], reader: ArrayReader
) -> NDArray[Any]:
    parts = [reader.read(slice(*rows), slice(*span)) for span in spans]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
