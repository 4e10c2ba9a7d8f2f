"""The gene pass: any number of genes in one bounded pass over their matrix.

Two phases. First one task per block of cells turns it into a piece, gene after gene; then one task
per block of genes joins its slice of every piece and encodes each column, all the way to its file.
There is never a task per gene, and nothing but facts goes back. A matrix that is stored by gene
needs the second phase only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from cellucid_lazy.gene import Gene
from cellucid_lazy.plan import Plan, plan_genes, plan_zeros
from cellucid_lazy.sinks.encode import Target, put_whole
from cellucid_lazy.sinks.scratch import StoredPiece, store_piece
from cellucid_lazy.source import PieceSource
from cellucid_lazy.transforms.gene_major import (
    GeneBlock,
    Piece,
    gene_block_of,
    join_pieces,
    piece_of,
)
from cellucid_lazy.transforms.genes import column_facts, stored_facts
from cellucid_lazy.transforms.quantize import quantization_range, quantize_block, quantized_dtype


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
        dtype = np.dtype(np.float32) if self.bits is None else quantized_dtype(self.bits)
        column = np.zeros(block.n_cells, dtype=dtype)
        values, background, facts = self._encoded(block)
        done = []
        for place, (_, path) in enumerate(files):
            low, high = int(block.indptr[place]), int(block.indptr[place + 1])
            if self.cells is None:
                column.fill(background[place])
                column[block.cells[low:high]] = values[low:high]
                shown = column
            else:
                shown, facts[:, place] = self._picked(block, low, high)
            done.append(put_whole(self.target, path, shown))
        return Encoded(tuple(name for name, _ in files), facts, tuple(done))

    def _encoded(self, block: GeneBlock) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
        """Quantize stored values and the zeros between them, which is all a column holds."""
        facts = stored_facts(block.data, block.indptr, n_rows=block.n_cells)
        n_genes = facts.shape[1]
        if self.bits is None or self.cells is not None:
            return block.data, np.zeros(n_genes, dtype=np.float32), facts
        values = np.empty(len(block.data), dtype=quantized_dtype(self.bits))
        background = np.empty(n_genes, dtype=values.dtype)
        zero = np.zeros(1, dtype=np.float32)
        for place in range(n_genes):
            stored = slice(int(block.indptr[place]), int(block.indptr[place + 1]))
            low, high = quantization_range(*facts[:2, place].tolist())
            values[stored] = quantize_block(block.data[stored], low, high, bits=self.bits)
            background[place] = quantize_block(zero, low, high, bits=self.bits)[0]
        return values, background, facts

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


def plan_pass(genes: Mapping[str, Gene], *, budget: int, workers: int, threads: int) -> Plan:
    """Plan the pass over the genes' matrix.

    Parameters
    ----------
    genes
        At least one; all of one matrix.
    budget
        Bytes of memory.
    workers
        Tasks that run at a time in one process.
    threads
        Tasks that run at a time in all.

    Returns
    -------
    Plan
        The way and its sizes.
    """
    first = next(iter(genes.values()))
    expression = first.expression
    if expression is None:
        return plan_zeros(n_cells=first.n_cells, wanted=len(genes), workers=workers)
    n_cells, n_genes = expression.shape
    return plan_genes(
        n_cells=n_cells,
        n_genes=n_genes,
        n_stored=expression.n_stored,
        itemsize=expression.dtype.itemsize,
        by_gene=expression.layout == "csc",
        wanted=len(genes),
        budget=budget,
        workers=workers,
        threads=threads,
    )


def gene_tasks(
    genes: Mapping[str, Gene],
    paths: Mapping[str, str],
    *,
    plan: Plan,
    target: Target,
    scratch: str | None,
) -> list[Delayed]:
    """Build the tasks of a gene pass.

    Parameters
    ----------
    genes
        By name; all of one matrix and one quantization.
    paths
        File of each.
    plan
        As `plan_pass` gives it.
    target
        Where files go.
    scratch
        Folder for pieces; needed when the plan is external.

    Returns
    -------
    list of Delayed
        Each computes to `Encoded`.
    """
    first = next(iter(genes.values()))
    expression = first.expression
    files = [(name, paths[name]) for name in genes]
    if expression is None:
        writer = Writer(target, first.bits, None)
        return [
            dask.delayed(_write_zeros, pure=False)(first.n_cells, writer, files[group])
            for group in _groups(len(files), plan.genes_per_block)
        ]
    cut = expression.pieces(plan.block_values, balanced=True)
    columns = np.array([gene.position for gene in genes.values()], dtype=np.intp)
    if cut.genes is not None:
        columns = cut.genes[columns]
    writer = Writer(target, first.bits, cut.cells)
    if cut.by == "genes":
        return _by_gene(cut, columns, files, writer)
    tasks = []
    for number, of_block, inside in _owners(cut, columns):
        blocks = cut.blocks.blocks[:, number]
        chosen = [files[place] for place in of_block.tolist()]
        tasks += _by_cell(blocks, inside, chosen, writer, plan.genes_per_block, scratch)
    return tasks


def _owners(
    cut: PieceSource, columns: NDArray[np.intp]
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp]]]:
    """Give each column of blocks that holds genes: which of them, and where inside."""
    borders = np.cumsum((0, *cut.blocks.chunks[1]))
    owner = np.searchsorted(borders, columns, side="right") - 1
    for number in np.unique(owner).tolist():
        of_block = np.flatnonzero(owner == number)
        yield number, of_block, columns[of_block] - borders[number]


def _by_cell(
    blocks: da.Array,
    columns: NDArray[np.intp],
    files: Sequence[tuple[str, str]],
    writer: Writer,
    genes_per_block: int,
    scratch: str | None,
) -> list[Delayed]:
    every = len(columns) == blocks.shape[1] and bool((np.diff(columns) == 1).all())
    pieces = _turned(blocks, None if every else columns, scratch)
    # Handles of scratch files are gathered once; pieces in memory go to each task by themselves,
    # so that on a cluster they stay where they are until they are needed.
    gathered: Any = pieces if scratch is None else dask.delayed(list)(pieces)
    return [
        dask.delayed(_join_and_write, pure=False)(
            gathered, group.start, group.stop, writer, files[group]
        )
        for group in _groups(len(files), genes_per_block)
    ]


def _groups(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _turned(
    blocks: da.Array, columns: NDArray[np.intp] | None, scratch: str | None
) -> list[Delayed]:
    starts = tuple(np.cumsum((0, *blocks.chunks[0][:-1])).tolist())
    turned = blocks.map_blocks(
        partial(_turn, starts=starts, columns=columns, scratch=scratch),
        dtype=object,
        chunks=(blocks.chunks[0], (1,)),
        meta=np.empty((0, 0), dtype=object),
    )
    return list(turned.to_delayed().ravel())


def _turn(
    block: Any,
    *,
    starts: tuple[int, ...],
    columns: NDArray[np.intp] | None,
    scratch: str | None,
    block_id: tuple[int, int] = (0, 0),
) -> Piece | StoredPiece:
    piece = piece_of(block, first_row=starts[block_id[0]], columns=columns)
    return piece if scratch is None else store_piece(piece, scratch)


def _join_and_write(
    pieces: Sequence[Piece | StoredPiece],
    start: int,
    stop: int,
    writer: Writer,
    files: Sequence[tuple[str, str]],
) -> Encoded:
    ordered = sorted(pieces, key=lambda piece: piece.first_row)
    block = join_pieces([piece.genes(start, stop) for piece in ordered])
    return writer.write(block, files)


def _by_gene(
    cut: PieceSource,
    columns: NDArray[np.intp],
    files: Sequence[tuple[str, str]],
    writer: Writer,
) -> list[Delayed]:
    blocks = cut.blocks.to_delayed().ravel()
    tasks = []
    for number, of_block, inside in _owners(cut, columns):
        chosen = [files[place] for place in of_block.tolist()]
        tasks.append(
            dask.delayed(_write_stored, pure=False)(blocks[number], inside, writer, chosen)
        )
    return tasks


def _write_stored(
    block: Any, columns: NDArray[np.intp], writer: Writer, files: Sequence[tuple[str, str]]
) -> Encoded:
    return writer.write(gene_block_of(block[:, columns]), files)


def _write_zeros(n_cells: int, writer: Writer, files: Sequence[tuple[str, str]]) -> Encoded:
    nothing = np.zeros(0, dtype=np.float32)
    indptr = np.zeros(len(files) + 1, dtype=np.int64)
    return writer.write(GeneBlock(nothing, np.zeros(0, np.int32), indptr, n_cells), files)
