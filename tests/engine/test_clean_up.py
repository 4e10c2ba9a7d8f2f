"""Full disks, failures and interrupts: an error that names the culprit, and nothing left behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import anndata
import dask
import dask.array as da
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.engine import spill
from tests.data import writing
from tests.engine.matrices import in_memory
from tests.engine.test_faults import good
from tests.helpers import files_of, raise_if_dask_computes

# The smallest budget, and a little.
SMALLEST = 68_000_000
STRATEGIES = {"external": SMALLEST, "in memory": "8GB"}
N_CELLS, N_GENES = 12_000, 1_000

# Genes of 12,000 x 1,000 values, made block by block: beyond the smallest budget.


def made_block(_, *, block_info=None):
    (start, stop), _ = block_info[0]["array-location"]
    rows = np.arange(start, stop)[:, None] * 7 + np.arange(N_GENES)
    return (rows % 11).astype(np.float32)


def made_gene(gene):
    return ((np.arange(N_CELLS) * 7 + gene) % 11).astype(np.float32)


def failing_block(block, *, error, block_info=None):
    start = block_info[0]["array-location"][0][0]
    if start == 9_000:
        raise error("asked to fail")
    return made_block(block, block_info=block_info)


def atlas(error=None):
    """A catalogue of a lazy matrix; with an error, one of its blocks fails."""
    empty = da.zeros((N_CELLS, N_GENES), chunks=(500, N_GENES), dtype=np.float32)
    options = {"dtype": np.float32, "meta": np.empty((0, 0), np.float32)}
    if error is None:
        matrix = da.map_blocks(made_block, empty, **options)
    else:
        matrix = da.map_blocks(failing_block, empty, error=error, **options)
    with writing():
        adata = anndata.AnnData(matrix)
        adata.obsm["X_umap"] = np.random.default_rng(0).random((N_CELLS, 2), dtype=np.float32)
    options = cl.Options(created_at="2026-01-01T00:00:00Z", dataset_name="a", compression=1)
    return cl.outputs(cl.open(adata), options)


@pytest.fixture(scope="module")
def whole():
    """The atlas whose tasks all succeed."""
    return atlas()


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_success_leaves_the_export_and_no_scratch(tmp_path, whole, strategy):
    (tmp_path / "scratch").mkdir()
    options = {"memory_budget": STRATEGIES[strategy]}
    assert f"genes, {strategy}: " in cl.explain(whole, **options, details=True)
    cl.to_directory(
        whole, tmp_path / "out", scratch=tmp_path / "scratch", progress=False, **options
    )
    assert entries(tmp_path) == ["out", "scratch"]
    assert entries(tmp_path / "scratch") == []
    assert len(files_of(tmp_path / "out" / "var")) == N_GENES
    names = [f"var/{gene}" for gene in range(0, N_GENES, 111)]
    found = cl.to_bytes(whole, names, scratch=tmp_path / "scratch", **options)
    assert list(found.values()) == [made_gene(int(name[4:])).tobytes() for name in names]


def test_source_and_scratch_in_the_target_are_refused_before_any_work(tmp_path):
    """Even where they are out of sight of the folder: they have names of an export's files."""
    out = tmp_path / "out"
    cl.to_directory(cl.outputs(in_memory(good())), out, progress=False)
    source = tmp_path / "a.h5ad"
    with writing():
        in_memory(good()).write_h5ad(source)
    source = source.rename(out / "source.bin")
    before = files_of(out)
    options = {"overwrite": True, "progress": False}
    with (
        raise_if_dask_computes(),
        pytest.raises(cl.ExportError, match=r"source\.bin, which is read"),
    ):
        cl.to_directory(cl.outputs(source), out, **options)
    scratch = out / "var"
    with raise_if_dask_computes(), pytest.raises(cl.ExportError, match=r"var/.*, which is read"):
        cl.to_directory(cl.outputs(in_memory(good())), out, scratch=scratch, **options)
    store = tmp_path / "a.zarr"
    with writing():
        in_memory(good()).write_zarr(store)
    with raise_if_dask_computes(), pytest.raises(cl.ExportError, match=r"lies in .*a\.zarr"):
        cl.to_directory(cl.outputs(store), store / "export", **options)
    assert files_of(out) == before
    assert entries(tmp_path) == ["a.zarr", "out"]
    # Beside each other in the folder of scratch is fine.
    cl.to_directory(cl.outputs(source), tmp_path / "new", scratch=tmp_path, **options)


class TaskError(Exception):
    pass


@pytest.mark.parametrize("error", [TaskError, cl.DataError, KeyboardInterrupt])
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_failure_leaves_the_earlier_export_and_nothing_else(tmp_path, error, scheduler):
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    cl.to_directory(cl.outputs(cl.open(in_memory(good()))), out, progress=False)
    before = files_of(out)
    with dask.config.set(scheduler=scheduler), pytest.raises(error, match="asked to fail"):
        cl.to_directory(
            atlas(error),
            out,
            overwrite=True,
            memory_budget=SMALLEST,
            scratch=scratch,
            progress=False,
        )
    assert entries(tmp_path) == ["out", "scratch"]
    assert entries(scratch) == []
    assert files_of(out) == before


def test_scratch_is_checked_before_any_work(tmp_path, whole, monkeypatch):
    names = whole.names("var")
    with raise_if_dask_computes(), pytest.raises(cl.ExportError, match="nowhere: scratch folder"):
        cl.to_bytes(whole, names[:1], scratch=tmp_path / "nowhere")
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(spill.shutil, "disk_usage", lambda _: usage)
    said = r"needs .*MB, but 1.0 MB are free; .*memory_budget="
    with raise_if_dask_computes(), pytest.raises(cl.ExportError, match=said):
        cl.to_bytes(whole, names, memory_budget=SMALLEST, scratch=tmp_path)
    assert entries(tmp_path) == []


def test_scratch_that_is_removed_midway_is_named(tmp_path, whole, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    write, written = spill.Save._write, []

    def removing(save, arrays):
        written.append(save)
        if len(written) == 10:
            Path(save.folder).rename(tmp_path / "moved")
        return write(save, arrays)

    monkeypatch.setattr(spill.Save, "_write", removing)
    with pytest.raises(cl.ExportError, match=rf"{scratch}/.*: scratch cannot be written"):
        cl.to_directory(
            whole, tmp_path / "out", memory_budget=SMALLEST, scratch=scratch, progress=False
        )
    assert entries(tmp_path) == ["moved", "scratch"]
    assert entries(scratch) == []


CHILD = """
    import resource, signal, sys, time
    import anndata, dask.array as da, numpy as np, warnings
    import cellucid_lazy as cl

    out, scratch, slow, limit, budget = sys.argv[1:]
    warnings.simplefilter("ignore")
    # Tests that run in the background ignore interrupts, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def block(_, block_info=None):
        (start, stop), _ = block_info[0]["array-location"]
        time.sleep(float(slow))
        return np.random.default_rng(start).random((stop - start, 1000), dtype=np.float32)

    empty = da.zeros((12_000, 1000), chunks=(500, 1000), dtype=np.float32)
    matrix = da.map_blocks(block, empty, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    adata = anndata.AnnData(matrix)
    adata.obsm["X_umap"] = np.random.default_rng(0).random((12_000, 2), dtype=np.float32)
    catalogue = cl.outputs(cl.open(adata), cl.Options(compression=9))
    if int(limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    options = {"memory_budget": budget, "scratch": scratch, "progress": False}
    cl.to_directory(catalogue, out, overwrite=True, **options)
    print("done", flush=True)
"""


def child(tmp_path, strategy, *, slow=0.0, limit=0):
    """Start an export in another process, over an earlier one."""
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    cl.to_directory(cl.outputs(cl.open(in_memory(good()))), out, progress=False)
    arguments = [out, scratch, slow, limit, STRATEGIES[strategy]]
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return started, files_of(out)


def left(tmp_path):
    return sorted(
        str(entry.relative_to(tmp_path))
        for entry in tmp_path.rglob("*")
        if entry.parent == tmp_path or "scratch" in entry.parts[:-1]
    )


@pytest.mark.parametrize(
    ("slow", "sign"),
    [(0.2, "scratch/cellucid-lazy-*/*.spill"), (0.0, ".out.*.partial/var/*.gz")],
    ids=["reading", "writing"],
)
def test_ctrl_c_leaves_no_scratch_and_no_half_export(tmp_path, slow, sign):
    started, before = child(tmp_path, "external", slow=slow)
    try:
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob(sign)):
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=30)
    finally:
        started.kill()
    assert "done" not in out
    assert "KeyboardInterrupt" in err
    assert started.returncode != 0
    assert left(tmp_path) == ["out", "scratch"]
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("strategy", "limit", "message"),
    [
        ("external", 300_000, "scratch cannot be written"),
        ("in memory", 20_000, "cannot be written"),
    ],
)
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, strategy, limit, message):
    """A limit of the size of files stands for it."""
    started, before = child(tmp_path, strategy, limit=limit)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 1
    assert "done" not in out
    last = err.strip().splitlines()[-1]
    assert last.startswith("cellucid_lazy.errors.ExportError: ")
    assert message in last
    assert str(tmp_path) in last
    assert left(tmp_path) == ["out", "scratch"]
    assert files_of(tmp_path / "out") == before
