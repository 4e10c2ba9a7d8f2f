"""Where the reference is wrong: each entry of the contract's list, and what is done instead."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

import cellucid_lazy as cl
from tests import data, oracle
from tests.helpers import SMALL, Reads, raise_if_dask_computes, small_grid, with_sizes


def floats(found, name):
    return np.frombuffer(found[name], np.float32)


def manifest(catalogue, kind):
    name = f"manifest/{kind}"
    return oracle.strict_json(cl.to_bytes(catalogue, [name])[name])


# 1. A zarr store is loaded whole.


@pytest.mark.parametrize(("zarr_format", "name"), [(2, "store"), (3, "a.zarr")])
def test_1_zarr_is_read_lazily(zarr_format, name, tmp_path, monkeypatch):
    adata = data.atlas(90, 5, slim=True)
    path = data.write_chunked(adata, tmp_path / name, zarr_format=zarr_format)
    assert zarr.open_group(path, mode="r").metadata.zarr_format == zarr_format
    with Reads(monkeypatch) as reads, raise_if_dask_computes():
        catalogue = cl.outputs(str(path))
        assert catalogue["points/2d"].array.shape == (90, 2)
    assert reads.touched() == set()
    with Reads(monkeypatch) as reads:
        found = cl.to_bytes(catalogue, ["points/2d", "obs/score/values"])
    assert reads.touched() == {"obsm/X_umap_2d", "obs/score"}
    assert found["points/2d"] == oracle.reference_outputs(adata)["points/2d"]


# 2. Every gene of a backed CSR file reads all of X.


def test_2_genes_share_one_pass_over_a_csr_file(tmp_path, monkeypatch):
    path = data.write_chunked(data.atlas(slim=True), tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(path, backed="r")
    for source in (path, backed):
        catalogue = with_sizes(cl.outputs(source))
        genes = catalogue.names("var")
        with Reads(monkeypatch) as reads:
            cl.to_bytes(catalogue, genes)
        for key in ("X/data", "X/indices"):
            assert len(reads.of(key)) > 2
            reads.assert_each_once(key)


# 3. From 65,536 categories codes wrap.


def test_3_a_column_of_barcodes_is_left_out(tmp_path):
    n_cells = 65_600
    adata = anndata.AnnData(
        obs=pd.DataFrame(
            {
                "barcode": [f"b{i}" for i in range(n_cells)],
                "barcode_category": pd.Categorical([f"b{i}" for i in range(n_cells)]),
                "most": pd.Categorical.from_codes(
                    np.arange(n_cells) % 65_535, [f"b{i}" for i in range(65_535)]
                ),
            },
            index=[f"c{i}" for i in range(n_cells)],
        )
    )
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(n_cells, 2)).astype(np.float32)
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    catalogue = cl.outputs(path)
    with pytest.warns(cl.LeftOutWarning) as told:
        cl.to_directory(catalogue, tmp_path / "out")
    for key in ("barcode", "barcode_category"):
        assert any(f"'{key}': 65,600 categories" in str(one.message) for one in told)
        assert str(path) in str(told[0].message)
        with pytest.raises(cl.FieldError, match=f"'{key}': 65,600 categories"):
            catalogue[f"obs/{key}/codes"]
    assert sorted(file.name for file in (tmp_path / "out" / "obs").iterdir()) == [
        "most.codes.u16",
        "most.outliers.f32",
    ]
    codes = np.fromfile(tmp_path / "out" / "obs" / "most.codes.u16", np.uint16)
    assert (codes == np.arange(n_cells) % 65_535).all()
    told = oracle.strict_json((tmp_path / "out" / "obs_manifest.json").read_bytes())
    assert [row[0] for row in told["_categoricalFields"]] == ["most"]


# 4. 1 and '1' give a label twice.


def test_4_categories_that_are_equal_as_text_are_one():
    adata = data.atlas(60, 4)
    codes = np.arange(60) % 5
    adata.obs["mixed"] = pd.Categorical.from_codes(
        codes, pd.Index([1, "1", "b", 2.5, "2.5"], dtype=object)
    )
    adata.obs = adata.obs[["mixed"]]
    catalogue = cl.outputs(adata)
    (row,) = manifest(catalogue, "obs")["_categoricalFields"]
    assert row[1] == ["1", "b", "2.5"]
    found = catalogue["obs/mixed/codes"].compute()
    assert (found == np.array([0, 0, 1, 2, 2])[codes]).all()
    assert [one["category"] for one in row[4]["2"]] == ["1", "b", "2.5"]
    assert [one["n_points"] for one in row[4]["2"]] == [22, 11, 22]


# 5. One NaN coordinate makes every point NaN; float32 before centering.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_5_one_point_that_is_not_finite_is_nan_alone(bad, tmp_path):
    adata = data.atlas(60, 4)
    adata.obsm["X_umap_2d"][7, 1] = bad
    good = adata[np.arange(60) != 7].copy()
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    points = cl.outputs(path)["points/2d"].compute()
    assert np.isnan(points[7]).all()
    assert np.delete(points, 7, axis=0).tobytes() == oracle.reference_outputs(good)["points/2d"]


def test_5_float64_is_centred_before_it_is_cast(tmp_path):
    adata = data.atlas(60, 4, embedding_dtype=np.float64)
    small = adata.obsm["X_umap_2d"].copy()
    adata.obsm["X_umap_2d"] = small + 2.0**26
    low, high = small.min(axis=0), small.max(axis=0)
    right = (small - (low + high) / 2) * (2 / (high - low).max())
    found = cl.outputs(data.write_h5ad(adata, tmp_path / "a.h5ad"))["points/2d"].compute()
    np.testing.assert_allclose(found, right, atol=1e-6)
    reference = np.frombuffer(oracle.reference_outputs(adata)["points/2d"], np.float32)
    assert np.abs(reference.reshape(-1, 2) - right).max() > 0.01


# 6. Two keys with one safe name.


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda adata: adata.obs.insert(0, "cell_type", 1.0), ("'cell type'", "'cell_type'")),
        (
            lambda adata: setattr(adata, "var_names", ["CD3/E", "CD3_E", *adata.var_names[2:]]),
            ("'CD3/E'", "'CD3_E'"),
        ),
        (
            lambda adata: adata.obsm.update(
                {"T fwd_umap": adata.obsm["T_fwd_umap"], "T_fwd_umap": adata.obsm["T_fwd_umap"]}
            ),
            ("'T fwd_umap/3d'", "'T_fwd_umap/3d'"),
        ),
    ],
    ids=["obs", "var", "vectors"],
)
def test_6_an_export_refuses_two_keys_of_one_file(change, named, tmp_path):
    adata = data.atlas(60, 6)
    change(adata)
    catalogue = cl.outputs(data.write_h5ad(adata, tmp_path / "a.h5ad"))
    with pytest.raises(cl.CollisionError, match="share the file name") as refused:
        cl.to_directory(catalogue, tmp_path / "out")
    for key in (*named, str(tmp_path / "a.h5ad")):
        assert key in str(refused.value)
    assert "; rename one: Options(rename={...}) (--rename), or leave one out with select" in str(
        refused.value
    )
    assert [one.name for one in tmp_path.iterdir()] == ["a.h5ad"]


def test_6_of_duplicate_genes_the_last_is_kept(tmp_path):
    adata = data.atlas(60, 6, slim=True)
    adata.raw = None
    with data.writing():
        adata.var_names = ["A", "B", "A", "C", "A", "B"]
        path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    expected = {
        name: octets
        for name, octets in oracle.reference_outputs(adata).items()
        if name.startswith("var/")
    }
    catalogue = cl.outputs(path)
    with pytest.warns(cl.LeftOutWarning, match=r"3 genes share an identifier.*A, B.*the last"):
        genes = catalogue.names("var")
    assert set(genes) == {"var/A", "var/B", "var/C"}
    assert cl.to_bytes(catalogue, expected) == expected
    column = adata.X[:, 4].toarray().ravel()
    assert floats(expected, "var/A").tobytes() == column.astype(np.float32).tobytes()
    assert sorted(manifest(catalogue, "var")["fields"]) == [["A"], ["B"], ["C"]]
    cl.to_directory(catalogue, tmp_path / "out")
    assert len(list((tmp_path / "out" / "var").iterdir())) == 3


# 7. Diagonal, cancelling weights, edges computed for their count.


def graph_atlas(graph):
    adata = data.atlas(graph.shape[0], 3, slim=True)
    adata.obsp["connectivities"] = graph
    return adata


def test_7_edges_are_the_union_without_the_diagonal(tmp_path):
    rows, columns = [0, 1, 2, 3, 3, 4, 5], [1, 0, 2, 3, 4, 2, 5]
    weights = [0.5, -0.5, 1, 1, 0.25, np.nan, 1]
    graph = sparse.csr_matrix((weights, (rows, columns)), shape=(20, 20))
    path = data.write_h5ad(graph_atlas(graph), tmp_path / "a.h5ad")
    catalogue = cl.outputs(path)
    found = cl.to_bytes(catalogue, ["connectivity/src", "connectivity/dst"])
    pairs = np.stack([np.frombuffer(one, np.uint16) for one in found.values()], axis=1)
    # 0-1 cancels in the reference's sum; 2, 3 and 5 are only on the diagonal otherwise.
    assert pairs.tolist() == [[0, 1], [2, 4], [3, 4]]
    told = manifest(catalogue, "connectivity")
    assert (told["n_edges"], told["max_neighbors"]) == (3, 2)


def test_7_the_identity_of_a_catalogue_is_drafted_without_computing_edges(tmp_path):
    path = data.write_h5ad(data.atlas(slim=True), tmp_path / "a.h5ad")
    catalogue = cl.outputs(path).select("points/2d", "connectivity/*", "manifest/*")
    with raise_if_dask_computes():
        lazy = catalogue["manifest/identity"].array
    told = oracle.strict_json(lazy.compute().tobytes())
    assert told["stats"]["n_edges"] == len(catalogue["connectivity/src"].compute())


# 8. One odd column fails every request.


def test_8_an_odd_column_is_left_out():
    adata = data.atlas(60, 4)
    adata.obs["lists"] = [[i] for i in range(60)]
    adata.obs["mixed"] = [{"nested": i} if i % 2 else "text" for i in range(60)]
    catalogue = cl.outputs(adata)
    with pytest.warns(cl.LeftOutWarning) as told:
        found = manifest(catalogue, "obs")
    for key in ("lists", "mixed"):
        sentence = f"AnnData in memory: obs column '{key}': its values cannot be categories"
        assert any(sentence in str(one.message) for one in told)
    keys = [row[0] for row in found["_categoricalFields"]]
    assert "cell type" in keys
    assert not {"lists", "mixed"} & set(keys)


def test_8_an_unreadable_column_of_a_file_is_left_out(tmp_path):
    path = data.write_h5ad(data.atlas(60, 4), tmp_path / "a.h5ad")
    with data.h5py.File(path, "r+") as root:
        obs = root["obs"]
        del obs["score"]
        group = obs.create_group("score")
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "awkward-array", "0.1.0"
        del obs["sample"]
        obs["sample"] = np.zeros((60, 2))
        del obs["n_counts"]
        obs["n_counts"] = np.zeros(59)
        del obs["small"]
    with pytest.warns(cl.LeftOutWarning) as told:
        source = cl.open(path)
    messages = [str(one.message) for one in told]
    for key in ("score", "sample", "n_counts", "small"):
        assert any(f"{path}: obs column '{key}' is left out" in one for one in messages), key
        assert key not in source.obs
    cl.to_directory(cl.outputs(source), tmp_path / "out")
    told = oracle.strict_json((tmp_path / "out" / "obs_manifest.json").read_bytes())
    assert "cell type" in [row[0] for row in told["_categoricalFields"]]


# 9. Re-exporting leaves stale files.


def test_9_a_new_export_leaves_nothing_of_the_earlier_one(tmp_path):
    adata = data.atlas(60, 6)
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    folder = tmp_path / "out"
    cl.to_directory(cl.outputs(path, cl.Options(compression=6)), folder)
    assert (folder / "points_2d.bin.gz").exists()
    smaller = cl.outputs(path).select("points/2d", "obs/score/values")
    cl.to_directory(smaller, folder, overwrite=True)
    assert sorted(str(one.relative_to(folder)) for one in folder.rglob("*")) == [
        "dataset_identity.json",
        "obs",
        "obs/score.values.f32",
        "obs_manifest.json",
        "points_2d.bin",
    ]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.h5ad", "out"]


# 10. Category work is O(cells x categories).


def test_10_categories_are_grouped_once():
    """60,000 categories cost seconds: a pass over the cells for each costs 25 of CPU time."""
    n_cells = 120_000
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(n_cells)]))
    adata.obsm["X_umap"] = rng.normal(size=(n_cells, 2)).astype(np.float32)
    adata.obsm["X_pca"] = rng.normal(size=(n_cells, 5)).astype(np.float32)
    codes = rng.integers(0, 60_000, n_cells)
    adata.obs["field"] = pd.Categorical.from_codes(codes, [str(i) for i in range(60_000)])
    catalogue = cl.outputs(adata, cl.Options(centroid_min_points=2))
    before = time.process_time()
    cl.to_bytes(catalogue, ["obs/field/codes", "obs/field/outliers", "manifest/obs"])
    assert time.process_time() - before < 12


# 11. A NaN in latent space makes its whole category 1.


def test_11_a_cell_that_is_not_finite_in_latent_space_takes_no_part(tmp_path):
    adata = data.atlas(80, 4, slim=True)
    adata.obs["cell type"] = pd.Categorical(["a"] * 40 + ["b"] * 40)
    adata.obsm["X_pca"][3, 2] = np.nan
    adata.obsm["X_pca"][5, 0] = np.inf
    found = cl.outputs(data.write_h5ad(adata, tmp_path / "a.h5ad"))
    outliers = found["obs/cell type/outliers"].compute()
    assert np.flatnonzero(np.isnan(outliers)).tolist() == [3, 5]
    codes = (np.arange(80) >= 40).astype(int)
    right = oracle.naive_outliers(adata.obsm["X_pca"], codes, 2, 10)
    np.testing.assert_array_equal(outliers, right)
    assert len(np.unique(outliers[:40][np.isfinite(outliers[:40])])) == 38
    with np.errstate(invalid="ignore"):
        theirs = floats(oracle.reference_outputs(adata), "obs/cell type/outliers")
    assert (theirs[:40] == 1).all()


# 12. The fallback for the latent space may pick a vector field.


@pytest.mark.filterwarnings("ignore::cellucid_lazy.LeftOutWarning")
def test_12_a_vector_field_is_never_the_latent_space(tmp_path):
    adata = data.atlas(60, 4)
    adata.obsm = {
        "T_fwd_umap": adata.obsm["T_fwd_umap"],
        "velocity_umap_2d": adata.obsm["velocity_umap_2d"],
        "X_umap_2d": adata.obsm["X_umap_2d"],
    }
    catalogue = cl.outputs(data.write_h5ad(adata, tmp_path / "a.h5ad"))
    assert manifest(catalogue, "obs")["latent_key"] is None
    # No latent space: all 0, as the contract has it.
    assert (catalogue["obs/cell type/outliers"].compute() == 0).all()
    adata.obsm["X_other"] = np.random.default_rng(0).normal(size=(60, 3))
    catalogue = cl.outputs(
        data.write_h5ad(adata, tmp_path / "b.h5ad"), cl.Options(manifest_shape="live")
    )
    assert manifest(catalogue, "obs")["latent_key"] == "X_other"


# 13. Long float32 sums lose digits; chunking must not change a result.


def test_13_sums_are_float64_and_do_not_depend_on_chunks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    n_cells = 50_000
    adata = anndata.AnnData(
        obs=pd.DataFrame(
            {"field": pd.Categorical.from_codes(rng.integers(0, 3, n_cells), list("abc"))},
            index=[str(i) for i in range(n_cells)],
        )
    )
    adata.obsm["X_umap"] = (rng.normal(size=(n_cells, 2)) + 1000).astype(np.float32)
    adata.obsm["X_pca"] = (rng.normal(size=(n_cells, 5)) + 1000).astype(np.float32)
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    options = cl.Options(created_at="2026-01-02T03:04:05Z", normalize_embeddings=False)
    small_grid(monkeypatch, 20_000)
    results = []
    for array_bytes in (400_000, 28_004, 8_000_000):
        sizes = replace(SMALL, array_bytes=array_bytes)
        catalogue = with_sizes(cl.outputs(path, options), sizes)
        results.append(cl.to_bytes(catalogue, catalogue))
    assert results[0] == results[1] == results[2]
    oracle.assert_right_centroids(catalogue, results[0])
    oracle.assert_right_outliers(catalogue, results[0], adata.obsm["X_pca"])


def test_nothing_here_warns_for_good_data(tmp_path):
    path = data.write_h5ad(data.atlas(60, 4), tmp_path / "a.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cl.to_directory(cl.outputs(path), tmp_path / "out")
