"""Blocks transposed and joined hold what SciPy makes of the whole matrix, bit for bit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellucid_lazy.transforms.transpose import (
    choose_cells,
    gene_runs,
    join_blocks,
    transpose_block,
)

VALUES = st.sampled_from([1.0, -2.5, 3e-8, 1e8, np.inf, -0.0, 0.0])


@st.composite
def entries(draw, n_cells, n_genes):
    """Stored entries of a matrix, in any order, with duplicates: rows, columns, values."""
    one = st.tuples(st.integers(0, n_cells - 1), st.integers(0, n_genes - 1), VALUES)
    found = draw(st.lists(one, max_size=40))
    rows, columns, values = zip(*found, strict=True) if found else ((), (), ())
    return np.array(rows, int), np.array(columns, int), np.array(values)


def csr_of(rows, columns, values, shape, dtype):
    """A CSR matrix with entries as they come, duplicates kept."""
    order = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[order], np.arange(shape[0] + 1))
    with np.errstate(invalid="ignore"):
        data = values[order].astype(dtype)
    return sparse.csr_matrix((data, columns[order], indptr), shape=shape)


def cut_values(matrix, cuts):
    """Cut a CSR matrix between any two stored values, as `Matrix.chunk_blocks` does."""
    bounds = [0, *sorted(cut for cut in cuts if 0 < cut < matrix.nnz), matrix.nnz]
    blocks = []
    for low, high in pairwise(bounds):
        first = int(np.searchsorted(matrix.indptr, low, side="right")) - 1 if low else 0
        last = int(np.searchsorted(matrix.indptr, high, side="left"))
        if high == matrix.nnz:
            last = matrix.shape[0]
        pointers = np.clip(matrix.indptr[first : last + 1], low, high) - low
        part = sparse.csr_matrix(
            (matrix.data[low:high], matrix.indices[low:high], pointers),
            shape=(last - first, matrix.shape[1]),
        )
        blocks.append((first, part))
    return blocks


@settings(max_examples=100, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([np.float32, np.float64, np.int32]))
def test_joined_blocks_are_the_whole_matrix(data, dtype):
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 6)))
    rows, columns, values = data.draw(entries(*shape))
    values = np.where(np.isfinite(values), values, 7) if dtype == np.int32 else values
    matrix = csr_of(rows, columns, values, shape, dtype)
    wanted = data.draw(st.none() | st.sets(st.integers(0, shape[1] - 1), min_size=1))
    chosen = None if wanted is None else np.array(sorted(wanted))
    cuts = data.draw(st.sets(st.integers(0, 40)))
    parts = [
        transpose_block(block, first_cell=first, columns=chosen)
        for first, block in cut_values(matrix, cuts)
    ]
    joined = join_blocks(parts, n_cells=shape[0])
    expected = matrix.toarray()
    expected = expected if chosen is None else expected[:, chosen]
    assert joined.dtype == dtype
    assert joined.has_canonical_format
    assert joined.toarray().tobytes() == expected.tobytes()
    cells = data.draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=15))
    picked = choose_cells(joined, np.array(cells))
    assert picked.toarray().tobytes() == expected[cells].tobytes()


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_a_range_of_genes_is_a_slice_of_every_block(form):
    dense = np.array([[0, 1, 2, 0], [3, 0, 0, 4], [0, 5, 0, 6]], dtype=np.float32)
    top = transpose_block(form(dense[:2]), first_cell=0)
    low = transpose_block(form(dense[2:]), first_cell=2)
    parts = [block.genes(1, 3) for block in (top, low)]
    assert join_blocks(parts, n_cells=3).toarray().tolist() == dense[:, 1:3].tolist()


def test_genes_that_a_block_does_not_have_are_empty():
    dense = np.array([[1, 2], [3, 4]], dtype=np.float32)
    block = transpose_block(sparse.csc_matrix(dense), first_cell=0, first_gene=2)
    joined = join_blocks([block.genes(0, 5)], n_cells=2)
    assert joined.toarray().tolist() == [[0, 0, 1, 2, 0], [0, 0, 3, 4, 0]]
    assert block.genes(0, 2).data.size == 0


def test_a_negative_zero_of_a_dense_block_keeps_its_sign():
    dense = np.array([[-0.0, 1.0], [2.0, -0.0]], dtype=np.float32)
    joined = join_blocks([transpose_block(dense, first_cell=0)], n_cells=2)
    assert np.signbit(joined.data).tolist() == [True, False, False, True]


def test_rows_are_short_where_they_can_be():
    for n_cells, dtype in ((2**16, np.uint16), (2**16 + 1, np.uint32)):
        block = sparse.csr_matrix((n_cells, 1), dtype=np.float32)
        assert transpose_block(block, first_cell=5).rows.dtype == dtype


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), max_size=40),
    max_values=st.integers(1, 50),
    max_genes=st.integers(1, 10),
)
def test_runs_of_genes_cover_all_and_hold_no_more_than_they_may(lengths, max_values, max_genes):
    lengths = np.array(lengths, dtype=np.int64)
    runs = gene_runs(lengths, max_values=max_values, max_genes=max_genes)
    assert [gene for run in runs for gene in range(run.start, run.stop)] == list(
        range(len(lengths))
    )
    for run in runs:
        assert 0 < run.stop - run.start <= max_genes
        assert lengths[run].sum() <= max_values or run.stop - run.start == 1
