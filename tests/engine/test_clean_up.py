"""Full disks, failures and interrupts: an error that names the culprit, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from threading import Event, Thread

import anndata
import dask
import dask.array as da
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.sinks import scratch as scratch_module
from cellucid_lazy.sinks.directory import remove
from cellucid_lazy.sinks.scratch import read_genes, store_piece
from cellucid_lazy.transforms.gene_major import piece_of
from tests.data import writing
from tests.engine.test_faults import N_GENES, good
from tests.engine.test_same_bytes import files_of, in_memory
from tests.helpers import raise_if_dask_computes

LEAST = 68_000_000

# Passes that use scratch: 12,000 cells x 1,000 genes, made block by block.


def made_block(_, *, block_info=None):
    (start, stop), _ = block_info[0]["array-location"]
    rows = np.arange(start, stop)[:, None] * 7 + np.arange(1000)
    return (rows % 11).astype(np.float32)


def failing_block(block, *, error, at, block_info=None):
    start = block_info[0]["array-location"][0][0]
    if start == at:
        raise error("told to fail")
    return made_block(block, block_info=block_info)


def atlas(error=None, at=9_000):
    empty = da.zeros((12_000, 1000), chunks=(500, 1000), dtype=np.float32)
    options = {"dtype": np.float32, "meta": np.empty((0, 0), np.float32)}
    if error is None:
        matrix = da.map_blocks(made_block, empty, **options)
    else:
        matrix = da.map_blocks(failing_block, empty, error=error, at=at, **options)
    with writing():
        adata = anndata.AnnData(matrix)
        adata.obsm["X_umap"] = np.random.default_rng(0).random((12_000, 2), dtype=np.float32)
    options = cl.Options(created_at="2026-01-01T00:00:00Z", dataset_name="a", compression=1)
    return cl.outputs(cl.open(adata), options)


@pytest.fixture(scope="module")
def whole():
    """The atlas whose tasks all succeed."""
    return atlas()


@pytest.mark.parametrize("memory_budget", [LEAST, "8GB"])
def test_success_leaves_the_export_and_no_scratch(tmp_path, whole, memory_budget):
    (tmp_path / "scratch").mkdir()
    way = "external" if memory_budget == LEAST else "in memory"
    assert cl.explain(whole, memory_budget=memory_budget).startswith(way)
    cl.to_directory(
        whole,
        tmp_path / "out",
        memory_budget=memory_budget,
        scratch=tmp_path / "scratch",
        progress=False,
    )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "scratch"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert len(files_of(tmp_path / "out" / "var")) == 1000


class TaskError(Exception):
    pass


@pytest.mark.parametrize("error", [TaskError, cl.DataError, KeyboardInterrupt])
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_failure_leaves_the_earlier_export_and_nothing_else(tmp_path, error, scheduler):
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    earlier = cl.outputs(cl.open(in_memory(good())))
    cl.to_directory(earlier, out, progress=False)
    before = files_of(out)
    with dask.config.set(scheduler=scheduler), pytest.raises(error, match="told to fail"):
        cl.to_directory(
            atlas(error),
            out,
            overwrite=True,
            memory_budget=LEAST,
            scratch=scratch,
            progress=False,
        )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "scratch"]
    assert list(scratch.iterdir()) == []
    assert files_of(out) == before


def test_scratch_too_small_is_refused_before_any_work(tmp_path, whole, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(scratch_module.shutil, "disk_usage", lambda _: usage)
    with (
        raise_if_dask_computes(),
        pytest.raises(
            cl.ExportError, match=r"needs .*MiB, but 0.95 MiB are free; .*memory_budget="
        ),
    ):
        cl.to_bytes(whole, whole.names("var"), memory_budget=LEAST, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_is_not_there_is_named(tmp_path, whole):
    with raise_if_dask_computes(), pytest.raises(cl.ExportError, match="nowhere: scratch folder"):
        cl.to_bytes(whole, whole.names("var"), memory_budget=LEAST, scratch=tmp_path / "nowhere")


def test_scratch_follows_dasks_temporary_directory(tmp_path, whole, monkeypatch):
    made = []
    monkeypatch.setattr(
        scratch_module.tempfile, "mkdtemp", lambda **options: made.append(options["dir"]) or _stop()
    )
    with dask.config.set({"temporary-directory": str(tmp_path)}), pytest.raises(TaskError):
        cl.to_bytes(whole, whole.names("var"), memory_budget=LEAST)
    assert made == [tmp_path]


def _stop():
    raise TaskError


def test_a_piece_that_vanishes_is_an_error(tmp_path):
    stored = store_piece(piece_of(good(), first_row=0), str(tmp_path))
    os.truncate(stored.path, 100)
    with pytest.raises(cl.ExportError, match="scratch"):
        read_genes([stored], 0, N_GENES)
    Path(stored.path).unlink()
    with pytest.raises(cl.ExportError, match="scratch"):
        read_genes([stored], 0, N_GENES)
    with pytest.raises(cl.ExportError, match="scratch cannot be written"):
        store_piece(piece_of(good(), first_row=0), str(tmp_path / "gone"))


def test_a_removed_folder_is_not_kept_alive_by_a_task_that_still_writes(tmp_path):
    folder, stop = tmp_path / "busy", Event()
    folder.mkdir()

    def write_on():
        count = 0
        while not stop.is_set() and folder.exists():
            try:
                (folder / str(count)).write_bytes(b"x")
            except FileNotFoundError:
                return
            count += 1

    writer = Thread(target=write_on)
    writer.start()
    time.sleep(0.05)
    try:
        remove(folder)
        assert not folder.exists()
    finally:
        stop.set()
        writer.join()


CHILD = """
    import resource, signal, sys, time
    import anndata, dask.array as da, numpy as np, warnings
    import cellucid_lazy as cl

    out, scratch, slow, limit, way, earlier = sys.argv[1:]
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
    print("ready", flush=True)
    cl.to_directory(
        catalogue,
        out,
        overwrite=True,
        memory_budget=68_000_000 if way == "external" else "8GB",
        scratch=scratch,
        progress=False,
    )
    print("done", flush=True)
"""


def child(tmp_path, *, slow=0.0, limit=0, way="external"):
    """Start an export in another process, over an earlier one."""
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    cl.to_directory(cl.outputs(cl.open(in_memory(good()))), out, progress=False)
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    started = subprocess.Popen(
        [*command, str(out), str(scratch), str(slow), str(limit), way, "x"],
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
    [
        (0.2, "scratch/cellucid-lazy-*/*.piece"),
        (0.0, ".out.*.partial/var/*.gz"),
    ],
    ids=["first phase", "second phase"],
)
def test_ctrl_c_leaves_no_scratch_and_no_half_export(tmp_path, slow, sign):
    started, before = child(tmp_path, slow=slow)
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
    ("way", "limit", "message"),
    [
        ("external", 300_000, "scratch cannot be written"),
        ("in memory", 20_000, "cannot be written"),
    ],
)
def test_a_disk_that_is_full_is_an_error_that_names_the_file(tmp_path, way, limit, message):
    started, before = child(tmp_path, limit=limit, way=way)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 1
    assert "done" not in out
    last = err.strip().splitlines()[-1]
    assert last.startswith("cellucid_lazy.errors.ExportError: ")
    assert message in last
    assert str(tmp_path) in last
    assert left(tmp_path) == ["out", "scratch"]
    assert files_of(tmp_path / "out") == before
