"""AnnData objects: in memory, backed, from read_lazy, and views of these."""

from __future__ import annotations

import json
import pickle
import warnings

import anndata
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.experimental import read_lazy
from scipy import sparse

from cellucid_lazy import readers
from cellucid_lazy.errors import DataError, FallbackWarning, LeftOutWarning
from cellucid_lazy.readers.hdf5 import Hdf5Array
from cellucid_lazy.source import DaskMatrix
from tests import data
from tests.helpers import Reads, compute, raise_if_dask_computes

FORMS = ["memory", "backed", "lazy h5ad", "lazy zarr"]


def opened(form, adata, folder):
    """The same AnnData as another object."""
    if form == "memory":
        return adata
    with data.writing():
        if form == "lazy zarr":
            return read_lazy(data.write_zarr(adata, folder / "a.zarr", zarr_format=3))
        path = data.write_h5ad(adata, folder / "a.h5ad")
        return anndata.read_h5ad(path, backed="r") if form == "backed" else read_lazy(path)


def source_of(value, **options):
    """Open without the warning about lazy objects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return readers.open(value, **options)


def values_of(expression):
    """The expression matrix, dense, with its subset taken."""
    matrix = expression.matrix
    found = np.zeros(matrix.shape, np.float64)
    for block in matrix.whole_blocks(500):
        part = matrix.read_block(block)
        part = part.toarray() if sparse.issparse(part) else part
        found[slice(*block.cells), slice(*block.genes)] = part
    found = found if expression.cells is None else found[expression.cells]
    return found if expression.genes is None else found[:, expression.genes]


def dense(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
def test_every_form_holds_the_same(form, matrix, tmp_path):
    adata = data.atlas(matrix=matrix)
    with raise_if_dask_computes() if form in ("memory", "backed") else warnings.catch_warnings():
        source = source_of(opened(form, adata, tmp_path))
    assert (source.n_cells, source.n_genes, source.left_out) == (400, 30, ())
    assert list(source.obs) == list(adata.obs.columns)
    assert sorted(source.obsm) == sorted(adata.obsm)
    assert source.read_gene_ids("index") == adata.var_names.tolist()
    assert source.read_gene_ids("ensembl") == adata.var["ensembl"].tolist()
    np.testing.assert_array_equal(values_of(source.expression), dense(adata.X))
    for key, array in source.obsm.items():
        np.testing.assert_array_equal(compute(array.array()), adata.obsm[key])
    for key, column in source.obs.items():
        found, expected = compute(column.array()), adata.obs[key]
        if column.kind == "continuous":
            np.testing.assert_array_equal(found, expected.to_numpy("f8", na_value=np.nan))
        else:
            labels = np.array([*column.read_labels(), None], object)
            if hasattr(expected, "cat"):
                assert labels[:-1].tolist() == expected.cat.categories.tolist()
            missing = expected.isna().to_numpy()
            assert labels[found][~missing].tolist() == expected[~missing].tolist()
            assert (found[missing] == -1).all()
    graph = source.connectivities.matrix
    assert graph.layout == "csr"
    assert sum(graph.read_block(one).nnz for one in graph.whole_blocks(300)) == (
        adata.obsp["connectivities"].nnz
    )


@pytest.mark.parametrize("form", FORMS)
def test_layers_and_raw(form, tmp_path):
    adata = data.atlas()
    held = opened(form, adata, tmp_path)
    for layer in ("counts", "half", "by_gene"):
        source = source_of(held, layer=layer)
        np.testing.assert_array_equal(values_of(source.expression), dense(adata.layers[layer]))
    source = source_of(held, use_raw=True)
    np.testing.assert_array_equal(values_of(source.expression), adata.raw.X.toarray())
    assert source.read_gene_ids("index") == adata.raw.var_names.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_sources_pickle(form, tmp_path):
    adata = data.atlas(slim=True)
    source = source_of(opened(form, adata, tmp_path)[5:50, [4, 2]])
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(values_of(copy.expression), adata.X.toarray()[5:50][:, [4, 2]])
    assert copy.read_gene_ids("index") == adata.var_names[[4, 2]].tolist()
    assert (
        compute(copy.obs["score"].array()).tobytes()
        == compute(source.obs["score"].array()).tobytes()
    )
    assert list(copy.obs["cell type"].read_labels()) == list(source.obs["cell type"].read_labels())


INDICES = {
    "slice": slice(50, 300),
    "mask": np.arange(400) % 3 == 1,
    "any order": np.array([399, 3, 77, 0]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cells", INDICES)
def test_views(form, cells, tmp_path):
    adata, index = data.atlas(), INDICES[cells]
    source = source_of(opened(form, adata, tmp_path)[index, [7, 1, 2]])
    expected = adata[index, [7, 1, 2]]
    assert (source.n_cells, source.n_genes) == expected.shape
    assert source.read_gene_ids("index") == expected.var_names.tolist()
    np.testing.assert_array_equal(values_of(source.expression), expected.X.toarray())
    found = compute(source.obsm["X_umap_3d"].array())
    assert found.shape == source.obsm["X_umap_3d"].shape
    np.testing.assert_array_equal(found, expected.obsm["X_umap_3d"])
    column = source.obs["cell type"]
    assert column.drop_unused == (form != "memory")  # in memory AnnData has dropped them
    labels = np.array([*column.read_labels(), None], object)[compute(column.array())]
    assert [None if pd.isna(one) else one for one in expected.obs["cell type"]] == labels.tolist()
    graph = source.connectivities
    if form != "memory":
        found = sparse.vstack([graph.matrix.read_block(b) for b in graph.matrix.whole_blocks(300)])
        chosen = np.arange(400)[index]
        assert (graph.row_to_cell[chosen] == np.arange(len(chosen))).all()
        assert (graph.row_to_cell >= 0).sum() == len(chosen)
        found = found.tocsr()[chosen][:, chosen]
        assert (found != expected.obsp["connectivities"]).nnz == 0


@pytest.mark.parametrize("form", ["backed", "lazy h5ad"])
def test_a_view_with_a_repeated_cell_has_no_graph(form, tmp_path):
    held = opened(form, data.atlas(slim=True), tmp_path)
    with pytest.warns(LeftOutWarning, match="neighbour graph is left out: a cell that is chosen"):
        source = source_of(held[[3, 3, 5]])
    assert (source.connectivities, source.n_cells) == (None, 3)
    points = compute(source.obsm["X_umap_2d"].array())
    assert (points[0] == points[1]).all()
    with pytest.raises(DataError, match="the view has 0 cells"):
        source_of(held[[]])


@pytest.mark.parametrize("form", ["lazy h5ad", "lazy zarr"])
def test_a_lazy_object_goes_by_its_file(form, tmp_path):
    lazy = opened(form, data.atlas(slim=True), tmp_path)
    path = str(tmp_path / ("a.h5ad" if form == "lazy h5ad" else "a.zarr"))
    for held in (lazy, lazy[:10]):
        source = source_of(held)
        assert (source.name, source.storage, source.path) == (path, form.split()[1], path)


def test_a_lazy_object_of_unknown_origin_is_not_in_memory():
    store = zarr.storage.MemoryStore()
    with data.writing():
        data.atlas(slim=True).write_zarr(store)
        source = source_of(read_lazy(zarr.open_group(store, mode="r")))
    assert (source.name, source.storage, source.path) == ("AnnData from read_lazy", "lazy", None)


def test_a_backed_matrix_stays_in_its_file(tmp_path, monkeypatch):
    held = opened("backed", data.atlas(), tmp_path)
    with Reads(monkeypatch) as reads:
        source = readers.open(held)
    assert reads.boxes == []
    assert isinstance(source.expression.matrix.data, Hdf5Array)
    assert source.is_backed
    assert source.path == str(tmp_path / "a.h5ad")


@pytest.mark.parametrize("form", ["lazy h5ad", "lazy zarr"])
def test_lazy_objects_are_used_as_they_are_with_a_warning(form, tmp_path):
    held = opened(form, data.atlas(), tmp_path)
    name = "a.h5ad" if form == "lazy h5ad" else "a.zarr"
    said = rf"{name}: obs and var of a lazy AnnData are loaded now.*; open the file itself"
    with pytest.warns(FallbackWarning, match=said) as told:
        first = readers.open(held)
    assert [one.filename for one in told] == [__file__]
    second = source_of(held)
    # anndata's own names follow the path only.
    for source in (first, second):
        assert isinstance(source.expression.matrix, DaskMatrix)
        assert source.expression.matrix.token != held.X.name
    assert first.expression.matrix.token != second.expression.matrix.token
    names = {source.obsm["X_pca"].array().name for source in (first, second)}
    assert len(names) == 2


def test_an_edited_lazy_object_shows_the_edits(tmp_path):
    held = opened("lazy h5ad", data.atlas(slim=True), tmp_path)
    held.obsm["X_umap_2d"] = held.obsm["X_umap_2d"] * 2
    source = source_of(held)
    expected = data.atlas(slim=True).obsm["X_umap_2d"] * 2
    np.testing.assert_array_equal(compute(source.obsm["X_umap_2d"].array()), expected)


def test_dask_arrays_of_the_user(tmp_path):
    adata = data.atlas(slim=True, matrix="dense")
    values, points = np.asarray(adata.X), np.asarray(adata.obsm["X_umap_2d"])
    adata.X = da.from_array(values, chunks=(100, 10))
    adata.obsm["X_umap_2d"] = da.from_array(points, chunks=(70, 1))
    source = readers.open(adata)
    np.testing.assert_array_equal(values_of(source.expression), values)
    array = source.obsm["X_umap_2d"].array()
    assert array.chunks[1] == (2,)
    np.testing.assert_array_equal(compute(array), points)
    adata.obsp["connectivities"] = da.from_array(np.eye(400), chunks=(100, 100))
    graph = readers.open(adata).connectivities.matrix
    assert {block.genes for block in graph.whole_blocks(1)} == {(0, 400)}


def test_other_entries_of_obsm():
    adata = data.atlas(slim=True)
    points = adata.obsm["X_umap_2d"] * (adata.obsm["X_umap_2d"] > 0)
    adata.obsm["sparse"] = sparse.csr_matrix(points)
    adata.obsm["by_column"] = sparse.csc_matrix(points)
    adata.obsm["table"] = pd.DataFrame(points, adata.obs_names, ["one", "other"])
    adata.obsm["words"] = np.full((400, 2), "a")
    with pytest.warns(LeftOutWarning, match="obsm 'words' is left out: obsm/words: holds"):
        source = readers.open(adata)
    for key in ("sparse", "by_column", "table"):
        np.testing.assert_array_equal(compute(source.obsm[key].array()), points)


def test_the_layout_from_before_07_is_loaded_with_a_warning(old_pbmc_path, old_pbmc):
    with pytest.warns(FallbackWarning, match=r"before AnnData 0\.7.*loaded whole") as told:
        source = readers.open(old_pbmc_path)
    assert [one.filename for one in told] == [__file__]
    assert (source.name, source.storage) == (str(old_pbmc_path), "h5ad")
    np.testing.assert_array_equal(values_of(source.expression), dense(old_pbmc.X))


def test_the_zarr_layout_from_before_07_is_loaded_with_a_warning(tmp_path):
    """Arrays of records, written by hand: zarr has no way to write them as it did."""
    cells = np.array([(b"a", 1.5), (b"b", 2.5)], [("index", "S1"), ("score", "<f4")])
    genes = np.array([b"A", b"B", b"C"], [("index", "S1")])
    stored = {"X": np.arange(6, dtype="<f4").reshape(2, 3), "obs": cells, "var": genes}
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    for key, values in stored.items():
        dtype = values.dtype.str if key == "X" else values.dtype.descr
        metadata = {"zarr_format": 2, "shape": values.shape, "chunks": values.shape, "order": "C"}
        metadata |= {"dtype": dtype, "compressor": None, "filters": None, "fill_value": None}
        (tmp_path / key).mkdir()
        (tmp_path / key / ".zarray").write_text(json.dumps(metadata))
        (tmp_path / key / ".".join("0" * values.ndim)).write_bytes(values.tobytes())
    with pytest.warns(FallbackWarning, match=r"this zarr .*before AnnData 0\.7.*loaded whole"):
        source = readers.open(tmp_path)
    assert (source.name, source.storage, list(source.obs)) == (str(tmp_path), "zarr", ["score"])
    np.testing.assert_array_equal(values_of(source.expression), stored["X"])
    assert source.read_gene_ids("index") == ["A", "B", "C"]
