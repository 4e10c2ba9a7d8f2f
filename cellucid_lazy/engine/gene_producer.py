"""The producer of genes: it makes any number of them in one pass over their matrix.

One task per block of the matrix reads and transposes it; one task per run of genes joins its slice
of every block, then encodes each gene and writes its file. There is never a task per gene, and
only statistics are returned. If the transposed blocks do not fit the budget, they are spilled, and
the two steps are two computations.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.engine.matrix import block_reads, gene_ranges_array
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.plan import Plan, plan_genes
from cellucid_lazy.engine.producer import Encoder, Job, Produced, Stage
from cellucid_lazy.engine.resources import Resources
from cellucid_lazy.engine.spill import SpilledBlock, read_slices
from cellucid_lazy.errors import OptionError, format_size
from cellucid_lazy.graph import SPLIT_EVERY
from cellucid_lazy.names import values_dtype
from cellucid_lazy.source import DEFAULT_SIZES, Block, BlockSizes, ExpressionMatrix
from cellucid_lazy.transforms.genes import stored_statistics
from cellucid_lazy.transforms.quantize import Bits, quantization_range, quantize_block
from cellucid_lazy.transforms.transpose import (
    CscBlock,
    choose_cells,
    gene_runs,
    join_blocks,
    slice_pointers,
    transpose_block,
)
from cellucid_lazy.transforms.values import to_float32


@dataclass(frozen=True, eq=False)
class GeneProducer:
    """Makes genes of one expression matrix.

    Attributes
    ----------
    expression
        The expression matrix.
    bits
        8 or 16 where values are quantized, else None.
    sizes
        Block sizes.
    """

    expression: ExpressionMatrix
    bits: Bits | None = None
    sizes: BlockSizes = DEFAULT_SIZES

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeneProducer) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.expression.token, self.bits, self.sizes

    def provides(self, outputs: Sequence[Output]) -> frozenset[str]:
        """Name the array of minima and maxima of the genes that are made."""
        return frozenset([self._ranges_name(_positions(outputs))]) if outputs else frozenset()

    def _ranges_name(self, positions: NDArray[np.intp]) -> str:
        return str(gene_ranges_array(self.expression, positions, self.sizes).name)

    def summarize(self, kinds: Mapping[str, int], resources: Resources) -> str:
        """Describe how the genes are read in a clause."""
        n_genes = sum(kinds.values())
        return self.plan(n_genes, resources).summarize(n_genes, resources.budget)

    def explain(self, kinds: Mapping[str, int], resources: Resources) -> str:
        """Describe how the genes are read in detail."""
        return f"genes, {self.plan(sum(kinds.values()), resources).explain()}"

    def plan(self, n_genes: int, resources: Resources) -> Plan:
        """Plan the pass over a number of genes; OptionError if one gene exceeds the budget."""
        matrix = self.expression.matrix
        if 4 * matrix.shape[0] > resources.budget:
            raise OptionError(
                f"one gene of {matrix.shape[0]:,} cells takes {format_size(4 * matrix.shape[0])}, "
                f"but the memory budget is {format_size(resources.budget)}; give a larger "
                "memory_budget"
            )
        sparse = matrix.layout != "dense"
        return plan_genes(
            n_cells=matrix.shape[0],
            n_genes=matrix.shape[1],
            n_stored=matrix.n_stored,
            item_bytes=matrix.dtype.itemsize,
            index_bytes=4 if sparse else 0,
            genes_per_chunk=matrix.genes_per_chunk,
            stored_by_gene=matrix.layout == "csc" and matrix.genes_per_chunk == 1,
            wanted=n_genes,
            budget=resources.budget,
            workers=resources.workers,
            threads=resources.threads,
            sizes=self.sizes,
        )

    def run(self, job: Job) -> Generator[Stage, Sequence[Any], Produced]:
        """Read and write the genes, in one stage or two."""
        if not job.outputs:
            return Produced({}, {})
        positions = _positions(list(job.outputs.values()))
        genes = self.expression.genes
        stored = positions if genes is None else genes[positions]
        # In a view, several genes may be the same column.
        columns, column_of = np.unique(stored, return_inverse=True)
        column_at = dict(zip(positions.tolist(), column_of.tolist(), strict=True))
        files: list[list[str]] = [[] for _ in columns]
        for file, output in job.outputs.items():
            files[column_at[output.position]].append(file)
        plan = self.plan(len(columns), job.resources)
        transposition = _Transposition(
            self.expression, columns, [tuple(one) for one in files], plan
        )
        encoder = GeneEncoder(job.encoder, self.bits, self.expression.cells)
        if plan.strategy == "external":
            job.spiller.reserve(plan.scratch_bytes)
            spilled = yield transposition.spill(job.spiller.save)
            done = yield transposition.write_spilled(encoder, spilled[0])
        else:
            done = yield transposition.write(encoder)
        receipts = {file: receipt for one in done for file, receipt in one.receipts}
        values = {}
        if job.needs:
            ranges = np.concatenate([one.ranges for one in done], axis=1)
            values[self._ranges_name(positions)] = ranges[:, column_of]
        return Produced(receipts, values)


def _positions(outputs: Sequence[Output]) -> NDArray[np.intp]:
    return np.unique(np.array([output.position for output in outputs], dtype=np.intp))


class Written(NamedTuple):
    """What a task returns of a run of genes.

    Attributes
    ----------
    receipts
        Each file, and what the sink returned for it.
    ranges
        float64 (3, n_genes): minimum, maximum and finite count, before quantization.
    """

    receipts: tuple[tuple[str, Any], ...]
    ranges: NDArray[np.float64]


class SpilledGenes(NamedTuple):
    """A transposed block on disk; see `CscBlock`."""

    data: SpilledBlock
    rows: SpilledBlock
    indptr: SpilledBlock
    first_gene: int
    first_cell: int
    n_cells: int


class Spilled(NamedTuple):
    """Transposed blocks on disk.

    Attributes
    ----------
    blocks
        In the order of their cells.
    values_per_gene
        int64 (n_genes,): values that the blocks hold of each gene.
    """

    blocks: tuple[SpilledGenes, ...]
    values_per_gene: NDArray[np.int64]


class _Transposition:
    """Makes the tasks of one pass: blocks are read, transposed, joined and encoded."""

    def __init__(
        self,
        expression: ExpressionMatrix,
        columns: NDArray[np.intp],
        files: Sequence[tuple[str, ...]],
        plan: Plan,
    ) -> None:
        self._matrix = expression.matrix
        self._columns = columns
        self._files = files
        self._plan = plan
        self._token = uuid.uuid4().hex
        self._blocks = self._matrix.chunk_blocks(plan.block_values, columns)

    def spill(self, save: Callable[[Any], Any]) -> Stage:
        """Read all blocks, transpose them and save them; computes to one `Spilled`."""
        graph, keys = self._transpose_tasks(partial(_save, save, len(self._columns)))
        level = 0
        while len(keys) > 1:
            # A tree: a single task would hold the counts of all blocks.
            groups = [keys[at : at + SPLIT_EVERY] for at in range(0, len(keys), SPLIT_EVERY)]
            keys = [(f"merge-{self._token}", level, i) for i in range(len(groups))]
            graph |= {key: (_merge, group) for key, group in zip(keys, groups, strict=True)}
            level += 1
        return Stage("reading genes", graph, keys)

    def write(self, encoder: GeneEncoder) -> Stage:
        """Read, transpose and write in one stage; computes to a `Written` per run of genes."""
        graph, keys = self._transpose_tasks(_unchanged)
        spans = [self._span(block) for block in self._blocks]
        tasks = []
        for run in self._runs(spans):
            inputs = [
                key
                for key, (start, stop) in zip(keys, spans, strict=True)
                if start < run.stop and run.start < stop
            ]
            tasks.append((self._write_run(run, _slice_blocks), inputs))
        return self._write_stage(graph, tasks, encoder)

    def write_spilled(self, encoder: GeneEncoder, spilled: Spilled) -> Stage:
        """Read saved blocks back and write; computes to a `Written` per run of genes."""
        # A pointer per gene and block takes memory too, even without values.
        plan = self._plan
        max_genes = min(plan.genes_per_block, plan.joined_values // len(spilled.blocks))
        runs = gene_runs(
            spilled.values_per_gene, max_values=plan.joined_values, max_genes=max_genes
        )
        blocks = f"blocks-{self._token}"
        # In a partial: dask would search these tuples for keys and tasks.
        graph: dict[Any, Any] = {blocks: (partial(list, spilled.blocks),)}
        tasks = [(self._write_run(run, read_genes), blocks) for run in runs]
        return self._write_stage(graph, tasks, encoder)

    def _transpose_tasks(
        self, finish: Callable[[CscBlock], Any]
    ) -> tuple[dict[Any, Any], list[Any]]:
        """Make the tasks that read and transpose blocks, and list their keys."""
        columns = f"columns-{self._token}"
        takes_all = len(self._columns) == self._matrix.shape[1]
        graph, reads = block_reads(self._matrix, self._blocks, None if takes_all else columns)
        graph = {**graph, columns: self._columns}
        keys = [(f"transpose-{self._token}", i) for i in range(len(reads))]
        for key, block, read in zip(keys, self._blocks, reads, strict=True):
            graph[key] = (partial(_transpose, block.cells, block.genes, finish), read, columns)
        return graph, list(keys)

    def _span(self, block: Block) -> tuple[int, int]:
        """Return the first and past-the-last of the genes asked for that a block holds."""
        start, stop = np.searchsorted(self._columns, block.genes).tolist()
        return start, stop

    def _runs(self, spans: Sequence[tuple[int, int]]) -> list[slice]:
        """Cut the genes at the first gene of each block, and into runs that one task can join."""
        size, n_genes = self._plan.genes_per_block, len(self._columns)
        borders = sorted({0, n_genes, *(start for start, _ in spans if start < n_genes)})
        return [
            slice(at, min(at + size, stop))
            for start, stop in pairwise(borders)
            for at in range(start, stop, size)
        ]

    def _write_run(self, run: slice, load: Callable[..., list[CscBlock]]) -> Callable[..., Written]:
        """Return the function that joins and writes a run of genes."""
        n_cells, dtype = self._matrix.shape[0], self._matrix.dtype
        empty = CscBlock(
            np.zeros(0, dtype),
            np.zeros(0, np.uint16),
            np.zeros(run.stop - run.start + 1, np.int64),
            run.start,
            0,
            n_cells,
        )
        return partial(_write, load, run.start, run.stop, empty, self._files[run])

    def _write_stage(
        self, graph: dict[Any, Any], tasks: Sequence[tuple[Any, Any]], encoder: GeneEncoder
    ) -> Stage:
        # As a value of the graph, the encoder is sent to a worker once.
        name = f"encoder-{self._token}"
        graph[name] = encoder
        keys = [(f"write-{self._token}", i) for i in range(len(tasks))]
        graph |= {
            key: (task, name, inputs) for key, (task, inputs) in zip(keys, tasks, strict=True)
        }
        return Stage("writing genes", graph, keys)


def _unchanged(block: CscBlock) -> CscBlock:
    return block


def _transpose(
    cells: tuple[int, int],
    genes: tuple[int, int],
    finish: Callable[[CscBlock], Any],
    values: Any,
    columns: NDArray[np.intp],
) -> Any:
    """Transpose a block that was read, and keep the genes that are asked for."""
    start, stop = np.searchsorted(columns, genes)
    own = columns[start:stop] - genes[0]
    takes_all = len(own) == genes[1] - genes[0]
    chosen = None if takes_all else own
    return finish(
        transpose_block(values, first_cell=cells[0], first_gene=int(start), columns=chosen)
    )


def _save(save: Callable[[Any], Any], n_genes: int, block: CscBlock) -> Spilled:
    data, rows, indptr = save([block.data, block.rows, block.indptr])
    counts = np.zeros(n_genes, dtype=np.int64)
    own = np.diff(block.indptr)
    counts[block.first_gene : block.first_gene + len(own)] = own
    position = block.first_gene, block.first_cell, block.n_cells
    spilled = SpilledGenes(data, rows, indptr, *position)
    return Spilled((spilled,), counts)


def _merge(parts: Sequence[Spilled]) -> Spilled:
    counts = np.sum([part.values_per_gene for part in parts], axis=0)
    return Spilled(tuple(block for part in parts for block in part.blocks), counts)


def _slice_blocks(blocks: Sequence[CscBlock], start: int, stop: int) -> list[CscBlock]:
    return [block.genes(start, stop) for block in blocks]


def read_genes(blocks: Sequence[SpilledGenes], start: int, stop: int) -> list[CscBlock]:
    """Read a range of genes of every saved block, into one buffer.

    Parameters
    ----------
    blocks
        At least one.
    start, stop
        First and past-the-last gene, among those that are asked for.

    Returns
    -------
    list of CscBlock
        One for each.

    Raises
    ------
    ExportError
        When a scratch file is gone or too short.
    """
    pointers = []
    for block in blocks:
        low = min(max(start - block.first_gene, 0), len(block.indptr) - 1)
        high = min(max(stop - block.first_gene, 0), len(block.indptr) - 1)
        own = block.indptr[low : high + 1]
        pointers.append(
            slice_pointers(own, start - block.first_gene - low, stop - block.first_gene - low)
        )
    requests = [
        (part, slice(int(own[0]), int(own[-1])))
        for block, own in zip(blocks, pointers, strict=True)
        for part in (block.data, block.rows)
    ]
    found = read_slices(requests)
    return [
        CscBlock(
            found[2 * i], found[2 * i + 1], own - own[0], start, block.first_cell, block.n_cells
        )
        for i, (block, own) in enumerate(zip(blocks, pointers, strict=True))
    ]


def _write(
    load: Callable[..., list[CscBlock]],
    start: int,
    stop: int,
    empty: CscBlock,
    files: Sequence[tuple[str, ...]],
    encoder: GeneEncoder,
    blocks: Sequence[Any],
) -> Written:
    """Join a run of genes of all blocks, and write each to its files."""
    parts = load(blocks, start, stop) if blocks else [empty]
    return encoder.write(join_blocks(parts, n_cells=empty.n_cells), files)


@dataclass(frozen=True)
class GeneEncoder:
    """Encodes genes: each becomes a dense column, quantized where asked for, and a file.

    Attributes
    ----------
    encoder
        Encodes and writes files.
    bits
        8 or 16 where values are quantized, else None.
    cells
        Positions of the dataset's cells in the matrix; None when they are the same.
    """

    encoder: Encoder
    bits: Bits | None
    cells: NDArray[np.intp] | None

    def write(self, by_gene: Any, files: Sequence[tuple[str, ...]]) -> Written:
        """Write the genes of a CSC matrix (all cells, genes), each to its own ``files``."""
        if self.cells is not None:
            by_gene = choose_cells(by_gene, self.cells)
        data, n_cells = to_float32(by_gene.data), by_gene.shape[0]
        ranges = stored_statistics(data, by_gene.indptr, n_rows=n_cells)
        column = np.zeros(n_cells, dtype=values_dtype(self.bits))
        background = column.dtype.type(0)
        receipts = []
        for i, names in enumerate(files):
            stored = slice(int(by_gene.indptr[i]), int(by_gene.indptr[i + 1]))
            values, zero = self._quantized(data[stored], ranges[:2, i])
            if zero != background:
                background = zero
                column.fill(background)
            # Converted once: NumPy would do it in both assignments.
            cells = by_gene.indices[stored].astype(np.intp)
            column[cells] = values
            receipts += [(name, self.encoder.write(name, column)) for name in names]
            # Cheaper than filling the whole column for each gene.
            column[cells] = background
        return Written(tuple(receipts), ranges)

    def _quantized(
        self, values: NDArray[np.float32], extremes: NDArray[np.float64]
    ) -> tuple[NDArray[Any], Any]:
        """Quantize the stored values of a gene, and the zeros between them."""
        if self.bits is None:
            return values, np.float32(0)
        low, high = quantization_range(*extremes.tolist())
        codes = quantize_block(np.append(values, np.float32(0)), low, high, bits=self.bits)
        return codes[:-1], codes[-1]
