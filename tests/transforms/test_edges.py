from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellucid_lazy.graph import from_graph
from cellucid_lazy.transforms import edges as ed
from tests.helpers import compute, graph_bytes, raise_if_dask_computes

WEIGHTS = st.sampled_from([1.0, -1.0, 0.5, 0.0, np.nan])


@pytest.fixture(autouse=True, scope="module")
def small_steps():
    """Many steps from few entries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ed, "_STEP_ENTRIES", 5)
        yield


def only(blocks):
    return blocks[0]


def blocks_of(matrix, rows):
    """Rows of a CSR matrix as dask blocks, entries as they are stored."""
    matrix = sparse.csr_matrix(matrix)
    n = matrix.shape[0]
    starts = range(0, max(n, 1), rows)
    name = f"csr-{tokenize(matrix.indices, matrix.indptr, matrix.data, rows)}"
    # In a list: a matrix by itself is taken for a key, or compared with one.
    graph = {(name, i, 0): (only, [matrix[start : start + rows]]) for i, start in enumerate(starts)}
    lengths = tuple(min(rows, n - start) for start in starts)
    return from_graph(name, graph, chunks=(lengths, (n,)), dtype=matrix.dtype, meta=matrix[:0, :0])


def raw_csr(entries, n):
    """CSR with entries unsorted and repeated within a row."""
    entries = sorted(entries, key=lambda entry: entry[0])
    rows = [entry[0] for entry in entries]
    indptr = np.searchsorted(rows, np.arange(n + 1))
    matrix = sparse.csr_matrix((n, n), dtype=np.float32)
    matrix.indptr = indptr.astype(np.int32)
    matrix.indices = np.array([entry[1] for entry in entries], np.int32)
    matrix.data = np.array([entry[2] for entry in entries], np.float32)
    return matrix


def naive(entries, position=None):
    pairs = set()
    for row, column, weight in entries:
        a, b = (row, column) if position is None else (position[row], position[column])
        if weight != 0 and a != b and a >= 0 and b >= 0:
            pairs.add((min(a, b), max(a, b)))
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def naive_counts(pairs):
    degrees = np.bincount(pairs.ravel(), minlength=1)
    return [len(pairs), degrees.max()]


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 15))
    cell = st.integers(0, n - 1)
    return n, draw(st.lists(st.tuples(cell, cell, WEIGHTS), max_size=40))


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(1, 16))
def test_edges_of_any_csr_at_any_chunking(graph, rows):
    n, entries = graph
    found = ed.edges(blocks_of(raw_csr(entries, n), rows), n_cells=n)
    expected = naive(entries)
    pairs = compute(found)
    assert pairs.dtype == found.dtype == np.uint16
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_array_equal(compute(ed.edge_sources(found)), expected[:, 0])
    np.testing.assert_array_equal(compute(ed.edge_destinations(found)), expected[:, 1])
    assert compute(ed.edge_counts(found)).tolist() == naive_counts(expected)


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(1, 16), st.data())
def test_edges_of_a_subset_in_another_order(graph, rows, data):
    n, entries = graph
    n_cells = data.draw(st.integers(1, n))
    position = np.full(n, -1)
    position[data.draw(st.permutations(range(n)))[:n_cells]] = np.arange(n_cells)
    expected = naive(entries, position)
    array = blocks_of(raw_csr(entries, n), rows)
    found = ed.edges(array, n_cells=n_cells, row_to_cell=position)
    np.testing.assert_array_equal(compute(found), expected)
    lazy = ed.edges(array, n_cells=n_cells, row_to_cell=da.from_array(position, chunks=3))
    np.testing.assert_array_equal(compute(lazy), expected)


def test_dense_blocks_asymmetry_and_cancelling_weights():
    dense = np.zeros((5, 5), np.float32)
    dense[0, 1], dense[1, 0] = 0.5, -0.5
    dense[4, 2] = np.nan
    dense[3, 3] = 1.0
    found = ed.edges(da.from_array(dense, chunks=(2, -1)), n_cells=5)
    assert compute(found).tolist() == [[0, 1], [2, 4]]
    assert compute(ed.edge_counts(found)).tolist() == [2, 1]


def symmetric(n, seed=0):
    matrix = sparse.random(n, n, 0.02, format="csr", random_state=seed, dtype=np.float32)
    return (matrix + matrix.T).tocsr()


def test_same_edges_as_the_reference():
    anndata = pytest.importorskip("anndata")
    cellucid = pytest.importorskip("cellucid")
    matrix = symmetric(300)
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    data = anndata.AnnData(obs={"a": np.arange(300)}, obsp={"connectivities": matrix})
    data.obsm["X_umap"] = np.zeros((300, 2), np.float32)
    sources, destinations, n_edges, most = cellucid.AnnDataAdapter(
        data
    )._compute_connectivity_edges()
    found = ed.edges(blocks_of(matrix, 70), n_cells=300)
    assert compute(ed.edge_sources(found)).tobytes() == sources.tobytes()
    assert compute(ed.edge_destinations(found)).tobytes() == destinations.tobytes()
    assert compute(ed.edge_counts(found)).tolist() == [n_edges, most]


def test_scheduler_and_range_count_do_not_matter(monkeypatch):
    array = blocks_of(symmetric(400), 20)
    expected = compute(ed.edges(array, n_cells=400))
    assert len(ed.edges(array, n_cells=400).chunks[0]) == 40
    monkeypatch.setattr(ed, "MAX_RANGES", 3)
    found = ed.edges(array, n_cells=400)
    assert len(found.chunks[0]) == 3
    np.testing.assert_array_equal(found.compute(scheduler="threads"), expected)


@pytest.mark.parametrize(
    ("n_cells", "dtype"),
    [(65_535, np.uint16), (65_536, np.uint32), (2**32 - 1, np.uint32)],
)
def test_dtype_by_number_of_cells(n_cells, dtype):
    assert ed.edge_dtype(n_cells) == dtype


@pytest.mark.parametrize("n_cells", [2**31, 2**32 - 1])
def test_cell_numbers_that_just_fit(n_cells):
    matrix = symmetric(60)
    position = np.random.default_rng(0).permutation(60) * (n_cells // 60)
    entries = sparse.coo_array(matrix)
    expected = naive(zip(entries.row, entries.col, entries.data, strict=True), position)
    found = ed.edges(blocks_of(matrix, 17), n_cells=n_cells, row_to_cell=position)
    np.testing.assert_array_equal(compute(found), expected)


def test_no_edges_and_no_cells():
    for n in (0, 5):
        found = ed.edges(blocks_of(sparse.csr_matrix((n, n)), 2), n_cells=n)
        assert compute(found).shape == (0, 2)
        assert compute(ed.edge_counts(found)).tolist() == [0, 0]


def test_what_is_refused():
    broken = raw_csr([(0, 1, 1.0), (1, 7, 1.0)], 3)
    with pytest.raises(ValueError, match="column indices 1 to 7 in rows 0 to 2"):
        compute(ed.edges(blocks_of(broken, 3), n_cells=3))
    with pytest.raises(ValueError, match="position 9"):
        compute(ed.edges(da.ones((2, 2)), n_cells=3, row_to_cell=np.array([0, 9])))
    with pytest.raises(ValueError, match=r"must have shape \(4, 4\)"):
        ed.edges(da.ones((3, 3)), n_cells=4)
    with pytest.raises(ValueError, match=r"4,294,967,296 cells: .* 4,294,967,295"):
        ed.edges(da.ones((4, 4)), n_cells=2**32, row_to_cell=np.zeros(4, int))
    with pytest.raises(ValueError, match="along rows only"):
        ed.edges(da.ones((4, 4), chunks=2), n_cells=4)


def test_building_computes_nothing_and_names_are_deterministic():
    array = blocks_of(symmetric(50), 20)

    def build():
        found = ed.edges(array, n_cells=50)
        return [found, ed.edge_sources(found), ed.edge_counts(found)]

    with raise_if_dask_computes():
        first, second = build(), build()
    assert [a.name for a in first] == [a.name for a in second]
    for result in first:
        graph_bytes(result)
        assert compute(result).dtype == result.dtype
