"""Damaged parts: left out by name, when opened or when computed, in every storage form."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import zarr

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo
from tests import data
from tests.helpers import files_of


@pytest.fixture(scope="module", params=["h5ad", "zarr2", "zarr3"])
def form(request):
    return request.param


@pytest.fixture(scope="module")
def whole(form, tmp_path_factory):
    """A small atlas in each form, without consolidated metadata."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_demo(folder / "a.h5ad", n_cells=60, n_genes=8)
    if form == "h5ad":
        return path
    with data.writing(), anndata.settings.override(zarr_write_format=int(form[-1])):
        anndata.read_h5ad(path).write_zarr(folder / "a.zarr")
    for file in (folder / "a.zarr").rglob(".zmetadata"):
        file.unlink()
    root = folder / "a.zarr" / "zarr.json"
    if root.exists():
        document = json.loads(root.read_text())
        document.pop("consolidated_metadata", None)
        root.write_text(json.dumps(document))
    return folder / "a.zarr"


@pytest.fixture
def damaged(whole, tmp_path):
    """Copy the atlas, and change it."""

    def damage(change):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}{whole.suffix}"
        shutil.copytree(whole, path) if whole.is_dir() else shutil.copy(whole, path)
        if path.is_file():
            with h5py.File(path, "r+") as root:
                change(root)
        else:
            change(zarr.open_group(path, mode="r+", use_consolidated=False))
        return path

    return damage


def put(root, key, values):
    """Replace an array, with other values, length or type; its attributes stay."""
    attributes = dict(root[key].attrs)
    del root[key]
    if isinstance(root, zarr.Group):
        with data.writing():  # zarr 3 warns of short texts
            root.create_array(key, data=values).attrs.update(attributes)
    else:
        root[key] = values
        root[key].attrs.update(attributes)


def break_chunks(root, key):
    """Store an array in chunks that cannot be decoded."""
    values, attributes = root[key][...], dict(root[key].attrs)
    if isinstance(root, zarr.Group):
        folder = Path(root.store.root, key)
        hidden = (".zarray", ".zattrs", "zarr.json")
        for file in [one for one in folder.rglob("*") if one.is_file() and one.name not in hidden]:
            file.write_bytes(b"nothing that could be decoded")
        return
    del root[key]
    chunked = root.create_dataset(key, data=values, chunks=values.shape, compression="gzip")
    chunked.attrs.update(attributes)
    chunked.id.write_direct_chunk((0,) * values.ndim, b"nothing that could be decoded")


def unreadable(root, key):
    """Make a node one that cannot be opened."""
    if isinstance(root, zarr.Group):
        for name in (".zarray", "zarr.json"):
            file = Path(root.store.root, key, name)
            if file.exists():
                file.write_text("{")
    else:
        del root[key]
        root[key] = h5py.SoftLink(f"/{key}")  # a loop


def exported(path, folder):
    """Export, and return the files and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", cl.LeftOutWarning)
        cl.to_directory(cl.outputs(path), folder, progress=False)
    return files_of(folder), [str(one.message) for one in caught]


def check_left_out(path, whole, tmp_path, parts):
    """The parts are left out by name; every other file but manifests is as of the whole."""
    files, said = exported(path, tmp_path / "out")
    for sentence, gone in parts.items():
        assert len([one for one in said if sentence in one]) == 1, (sentence, said)
        assert not [file for file in files if file.startswith(gone)]
    assert all(one.startswith(f"{path}: ") and "\n" not in one for one in said)
    expected, _ = exported(whole, tmp_path / "whole")
    left = tuple(parts.values())
    names = [file for file in expected if not file.startswith(left)]
    assert sorted(files) == sorted(names)
    for file in names:
        assert file.endswith(".json") or files[file] == expected[file], file
    json.loads(files["obs_manifest.json"])


def test_parts_that_cannot_be_opened_are_left_out(damaged, whole, tmp_path):
    def change(root):
        unreadable(root, "obs/score")
        put(root, "obs/n_genes", np.zeros(59))
        put(root, "obs/percent_mito", np.zeros(60, complex))
        unreadable(root, "obsm/velocity_umap_2d")
        put(root, "obsm/X_umap_3d", np.zeros((59, 3)))
        del root["obsp/connectivities/indptr"]

    check_left_out(
        damaged(change),
        whole,
        tmp_path,
        {
            "obs column 'score' is left out: it cannot be read": "obs/score.",
            "obs column 'n_genes' is left out: obs/n_genes: has shape (59,)": "obs/n_genes.",
            "obs column 'percent_mito' is left out: ": "obs/percent_mito.",
            "obsm 'velocity_umap_2d' is left out: it cannot be read": "vectors/",
            "obsm 'X_umap_3d' is left out: obsm/X_umap_3d: has shape (59, 3)": "points_3d.",
            "the neighbour graph, obsp/connectivities, is left out": "connectivity",
        },
    )


@pytest.mark.filterwarnings("ignore:The data type")
def test_parts_that_cannot_be_computed_are_left_out(damaged, whole, tmp_path):
    def change(root):
        root["obs/cell_type/codes"][3] = 120
        put(root, "obs/sample", np.array(["Orl\xe9ans".encode("latin1")] * 60))
        break_chunks(root, "obs/n_counts")
        break_chunks(root, "obsm/velocity_umap_2d")
        break_chunks(root, "obsm/X_umap_3d")
        root["obsp/connectivities/indices"][0] = 10_000

    path = damaged(change)
    check_left_out(
        path,
        whole,
        tmp_path,
        {
            "obs column 'cell_type' is left out: a cell has category code 120, but there are 8 "
            "categories": "obs/cell_type.",
            "obs column 'sample': ": "obs/sample.",
            "obs column 'n_counts' is left out: ": "obs/n_counts.",
            "obsm 'velocity_umap_2d' is left out: ": "vectors/",
            "obsm 'X_umap_3d' is left out: ": "points_3d.",
            "the neighbour graph is left out: ": "connectivity",
        },
    )
    catalogue = cl.outputs(path)
    for name, key in {
        "obs/cell_type/codes": "'cell_type'",
        "obs/sample/codes": "'sample'",
        "points/3d": "obsm/X_umap_3d",
        "connectivity/src": "connectivities",
    }.items():
        with pytest.raises(cl.DataError, match=key) as refused:
            cl.to_bytes(catalogue, [name])
        assert str(path) in str(refused.value)


def test_a_latent_space_that_cannot_be_computed_is_no_reason_to_lose_codes(damaged, tmp_path):
    path = damaged(lambda root: break_chunks(root, "obsm/X_pca"))
    files, said = exported(path, tmp_path / "out")
    assert any("obsm 'X_pca' is left out: " in one for one in said)
    assert files["obs/leiden.codes.u8"]
    chosen = cl.outputs(path, cl.Options(latent_key="X_pca"))
    with pytest.warns(cl.LeftOutWarning), pytest.raises(cl.DataError, match="X_pca"):
        cl.to_directory(chosen, tmp_path / "again", progress=False)


def test_a_damaged_matrix_is_an_error(damaged, tmp_path):
    path = damaged(lambda root: break_chunks(root, "X/data"))
    with pytest.raises(cl.DataError, match="X/data"):
        exported(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_matrix_that_cannot_be_opened_is_an_error_that_names_the_others(damaged):
    def change(root):
        root["layers"].create_dataset("counts", data=np.zeros((60, 8))) if isinstance(
            root, h5py.Group
        ) else root["layers"].create_array("counts", data=np.zeros((60, 8)))
        del root["X/indices"]

    path = damaged(change)
    with pytest.raises(cl.DataError, match=r"X: not a complete sparse.*--layer counts"):
        cl.open(path)
    assert cl.open(path, layer="counts").expression.shape == (60, 8)


ORDERS = {"numbers": [1, 2], "one text": "score", "none": None}


@pytest.mark.parametrize("order", ORDERS)
def test_an_odd_order_of_columns(order, damaged):
    def change(root):
        del root["obs"].attrs["column-order"]
        if ORDERS[order] is not None:
            root["obs"].attrs["column-order"] = ORDERS[order]

    keys = set(cl.open(damaged(change)).obs)
    assert keys == {"score"} if order == "one text" else {"score", "leiden", "cell_type"} < keys


def test_an_odd_index(damaged):
    def change(root):
        root["obs"].attrs["_index"] = [1, 2]

    assert cl.open(damaged(change)).n_cells == 60
    with pytest.raises(cl.DataError, match=r"var: no index '_index'|var: the index '_index'"):
        cl.open(damaged(lambda root: root["var"].__delitem__("_index")))


CHANGES = {
    "gone": lambda root, key: root.__delitem__(key),
    "no attributes": lambda root, key: [
        root[key].attrs.__delitem__(one) for one in list(root[key].attrs)
    ],
    "odd attributes": lambda root, key: [
        root[key].attrs.__setitem__(one, 7) for one in list(root[key].attrs)
    ],
    "a number": lambda root, key: put(root, key, np.array(3)),
    "texts": lambda root, key: put(root, key, np.array([b"\xe9", b"b"])),
    "a group": lambda root, key: (root.__delitem__(key), root.create_group(key)),
    "unreadable": unreadable,
}


def keys_of(path):
    root = h5py.File(path) if path.is_file() else zarr.open_group(path, mode="r")
    keys = []
    root.visit(keys.append) if path.is_file() else keys.extend(
        key for key, _ in root.members(max_depth=None)
    )
    return sorted(keys)


@pytest.mark.long
@pytest.mark.parametrize("how", CHANGES)
def test_whatever_is_damaged_the_error_is_one_of_ours(how, whole, tmp_path):
    """Nodes, each in its turn, opened and exported; every seventh one for each sort of damage."""
    for number, key in enumerate(keys_of(whole)[list(CHANGES).index(how) % 7 :: 7]):
        path = tmp_path / f"{number}{whole.suffix}"
        shutil.copytree(whole, path) if whole.is_dir() else shutil.copy(whole, path)
        root = h5py.File(path, "r+") if path.is_file() else zarr.open_group(path, mode="r+")
        CHANGES[how](root, key)
        if path.is_file():
            root.close()
        try:
            exported(path, tmp_path / f"out{number}")
        except cl.CellucidLazyError as problem:
            assert str(path) in str(problem), (key, problem)
