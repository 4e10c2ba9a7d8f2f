"""A block of genes becomes files, and facts about each gene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.sinks.encode import Target, put_whole
from cellucid_lazy.sinks.sight import Sight, look_at_columns
from cellucid_lazy.transforms.gene_facts import column_facts, stored_facts
from cellucid_lazy.transforms.gene_major import GeneBlock
from cellucid_lazy.transforms.quantize import quantization_range, quantize_block
from cellucid_lazy.transforms.quantized_columns import quantize_columns


class Encoded(NamedTuple):
    """What a task gives back for a block of genes.

    Attributes
    ----------
    names
        The genes.
    facts
        float64 (3, n_genes): min, max, finite count, before quantization.
    files
        What the target gave for each: a size, or the bytes.
    """

    names: tuple[str, ...]
    facts: NDArray[np.float64]
    files: tuple[Any, ...]


@dataclass(frozen=True)
class Writer:
    """How a block of genes becomes files.

    Attributes
    ----------
    target
        Where files go.
    bits
        8, 16 or None.
    cells
        Positions of the dataset's cells among the rows read; None when they are the same.
    """

    target: Target
    bits: Any
    cells: NDArray[np.intp] | None

    def write(self, block: GeneBlock, files: Sequence[tuple[str, str]]) -> Encoded:
        """Encode every gene of a block; ``files`` holds name and path of each."""
        values, background, facts = self._encoded(block)
        sights = self._sights(values, block, background)
        column = np.zeros(block.n_cells, dtype=values.dtype)
        ground = background.dtype.type(0)
        done = []
        for place, (_, path) in enumerate(files):
            low, high = int(block.indptr[place]), int(block.indptr[place + 1])
            if self.cells is not None:
                shown, facts[:, place] = self._picked(block, low, high)
                done.append(put_whole(self.target, path, shown))
                continue
            if background[place] != ground:
                ground = background[place]
                column.fill(ground)
            # Converted here: NumPy would do it twice, and slower.
            cells = block.cells[low:high].astype(np.intp)
            column[cells] = values[low:high]
            done.append(put_whole(self.target, path, column, sights[place]))
            # Most of a column is its ground: this costs less than to fill it for each gene.
            column[cells] = ground
        return Encoded(tuple(name for name, _ in files), facts, tuple(done))

    def _sights(
        self, values: NDArray[Any], block: GeneBlock, background: NDArray[Any]
    ) -> list[Sight | None]:
        """Tell what the files will look like, where they are compressed and mostly zero."""
        if self.target.level is None or self.cells is not None:
            return [None] * len(background)
        sights = look_at_columns(values, block.cells, block.indptr, n_rows=block.n_cells)
        return [
            None if ground else sight
            for sight, ground in zip(sights, background.tolist(), strict=True)
        ]

    def _encoded(self, block: GeneBlock) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
        """Quantize stored values and the zeros between them, which is all a column holds."""
        facts = stored_facts(block.data, block.indptr, n_rows=block.n_cells)
        n_genes = facts.shape[1]
        if self.bits is None or self.cells is not None:
            return block.data, np.zeros(n_genes, dtype=np.float32), facts
        codes, background = quantize_columns(block.data, block.indptr, facts[:2], bits=self.bits)
        return codes, background, facts

    def _picked(
        self, block: GeneBlock, low: int, high: int
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Pick the cells of a subset first: its minimum and maximum are its own."""
        whole = np.zeros(block.n_cells, dtype=np.float32)
        whole[block.cells[low:high]] = block.data[low:high]
        values = whole[self.cells]
        facts = column_facts(values[:, None])[:, 0]
        if self.bits is None:
            return values, facts
        smallest, largest = quantization_range(*facts[:2].tolist())
        return quantize_block(values, smallest, largest, bits=self.bits), facts
