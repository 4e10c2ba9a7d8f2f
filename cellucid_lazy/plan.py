"""Planning: how genes are read within a budget. Integers in, integers out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from dask.utils import format_bytes

from cellucid_lazy.wording import counted

# Bytes that live per value while a block of cells is read, turned and stored: the stored values
# and indices (8), the turned ones (8), their short form (6), what the codec holds (4), and a
# quarter that the allocator keeps for itself.
_TURNING = 32
# The same while a block of genes is joined: slices (6), put together (8), joined (8).
_JOINING = 28
# Where a matrix is read by gene a piece waits for its genes to be written, and is joined as it is.
_TURNING_AND_JOINING = 40
# Values and short rows of a piece.
_PIECE = 6
# Blocks beyond this size gain no speed, until there are very many: each block of genes reads a bit
# of each block of cells, about 40 microseconds' work, so their number counts squared.
_MOST_VALUES = 2 * 2**20
_MOST_BLOCKS = 2_000
# A pass that keeps fewer than half of the genes holds little of a block, which may be larger then;
# but all threads shall have some.
_FILTERED_VALUES = 4 * 2**20
_FILTERED_BLOCKS = 8
_LEAST_FILTERED = 2**18
_LEAST_VALUES = 2**14
# Dense columns that a worker holds beside the block: the column, its compressed form, a spare.
_COLUMNS = 3

Way = Literal["by gene", "in memory", "external", "zeros"]


@dataclass(frozen=True)
class Plan:
    """How a number of genes are read.

    Attributes
    ----------
    way
        ``"by gene"``: the matrix is stored by gene, or in chunks of few genes; each block of genes
        is read for all cells.
        ``"in memory"``: one pass, the turned pieces stay in memory. ``"external"``: one pass, the
        pieces go to scratch and are read back gene block by gene block.
    block_values
        Stored values of one block of cells (or of genes, when by gene).
    genes_per_block
        Genes that are joined and written by one task, at most.
    joined_values
        Stored values that one task joins, at most. Only an external pass cuts by them: it has
        counted the values of each gene when it comes to write. Any other goes by their mean.
    read_bytes, scratch_bytes, peak_bytes
        What is read once decoded, what goes to scratch, and what memory the work takes.
    why
        The reason, as a sentence.
    """

    way: Way
    block_values: int
    genes_per_block: int
    joined_values: int
    read_bytes: int
    scratch_bytes: int
    peak_bytes: int
    why: str

    def explain(self) -> str:
        """Tell the plan in one paragraph."""
        return (
            f"{self.way}: {self.why}. Reads {format_bytes(self.read_bytes)} decoded, in blocks of "
            f"{counted(self.block_values, 'value')}; writes {format_bytes(self.scratch_bytes)} of "
            f"scratch; {self._per_task} per task; about "
            f"{format_bytes(self.peak_bytes)} of memory beyond the imported libraries"
        )

    @property
    def _per_task(self) -> str:
        genes = counted(self.genes_per_block, "gene")
        if self.way != "external":
            return genes
        return f"up to {genes} or {counted(self.joined_values, 'value')}"


def plan_genes(
    *,
    n_cells: int,
    n_genes: int,
    n_stored: int,
    value_bytes: int,
    genes_together: int | None,
    only_by_gene: bool,
    wanted: int,
    budget: int,
    workers: int,
    threads: int,
) -> Plan:
    """Choose how to read genes, from sizes alone.

    Parameters
    ----------
    n_cells, n_genes, n_stored
        Size of the matrix and number of its stored values.
    value_bytes
        Bytes of a stored value, with its index where it has one.
    genes_together
        Genes that reading one of them reads; None where that is all of them.
    only_by_gene
        Whether there is no other way to read them, as in CSC.
    wanted
        Number of genes asked for.
    budget
        Bytes of memory.
    workers
        Tasks that run at a time in one process.
    threads
        Tasks that run at a time in all.

    Returns
    -------
    Plan
        Fits the budget where one gene's column does.
    """
    columns = _COLUMNS * 4 * n_cells * workers
    free = max(budget - columns, budget // 4)
    together = n_genes if genes_together is None else genes_together
    share = min(1.0, wanted * together / max(1, n_genes))
    # Enough tasks to keep the workers busy to the end, whatever the genes' popularity.
    genes = -(-wanted // (8 * threads))
    work = _Work(n_stored, n_genes, wanted, genes, workers, threads, free)
    by_cell = _plan_by_cell(work, budget)
    # Of few stripes of genes there are too few tasks; blocks of cells are as good if they fit.
    good = by_cell.way == "external" or wanted // together >= 4 * threads
    by_gene = only_by_gene or (genes_together is not None and good and work.fits(together))
    plan = _plan_by_gene(work, together) if by_gene else by_cell
    read = int(n_stored * share * value_bytes)
    return replace(plan, read_bytes=read, peak_bytes=columns + plan.peak_bytes)


class _Work(NamedTuple):
    """What is to be done: sizes, genes that a task should take, and what memory there is."""

    n_stored: int
    n_genes: int
    wanted: int
    genes: int
    workers: int
    threads: int
    free: int

    @property
    def per_gene(self) -> float:
        return max(1.0, self.n_stored / max(1, self.n_genes))

    def fits(self, genes: int) -> bool:
        return genes * self.per_gene * self.workers * _TURNING_AND_JOINING <= self.free


def _plan_by_gene(work: _Work, together: int) -> Plan:
    most = _within(work.free // (work.workers * _TURNING_AND_JOINING), _MOST_VALUES)
    joined = max(most, int(together * work.per_gene)) if work.fits(together) else most
    genes = max(1, min(int(joined / work.per_gene), work.genes))
    # Whole stripes, or one would be read for two blocks; several tasks may write one of them.
    stripes = max(1, genes // together)
    return Plan(
        "by gene",
        block_values=max(1, int(stripes * together * work.per_gene)),
        genes_per_block=genes,
        joined_values=joined,
        read_bytes=0,
        scratch_bytes=0,
        peak_bytes=work.workers * joined * _TURNING_AND_JOINING,
        why=_BY_GENE if together == 1 else _TOGETHER.format(genes=counted(together, "gene")),
    )


def _plan_by_cell(work: _Work, budget: int) -> Plan:
    kept = int(work.n_stored * work.wanted / max(1, work.n_genes) * _PIECE)
    in_memory = kept <= work.free // 3
    room = work.free - kept if in_memory else work.free
    most = max(_MOST_VALUES, work.n_stored // _MOST_BLOCKS)
    block = _within(room // (work.workers * _TURNING), most)
    if in_memory and 2 * work.wanted < work.n_genes:
        each = max(_LEAST_FILTERED, work.n_stored // (_FILTERED_BLOCKS * work.threads))
        block = _within(room // (work.workers * _TURNING), min(each, _FILTERED_VALUES))
    joined = _within(room // (work.workers * _JOINING), most)
    genes = max(1, min(int(joined / work.per_gene), work.genes)) if in_memory else work.genes
    taken = work.workers * max(block * _TURNING, joined * _JOINING)
    reason = _FIT if in_memory else _DO_NOT_FIT
    return Plan(
        "in memory" if in_memory else "external",
        block_values=block,
        genes_per_block=genes,
        joined_values=joined,
        read_bytes=0,
        scratch_bytes=0 if in_memory else kept,
        peak_bytes=taken + kept if in_memory else taken,
        why=reason.format(kept=format_bytes(kept), budget=format_bytes(budget)),
    )


_BY_GENE = "the matrix is stored by gene"
_TOGETHER = "{genes} at a time can be read for all cells within the budget"
_FIT = "the {kept} of the genes asked for fit the budget of {budget}"
_DO_NOT_FIT = "the {kept} of the genes asked for do not fit the budget of {budget}"


def plan_zeros(*, n_cells: int, wanted: int, workers: int) -> Plan:
    """Plan the writing of genes where there is no matrix."""
    columns = _COLUMNS * 4 * n_cells * workers
    per_task = max(1, -(-wanted // (8 * workers)))
    why = "there is no expression matrix, so genes are zeros"
    return Plan("zeros", 0, per_task, 0, 0, 0, columns, why)


def _within(values: int, most: int) -> int:
    return int(min(most, max(_LEAST_VALUES, values)))
