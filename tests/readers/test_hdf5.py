"""HDF5 reading: parity with h5py on any layout, and never a wrong byte from a damaged file."""

from __future__ import annotations

import os
import pickle
import tempfile
import tracemalloc
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellucid_lazy import readers
from cellucid_lazy.errors import DataError, LeftOutWarning
from cellucid_lazy.readers import hdf5
from cellucid_lazy.readers.hdf5 import Hdf5Array, file_fingerprint
from tests import data
from tests.helpers import Reads

DTYPES = ["<f2", "<f4", "<f8", ">f4", ">f8", "i1", "u1", "<i2", ">i4", "<i4", "<u8", ">i8", "?"]
FILTERS = {
    "none": {},
    "gzip": {"compression": "gzip", "compression_opts": 4},
    "shuffle+gzip": {"compression": "gzip", "shuffle": True},
    "shuffle": {"shuffle": True},
    "lzf": {"compression": "lzf"},
    "shuffle+lzf": {"compression": "lzf", "shuffle": True},
    "fletcher32": {"fletcher32": True},
    "gzip+fletcher32": {"compression": "gzip", "fletcher32": True},
    "scaleoffset": {"scaleoffset": 0},
}
DECODED_HERE = {"gzip", "shuffle+gzip"}


def described(path, key="x", **changes):
    fingerprint = file_fingerprint(path)
    with h5py.File(path, "r") as file:
        return replace(Hdf5Array.describe(file[key], str(path), fingerprint), **changes)


def values(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 100, shape) * (rng.random(shape) < 0.5)
    return numbers.astype(dtype)


def stored(path, data, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=data, **options)
    return described(path)


def same(found, expected):
    assert found.dtype == expected.dtype.newbyteorder("=")
    assert found.dtype.isnative
    assert found.shape == expected.shape
    assert found.flags.writeable
    np.testing.assert_array_equal(found, expected)


@st.composite
def cases(draw):
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.lists(st.integers(0, 23), min_size=ndim, max_size=ndim)))
    chunked = draw(st.booleans()) and 0 not in shape
    chunks = tuple(draw(st.integers(1, size)) for size in shape) if chunked else None
    filters = draw(st.sampled_from(sorted(FILTERS))) if chunked else "none"
    dtype = draw(st.sampled_from(DTYPES))
    if filters == "scaleoffset" and np.dtype(dtype).kind not in "iu":
        filters = "gzip"
    bound = st.one_of(st.none(), st.integers(-25, 25))
    parts = draw(st.lists(st.tuples(bound, bound), max_size=ndim))
    selection = tuple(slice(start, stop) for start, stop in parts)
    return shape, chunks, filters, dtype, selection, draw(st.integers(0, 2**16))


@settings(max_examples=120, deadline=None)
@given(case=cases())
def test_reads_what_h5py_reads(case):
    shape, chunks, filters, dtype, selection, seed = case
    data = values(shape, dtype, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        array = stored(path, data, chunks=chunks, **FILTERS[filters])
        assert (array.shape, array.chunks) == (shape, chunks)
        same(array.read(*selection), data[selection])


def test_chunks_never_written_hold_the_fill_value(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (50, 7), ">i4", chunks=(8, 3), compression=4, fillvalue=258)
        x[10:20, 2:5] = 1
        expected = x[:]
        row = file.create_dataset("row", (50,), ">i4", chunks=(8,), compression=4, fillvalue=258)
        row[10:20] = 1
        row = row[:]
        file.create_dataset("late", (9,), "f4", fillvalue=np.nan)
        file.create_dataset("empty", (20,), "i2", chunks=(6,), compression=1, fillvalue=7)
    same(described(path).read(), expected)
    same(described(path).read(slice(40, 45)), expected[40:45])
    same(described(path, "row").read(slice(3, 30)), row[3:30])
    assert (described(path, "empty").read(slice(0, 9)) == 7).all()
    assert np.isnan(described(path, "late").read()).all()


def test_a_chunk_written_without_its_filters_is_read_as_it_is(tmp_path):
    path, data = tmp_path / "a.h5", np.arange(32, dtype="f4")
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=data, chunks=(8,), compression=4, shuffle=True)
        x.id.write_direct_chunk((8,), (data[8:16] * 2).tobytes(), filter_mask=0b11)
    with h5py.File(path, "r") as file:
        expected = file["x"][:]
    assert (expected[8:16] == data[8:16] * 2).all()
    same(described(path).read(), expected)


def test_resized_datasets(tmp_path):
    path, data = tmp_path / "a.h5", np.arange(100, dtype="i8").reshape(20, 5)
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=data, chunks=(6, 2), maxshape=(None, None), compression=1)
        x.resize((13, 3))
        x.resize((16, 4))
        expected = x[:]
    same(described(path).read(), expected)


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("maxshape", [None, (None,), (None, None)])
def test_every_kind_of_chunk_index(tmp_path, version, maxshape):
    data = values((60, 9), "f4")
    shape = (540,) if maxshape == (None,) else (60, 9)
    chunks = (50,) if maxshape == (None,) else (7, 4)
    for filters in ("none", "gzip"):
        path = tmp_path / f"{filters}.h5"
        with h5py.File(path, "w", libver=version) as file:
            options = {"chunks": chunks, "maxshape": maxshape, **FILTERS[filters]}
            file.create_dataset("x", data=data.reshape(shape), **options)
        same(described(path).read(slice(3, 50)), data.reshape(shape)[3:50])


def test_what_only_hdf5_reads(tmp_path):
    path, values = tmp_path / "a.h5", np.arange(24, dtype="i4").reshape(4, 6)
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["x"] = values
        file["scalar"] = 5
        file["pairs"] = np.array([(1, 2.0)], dtype=[("a", "<i2"), ("b", ">f8")])
        file["complex"] = np.array([1 + 2j])
        file["null"] = h5py.Empty("f4")
        layout = h5py.VirtualLayout((4, 6), "i4")
        layout[:] = h5py.VirtualSource(file["x"])
        file.create_virtual_dataset("virtual", layout)
    for key in ("x", "virtual"):
        same(described(path, key).read(slice(1, 3), slice(2, 9)), values[1:3, 2:9])
    assert described(path, "scalar").read()[()] == 5
    assert described(path, "pairs").read()["b"][0] == 2
    assert described(path, "complex").read()[0] == 1 + 2j
    with pytest.raises(DataError, match="null"):
        described(path, "null")


def test_values_in_other_files_are_refused_and_links_named(tmp_path):
    path, other = data.write_h5ad(data.atlas(30, 5, slim=True), tmp_path / "a.h5ad"), tmp_path / "b"
    values = np.ones((30, 2), "f4")
    with h5py.File(other, "w") as file:
        file["x"] = values
    with h5py.File(path, "r+") as file:
        layout = h5py.VirtualLayout((30, 2), "f4")
        layout[:] = h5py.VirtualSource(other, "x", (30, 2))
        obsm = file["obsm"]
        obsm.create_virtual_dataset("virtual", layout)
        obsm.create_dataset("raw", data=values, external=str(tmp_path / "c"))
        obsm["linked"], obsm["dead"] = h5py.ExternalLink(other, "/x"), h5py.SoftLink("/no")
    with pytest.warns(LeftOutWarning) as caught:
        source = readers.open(path)
    said = [str(one.message).removeprefix(f"{path}: ") for one in caught]
    assert f"obsm/linked is a link to {other}; other files are not read" in said
    assert "obsm/dead is a link to /no, where nothing is" in said
    for key, place in {"virtual": other, "raw": tmp_path / "c", "linked": other}.items():
        line = next(line for line in said if line.startswith(f"obsm {key!r} is left out: "))
        assert f"its values are not here but in {place}, which is not followed" in line
    assert not {"virtual", "raw", "linked", "dead"} & set(source.obsm)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink("gone.h5", "/X")
    with pytest.raises(DataError, match=r"a\.h5ad: .*X is a link to gone\.h5; other files are not"):
        readers.open(path)


# Chunks that inflate to far more than they should, from few bytes.


@pytest.mark.parametrize("kind", ["f4", "text", "f4 checked"])
def test_inflating_stops_at_the_size_of_a_chunk(kind, tmp_path):
    path, size = tmp_path / "a.h5", 2**27
    with h5py.File(path, "w") as file:
        dtype = h5py.string_dtype() if kind == "text" else "f4"
        options = {"compression": "gzip", "fletcher32": "checked" in kind}
        x = file.create_dataset("x", (1000,), dtype, chunks=(1000,), **options)
        x.id.write_direct_chunk((0,), zlib.compress(bytes(size)) + b"1234" * options["fletcher32"])
    array = described(path)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"it inflates to more than the [\d,]+ bytes of a chunk"):
        array.read()
    assert tracemalloc.get_traced_memory()[1] < size / 8
    tracemalloc.stop()


def test_enums_keep_their_numbers(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        kind = h5py.enum_dtype({"A": 0, "B": 300}, basetype="i2")
        file.create_dataset("x", data=np.array([0, 300, 0]), dtype=kind, chunks=(2,))
    same(described(path).read(), np.array([0, 300, 0], "i2"))


def doubled(array):
    return array.read().sum()


def test_it_pickles_and_works_in_other_processes(tmp_path):
    array = stored(tmp_path / "a.h5", np.arange(1000.0), chunks=(64,), compression=4)
    copy = pickle.loads(pickle.dumps(array))
    assert copy == array
    assert copy.token == array.token
    assert len(pickle.dumps(array)) < 1000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(doubled, array).result() == 499500


def test_the_token_follows_the_content(tmp_path):
    array = stored(tmp_path / "a.h5", np.arange(10.0))
    again = described(tmp_path / "a.h5")
    assert array.token == again.token
    others = {"path": "/b.h5", "key": "/y", "fingerprint": (1, 2), "dtype": np.dtype("i8")}
    tokens = {replace(array, **{name: value}).token for name, value in others.items()}
    assert len(tokens | {array.token}) == 5


def test_only_the_chunks_that_a_box_touches_are_fetched(tmp_path, monkeypatch):
    array = stored(tmp_path / "a.h5", values((50, 9), "f4"), chunks=(8, 3), compression=1)
    with Reads(monkeypatch) as reads:
        array.read(slice(10, 20), slice(2, 3))
    assert reads.of("x") == [((10, 20), (2, 3))]
    assert sorted(reads.chunks) == [("x", "(16, 0)"), ("x", "(8, 0)")]


def test_threads_read_the_same(tmp_path):
    data = values((200_000,), "f4")
    array = stored(tmp_path / "a.h5", data, chunks=(1000,), compression=1)
    starts = list(range(0, 200_000, 3333))
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda at: array.read(slice(at, at + 3333)), starts))
    same(np.concatenate(parts), data)


def test_no_descriptor_is_left_open(tmp_path):
    array = stored(tmp_path / "a.h5", np.arange(100), chunks=(7,), compression=1)
    broken = replace(array, key="/no")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        array.read()
        with pytest.raises(DataError, match="/no"):
            broken.read()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# Damage


def damage(array, position):
    """Flip bits of one byte of the file, and keep the file's time; twice undoes it."""
    status = Path(array.path).stat()
    with open(array.path, "r+b") as file:
        file.seek(position)
        old = file.read(1)[0]
        file.seek(position)
        file.write(bytes([old ^ 0x55]))
    os.utime(array.path, ns=(status.st_atime_ns, status.st_mtime_ns))


def chunk_of(array, number):
    with h5py.File(array.path, "r") as file:
        return file["x"].id.get_chunk_info(number)


@pytest.mark.parametrize("filters", ["gzip", "shuffle+gzip", "gzip+fletcher32", "fletcher32"])
def test_a_flipped_byte_is_an_error(tmp_path, filters):
    data = values((4000,), "f4", 3)
    array = stored(tmp_path / "a.h5", data, chunks=(1000,), **FILTERS[filters])
    chunk = chunk_of(array, 2)
    messages = []
    for position in np.linspace(0, chunk.size - 1, 40).astype(int).tolist():
        damage(array, chunk.byte_offset + position)
        try:
            # Some bits of a zlib header say nothing of the data: what is read must still be right.
            same(array.read(slice(1900, 2100)), data[1900:2100])
        except DataError as error:
            messages.append(str(error))
        damage(array, chunk.byte_offset + position)
    assert len(messages) >= 39
    named = [array.path, "/x", *(["the chunk at (2000,)"] if filters in DECODED_HERE else [])]
    assert all(name in message for message in messages for name in named)
    same(array.read(), data)


def test_a_stream_of_another_length_is_an_error(tmp_path):
    for name, count in {"short": 7, "long": 9, "longer": 1000}.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            x = file.create_dataset("x", (32,), "f4", chunks=(8,), compression=4)
            x.id.write_direct_chunk((8,), zlib.compress(np.ones(count, "f4").tobytes()))
        said = r"it holds 28 bytes, and a chunk 32" if count == 7 else "more than the 32 bytes"
        with pytest.raises(DataError, match=said):
            described(path).read()
        same(described(path).read(slice(0, 8)), np.zeros(8, "f4"))


def test_a_plain_chunk_of_another_length_is_an_error(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (32,), "f4", chunks=(8,), compression=4)
        x.id.write_direct_chunk((8,), b"1234567", filter_mask=1)
    with pytest.raises(DataError, match="it holds 7 bytes, and a chunk 32"):
        described(path).read()


@pytest.mark.parametrize("filters", ["contiguous", "none", "gzip", "lzf"])
def test_a_truncated_file_is_an_error(tmp_path, filters):
    path, data = tmp_path / "a.h5", np.random.default_rng(0).random(50_000)
    options = {} if filters == "contiguous" else {"chunks": (1000,), **FILTERS[filters]}
    array = stored(path, data, **options)
    array.read(slice(0, 10))
    size = path.stat().st_size
    os.truncate(path, size - 30_000)
    with pytest.raises(DataError, match=r"a\.h5: the file changed since it was opened; open it"):
        array.read()
    # As if the file had been cut before it was opened.
    with pytest.raises(DataError, match=r"a\.h5: cannot read /x: "):
        replace(array, fingerprint=file_fingerprint(path)).read()


def test_a_rewritten_file_is_an_error(tmp_path):
    path = tmp_path / "a.h5"
    array = stored(path, np.arange(100), chunks=(10,), compression=1)
    array.read()
    status = path.stat()
    stored(path, np.arange(100) + 1, chunks=(10,), compression=1)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(DataError, match="changed since it was opened"):
        array.read(slice(0, 5))
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        array.read(slice(0, 5))


def test_a_file_replaced_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    array = stored(path, np.arange(100), chunks=(10,), compression=1)
    fetch = hdf5.fetch_chunk

    def slow(*arguments):
        found = fetch(*arguments)
        Path(path).with_name("new.h5").write_bytes(b"another file")
        Path(path).with_name("new.h5").replace(path)
        return found

    monkeypatch.setattr(hdf5, "fetch_chunk", slow)
    with pytest.raises(DataError, match="changed since it was opened"):
        array.read()


# Text


def test_text_of_every_kind(tmp_path):
    path, words = tmp_path / "a.h5", ["", "CD3E", "größe", "細胞"]
    with h5py.File(path, "w") as file:
        file.create_dataset("vlen", data=words * 50, dtype=h5py.string_dtype(), chunks=(7,))
        file["fixed"] = np.array([b"a", b"", b"abc"])
        file["utf8"] = np.array([w.encode() for w in words], dtype=h5py.string_dtype("utf-8", 12))
        file["table"] = np.array([[b"a", b"b"], [b"c", b"d"]])
        file["one"] = "text"
    expected = {"vlen": words * 50, "fixed": ["a", "", "abc"], "utf8": words, "one": "text"}
    for key, texts in expected.items():
        found = described(path, key)
        assert (found.dtype, found.shape) == (np.dtype(object), np.shape(texts))
        assert found.read().dtype == object
        assert found.read().tolist() == texts
    assert described(path, "vlen").read(slice(1, 3)).tolist() == words[1:3]
    assert described(path, "table").read(slice(1, 2)).tolist() == [["c", "d"]]
    assert pickle.loads(pickle.dumps(described(path, "vlen"))) == described(path, "vlen")


def test_objects_that_are_no_text_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.array([file.ref], dtype=h5py.ref_dtype)
    with pytest.raises(DataError, match=r"/x: holds objects; write it again as numbers or text"):
        described(tmp_path / "a.h5")


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.array([b"ok", b"\xff\xfe"])
    with pytest.raises(DataError, match="/x is not UTF-8"):
        described(path, "x").read()
