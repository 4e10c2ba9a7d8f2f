"""Byte equality with the reference's adapter, in every form an AnnData is stored or held in."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import anndata
import dask
import numpy as np
import pytest
from cellucid.anndata_adapter import AnnDataAdapter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellucid_lazy as cl
from cellucid_lazy.source import BlockSizes
from tests import data, oracle
from tests.helpers import SMALL, small_grid, with_sizes

N_CELLS = 200
LIVE = cl.Options(manifest_shape="live", created_at="2026-01-02T03:04:05Z")
# The identity also says where the data come from, which differs by form.
ORIGIN = ("created_at", "id", "name", "source")


@pytest.fixture(autouse=True)
def _small_grid(monkeypatch):
    small_grid(monkeypatch)


@pytest.fixture(scope="module")
def atlas():
    return data.atlas(N_CELLS, slim=True)


@pytest.fixture(scope="module")
def expected(atlas):
    return oracle.reference_outputs(atlas)


@pytest.fixture(scope="module")
def full():
    return unlayered(data.atlas(N_CELLS))


@pytest.fixture(scope="module")
def expected_of_full(full):
    return oracle.reference_outputs(full)


def unlayered(adata):
    """Without the matrices that are no X."""
    # From anndata 0.13 on X is among the layers, under the name None.
    for key in [key for key in adata.layers if key is not None]:
        del adata.layers[key]
    adata.raw = None
    return adata


def atlas_of(matrix):
    """The same values as the atlas, with X held in another way."""
    return unlayered(data.atlas(N_CELLS, matrix=matrix, slim=True))


def outputs_of(source, options=LIVE, sizes=SMALL):
    """All outputs of anything that opens, by way of to_bytes, in small blocks."""
    catalogue = with_sizes(cl.outputs(source, options), sizes)
    return catalogue, cl.to_bytes(catalogue, catalogue)


def check(source, expected, latent, *, but=ORIGIN, sizes=SMALL):
    catalogue, found = outputs_of(source, sizes=sizes)
    oracle.assert_same_outputs(found, expected)
    oracle.assert_same_manifests(found, expected, but=but)
    oracle.assert_right_outliers(catalogue, found, latent)
    oracle.assert_right_centroids(catalogue, found)
    return catalogue, found


H5AD = {
    "plain": data.write_h5ad,
    "gzip": partial(data.write_h5ad, compression="gzip"),
    "lzf": partial(data.write_h5ad, compression="lzf"),
    "chunked": data.write_chunked,
}
MATRICES = ("csr", "csc", "dense")


@pytest.mark.parametrize("form", ["in memory", "h5ad", "zarr v2", "zarr v3"])
def test_every_kind_of_output(form, full, expected_of_full, tmp_path):
    source = full
    if form == "h5ad":
        source = data.write_chunked(full, tmp_path / "a.h5ad")
    if form.startswith("zarr"):
        source = data.write_zarr(full, tmp_path / "store", zarr_format=int(form[-1]))
    check(source, expected_of_full, full.obsm["X_pca"])


# Each form with one of the matrices, small chunks with all.
@pytest.mark.parametrize(
    ("form", "matrix"),
    [*zip(H5AD, MATRICES, strict=False), *(("chunked", one) for one in MATRICES)],
)
def test_h5ad(form, matrix, expected, tmp_path):
    stored = atlas_of(matrix)
    check(H5AD[form](stored, tmp_path / "a.h5ad"), expected, stored.obsm["X_pca"])


@pytest.mark.parametrize(
    ("zarr_format", "name", "matrix"),
    [(2, "a.zarr.zip", "dense"), (3, "a.zarr", "csr"), (3, "a.zarr.zip", "csc")],
)
def test_zarr(zarr_format, name, matrix, expected, tmp_path):
    stored = atlas_of(matrix)
    path = data.write_zarr(stored, tmp_path / name, zarr_format=zarr_format)
    check(str(path), expected, stored.obsm["X_pca"])


@pytest.mark.parametrize(("zarr_format", "matrix"), [(2, "dense"), (3, "csr"), (3, "csc")])
def test_zarr_in_small_chunks(zarr_format, matrix, expected, tmp_path):
    stored = atlas_of(matrix)
    path = data.write_chunked(stored, tmp_path / "a.zarr", zarr_format=zarr_format)
    check(path, expected, stored.obsm["X_pca"])


@pytest.mark.parametrize("matrix", [*MATRICES, "csr_array", "csc_array"])
def test_in_memory(matrix, expected):
    adata = atlas_of(matrix)
    check(adata, expected, adata.obsm["X_pca"])


@pytest.mark.parametrize("matrix", MATRICES)
def test_output_arrays_hold_what_to_bytes_gives(matrix, full, tmp_path):
    adata = full if matrix == "csr" else atlas_of(matrix)
    path = data.write_chunked(adata, tmp_path / "a.h5ad")
    catalogue, found = outputs_of(path)
    names = list(catalogue)
    arrays = [catalogue[name].array for name in names]
    for name, lazy, values in zip(names, arrays, dask.compute(*arrays), strict=True):
        assert values.dtype == lazy.dtype == catalogue[name].dtype, name
        assert values.ndim == lazy.ndim, name
        known = [(n, m) for n, m in zip(catalogue[name].shape, values.shape, strict=True) if n == n]
        assert all(n == m for n, m in known), name
        assert values.tobytes() == found[name], name


def test_each_strategy_of_reading_genes_gives_the_same(expected, tmp_path, monkeypatch):
    path = data.write_chunked(atlas_of("csr"), tmp_path / "a.h5ad")
    monkeypatch.setattr("cellucid_lazy.engine.resources._MIN_BUDGET", 1)
    catalogue = with_sizes(cl.outputs(path, LIVE))
    strategies = []
    for budget in ("10kB", "1GB"):
        plan = cl.explain(catalogue, memory_budget=budget, details=True).splitlines()[-1]
        strategies.append(plan.split(":")[0])
        found = cl.to_bytes(catalogue, catalogue, memory_budget=budget, scratch=tmp_path)
        oracle.assert_same_outputs(found, expected)
    assert strategies == ["genes, external", "genes, in memory"]
    assert [one.name for one in tmp_path.iterdir()] == ["a.h5ad"]


def open_backed(path):
    with data.writing():
        return anndata.read_h5ad(path, backed="r")


def open_lazy(path):
    with data.writing():
        return anndata.experimental.read_lazy(path)


HELD = ("in memory", "backed", "lazy h5ad", "lazy zarr")


@pytest.fixture(scope="module")
def hold(atlas, tmp_path_factory):
    """The atlas as an AnnData that is held in one of these ways."""
    folder = tmp_path_factory.mktemp("held")
    h5ad = data.write_h5ad(atlas, folder / "a.h5ad", compression="gzip")
    store = data.write_zarr(atlas, folder / "a.zarr", zarr_format=3)
    return {
        "in memory": lambda: atlas,
        "backed": lambda: open_backed(h5ad),
        "lazy h5ad": lambda: open_lazy(h5ad),
        "lazy zarr": lambda: open_lazy(store),
    }


_CHOICE = np.random.default_rng(7)
UNSORTED_CELLS = _CHOICE.permutation(N_CELLS)[:130]
UNSORTED_GENES = np.array([7, 2, 29, 0, 11, 1])
VIEWS = {
    "whole": (slice(None), slice(None)),
    "unsorted": (UNSORTED_CELLS, UNSORTED_GENES),
    "mask": (np.arange(N_CELLS) % 3 != 1, slice(None)),
    "slice": (slice(10, 170, 2), slice(3, 20)),
    "genes": (slice(None), UNSORTED_GENES),
}
EXPRESSIONS = {
    "layer of int32": {"layer": "counts"},
    "layer of float16": {"layer": "half"},
    "layer by gene": {"layer": "by_gene"},
    "raw": {"use_raw": True},
}


@contextmanager
def noted(held):
    """One warning that a lazy AnnData is used as it is; else none."""
    if not held.startswith("lazy"):
        yield
        return
    with pytest.warns(cl.FallbackWarning, match="of a lazy AnnData are loaded now") as told:
        yield
    # anndata 0.13 sets an option that pandas 3 warns of.
    assert [one.category for one in told].count(cl.FallbackWarning) == 1


# Each way to hold one with views of unsorted cells; each other view with one or two of them.
@pytest.mark.parametrize(
    ("held", "view"),
    [
        *((held, "unsorted") for held in HELD),
        *(("backed", view) for view in ("whole", "mask", "slice")),
        *(("lazy h5ad", view) for view in ("whole", "genes")),
        ("lazy zarr", "mask"),
        ("in memory", "slice"),
    ],
)
def test_held_and_viewed(held, view, atlas, hold):
    adata, equivalent = hold[held](), atlas
    if view != "whole":
        with data.writing():
            adata, equivalent = adata[VIEWS[view]], atlas[VIEWS[view]].copy()
    with noted(held):
        check(adata, oracle.reference_outputs(equivalent), equivalent.obsm["X_pca"])


@pytest.mark.parametrize(
    ("held", "view", "expression"),
    [
        *((held, "unsorted", "raw") for held in HELD),
        ("backed", "whole", "raw"),
        *(("backed", "unsorted", f"layer of {dtype}") for dtype in ("int32", "float16")),
        *((held, "unsorted", "layer by gene") for held in ("backed", "lazy zarr")),
        ("lazy h5ad", "unsorted", "layer of float16"),
    ],
)
def test_layers_and_raw(held, view, expression, atlas, hold):
    chosen = EXPRESSIONS[expression]
    with data.writing():
        adata = hold[held]()[VIEWS[view]]
        expected = oracle.reference_outputs(data.as_expression(atlas[VIEWS[view]], **chosen))
    with noted(held):
        catalogue = with_sizes(cl.outputs(cl.open(adata, **chosen), LIVE))
    found = cl.to_bytes(catalogue, [*catalogue.names("var"), "manifest/var"])
    wrong = [name for name, octets in found.items() if octets != expected[name]]
    assert wrong == []
    assert catalogue.names("var") == tuple(name for name in expected if name.startswith("var/"))


@pytest.mark.parametrize("held", ["in memory", "lazy h5ad", "lazy zarr"])
def test_a_view_of_a_view(held, atlas, hold):
    adata = hold[held]()
    with data.writing():
        equivalent = atlas[UNSORTED_CELLS, UNSORTED_GENES][5:100:3, ::-1].copy()
        adata = adata[UNSORTED_CELLS, UNSORTED_GENES][5:100:3, ::-1]
    with noted(held):
        check(adata, oracle.reference_outputs(equivalent), equivalent.obsm["X_pca"])


@pytest.mark.parametrize(
    ("matrix", "dtype"),
    [
        *(("csr", dtype) for dtype in (np.float64, np.int64, np.uint8)),
        *(("dense", dtype) for dtype in (np.float64, np.uint8)),
        ("csc", np.int64),
    ],
)
def test_dtypes_of_expression(matrix, dtype, tmp_path):
    adata = data.atlas(matrix=matrix, dtype=dtype, slim=True)
    expected = oracle.reference_outputs(adata)
    for source in (adata, data.write_h5ad(adata, tmp_path / "a.h5ad", compression="gzip")):
        catalogue = with_sizes(cl.outputs(source, LIVE))
        found = cl.to_bytes(catalogue, catalogue.names("var"))
        assert found == {name: expected[name] for name in found}
        assert len(found) == adata.n_vars


def test_values_beyond_float32(tmp_path):
    """Whatever NumPy's cast gives: large values become infinite."""
    adata = data.atlas(matrix="dense", dtype=np.float64, slim=True)
    adata.X[:5, 0] = [1e300, -1e300, np.nan, np.inf, 1e-320]
    with np.errstate(all="ignore"):
        expected = oracle.reference_outputs(adata)
    check(data.write_h5ad(adata, tmp_path / "a.h5ad"), expected, adata.obsm["X_pca"])


def test_dataframes_of_encoding_010(tmp_path):
    adata = data.atlas()
    path = data.write_dataframe_010(adata, tmp_path / "a.h5ad")
    del adata.obs["maybe_flag"], adata.obs["maybe_count"], adata.obs["maybe_text"]
    check(path, oracle.reference_outputs(adata), adata.obsm["X_pca"])


def test_no_matrix(tmp_path):
    """The reference shows zeros; here genes are not offered."""
    adata = data.atlas(slim=True)
    del adata.X, adata.raw
    expected = oracle.reference_outputs(adata)
    expected = {name: one for name, one in expected.items() if not name.startswith("var/")}
    expected["manifest/var"] = json.dumps({**json.loads(expected["manifest/var"]), "fields": []})
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    for source in (adata, path):
        with pytest.warns(cl.LeftOutWarning, match="there is no X, so genes are not offered"):
            check(source, expected, adata.obsm["X_pca"])


@pytest.mark.parametrize("form", ["csc", "dense", "csr_array"])
def test_other_graphs(form, atlas, expected, tmp_path):
    """Stored by column, dense, or as an array class: the same edges."""
    adata = atlas_of("csr")
    graph = adata.obsp["connectivities"]
    adata.obsp["connectivities"] = {
        "csc": graph.tocsc,
        "dense": graph.toarray,
        "csr_array": lambda: data.sparse.csr_array(graph),
    }[form]()
    names = ["connectivity/src", "connectivity/dst"]
    for source in (data.write_h5ad(adata, tmp_path / "a.h5ad"), adata):
        catalogue = with_sizes(cl.outputs(source), replace(SMALL, matrix_values=4_000))
        assert cl.to_bytes(catalogue, names) == {name: expected[name] for name in names}


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.float16])
def test_embeddings_of_other_types(dtype, tmp_path):
    """Within 2 ulp of the largest: the reference loses digits of wide types before it centres."""
    adata = data.atlas(N_CELLS, embedding_dtype=dtype)
    adata.obs = adata.obs[["cell type"]]
    adata.obsm["velocity_umap_2d"] = adata.obsm["velocity_umap_2d"].astype(np.float64)
    expected = oracle.reference_outputs(adata)
    _, found = outputs_of(data.write_h5ad(adata, tmp_path / "a.h5ad"))
    for name in ("points/1d", "points/2d", "points/3d", "vectors/velocity_umap/2d"):
        ours, theirs = (np.frombuffer(one[name], np.float32) for one in (found, expected))
        bound = 2 * np.spacing(np.float32(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)
    if dtype == np.float16:
        assert found["points/2d"] == expected["points/2d"]


OPTIONS = {
    "latent key": {"latent_key": "T_fwd_umap"},
    "gene id column": {"gene_id_column": "ensembl"},
    "not normalized": {"normalize_embeddings": False},
    "centroids": {"centroid_outlier_quantile": 0.7, "centroid_min_points": 3},
    "name": {"dataset_name": "A name / with ß"},
    "id": {"dataset_name": "named", "dataset_id": "identified"},
}


@pytest.mark.parametrize("chosen", OPTIONS)
def test_options(chosen, tmp_path):
    options, atlas = OPTIONS[chosen], unlayered(data.atlas(N_CELLS))
    atlas.obs = atlas.obs[["cell type", "score"]]
    path = data.write_chunked(atlas, tmp_path / "a.h5ad")
    expected = oracle.reference_outputs(atlas, **options)
    catalogue, found = outputs_of(path, cl.Options(manifest_shape="live", **options))
    oracle.assert_same_outputs(found, expected)
    named = ("created_at", "source") if "dataset_name" in options else ORIGIN
    oracle.assert_same_manifests(found, expected, but=named)
    min_points = options.get("centroid_min_points", 10)
    quantile = options.get("centroid_outlier_quantile", 0.95)
    latent = atlas.obsm[options.get("latent_key", "X_pca")]
    oracle.assert_right_outliers(catalogue, found, latent, min_points=min_points)
    oracle.assert_right_centroids(catalogue, found, quantile=quantile, min_points=min_points)


@pytest.mark.parametrize("umap", ["1d", "2d", "3d", "X_umap of 3", "X_umap of 5", "X_umap of 2"])
def test_choice_of_embeddings(umap, tmp_path):
    """One embedding alone, and X_umap that stands in, is ignored, or does not fit."""
    adata = data.atlas(60, 4)
    adata.obs = adata.obs[["cell type"]]
    kept = f"X_umap_{umap}" if umap.endswith("d") else "X_umap_2d"
    for key in [key for key in adata.obsm if key.startswith("X_umap") and key != kept]:
        del adata.obsm[key]
    if not umap.endswith("d"):
        width = int(umap[-1])
        adata.obsm["X_umap"] = np.random.default_rng(1).random((60, width), dtype=np.float32)
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    with warnings.catch_warnings():
        # Of vector fields whose dimension is not shown.
        warnings.simplefilter("ignore", cl.LeftOutWarning)
        check(path, oracle.reference_outputs(adata), adata.obsm["X_pca"])


@pytest.mark.parametrize("form", ["h5ad", "zarr", "in memory"])
def test_identity_tells_where_the_data_come_from(form, tmp_path):
    atlas = atlas_of("csr")
    if form == "in memory":
        adapter, source = AnnDataAdapter(atlas), atlas
    elif form == "h5ad":
        source = data.write_h5ad(atlas, tmp_path / "some atlas.h5ad")
        adapter = AnnDataAdapter.from_file(source)
    else:
        source = data.write_zarr(atlas, tmp_path / "some atlas.zarr", zarr_format=2)
        with data.writing():
            adapter = AnnDataAdapter.from_file(source)
    expected = oracle.manifests_of(adapter)
    adapter.close()
    found = cl.to_bytes(cl.outputs(source, LIVE), ["manifest/identity"])
    oracle.same_json(
        json.loads(found["manifest/identity"]),
        json.loads(expected["identity"]),
        but=("created_at",),
    )


# Real data


LARGER = BlockSizes(40_000, 40_000, 40_000, 40_000)


def assert_same_pbmc(source, adata, **chosen):
    """The embedding is stored as float64: what the reference casts first, we cast last."""
    equivalent = data.as_expression(adata, **chosen)
    expected = oracle.reference_outputs(equivalent)
    catalogue, found = outputs_of(source, sizes=LARGER)
    points = np.frombuffer(found["points/2d"], np.float32)
    theirs = np.frombuffer(expected["points/2d"], np.float32)
    np.testing.assert_allclose(points, theirs, rtol=0, atol=2 * np.spacing(np.float32(1)))
    stored = np.asarray(adata.obsm["X_umap"], np.float64)
    low, high = stored.min(axis=0), stored.max(axis=0)
    right = (stored - (low + high) / 2) * (2 / (high - low).max())
    assert points.tobytes() == right.astype(np.float32).tobytes()
    for name in ("points/2d", "points/2d/padded"):
        expected[name] = found[name]
    oracle.assert_same_outputs(found, expected)
    oracle.assert_same_manifests(found, expected, but=ORIGIN)
    oracle.assert_right_outliers(catalogue, found, np.asarray(equivalent.obsm["X_pca"]))
    oracle.assert_right_centroids(catalogue, found)


REAL_FORMS = {
    "chunked": lambda adata, folder: data.write_chunked(adata, folder / "a.h5ad"),
    "zarr": lambda adata, folder: data.write_zarr(adata, folder / "a.zarr.zip", zarr_format=3),
    "in memory": lambda adata, folder: adata,
}


@pytest.mark.parametrize(
    ("form", "use_raw"),
    # X is dense, raw.X is CSR.
    [("chunked", True), ("zarr", False), ("zarr", True), ("in memory", False), ("in memory", True)],
)
def test_pbmc_in_other_forms(form, use_raw, pbmc, tmp_path):
    source = cl.open(REAL_FORMS[form](pbmc, tmp_path), use_raw=use_raw)
    assert_same_pbmc(source, pbmc, use_raw=use_raw)


@pytest.mark.parametrize(("held", "use_raw"), [("backed", True), ("lazy", False), ("lazy", True)])
def test_pbmc_held_in_other_ways(held, use_raw, pbmc_path, pbmc):
    adata = open_backed(pbmc_path) if held == "backed" else open_lazy(pbmc_path)
    with noted(held):
        source = cl.open(adata, use_raw=use_raw)
    assert_same_pbmc(source, pbmc, use_raw=use_raw)


@pytest.mark.parametrize("chosen", [{}, {"use_raw": True}], ids=["X", "raw"])
def test_pbmc_as_shipped(chosen, pbmc_path, pbmc):
    assert_same_pbmc(cl.open(pbmc_path, **chosen), pbmc, **chosen)


@pytest.mark.parametrize("chosen", [{}, {"use_raw": True}], ids=["X", "raw"])
def test_pbmc_in_the_layout_from_before_anndata_07(chosen, old_pbmc_path, old_pbmc):
    with pytest.warns(cl.FallbackWarning, match=r"before AnnData 0\.7.*loaded whole"):
        source = cl.open(old_pbmc_path, **chosen)
    assert (source.path, source.storage) == (str(old_pbmc_path), "h5ad")
    assert_same_pbmc(source, old_pbmc, **chosen)


# Generated data

LABELS = st.sampled_from(["a", "b", "B", "ä", " ", "x/y", "nan", "", "1"])


@st.composite
def atlases(draw):
    n_cells, n_genes = draw(st.integers(1, 60)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrix = draw(st.sampled_from(["csr", "csc", "dense", "csr_array"]))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int32, np.uint8]))
    numbers = st.floats(width=32, allow_subnormal=False)
    text = draw(st.lists(LABELS, min_size=n_cells, max_size=n_cells))
    with data.writing():
        adata = anndata.AnnData(
            data.expression(rng, n_cells, n_genes, matrix=matrix, dtype=dtype),
            obs=data.pd.DataFrame(index=[f"c{i}" for i in range(n_cells)]),
            var=data.pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]),
        )
    adata.obs["text"] = text
    adata.obs["category"] = data.pd.Categorical(
        draw(st.lists(st.one_of(LABELS, st.none()), min_size=n_cells, max_size=n_cells))
    )
    adata.obs["flag"] = rng.random(n_cells) < 0.5
    adata.obs["number"] = draw(st.lists(numbers, min_size=n_cells, max_size=n_cells))
    adata.obs["integer"] = rng.integers(-(2**62), 2**62, n_cells)
    for d in draw(st.sets(st.integers(1, 3), min_size=1)):
        scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 1e4]))
        # Adding 0 leaves no -0.0: min and max of zeros have a sign only by the order of cells.
        embedding = (rng.normal(size=(n_cells, d)) * scale).astype(np.float32) + np.float32(0)
        adata.obsm[f"X_umap_{d}d"] = embedding
        adata.obsm[f"drift_umap_{d}d"] = rng.normal(size=(n_cells, d)).astype(np.float32)
    adata.obsm["X_pca"] = rng.normal(size=(n_cells, 4)).astype(np.float32)
    if draw(st.booleans()):
        adata.obsp["connectivities"] = data.neighbours(rng, n_cells)
    return adata


@pytest.mark.long
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(atlases(), st.sampled_from(["h5ad", "zarr", "memory"]))
def test_generated(tmp_path_factory, adata, form):
    folder = tmp_path_factory.mktemp("generated")
    expected = oracle.reference_outputs(adata)
    source = adata
    if form == "h5ad":
        source = data.write_h5ad(adata, folder / "a.h5ad")
    if form == "zarr":
        source = data.write_zarr(adata, folder / "a.zarr", zarr_format=3)
    check(source, expected, adata.obsm["X_pca"])
