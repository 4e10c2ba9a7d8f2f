"""Gene columns and their statistics: equal to dense NumPy, on any grid of blocks."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellucid_lazy.transforms.genes import gene_columns, gene_ranges, stored_statistics
from cellucid_lazy.transforms.transpose import sum_duplicates
from cellucid_lazy.transforms.values import to_float32
from tests.engine.matrices import copied, dense32, matrices
from tests.helpers import compute, graph_bytes, raise_if_dask_computes


def expected_statistics(columns):
    """Statistics of a dense float32 matrix by plain NumPy."""
    found = np.full((3, columns.shape[1]), np.nan)
    for gene in range(columns.shape[1]):
        finite = columns[np.isfinite(columns[:, gene]), gene].astype(np.float64)
        found[2, gene] = len(finite)
        if len(finite):
            found[:2, gene] = finite.min(), finite.max()
    return found


def statistics_of_stored(matrix):
    stored = matrix if sparse.issparse(matrix) else matrix.astype(np.float64)
    columns = sum_duplicates(sparse.csc_matrix(stored, copy=True))
    return stored_statistics(to_float32(columns.data), columns.indptr, n_rows=matrix.shape[0])


@st.composite
def grids(draw, shape):
    cut = []
    for length in shape:
        points = draw(st.lists(st.integers(1, length), max_size=5))
        cut.append(tuple(np.diff(sorted({0, *points, length})).tolist()))
    return tuple(cut)


def lazy(matrix, chunks):
    """Blocks of the grid, in the matrix's own format."""
    meta = matrix[:0, :0] if sparse.issparse(matrix) else None
    return da.from_array(matrix, chunks=chunks, asarray=False, name=False, meta=meta)


@st.composite
def cases(draw):
    matrix = draw(matrices())
    genes = st.integers(0, matrix.shape[1] - 1)
    return matrix, draw(grids(matrix.shape)), draw(st.lists(genes, min_size=1, max_size=9))


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_columns_on_any_grid(case):
    matrix, chunks, columns = case
    before, array = copied(matrix), lazy(matrix, chunks)
    with raise_if_dask_computes():
        found = gene_columns(array, columns)
    assert found.dtype == np.float32
    assert found.chunks == (array.chunks[0], (len(columns),))
    assert compute(found).tobytes() == dense32(matrix)[:, columns].tobytes()
    assert copied(matrix) == before


@settings(max_examples=40, deadline=None)
@given(case=cases(), data=st.data())
def test_statistics_on_any_grid(case, data):
    matrix, chunks, _ = case
    before, array = copied(matrix), lazy(matrix, chunks)
    with raise_if_dask_computes():
        found = gene_ranges(array)
    found = compute(found)
    np.testing.assert_array_equal(found, expected_statistics(dense32(matrix)))
    assert not np.signbit(found[found == 0]).any()
    kept = data.draw(st.lists(st.booleans(), min_size=len(before) and matrix.shape[0]))
    rows = np.resize(np.array(kept, dtype=bool), matrix.shape[0])
    some = gene_ranges(array, rows=da.from_array(rows, chunks=(array.chunks[0],)))
    np.testing.assert_array_equal(compute(some), expected_statistics(dense32(matrix)[rows]))
    assert copied(matrix) == before


@settings(max_examples=50, deadline=None)
@given(matrix=matrices())
def test_statistics_of_stored_values(matrix):
    found = statistics_of_stored(matrix)
    np.testing.assert_array_equal(found, expected_statistics(dense32(matrix)))
    # 0.0 and -0.0 are equal, but not in a manifest.
    assert not np.signbit(found[found == 0]).any()


def test_statistics_of_nothing():
    stored = stored_statistics(np.zeros(0, np.float32), np.zeros(3, np.int64), n_rows=0)
    for found in (stored, compute(gene_ranges(da.zeros((0, 2), dtype=np.float32)))):
        np.testing.assert_array_equal(found, [[np.nan] * 2, [np.nan] * 2, [0, 0]])


def test_names_depend_on_the_content_and_nothing_else():
    rng = np.random.default_rng(0)
    matrix = da.from_array(rng.random((20, 6)), chunks=(7, 4), name="content-1")
    other = da.from_array(rng.random((20, 6)), chunks=(7, 4), name="content-2")
    for build in (lambda m: gene_columns(m, [1, 5]), gene_ranges):
        assert build(matrix).name == build(matrix).name
        assert dict(build(matrix).__dask_graph__()).keys() == dict(build(matrix).dask).keys()
        assert build(matrix).name != build(other).name
        assert graph_bytes(build(matrix))
    assert gene_columns(matrix, [1]).name != gene_columns(matrix, [2]).name
    assert gene_columns(matrix, [1, 5]).name != gene_columns(matrix, [5, 1]).name


def test_a_block_is_read_only_where_a_gene_lies_in_it():
    class Counting:
        shape, dtype, ndim = (20, 6), np.dtype(np.float32), 2

        def __init__(self):
            self.read = []

        def __getitem__(self, key):
            self.read.append((key[0].start, key[1].start))
            return np.zeros([part.stop - part.start for part in key], np.float32)

    stored = Counting()
    matrix = da.from_array(stored, chunks=(10, 2), asarray=False, meta=np.empty((0, 0), "f4"))
    compute(gene_columns(matrix, [5, 4, 0]))
    assert sorted(stored.read) == [(0, 0), (0, 4), (10, 0), (10, 4)]


def test_float32_is_handed_on_and_the_rest_is_cast_silently():
    values = np.array([1.5, np.nan], dtype=np.float32)
    assert to_float32(values) is values
    assert to_float32(np.array([1e300, -1e300, 2**24 + 1])).tolist() == [np.inf, -np.inf, 2.0**24]


@pytest.mark.parametrize("layout", ["csr", "csc", "array"])
def test_one_column_is_picked_as_many_are(layout):
    rng = np.random.default_rng(1)
    dense = rng.poisson(0.5, (30, 5)).astype(np.int16)
    matrix = dense if layout == "array" else sparse.csr_matrix(dense).asformat(layout)
    for gene in range(5):
        found = compute(gene_columns(lazy(matrix, (10, 5)), [gene]))
        assert found.tobytes() == dense[:, [gene]].astype(np.float32).tobytes()
