"""Row blocks to gene blocks: whatever the matrix, a column is what SciPy's toarray gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellucid_lazy.transforms import gene_major
from cellucid_lazy.transforms.gene_major import join_pieces, piece_of
from tests.engine.matrices import copied, dense32, matrices, sparse_matrices


def column(block, gene):
    """Dense column of a gene block, as bytes are made of it."""
    low, high = block.indptr[gene], block.indptr[gene + 1]
    found = np.zeros(block.n_cells, dtype=np.float32)
    found[block.cells[low:high]] = block.data[low:high]
    return found


def same_columns(block, expected):
    assert block.n_cells == expected.shape[0]
    assert len(block.indptr) == expected.shape[1] + 1
    assert block.data.dtype == np.float32
    for gene in range(expected.shape[1]):
        assert column(block, gene).tobytes() == expected[:, gene].tobytes()
        cells = block.cells[block.indptr[gene] : block.indptr[gene + 1]]
        assert (np.diff(cells) > 0).all()


@st.composite
def borders(draw, length):
    """Cut points of an axis; empty ranges among them."""
    cuts = draw(st.lists(st.integers(0, length), max_size=6))
    return [0, *sorted(cuts), length]


@settings(max_examples=100, deadline=None)
@given(matrix=matrices(), data=st.data())
def test_pieces_join_to_the_dense_columns(matrix, data):
    before, expected = copied(matrix), dense32(matrix)
    rows = data.draw(borders(matrix.shape[0]))
    pieces = [
        piece_of(matrix[start:stop], first_row=start)
        for start, stop in itertools.pairwise(rows)
        if stop > start
    ]
    same_columns(join_pieces(pieces), expected)
    genes = data.draw(borders(matrix.shape[1]))
    for start, stop in itertools.pairwise(genes):
        if stop > start:
            same_columns(
                join_pieces([piece.genes(start, stop) for piece in pieces]), expected[:, start:stop]
            )
    assert copied(matrix) == before


@settings(max_examples=100, deadline=None)
@given(matrix=matrices(), data=st.data())
def test_chosen_genes_in_any_order_with_repeats(matrix, data):
    before = copied(matrix)
    chosen = st.lists(st.integers(0, matrix.shape[1] - 1), min_size=1, max_size=8)
    columns = np.array(data.draw(chosen), dtype=np.intp)
    piece = piece_of(matrix, first_row=0, columns=columns)
    same_columns(join_pieces([piece]), dense32(matrix)[:, columns])
    assert copied(matrix) == before


@settings(max_examples=100, deadline=None)
@given(matrix=sparse_matrices(layouts=("csc",)))
def test_a_matrix_stored_by_gene_is_taken_as_it_is(matrix):
    before = copied(matrix)
    same_columns(join_pieces([piece_of(matrix, first_row=0)]), dense32(matrix))
    assert copied(matrix) == before


def test_many_duplicates_are_summed_in_stored_order():
    # An unstable sort would sum the same values in another order, to another float.
    rng = np.random.default_rng(0)
    values = (10.0 ** rng.uniform(-4, 4, 4000)).astype(np.float32)
    rows = rng.integers(0, 3, 4000).astype(np.int32)
    for matrix in (
        sparse.csc_matrix((values, rows, np.array([0, 1500, 4000])), shape=(3, 2)),
        sparse.csr_matrix((values, rows, np.array([0, 1500, 4000])), shape=(2, 3)),
    ):
        same_columns(join_pieces([piece_of(matrix, first_row=0)]), dense32(matrix))


def test_negative_zero_is_kept_when_dense_and_lost_when_sparse():
    dense = np.array([[-0.0, 0.0], [1.0, -0.0]], dtype=np.float32)
    same_columns(join_pieces([piece_of(dense, first_row=0)]), dense)
    stored = sparse.csr_matrix((dense.ravel(), [0, 1, 0, 1], [0, 2, 4]), shape=(2, 2))
    assert not np.signbit(column(join_pieces([piece_of(stored, first_row=0)]), 0)).any()


def test_stored_zeros_do_no_harm():
    stored = sparse.csr_matrix((np.zeros(3), [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    same_columns(join_pieces([piece_of(stored, first_row=0)]), np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(("n_rows", "short"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_rows_take_two_bytes_where_they_fit(n_rows, short):
    rows = np.array([0, n_rows - 1])
    matrix = sparse.csr_matrix(([1.0, 2.0], (rows, [0, 0])), shape=(n_rows, 1), dtype=np.float32)
    piece = piece_of(matrix, first_row=7)
    assert (piece.rows.dtype, piece.first_row, piece.n_rows) == (short, 7, n_rows)
    assert piece.rows.tolist() == rows.tolist()
    same_columns(join_pieces([piece]), matrix.toarray())


@settings(max_examples=100, deadline=None)
@given(matrix=matrices(), data=st.data())
def test_a_slice_of_genes_is_no_copy(matrix, data):
    piece = piece_of(matrix, first_row=3)
    start = data.draw(st.integers(0, matrix.shape[1]))
    stop = data.draw(st.integers(start, matrix.shape[1]))
    part = piece.genes(start, stop)
    assert len(part.data) == len(part.rows) == part.indptr[-1]
    assert (part.indptr[0], len(part.indptr)) == (0, stop - start + 1)
    assert (part.first_row, part.n_rows) == (3, matrix.shape[0])
    assert part.data.size == 0 or np.shares_memory(part.data, piece.data)
    assert part.data.tobytes() == piece.data[piece.indptr[start] : piece.indptr[stop]].tobytes()


def test_no_dask_in_the_block_maths():
    assert "dask" not in vars(gene_major)


@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    most_values=st.integers(1, 120),
    most_genes=st.integers(1, 20),
)
def test_runs_are_full_but_not_too_full(lengths, most_values, most_genes):
    runs = gene_major.gene_runs(np.array(lengths), most_values=most_values, most_genes=most_genes)
    assert [gene for run in runs for gene in range(run.start, run.stop)] == list(
        range(len(lengths))
    )
    for run, following in itertools.zip_longest(runs, runs[1:]):
        held = lengths[run]
        assert len(held) == 1 or sum(held) <= most_values
        assert 1 <= len(held) <= most_genes
        # Nor would the next gene have fitted.
        if following is not None and len(held) < most_genes:
            assert sum(held) + lengths[following.start] > most_values
