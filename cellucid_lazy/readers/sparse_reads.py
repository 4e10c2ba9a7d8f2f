"""Genes of stored sparse matrices for a pass over them: each stored chunk is read once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from cellucid_lazy.readers.shared_chunks import Ranges, ranges_of, share_chunks
from cellucid_lazy.readers.sparse_array import SparseReader
from cellucid_lazy.source import BlockRead, GeneGroup, GeneReads

_Decoded = Mapping[int, NDArray[Any]]


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
    node = _node(reader)
    pointers = reader.pointers(0, reader.n_major)
    rows = _equal_cut(pointers, block_values)
    values = pointers[rows]
    begins = _node(pointers)
    ranges = [ranges_of(values[k : k + 1], values[k + 1 : k + 2]) for k in range(len(rows) - 1)]
    blocks = []
    for number, decoded in enumerate(_decoded_chunks(reader, node, ranges)):
        start, stop = int(rows[number]), int(rows[number + 1])
        read = partial(_read_rows, start=start, stop=stop)
        blocks.append(BlockRead(start, read, (node, begins, *decoded)))
    every = len(genes) == reader.shape[1] and bool((np.diff(genes) == 1).all())
    return GeneReads([GeneGroup(np.arange(len(genes)), None if every else genes, blocks)])


def _equal_cut(pointers: NDArray[np.int64], block_values: int) -> NDArray[np.intp]:
    """Find the rows that blocks begin with, and the number of rows."""
    n_blocks = -(-int(pointers[-1]) // max(1, block_values))
    wanted = np.arange(1, n_blocks) * block_values
    inner = np.unique(np.searchsorted(pointers, wanted, side="right") - 1)
    last = len(pointers) - 1
    return np.concatenate([[0], inner[(inner > 0) & (inner < last)], [last]])


def _read_rows(
    reader: SparseReader,
    pointers: NDArray[np.int64],
    data: _Decoded,
    indices: _Decoded,
    *,
    start: int,
    stop: int,
) -> Any:
    begins, ends = pointers[start:stop], pointers[start + 1 : stop + 1]
    return reader.select(begins, ends, between=(start, stop), decoded=(data, indices))


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
    node = _node(reader)
    pointers = reader.pointers(0, reader.n_major)
    columns, place = np.unique(genes, return_inverse=True)
    begins, ends = pointers[columns], pointers[columns + 1]
    runs = _runs(ends - begins, block_values, most_genes)
    decoded = _decoded_chunks(reader, node, [ranges_of(begins[run], ends[run]) for run in runs])
    groups = []
    for run, chunks in zip(runs, decoded, strict=True):
        wanted = np.flatnonzero((place >= run.start) & (place < run.stop))
        between = (int(columns[run.start]), int(columns[run.stop - 1]) + 1)
        read = partial(_read_genes, begins=begins[run], ends=ends[run], between=between)
        block = BlockRead(0, read, (node, *chunks))
        groups.append(GeneGroup(wanted, place[wanted] - run.start, [block]))
    return GeneReads(groups)


def _runs(lengths: NDArray[np.int64], most_values: int, most: int) -> list[slice]:
    """Cut a sequence of genes into runs of at most so many values and genes."""
    by_values = (np.cumsum(lengths) - lengths) // max(1, most_values)
    by_number = np.arange(len(lengths)) // max(1, most)
    inner = np.flatnonzero(np.diff(by_values) | np.diff(by_number)) + 1
    borders = [0, *inner.tolist(), len(lengths)]
    return [slice(*pair) for pair in itertools.pairwise(borders)]


def _read_genes(
    reader: SparseReader,
    data: _Decoded,
    indices: _Decoded,
    *,
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    between: tuple[int, int],
) -> Any:
    return reader.select(begins, ends, between=between, decoded=(data, indices))


def _node(value: Any) -> Delayed:
    """A thing that all tasks share, as a task of its own: a graph holds it once."""
    return dask.delayed(value, pure=False, traverse=False)


def _decoded_chunks(
    reader: SparseReader, node: Delayed, blocks: Sequence[Ranges]
) -> list[tuple[dict[int, Delayed], dict[int, Delayed]]]:
    shared = [
        share_chunks(getattr(reader, part), getattr(node, part), blocks)
        for part in ("data", "indices")
    ]
    return list(zip(*shared, strict=True))
