"""The gene pass: any number of genes in one bounded pass over their matrix.

Two phases. First one task per block of cells turns it into a piece, gene after gene; then one task
per block of genes joins its slice of every piece and encodes each column, all the way to its file.
There is never a task per gene, and nothing goes back but facts, and where pieces are stored. Of a
matrix that is stored by gene a block holds all cells of a few genes, and its piece is all there is
to join.

Where pieces go to scratch the phases are two computations, so that the memory of the first goes
back before the second begins; pieces in memory are made and joined in one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from cellucid_lazy.gene import Gene
from cellucid_lazy.gene_tasks import (
    Load,
    Stored,
    join_and_write,
    merge_stored,
    slice_pieces,
    store_block,
    turn_block,
    write_zeros,
)
from cellucid_lazy.gene_writer import Writer
from cellucid_lazy.plan import Plan, plan_genes, plan_zeros
from cellucid_lazy.sinks.encode import Target
from cellucid_lazy.sinks.scratch import read_genes
from cellucid_lazy.source import GeneGroup, GeneReads
from cellucid_lazy.transforms.gene_major import gene_runs

# What was stored of so many blocks is merged by one task; the more, the more chunks wait for the
# blocks that share them.
_MERGED = 8


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
    n_cells, n_genes = expression.stored_shape
    return plan_genes(
        n_cells=n_cells,
        n_genes=n_genes,
        n_stored=expression.n_stored,
        value_bytes=expression.dtype.itemsize + (0 if expression.layout == "dense" else 4),
        genes_together=expression.genes_together,
        only_by_gene=expression.layout == "csc" and expression.genes_together == 1,
        wanted=len(genes),
        budget=budget,
        workers=workers,
        threads=threads,
    )


class GenePass:
    """Genes of one matrix on their way to files.

    An external pass computes `store_tasks` first and hands what they give to `write_tasks`; every
    other pass computes the latter alone. Making one may read where rows begin, or genes.

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
    """

    def __init__(
        self,
        genes: Mapping[str, Gene],
        paths: Mapping[str, str],
        *,
        plan: Plan,
        target: Target,
    ) -> None:
        first = next(iter(genes.values()))
        self._files = [(name, paths[name]) for name in genes]
        self._plan = plan
        self._n_cells = first.n_cells
        self._reads = _reads(genes, plan)
        cells = None if self._reads is None else self._reads.cells
        self._writer = Writer(target, first.bits, cells)

    def store_tasks(self, scratch: str) -> list[Delayed]:
        """Build the first phase of an external pass.

        Parameters
        ----------
        scratch
            Folder for the pieces.

        Returns
        -------
        list of Delayed
            Each computes to `Stored`: one for each group of genes that are read together.
        """
        graph, name = self._begin()
        done = []
        for number, group in enumerate(self._groups):
            pieces = _turn_tasks(group, partial(store_block, scratch), name, number, graph)
            done.append(_merge_tasks(pieces, f"merge-{name}-{number}", graph))
        return _delayed(done, graph, name)

    def write_tasks(self, stored: Sequence[Stored] | None = None) -> list[Delayed]:
        """Build the tasks that write files.

        Parameters
        ----------
        stored
            What the first phase of an external pass gave; None for any other pass.

        Returns
        -------
        list of Delayed
            Each computes to `Encoded`.

        Raises
        ------
        ValueError
            When an external pass comes without its first phase, or another one with it.
        """
        if (stored is not None) != (self._plan.way == "external"):
            raise ValueError(f"a pass {self._plan.way} was given {stored!r} of a first phase")
        if self._reads is None:
            zeros = dask.delayed(write_zeros, pure=False)
            return [
                zeros(self._n_cells, self._writer, self._files[part])
                for part in _parts(len(self._files), self._plan.genes_per_block)
            ]
        graph, name = self._begin(reads=stored is None)
        # What all tasks share is a value of the graph: it goes to a worker once.
        writer = f"writer-{name}"
        graph[writer] = self._writer
        written = []
        for number, group in enumerate(self._groups):
            chosen = [self._files[place] for place in group.wanted.tolist()]
            load: Load
            pieces: Any
            if stored is None:
                load, pieces = slice_pieces, _turn_tasks(group, turn_block, name, number, graph)
                parts = _parts(len(chosen), self._plan.genes_per_block)
            else:
                load, pieces = read_genes, f"pieces-{name}-{number}"
                # In a partial, or dask would look for keys and tasks in these tuples.
                graph[pieces] = (partial(list, stored[number].pieces),)
                parts = self._counted_parts(stored[number])
            for part in parts:
                write = partial(join_and_write, load, part.start, part.stop, chosen[part])
                written.append((f"write-{name}", number, part.start))
                graph[written[-1]] = (write, writer, pieces)
        return _delayed(written, graph, name)

    def _counted_parts(self, stored: Stored) -> list[slice]:
        most = self._plan.joined_values
        # Each gene of each piece takes a few bytes too, whether or not it has values.
        most_genes = min(self._plan.genes_per_block, most // len(stored.pieces))
        return gene_runs(stored.values_per_gene, most_values=most, most_genes=most_genes)

    @property
    def _groups(self) -> Sequence[GeneGroup]:
        return () if self._reads is None else self._reads.groups

    def _begin(self, *, reads: bool = True) -> tuple[dict[Any, Any], str]:
        graph = dict(self._reads.graph) if reads and self._reads is not None else {}
        return graph, uuid.uuid4().hex


def _reads(genes: Mapping[str, Gene], plan: Plan) -> GeneReads | None:
    expression = next(iter(genes.values())).expression
    if expression is None:
        return None
    columns = np.array([gene.position for gene in genes.values()], dtype=np.intp)
    return expression.gene_reads(
        columns, block_values=plan.block_values, most_genes=plan.genes_per_block
    )


def _delayed(keys: Sequence[Any], graph: dict[Any, Any], name: str) -> list[Delayed]:
    layers = HighLevelGraph.from_collections(name, graph)
    return [Delayed(key, layers, layer=name) for key in keys]


def _turn_tasks(
    group: GeneGroup, task: Callable[..., Any], name: str, number: int, graph: dict[Any, Any]
) -> list[Any]:
    """Add a task for each of a group's blocks to a graph; gives their keys."""
    columns = f"columns-{name}-{number}"
    graph[columns] = group.columns
    keys = [(f"turn-{name}", number, place) for place in range(len(group.blocks))]
    for key, block in zip(keys, group.blocks, strict=True):
        graph[key] = (partial(task, block.read, block.first_row), columns, *block.inputs)
    return keys


def _merge_tasks(keys: list[Any], name: str, graph: dict[Any, Any]) -> Any:
    """Merge what was stored; gives the last task's key.

    Through a tree: one task that needs everything would make dask decode every shared chunk before
    the first block.
    """
    level = 0
    while len(keys) > 1:
        groups = [keys[begin : begin + _MERGED] for begin in range(0, len(keys), _MERGED)]
        keys = [(name, level, number) for number in range(len(groups))]
        graph.update({key: (merge_stored, group) for key, group in zip(keys, groups, strict=True)})
        level += 1
    return keys[0]


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
