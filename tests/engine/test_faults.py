"""Damaged and replaced data: an error that names file and key, never a wrong byte."""

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
from tests.engine.matrices import awkward, dense32, in_memory
from tests.engine.stores import write
from tests.helpers import files_of, with_sizes

N_CELLS, N_GENES = 300, 20


def good(layout="csr"):
    rng = np.random.default_rng(0)
    matrix = sparse.csr_matrix(dense32(awkward(rng, N_CELLS, N_GENES, fill=0.3)))
    return matrix.asformat(layout)


# Matrices that contradict themselves


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


IN_PLACE = [
    indices_too_large,
    indices_one_too_large,
    indices_negative,
    indptr_falls,
    indptr_starts_late,
    indptr_starts_below,
    indptr_ends_early,
    indptr_ends_late,
]
DAMAGES = [*IN_PLACE, indptr_is_short, data_is_short, indices_are_short, indices_are_floats]


def damaged_file(path, matrix, damage):
    write(path, matrix, "gzip")
    parts = {part: getattr(matrix, part).copy() for part in ("data", "indices", "indptr")}
    parts["layout"] = matrix.format
    damage(parts)
    with h5py.File(path, "r+") as root:
        for part in ("data", "indices", "indptr"):
            del root["X"][part]
            root["X"].create_dataset(part, data=parts[part], chunks=(20,), compression="gzip")
    return path


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_an_inconsistent_matrix_is_named(tmp_path, layout, damage):
    path = damaged_file(tmp_path / "broken", good(layout), damage)
    everything = [f"var/g{gene}" for gene in range(N_GENES)]
    with pytest.raises(cl.DataError) as caught:
        cl.to_bytes(cl.outputs(cl.open(path)), everything)
    assert f"{path}: X" in str(caught.value)
    # Each gene alone: refused, or right where the damage lies in what it does not touch.
    expected, refused = dense32(good(layout)), 0
    for gene in range(0, N_GENES, 6):
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


@pytest.mark.parametrize("damage", IN_PLACE)
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_an_inconsistent_matrix_in_memory_is_named(layout, damage):
    adata = in_memory(good(layout))
    parts = {part: getattr(adata.X, part) for part in ("data", "indices", "indptr")}
    damage(parts | {"layout": layout})
    with pytest.raises(cl.DataError, match="AnnData in memory: X"):
        cl.to_bytes(cl.outputs(cl.open(adata)), [f"var/g{gene}" for gene in range(N_GENES)])


# Damaged bytes


def stored_spans(path, part):
    """Return the file of each stored chunk, and where in it the chunk begins and ends."""
    if path.is_dir():
        files = [file for file in (path / "X" / part).rglob("*") if file.name.isdigit()]
        return [(file, 0, file.stat().st_size) for file in files if file.is_file()]
    with h5py.File(path, "r") as root:
        node = root["X"][part]
        infos = [node.id.get_chunk_info(i) for i in range(node.id.get_num_chunks())]
    return [(path, info.byte_offset, info.byte_offset + info.size) for info in infos]


@pytest.mark.parametrize("form", ["shuffle+gzip", "fletcher32", "v3 gzip+crc32c"])
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_a_flipped_bit_is_never_a_wrong_byte(tmp_path, form, part):
    rng = np.random.default_rng(1)
    path, refused = write(tmp_path / "a", good(), form), 0
    spans = stored_spans(path, part)
    for _ in range(8):
        file, begin, end = spans[rng.integers(len(spans))]
        whole = bytearray(file.read_bytes())
        whole[rng.integers(begin, end)] ^= 1 << rng.integers(8)
        kept = file.read_bytes()
        file.write_bytes(whole)
        refused += is_refused(path, f"X/{part}")
        file.write_bytes(kept)
    # A bit of a header or of padding may mean nothing; nearly all of them do.
    assert refused >= 5


def is_refused(path, key):
    """Whether a damaged file is refused, by its name; if not, what it gives must be right."""
    try:
        catalogue = cl.outputs(cl.open(path))
        found = cl.to_bytes(catalogue, catalogue.names("var"))
    except cl.DataError as problem:
        assert str(path) in str(problem)
        assert key in str(problem) or "indptr is inconsistent" in str(problem)
        return True
    assert list(found.values()) == [column.tobytes() for column in dense32(good()).T]
    return False


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
    # Of indptr, zeros contradict the rest.
    (path / "X" / "indptr" / "c" / "2").unlink()
    catalogue = cl.outputs(cl.open(path))
    with pytest.raises(cl.DataError, match=r"a\.zarr: X: indptr is inconsistent"):
        cl.to_bytes(catalogue, catalogue.names("var"))


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_truncated_file_is_refused_when_opened_and_when_read(tmp_path, share):
    path = write(tmp_path / "a.h5ad", good(), "gzip")
    opened = cl.outputs(cl.open(path))
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(cl.DataError, match=r"a\.h5ad"):
        cl.to_bytes(opened, opened.names("var"))
    with pytest.raises(cl.DataError, match=r"a\.h5ad"):
        cl.open(path)


# Data that are replaced


def replace(path, matrix, form):
    time.sleep(0.01)
    if path.is_dir():
        shutil.rmtree(path)
    write(path, matrix, form)


@pytest.mark.parametrize("form", ["gzip", "contiguous", "v2 zlib", "v3 zstd", "v3 sharded"])
def test_a_dataset_rewritten_while_open_is_refused(tmp_path, form):
    path = write(tmp_path / "a", good(), form)
    catalogue = cl.outputs(cl.open(path))
    names = catalogue.names("var")
    cl.to_bytes(catalogue, names)
    other = good()
    other.data += 1
    replace(path, other, form)
    with pytest.raises(cl.DataError, match=r"/a: .*changed since it was opened"):
        cl.to_bytes(catalogue, names)
    again = cl.outputs(cl.open(path))
    found = cl.to_bytes(again, names)
    assert list(found.values()) == [column.tobytes() for column in dense32(other).T]


@pytest.mark.parametrize("form", ["gzip", "contiguous", "v3 zstd"])
def test_a_dataset_replaced_midway_leaves_the_earlier_export(tmp_path, form, monkeypatch):
    """The matrix is read in many blocks; after a few of them its file is another one."""
    path, out = write(tmp_path / "a", good(), form), tmp_path / "out"
    cl.to_directory(cl.outputs(cl.open(path)), out, progress=False)
    before = files_of(out)
    catalogue = with_sizes(cl.outputs(cl.open(path)))
    reader = type(catalogue.source.expression.matrix.data)
    read, count = reader.read, []

    def replacing(array, *selection):
        if array.key.endswith("data"):
            count.append(array)
            if len(count) == 3:
                replace(path, good("csc"), form)
        return read(array, *selection)

    monkeypatch.setattr(reader, "read", replacing)
    with pytest.raises(cl.DataError, match=r"/a: .*changed since it was opened"):
        cl.to_directory(catalogue, out, overwrite=True, progress=False)
    assert len(count) >= 3
    assert files_of(out) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "out"]
