"""``isel``, ``query``, ``assign`` and ``to_frame``, against what AnnData and pandas give."""

from __future__ import annotations

import pickle

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import cellucid_lazy as cl
from tests import data
from tests.helpers import raise_if_dask_computes, small_grid, with_sizes

N = 120
OPTIONS = cl.Options(created_at="2020-01-01T00:00:00Z", dataset_name="a", centroid_min_points=3)


@pytest.fixture(scope="module")
def adata():
    adata = data.atlas(N, 10)
    adata.obs["louvain"] = pd.Categorical(np.array(["A", "B", "B", "c c"])[np.arange(N) % 4])
    return adata


@pytest.fixture(scope="module")
def catalogue(adata, tmp_path_factory):
    path = tmp_path_factory.mktemp("assign") / "a.h5ad"
    return cl.outputs(data.write_h5ad(adata, path), OPTIONS)


def assert_same(found, expected, names=None):
    names = expected.names() if names is None else names
    assert found.names() == expected.names()
    files, wanted = cl.to_bytes(found, names), cl.to_bytes(expected, names)
    assert [name for name in names if files[name] != wanted[name]] == []


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "cells",
    [
        slice(10, 90, 3),
        slice(None, None, -1),
        RNG.random(N) < 0.5,
        RNG.permutation(N)[:70],
        [-1, 4],
    ],
    ids=["slice", "reversed", "mask", "positions", "two"],
)
def test_isel_is_a_view_of_anndata(adata, catalogue, cells, monkeypatch):
    small_grid(monkeypatch, 16)
    with raise_if_dask_computes():
        found = with_sizes(catalogue).isel(cell=cells)
    expected = adata[cells].copy()
    expected.obs["maybe_text"] = expected.obs["maybe_text"].astype("string")
    assert_same(found, cl.outputs(expected, OPTIONS))
    assert found.cell_names.compute().tolist() == expected.obs_names.tolist()


def test_isel_twice_and_of_a_view(adata, catalogue):
    found = catalogue.isel(cell=slice(100, 0, -2)).isel(cell=[7, 30, 2, 11, 12, 13, 14, 15])
    positions = np.arange(N)[100:0:-2][[7, 30, 2, 11, 12, 13, 14, 15]]
    expected = cl.outputs(adata[positions].copy(), OPTIONS)
    assert_same(found, expected)
    assert_same(found.isel(cell=slice(None)), expected)
    view = cl.outputs(adata[positions, [3, 1]], OPTIONS).isel(cell=[5, 6, 0])
    assert_same(view, cl.outputs(adata[positions[[5, 6, 0]], [3, 1]].copy(), OPTIONS))


def test_a_cell_chosen_twice_takes_the_edges_away(catalogue):
    with pytest.warns(cl.LeftOutWarning, match="neighbour graph is left out: a cell"):
        found = catalogue.isel(cell=[1, 1, 2])
    assert found.names("connectivity") == ()
    assert found.source.n_cells == 3


def test_choices_stay(catalogue):
    found = catalogue.select("obs/louvain/*", "var/CD3*").isel(cell=slice(50))
    assert found.names() == catalogue.select("obs/louvain/*", "var/CD3*").names()
    assert pickle.loads(pickle.dumps(found)).names() == found.names()


@pytest.mark.parametrize(
    ("expression", "condition"),
    [
        ("louvain == 'B' and n_counts > 5e11", lambda t: (t.louvain == "B") & (t.n_counts > 5e11)),
        ("louvain in ['A', 'c c']", lambda t: t.louvain.isin(["A", "c c"])),
        ("`cell type` != 'a'", lambda t: t["cell type"] != "a"),
        ("doublet == 'True' or resolution == '10'", lambda t: t.doublet | (t.resolution == 10)),
        ("score != score", lambda t: t.score.isna()),
    ],
)
def test_query_is_a_condition_on_obs(adata, catalogue, expression, condition):
    found = catalogue.query(expression)
    mask = condition(adata.obs).to_numpy(bool)
    assert 0 < mask.sum() < N
    assert found.cell_names.compute().tolist() == adata.obs_names[mask].tolist()


@pytest.mark.parametrize(
    ("expression", "error", "said"),
    [
        ("leiden == 'B'", cl.OptionError, "cannot be evaluated .*'leiden' is not defined.*obs has"),
        ("louvain ==", cl.OptionError, "cannot be evaluated"),
        ("n_counts", cl.OptionError, "'n_counts' is no condition on obs; compare a column"),
        ("score > @source", cl.OptionError, "cannot be evaluated"),
        ("n_counts < 0", cl.DataError, "no cell has n_counts < 0"),
    ],
)
def test_query_refuses(catalogue, expression, error, said):
    with pytest.raises(error, match=said):
        catalogue.query(expression)


@pytest.mark.parametrize(
    ("cells", "error", "said"),
    [
        ([N], cl.OptionError, "index 120 is out of bounds"),
        (np.ones(3, bool), cl.OptionError, "a mask of 120 cells, not bool of shape"),
        (["cell1"], cl.OptionError, "give a slice, positions, or a mask"),
        ([], cl.DataError, "0 cells"),
        (slice(0, 0), cl.DataError, "0 cells"),
    ],
    ids=["beyond", "short mask", "names", "none", "empty slice"],
)
def test_isel_refuses(catalogue, cells, error, said):
    with pytest.raises(error, match=said):
        catalogue.isel(cell=cells)


def columns(adata):
    text = np.array(["x", "y", "z", ""])[np.arange(N) % 4]
    missing = np.where(np.arange(N) % 5, text.astype(object), None)
    return {
        "numbers": np.arange(N) / 7,
        "whole": np.arange(N),
        "text": text,
        "missing text": missing,
        "list": [None if one is None else str(one) for one in missing],
        "truth": np.arange(N) % 3 == 0,
        "categorical": pd.Categorical(missing, categories=["z", "y", "x", ""], ordered=True),
        "series": pd.Series(np.arange(N) * 2.0, index=adata.obs_names),
        "nullable": pd.array([1, None, 3] * (N // 3), dtype="Int64"),
        "score": np.zeros(N),
    }


def test_assigned_columns_are_those_of_anndata(adata, catalogue):
    new = columns(adata)
    found = catalogue.assign(obs=new)
    expected = adata.copy()
    for key, values in new.items():
        expected.obs[key] = values
    keys = {f"obs/{key}" for key in new}
    wanted = cl.outputs(expected, OPTIONS)
    assert found.names() == wanted.names()
    names = [name for name in wanted.names("obs") if name.rpartition("/")[0] in keys]
    assert cl.to_bytes(found, names) == cl.to_bytes(wanted, names)
    for name in names:
        assert found[name].labels == wanted[name].labels


def test_lazy_values_stay_lazy(adata, catalogue, tmp_path):
    values, text = np.arange(N) % 11, np.array(["x", "y"] * (N // 2))
    points = np.random.default_rng(1).random((N, 2))
    ds = cl.to_dataset(catalogue)
    with raise_if_dask_computes():
        found = catalogue.assign(
            obs={
                "dask": da.from_array(values, chunks=50),
                "text": da.from_array(text, chunks=50),
                "truth": da.from_array(values, chunks=50) > 5,
                "xarray": ds.obs_score * 2,
                "codes": ds.obs_louvain,
                "plain": xr.DataArray(values, dims="cell"),
            },
            embeddings={2: da.from_array(points, chunks=(50, 1))},
        )
    table = cl.to_frame(
        found, [f"obs/{key}" for key in ("dask", "text", "truth", "xarray", "codes", "plain")]
    )
    assert table["dask"].tolist() == table["plain"].tolist() == values.tolist()
    assert table["text"].tolist() == text.tolist()
    assert table["truth"].tolist() == [str(one) for one in values > 5]
    assert table["codes"].tolist() == adata.obs["louvain"].tolist()
    score = adata.obs["score"].to_numpy()
    np.testing.assert_array_equal(table["xarray"], score * 2)
    cl.to_directory(found, tmp_path / "out", progress=False)
    assert (tmp_path / "out/obs/dask.values.f32").is_file()


# X_umap goes by another name now, so its vector fields have no embedding.
pytestmark = pytest.mark.filterwarnings("ignore:.*vector field .* is left out. it is of umap")


def test_assigned_embeddings_and_vectors(adata, catalogue):
    rng = np.random.default_rng(2)
    points, flow = rng.normal(size=(N, 3)) * 4, rng.normal(size=(N, 3))
    found = catalogue.assign(embeddings={"X_mine": points}, vectors={"flow": flow})
    expected = adata.copy()
    expected.obsm["X_mine"], expected.obsm["flow_mine_3d"] = points, flow
    options = cl.Options(
        created_at=OPTIONS.created_at,
        dataset_name="a",
        centroid_min_points=3,
        embeddings={1: "X_umap_1d", 2: "X_umap_2d", 3: "X_mine"},
    )
    assert_same(found, cl.outputs(expected, options))


def test_a_selection_gets_what_is_assigned(catalogue):
    found = catalogue.select("obs/louvain/codes").assign(
        obs={"new": np.zeros(N)}, embeddings={2: np.zeros((N, 2))}
    )
    assert found.names() == (
        "points/2d",
        "points/2d/padded",
        "obs/louvain/codes",
        "obs/new/values",
    )


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"obs": {"x": np.zeros(5)}}, cl.DataError, r"obs 'x' has shape \(5,\), but .* 120 cells"),
        ({"obs": {"x": np.zeros((N, 2))}}, cl.DataError, "obs 'x' has shape .*one value per cell"),
        (
            {"obs": {"x": pd.date_range("2020", periods=N).to_numpy()}},
            cl.DataError,
            "obs 'x': it holds datetime64",
        ),
        (
            {"obs": {"x": pd.Series(0, index=[f"cell{i}" for i in range(N)][::-1])}},
            cl.DataError,
            r"obs 'x' names the cells in another order \(120 of 120",
        ),
        (
            {"obs": {"x": xr.DataArray(np.zeros(N), dims="gene")}},
            cl.DataError,
            "obs 'x' has dimensions .*'gene'.*first has to be 'cell'",
        ),
        ({"embeddings": {2: np.zeros((N, 3))}}, cl.OptionError, "2 has shape .* 2 columns are"),
        ({"embeddings": {"m": np.zeros((N, 4))}}, cl.OptionError, "'m' .*1 to 3 columns are"),
        ({"embeddings": {2: np.full((N, 2), "a")}}, cl.DataError, "obsm 2: holds"),
        ({"vectors": {"v": np.zeros((N, 4))}}, cl.OptionError, "'v' has shape .*embeddings of 1d"),
        (
            {"obs": {"x": da.ones(N, dtype="M8[s]")}},
            cl.DataError,
            "obs 'x': holds datetime64",
        ),
    ],
    ids=[
        "short",
        "wide",
        "dates",
        "reversed",
        "genes",
        "three of two",
        "four",
        "text",
        "vectors",
        "lazy dates",
    ],
)
def test_assign_refuses_by_name(catalogue, given, error, said):
    with pytest.raises(error, match=said):
        catalogue.assign(**given)


def test_a_table(adata, catalogue):
    names = ["obs/louvain", "var/CD3E", "obs/score", "obs/many"]
    found = cl.to_frame(catalogue, names)
    assert found.index.tolist() == adata.obs_names.tolist()
    assert found.columns.tolist() == ["louvain", "CD3E", "score", "many"]
    assert found["louvain"].tolist() == adata.obs["louvain"].tolist()
    assert found["many"].isna().tolist() == adata.obs["many"].isna().tolist()
    np.testing.assert_array_equal(found["CD3E"], adata[:, "CD3E"].X.toarray()[:, 0])
    np.testing.assert_array_equal(found["score"], adata.obs["score"])


def test_a_table_of_one_key_twice(catalogue):
    found = catalogue.assign(obs={"CD3E": np.zeros(N)})
    names = ["var/CD3E", "obs/CD3E", "obs/score"]
    assert cl.to_frame(found, names).columns.tolist() == ["var/CD3E", "obs/CD3E", "score"]


def test_a_table_refuses(catalogue):
    with pytest.raises(cl.OptionError, match=r"give a list of names"):
        cl.to_frame(catalogue, "obs/louvain")
    with pytest.raises(cl.OptionError, match=r"'points/2d'.*obs/<key> and var/<gene>"):
        cl.to_frame(catalogue, ["points/2d"])
    with pytest.raises(cl.MissingKeyError, match="did you mean 'louvain'"):
        cl.to_frame(catalogue, ["obs/louvian"])
    with pytest.raises(cl.MissingKeyError, match="CD3E"):
        cl.to_frame(catalogue, ["var/CD3F"])


# What people try first


def test_a_table_is_taken_column_by_column(catalogue, adata):
    found = catalogue.assign(obs=adata.obs[["score"]].rename(columns={"score": "again"}))
    again, score = cl.to_bytes(found, ["obs/again/values", "obs/score/values"]).values()
    assert again == score
    for wrong in ({"obs": adata.obs.score}, {"embeddings": np.ones((len(adata), 2))}):
        with pytest.raises(cl.OptionError, match="give values by name, such as"):
            catalogue.assign(**wrong)


def test_numbers_are_compared_as_they_are_stored(adata):
    adata, n_cells = adata.copy(), len(adata)
    adata.obs["share"], adata.obs["id"] = 0.1, 2**24 + np.arange(n_cells)
    catalogue = cl.outputs(adata)
    assert catalogue.query("share in [0.1]").source.n_cells == n_cells
    assert catalogue.query(f"id == {2**24 + 1}").source.n_cells == 1
    assert cl.to_frame(catalogue, ["obs/id"])["id"].nunique() == n_cells


def test_values_computed_from_quantized_ones_are_told(adata):
    quantized = cl.outputs(adata, cl.Options(var_quantization=8))
    gene = quantized.names("var")[0]
    with pytest.warns(UserWarning, match=r"obs 'gene' holds uint8.*unquantized\(\)"):
        quantized.assign(obs={"gene": quantized[gene].array})
    plain = quantized.assign(obs={"gene": quantized.unquantized()[gene].array})
    expected = np.asarray(cl.outputs(adata)[gene])
    np.testing.assert_array_equal(np.asarray(plain["obs/gene/values"]), expected)


def test_a_mask_names_the_cells_in_their_order(catalogue, adata):
    mask = adata.obs["score"] > 0
    assert catalogue.isel(cell=mask).source.n_cells == mask.sum()
    with pytest.raises(cl.DataError, match="names the cells in another order"):
        catalogue.isel(cell=mask[::-1])


def test_labels_with_blanks_travel_without_their_variable(adata, tmp_path):
    adata = adata.copy()
    adata.obs["kind"] = pd.Categorical(["T cells", "B"] * (len(adata) // 2))
    catalogue = cl.outputs(adata)
    ds = cl.to_dataset(catalogue, ["obs/kind/*"])
    alone = cl.from_dataset(ds[["obs_kind"]], base=catalogue)
    assert alone["obs/kind/codes"].labels == ("B", "T cells")
    assert catalogue.assign(obs={"x": ds.obs_kind})["obs/x/codes"].labels == ("B", "T cells")


def test_what_is_no_catalogue_or_dataset_is_named(adata):
    with pytest.raises(cl.OptionError, match="a catalogue is needed, not str"):
        cl.to_dataset("a.h5ad")
    with pytest.raises(cl.OptionError, match=r"an xarray\.Dataset is needed, not AnnData"):
        cl.from_dataset(adata)
    with pytest.raises(TypeError, match="compression= does not apply"):
        cl.AnnDataAdapter(adata, compression=1)
