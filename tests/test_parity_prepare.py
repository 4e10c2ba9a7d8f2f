"""The exported folder against the one that the reference's ``prepare`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cellucid.prepare_data import prepare

import cellucid_lazy as cl
from cellucid_lazy.source import BlockSizes
from tests import data, oracle
from tests.helpers import SMALL, decoded, files_of, small_grid, with_sizes

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

NAMED = {
    "dataset_name": "An atlas",
    "dataset_id": "an-atlas",
    "source_name": "A consortium",
    "source_url": "https://example.org/atlas",
    "source_citation": "A et al.",
}


LARGER = BlockSizes(40_000, 40_000, 40_000, 40_000)


@pytest.fixture(autouse=True)
def _small_grid(monkeypatch):
    small_grid(monkeypatch)


def prepared(adata: AnnData, folder: Path, *, latent_key: str = "X_pca", **options: Any) -> Path:
    """What the reference writes of an AnnData."""
    obsm = {key: np.array(value, dtype=np.float32) for key, value in adata.obsm.items()}
    embeddings = {key: obsm[key] for key in obsm if key.startswith("X_umap_")}
    if "X_umap" in obsm:
        embeddings.setdefault(f"X_umap_{obsm['X_umap'].shape[1]}d", obsm["X_umap"])
    fields = {key: value for key, value in obsm.items() if "_umap" in key and key[:2] != "X_"}
    prepare(
        latent_space=obsm[latent_key],
        obs=adata.obs.copy(),
        var=adata.var,
        gene_expression=adata.X,
        connectivities=adata.obsp.get("connectivities"),
        vector_fields=fields,
        out_dir=folder,
        **embeddings,
        **options,
    )
    return folder


def assert_same_folder(ours: Path, theirs: Path) -> None:
    """Same files, same content; outliers to one step of the quantization."""
    found, expected = decoded(files_of(ours)), decoded(files_of(theirs))
    assert set(found) == set(expected), set(found) ^ set(expected)
    different = []
    for name, octets in expected.items():
        if name.endswith(".json"):
            told = (oracle.strict_json(found[name]), oracle.strict_json(octets))
            oracle.same_json(*told, but=("created_at",), where=name)
        elif ".outliers." in name:
            assert_close_outliers(name, found[name], octets)
        elif found[name] != octets:
            different.append(name)
    assert different == []


def assert_close_outliers(name: str, found: bytes, expected: bytes) -> None:
    if ".outliers.f32" in name:
        ours, theirs = (np.frombuffer(one, np.float32) for one in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6, err_msg=name)
        return
    dtype = np.uint8 if ".outliers.u8" in name else np.uint16
    ours, theirs = (np.frombuffer(one, dtype) for one in (found, expected))
    missing = np.iinfo(dtype).max
    np.testing.assert_array_equal(ours == missing, theirs == missing, err_msg=name)
    assert np.abs(ours.astype(int) - theirs).max(initial=0) <= 1, name


def both(bits: int | None, compression: int | None) -> dict[str, Any]:
    return {
        "var_quantization": bits,
        "obs_continuous_quantization": bits,
        "compression": compression,
    }


def compare(
    adata: AnnData, source: Any, folder: Path, sizes: BlockSizes = SMALL, **options: Any
) -> Path:
    """Export both ways and compare; gives our folder."""
    theirs = dict(options)
    if "genes" in theirs:
        theirs["gene_identifiers"] = list(theirs.pop("genes"))
    if "gene_id_column" in theirs:
        theirs["var_gene_id_column"] = theirs.pop("gene_id_column")
    if "description" in theirs:
        theirs["dataset_description"] = theirs.pop("description")
    expected = prepared(adata, folder / "theirs", **NAMED, **theirs)
    catalogue = with_sizes(cl.outputs(source, cl.Options(**NAMED, **options)), sizes)
    cl.to_directory(catalogue, folder / "ours")
    assert_same_folder(folder / "ours", expected)
    return folder / "ours"


@pytest.mark.parametrize(("compression", "bits"), [(None, None), (6, 8), (1, 16)])
def test_everything(compression, bits, tmp_path):
    adata = data.atlas()
    path = data.write_chunked(adata, tmp_path / "a.h5ad")
    folder = compare(adata, path, tmp_path, **both(bits, compression))
    compressed = {
        name.suffix == ".gz" for name in folder.rglob("*") if name.suffix in (".bin", ".gz")
    }
    assert compressed == {compression is not None}


@pytest.mark.parametrize("matrix", ["csc", "dense"])
def test_other_layouts(matrix, tmp_path):
    adata = data.atlas(matrix=matrix, slim=True)
    values = adata.X if matrix == "dense" else adata.X.data
    values[[3, 7]] = [np.nan, np.inf] if matrix == "csc" else [[np.nan], [np.inf]]
    path = data.write_zarr(adata, tmp_path / "a.zarr", zarr_format=3)
    compare(adata, path, tmp_path, **both(8, 1))


def test_the_cells_of_a_view(tmp_path):
    whole = data.atlas(slim=True)
    with data.writing():
        view = whole[np.random.default_rng(3).permutation(400)[:150], np.arange(20, 3, -1)]
        adata = view.copy()
    compare(adata, view, tmp_path, **both(16, 6))


@pytest.mark.parametrize(
    "options",
    [
        {"obs_keys": ["score"]},
        {"obs_keys": ["cell type"], "obs_continuous_quantization": 8},
        {"obs_keys": ["score", "cell type"], "description": "what it is"},
        {"genes": ["CD3E", "HLA-DRB1/2"], "var_quantization": 8},
        {"gene_id_column": "ensembl"},
        {"obs_categorical_dtype": "uint16"},
        {"obs_categorical_dtype": "uint8", "obs_continuous_quantization": 16},
        {"centroid_outlier_quantile": 0.6, "centroid_min_points": 4},
        {"latent_key": "X_umap_2d"},
    ],
    ids=lambda options: "-".join(options),
)
def test_options(options, tmp_path):
    adata = data.atlas(slim=True)
    compare(adata, data.write_h5ad(adata, tmp_path / "a.h5ad"), tmp_path, **options)


def test_without_graph_or_vectors(tmp_path):
    adata = data.atlas(slim=True)
    del adata.obsp["connectivities"], adata.obsm["velocity_umap_2d"]
    folder = compare(adata, data.write_h5ad(adata, tmp_path / "a.h5ad"), tmp_path)
    assert not (folder / "connectivity_manifest.json").exists()


@pytest.mark.parametrize(("compression", "bits"), [(None, None), (6, 8)])
def test_pbmc(compression, bits, pbmc, pbmc_path, tmp_path):
    adata = data.as_expression(pbmc, use_raw=True)
    # The reference casts the float64 embedding before it centres: both get the cast one.
    adata.obsm["X_umap"] = adata.obsm["X_umap"].astype(np.float32)
    path = data.write_h5ad(adata, tmp_path / "pbmc.h5ad", compression="gzip")
    compare(adata, path, tmp_path, LARGER, **both(bits, compression))


def test_pbmc_in_the_layout_from_before_anndata_07(old_pbmc, old_pbmc_path, tmp_path):
    adata = data.as_expression(old_pbmc, use_raw=True)
    with pytest.warns(cl.FallbackWarning):
        source = cl.open(old_pbmc_path, use_raw=True)
    theirs = decoded(files_of(prepared(adata, tmp_path / "theirs", **NAMED, **both(8, 6))))
    catalogue = with_sizes(cl.outputs(source, cl.Options(**NAMED, **both(8, 6))), LARGER)
    cl.to_directory(catalogue, tmp_path / "ours")
    ours = decoded(files_of(tmp_path / "ours"))
    assert set(ours) == set(theirs)
    for name in theirs:
        if name == "points_2d.bin.gz":
            points = (np.frombuffer(one[name], np.float32) for one in (ours, theirs))
            np.testing.assert_allclose(*points, rtol=0, atol=2 * np.spacing(np.float32(1)))
        elif not name.endswith(".json") and ".outliers." not in name:
            assert ours[name] == theirs[name], name
