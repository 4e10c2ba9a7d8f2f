"""Genes of stored sparse matrices for a pass over them: each stored chunk is read once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.readers.shared_chunks import Ranges, SharedChunks, ranges_of
from cellucid_lazy.readers.sparse_array import SparseReader
from cellucid_lazy.source import BlockRead, GeneGroup, GeneReads
from cellucid_lazy.transforms.gene_major import gene_runs

_Numbers = tuple[list[int], list[int]]


def reads_by_cell(
    reader: SparseReader, genes: NDArray[np.intp], /, *, block_values: int
) -> GeneReads:
    """Read genes of a CSR matrix: blocks of whole rows that hold about equally many values.

    Where rows begin is read once, here, and goes to the tasks as one array of 8 bytes per cell.

    Parameters
    ----------
    reader
        The stored matrix.
    genes
        Columns wanted.
    block_values
        Values aimed at per block.

    Returns
    -------
    GeneReads
        One group.

    Raises
    ------
    DataError
        When the matrix cannot be read, or is inconsistent.
    """
    pointers = reader.pointers(0, reader.n_major)
    rows = _equal_cut(pointers, block_values)
    cut = pointers[rows]
    ranges = [ranges_of(cut[k : k + 1], cut[k + 1 : k + 2]) for k in range(len(rows) - 1)]
    shared = _Shared.of(reader, ranges)
    begins, chosen = f"begins-{shared.name}", f"genes-{shared.name}"
    minor, place = np.unique(genes, return_inverse=True)
    blocks = []
    for number, (start, stop) in enumerate(pairwise(rows.tolist())):
        read = partial(_read_rows, start, stop, shared.numbers(number))
        blocks.append(BlockRead(start, read, (*shared.inputs(number), begins, chosen)))
    in_order = len(minor) == len(place) and bool((np.diff(place) == 1).all())
    group = GeneGroup(np.arange(len(genes)), None if in_order else place, blocks)
    every = len(minor) == reader.n_minor
    return GeneReads([group], {**shared.graph, begins: pointers, chosen: None if every else minor})


def _equal_cut(pointers: NDArray[np.int64], block_values: int) -> NDArray[np.intp]:
    """Find the rows that blocks begin with, and the number of rows."""
    n_blocks = -(-int(pointers[-1]) // max(1, block_values))
    wanted = np.arange(1, n_blocks) * block_values
    inner = np.unique(np.searchsorted(pointers, wanted, side="right") - 1)
    last = len(pointers) - 1
    return np.concatenate([[0], inner[(inner > 0) & (inner < last)], [last]])


def _read_rows(
    start: int,
    stop: int,
    numbers: _Numbers,
    reader: SparseReader,
    data: list[NDArray[Any]],
    indices: list[NDArray[Any]],
    pointers: NDArray[np.int64],
    chosen: NDArray[np.intp] | None,
) -> Any:
    rows, between = pointers[start : stop + 1], (start, stop)
    decoded = _by_number(numbers, data, indices)
    if chosen is None:
        return reader.select(rows[:-1], rows[1:], between=between, decoded=decoded)
    return reader.pick(rows, chosen, between=between, decoded=decoded)


def reads_by_gene(
    reader: SparseReader, genes: NDArray[np.intp], /, *, block_values: int, most_genes: int
) -> GeneReads:
    """Read genes of a CSC matrix: only the chunks that they lie in.

    Parameters
    ----------
    reader
        The stored matrix.
    genes
        Columns wanted.
    block_values, most_genes
        Values, and genes, that are read together at most; a gene is read whole.

    Returns
    -------
    GeneReads
        A group for each run of genes, one block each.

    Raises
    ------
    DataError
        When the matrix cannot be read, or is inconsistent.
    """
    pointers = reader.pointers(0, reader.n_major)
    columns, place = np.unique(genes, return_inverse=True)
    begins, ends = pointers[columns], pointers[columns + 1]
    runs = gene_runs(ends - begins, most_values=block_values, most_genes=most_genes)
    shared = _Shared.of(reader, [ranges_of(begins[run], ends[run]) for run in runs])
    groups = []
    for number, run in enumerate(runs):
        wanted = np.flatnonzero((place >= run.start) & (place < run.stop))
        between = (int(columns[run.start]), int(columns[run.stop - 1]) + 1)
        read = partial(_read_genes, begins[run], ends[run], between, shared.numbers(number))
        block = BlockRead(0, read, shared.inputs(number))
        groups.append(GeneGroup(wanted, place[wanted] - run.start, [block]))
    return GeneReads(groups, shared.graph)


def _read_genes(
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    between: tuple[int, int],
    numbers: _Numbers,
    reader: SparseReader,
    data: list[NDArray[Any]],
    indices: list[NDArray[Any]],
) -> Any:
    decoded = _by_number(numbers, data, indices)
    return reader.select(begins, ends, between=between, decoded=decoded)


class _Shared(NamedTuple):
    """What the blocks of a matrix share: the reader, and chunks of data and of indices."""

    name: str
    data: SharedChunks
    indices: SharedChunks
    graph: dict[Any, Any]

    @classmethod
    def of(cls, reader: SparseReader, blocks: Sequence[Ranges]) -> _Shared:
        name = uuid.uuid4().hex
        # As values of their own, data in memory are in a graph once.
        keys = {part: f"{part}-{name}" for part in ("reader", "data", "indices")}
        data = SharedChunks(reader.data, blocks, f"data-chunk-{name}", keys["data"])
        indices = SharedChunks(reader.indices, blocks, f"indices-chunk-{name}", keys["indices"])
        values = {
            keys["reader"]: reader,
            keys["data"]: reader.data,
            keys["indices"]: reader.indices,
        }
        return cls(name, data, indices, {**values, **data.graph, **indices.graph})

    def numbers(self, block: int) -> _Numbers:
        return self.data.numbers(block), self.indices.numbers(block)

    def inputs(self, block: int) -> tuple[Any, ...]:
        return f"reader-{self.name}", self.data.keys(block), self.indices.keys(block)


def _by_number(
    numbers: _Numbers, data: list[NDArray[Any]], indices: list[NDArray[Any]]
) -> tuple[dict[int, NDArray[Any]], dict[int, NDArray[Any]]]:
    return (
        dict(zip(numbers[0], data, strict=True)),
        dict(zip(numbers[1], indices, strict=True)),
    )
