"""Plan how genes are read within a memory budget, from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from cellucid_lazy.errors import format_count, format_size
from cellucid_lazy.source import DEFAULT_SIZES, BlockSizes

# Larger blocks are no faster, but too many blocks are slow: each run of genes takes a slice of each
# block of cells, about 40 microseconds a time, so time grows with the square of their number.
_MAX_BLOCKS = 2_000
# Dense columns that a worker holds beside the block: the column, its compressed form, a spare.
_COLUMNS = 3
# For the name, the file and the output of a gene.
_GENE_BYTES = 2_000

Strategy = Literal["by gene", "in memory", "external"]


@dataclass(frozen=True)
class Plan:
    """How a number of genes are read.

    Attributes
    ----------
    strategy
        ``"by gene"``: the matrix is stored by gene, or in chunks of few genes; each block of genes
        is read for all cells.
        ``"in memory"``: one pass, the transposed blocks stay in memory. ``"external"``: one pass,
        the transposed blocks go to scratch and are read back one range of genes after the other.
    block_values
        Stored values of one block of cells (or of genes, when by gene).
    genes_per_block
        Genes that one task joins and writes, at most.
    joined_values
        Stored values that one task joins, at most. Only an external pass cuts by them: it has
        counted the values of each gene before it writes. Other strategies assume the mean.
    read_bytes, scratch_bytes, peak_bytes
        Bytes that are read, as decoded; bytes written to scratch; memory that the work takes.
    why
        The reason, as a sentence.
    """

    strategy: Strategy
    block_values: int
    genes_per_block: int
    joined_values: int
    read_bytes: int
    scratch_bytes: int
    peak_bytes: int
    why: str

    def summarize(self, n_genes: int, budget: int) -> str:
        """Describe the plan in a clause, given the number of genes and the budget."""
        scratch = f"writes {format_size(self.scratch_bytes)} of" if self.scratch_bytes else "no"
        return (
            f"{_PASSES[self.strategy]} for {format_count(n_genes, 'gene')}: reads "
            f"{format_size(self.read_bytes)}, {scratch} scratch, peak about "
            f"{format_size(self.peak_bytes)} of the budget of {format_size(budget)}"
        )

    def explain(self) -> str:
        """Describe the plan in one paragraph."""
        genes = format_count(self.genes_per_block, "gene")
        if self.strategy == "external":
            genes = f"up to {genes} or {format_count(self.joined_values, 'value')}"
        return (
            f"{self.strategy}: {self.why}. Reads {format_size(self.read_bytes)} decoded, in "
            f"blocks of {format_count(self.block_values, 'value')}; writes "
            f"{format_size(self.scratch_bytes)} of scratch; {genes} per task; about "
            f"{format_size(self.peak_bytes)} of memory beyond the imported libraries"
        )


def plan_genes(
    *,
    n_cells: int,
    n_genes: int,
    n_stored: int,
    item_bytes: int,
    index_bytes: int,
    genes_per_chunk: int | None,
    stored_by_gene: bool,
    wanted: int,
    budget: int,
    workers: int,
    threads: int,
    sizes: BlockSizes = DEFAULT_SIZES,
) -> Plan:
    """Choose how to read genes, from sizes alone.

    Parameters
    ----------
    n_cells, n_genes, n_stored
        Size of the matrix and number of its stored values.
    item_bytes, index_bytes
        Bytes of a stored value, and of its index; 0 where it has none.
    genes_per_chunk
        Genes per stored chunk; None if every read touches all genes.
    stored_by_gene
        Whether it can only be read by gene, as CSC can.
    wanted
        Number of genes asked for.
    budget
        Bytes of memory.
    workers
        Tasks that run at a time in one process.
    threads
        Tasks that run at a time in all.
    sizes
        Block sizes.

    Returns
    -------
    Plan
        Fits the budget where one gene's column does.
    """
    taken = _COLUMNS * 4 * n_cells * workers + _GENE_BYTES * wanted
    free = max(budget - taken, budget // 4)
    chunk = n_genes if genes_per_chunk is None else genes_per_chunk
    share = min(1.0, wanted * chunk / max(1, n_genes))
    # Enough tasks to keep workers busy to the end, however uneven genes are.
    genes = -(-wanted // (8 * threads))
    work = _Work(n_stored, n_genes, wanted, genes, item_bytes, workers, free, sizes)
    by_cell = _plan_by_cell(work, budget)
    # Few chunks of genes give too few tasks; blocks of cells are as fast if they fit.
    enough = by_cell.strategy == "external" or wanted // chunk >= 4 * threads
    by_gene = stored_by_gene or (genes_per_chunk is not None and enough and work.fits(chunk))
    plan = _plan_by_gene(work, chunk) if by_gene else by_cell
    read = int(n_stored * share * (item_bytes + index_bytes))
    return replace(plan, read_bytes=read, peak_bytes=taken + plan.peak_bytes)


class _Work(NamedTuple):
    """Sizes, genes that a task should take, and free memory; bytes are per stored value."""

    n_stored: int
    n_genes: int
    wanted: int
    genes_per_task: int
    item_bytes: int
    workers: int
    free: int
    sizes: BlockSizes

    @property
    def values_per_gene(self) -> float:
        return max(1.0, self.n_stored / max(1, self.n_genes))

    # Half as much again is for freed memory that the allocator keeps.

    @property
    def transpose_bytes(self) -> int:
        """A value with its index as read, as transposed, with a short row, and in the codec."""
        return (3 * self.item_bytes + 14) * 3 // 2

    @property
    def join_bytes(self) -> int:
        """A value with its row in slices, joined, and in the order of genes."""
        return (3 * self.item_bytes + 10) * 3 // 2

    @property
    def held_bytes(self) -> int:
        """A block that is transposed, and held until its genes are joined."""
        return self.transpose_bytes + self.item_bytes + 4

    @property
    def spilled_bytes(self) -> int:
        """A value and its short row: two bytes."""
        return self.item_bytes + 2

    def fits(self, genes: int) -> bool:
        return genes * self.values_per_gene * self.workers * self.held_bytes <= self.free

    def clip(self, values: int, largest: int) -> int:
        return int(min(largest, max(self.sizes.min_gene_values, values)))


def _plan_by_gene(work: _Work, chunk: int) -> Plan:
    largest = work.clip(work.free // (work.workers * work.held_bytes), work.sizes.max_gene_values)
    joined = max(largest, int(chunk * work.values_per_gene)) if work.fits(chunk) else largest
    genes = max(1, min(int(joined / work.values_per_gene), work.genes_per_task))
    # Whole chunks, so that none is read for two blocks; several tasks may write one block.
    chunks = max(1, genes // chunk)
    reason = _BY_GENE if chunk == 1 else _BY_CHUNK.format(genes=format_count(chunk, "gene"))
    return Plan(
        "by gene",
        block_values=max(1, int(chunks * chunk * work.values_per_gene)),
        genes_per_block=genes,
        joined_values=joined,
        read_bytes=0,
        scratch_bytes=0,
        peak_bytes=work.workers * joined * work.held_bytes,
        why=reason,
    )


def _plan_by_cell(work: _Work, budget: int) -> Plan:
    kept = int(work.n_stored * work.wanted / max(1, work.n_genes) * work.spilled_bytes)
    in_memory = kept <= work.free // 3
    room = work.free - kept if in_memory else work.free
    largest = max(work.sizes.max_gene_values, work.n_stored // _MAX_BLOCKS)
    block = work.clip(room // (work.workers * work.transpose_bytes), largest)
    joined = work.clip(room // (work.workers * work.join_bytes), largest)
    genes = work.genes_per_task
    if in_memory:
        genes = max(1, min(int(joined / work.values_per_gene), genes))
    taken = work.workers * max(block * work.transpose_bytes, joined * work.join_bytes)
    reason = _FIT if in_memory else _DO_NOT_FIT
    return Plan(
        "in memory" if in_memory else "external",
        block_values=block,
        genes_per_block=genes,
        joined_values=joined,
        read_bytes=0,
        scratch_bytes=0 if in_memory else kept,
        peak_bytes=taken + kept if in_memory else taken,
        why=reason.format(kept=format_size(kept), budget=format_size(budget)),
    )


_PASSES: dict[Strategy, str] = {
    "by gene": "one pass by gene",
    "in memory": "one pass in memory",
    "external": "two passes, by way of scratch,",
}
_BY_GENE = "the matrix is stored by gene"
_BY_CHUNK = "{genes} at a time can be read for all cells within the budget"
_FIT = "the {kept} of the genes asked for fit the budget of {budget}"
_DO_NOT_FIT = "the {kept} of the genes asked for do not fit the budget of {budget}"
