"""What is opened, what is refused, and what is left out by name."""

from __future__ import annotations

import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from cellucid_lazy import readers
from cellucid_lazy.errors import (
    DataError,
    LeftOutWarning,
    MissingFileError,
    MissingKeyError,
    OptionError,
)
from tests import data


def refused(value, error, *parts, **options):
    """One line that says all the parts."""
    with pytest.raises(error) as caught:
        readers.open(value, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


@pytest.fixture
def h5ad(tmp_path):
    return data.write_h5ad(data.atlas(60, 5, slim=True), tmp_path / "a.h5ad")


@pytest.fixture(params=["h5ad", "zarr"])
def edited(request, tmp_path):
    """Write a small atlas, and change what is stored."""

    def edit(change, **size):
        adata = data.atlas(60, 5, slim=True, **size)
        path = tmp_path / f"a.{request.param}"
        if request.param == "h5ad":
            with h5py.File(data.write_h5ad(adata, path), "r+") as root:
                change(root)
            return path
        data.write_zarr(adata, path, zarr_format=3)
        with data.writing():
            change(zarr.open_group(path, mode="r+", use_consolidated=False))
            zarr.consolidate_metadata(path)
        return path

    return edit


def put(root, key, values):
    """Replace an array."""
    attributes = dict(root[key].attrs) if key in root else {}
    if key in root:
        del root[key]
    if isinstance(root, h5py.Group):
        root[key] = values
    else:
        root.create_array(key, data=values)
    root[key].attrs.update(attributes)


# Paths


def test_paths(h5ad, tmp_path, monkeypatch):
    refused(tmp_path / "no.h5ad", MissingFileError, tmp_path / "no.h5ad", "no such file or folder")
    refused("", MissingFileError, "the name of the dataset is empty")
    monkeypatch.chdir(tmp_path)
    source = readers.open("a.h5ad")
    assert (source.path, source.storage, source.is_backed) == (str(h5ad), "h5ad", True)
    assert readers.open(h5ad.as_uri()).path == str(h5ad)
    assert readers.open(source) is source
    (tmp_path / "named").mkdir()
    for name in ("named/plain", "named.zarr"):
        (tmp_path / name).mkdir()
        refused(tmp_path / name, DataError, tmp_path / name, "zarr store")
    (tmp_path / "named" / "dataset_identity.json").write_text("{}")
    refused(tmp_path / "named", DataError, "an export for the viewer, not AnnData")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.h5ad", b""),
        ("a.h5ad", b"not HDF5 at all"),
        ("a.h5ad", b"\x89HDF\r\n\x1a\n and then nothing more"),
        ("a.txt", b"text"),
        ("a.zarr.zip", b"PK\x03\x04 and then nothing more"),
    ],
)
def test_files_that_cannot_be_read(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, DataError, tmp_path / name)


def test_a_file_cut_short(h5ad):
    h5ad.write_bytes(h5ad.read_bytes()[:-5000])
    refused(h5ad, DataError, h5ad)


def test_files_that_are_no_anndata(tmp_path):
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["numbers"] = np.arange(3)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="f4")
    for name in ("other.h5ad", "other.zarr", "array.zarr"):
        refused(tmp_path / name, DataError, tmp_path / name)


@pytest.mark.parametrize("thing", [None, 3, ["a.h5ad"], np.zeros(3), pd.DataFrame()])
def test_things_that_do_not_open(thing):
    refused(thing, DataError, type(thing).__name__, "give a path")


def test_options_are_for_urls(h5ad):
    for value in (h5ad, str(h5ad), data.atlas(20, 5, slim=True)):
        refused(value, OptionError, "storage_options are for URLs", storage_options={"anon": True})


def test_old_encodings(tmp_path):
    adata = data.atlas(60, 5)
    source = readers.open(data.write_dataframe_010(adata, tmp_path / "a.h5ad"))
    assert source.left_out == ()
    column = source.obs["cell type"]
    assert list(column.read_labels()) == adata.obs["cell type"].cat.categories.tolist()
    found = column.array().compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, adata.obs["cell type"].cat.codes)
    with h5py.File(tmp_path / "a.h5ad", "r+") as root:
        for old, new in (("h5sparse_format", "csr"), ("h5sparse_shape", (60, 5))):
            root["X"].attrs[old] = new
        for name in ("encoding-type", "shape"):
            del root["X"].attrs[name]
    assert readers.open(tmp_path / "a.h5ad").expression.matrix.layout == "csr"


# Matrices


@pytest.mark.parametrize("shape", [(60, 4), (59, 5), (60,), (60, 5, 2)])
def test_a_matrix_that_does_not_fit(shape, edited):
    path = edited(lambda root: put(root, "X", np.zeros(shape, "f4")), matrix="dense")
    refused(path, DataError, path, shape)


def test_a_sparse_matrix_that_does_not_fit(edited):
    path = edited(lambda root: root["X"].attrs.update(shape=[61, 5]))
    refused(path, DataError, f"{path}: X: indptr has shape (61,)", "(61, 5) needs (62,)")
    shutil.rmtree(path, ignore_errors=True)
    path = edited(lambda root: root["X"].__delitem__("indptr"))
    refused(path, DataError, f"{path}: X: not a complete sparse matrix", "missing: ['indptr']")


def test_a_graph_that_does_not_fit(edited):
    def change(root):
        del root["obsp/connectivities"]
        put(root, "obsp/connectivities", np.zeros((60, 59)))

    said = "obsp/connectivities, is left out: .*has shape \\(60, 59\\), but there are 60 cells"
    with pytest.warns(LeftOutWarning, match=said):
        assert readers.open(edited(change)).connectivities is None


def test_a_layer_or_raw_that_is_not_there(h5ad):
    refused(h5ad, MissingKeyError, h5ad, "did you mean 'counts'?", layer="count")
    refused(h5ad, DataError, "exclude each other", layer="counts", use_raw=True)
    adata = data.atlas(20, 3, slim=True)
    adata.raw = None
    refused(adata, MissingKeyError, "no raw matrix", use_raw=True)
    refused(adata, MissingKeyError, "'nope'", "'counts'", layer="nope")
    with h5py.File(h5ad, "r+") as root:
        del root["raw"]
    refused(h5ad, MissingKeyError, "no raw matrix", use_raw=True)


@pytest.mark.parametrize("values", [np.full((60, 5), 1j), np.full((60, 5), "NaT", "M8[s]")])
def test_a_matrix_of_other_numbers(values):
    adata = data.atlas(60, 5, slim=True)
    adata.layers["odd"] = values
    refused(adata, DataError, "layers/odd", values.dtype, layer="odd")


def test_a_matrix_of_text(edited):
    def change(root):
        text = np.full((60, 5), "a", dtype="S1" if isinstance(root, h5py.Group) else "U1")
        put(root, "X", text)

    path = edited(change, matrix="dense")
    with data.writing():
        refused(path, DataError, f"{path}: X: holds text")


def test_no_expression(tmp_path):
    adata = anndata.AnnData(obs=pd.DataFrame(index=list("abc")), obsm={"X_umap": np.zeros((3, 2))})
    source = readers.open(data.write_h5ad(adata, tmp_path / "a.h5ad"))
    assert (source.expression, source.n_genes) == (None, 0)
    assert readers.open(adata).expression is None
    refused(adata[[]].copy(), DataError, "0 cells")


# What is left out


def test_odd_parts_are_left_out_by_name(edited):
    def change(root):
        put(root, "obs/score", np.arange(60) * 1j)
        put(root, "obs/maybe_flag/mask", np.zeros(59, bool))
        root["obs"].attrs["column-order"] = [*root["obs"].attrs["column-order"], "gone"]
        put(root, "obsm/X_pca", np.zeros((60, 3), "c8"))
        del root["obs/sample"]
        put(root, "obs/sample", np.zeros(59))

    path = edited(change)
    with pytest.warns(LeftOutWarning) as told:
        source = readers.open(path)
    assert [f"{path}: {one}" for one in source.left_out] == [str(one.message) for one in told]
    assert {one.filename for one in told} == {__file__}
    assert list(source.obs) == ["cell type"]
    assert "X_pca" not in source.obsm
    assert "X_umap_2d" in source.obsm
    for sentence in (
        "obs column 'score' is left out: obs/score: holds complex128",
        "obs column 'maybe_flag' is left out: obs/maybe_flag/mask: has shape (59,), but 60 cells",
        "obs column 'sample' is left out: obs/sample: has shape (59,), but 60 cells need one",
        "obs column 'gone' is left out: obs: column 'gone' is listed but not there",
        "obsm 'X_pca' is left out: obsm/X_pca: holds complex64, but real numbers are needed",
    ):
        assert any(sentence in one for one in source.left_out), source.left_out


def test_odd_columns_in_memory_are_left_out():
    adata = data.atlas(60, 5, slim=True)
    adata.obs["when"] = pd.date_range("2020-01-01", periods=60)
    adata.obs["for_long"] = pd.to_timedelta(np.arange(60), unit="h")
    adata.obs["complex"] = np.arange(60) * 1j
    with pytest.warns(LeftOutWarning) as told:
        source = readers.open(adata)
    for key in ("when", "for_long", "complex"):
        assert any(f"obs column '{key}' is left out: it holds" in str(one.message) for one in told)
    assert list(source.obs) == list(adata.obs.columns[:4])


def test_gene_identifiers(edited):
    path = edited(lambda root: put(root, "var/length", np.zeros((5, 2), complex)))
    source = readers.open(path)
    with pytest.raises(MissingKeyError, match=r"did you mean 'ensembl'\?"):
        source.read_gene_ids("ensemb")
    assert source.read_gene_ids("ensembl") == [f"ENSG{i:05}" for i in range(5)]
