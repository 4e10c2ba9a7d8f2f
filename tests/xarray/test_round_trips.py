"""Catalogue, Dataset, store, Dataset, catalogue: the same bytes for every output."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial

import anndata
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import cellucid_lazy as cl
from tests import data
from tests.helpers import SMALL, with_sizes

pytestmark = [
    pytest.mark.filterwarnings("ignore::cellucid_lazy.LeftOutWarning"),
    pytest.mark.filterwarnings("ignore:.*edges are counted now"),
    # zarr warns that text of v3 has no specification yet.
    pytest.mark.filterwarnings("ignore:The 'generic' unit"),  # flox, on import
    pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification"),
]

FIXED = {"created_at": "2020-01-01T00:00:00Z"}
# What the Dataset does not tell is asked for again.
SETTINGS = {
    "plain": {},
    "live": {"manifest_shape": "live"},
    "quantized": {"var_quantization": 8, "obs_continuous_quantization": 16, "compression": 1},
    "chosen": {"embeddings": {2: "X_tsne", 3: "X_pca[:3]"}},
    "live, chosen": {"embeddings": {2: "X_tsne"}, "manifest_shape": "live"},
    "unscaled": {"normalize_embeddings": False},
    "gene names": {"gene_id_column": "ensembl", "latent_key": "X_umap_3d"},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    adata = data.atlas(150, 12)
    adata.obsm["X_tsne"] = adata.obsm["X_umap"][::-1] * 3
    adata.obsm["velocity_tsne"] = adata.obsm["X_umap"] / 7
    adata.uns["sample_colors"] = ["#111111", "#222222", "#333333", "#444444"]
    return data.write_h5ad(adata, tmp_path_factory.mktemp("round") / "a.h5ad")


def assert_same(found: cl.Catalogue, expected: cl.Catalogue) -> None:
    assert found.names() == expected.names()
    files, wanted = (cl.to_bytes(one, one.names()) for one in (found, expected))
    assert [name for name in wanted if files[name] != wanted[name]] == []
    for name in expected.names("obs"):
        if name.endswith("/codes"):
            assert found[name].labels == expected[name].labels
            assert found[name].colors == expected[name].colors


@pytest.mark.parametrize("named", SETTINGS)
def test_in_memory(path, named):
    options = cl.Options(**FIXED, **SETTINGS[named])
    catalogue = with_sizes(cl.outputs(path, options))
    assert_same(cl.from_dataset(cl.to_dataset(catalogue, edges=True), options), catalogue)


def test_settings_of_the_dataset_are_its_name_and_id(path):
    options = cl.Options(dataset_name="An atlas", dataset_id="atlas-1")
    found = cl.from_dataset(cl.to_dataset(cl.outputs(path, options)))
    assert found.options == options


def test_of_a_selection(path):
    options = cl.Options(**FIXED, rename={"obs/sample": "the sample"})
    catalogue = cl.outputs(path, options).select("points/2d", "obs/the sample/*", "var/CD3*")
    found = cl.from_dataset(cl.to_dataset(catalogue), cl.Options(**FIXED))
    names = [name for name in catalogue if name.split("/")[0] in ("points", "obs", "var")]
    assert cl.to_bytes(found, names) == cl.to_bytes(catalogue, names)
    assert found.names("obs") == catalogue.names("obs")


def test_of_objects_without_this_and_that():
    adata = data.atlas(40, 5, slim=True)
    del adata.obsp["connectivities"]
    bare = anndata.AnnData(obs=adata.obs.copy(), var=adata.var.copy())
    twice = adata.copy()
    twice.var_names = ["A", "B", "A", "C", "D"]
    no_latent = adata.copy()
    del no_latent.obsm["X_pca"]
    for one in (adata, adata[::3], bare, twice, no_latent):
        for shape in ("live", "export"):
            options = cl.Options(**FIXED, manifest_shape=shape)
            catalogue = cl.outputs(one, options)
            assert_same(cl.from_dataset(cl.to_dataset(catalogue), options), catalogue)


def write(store, ds, folder, **settings):
    path = folder / f"a.{store}"
    if store.startswith("zarr"):
        # Chunks of zarr are equal, but for the last.
        ds.to_zarr(path, zarr_format=int(store[-1]), consolidated=False, **settings)
    else:
        ds.to_netcdf(path, engine=store, **settings)
    return path


def read(store, path, **settings):
    if store.startswith("zarr"):
        return xr.open_dataset(path, engine="zarr", consolidated=False, **settings)
    return xr.open_dataset(path, engine=store, **settings)


STORES = ["zarr2", "zarr3", "netcdf4", "h5netcdf"]
QUICK = ["zarr3", "netcdf4"]


@pytest.mark.parametrize(
    "store", [pytest.param(one, marks=[] if one in QUICK else [pytest.mark.long]) for one in STORES]
)
def test_by_way_of_a_store(path, tmp_path, store):
    options = cl.Options(**FIXED, manifest_shape="live")
    catalogue = cl.outputs(path, options)
    file = write(store, cl.to_dataset(catalogue, edges=True), tmp_path)
    with read(store, file, chunks={} if store == "zarr3" else None) as ds:
        assert_same(ds.cellucid.catalogue(options), catalogue)


def test_a_catalogue_of_a_store_pickles(path, tmp_path):
    catalogue = cl.outputs(path)
    file = write("zarr3", cl.to_dataset(catalogue), tmp_path)
    found = pickle.loads(pickle.dumps(cl.from_dataset(xr.open_zarr(file, consolidated=False))))
    assert cl.to_bytes(found, ["points/2d"]) == cl.to_bytes(catalogue, ["points/2d"])


def test_a_store_is_written_later(path, tmp_path):
    ds = cl.to_dataset(cl.outputs(path), ["points/2d", "var/CD3*"])
    later = ds.to_zarr(tmp_path / "a.zarr", compute=False, consolidated=False)
    dask.compute(later)
    xr.testing.assert_identical(
        xr.open_zarr(tmp_path / "a.zarr", consolidated=False).load(), ds.load()
    )


def test_in_several_blocks_a_store_is_written_without_rechunking(path, tmp_path):
    small = with_sizes(cl.outputs(path), replace(SMALL, matrix_values=20))
    ds = cl.to_dataset(small, ["points/2d", "obs/score/*", "var/*"])
    assert ds.obs_score.data.npartitions > 1
    assert ds.expression.data.npartitions > 1
    file = write("zarr3", ds, tmp_path)
    np.testing.assert_array_equal(read("zarr3", file).expression, ds.expression)


# Text as files hold it: no NUL, no lone surrogates.
text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=5)
words = st.one_of(text, st.sampled_from(["", " ", "a b", "a\tb", "a_b", "1", "nan", "é", "细胞"]))


@st.composite
def columns(draw):
    """Keys, and for each its labels or numbers; a cell may have none."""
    n_cells = draw(st.integers(1, 12))
    keys = draw(st.lists(words.filter(bool), min_size=1, max_size=4, unique=True))
    found = {}
    for key in keys:
        labels = draw(st.lists(words, unique=True, max_size=4))
        if labels and draw(st.booleans()):
            codes = st.integers(-1, len(labels) - 1)
            drawn = draw(st.lists(codes, min_size=n_cells, max_size=n_cells))
            found[key] = pd.Categorical.from_codes(drawn, pd.Index(labels, dtype=object))
        elif draw(st.booleans()):
            # Labels that are equal as text.
            one = pd.Index([1, "1", "x"], dtype=object)
            drawn = draw(st.lists(st.integers(-1, 2), min_size=n_cells, max_size=n_cells))
            found[key] = pd.Categorical.from_codes(drawn, one)
        else:
            numbers = st.floats(width=32)
            found[key] = draw(st.lists(numbers, min_size=n_cells, max_size=n_cells))
    return pd.DataFrame(found, index=[f"c{i}" for i in range(n_cells)])


def check_any_columns(tmp_path_factory, obs, store, cells):
    rng = np.random.default_rng(0)
    points = rng.random((len(obs), 2))
    adata = anndata.AnnData(obs=obs, obsm={"X_umap": points, "X_pca": rng.random((len(obs), 3))})
    options = cl.Options(**FIXED, centroid_min_points=1)
    catalogue = cl.outputs(adata, options)
    ds = cl.to_dataset(catalogue)
    if store:
        file = write(store, ds, tmp_path_factory.mktemp("any"))
        with read(store, file) as opened:
            assert_same(cl.from_dataset(opened.load(), options), catalogue)
            ds = opened
    part = cl.from_dataset(ds.isel(cell=cells), options)
    names = [name for name in catalogue.names() if name.startswith(("points", "obs"))]
    whole, files = cl.to_bytes(catalogue, names), cl.to_bytes(part, names)
    for name in names:
        output = catalogue[name]
        values = np.frombuffer(whole[name], output.dtype).reshape(output.shape)
        assert values[cells].tobytes() == files[name], name


# Without shrinking, which takes minutes.
NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]


@given(obs=columns(), draw=st.data())
@settings(
    max_examples=20, deadline=None, phases=NO_SHRINKING, suppress_health_check=list(HealthCheck)
)
def test_any_columns_and_cells(tmp_path_factory, obs, draw):
    cells = draw.draw(st.lists(st.integers(0, len(obs) - 1), min_size=1, max_size=12))
    check_any_columns(tmp_path_factory, obs, None, cells)


@pytest.mark.long
@pytest.mark.parametrize("store", STORES)
def test_any_columns_by_way_of_a_store(tmp_path_factory, store):
    @given(obs=columns(), draw=st.data())
    @settings(
        max_examples=40, deadline=None, phases=NO_SHRINKING, suppress_health_check=list(HealthCheck)
    )
    def check(obs, draw):
        cells = draw.draw(st.lists(st.integers(0, len(obs) - 1), min_size=1, max_size=12))
        check_any_columns(tmp_path_factory, obs, store, cells)

    check()


@pytest.mark.parametrize("flox", [True, False], ids=["flox", "no flox"])
def test_groupby(path, flox):
    catalogue = cl.outputs(path)
    ds = cl.to_dataset(catalogue, index=True)
    with xr.set_options(use_flox=flox):
        genes = ds.expression.sel(gene_id=["CD3E", "CD3D"])
        found = genes.groupby(ds.cellucid.labels("cell type")).mean().to_pandas()
    frame = cl.to_frame(catalogue, ["obs/cell type", "var/CD3E", "var/CD3D"])
    expected = frame.groupby("cell type", observed=True).mean()
    assert found.index.tolist() == sorted(expected.index)
    np.testing.assert_allclose(found, expected.loc[found.index], rtol=1e-5)


def test_map_blocks(path):
    small = with_sizes(cl.outputs(path), replace(SMALL, matrix_values=20))
    ds = cl.to_dataset(small, ["obs/n_counts/*", "var/*"]).unify_chunks()
    assert len(ds.chunksizes["cell"]) > 1
    found = xr.map_blocks(partial(xr.Dataset.map, func=np.log1p), ds)
    np.testing.assert_array_equal(found.expression, np.log1p(ds.expression.values))


@pytest.mark.long
def test_on_a_cluster(path, tmp_path):
    """Workers of their own read the file, and what a user computed of it is exported."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        catalogue = with_sizes(cl.outputs(path))
        ds = cl.to_dataset(catalogue, index=True)
        cd3 = ds.expression.sel(gene_id=["CD3E", "CD3D"]).mean("gene")
        found = cl.from_dataset(ds.assign(cd3=cd3))
        files = cl.to_bytes(found, ["obs/cd3/values", "var/CD3E", "obs/sample/codes"])
        cl.to_directory(found, tmp_path / "out", progress=False)
    assert files["obs/cd3/values"] == cd3.values.tobytes()
    assert files["var/CD3E"] == cl.to_bytes(catalogue, ["var/CD3E"])["var/CD3E"]
    assert (tmp_path / "out" / "obs" / "cd3.values.f32").read_bytes() == files["obs/cd3/values"]


def test_dask_arrays_stay_lazy(path):
    ds = cl.to_dataset(cl.outputs(path))
    found = cl.from_dataset(ds)
    assert isinstance(found["obs/score/values"].array, da.Array)
    assert isinstance(found.cell_names, da.Array)
