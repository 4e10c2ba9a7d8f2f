"""Matrices cut into blocks: the right values whatever the chunks, and no stored chunk twice."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.dataset import neighbour_graph
from cellucid_lazy.readers.elements import stored_matrix
from cellucid_lazy.readers.hdf5 import Hdf5
from cellucid_lazy.readers.matrix import DenseMatrix, MemoryArray, SparseMatrix
from cellucid_lazy.readers.zarr import Zarr
from cellucid_lazy.source import Block
from tests.engine.matrices import dense_matrices, numbers, sparse_matrices
from tests.helpers import Reads

CHUNKS = st.integers(1, 60)


def write(path, form, matrix, chunks):
    """Write a matrix; `chunks` are those of data and of indices, or of a dense matrix."""
    is_sparse = sparse.issparse(matrix)
    parts = ("data", "indices", "indptr") if is_sparse else ("X",)
    root = h5py.File(path, "w") if form == "h5ad" else zarr.open_group(path, mode="w")
    if is_sparse:
        group = root.create_group("X")
        shape = [int(size) for size in matrix.shape]
        group.attrs.update({"encoding-type": f"{matrix.format}_matrix", "shape": shape})
    else:
        group = root
    lengths = [(one,) for one in (*chunks, 50)] if is_sparse else [chunks]
    for part, wanted in zip(parts, lengths, strict=True):
        values = np.ascontiguousarray(getattr(matrix, part) if is_sparse else matrix)
        some = values.size > 0 and None not in wanted
        options = {}
        if some:
            options["chunks"] = tuple(map(min, wanted, values.shape))
        if form == "h5ad":
            options |= {"compression": "gzip", "shuffle": True} if some else {}
            group.create_dataset(part, data=values, **options)
        else:
            group.create_array(part, data=values, **options)
    if form == "h5ad":
        root.close()
    with (Hdf5() if form == "h5ad" else Zarr()).open(str(path), None) as tree:
        return stored_matrix(tree, tree.root["X"])


def in_memory(matrix):
    if not sparse.issparse(matrix):
        return DenseMatrix(MemoryArray(matrix, "a"))
    parts = [MemoryArray(getattr(matrix, part), part) for part in ("data", "indices", "indptr")]
    return SparseMatrix(matrix.format, matrix.shape, *parts, name="X")


def added(matrix, blocks, genes=None):
    """Add up blocks; also which cells are in one, and which stored values are read how often."""
    found = np.zeros(matrix.shape, np.float64)
    cells = np.zeros(matrix.shape[0], bool)
    n_values = 0
    for block in blocks:
        part = matrix.read_block(block, genes)
        assert part.dtype == matrix.dtype
        assert part.dtype.isnative
        assert part.shape == (np.diff(block.cells)[0], np.diff(block.genes)[0])
        if sparse.issparse(part):
            assert part.format == matrix.layout
            n_values += part.nnz
            part = part.toarray()
        found[slice(*block.cells), slice(*block.genes)] += part
        cells[slice(*block.cells)] = True
    if matrix.dtype == bool:  # the parts of an entry that is there twice may be in two blocks
        found = np.minimum(found, 1)
    return found, cells, n_values


def dense64(matrix):
    """Values that can be added up in any order."""
    return (matrix.toarray() if sparse.issparse(matrix) else matrix).astype(np.float64)


def whole_numbers(matrix):
    """The same entries with small whole numbers, so that sums are exact in every order."""
    rng = np.random.default_rng(0)
    if sparse.issparse(matrix):
        matrix.data = rng.integers(0, 5, len(matrix.data)).astype(matrix.data.dtype)
        return matrix
    return rng.integers(0, 5, matrix.shape).astype(matrix.dtype)


@st.composite
def stored(draw, kind):
    matrix = draw(dense_matrices() if kind == "dense" else sparse_matrices(layouts=(kind,)))
    form = draw(st.sampled_from(["h5ad", "h5ad", "memory", "zarr"]))
    chunks = (draw(CHUNKS), draw(CHUNKS))
    if kind != "dense":
        chunks = draw(st.sampled_from([chunks, chunks[:1] * 2, (7, 21), (None, None), (9, None)]))
    genes = draw(st.lists(st.integers(0, matrix.shape[1] - 1), unique=True, min_size=1).map(sorted))
    return whole_numbers(matrix), form, chunks, draw(st.integers(1, 300)), np.array(genes)


def made(folder, matrix, form, chunks):
    return in_memory(matrix) if form == "memory" else write(folder / "a", form, matrix, chunks)


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_blocks_add_up_to_the_matrix_and_no_chunk_is_read_twice(kind):
    @settings(max_examples=50, deadline=None)
    @given(case=stored(kind))
    def check(case):
        original, form, chunks, values, genes = case
        expected = dense64(original)
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            matrix = made(Path(folder), original, form, chunks)
            assert (matrix.layout, matrix.shape) == (kind, original.shape)
            found, cells, _ = added(matrix, matrix.whole_blocks(values))
            np.testing.assert_array_equal(found, expected)
            assert cells.all()
            every = np.arange(matrix.shape[1])
            with Reads(patch) as reads:
                found, cells, n_values = added(matrix, matrix.chunk_blocks(values, every))
            np.testing.assert_array_equal(found, expected)
            assert cells.all() or kind == "csc"
            assert kind == "dense" or n_values == original.nnz
            if kind == "dense" or chunks[0] == chunks[1]:
                reads.assert_no_chunk_twice()
            with Reads(patch) as reads:
                found, _, _ = added(matrix, matrix.chunk_blocks(values, genes))
            np.testing.assert_array_equal(found[:, genes], expected[:, genes])
            found, _, n_values = added(matrix, matrix.chunk_blocks(values, genes), genes)
            np.testing.assert_array_equal(found[:, genes], expected[:, genes])
            assert kind != "csr" or n_values == np.isin(original.indices, genes).sum()
            if kind == "dense" or chunks[0] == chunks[1]:
                reads.assert_no_chunk_twice()

    check()


def counted(n_rows=40, n_columns=30, each=6):
    """A CSR matrix whose rows have equally many values."""
    indices = np.tile(np.arange(each), n_rows)
    values = np.arange(1, len(indices) + 1, dtype=np.float32)
    shape = (n_rows, n_columns)
    return sparse.csr_matrix((values, indices, np.arange(0, len(indices) + 1, each)), shape=shape)


def test_rows_are_cut_at_borders_of_chunks(tmp_path):
    matrix = write(tmp_path / "a", "h5ad", counted(), (50, 25))
    blocks = matrix.chunk_blocks(100, np.arange(30))
    assert [(int(b.pointers[0]), int(b.pointers[-1])) for b in blocks] == [
        (0, 100),
        (100, 200),
        (200, 240),
    ]
    # Row 16 has the values 96 to 101, and is in two blocks.
    assert [block.cells for block in blocks] == [(0, 17), (16, 34), (33, 40)]
    assert [b.cells for b in matrix.chunk_blocks(10**6, np.arange(30))] == [(0, 40)]
    assert len(matrix.chunk_blocks(1, np.arange(30))) == 10  # of the shorter chunks


def test_empty_rows_are_in_a_block():
    matrix = sparse.csr_matrix((9, 4), dtype=np.float32)
    assert [block.cells for block in in_memory(matrix).chunk_blocks(5, np.arange(4))] == [(0, 9)]
    matrix = sparse.csr_matrix(np.diag([0, 1, 0, 0, 1, 0, 0.0]))
    blocks = in_memory(matrix).chunk_blocks(1, np.arange(7))
    assert [block.cells for block in blocks] == [(0, 2), (2, 7)]


def test_values_of_csr_are_read_from_the_first_to_the_last_of_the_genes(tmp_path, monkeypatch):
    rows = [5, 40]
    dense = np.ones((60, 3), np.float32)
    dense[:, 2] = 0
    dense[rows, 2] = [7, 8]
    matrix = write(tmp_path / "a", "h5ad", sparse.csr_matrix(dense), (10, 10))
    for genes, boxes in (([2], [(12, 84)]), ([0], [(0, 121)]), ([1], [(1, 122)])):
        with Reads(monkeypatch) as reads:
            found = matrix.read_block(matrix.chunk_blocks(500, np.array(genes))[0], np.array(genes))
        np.testing.assert_array_equal(found.toarray()[:, genes], dense[:, genes])
        assert [box[0] for key, box in reads.boxes if key == "X/data"] == boxes
    with Reads(monkeypatch) as reads:
        blocks = matrix.chunk_blocks(30, np.array([2]))
        found = [matrix.read_block(block, np.array([2])).nnz for block in blocks]
    assert found == [1, 0, 1, 0, 0]
    assert len([key for key, _ in reads.boxes if key == "X/data"]) == 2


def test_genes_of_csc_read_their_chunks_only(tmp_path, monkeypatch):
    original = counted(60, 30, each=5).T.tocsc()
    matrix = write(tmp_path / "a", "h5ad", original, (12, 12))
    with Reads(monkeypatch) as reads:
        blocks = matrix.chunk_blocks(1000, np.array([7, 40]))
        added(matrix, blocks)
    assert [block.genes for block in blocks] == [(7, 8), (40, 41)]
    assert [chunk for chunk in reads.chunks if chunk[0] == "X/data"] == [
        ("X/data", "(24,)"),
        ("X/data", "(36,)"),
        ("X/data", "(192,)"),
        ("X/data", "(204,)"),
    ]
    assert matrix.chunk_blocks(1000, np.array([], dtype=np.intp)) == []
    # Chunks that are neighbours are read at once, up to the size asked for.
    near = matrix.chunk_blocks(24, np.array([0, 1, 2, 3, 4, 5, 6]))
    assert [block.genes for block in near] == [(0, 5), (4, 7)]


@pytest.mark.parametrize(
    ("values", "cells", "genes"),
    [
        (300 * 8, [(0, 300)], [(0, 8), (40, 44), (108, 110)]),
        (300 * 4, [(0, 300)], [(0, 4), (4, 8), (40, 44), (108, 110)]),
        (700, [(0, 140), (140, 280), (280, 300)], [(0, 4), (4, 8), (40, 44), (108, 110)]),
    ],
)
def test_dense_chunks_are_read_whole(values, cells, genes, tmp_path):
    matrix = write(tmp_path / "a", "zarr", np.ones((300, 110), np.float32), (70, 4))
    assert matrix.genes_per_chunk == 4
    blocks = matrix.chunk_blocks(values, np.array([3, 5, 40, 43, 109]))
    assert [(block.cells, block.genes) for block in blocks] == [
        (one, other) for other in genes for one in cells
    ]


def test_genes_of_an_array_in_memory_share_cache_lines():
    matrix = in_memory(np.ones((300, 110), np.float32))
    assert matrix.genes_per_chunk == 16
    blocks = matrix.chunk_blocks(1, np.array([3, 40, 109]))
    assert sorted({block.genes for block in blocks}) == [(0, 16), (32, 48), (96, 110)]
    assert in_memory(np.ones((30, 11), np.float32)).genes_per_chunk is None


def test_any_rectangle_is_read(tmp_path):
    original = counted()
    for layout in ("csr", "csc"):
        matrix = write(tmp_path / layout, "h5ad", original.asformat(layout), (20, 20))
        found = matrix.read_block(Block((5, 20), (2, 9))).toarray()
        np.testing.assert_array_equal(found, original[5:20, 2:9].toarray())


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_the_graph_of_a_matrix_is_stored_by_cell(layout):
    rng = np.random.default_rng(0)
    original = sparse.random(30, 30, 0.2, format=layout, random_state=rng, dtype=np.float32)
    obsp = {"connectivities": in_memory(original)}
    graph = neighbour_graph(obsp, {}, None, lambda matrix, _: matrix, 30, [], "a").matrix
    assert graph.layout == "csr"
    found, _, _ = added(graph, graph.whole_blocks(40))
    expected = original.toarray() if layout == "csr" else original.toarray().T
    np.testing.assert_array_equal(found, expected)


def test_float16_is_widened_and_byte_order_is_native():
    rng = np.random.default_rng(0)
    indices, indptr = np.array([0, 1, 1], ">i4"), np.array([0, 2, 3], ">i8")
    for stored_dtype, read_dtype in (("<f2", "f4"), (">f2", "f4"), (">f4", "f4"), (">i2", "i2")):
        data = numbers(rng, 3, "f2").astype(stored_dtype)
        parts = [MemoryArray(part, "a") for part in (data, indices, indptr)]
        matrix = SparseMatrix("csr", (2, 2), *parts, name="X")
        (block,) = matrix.whole_blocks(10)
        found = matrix.read_block(block)
        assert found.dtype == matrix.dtype == np.dtype(read_dtype)
        np.testing.assert_array_equal(found.data, data.astype(read_dtype))


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize(
    ("dtype", "n_minor", "wrong"),
    [("i1", 100, -1), (">i2", 60_000, -20_000), ("i4", 300, 300), ("u2", 300, 301)],
)
def test_indices_beyond_the_other_axis_are_refused(layout, dtype, n_minor, wrong):
    parts = (np.ones(3, "f4"), np.array([0, 5, wrong], dtype), np.array([0, 3]))
    shape = (1, n_minor) if layout == "csr" else (n_minor, 1)
    readers = [MemoryArray(part, "a") for part in parts]
    matrix = SparseMatrix(layout, shape, *readers, name="file.h5ad: X")
    said = (
        f"file.h5ad: X: between positions 0 and 1 indices reach from {min(wrong, 0)} to "
        f"{max(wrong, 5)}, but the other axis has {n_minor:,}"
    )
    for blocks in (matrix.whole_blocks(9), matrix.chunk_blocks(9, np.arange(shape[1]))):
        with pytest.raises(DataError, match=said):
            matrix.read_block(blocks[0])


@pytest.mark.parametrize("indptr", [[0, 4, 3], [1, 2, 3], [0, 1, 2], [0, 2, 4], [0, -1, 3]])
def test_inconsistent_pointers_are_refused(indptr):
    parts = (np.ones(3, "f4"), np.zeros(3, "i4"), np.array(indptr))
    matrix = SparseMatrix("csr", (2, 2), *[MemoryArray(part, "a") for part in parts], name="f: X")
    with pytest.raises(DataError, match="f: X: indptr is inconsistent between positions 0 and 2"):
        matrix.chunk_blocks(9, np.arange(2))
    with pytest.raises(DataError, match="it must rise from 0 to the 3 stored values"):
        matrix.read_block(Block((0, 2), (0, 2)))


def test_parts_that_do_not_fit_are_refused():
    def matrix(data, indices, indptr):
        parts = [MemoryArray(np.asarray(part), "a") for part in (data, indices, indptr)]
        return SparseMatrix("csr", (2, 2), *parts, name="f: X")

    with pytest.raises(DataError, match="f: X: data and indices differ in shape"):
        matrix([1.0], [0, 1], [0, 1, 2])
    with pytest.raises(DataError, match=r"f: X: indptr has shape \(2,\).*needs \(3,\)"):
        matrix([1.0], [0], [0, 1])
    with pytest.raises(DataError, match="f: X: indices holds float64, not ints"):
        matrix([1.0], [0.0], [0, 1, 1])


def test_matrices_pickle(tmp_path):
    for number, original in enumerate((counted(), counted().tocsc(), counted().toarray())):
        matrix = write(tmp_path / str(number), "h5ad", original, (50, 5))
        copy = pickle.loads(pickle.dumps(matrix))
        assert copy.token == matrix.token
        found, _, _ = added(copy, copy.whole_blocks(50))
        np.testing.assert_array_equal(found, dense64(original))
