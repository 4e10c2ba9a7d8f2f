"""The gene pass: any number of genes in one bounded pass over their matrix.

Two phases. First one task per block of cells turns it into a piece, gene after gene; then one task
per block of genes joins its slice of every piece and encodes each column, all the way to its file.
There is never a task per gene, and nothing but facts goes back. Of a matrix that is stored by gene
a block holds all cells of a few genes, and its piece is all there is to join.
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
from numpy.typing import NDArray

from cellucid_lazy.gene import Gene
from cellucid_lazy.gene_writer import Encoded, Writer
from cellucid_lazy.plan import Plan, plan_genes, plan_zeros
from cellucid_lazy.sinks.encode import Target
from cellucid_lazy.sinks.scratch import StoredPiece, store_piece
from cellucid_lazy.source import GeneGroup
from cellucid_lazy.transforms.gene_major import GeneBlock, Piece, join_pieces, piece_of

# Handles gathered by one task; the more, the more chunks wait for the blocks that share them.
_GATHERED = 8


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
        by_gene=expression.by_gene,
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
        zeros = dask.delayed(_write_zeros, pure=False)
        return [
            zeros(first.n_cells, Writer(target, first.bits, None), files[part])
            for part in _parts(len(files), plan.genes_per_block)
        ]
    columns = np.array([gene.position for gene in genes.values()], dtype=np.intp)
    reads = expression.gene_reads(
        columns, block_values=plan.block_values, most_genes=plan.genes_per_block
    )
    name = uuid.uuid4().hex
    writer = f"writer-{name}"
    # What all tasks share is a value of the graph: it goes to a worker once.
    graph = {**reads.graph, writer: Writer(target, first.bits, reads.cells)}
    written = []
    for number, group in enumerate(reads.groups):
        pieces = _turn_tasks(group, f"{name}-{number}", graph, scratch)
        chosen = [files[place] for place in group.wanted.tolist()]
        for part in _parts(len(chosen), plan.genes_per_block):
            write = partial(_join_and_write, part.start, part.stop, chosen[part])
            written.append((f"write-{name}", number, part.start))
            graph[written[-1]] = (write, writer, pieces)
    layers = HighLevelGraph.from_collections(name, graph)
    return [Delayed(key, layers, layer=name) for key in written]


def _turn_tasks(group: GeneGroup, name: str, graph: dict[Any, Any], scratch: str | None) -> Any:
    """Add the tasks that turn a group's blocks to a graph; gives what names their pieces."""
    columns = f"columns-{name}"
    graph[columns] = group.columns
    pieces: list[Any] = []
    for number, block in enumerate(group.blocks):
        pieces.append((f"turn-{name}", number))
        turn = partial(_turn, block.read, block.first_row, scratch)
        graph[pieces[-1]] = (turn, columns, *block.inputs)
    return pieces if scratch is None else _gather(pieces, f"gather-{name}", graph)


def _gather(keys: list[Any], name: str, graph: dict[Any, Any]) -> Any:
    """Gather handles of scratch files once for all tasks that read them.

    Through a tree: a list of all would be one task that needs everything, and dask would then
    decode every shared chunk before the first block. Pieces in memory are not gathered, so that on
    a cluster they stay where they are until they are needed.
    """
    level = 0
    while len(keys) > 1 or not level:
        groups = [keys[begin : begin + _GATHERED] for begin in range(0, len(keys), _GATHERED)]
        keys = [(name, level, number) for number in range(len(groups))]
        join = list if not level else _joined
        graph.update({key: (join, group) for key, group in zip(keys, groups, strict=True)})
        level += 1
    return keys[0]


def _joined(parts: list[list[Any]]) -> list[Any]:
    return [one for part in parts for one in part]


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _turn(
    read: Callable[..., Any],
    first_row: int,
    scratch: str | None,
    columns: NDArray[np.intp] | None,
    *inputs: Any,
) -> Piece | StoredPiece:
    piece = piece_of(read(*inputs), first_row=first_row, columns=columns)
    return piece if scratch is None else store_piece(piece, scratch)


def _join_and_write(
    start: int,
    stop: int,
    files: Sequence[tuple[str, str]],
    writer: Writer,
    pieces: Sequence[Piece | StoredPiece],
) -> Encoded:
    block = join_pieces([piece.genes(start, stop) for piece in pieces])
    return writer.write(block, files)


def _write_zeros(n_cells: int, writer: Writer, files: Sequence[tuple[str, str]]) -> Encoded:
    nothing = np.zeros(0, dtype=np.float32)
    indptr = np.zeros(len(files) + 1, dtype=np.int64)
    return writer.write(GeneBlock(nothing, np.zeros(0, np.int32), indptr, n_cells), files)
