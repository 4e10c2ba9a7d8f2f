"""Ranges of a chunked array, read by several blocks: the right values, each chunk once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellucid_lazy.readers.shared_chunks import (
    SharedChunks,
    chunks_touched,
    ranges_of,
    read_positions,
    read_ranges,
)


@dataclass(eq=False)
class Counted:
    """A stored array of 0, 1, 2, ... that counts how often each chunk is decoded."""

    length: int
    chunk: int | None
    decoded: Counter[int] = field(default_factory=Counter)
    token = "counted"
    dtype = np.dtype(np.int64)

    @property
    def shape(self):
        return (self.length,)

    @property
    def chunks(self):
        return None if self.chunk is None else (self.chunk,)

    def read(self, span):
        assert 0 <= span.start < span.stop <= self.length
        if self.chunk is not None:
            self.decoded.update(range(span.start // self.chunk, -(-span.stop // self.chunk)))
        return np.arange(span.start, span.stop)

    def parts(self, start, stop):
        values = self.read(slice(start, stop))
        yield from np.split(values, np.arange(0, len(values), self.chunk or 7)[1:])


@st.composite
def slices(draw):
    """Slices as rows of a matrix have them: rising, some empty, some left out."""
    borders = np.cumsum([0, *draw(st.lists(st.integers(0, 40), min_size=1, max_size=30))])
    taken = np.array(draw(st.lists(st.booleans(), min_size=len(borders) - 1, max_size=200)))
    taken = np.flatnonzero(taken[: len(borders) - 1])
    return borders[taken], borders[taken + 1], int(borders[-1]) + draw(st.integers(0, 9))


@settings(max_examples=300, deadline=None)
@given(case=slices(), chunk=st.none() | st.integers(1, 60), data=st.data())
def test_blocks_read_their_values_and_together_each_chunk_once(case, chunk, data):
    begins, ends, length = case
    reader = Counted(length, chunk)
    cuts = data.draw(st.lists(st.integers(0, len(begins)), max_size=6).map(sorted))
    pairs = zip([0, *cuts], [*cuts, len(begins)], strict=True)
    blocks = [ranges_of(begins[low:high], ends[low:high]) for low, high in pairs]
    shared = SharedChunks(reader, blocks, "chunk", "reader")
    found = []
    chunks = {key: task[0](reader) for key, task in shared.graph.items()}
    for number, ranges in enumerate(blocks):
        values = [chunks[key] for key in shared.keys(number)]
        decoded = dict(zip(shared.numbers(number), values, strict=True))
        found.append(read_ranges(reader, ranges, decoded))
    expected = [np.arange(*pair) for pair in zip(begins, ends, strict=True)]
    assert np.concatenate(found).tolist() == [one for part in expected for one in part]
    assert all(values.dtype == reader.dtype for values in found)
    if chunk is not None:
        needed = {one // chunk for part in expected for one in part.tolist()}
        assert reader.decoded == dict.fromkeys(needed, 1)


@settings(max_examples=200, deadline=None)
@given(
    taken=st.sets(st.integers(0, 199), max_size=60),
    chunk=st.none() | st.integers(1, 60),
    known=st.sets(st.integers(0, 199), max_size=5),
)
def test_single_values_leave_other_chunks_alone(taken, chunk, known):
    reader = Counted(200, chunk)
    decoded = {}
    if chunk is not None:
        firsts = [one * chunk for one in known if one * chunk < 200]
        decoded = {one // chunk: np.arange(one, min(one + chunk, 200)) for one in firsts}
    positions = np.array(sorted(taken), dtype=np.int64)
    assert read_positions(reader, positions, decoded).tolist() == sorted(taken)
    if chunk is not None:
        needed = {one // chunk for one in taken} - set(decoded)
        assert reader.decoded == dict.fromkeys(needed, 1)


def test_ranges_join_neighbours_and_leave_out_empty_ones():
    begins = np.array([3, 5, 5, 9, 20])
    ends = np.array([5, 5, 9, 9, 21])
    ranges = ranges_of(begins, ends)
    assert ranges.tolist() == [[3, 9], [20, 21]]
    assert chunks_touched(ranges, 4).tolist() == [0, 1, 2, 5]
    assert ranges_of(begins[:0], ends[:0]).shape == (0, 2)
    assert chunks_touched(ranges[:0], 4).tolist() == []


def test_only_what_is_needed_of_a_chunk_is_asked_for():
    reader = Counted(100, 50)
    spans = []
    read = reader.read
    reader.read = lambda span: spans.append((span.start, span.stop)) or read(span)
    read_ranges(reader, np.array([[60, 62], [70, 71]]))
    assert spans == [(60, 71)]
