"""The producer of arrays: what outputs share is made once, in memory or by way of scratch."""

from __future__ import annotations

import shutil
from collections import Counter
from math import nan
from typing import NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.codecs import codec_for
from cellucid_lazy.engine import array_producer, spill
from cellucid_lazy.engine.array_producer import ARRAYS
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.producer import Encoder, Job
from cellucid_lazy.engine.resources import Resources
from cellucid_lazy.engine.spill import Spiller
from cellucid_lazy.graph import spillable
from cellucid_lazy.sinks.memory import MemoryWriter
from cellucid_lazy.transforms import edges, embeddings
from tests import data
from tests.helpers import Reads, files_of, small_grid, with_sizes

BUDGET = 64_000
OPTIONS = cl.Options(compression=1, created_at="2026-01-01T00:00:00Z")


# The decision to spill


def an_output(array, shape=None):
    return Output("a", "a", None, shape or array.shape, array.dtype, lambda: array)


class Made(NamedTuple):
    """What the producer made, how many blocks it spilled, and the keys of its tasks."""

    files: dict
    values: dict
    n_spilled: int
    keys: list


def produced(outputs, needs, tmp_path, budget=BUDGET):
    encoder, resources = Encoder(codec_for(None), MemoryWriter()), Resources(budget, 1, 1)
    with Spiller(str(tmp_path)) as spiller:
        running = ARRAYS.run(Job(outputs, needs, encoder, spiller, resources))
        stage = next(running)
        done = dask.get(dict(stage.graph), list(stage.keys))
        n_spilled = len(list(tmp_path.rglob("*.spill")))
        with pytest.raises(StopIteration) as finished:
            running.send(done)
    assert list(tmp_path.iterdir()) == []
    made = finished.value.value
    return Made(made.receipts, made.values, n_spilled, list(stage.graph))


@pytest.mark.parametrize(("n_bytes", "spilled"), [(16_000, False), (16_008, True)])
def test_marked_blocks_are_spilled_beyond_a_quarter_of_the_budget(n_bytes, spilled, tmp_path):
    values = np.arange(n_bytes // 8)
    array = spillable(da.from_array(values, chunks=500))
    small = an_output(array[:10] + array.sum())
    made = produced({"a": small}, {}, tmp_path)
    assert made.files == {"a": (values[:10] + values.sum()).tobytes()}
    assert made.n_spilled == (array.npartitions if spilled else 0)


@pytest.mark.parametrize(
    ("n_files", "n_bytes", "n_spilled"),
    [(8, 2_000, 0), (7, 2_008, 0), (8, 2_008, 24)],
    ids=["small files", "large files within a quarter", "large files"],
)
def test_parts_of_large_files_are_spilled(n_files, n_bytes, n_spilled, tmp_path):
    values = np.arange(n_bytes // 8)
    outputs = {f"{i}": an_output(da.from_array(values + i, chunks=100)) for i in range(n_files)}
    made = produced(outputs, {}, tmp_path)
    assert made.n_spilled == n_spilled
    assert made.files == {f"{i}": (values + i).tobytes() for i in range(n_files)}


def test_a_file_of_unknown_length_counts_as_large(tmp_path):
    """Its own size is unknown, so something else has to exceed the budget."""
    marked = spillable(da.zeros(3_000, chunks=1_000))
    outputs = {
        "a": an_output(marked[:5] + marked.sum()),
        "b": an_output(da.ones(4, chunks=2), (nan,)),
    }
    made = produced(outputs, {}, tmp_path)
    assert made.files["b"] == np.ones(4).tobytes()
    assert made.n_spilled == 3 + 2


@pytest.mark.parametrize("n_stored", [None, 10**6], ids=["in memory", "spilled"])
def test_spilled_lists_are_handed_over_whole(n_stored, tmp_path):
    """A task for each block and range of cells would be most of the graph's memory."""
    matrix = np.random.default_rng(0).random((300, 300), dtype=np.float32) < 0.1
    graph = da.from_array(matrix.astype(np.float32), chunks=(30, -1))
    found = edges.edge_sources(edges.edges(graph, n_cells=300, n_stored=n_stored))
    made = produced({"a": an_output(found)}, {}, tmp_path)
    expected = np.nonzero(np.triu(matrix | matrix.T, 1))[0]
    assert made.files["a"] == expected.astype(np.uint16).tobytes()
    assert (made.n_spilled > 0) == (n_stored is not None)
    n_picks = len([key for key in made.keys if "pick-" in str(key)])
    assert n_picks == (0 if n_stored else 10 * 20)


def test_needs_are_computed_whole_with_the_outputs(tmp_path):
    calls = Counter()

    def once(block):
        calls["blocks"] += 1
        return block + 1

    array = da.zeros(40, chunks=10).map_blocks(once, dtype=float, meta=np.empty(0))
    made = produced({"a": an_output(array)}, {array.name: array}, tmp_path)
    assert made.values[array.name].tolist() == [1.0] * 40
    assert calls["blocks"] == 4


# Whole exports


@pytest.fixture
def spilling(monkeypatch):
    """Spill all that can be, and collect the files that are written for it."""
    written = []
    write = spill.Save._write

    def watched(save, blocks):
        found = write(save, blocks)
        written.append(found[0].path)
        return found

    monkeypatch.setattr(array_producer, "spillable_bytes", lambda graph: 2**40)
    monkeypatch.setattr(array_producer, "_SMALL_PART", 0)
    usage = shutil.disk_usage("/")._replace(free=2**62)
    monkeypatch.setattr(spill.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(spill.Save, "_write", watched)
    return written


@pytest.fixture
def catalogue(monkeypatch, tmp_path):
    small_grid(monkeypatch)
    source = cl.open(data.write_chunked(data.atlas(300, 20), tmp_path / "a.h5ad"))
    return with_sizes(cl.outputs(source, OPTIONS))


@pytest.fixture
def calls(monkeypatch):
    """Count calls of kernels, from graphs that are built from here on."""
    counts = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counting(*args, **options):
            counts[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(module, name, counting)

    count(edges, "_block_pairs")
    count(edges, "_merge_pairs")
    count(embeddings, "_normalize_block")
    return counts


@pytest.mark.parametrize("spilled", [False, True], ids=["in memory", "spilled"])
def test_each_block_is_made_once(spilled, catalogue, calls, tmp_path, monkeypatch, request):
    if spilled:
        request.getfixturevalue("spilling")
    with Reads(monkeypatch) as reads:
        cl.to_directory(catalogue, tmp_path / "out", progress=False)
    for key in ("X_pca", "X_umap_2d"):
        reads.assert_each_once(f"obsm/{key}", catalogue.source.obsm[key].shape)
    n_blocks = catalogue["connectivity/src"].array.numblocks[0] // 2
    assert n_blocks > 1
    assert calls["_block_pairs"] == n_blocks
    assert calls["_merge_pairs"] == 2 * n_blocks
    shown = [catalogue[f"points/{dimension}d"].array for dimension in (1, 2, 3)]
    assert calls["_normalize_block"] == sum(array.numblocks[0] for array in shown) > 3


def test_spilling_changes_no_byte(catalogue, tmp_path, request):
    (tmp_path / "scratch").mkdir()
    written = []
    for name in ("memory", "disk"):
        if name == "disk":
            written = request.getfixturevalue("spilling")
        scratch = tmp_path / "scratch"
        cl.to_directory(catalogue, tmp_path / name, progress=False, scratch=scratch)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert len(written) > 100
    assert all(path.startswith(str(tmp_path / "scratch")) for path in written)
    assert files_of(tmp_path / "memory") == files_of(tmp_path / "disk")
