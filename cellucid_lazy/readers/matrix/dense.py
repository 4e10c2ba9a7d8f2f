"""Dense matrices, cut into rectangles of whole stored chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.readers.matrix import cut
from cellucid_lazy.readers.matrix.memory import MemoryArray
from cellucid_lazy.source import ArrayReader, Block, Layout

# Genes that are read together from an array in memory: a cache line of float32.
_MEMORY_GENES = 16


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
        """Cut the stored chunks that hold one of the genes into such rectangles."""
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
        """Choose cells and genes of a block: a block with all cells has its genes whole."""
        n_cells, (chunk_rows, stripe) = max(1, self.shape[0]), self._chunk
        rows = min(values // stripe, n_cells)
        if rows < n_cells:
            rows = min(max(rows // chunk_rows, 1) * chunk_rows, n_cells)
        return rows, max(1, values // (rows * stripe)) * stripe
