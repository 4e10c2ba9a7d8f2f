"""Dense expression matrices: of stored chunks only those that hold a gene are read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.readers.lazy_array import lazy_array
from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.source import ArrayReader, BlockRead, GeneGroup, GeneReads, MatrixBlocks
from cellucid_lazy.transforms.genes import gene_columns

if TYPE_CHECKING:
    import dask.array as da

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
    def stored_shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.shape

    @property
    def genes_together(self) -> int | None:
        """Width of a stripe; None where it holds all genes."""
        return self._stripe if self._stripe < self.shape[1] else None

    @property
    def _stripe(self) -> int:
        """Genes that are read together."""
        in_memory = isinstance(self.reader, MemoryArray)
        return min(MEMORY_GENES, self._chunk[1]) if in_memory else self._chunk[1]

    @property
    def _chunk(self) -> tuple[int, int]:
        """Rows and genes of a stored chunk."""
        rows, width = self.reader.chunks or (1, self.shape[1])
        return max(1, rows), max(1, width)

    def _rows(self, values: int, width: int) -> int:
        """Rows of a block so wide that holds about so many values: all, or whole chunks."""
        n_cells, chunk_rows = max(1, self.shape[0]), self._chunk[0]
        rows = values // width
        if rows >= n_cells:
            return n_cells
        return min(max(rows // chunk_rows, 1) * chunk_rows, n_cells)

    def columns(self, genes: Sequence[int]) -> da.Array:
        """Lazy (n_cells, len(genes)) float32 columns; reads the chunks that hold them."""
        width = self._chunk[1]
        chunks = (self._rows(BLOCK_VALUES, width), width)
        return gene_columns(lazy_array(self.reader, chunks=chunks), genes)

    def blocks(self, stored_values: int) -> MatrixBlocks:
        """Blocks of about ``stored_values``: whole rows where chunks are low enough for that."""
        width = self._chunk[1]
        rows = self._rows(stored_values, max(1, self.shape[1]))
        width *= max(1, stored_values // (rows * width))
        return MatrixBlocks(lazy_array(self.reader, chunks=(rows, width)))

    def gene_reads(
        self, genes: NDArray[np.intp], *, block_values: int, most_genes: int
    ) -> GeneReads:
        """A group for each run of the stripes that hold one of the genes.

        A block has all rows where it can, for then it is all there is of its genes.
        """
        del most_genes  # a block may hold them all
        rows = self._rows(block_values, self._stripe)
        most = max(1, block_values // (rows * self._stripe))
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
        width, n_genes = self._stripe, self.shape[1]
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
