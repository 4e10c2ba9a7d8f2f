"""Files given by mistake are told apart, each with what to do; what is only odd is read."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import zarr

import cellucid_lazy as cl
from cellucid_lazy.cli import main
from tests.data import writing

UMAP = np.random.default_rng(0).random((30, 2), dtype=np.float32)


def atlas():
    with writing():
        return anndata.AnnData(np.ones((30, 3), np.float32), obsm={"X_umap": UMAP})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.h5ad.gz", gzip.compress(b"\x89HDF", mtime=0), "gzip; decompress it first"),
        ("a.h5ad", b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        ("empty.h5ad", b"", r"is empty \(0 bytes\); download or copy it again"),
        ("a.h5ad.bz2", bz2.compress(b"x"), "bzip2"),
        ("a.rda", b"RDX3\n", "is an R file"),
        ("a.rds", gzip.compress(b"X\n\0\0\0\3", mtime=0), "is an R file"),
        ("a.tar.gz", gzip.compress(bytes(257) + b"ustar", mtime=0), "is a tar archive; unpack it"),
        ("a.mtx.gz", gzip.compress(b"%%MatrixMarket", mtime=0), "scanpy.read_mtx"),
        ("damaged.gz", b"\x1f\x8bgarbage", "compressed with gzip"),
        ("a.mtx", b"%%MatrixMarket matrix coordinate", "scanpy.read_mtx"),
        ("page.h5ad", b"<!DOCTYPE html><html>", "is a web page"),
        ("a.txt", b"hello", "neither an HDF5 file nor a zarr store"),
    ],
)
def test_a_file_of_another_kind(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(cl.DataError, match=rf"{name}: .*{says}"):
        cl.open(tmp_path / name)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            ["matrix/features/name", "matrix/barcodes"],
            r"10x Genomics; read it with scanpy.read_10x_h5",
        ),
        (["GRCh38/genes", "GRCh38/barcodes"], r"10x Genomics; read it with scanpy.read_10x_h5"),
        (["row_attrs/Gene", "matrix"], r"is a loom file; read it with anndata.io.read_loom"),
        (["assays/RNA/counts", "cell.names"], r"is an h5Seurat file; convert it with SeuratDisk"),
        (["something/else"], r"no group 'obs'; is this an AnnData file"),
    ],
)
def test_an_hdf5_file_of_another_kind(keys, says, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as root:
        for key in keys:
            root[key] = [[1]]
    with pytest.raises(cl.DataError, match=says):
        cl.open(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("name", "file", "content", "says"),
    [
        ("a.zip", "", "", "is an archive that holds no zarr store; unpack it"),
        ("a.zarr", ".zmetadata", "{}", r"has no \.zgroup or zarr\.json at its top"),
        ("a.zarr", ".zarray", "", "is a single zarr array, not AnnData"),
        ("a.zarr", "zarr.json", "", "is a single zarr array, not AnnData"),
        ("a.zarr", ".zattrs", '{"spatialdata_attrs": {}}', "is a SpatialData store without tables"),
    ],
)
def test_a_store_of_another_kind(name, file, content, says, tmp_path):
    path = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data/counts.csv", "1")
    elif not content:
        version = 2 if file == ".zarray" else 3
        zarr.create_array(path, data=np.ones(3), zarr_format=version)
    else:
        path.mkdir()
        (path / file).write_text(content)
        if file == ".zattrs":
            (path / ".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(cl.DataError, match=rf"{name}: {says}"):
        cl.open(path)


def test_a_store_that_was_zipped_from_outside(tmp_path):
    with writing():
        atlas().write_zarr(tmp_path / "atlas.zarr")
    for name, parent in (("inside.zarr.zip", tmp_path / "atlas.zarr"), ("a.zarr.zip", tmp_path)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in sorted((tmp_path / "atlas.zarr").rglob("*")):
                archive.write(file, file.relative_to(parent))
    found = [
        cl.to_bytes(cl.outputs(tmp_path / name), ["points/2d", "var/1"])
        for name in ("atlas.zarr", "inside.zarr.zip", "a.zarr.zip")
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr", "private/a.h5ad"])
def test_a_file_that_may_not_be_read(name):
    code = """
import os, sys
import cellucid_lazy as cl
open_ = cl.open  # imported as root
os.seteuid(65534)
try:
    open_(sys.argv[1])
except cl.DataError as problem:
    print(problem)
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "private").mkdir(0o700)
        with writing():
            (atlas().write_zarr if name.endswith("zarr") else atlas().write_h5ad)(folder / name)
        (folder / name).chmod(0)
        command = [sys.executable, "-W", "ignore", "-c", code, str(folder / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{name}: may not be read; check its permissions" in done.stdout


def test_a_file_that_another_program_writes(tmp_path):
    path = tmp_path / "a.h5ad"
    with writing():
        atlas().write_h5ad(path)
    code = "import sys, cellucid_lazy as cl; cl.open(sys.argv[1])"
    with h5py.File(path, "r+"):
        command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        free = {**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"}
        assert subprocess.run(command, env=free, capture_output=True, check=False).returncode == 0
    assert "cellucid_lazy.errors.DataError" in done.stderr
    assert "another program has it open for writing: close that" in done.stderr


def test_a_filter_that_is_missing_is_named(tmp_path):
    path = tmp_path / "a.h5ad"
    with writing():
        atlas().write_h5ad(path)
    with h5py.File(path, "r+") as root:
        del root["X"]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((30, 3))
        creation.set_filter(32_444, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((30, 3))
        made = h5py.h5d.create(root.id, b"X", h5py.h5t.NATIVE_FLOAT, space, creation)
        made.write_direct_chunk((0, 0), bytes(360), filter_mask=0)
        root["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises(
        cl.DataError, match=r"X.*filter that is missing here: pip install hdf5plugin"
    ):
        cl.to_bytes(cl.outputs(path), ["var/1"])


def test_what_is_stored_is_listed(tmp_path, capsys):
    path, line = tmp_path / "a.h5ad", "  matrices: X (30, 3), layers/counts (30, 3)"
    for layers, ends in (({}, False), ({"counts": np.ones((30, 3), np.float32)}, True)):
        adata = atlas()
        with writing():
            adata.layers.update(layers)
            adata.write_h5ad(path)
        assert main(["inspect", str(path)]) == 0
        assert (line in capsys.readouterr().out.splitlines()) is ends
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["matrices"]
    assert found == {"X": [30, 3], "layers/counts": [30, 3]}
    adata.X = None
    with pytest.warns(cl.LeftOutWarning, match="there is no X"):
        catalogue = cl.outputs(adata)
    assert repr(catalogue).endswith("  matrices: layers/counts (30, 3)")
    assert "layers/counts (30, 3)" in catalogue._repr_html_()


def test_leaving_out(tmp_path):
    adata = atlas()
    adata.var_names = ["CD3 (UCHT1)", "CD3_UCHT1", "B"]
    catalogue = cl.outputs(adata)
    with pytest.raises(
        cl.CollisionError, match=r"leave one out with select \(--select, --exclude\)"
    ):
        cl.to_directory(catalogue, tmp_path / "out", progress=False)
    rest = catalogue.select("*", exclude="var/CD3_UCHT1")
    assert rest == catalogue.select(exclude=["var/CD3_*"])
    assert rest.names("var") == ("var/CD3 (UCHT1)", "var/B")
    assert set(catalogue) - set(rest) == {"var/CD3_UCHT1"}
    cl.to_directory(rest, tmp_path / "out", progress=False)
    assert len(list((tmp_path / "out" / "var").iterdir())) == 2
    assert catalogue.select("var/*", exclude="var/C*").names() == ("var/B",)
    assert catalogue.select().names() == ()
    with pytest.raises(cl.MissingKeyError, match="var/MT-"):
        catalogue.select(exclude="var/MT-*")
    with pytest.raises(cl.OptionError, match="give patterns one by one"):
        catalogue.select(exclude=[3])
