"""Nothing is read before it is asked for, and then once; graphs work anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import anndata
import dask
import numpy as np
import pytest
import zarr
from zarr.abc.store import SuffixByteRequest

import cellucid_lazy as cl
from tests import data, giant, oracle
from tests.helpers import Reads, graph_bytes, raise_if_dask_computes, small_blocks

FORMS = {
    "h5ad": lambda adata, folder: data.write_chunked(adata, folder / "a.h5ad"),
    "zarr": lambda adata, folder: data.write_chunked(adata, folder / "a.zarr", zarr_format=3),
    "zip": lambda adata, folder: data.write_zarr(adata, folder / "a.zarr.zip", zarr_format=2),
}
# Only reading tells what is in these columns.
TOLD_BY_VALUES = ("sample", "maybe_text", "doublet", "maybe_flag")
OPTIONS = cl.Options(var_quantization=8, created_at="2026-01-02T03:04:05Z")


def atlas(matrix="csr"):
    adata = data.atlas(matrix=matrix)
    adata.obs = adata.obs.drop(columns=list(TOLD_BY_VALUES))
    return adata


def build(catalogue, names):
    return [catalogue[name].array for name in names]


# No compute while building


@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
@pytest.mark.parametrize("form", [*FORMS, "in memory", "backed", "lazy", "view"])
def test_building_computes_nothing(form, matrix, tmp_path, monkeypatch):
    adata = atlas(matrix)
    source = FORMS[form](adata, tmp_path) if form in FORMS else adata
    if form in ("backed", "lazy"):
        path = data.write_h5ad(adata, tmp_path / "a.h5ad")
        with data.writing():
            lazily = anndata.experimental.read_lazy
            source = lazily(path) if form == "lazy" else anndata.read_h5ad(path, backed="r")
    if form == "view":
        with data.writing():
            source = adata[::-2, [3, 1, 2]]
    if form == "lazy":
        source = cl.open(source)  # read_lazy of anndata 0.12 computes the names of cells itself
    with raise_if_dask_computes():
        catalogue = cl.outputs(source, OPTIONS)
        assert len(catalogue) > 20
        for name in catalogue:
            output = catalogue[name]
            assert output.array.dtype == output.dtype
            for fact in output.facts.values():
                assert isinstance(fact, dask.array.Array)
        repr(catalogue)
        catalogue._repr_html_()


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_a_text_column_is_read_once_to_find_its_labels(form, tmp_path, monkeypatch):
    path = FORMS[form](data.atlas(slim=True), tmp_path)
    catalogue = cl.outputs(path)
    with Reads(monkeypatch) as reads:
        list(catalogue)
        assert not any(key.startswith("obs/sample") for key in reads.touched())
        build(catalogue, ["obs/cell type/codes"])
        assert not any(key.startswith("obs/sample") for key in reads.touched())
        build(catalogue, ["obs/sample/codes", "obs/sample/outliers", "manifest/obs"])
    # anndata writes text with a mask where it may.
    text = "obs/sample" if "obs/sample" in reads.touched() else "obs/sample/values"
    reads.assert_each_once(text, (400,))


@pytest.mark.parametrize("form", FORMS)
def test_opening_and_listing_read_no_cell(form, tmp_path, monkeypatch):
    path = FORMS[form](data.atlas(), tmp_path)
    with Reads(monkeypatch) as reads:
        catalogue = cl.outputs(path)
        assert "points/2d" in catalogue
        assert reads.boxes == []
        names = list(catalogue)
    assert "var/CD3E" in names
    assert {key.removesuffix("/values").removesuffix("/mask") for key in reads.touched()} == {
        "var/_index"
    }


# Ten million cells, sixty thousand genes

_GIANT = """
import json, sys, time
from pathlib import Path
import dask
import cellucid_lazy as cl
from tests.helpers import Reads
import pytest

def refuse(*args, **kwargs):
    raise AssertionError("computed")

def peak():
    # Of this process alone: ru_maxrss begins with what the parent had.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

told = {}
with pytest.MonkeyPatch.context() as patch, Reads(patch) as reads:
    with dask.config.set(scheduler=refuse):
        start = time.perf_counter()
        catalogue = cl.outputs(cl.open(sys.argv[1]))
        names = list(catalogue)
        told["seconds"] = time.perf_counter() - start
        told["names"] = len(names)
        told["rss"] = peak()
        told["read at listing"] = sorted(reads.touched())
        told["building"] = {}
        asked = [n for n in names if not n.startswith("var/") and "text" not in n]
        if "obs/text/codes" in names:
            asked = [n for n in asked if not n.startswith("manifest/")]
        for name in [*asked, "var/GENE0", "var/GENE30000", "var/GENE59999"]:
            start = time.process_time()
            catalogue[name].array
            told["building"][name] = time.process_time() - start
    told["read at building"] = sorted(reads.touched())
told["rss after"] = peak()
print(json.dumps(told))
"""


@pytest.mark.parametrize("text", [True, False], ids=["text", "no text"])
@pytest.mark.parametrize("name", ["giant.h5ad", "giant.zarr"])
def test_ten_million_cells_and_sixty_thousand_genes(name, text, tmp_path):
    path = giant.write(tmp_path / name, text=text)
    code = [sys.executable, "-c", _GIANT, str(path)]
    root = Path(__file__).parent.parent
    answer = subprocess.run(code, check=True, capture_output=True, text=True, cwd=root)
    told = json.loads(answer.stdout)
    assert told["names"] > 60_000
    assert told["seconds"] < 3
    assert told["rss"] < 400
    names = {f"var/_index{part}" for part in ("", "/values", "/mask")}
    assert set(told["read at listing"]) <= names
    assert set(told["read at building"]) <= names | {
        f"obs/{key}/categories{part}"
        for key in ("cell type", "sample")
        for part in ("", "/values", "/mask")
    }
    seconds = told["building"]
    slow = {
        name: one
        for name, one in seconds.items()
        if one > (2 if name.startswith("manifest/") else 0.3)
    }
    assert slow == {}
    assert np.median(list(seconds.values())) < 0.05
    assert told["rss after"] < 400


# One pass


def wanted(catalogue):
    genes = catalogue.names("var")[:100]
    return [*catalogue.names("points"), *catalogue.names("obs"), *genes]


@pytest.fixture
def hundred_genes():
    return lambda matrix: data.atlas(300, 110, matrix=matrix)


@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_each_element_is_read_once(form, matrix, hundred_genes, tmp_path, monkeypatch):
    small_blocks(monkeypatch, 5_000)
    path = FORMS[form](hundred_genes(matrix), tmp_path)
    catalogue = cl.outputs(path)
    names = wanted(catalogue)
    build(catalogue, names)  # finds the labels that only values tell
    with Reads(monkeypatch) as reads:
        found = cl.to_bytes(catalogue, names)
    assert set(found) == set(names)
    matrix_keys = {"X"} if matrix == "dense" else {"X/data", "X/indices"}
    assert matrix_keys <= reads.touched()
    for key in reads.touched() - {"X/indptr"}:
        reads.assert_each_once(key)
    for key in matrix_keys:
        assert len(reads.of(key)) > 1, key
    for key, shape in {
        "obsm/X_umap_3d": (300, 3),
        "obs/score": (300,),
        "obsm/X_pca": (300, 6),
    }.items():
        reads.assert_each_once(key, shape)
    assert not any(key.startswith(("layers", "raw", "obsp")) for key in reads.touched())


def test_each_stored_chunk_is_read_once_from_h5ad(hundred_genes, tmp_path, monkeypatch):
    """Counted at the file: no byte of it is read twice, whatever the blocks."""
    path = FORMS["h5ad"](hundred_genes("csr"), tmp_path)
    catalogue = cl.outputs(path)
    build(catalogue, wanted(catalogue))
    with Reads(monkeypatch) as reads:
        cl.to_bytes(catalogue, wanted(catalogue))
    assert len(reads.extents) > 100
    reads.assert_no_byte_twice()


@pytest.mark.parametrize(
    "matrix",
    [
        "csr",
        pytest.param(
            "csc", marks=pytest.mark.xfail(strict=True, reason="chunks across blocks of genes")
        ),
        "dense",
    ],
)
def test_each_stored_chunk_is_read_once_from_zarr(matrix, hundred_genes, tmp_path, monkeypatch):
    """Counted at the store."""
    path = FORMS["zarr"](hundred_genes(matrix), tmp_path)
    catalogue = cl.outputs(path)
    build(catalogue, wanted(catalogue))
    got = []
    get = zarr.storage.LocalStore.get

    def watched(store, key, prototype, byte_range=None):
        # anndata 0.13 writes shards: their indices, at the end of the file, are no chunks.
        if "/c/" in key and not isinstance(byte_range, SuffixByteRequest):
            got.append(f"{key} {byte_range}")
        return get(store, key, prototype, byte_range)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", watched)
    cl.to_bytes(catalogue, wanted(catalogue))
    assert len(got) > 50
    assert sorted(got) == sorted(set(got))


# Graphs

_ELSEWHERE = """
import hashlib, os, pickle, sys
os.chdir("/")
import numpy as np
from dask.local import get_sync

def flat(part):
    return [one for inner in part for one in flat(inner)] if isinstance(part, list) else [part]

assert "cellucid_lazy" not in sys.modules
with open(sys.argv[1], "rb") as file:
    graphs = pickle.load(file)
for name, (graph, keys) in graphs.items():
    blocks = get_sync(pickle.loads(graph), flat(keys))
    octets = b"".join(np.ascontiguousarray(block).tobytes() for block in blocks)
    print(hashlib.sha256(octets).hexdigest(), name)
"""


@pytest.mark.parametrize("form", [*FORMS, "view"])
def test_every_graph_computes_in_another_process(form, tmp_path, monkeypatch):
    """Opened by a relative path, the opener closed, in another folder, from the pickle alone."""
    small_blocks(monkeypatch)
    adata = data.atlas(slim=True)
    monkeypatch.chdir(tmp_path)
    path = FORMS.get(form, FORMS["h5ad"])(adata, tmp_path)
    source = path.relative_to(tmp_path)
    if form == "view":
        with data.writing():
            source = anndata.read_h5ad(source, backed="r")[::-2, [3, 1, 2]]
    catalogue = cl.outputs(source, OPTIONS)
    right = cl.to_bytes(catalogue, catalogue)
    graphs, ours = {}, {}
    for name in catalogue:
        array = catalogue[name].array
        graphs[name] = (graph_bytes(array), array.__dask_keys__())
        ours[name] = hashlib.sha256(right[name]).hexdigest()
    if form == "view":
        source.file.close()
    del catalogue, source
    (tmp_path / "graphs").write_bytes(pickle.dumps(graphs))
    root = str(Path(__file__).parent.parent)
    answer = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "graphs")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    theirs = {line.split(" ", 1)[1]: line.split(" ", 1)[0] for line in answer.stdout.splitlines()}
    assert theirs == ours


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_graphs_hold_no_array_and_no_handle(form, tmp_path):
    """A graph is small: what it holds grows with the blocks, not with the cells."""
    sizes = {}
    for n_cells in (300, 3000):
        folder = tmp_path / str(n_cells)
        folder.mkdir()
        adata = data.atlas(n_cells, slim=True)
        write = data.write_h5ad if form == "h5ad" else data.write_zarr
        options = {} if form == "h5ad" else {"zarr_format": 3}
        catalogue = cl.outputs(write(adata, folder / "a.zarr", **options))
        names = [name for name in catalogue if not name.startswith("manifest/")]
        sizes[n_cells] = {name: len(graph_bytes(catalogue[name].array)) for name in names}
    for name, size in sizes[3000].items():
        assert size < sizes[300][name] + 2000, name


def names_of_tasks(source):
    catalogue = cl.outputs(source, OPTIONS)
    return {name: catalogue[name].array.name for name in catalogue}


@pytest.mark.parametrize("form", ["h5ad", "zarr", "zip"])
def test_task_names_follow_the_content(form, tmp_path, monkeypatch):
    adata = atlas()
    path = FORMS[form](adata, tmp_path)
    first = names_of_tasks(path)
    assert names_of_tasks(path) == first
    monkeypatch.chdir(tmp_path)
    assert names_of_tasks(path.relative_to(tmp_path)) == first
    catalogue = cl.outputs(path)
    lazy = catalogue["points/2d"].array
    # The same values, written again: shapes, types and keys are what they were.
    FORMS[form](adata, tmp_path)
    again = names_of_tasks(path)
    assert set(again) == set(first)
    assert [name for name in first if again[name] == first[name]] == []
    if form == "h5ad":
        with pytest.raises(cl.DataError, match=r"a\.h5ad: the file changed since it was opened"):
            lazy.compute()


def test_task_names_differ_by_option_and_dataset(tmp_path):
    path = FORMS["h5ad"](atlas(), tmp_path)
    plain, quantized = cl.outputs(path), cl.outputs(path, OPTIONS)
    assert plain["var/CD3E"].array.name != quantized["var/CD3E"].array.name
    assert plain["points/2d"].array.name == quantized["points/2d"].array.name
    held = atlas()
    assert names_of_tasks(held)["points/2d"] != names_of_tasks(held)["points/2d"]


def test_a_name_computed_together_with_its_neighbours(tmp_path):
    """Ordinary dask arrays: compute and persist of several at once share what they read."""
    path = FORMS["h5ad"](data.atlas(slim=True), tmp_path)
    catalogue = cl.outputs(path)
    names = ["points/2d", "obs/cell type/codes", "var/CD3E"]
    right = cl.to_bytes(catalogue, names)
    arrays = [catalogue[name].array for name in names]
    for computed in (dask.compute(*arrays), [one.compute() for one in dask.persist(*arrays)]):
        assert [one.tobytes() for one in computed] == list(right.values())
    assert oracle.reference_outputs(data.atlas(slim=True))["var/CD3E"] == right["var/CD3E"]
