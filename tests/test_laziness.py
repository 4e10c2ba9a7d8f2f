"""Nothing is read before it is asked for, and then once; graphs work anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anndata
import dask
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from zarr.abc.store import SuffixByteRequest

import cellucid_lazy as cl
from cellucid_lazy.outputs import category
from cellucid_lazy.outputs.context import Room
from tests import data, giant, oracle
from tests.engine import stores
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


# Text: one read finds the labels and keeps codes


CALLS = {
    "to_bytes": lambda catalogue, path: cl.to_bytes(catalogue, wanted(catalogue)),
    "to_directory": lambda catalogue, path: cl.to_directory(catalogue, path, overwrite=True),
}
STORED = {  # length of the chunks of each text column, of its values and of its mask
    "sample": (37, 37),
    "doublet": (37, None),
    "maybe_text": (37, 50),
    "maybe_flag": (37, 50),
}


def write_text(form, folder):
    """An atlas whose masks are stored in other chunks than the values."""
    path = FORMS[form](data.atlas(300, 110), folder)
    root = h5py.File(path, "r+") if form == "h5ad" else zarr.open_group(path, mode="r+")
    for key, (_, length) in STORED.items():
        if length == 50:
            group = root["obs"][key]
            mask, attributes = group["mask"][...], dict(group["mask"].attrs)
            del group["mask"]
            create = group.create_dataset if form == "h5ad" else group.create_array
            create("mask", data=mask, chunks=(length,)).attrs.update(attributes)
    if form == "h5ad":
        root.close()
    return path


def assert_text_is_read_once(reads, n_cells=300):
    """Each element and each stored chunk of each text column, of values and masks."""
    seen = set()
    for name, lengths in STORED.items():
        for part, length in zip(("values", "mask"), lengths, strict=True):
            plain = part == "values" and f"obs/{name}" in reads.touched()
            key = f"obs/{name}" if plain else f"obs/{name}/{part}"
            if key not in reads.touched():
                continue
            seen.add((name, part))
            reads.assert_each_once(key, (n_cells,))
            count = np.zeros(-(-n_cells // length), dtype=int)
            for ((start, stop),) in reads.of(key):
                count[start // length : -(-stop // length)] += 1
            assert count.tolist() == [1] * len(count), key
    assert {(name, "values") for name in STORED} <= seen
    assert {("maybe_text", "mask"), ("maybe_flag", "mask")} <= seen


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_a_call_reads_text_once_and_finds_labels_once(form, call, tmp_path, monkeypatch):
    small_blocks(monkeypatch, 5_000)
    catalogue = cl.outputs(write_text(form, tmp_path))
    with Reads(monkeypatch) as reads:
        first = CALLS[call](catalogue, tmp_path / "out")
    assert_text_is_read_once(reads)
    assert len(reads.of("obs/maybe_text/values")) > 1
    with Reads(monkeypatch) as reads:
        # What the call found, the catalogue knows: building reads no cell.
        labels = {key: catalogue[f"obs/{key}/codes"].labels for key in STORED}
        build(catalogue, [name for name in wanted(catalogue) if name.startswith("obs")])
        assert not any("values" in key or key in {"obs/sample"} for key in reads.touched())
    assert labels["sample"] == ("B/naïve", "NK", "T cells", "unknown")
    for finds in ("number", "distinct"):
        monkeypatch.setattr(category, finds, None)
    with Reads(monkeypatch) as reads:
        assert CALLS[call](catalogue, tmp_path / "out") == first
    assert_text_is_read_once(reads)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_without_room_for_codes_text_is_read_again(form, tmp_path, monkeypatch):
    small_blocks(monkeypatch, 5_000)
    path = write_text(form, tmp_path)
    right = CALLS["to_bytes"](cl.outputs(path), None)
    catalogue = cl.outputs(path)
    monkeypatch.setattr(Room, "take", lambda room, n_bytes: False)
    with Reads(monkeypatch) as reads:
        assert CALLS["to_bytes"](catalogue, None) == right
    assert max(Counter(reads.of("obs/maybe_text/values")).values()) == 2


def test_codes_share_the_room_of_their_call(tmp_path, monkeypatch):
    """400 cells: 800 bytes are asked for text, 400 for booleans; 400 are needed."""
    catalogue = cl.outputs(FORMS["h5ad"](data.atlas(), tmp_path)).within(8 * 1000)
    kept = {}
    for key in ("sample", "maybe_text", "maybe_flag"):
        with Reads(monkeypatch) as reads:
            codes = catalogue[f"obs/{key}/codes"].array
            found = set(reads.boxes)
            codes.compute()
        kept[key] = set(reads.boxes) == found and len(reads.boxes) == len(found)
    assert kept == {"sample": True, "maybe_text": False, "maybe_flag": True}


def test_labels_known_before_a_call_are_not_found_again(tmp_path, monkeypatch):
    small_blocks(monkeypatch, 5_000)
    catalogue = cl.outputs(write_text("h5ad", tmp_path))
    build(catalogue, [f"obs/{key}/codes" for key in STORED])
    with Reads(monkeypatch) as reads:
        CALLS["to_bytes"](catalogue, None)
    assert_text_is_read_once(reads)


def test_graphs_of_the_catalogue_stay_small_after_a_call(tmp_path, monkeypatch):
    """What a call holds goes with it: the catalogue's own graphs read their file."""
    path = FORMS["h5ad"](data.atlas(3000, slim=True), tmp_path)
    catalogue = cl.outputs(path)
    right = cl.to_bytes(catalogue, ["obs/sample/codes"])["obs/sample/codes"]
    with Reads(monkeypatch) as reads:
        codes = catalogue["obs/sample/codes"].array
        assert reads.boxes == []
        assert len(graph_bytes(codes)) < 3000
        assert codes.compute().tobytes() == right
        assert len(reads.boxes) > 0
    assert codes.name == cl.outputs(path)["obs/sample/codes"].array.name


def test_a_column_of_too_many_labels_is_read_once(tmp_path, monkeypatch):
    """It is left out, with a warning from each call; nothing is read to find that out again."""
    n_cells = 66_000
    names = [f"cell{i}" for i in range(n_cells)]
    adata = anndata.AnnData(
        obs=pd.DataFrame({"barcode": names}, index=names),
        obsm={"X_umap_2d": np.zeros((n_cells, 2), dtype=np.float32)},
    )
    catalogue = cl.outputs(data.write_h5ad(adata, tmp_path / "a.h5ad"))
    for reading in (True, False):
        with Reads(monkeypatch) as reads, pytest.warns(cl.LeftOutWarning, match="66,000"):
            cl.to_directory(catalogue, tmp_path / "out", overwrite=True)
        key = "obs/barcode" if "obs/barcode" in reads.touched() else "obs/barcode/values"
        assert (key in reads.touched()) == reading
        if reading:
            reads.assert_each_once(key, (n_cells,))


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


@pytest.mark.parametrize("room", [True, False], ids=["room", "no room"])
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_a_view_reads_codes_once_to_drop_categories(form, room, tmp_path, monkeypatch):
    path = FORMS[form](data.atlas(300, slim=True), tmp_path)
    small_blocks(monkeypatch, 50)
    with data.writing():
        view = anndata.experimental.read_lazy(path)[100:250]
    names = ["obs/cell type/codes", "obs/cell type/outliers", "manifest/obs"]
    expected = cl.to_bytes(cl.outputs(view, OPTIONS), names)
    if not room:
        monkeypatch.setattr(Room, "take", lambda self, n_bytes: False)
    with Reads(monkeypatch) as reads:
        catalogue = cl.outputs(view, OPTIONS)
        assert cl.to_bytes(catalogue, names) == expected
    boxes = reads.of("obs/cell type/codes")
    assert len(set(boxes)) > 1
    assert len(boxes) == (1 if room else 2) * len(set(boxes))
    with Reads(monkeypatch) as reads:  # what was found stays known
        assert cl.to_bytes(catalogue, names) == expected
    boxes = reads.of("obs/cell type/codes")
    assert len(boxes) == len(set(boxes))


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
        import dask.array  # once, with the first array
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
    assert {name: one for name, one in seconds.items() if one > 0.3} == {}
    assert np.median(list(seconds.values())) < 0.03
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
    for key in reads.touched():
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


BLOCKS = pytest.mark.parametrize("values", [None, 5_000, 300], ids=["whole", "some", "many"])


@BLOCKS
@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
def test_each_stored_chunk_is_read_once_from_h5ad(
    matrix, values, hundred_genes, tmp_path, monkeypatch
):
    """Counted at the file: no byte of it is read twice, whatever the blocks."""
    path = FORMS["h5ad"](hundred_genes(matrix), tmp_path)
    if values is not None:
        small_blocks(monkeypatch, values)
    catalogue = cl.outputs(path)
    with Reads(monkeypatch) as reads:
        cl.to_bytes(catalogue, wanted(catalogue))
    assert len(reads.extents) > 100
    reads.assert_no_byte_twice()


@BLOCKS
@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
def test_each_stored_chunk_is_read_once_from_zarr(
    matrix, values, hundred_genes, tmp_path, monkeypatch
):
    """Counted at the store."""
    path = FORMS["zarr"](hundred_genes(matrix), tmp_path)
    if values is not None:
        small_blocks(monkeypatch, values)
    catalogue = cl.outputs(path)
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
