"""Damaged data, full disks, interrupts: an error that names the culprit, and nothing left behind."""

from __future__ import annotations

import os
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
import h5py
import numpy as np
import pytest
import zarr
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy.sinks import scratch as scratch_module
from cellucid_lazy.sinks.directory import remove
from tests.data import writing
from tests.engine.matrices import awkward, dense32
from tests.engine.stores import write
from tests.engine.test_same_bytes import files_of, in_memory
from tests.helpers import raise_if_dask_computes

N_CELLS, N_GENES = 300, 20
LEAST = 68_000_000


def good(layout="csr"):
    rng = np.random.default_rng(0)
    matrix = sparse.csr_matrix(dense32(awkward(rng, N_CELLS, N_GENES, fill=0.3)))
    return matrix.asformat(layout)


def indices_too_large(parts):
    parts["indices"][-1] = 10_000


def indices_one_too_large(parts):
    parts["indices"][7] = N_GENES if parts["layout"] == "csr" else N_CELLS


def indices_negative(parts):
    parts["indices"][3] = -1


def indptr_falls(parts):
    parts["indptr"][5] = parts["indptr"][9]
    parts["indptr"][6] = parts["indptr"][0]


def indptr_starts_late(parts):
    parts["indptr"][0] = 2


def indptr_starts_below(parts):
    parts["indptr"][0] = -2


def indptr_ends_early(parts):
    parts["indptr"][-1] -= 1


def indptr_ends_late(parts):
    parts["indptr"][-1] += 1


def indptr_is_short(parts):
    parts["indptr"] = parts["indptr"][:-1]


def data_is_short(parts):
    parts["data"] = parts["data"][:-1]


def indices_are_short(parts):
    parts["indices"] = parts["indices"][:-3]


def indices_are_floats(parts):
    parts["indices"] = parts["indices"].astype(np.float32)


DAMAGES = [
    indices_too_large,
    indices_one_too_large,
    indices_negative,
    indptr_falls,
    indptr_starts_late,
    indptr_starts_below,
    indptr_ends_early,
    indptr_ends_late,
    indptr_is_short,
    data_is_short,
    indices_are_short,
    indices_are_floats,
]


def damaged(matrix, damage):
    parts = {part: getattr(matrix, part).copy() for part in ("data", "indices", "indptr")}
    parts["layout"] = matrix.format
    damage(parts)

    class Damaged:
        format, shape, dtype = matrix.format, matrix.shape, matrix.dtype
        data, indices, indptr = parts["data"], parts["indices"], parts["indptr"]

    return Damaged


@pytest.fixture
def unchecked(monkeypatch):
    """Let the writer take what SciPy would refuse to hold."""
    whole = sparse.issparse
    monkeypatch.setattr(sparse, "issparse", lambda one: isinstance(one, type) or whole(one))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("form", ["gzip", "contiguous", "v3 zstd"])
def test_an_inconsistent_matrix_is_named(tmp_path, unchecked, form, layout, damage):
    path = write(tmp_path / "broken", damaged(good(layout), damage), form)
    everything = [f"var/g{gene}" for gene in range(N_GENES)]
    with pytest.raises(cl.DataError) as caught:
        cl.to_bytes(cl.outputs(cl.open(path)), everything)
    assert str(path) in str(caught.value)
    assert "X" in str(caught.value)
    # Each gene alone: refused, or right where the damage lies in what it does not touch.
    expected, refused = dense32(good(layout)), 0
    for gene in range(0, N_GENES, 3):
        try:
            catalogue = cl.outputs(cl.open(path))
            found = cl.to_bytes(catalogue, [f"var/g{gene}"])[f"var/g{gene}"]
            lazy = catalogue[f"var/g{gene}"].array.compute(scheduler="synchronous")
        except cl.DataError:
            refused += 1
        else:
            assert layout == "csc"
            assert found == lazy.tobytes() == expected[:, gene].tobytes()
    assert refused or layout == "csc"


@pytest.mark.parametrize("damage", DAMAGES[:8])
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_an_inconsistent_matrix_in_memory_is_named(layout, damage):
    adata = in_memory(good(layout))
    parts = {part: getattr(adata.X, part) for part in ("data", "indices", "indptr")}
    damage(parts | {"layout": layout})
    with pytest.raises(cl.DataError, match="AnnData in memory: X"):
        cl.to_bytes(cl.outputs(cl.open(adata)), [f"var/g{gene}" for gene in range(N_GENES)])


def chunk_bytes(path, key):
    """Where the stored chunks of an HDF5 dataset lie."""
    with h5py.File(path, "r") as root:
        node = root[key]
        infos = [node.id.get_chunk_info(i) for i in range(node.id.get_num_chunks())]
    return [(info.byte_offset, info.size) for info in infos]


@pytest.mark.parametrize("form", ["gzip", "shuffle+gzip", "gzip+fletcher32", "fletcher32"])
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_flipped_bytes_in_hdf5_chunks_are_never_a_wrong_byte(tmp_path, form, part):
    rng = np.random.default_rng(1)
    matrix = good()
    path = write(tmp_path / "a.h5ad", matrix, form)
    whole, expected, refused = path.read_bytes(), dense32(matrix), 0
    chunks = chunk_bytes(path, f"X/{part}")
    for _ in range(12):
        begin, size = chunks[rng.integers(len(chunks))]
        place = begin + int(rng.integers(size))
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << rng.integers(8)]) + whole[place + 1 :]
        )
        refused += refused_or_right(path, expected, f"X/{part}")
    # A bit of the zlib header or of the padding may mean nothing; nearly all of them do.
    assert refused >= 8


def refused_or_right(path, expected, key):
    try:
        catalogue = cl.outputs(cl.open(path))
        found = cl.to_bytes(catalogue, catalogue.names("var"))
    except cl.DataError as problem:
        assert str(path) in str(problem)
        assert key in str(problem) or "indptr is inconsistent" in str(problem)
        return True
    for bytes_, column in zip(found.values(), expected.T, strict=True):
        assert bytes_ == column.tobytes()
    return False


@pytest.mark.parametrize("form", ["v2 zlib", "v3 gzip+crc32c"])
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_flipped_and_cut_zarr_chunks_are_never_a_wrong_byte(tmp_path, form, part):
    rng = np.random.default_rng(2)
    matrix = good()
    path = write(tmp_path / "a.zarr", matrix, form)
    folder = path / "X" / part
    files = [file for file in folder.rglob("*") if file.is_file() and file.name.isdigit()]
    refused = 0
    for turn in range(10):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        place = int(rng.integers(len(whole)))
        flipped = whole[:place] + bytes([whole[place] ^ 1 << rng.integers(8)]) + whole[place + 1 :]
        file.write_bytes(whole[:place] if turn % 2 else flipped)
        refused += refused_or_right(path, dense32(matrix), f"X/{part}")
        file.write_bytes(whole)
    assert refused >= 6


def test_a_missing_zarr_chunk_is_its_fill_value(tmp_path):
    # zarr leaves out chunks that hold nothing but the fill value, so their absence is no damage:
    # what is read is what zarr itself reads.
    matrix = good()
    path = write(tmp_path / "a.zarr", matrix, "v3 zstd")
    (path / "X" / "data" / "c" / "1").unlink()
    values = zarr.open_group(path, mode="r")["X/data"][...]
    assert (values[37:74] == 0).all()
    matrix.data = values
    catalogue = cl.outputs(cl.open(path))
    found = cl.to_bytes(catalogue, catalogue.names("var"))
    assert list(found.values()) == [column.tobytes() for column in dense32(matrix).T]


def test_a_missing_chunk_of_indptr_is_refused(tmp_path):
    path = write(tmp_path / "a.zarr", good(), "v3 zstd")
    (path / "X" / "indptr" / "c" / "2").unlink()
    catalogue = cl.outputs(cl.open(path))
    with pytest.raises(cl.DataError, match=r"a\.zarr: X: indptr is inconsistent"):
        cl.to_bytes(catalogue, catalogue.names("var"))


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
def test_a_truncated_file_is_refused_when_opened_and_when_read(tmp_path, share):
    path = write(tmp_path / "a.h5ad", good(), "gzip")
    opened = cl.outputs(cl.open(path))
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(cl.DataError, match=r"a\.h5ad"):
        cl.to_bytes(opened, opened.names("var"))
    with pytest.raises(cl.DataError, match=r"a\.h5ad"):
        cl.open(path)


@pytest.mark.parametrize("form", ["gzip", "contiguous", "v2 zlib", "v3 zstd", "v3 sharded"])
def test_a_dataset_rewritten_while_open_is_refused(tmp_path, form):
    path = write(tmp_path / "a", good(), form)
    catalogue = cl.outputs(cl.open(path))
    names = catalogue.names("var")
    cl.to_bytes(catalogue, names)
    other = good()
    other.data += 1
    time.sleep(0.01)
    if path.is_dir():
        shutil.rmtree(path)
    write(path, other, form)
    with pytest.raises(cl.DataError, match=r"/a: .*changed since it was opened"):
        cl.to_bytes(catalogue, names)
    again = cl.outputs(cl.open(path))
    found = cl.to_bytes(again, names)
    assert list(found.values()) == [column.tobytes() for column in dense32(other).T]


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
        scratch_module.tempfile, "mkdtemp", lambda prefix, dir: made.append(dir) or _stop()
    )
    with dask.config.set({"temporary-directory": str(tmp_path)}), pytest.raises(TaskError):
        cl.to_bytes(whole, whole.names("var"), memory_budget=LEAST)
    assert made == [tmp_path]


def _stop():
    raise TaskError


def test_a_piece_that_vanishes_is_an_error(tmp_path):
    from cellucid_lazy.sinks.scratch import store_piece
    from cellucid_lazy.transforms.gene_major import piece_of

    stored = store_piece(piece_of(good(), first_row=0), str(tmp_path))
    os.truncate(stored.path, 100)
    with pytest.raises(cl.ExportError, match="scratch"):
        stored.genes(0, N_GENES)
    Path(stored.path).unlink()
    with pytest.raises(cl.ExportError, match="scratch"):
        stored.genes(0, N_GENES)
    with pytest.raises(cl.ExportError, match="scratch cannot be written"):
        store_piece(piece_of(good(), first_row=0), str(tmp_path / "gone"))


def test_a_removed_folder_is_not_kept_alive_by_a_task_that_still_writes(tmp_path):
    from threading import Event, Thread

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
