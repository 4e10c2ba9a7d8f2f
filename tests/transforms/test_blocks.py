from __future__ import annotations

import dask.array as da
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellucid_lazy.transforms.blocks import SPLIT_EVERY, map_rows, merge_tree
from tests.helpers import compute, graph_bytes


def row_totals(pieces, joined, whole):
    """A number per row: of the values in pieces, the joined number, and all of the third array."""
    assert all(len(piece) for piece in pieces) or sum(map(len, pieces)) == 0
    return np.concatenate([piece.sum(axis=1) for piece in pieces]) + joined + whole.sum()


def shape_of(pieces):
    return np.array([[sum(map(len, pieces)), len(pieces)]])


def chunked(array, cuts):
    borders = sorted({0, len(array), *(cut for cut in cuts if cut < len(array))})
    lengths = tuple(np.diff(borders).tolist()) or (0,)
    return da.from_array(array, chunks=(lengths, *array.shape[1:]))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 30),
    st.integers(1, 31),
    st.lists(st.integers(1, 30), max_size=8),
    st.lists(st.integers(1, 30), max_size=8),
)
def test_rows_are_cut_anew_whatever_the_chunks(n, rows, cuts, other_cuts):
    values, numbers = np.arange(2 * n).reshape(n, 2), np.arange(n) * 100
    arrays = chunked(values, cuts), chunked(numbers, other_cuts)
    extra = da.from_array(np.arange(3), chunks=1)
    found = map_rows(
        row_totals, rows, pieces=arrays[:1], joined=arrays[1:], whole=(extra,), dtype=np.int64
    )
    graph_bytes(found)
    np.testing.assert_array_equal(compute(found), values.sum(axis=1) + numbers + 3)
    shapes = map_rows(shape_of, rows, pieces=arrays[:1], shape=(1, 2), dtype=np.int64)
    expected = [min(rows, n - start) for start in range(0, n, rows)] or [0]
    assert shapes.shape == (len(expected), 2)
    assert compute(shapes)[:, 0].tolist() == expected


def test_a_block_that_fits_is_handed_over_as_it_is():
    values = da.zeros((8, 1), chunks=(4, 1))
    found = map_rows(shape_of, 4, pieces=(values,), shape=(1, 2), dtype=np.int64)
    assert compute(found).tolist() == [[4, 1], [4, 1]]
    assert len(dict(found.__dask_graph__())) == 4


def note(parts):
    return np.array([[f"({'+'.join(part[0, 0] for part in parts)})"]], dtype=object)


def nested(items):
    """What the tree makes of some blocks."""
    while len(items) > SPLIT_EVERY:
        groups = [items[i : i + SPLIT_EVERY] for i in range(0, len(items), SPLIT_EVERY)]
        items = [f"({'+'.join(group)})" for group in groups]
    return f"({'+'.join(items)})"


def test_the_tree_depends_on_the_number_of_blocks_only():
    assert SPLIT_EVERY == 8
    for n, last in ((1, 1), (2, 2), (8, 8), (9, 2), (67, 2)):
        names = [str(i) for i in range(n)]
        blocks = da.from_array(np.array(names, dtype=object)[:, None], chunks=1)
        merged = merge_tree(blocks, note, shape=(1, 1), dtype=object)
        assert compute(merged)[0, 0] == nested(names)
        assert compute(merge_tree(blocks, note, len, shape=(), dtype=np.int64)) == last
