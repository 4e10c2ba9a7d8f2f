"""Damaged data: an error that names file and key, never a wrong byte."""

from __future__ import annotations

import os
import shutil
import time

import h5py
import numpy as np
import pytest
import zarr
from scipy import sparse

import cellucid_lazy as cl
from tests.engine.matrices import awkward, dense32
from tests.engine.stores import write
from tests.engine.test_same_bytes import in_memory

N_CELLS, N_GENES = 300, 20


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
        message = str(problem)
    else:
        message = None
    if message is not None:
        assert str(path) in message
        assert key in message or "indptr is inconsistent" in message
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
