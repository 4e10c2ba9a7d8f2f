"""Chosen columns of a stored sparse matrix: found as they are decoded, and never a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.readers.sparse_array import SparseReader


def reader(indices, *, n_rows=4, n_columns=60_000, each=3, index_dtype=None):
    data = np.arange(1, len(indices) + 1, dtype=np.float32)
    parts = (data, np.asarray(indices, index_dtype), np.arange(0, len(indices) + 1, each))
    arrays = [MemoryArray(one, str(number)) for number, one in enumerate(parts)]
    return SparseReader("csr", (n_rows, n_columns), *arrays, where="file.h5ad: X")


def pick(matrix, columns, start=0, stop=None):
    stop = matrix.n_major if stop is None else stop
    pointers = matrix.pointers(start, stop)
    return matrix.pick(pointers, np.asarray(columns, np.intp), between=(start, stop))


WITHIN = [0, 5, 200, 5, 7, 100, 0, 1, 2, 3, 4, 250]


@pytest.mark.parametrize(
    "index_dtype", ["i1", "i2", ">i2", "i4", ">i4", "i8", "u1", "u2", ">u4", "u8"]
)
@pytest.mark.parametrize("columns", [[5], [0, 5, 100]])
def test_columns_of_indices_of_every_type(index_dtype, columns):
    indices = [one % 100 for one in WITHIN] if index_dtype == "i1" else WITHIN
    columns = sorted({one % 100 for one in columns})
    matrix = reader(indices, index_dtype=index_dtype)
    parts = (np.arange(1, 13, dtype=np.float32), indices, np.arange(0, 13, 3))
    whole = sparse.csr_matrix(parts, shape=(4, 60_000))
    np.testing.assert_array_equal(pick(matrix, columns).toarray(), whole[:, columns].toarray())
    np.testing.assert_array_equal(
        pick(matrix, columns, 1, 3).toarray(), whole[1:3, columns].toarray()
    )


@pytest.mark.parametrize(
    ("index_dtype", "n_columns", "wrong"),
    [
        ("i1", 100, -1),
        ("i1", 300, -100),
        ("i2", 60_000, -20_000),
        (">i2", 60_000, -20_000),
        ("i4", 300, -1),
        ("i8", 300, 300),
        ("u2", 300, 300),
    ],
)
@pytest.mark.parametrize("columns", [[5], [0, 5]])
def test_indices_beyond_the_other_axis_are_refused(index_dtype, n_columns, wrong, columns):
    matrix = reader([0, 5, wrong], n_rows=1, n_columns=n_columns, index_dtype=index_dtype)
    low, high = min(wrong, 0), max(wrong, 5)
    said = f"file.h5ad: X: between positions 0 and 1 indices reach from {low} to {high}"
    with pytest.raises(DataError, match=said):
        pick(matrix, columns)
    with pytest.raises(DataError, match=said):
        matrix.major(0, 1)


def test_the_reach_of_wrong_indices_is_theirs():
    matrix = reader([7_000, 5_000, 9_000], n_rows=1, n_columns=10)
    with pytest.raises(DataError, match="indices reach from 5000 to 9000"):
        matrix.major(0, 1)


def test_rows_are_not_blamed_for_their_neighbours():
    matrix = reader([0, 5, 9_000, 1, 2, 3], n_rows=2, n_columns=10)
    decoded = ({}, {0: matrix.indices.read()})
    pointers = matrix.pointers(1, 2)
    found = matrix.pick(pointers, np.array([2]), between=(1, 2), decoded=decoded)
    assert found.toarray().tolist() == [[5.0]]
    with pytest.raises(DataError, match="between positions 0 and 1 indices reach from 0 to 9000"):
        pick(matrix, [2], 0, 1)
