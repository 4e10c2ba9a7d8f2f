"""Arrays made of tasks: row ranges, trees, marks of what may be spilled."""

from __future__ import annotations

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellucid_lazy import graph
from cellucid_lazy.graph import SPLIT_EVERY, map_row_ranges, merge_tree, spillable
from tests.helpers import compute, graph_bytes
from tests.transforms.stand_ins import StandIn, compute_spilled


def row_totals(rows, numbers, extra):
    """A number per row: of its values, its own number, and all of the third array."""
    return rows.sum(axis=1) + numbers + extra.sum()


def shape_of(rows):
    return np.array([rows.shape])


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
    st.booleans(),
)
def test_ranges_of_rows_are_independent_of_chunks(n, rows, cuts, other_cuts, exclusive):
    values, numbers = np.arange(2 * n).reshape(n, 2), np.arange(n) * 100
    arrays = chunked(values, cuts), chunked(numbers, other_cuts)
    extra = da.from_array(np.arange(3), chunks=1)
    found = map_row_ranges(
        row_totals, rows, arrays=arrays, broadcast=(extra,), dtype=np.int64, exclusive=exclusive
    )
    graph_bytes(found)
    np.testing.assert_array_equal(compute(found), values.sum(axis=1) + numbers + 3)
    shapes = map_row_ranges(shape_of, rows, arrays=arrays[:1], shape=(1, 2), dtype=np.int64)
    expected = [min(rows, n - start) for start in range(0, n, rows)] or [0]
    assert shapes.shape == (len(expected), 2)
    assert compute(shapes).tolist() == [[length, 2] for length in expected]


def test_a_whole_block_is_passed_without_a_copy():
    block = np.zeros((4, 1))
    assert graph.join_rows([block]) is block
    assert graph.join_rows([block[:2], block]).shape == (6, 1)


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


@pytest.mark.parametrize("layout", ["array", "csr", "csc"])
def test_blocks_of_a_chunk_of_columns(layout):
    dense = np.arange(12.0).reshape(4, 3)
    matrix = dense if layout == "array" else sparse.csr_matrix(dense).asformat(layout)
    lazy = da.from_array(matrix, chunks=(2, (1, 2)), asarray=False, meta=matrix[:0, :0])
    part = graph.column_blocks(lazy, 1)
    assert (part.chunks, part.dtype) == (((2, 2), (2,)), dense.dtype)
    found = dask.compute(*(part[rows] for rows in (slice(2), slice(2, 4))))
    assert all(sparse.issparse(block) == (layout != "array") for block in found)
    rows = [block.toarray() if sparse.issparse(block) else block for block in found]
    np.testing.assert_array_equal(np.concatenate(rows), dense[:, 1:])


def test_a_mark_changes_nothing_unless_blocks_are_saved():
    values = np.arange(20.0).reshape(10, 2)
    array = da.from_array(values, chunks=(4, 2))
    marked = spillable(array)
    assert (marked.shape, marked.chunks, marked.dtype) == (array.shape, array.chunks, array.dtype)
    assert spillable(marked) is marked
    assert spillable(array).name == marked.name
    graph_bytes(marked)
    assert compute(marked).tobytes() == values.tobytes()
    merged = graph.merge_graphs([marked, marked + 1, spillable(array)])
    assert graph.spillable_bytes(merged) == values.nbytes
    assert graph.spillable_bytes(graph.merge_graphs([array])) == 0
    unknown = spillable(array * 2, n_bytes=77)
    assert graph.spillable_bytes(graph.merge_graphs([unknown])) == 77
    blocks = graph.with_spilling(merged, StandIn)
    keys = graph.block_keys(marked)
    found = dask.threaded.get(graph.optimize_graph(blocks, keys), keys)
    assert all(isinstance(block, StandIn) for block in found)
    assert pickle.loads(pickle.dumps(found[0]))[1:3].tobytes() == values[1:3].tobytes()


def test_saved_blocks_are_read_by_whatever_takes_the_array():
    values = np.arange(20.0).reshape(10, 2)
    marked = spillable(da.from_array(values, chunks=(4, 2)))
    rows = map_row_ranges(shape_of, 3, arrays=(marked,), shape=(1, 2), dtype=np.int64)
    negative = graph.map_indexed(np.negative, "ij", marked, "ij", dtype=float)
    found = compute_spilled([rows, negative])
    assert found[0].tolist() == compute(rows).tolist()
    assert found[1].tobytes() == (-values).tobytes()
