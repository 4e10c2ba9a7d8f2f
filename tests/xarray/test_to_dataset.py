"""A catalogue as a Dataset: names, dimensions, types and attributes; lazy, and read sparingly."""

from __future__ import annotations

import pickle
from dataclasses import replace

import anndata
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import cellucid_lazy as cl
from tests import data
from tests.helpers import SMALL, Reads, raise_if_dask_computes, with_sizes

pytestmark = pytest.mark.filterwarnings("ignore::cellucid_lazy.LeftOutWarning")

N_CELLS, N_GENES = 200, 30


@pytest.fixture(scope="module")
def adata():
    return data.atlas(N_CELLS, N_GENES)


@pytest.fixture(scope="module")
def path(adata, tmp_path_factory):
    return data.write_h5ad(adata, tmp_path_factory.mktemp("to_dataset") / "a.h5ad")


@pytest.fixture(scope="module")
def catalogue(path):
    return with_sizes(cl.outputs(path))


@pytest.fixture(scope="module")
def ds(catalogue):
    with pytest.warns(UserWarning, match="edges are counted now"):
        return cl.to_dataset(catalogue, edges=True)


@pytest.mark.parametrize(
    ("variable", "dims", "dtype", "output", "file"),
    [
        ("points_1d", ("cell", "axis_1d"), "f4", "points/1d", "points_1d.bin"),
        ("points_2d", ("cell", "axis_2d"), "f4", "points/2d", "points_2d.bin"),
        (
            "vector_T_fwd_umap_3d",
            ("cell", "axis_3d"),
            "f4",
            "vectors/T_fwd_umap/3d",
            "vectors/T_fwd_umap_3d.bin",
        ),
        ("expression", ("cell", "gene"), "f4", "var/*", "var/<gene>.values.*"),
        ("obs_score", ("cell",), "f4", "obs/score/values", "obs/score.values.f32"),
        ("obs_cell_type", ("cell",), "u1", "obs/cell type/codes", "obs/cell_type.codes.u8"),
        ("obs_many", ("cell",), "u2", "obs/many/codes", "obs/many.codes.u16"),
        (
            "obs_cell_type_outliers",
            ("cell",),
            "f4",
            "obs/cell type/outliers",
            "obs/cell_type.outliers.f32",
        ),
        ("edge_src", ("edge",), "u2", "connectivity/src", "connectivity/edges.src.bin"),
        ("edge_dst", ("edge",), "u2", "connectivity/dst", "connectivity/edges.dst.bin"),
    ],
)
def test_a_variable_says_which_output_it_is(ds, catalogue, variable, dims, dtype, output, file):
    found = ds[variable]
    assert (found.dims, found.dtype) == (dims, np.dtype(dtype))
    assert isinstance(found.data, da.Array)
    assert found.attrs["output"] == output
    assert found.attrs["variable"] == variable
    assert found.attrs["file"] == file
    assert found.attrs["stored_dtype"] == found.dtype.name
    if output in catalogue:
        assert found.to_numpy().tobytes() == cl.to_bytes(catalogue, [output])[output]


def test_labels_and_centroids_go_by_category(ds, catalogue):
    codes, category = catalogue["obs/cell type/codes"], "obs_cell_type_category"
    assert ds.obs_cell_type_label.dims == (category,)
    assert tuple(ds.obs_cell_type_label.values) == codes.labels
    centroids = codes.statistics["centroids/2d"].compute()
    assert ds.obs_cell_type_centroid_2d.dims == (category, "axis_2d")
    np.testing.assert_array_equal(ds.obs_cell_type_centroid_2d, centroids[:, :2])
    assert ds.obs_cell_type_centroid_n.dtype == np.int64
    np.testing.assert_array_equal(ds.obs_cell_type_centroid_n, centroids[:, 2])


def test_codes_have_flags(ds):
    attributes = ds.obs_sample.attrs
    assert attributes["flag_values"].tolist() == [0, 1, 2, 3]
    assert attributes["flag_values"].dtype == np.uint8
    assert attributes["flag_meanings"] == "B/naïve NK T_cells unknown"
    assert attributes["missing_code"] == 255


def test_nothing_that_xarray_would_apply_by_itself(ds):
    odd = {"_FillValue", "scale_factor", "add_offset", "units", "missing_value"}
    assert not [name for name, one in ds.variables.items() if odd & set(one.attrs | one.encoding)]


def test_coordinates(ds, adata):
    assert not ds.xindexes.keys() & {"cell_id", "gene_id", "cell", "gene"}
    assert ds.cell_id.dims == ("cell",)
    assert ds.gene_id.dims == ("gene",)
    assert isinstance(ds.cell_id.data, da.Array)
    assert ds.cell_id.values.tolist() == adata.obs_names.tolist()
    assert ds.gene_id.values.tolist() == adata.var_names.tolist()
    assert ds.axis_3d.values.tolist() == ["x", "y", "z"]


def test_the_dataset_says_where_it_comes_from(ds, path):
    assert ds.attrs["source"] == str(path)
    assert (ds.attrs["id"], ds.attrs["name"]) == ("a", "a")
    assert ds.attrs["cellucid_lazy_version"] == cl.__version__
    assert ds.attrs["latent_key"] == "X_pca"


def test_nothing_is_computed(path):
    catalogue = cl.outputs(path)
    cl.to_dataset(catalogue)  # reads labels of text columns, and names of genes
    with raise_if_dask_computes():
        ds = cl.to_dataset(catalogue)
        kept = ds.assign(twice=ds.obs_score * 2).isel(cell=slice(0, 50))
        ds.cellucid.labels("cell type")
        cl.from_dataset(kept)
        cl.from_dataset(ds, base=catalogue)
        repr(kept)


@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
def test_few_genes_are_read_as_to_bytes_reads_them(matrix, tmp_path, monkeypatch):
    wide = data.atlas(200, 300, matrix=matrix, slim=True)
    path = tmp_path / "a.h5ad"
    if matrix == "csr":
        with data.writing():
            wide.write_h5ad(path, compression="gzip")
    else:
        data.write_chunked(wide, path)
    # As many values as cells: chunks of one gene, where genes are stored together.
    catalogue = with_sizes(cl.outputs(path), replace(SMALL, matrix_values=200))
    genes = list(wide.var_names[[250, 7, 8]])
    catalogue.names("var")
    with Reads(monkeypatch) as plain:
        files = cl.to_bytes(catalogue, [f"var/{gene}" for gene in genes])
    for select in ({"gene_id": genes}, None):
        ds = cl.to_dataset(catalogue, index=True)
        with Reads(monkeypatch) as reads, dask.config.set(scheduler="synchronous"):
            one = ds.expression.sel(select) if select else ds.expression.isel(gene=[250, 7, 8])
            found = one.values
        values = [{one for one in read.chunks if one[0] != "X/indptr"} for read in (reads, plain)]
        assert values[0] == values[1]
        expected = [np.frombuffer(files[f"var/{gene}"], np.float32) for gene in genes]
        np.testing.assert_array_equal(found, np.stack(expected, axis=1))


def as_dask(values):
    return da.from_array(values, chunks=(70, 11))


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "dask", "memory csr", "view", "backed"])
def test_expression_is_the_matrix_in_any_chunks(kind, tmp_path):
    adata = data.atlas(150, 20, matrix=kind if kind in ("csc", "dense") else "csr", slim=True)
    given = adata
    if kind in ("csr", "csc", "dense"):
        given = data.write_h5ad(adata, tmp_path / "a.h5ad")
    elif kind == "dask":
        given = adata.copy()
        given.X = as_dask(adata.X.toarray())
    elif kind == "view":
        given = adata[::-2, [3, 1, 7]]
    elif kind == "backed":
        file = data.write_h5ad(adata, tmp_path / "a.h5ad")
        given = anndata.read_h5ad(file, backed="r")[10:40, 5:9]
    expected = np.asarray(adata.X.todense() if kind != "dense" else adata.X)
    expected = {"view": expected[::-2, [3, 1, 7]], "backed": expected[10:40, 5:9]}.get(
        kind, expected
    )
    expression = cl.to_dataset(with_sizes(cl.outputs(given))).expression
    np.testing.assert_array_equal(expression, expected)
    for chunks in ({"cell": 7, "gene": 3}, {"cell": -1, "gene": 1}, {"cell": 1, "gene": -1}):
        np.testing.assert_array_equal(expression.chunk(chunks), expected)
    picked = expression.isel(gene=[2, 0, 2], cell=slice(5, 25, 3))
    np.testing.assert_array_equal(picked, expected[5:25:3, [2, 0, 2]])


def test_two_keys_never_share_a_variable():
    keys = ["a", "a_label", "a_outliers", "a_category", "a/b", "a_b", "a b", "细胞", "", " ", "_"]
    adata = data.atlas(30, 4, slim=True)
    text = np.array(list("xyz") * 10)
    adata.obs = pd.DataFrame(
        {key: pd.Categorical([f"{key}{one}" for one in text]) for key in keys}
        | {"a_centroid": np.arange(30.0), "a_centroid_2d": -np.arange(30.0)},
        index=adata.obs_names,
    )
    ds = cl.to_dataset(cl.outputs(adata))
    found = {one.attrs["key"]: name for name, one in ds.items() if "flag_values" in one.attrs}
    assert sorted(found) == sorted(keys)
    for key, name in found.items():
        labels = ds[ds[name].attrs["labels"]].values.tolist()
        assert labels == [f"{key}{one}" for one in "xyz"]
        assert ds.cellucid.labels(key).values.tolist() == [f"{key}{one}" for one in text]
    names = {one.attrs["output"]: name for name, one in ds.items() if "output" in one.attrs}
    assert ds[names["obs/a_centroid_2d/values"]].values[-1] == -29


def test_some_outputs_alone(catalogue):
    ds = cl.to_dataset(catalogue, ["obs/score/values", "var/CD3*"])
    assert set(ds) == {"obs_score", "expression"}
    assert ds.gene_id.values.tolist() == ["CD3E", "CD3D"]
    assert set(cl.to_dataset(catalogue, "points/2d").variables) == {
        "points_2d",
        "cell_id",
        "axis_2d",
    }
    with pytest.raises(cl.MissingKeyError, match="obs/score"):
        cl.to_dataset(catalogue, ["obs/scores/*"])


def test_values_are_never_quantized(path, catalogue):
    options = cl.Options(var_quantization=8, obs_continuous_quantization=16)
    ds = cl.to_dataset(cl.outputs(path, options), ["obs/score*", "var/CD3E"])
    assert ds.obs_score.attrs["stored_dtype"] == "uint16"
    assert ds.expression.attrs["stored_dtype"] == "uint8"
    plain = cl.to_bytes(catalogue, ["obs/score/values", "var/CD3E"])
    assert ds.obs_score.values.tobytes() == plain["obs/score/values"]
    assert ds.expression.values[:, 0].tobytes() == plain["var/CD3E"]


def test_it_pickles(ds):
    copy = pickle.loads(pickle.dumps(ds))
    assert copy.expression.data.name == ds.expression.data.name
    assert xr.Dataset.equals(copy.isel(cell=[1, 5]), ds.isel(cell=[1, 5]))
    labels = pickle.loads(pickle.dumps(ds.cellucid.labels("sample")))
    assert labels.equals(ds.cellucid.labels("sample"))


def test_labels_of_missing_cells_are_missing(ds, adata):
    found = pd.Series(ds.cellucid.labels("cell type").values, dtype=object)
    expected = adata.obs["cell type"].astype(object).reset_index(drop=True)
    pd.testing.assert_series_equal(found, expected, check_names=False)
    part = ds.isel(cell=[7, 3]).cellucid.labels("sample")
    assert part.values.tolist() == adata.obs["sample"].iloc[[7, 3]].tolist()
    with pytest.raises(cl.MissingKeyError, match="no category 'samples'; did you mean 'sample'"):
        ds.cellucid.labels("samples")


def test_the_accessor_exports(ds, catalogue, tmp_path):
    names = ["points/2d", "obs/score/values"]
    assert ds.cellucid.to_bytes(names) == cl.to_bytes(catalogue, names)
    ds.cellucid.to_directory(tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "points_2d.bin").is_file()
    assert ds.cellucid.catalogue().names("points") == catalogue.names("points")


def test_the_engine_opens_what_it_is_asked_to_open(path, catalogue):
    with dask.config.set(scheduler="synchronous"):
        ds = xr.open_dataset(path, engine="cellucid_lazy", drop_variables="obs_score", index=True)
    assert isinstance(ds.points_2d.data, da.Array)
    assert "obs_score" not in ds
    assert ds.expression.sel(gene_id="CD3E").shape == (N_CELLS,)
    layer = xr.open_dataset(path, engine="cellucid_lazy", names=["var/CD3E"], layer="counts")
    assert (
        layer.expression.values.tolist()
        == cl.to_dataset(
            cl.outputs(cl.open(path, layer="counts")), ["var/CD3E"]
        ).expression.values.tolist()
    )
    with pytest.raises(cl.MissingFileError):
        xr.open_dataset("nothing.h5ad", engine="cellucid_lazy")


def test_the_engine_never_guesses(path, tmp_path):
    from xarray.backends.plugins import guess_engine, list_engines

    assert "cellucid_lazy" in list_engines()
    assert not list_engines()["cellucid_lazy"].guess_can_open(str(path))
    try:
        guessed = guess_engine(str(path))
    except ValueError:  # no other engine takes it
        guessed = "none"
    assert guessed != "cellucid_lazy"


def test_a_dataset_without_embedding_latent_space_or_matrix():
    bare = anndata.AnnData(obs=pd.DataFrame({"a": ["x", "y", "x"]}, index=list("pqr")))
    ds = cl.to_dataset(cl.outputs(bare))
    assert set(ds) == {"obs_a", "obs_a_label", "obs_a_outliers"}
    assert dict(ds.sizes) == {"cell": 3, "obs_a_category": 2}
