"""Nothing is read before it is asked for, and then once per pass; graphs work anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import anndata
import dask
import h5py
import numpy as np
import pytest
import zarr

import cellucid_lazy as cl
from cellucid_lazy.source import DEFAULT_SIZES, BlockSizes
from tests import data, giant, oracle
from tests.engine import stores
from tests.helpers import (
    SMALL,
    Reads,
    graph_bytes,
    raise_if_dask_computes,
    small_grid,
    with_sizes,
)


def bare(adata):
    """Without what no output uses: in zarr each chunk is a file, which takes its time."""
    adata = adata.copy()
    del adata.raw
    # From anndata 0.13 on X is among the layers, under the name None.
    for key in [key for key in adata.layers if key is not None]:
        del adata.layers[key]
    return adata


FORMS = {
    "h5ad": lambda adata, folder: data.write_chunked(adata, folder / "a.h5ad"),
    "zarr": lambda adata, folder: data.write_chunked(bare(adata), folder / "a.zarr", zarr_format=3),
    "zip": lambda adata, folder: data.write_zarr(bare(adata), folder / "a.zarr.zip", zarr_format=2),
}
# Only reading tells the labels of these columns.
TEXT = ("sample", "maybe_text", "doublet", "maybe_flag")
OPTIONS = cl.Options(var_quantization=8, created_at="2026-01-02T03:04:05Z")
ROOT = Path(__file__).parent.parent


def without_text(matrix="csr"):
    adata = data.atlas(matrix=matrix)
    adata.obs = adata.obs.drop(columns=list(TEXT))
    return adata


# Nothing is computed while building, and next to nothing is read


def opened(form, adata, folder):
    """What may be given to `outputs`."""
    if form in FORMS:
        return FORMS[form](adata, folder)
    if form == "in memory":
        return adata
    with data.writing():
        if form == "view":
            return adata[::-2, [3, 1, 2]]
        path = data.write_h5ad(adata, folder / "a.h5ad")
        if form == "backed":
            return anndata.read_h5ad(path, backed="r")
        # read_lazy of anndata 0.12 computes the names of cells itself.
        return cl.open(anndata.experimental.read_lazy(path))


@pytest.mark.parametrize(
    ("form", "matrix"),
    [
        *product([*FORMS, "in memory", "backed", "lazy", "view"], ["csr"]),
        *product(["h5ad", "in memory", "view"], ["csc", "dense"]),
    ],
)
def test_building_computes_nothing(form, matrix, tmp_path):
    source = opened(form, without_text(matrix), tmp_path)
    with raise_if_dask_computes():
        catalogue = cl.outputs(source, OPTIONS)
        assert len(catalogue) > 20
        for name in catalogue:
            output = catalogue[name]
            assert output.array.dtype == output.dtype
            for statistic in output.statistics.values():
                assert isinstance(statistic, dask.array.Array)
        repr(catalogue)
        catalogue._repr_html_()
        cl.explain(catalogue, details=True)


@pytest.mark.parametrize("form", FORMS)
def test_opening_and_listing_read_no_cell(form, tmp_path, monkeypatch):
    path = FORMS[form](data.atlas(), tmp_path)
    with Reads(monkeypatch) as reads:
        catalogue = cl.outputs(path)
        assert "points/2d" in catalogue
        assert reads.boxes == []
        names = list(catalogue)
    assert "var/CD3E" in names
    parts = {key.removesuffix("/values").removesuffix("/mask") for key in reads.touched()}
    assert parts == {"var/_index"}


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

found = {}
with pytest.MonkeyPatch.context() as patch, Reads(patch) as reads:
    with dask.config.set(scheduler=refuse):
        start = time.perf_counter()
        catalogue = cl.outputs(cl.open(sys.argv[1]))
        names = list(catalogue)
        found["seconds"] = time.perf_counter() - start
        found["names"] = len(names)
        found["rss"] = peak()
        found["read at listing"] = sorted(reads.touched())
        found["building"] = {}
        asked = [n for n in names if not n.startswith("var/") and "text" not in n]
        if "obs/text/codes" in names:
            asked = [n for n in asked if not n.startswith("manifest/")]
        for name in [*asked, "var/GENE0", "var/GENE30000", "var/GENE59999"]:
            start = time.process_time()
            catalogue[name].array
            found["building"][name] = time.process_time() - start
found["read at building"] = sorted(reads.touched())
found["rss after"] = peak()
print(json.dumps(found))
"""


@pytest.mark.parametrize(("name", "text"), [("giant.h5ad", True), ("giant.zarr", False)])
def test_ten_million_cells_and_sixty_thousand_genes(name, text, tmp_path):
    path = giant.write(tmp_path / name, text=text)
    code = [sys.executable, "-c", _GIANT, str(path)]
    answer = subprocess.run(code, check=True, capture_output=True, text=True, cwd=ROOT)
    found = json.loads(answer.stdout)
    assert found["names"] > 60_000
    assert found["seconds"] < 3
    assert found["rss"] < 400
    names = {f"var/_index{part}" for part in ("", "/values", "/mask")}
    assert set(found["read at listing"]) <= names
    assert set(found["read at building"]) <= names | {
        f"obs/{key}/categories{part}"
        for key in ("cell type", "sample")
        for part in ("", "/values", "/mask")
    }
    seconds = found["building"]
    assert {name: one for name, one in seconds.items() if one > 1} == {}
    assert np.median(list(seconds.values())) < 0.03
    assert found["rss after"] < 400


# Each pass reads each stored chunk once


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Write an atlas of 300 cells, once for each form and layout."""
    folder, found = tmp_path_factory.mktemp("stored"), {}

    def write(form, matrix):
        if (form, matrix) not in found:
            adata = data.atlas(300, 110, matrix=matrix)
            (folder / matrix).mkdir(exist_ok=True)
            found[form, matrix] = FORMS[form](adata, folder / matrix)
        return found[form, matrix]

    return write


def wanted(catalogue):
    genes = catalogue.names("var")[:100]
    return [*catalogue.names("points"), *catalogue.names("obs"), *genes]


def stored_chunks(path):
    """Shape of the stored chunks of each array, None for one that is contiguous."""
    found = {}
    if path.suffix == ".h5ad":
        with h5py.File(path, "r") as root:
            root.visititems(
                lambda key, node: found.update(
                    {key: node.chunks} if hasattr(node, "chunks") else {}
                )
            )
        return found
    root = zarr.open_group(path, mode="r", use_consolidated=False)
    for key, node in root.members(max_depth=None):
        if isinstance(node, zarr.Array):
            found[key] = node.chunks
    return found


def reads_per_chunk(reads, key, chunks):
    """Count how often each chunk was read, or each element of an array without chunks."""
    counts = Counter()
    for box in reads.of(key):
        sides = zip(box, chunks or [1] * len(box), strict=True)
        counts.update(
            product(*(range(start // side, -(-stop // side)) for (start, stop), side in sides))
        )
    return counts


def assert_passes(path, reads, twice=()):
    """Assert that each chunk was read once; twice, of the obs columns that are named."""
    chunks = stored_chunks(path)
    for key in reads.touched():
        passes = 2 if any(key.startswith(f"obs/{name}") for name in twice) else 1
        # There are arrays without elements.
        assert set(reads_per_chunk(reads, key, chunks[key]).values()) <= {passes}, key
    fetched = Counter(reads.chunks)
    assert len(fetched) > 50
    if not twice:
        reads.assert_no_chunk_twice()


SIZES = {"whole": DEFAULT_SIZES, "many": SMALL}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_each_stored_chunk_is_read_once(form, matrix, sizes, stored, monkeypatch):
    """Counted at what is asked of readers, and at the file; border chunks of blocks too."""
    path = stored(form, matrix)
    catalogue = with_sizes(cl.outputs(path), SIZES[sizes])
    names = wanted(catalogue)
    with Reads(monkeypatch) as reads:
        found = cl.to_bytes(catalogue, names)
    # The labels of text first, then its codes.
    assert_passes(path, reads, twice=TEXT)
    with Reads(monkeypatch) as reads:
        assert cl.to_bytes(catalogue, names) == found
    assert_passes(path, reads)
    for key, shape in {"obsm/X_umap_3d": (300, 3), "obsm/X_pca": (300, 6)}.items():
        reads.assert_each_once(key, shape)
    matrix_keys = {"X"} if matrix == "dense" else {"X/data", "X/indices"}
    assert matrix_keys <= reads.touched()
    if sizes == "many":
        assert all(len(reads.of(key)) > 10 for key in matrix_keys)
    assert not any(key.startswith(("layers", "raw", "obsp")) for key in reads.touched())


def test_an_export_reads_what_a_call_reads(stored, tmp_path, monkeypatch):
    path = stored("h5ad", "csr")
    options = cl.Options(var_quantization=8, obs_continuous_quantization=8)
    with Reads(monkeypatch) as reads:
        cl.to_directory(with_sizes(cl.outputs(path, options)), tmp_path / "out", progress=False)
    edges = {f"obsp/connectivities/{part}" for part in ("data", "indices", "indptr")}
    assert edges <= reads.touched()
    # Rows of the graph are cut without a look at its chunks, but no element is read twice.
    for key in edges - {"obsp/connectivities/indptr"}:
        reads.assert_each_once(key)
    reads.boxes = [box for box in reads.boxes if box[0] not in edges]
    assert_passes(path, reads, twice=TEXT)


def test_masks_in_chunks_of_their_own_are_read_once_per_pass(tmp_path, monkeypatch):
    path = FORMS["h5ad"](data.atlas(300, 10), tmp_path)
    with h5py.File(path, "r+") as root:
        for key in ("maybe_text", "maybe_flag"):
            group = root["obs"][key]
            mask, attributes = group["mask"][...], dict(group["mask"].attrs)
            del group["mask"]
            group.create_dataset("mask", data=mask, chunks=(50,)).attrs.update(attributes)
    catalogue = with_sizes(cl.outputs(path))
    names = ["obs/maybe_text/codes", "obs/maybe_flag/codes"]
    first = cl.to_bytes(catalogue, names)
    with Reads(monkeypatch) as reads:
        assert cl.to_bytes(catalogue, names) == first
    chunks = stored_chunks(path)
    for key in ("obs/maybe_text/mask", "obs/maybe_flag/mask", "obs/maybe_flag/values"):
        assert len(reads.of(key)) > 1
        assert set(reads_per_chunk(reads, key, chunks[key]).values()) == {1}


@pytest.mark.parametrize("chunks", [(300, 1), (70, 4), (300, 110)])
@pytest.mark.parametrize("form", ["gzip", "v3 zstd"])
def test_dense_chunks_without_a_gene_asked_for_are_not_read(chunks, form, tmp_path, monkeypatch):
    matrix = np.arange(300 * 110, dtype=np.float32).reshape(300, 110)
    catalogue = cl.outputs(stores.write(tmp_path / "a", matrix, form, chunks=chunks))
    genes = (3, 4, 77)
    with Reads(monkeypatch) as reads:
        found = cl.to_bytes(catalogue, [f"var/g{gene}" for gene in genes])
    assert list(found.values()) == [matrix[:, gene].tobytes() for gene in genes]
    reads.assert_each_once("X")
    width = chunks[1]
    columns = {at for box in reads.of("X") for at in range(*box[1])}
    assert columns == {at for at in range(110) if at // width in {g // width for g in genes}}


# Graphs travel

_ELSEWHERE = """
import hashlib, os, pickle, sys
os.chdir("/")
import numpy as np
from dask.local import get_sync

def flat(part):
    return [one for inner in part for one in flat(inner)] if isinstance(part, list) else [part]

def show(name, octets):
    print(hashlib.sha256(octets).hexdigest(), name)

assert "cellucid_lazy" not in sys.modules
with open(sys.argv[1], "rb") as file:
    graphs, catalogue, names = pickle.load(file)
for name, (graph, keys) in graphs.items():
    blocks = get_sync(pickle.loads(graph), flat(keys))
    show(name, b"".join(np.ascontiguousarray(block).tobytes() for block in blocks))
import cellucid_lazy as cl
for name, octets in cl.to_bytes(pickle.loads(catalogue), names).items():
    show(f"catalogue {name}", octets)
"""


@pytest.mark.long
@pytest.mark.parametrize("form", ["h5ad", "zip", "view"])
def test_every_graph_computes_in_another_process(form, tmp_path, monkeypatch):
    """Opened by a relative path, the opener closed, in another folder, from the pickle alone."""
    small_grid(monkeypatch, 2**18)  # of the other process
    monkeypatch.chdir(tmp_path)
    path = FORMS.get(form, FORMS["h5ad"])(data.atlas(slim=True), tmp_path)
    source = path.relative_to(tmp_path)
    if form == "view":
        with data.writing():
            source = anndata.read_h5ad(source, backed="r")[::-2, [3, 1, 2]]
    catalogue = with_sizes(cl.outputs(source, OPTIONS), BlockSizes(2_000, 1_500, 500, 1_500))
    names = list(catalogue)
    graphs, ours = {}, {}
    for name, octets in cl.to_bytes(catalogue, names).items():
        array = catalogue[name].array
        graphs[name] = (graph_bytes(array), array.__dask_keys__())
        ours[name] = ours[f"catalogue {name}"] = hashlib.sha256(octets).hexdigest()
    travelling = pickle.dumps((graphs, pickle.dumps(catalogue), names))
    if form == "view":
        source.file.close()
    del catalogue, source
    (tmp_path / "graphs").write_bytes(travelling)
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ELSEWHERE, str(tmp_path / "graphs")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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
        # Also after a call has found labels.
        cl.to_bytes(catalogue, ["obs/sample/codes"])
        names = [name for name in catalogue if not name.startswith("manifest/")]
        sizes[n_cells] = {name: len(graph_bytes(catalogue[name].array)) for name in names}
    for name, size in sizes[3000].items():
        assert size < sizes[300][name] + 2000, name


def names_of_tasks(source):
    catalogue = cl.outputs(source, OPTIONS)
    return {name: catalogue[name].array.name for name in catalogue}


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_task_names_follow_the_content(form, tmp_path, monkeypatch):
    adata = without_text()
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
    path = FORMS["h5ad"](without_text(), tmp_path)
    plain, quantized = cl.outputs(path), cl.outputs(path, OPTIONS)
    assert plain["var/CD3E"].array.name != quantized["var/CD3E"].array.name
    assert plain["points/2d"].array.name == quantized["points/2d"].array.name
    held = without_text()
    assert names_of_tasks(held)["points/2d"] != names_of_tasks(held)["points/2d"]


def test_outputs_are_ordinary_dask_arrays(tmp_path):
    """Computed or persisted together, they share what they read."""
    path = FORMS["h5ad"](data.atlas(slim=True), tmp_path)
    catalogue = cl.outputs(path)
    names = ["points/2d", "obs/cell type/codes", "var/CD3E"]
    right = cl.to_bytes(catalogue, names)
    arrays = [catalogue[name].array for name in names]
    for computed in (dask.compute(*arrays), [one.compute() for one in dask.persist(*arrays)]):
        assert [one.tobytes() for one in computed] == list(right.values())
    assert oracle.reference_outputs(data.atlas(slim=True))["var/CD3E"] == right["var/CD3E"]
