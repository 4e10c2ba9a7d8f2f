"""Stored chunks that several tasks need: decoded once, by a task of their own.

Blocks are cut where rows or genes begin, stored chunks anywhere. Ranges of values are (k, 2)
arrays of first and past-the-last position, rising, none of them empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.source import PartsReader

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


class SharedChunks:
    """Tasks for the stored chunks of an array that more than one block needs.

    Parameters
    ----------
    reader
        A 1-D stored array.
    blocks
        The ranges that each block reads.
    name
        Of the tasks, unique in their graph.
    reader_key
        Key of the reader in that graph.

    Attributes
    ----------
    graph
        A task per chunk; each computes to the chunk's values.
    """

    def __init__(
        self, reader: PartsReader, blocks: Sequence[Ranges], name: str, reader_key: str
    ) -> None:
        self._name = name
        self._of_block: list[list[int]] = [[] for _ in blocks]
        self.graph: dict[Any, Any] = {}
        if reader.chunks is None or len(blocks) < 2:
            return
        touched = [chunks_touched(ranges, reader.chunks[0]) for ranges in blocks]
        numbers, counts = np.unique(np.concatenate(touched), return_counts=True)
        shared = set(numbers[counts > 1].tolist())
        self._of_block = [[one for one in block.tolist() if one in shared] for block in touched]
        self.graph = {
            (name, number): (partial(_read_chunk, number), reader_key) for number in shared
        }

    def numbers(self, block: int) -> list[int]:
        """Numbers of the shared chunks that a block needs."""
        return self._of_block[block]

    def keys(self, block: int) -> list[tuple[str, int]]:
        """Keys of their tasks."""
        return [(self._name, number) for number in self._of_block[block]]


def _read_chunk(number: int, reader: PartsReader) -> NDArray[Any]:
    assert reader.chunks is not None
    begin = number * reader.chunks[0]
    return reader.read(slice(begin, min(begin + reader.chunks[0], reader.shape[0])))


def read_ranges(
    reader: PartsReader, ranges: Ranges, /, decoded: Mapping[int, NDArray[Any]] | None = None
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
    for begin, values in read_stretches(reader, ranges, decoded or {}):
        end = begin + len(values)
        first = int(np.searchsorted(ranges[:, 1], begin, side="right"))
        last = int(np.searchsorted(ranges[:, 0], end, side="left"))
        for number in range(first, last):
            low, high = max(begin, int(ranges[number, 0])), min(end, int(ranges[number, 1]))
            shift = int(shifts[number])
            out[low + shift : high + shift] = values[low - begin : high - begin]
    return out


def read_positions(
    reader: PartsReader,
    positions: NDArray[np.int64],
    /,
    decoded: Mapping[int, NDArray[Any]] | None = None,
) -> NDArray[Any]:
    """Read single values of a 1-D stored array; chunks that hold none of them are left alone.

    Parameters
    ----------
    reader
        The stored array.
    positions
        int64 (n,), rising.
    decoded
        Values of chunks that need not be read any more, by number.

    Returns
    -------
    numpy.ndarray
        (n,), of the reader's dtype.
    """
    out = np.empty(len(positions), dtype=reader.dtype)
    if not len(positions):
        return out
    numbers = positions // (reader.chunks[0] if reader.chunks else reader.shape[0])
    firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
    lasts = np.append(firsts[1:], len(positions)) - 1
    ranges = np.stack([positions[firsts], positions[lasts] + 1], axis=1)
    for begin, values in read_stretches(reader, ranges, decoded or {}):
        low, high = np.searchsorted(positions, [begin, begin + len(values)]).tolist()
        out[low:high] = values[positions[low:high] - begin]
    return out


def read_stretches(
    reader: PartsReader, ranges: Ranges, /, decoded: Mapping[int, NDArray[Any]]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read what ranges of a 1-D stored array lie in, a part at a time; no stored chunk twice.

    Parameters
    ----------
    reader
        The stored array.
    ranges
        What is needed.
    decoded
        Values of chunks that need not be read any more, by number.

    Yields
    ------
    tuple
        First position, and the values from there on, not to be written to; rising, apart from each
        other. They may reach beyond the ranges.
    """
    for low, high, number in _pieces(reader, ranges, decoded):
        begin = low
        for values in (decoded[number],) if number in decoded else reader.parts(low, high):
            yield begin, values
            begin += len(values)


def _pieces(
    reader: PartsReader, ranges: Ranges, decoded: Mapping[int, NDArray[Any]]
) -> Iterator[tuple[int, int, int]]:
    """Cut what ranges lie in into runs of chunks: bounds, and -1 or the number of a known chunk."""
    if reader.chunks is None:
        for begin, end in ranges.tolist():
            yield begin, end, -1
        return
    chunk = reader.chunks[0]
    touched = chunks_touched(ranges, chunk)
    known = np.isin(touched, list(decoded))
    apart = (np.diff(touched) != 1) | known[1:] | known[:-1]
    for run in np.split(touched, np.flatnonzero(apart) + 1) if len(touched) else ():
        low, high = int(run[0]) * chunk, (int(run[-1]) + 1) * chunk
        if int(run[0]) in decoded:
            yield low, high, int(run[0])
            continue
        first = int(np.searchsorted(ranges[:, 1], low, side="right"))
        last = int(np.searchsorted(ranges[:, 0], high, side="left")) - 1
        yield max(low, int(ranges[first, 0])), min(high, int(ranges[last, 1])), -1
