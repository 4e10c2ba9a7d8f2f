"""Planning: how genes are read within a budget. Integers in, integers out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dask
from dask.system import CPU_COUNT
from dask.utils import format_bytes, parse_bytes

from cellucid_lazy.errors import OptionError
from cellucid_lazy.wording import counted

# Bytes that live per value while a block of cells is read, turned and stored: the stored values
# and indices (8), the turned ones (8), their short form (6), what the codec holds (4), and a
# quarter that the allocator keeps for itself.
_TURNING = 32
# The same while a block of genes is joined: slices (6), put together (8), joined (8).
_JOINING = 28
# Where a matrix is stored by gene one task does both, but a piece is joined as it is.
_TURNING_AND_JOINING = 40
# Values and short rows of a piece.
_PIECE = 6
# Blocks beyond this size gain no speed, until there are very many: each block of genes reads a bit
# of each block of cells, about 40 microseconds' work, so their number counts squared.
_MOST_VALUES = 2 * 2**20
_MOST_BLOCKS = 2_000
# A pass that keeps few genes of each block needs no large ones.
_FILTERED_VALUES = 2**20
_LEAST_VALUES = 2**14
_LEAST_BUDGET = 64 * 10**6
# Dense columns that a worker holds beside the block: the column, its compressed form, a spare.
_COLUMNS = 3

Way = Literal["by gene", "in memory", "external", "zeros"]


@dataclass(frozen=True)
class Plan:
    """How a number of genes are read.

    Attributes
    ----------
    way
        ``"by gene"``: the matrix is stored by gene, each block of genes is read as it is.
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
    itemsize: int,
    by_gene: bool,
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
    itemsize
        Bytes of a stored value.
    by_gene
        Whether the matrix is stored by gene.
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
    share = wanted / max(1, n_genes)
    kept = int(n_stored * share * _PIECE)
    in_memory = not by_gene and kept <= free // 3
    room = free - kept if in_memory else free
    most = _MOST_VALUES if by_gene else max(_MOST_VALUES, n_stored // _MOST_BLOCKS)
    block = _within(room // (workers * _TURNING), most)
    if in_memory and 2 * wanted < n_genes:
        block = min(block, _FILTERED_VALUES)
    joining = _TURNING_AND_JOINING if by_gene else _JOINING
    joined = _within(room // (workers * joining), most)
    per_gene = max(1.0, n_stored / max(1, n_genes))
    way: Way = "by gene" if by_gene else "in memory" if in_memory else "external"
    # Enough tasks to keep the workers busy to the end, whatever the genes' popularity.
    genes = -(-wanted // (8 * threads))
    if way != "external":
        genes = max(1, min(int(joined / per_gene), genes))
    taken = workers * max(block * _TURNING, joined * joining) + (kept if in_memory else 0)
    return Plan(
        way,
        block_values=max(1, int(genes * per_gene)) if by_gene else block,
        genes_per_block=genes,
        joined_values=joined,
        read_bytes=int(n_stored * (share if by_gene else 1) * (itemsize + 4)),
        scratch_bytes=kept if way == "external" else 0,
        peak_bytes=columns + taken,
        why=_REASONS[way].format(kept=format_bytes(kept), budget=format_bytes(budget)),
    )


_REASONS: dict[Way, str] = {
    "by gene": "the matrix is stored by gene",
    "in memory": "the {kept} of the genes asked for fit the budget of {budget}",
    "external": "the {kept} of the genes asked for do not fit the budget of {budget}",
}


def plan_zeros(*, n_cells: int, wanted: int, workers: int) -> Plan:
    """Plan the writing of genes where there is no matrix."""
    columns = _COLUMNS * 4 * n_cells * workers
    per_task = max(1, -(-wanted // (8 * workers)))
    why = "there is no expression matrix, so genes are zeros"
    return Plan("zeros", 0, per_task, 0, 0, 0, columns, why)


def _within(values: int, most: int) -> int:
    return int(min(most, max(_LEAST_VALUES, values)))


def memory_budget(given: int | str | None = None) -> int:
    """Settle the budget: as given, as configured, or a quarter of the memory there is.

    Parameters
    ----------
    given
        Bytes, or text such as ``"1GB"``. Default: dask's configuration
        ``cellucid_lazy.memory-budget``, else a quarter of what the machine or container has.

    Returns
    -------
    int
        Bytes, at least 64 MB.

    Raises
    ------
    OptionError
        When it is no size, or too small to work with.
    """
    chosen = given if given is not None else dask.config.get("cellucid_lazy.memory-budget", None)
    if chosen is None:
        return max(_LEAST_BUDGET, machine_memory() // 4)
    try:
        size = int(parse_bytes(chosen))
    except (ValueError, TypeError, AttributeError, OverflowError) as problem:
        raise OptionError(f"memory_budget={chosen!r}: a size is needed, such as '1GB'") from problem
    if size < _LEAST_BUDGET:
        raise OptionError(
            f"memory_budget={chosen!r}: at least {_LEAST_BUDGET // 10**6} MB are needed"
        )
    return size


def machine_memory() -> int:
    """Memory this process may use: the machine's, or its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return total


def local_workers() -> int:
    """Tasks that run at a time on this machine's threads, as dask is configured."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)
