"""Every element of a stored AnnData is what anndata's public element reader makes of it."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import read_elem
from scipy import sparse

from cellucid_lazy import readers
from cellucid_lazy.errors import LeftOutWarning
from cellucid_lazy.source import BlockSizes
from tests import data

SMALL = BlockSizes(array_bytes=400)
FORMS = {
    "h5ad": lambda adata, path: data.write_h5ad(adata, path),
    "h5ad gzip": lambda adata, path: data.write_h5ad(adata, path, compression="gzip"),
    "h5ad lzf": lambda adata, path: data.write_h5ad(adata, path, compression="lzf"),
    "zarr 2": lambda adata, path: data.write_zarr(adata, path, zarr_format=2),
    "zarr 3": lambda adata, path: data.write_zarr(adata, path, zarr_format=3),
}


@pytest.fixture(scope="module", params=FORMS)
def stored(request, tmp_path_factory):
    """A file with every kind of element, and its open root."""
    adata = data.atlas(matrix=["csr", "csc", "dense"][list(FORMS).index(request.param) % 3])
    # 0 is a value of its own where an array is sparse or a table.
    adata.obsm["sparse"] = sparse.csr_matrix(adata.obsm["X_pca"] * (adata.obsm["X_pca"] > 0))
    adata.obsm["by_column"] = sparse.csc_matrix(adata.obsm["sparse"])
    adata.obsm["table"] = pd.DataFrame(adata.obsm["X_umap"], adata.obs_names, ["one", "other"])
    folder = tmp_path_factory.mktemp("stored")
    path = FORMS[request.param](adata, folder / f"a.{request.param[:4]}")
    if request.param.startswith("zarr"):
        yield path, zarr.open_group(path, mode="r")
        return
    with h5py.File(path) as root:
        yield path, root


def dense(value):
    return value.toarray() if sparse.issparse(value) else np.asarray(value)


@pytest.mark.parametrize("which", ["X", "layers/counts", "layers/half", "layers/by_gene", "raw/X"])
def test_expression(stored, which):
    path, root = stored
    layer = which.removeprefix("layers/") if which.startswith("layers/") else None
    source = readers.open(path, layer=layer, use_raw=which == "raw/X")
    expected = read_elem(root[which])
    matrix = source.expression.matrix
    assert (matrix.shape, matrix.dtype) == (expected.shape, expected.dtype)
    assert matrix.n_stored == (expected.nnz if sparse.issparse(expected) else expected.size)
    blocks = matrix.whole_blocks(500)
    assert len(blocks) > 1 or matrix.layout == "dense"
    found = np.zeros(expected.shape, expected.dtype)
    for block in blocks:
        found[slice(*block.cells), slice(*block.genes)] = dense(matrix.read_block(block))
    np.testing.assert_array_equal(found, dense(expected))


def test_obsm(stored):
    path, root = stored
    source = readers.open(path)
    assert set(source.obsm) == set(root["obsm"])
    for key, element in source.obsm.items():
        expected = dense(read_elem(root["obsm"][key]))
        array = element.array(SMALL)
        assert (element.shape, element.dtype) == (expected.shape, expected.dtype), key
        np.testing.assert_array_equal(array.compute(scheduler="synchronous"), expected, key)


def test_obs(stored):
    path, root = stored
    source = readers.open(path)
    frame = read_elem(root["obs"])
    assert list(source.obs) == list(frame.columns)
    for key, column in source.obs.items():
        found = column.array(SMALL).compute(scheduler="synchronous")
        expected = frame[key]
        if column.read_labels is not None:
            assert list(column.read_labels()) == expected.cat.categories.tolist()
            np.testing.assert_array_equal(found, expected.cat.codes)
        elif column.kind == "category":
            missing = expected.isna().to_numpy()
            assert found[~missing].tolist() == expected[~missing].tolist()
            assert all(one is None for one in found[missing])
        elif found.dtype == np.float32:  # a nullable number has become what is shown of it
            np.testing.assert_array_equal(found, expected.to_numpy(np.float32, na_value=np.nan))
        else:
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_genes(stored):
    path, root = stored
    source = readers.open(path)
    frame = read_elem(root["var"])
    assert source.read_gene_ids("index") == frame.index.tolist()
    assert list(source.var_keys) == list(frame.columns)
    for key in frame.columns:
        assert source.read_gene_ids(key) == [str(one) for one in frame[key]]


def test_connectivities(stored):
    path, root = stored
    graph = readers.open(path).connectivities
    expected = read_elem(root["obsp/connectivities"])
    blocks = graph.matrix.whole_blocks(500)
    assert len(blocks) > 1
    found = sparse.vstack([graph.matrix.read_block(block) for block in blocks])
    assert (graph.matrix.shape, graph.matrix.n_stored) == (expected.shape, expected.nnz)
    assert (found != expected).nnz == 0


def test_categories_in_a_table_of_obsm_are_no_numbers(tmp_path):
    adata = data.atlas(slim=True)
    table = {"group": pd.Categorical(["a", "b"] * (adata.n_obs // 2)), "score": 1.0}
    adata.obsm["table"] = pd.DataFrame(table, adata.obs_names)
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    for version in ("0.2.0", "0.1.0"):
        if version == "0.1.0":  # the codes are an array there, as numbers are
            with h5py.File(path, "r+") as root:
                data.legacy_categorical(root["obsm/table"], "group")
                root["obsm/table"].attrs["encoding-version"] = version
        with pytest.warns(LeftOutWarning, match="obsm 'table' is left out: .*are no numbers"):
            source = readers.open(path)
        assert "table" not in source.obsm
