"""Stored chunks that several tasks need: decoded once, by a task of their own.

Blocks are cut where rows or genes begin, stored chunks anywhere. Ranges of values are (k, 2)
arrays of first and past-the-last position, rising, none of them empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from cellucid_lazy.source import ArrayReader

Ranges = NDArray[np.int64]


def ranges_of(begins: NDArray[np.int64], ends: NDArray[np.int64], /) -> Ranges:
    """Join slices of a 1-D array that follow each other, and leave out empty ones.

    Parameters
    ----------
    begins, ends
        int64 (n,), rising: each slice begins no earlier than the one before it ends.

    Returns
    -------
    numpy.ndarray
        int64 (k, 2), k at most n.
    """
    some = ends > begins
    begins, ends = begins[some], ends[some]
    apart = begins[1:] != ends[:-1]
    firsts = np.concatenate([begins[:1], begins[1:][apart]])
    lasts = np.concatenate([ends[:-1][apart], ends[-1:]])
    return np.stack([firsts, lasts], axis=1)


def chunks_touched(ranges: Ranges, chunk: int, /) -> NDArray[np.int64]:
    """Numbers of the chunks of length ``chunk`` that ranges lie in, rising, each once."""
    firsts = ranges[:, 0] // chunk
    counts = (ranges[:, 1] - 1) // chunk - firsts + 1
    skipped = np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    return np.unique(skipped + np.arange(len(skipped)))


def share_chunks(
    reader: ArrayReader, node: Delayed, blocks: Sequence[Ranges], /
) -> list[dict[int, Delayed]]:
    """Make a task for each stored chunk that more than one block needs.

    Parameters
    ----------
    reader
        A 1-D stored array.
    node
        The same reader as a task, so that data in memory are in a graph once.
    blocks
        The ranges that each block reads.

    Returns
    -------
    list of dict
        For each block its shared chunks by number; each computes to the chunk's values.
    """
    if reader.chunks is None or len(blocks) < 2:
        return [{} for _ in blocks]
    touched = [chunks_touched(ranges, reader.chunks[0]) for ranges in blocks]
    numbers, counts = np.unique(np.concatenate(touched), return_counts=True)
    shared = {
        number: dask.delayed(_read_chunk, pure=False)(node, number)
        for number in numbers[counts > 1].tolist()
    }
    return [
        {number: shared[number] for number in block.tolist() if number in shared}
        for block in touched
    ]


def _read_chunk(reader: ArrayReader, number: int) -> NDArray[Any]:
    assert reader.chunks is not None
    begin = number * reader.chunks[0]
    return reader.read(slice(begin, min(begin + reader.chunks[0], reader.shape[0])))


def read_ranges(
    reader: ArrayReader, ranges: Ranges, /, decoded: Mapping[int, NDArray[Any]] | None = None
) -> NDArray[Any]:
    """Read ranges of a 1-D stored array, one after the other; no stored chunk twice.

    Parameters
    ----------
    reader
        The stored array.
    ranges
        What to read.
    decoded
        Values of chunks that need not be read any more, by number.

    Returns
    -------
    numpy.ndarray
        1-D, of the reader's dtype.
    """
    if len(ranges) == 1 and not decoded:
        return reader.read(slice(int(ranges[0, 0]), int(ranges[0, 1])))
    lengths = ranges[:, 1] - ranges[:, 0]
    # Where a range would begin in the result, were it read from position 0 on.
    shifts = np.cumsum(lengths) - ranges[:, 1]
    out = np.empty(int(lengths.sum()), dtype=reader.dtype)
    for begin, values in _stretches(reader, ranges, decoded or {}):
        end = begin + len(values)
        first = int(np.searchsorted(ranges[:, 1], begin, side="right"))
        last = int(np.searchsorted(ranges[:, 0], end, side="left"))
        for number in range(first, last):
            low, high = max(begin, int(ranges[number, 0])), min(end, int(ranges[number, 1]))
            shift = int(shifts[number])
            out[low + shift : high + shift] = values[low - begin : high - begin]
    return out


def _stretches(
    reader: ArrayReader, ranges: Ranges, decoded: Mapping[int, NDArray[Any]]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read what the ranges lie in: first position, and the values from there on."""
    if reader.chunks is None:
        for begin, end in ranges.tolist():
            yield begin, reader.read(slice(begin, end))
        return
    chunk = reader.chunks[0]
    touched = chunks_touched(ranges, chunk)
    known = np.isin(touched, list(decoded))
    for number in touched[known].tolist():
        yield number * chunk, decoded[number]
    rest = touched[~known]
    for run in np.split(rest, np.flatnonzero(np.diff(rest) != 1) + 1) if len(rest) else ():
        low, high = int(run[0]) * chunk, (int(run[-1]) + 1) * chunk
        first = int(np.searchsorted(ranges[:, 1], low, side="right"))
        last = int(np.searchsorted(ranges[:, 0], high, side="left")) - 1
        low, high = max(low, int(ranges[first, 0])), min(high, int(ranges[last, 1]))
        yield low, reader.read(slice(low, high))
