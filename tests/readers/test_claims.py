"""Shapes that claim more than there can be: refused in no memory, whatever the format."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager

import dask
import h5py
import numpy as np
import pytest
import zarr

import cellucid_lazy as cl
from tests import data

FORMATS = ("h5ad", "zarr")


@contextmanager
def claimed(path):
    """Open a stored atlas for changes; gives its root, and what puts an array that is empty."""
    if path.suffix == ".h5ad":
        with h5py.File(path, "r+") as root:
            yield root, lambda key, **how: _replace(root, root.create_dataset, key, **how)
    else:
        root = zarr.open_group(path, mode="r+", use_consolidated=False)
        yield root, lambda key, **how: _replace(root, root.create_array, key, **how)
        zarr.consolidate_metadata(path)


def _replace(root, create, key, **how):
    attributes = dict(root[key].attrs)
    del root[key]
    array = create(key, **how)
    for name, value in attributes.items():
        array.attrs[name] = value
    return array


@pytest.fixture(params=FORMATS)
def atlas(request, tmp_path):
    adata = data.atlas(60, 5, slim=True)
    if request.param == "h5ad":
        path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    else:
        path = data.write_zarr(adata, tmp_path / "a.zarr", zarr_format=3)
    with dask.config.set({"cellucid_lazy.memory-budget": "1GB"}):
        tracemalloc.start()
        yield path
        assert tracemalloc.get_traced_memory()[1] < 2**27
        tracemalloc.stop()


@pytest.mark.parametrize(("part", "n_rows"), [("obs", 10**12), ("var", 10**10)])
def test_too_many_cells_or_genes(atlas, part, n_rows):
    with claimed(atlas) as (_, put):
        put(f"{part}/_index", shape=(n_rows,), chunks=(1000,), dtype="i4")
    with pytest.raises(cl.DataError, match=rf"{atlas}: {part}/_index: has {n_rows:,} rows"):
        cl.open(atlas)


def test_more_names_of_genes_than_fit(atlas):
    with claimed(atlas) as (root, put):
        put("var/_index", shape=(10**8,), chunks=(1000,), dtype="i4")
        root["X"].attrs["shape"] = [60, 10**8]
    catalogue = cl.outputs(cl.open(atlas))
    with pytest.raises(cl.DataError, match=r"the names of 100,000,000 genes in var take about 40"):
        catalogue.names("var")
    assert catalogue["points/2d"].array.shape == (60, 2)


def test_a_row_of_four_thousand_million_values(atlas):
    n_values = 4 * 10**9
    with claimed(atlas) as (_, put):
        for part in ("data", "indices"):
            put(f"X/{part}", shape=(n_values,), chunks=(1000,), dtype="i4")
        put("X/indptr", shape=(61,), chunks=(61,), dtype="i8")[1:] = n_values
        put("obsm/X_pca", shape=(60, n_values), chunks=(1, 1000), dtype="f4")
    with pytest.warns(cl.LeftOutWarning, match=r"X_pca: a row takes 16\.0 GB, but the memory budg"):
        catalogue = cl.outputs(cl.open(atlas))
    for compute in (catalogue["var/CD3E"].compute, lambda: cl.to_bytes(catalogue, ["var/CD3E"])):
        with pytest.raises(cl.DataError, match=rf"{atlas}: X: indptr: a row takes 32\.0 GB, but"):
            compute()


def test_cells_of_which_no_gene_fits(atlas):
    n_cells = 4 * 10**9
    with claimed(atlas) as (root, put):
        for key in ("obs/_index", "obs/score"):
            put(key, shape=(n_cells,), chunks=(1000,), dtype="f4")
        root["obs"].attrs["column-order"] = ["score"]
        for key in list(root["obsm"]):
            del root["obsm"][key]
        put("X/indptr", shape=(n_cells + 1,), chunks=(1000,), dtype="i8")
        root["X"].attrs["shape"] = [n_cells, 5]
    with pytest.warns(cl.LeftOutWarning):
        catalogue = cl.outputs(cl.open(atlas))
    assert catalogue["obs/score/values"].array.shape == (n_cells,)
    with pytest.raises(cl.OptionError, match=r"one gene of 4,000,000,000 cells takes 16\.0 GB"):
        cl.to_bytes(catalogue, ["var/CD3E"])


def test_too_many_labels_are_not_read(atlas):
    with claimed(atlas) as (_, put):
        put("obs/cell type/categories", shape=(10**10,), chunks=(1000,), dtype="i4")
    catalogue = cl.outputs(cl.open(atlas))
    with pytest.raises(
        cl.DataError, match=r"'cell type': 10,000,000,000 categories, but codes tell"
    ):
        _ = catalogue["obs/cell type/codes"]


@pytest.mark.parametrize("value", ["no", 1])
def test_a_mask_that_holds_no_booleans(atlas, value):
    text = h5py.string_dtype() if atlas.suffix == ".h5ad" else str
    dtype, held = (text, object) if value == "no" else ("f4", "f4")
    with claimed(atlas) as (_, put):
        put("obs/maybe_flag/mask", shape=(60,), dtype=dtype)[:] = np.full(60, value, held)
    with pytest.warns(cl.LeftOutWarning, match=r"'maybe_flag' is left out: .*its mask holds"):
        source = cl.open(atlas)
    assert "maybe_flag" not in source.obs
    assert "score" in source.obs


def test_a_chunk_that_exceeds_memory(atlas):
    shape, chunks = ((60, 2), (2**29, 1)) if atlas.suffix == ".h5ad" else ((60, 2), (10**12, 2))
    more = {"maxshape": (None, 2)} if atlas.suffix == ".h5ad" else {}
    with claimed(atlas) as (_, put):
        put("obsm/X_umap_2d", shape=shape, chunks=chunks, dtype="f4", **more)
    with pytest.warns(cl.LeftOutWarning, match=r"X_umap_2d: a chunk takes [\d.]+ .B, but the mem"):
        source = cl.open(atlas)
    assert "X_umap_2d" not in source.obsm
