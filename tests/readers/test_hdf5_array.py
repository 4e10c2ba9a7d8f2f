"""HDF5 reading: parity with h5py on any layout, and never a wrong byte from a damaged file."""

from __future__ import annotations

import os
import pickle
import tempfile
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from math import prod
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers import hdf5_array, hdf5_index, hdf5_lzf
from cellucid_lazy.readers.hdf5_array import Hdf5Array, identity_of
from cellucid_lazy.readers.hdf5_chunks import box_of, grid_of, pieces
from cellucid_lazy.readers.hdf5_lzf import lzf_decompress
from cellucid_lazy.readers.hdf5_strings import Hdf5Strings

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
FAST = {"none", "gzip", "shuffle+gzip", "shuffle", "lzf", "shuffle+lzf"}


def described(path, key="x", **changes):
    identity = identity_of(path)
    with h5py.File(path, "r") as file:
        return replace(Hdf5Array.of(file[key], identity), **changes)


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


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_reads_what_h5py_reads(case):
    shape, chunks, filters, dtype, selection, seed = case
    data = values(shape, dtype, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        array = stored(path, data, chunks=chunks, **FILTERS[filters])
        assert (array.shape, array.chunks) == (shape, chunks)
        same(array.read(*selection), data[selection])
        if chunks is not None:
            assert (array.storage.layout == "chunked") == (filters in FAST)
        elif prod(shape):
            assert array.storage.layout == "contiguous"


@settings(max_examples=200, deadline=None)
@given(case=cases().filter(lambda case: len(case[0]) == 1))
def test_parts_are_what_is_read(case):
    shape, chunks, filters, dtype, selection, seed = case
    data = values(shape, dtype, seed)
    start, stop, _ = (*selection, slice(None))[0].indices(*shape)
    with tempfile.TemporaryDirectory() as folder:
        array = stored(Path(folder) / "a.h5", data, chunks=chunks, **FILTERS[filters])
        parts = list(array.parts(start, stop))
    found = np.concatenate([*parts, np.empty(0, array.dtype)])
    same(found, data[start:stop])


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_pieces_cover_a_box_once(case):
    shape, chunks, *_, selection, _seed = case
    chunks = chunks or tuple(max(1, size) for size in shape)
    box = box_of(shape, selection)
    counts = np.zeros([stop - start for start, stop in box], int)
    if counts.size == 0:
        return
    where = np.arange(prod(shape)).reshape(shape)
    for piece in pieces(shape, chunks, box):
        place = np.unravel_index(piece.chunk, grid_of(shape, chunks))
        corner = [at * size for at, size in zip(place, chunks, strict=True)]
        inner = tuple(
            slice(begin + part.start, begin + part.stop)
            for begin, part in zip(corner, piece.source, strict=True)
        )
        counts[piece.target] += 1
        whole = where[tuple(slice(*bounds) for bounds in box)]
        np.testing.assert_array_equal(whole[piece.target], where[inner])
    assert (counts == 1).all()


@pytest.mark.parametrize("selection", [(slice(0, 4, 2),), (3,), (slice(None), slice(None))])
def test_other_selections_are_refused(tmp_path, selection):
    with pytest.raises(IndexError):
        stored(tmp_path / "a.h5", np.arange(9)).read(*selection)


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
    same(described(path).read(), expected)
    same(described(path).read(slice(40, 45)), expected[40:45])
    same(np.concatenate(list(described(path, "row").parts(3, 30))), row[3:30])
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
    path, data = tmp_path / "a.h5", np.arange(24, dtype="i4").reshape(4, 6)
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["x"] = data
        file["scalar"] = 5
        file["pairs"] = np.array([(1, 2.0)], dtype=[("a", "<i2"), ("b", ">f8")])
        file["complex"] = np.array([1 + 2j])
        file["null"] = h5py.Empty("f4")
        layout = h5py.VirtualLayout((4, 6), "i4")
        layout[:] = h5py.VirtualSource(file["x"])
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("outside", data=data, external=str(tmp_path / "raw"))
    for key in ("x", "virtual", "outside"):
        array = described(path, key)
        assert array.storage.layout == "hdf5"
        same(array.read(slice(1, 3), slice(2, 9)), data[1:3, 2:9])
    assert described(path, "scalar").read()[()] == 5
    assert described(path, "pairs").read()["b"][0] == 2
    assert described(path, "complex").read()[0] == 1 + 2j
    with pytest.raises(DataError, match="null"):
        described(path, "null")


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
    assert array.token == again.token == array.__dask_tokenize__()
    others = {"path": "/b.h5", "key": "/y", "identity": (1, 2), "dtype": np.dtype("i8")}
    tokens = {replace(array, **{name: value}).token for name, value in others.items()}
    assert len(tokens | {array.token}) == 5


def test_threads_read_the_same(tmp_path):
    data = values((200_000,), "f4")
    array = stored(tmp_path / "a.h5", data, chunks=(1000,), compression=1)
    starts = list(range(0, 200_000, 3333))
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda at: array.read(slice(at, at + 3333)), starts))
    same(np.concatenate(parts), data)


@pytest.mark.parametrize("filters", sorted(FAST))
def test_reading_does_not_wait_for_the_lock_of_hdf5(tmp_path, filters):
    array = stored(tmp_path / "a.h5", np.arange(1000), chunks=(100,), **FILTERS[filters])
    array.read(slice(0, 1))
    with ThreadPoolExecutor(1) as pool, h5py._objects.phil:
        same(pool.submit(array.read).result(timeout=10), np.arange(1000))


def test_no_descriptor_is_left_open(tmp_path):
    array = stored(tmp_path / "a.h5", np.arange(100), chunks=(7,), compression=1)
    broken = replace(array, key="/no")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        array.read()
        with pytest.raises(DataError, match="/no"):
            broken.read()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_the_index_is_read_once_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_index, "_KEPT_BYTES", 500)
    hdf5_index._kept.clear()
    walks = []
    walk = hdf5_index.index_chunks
    monkeypatch.setattr(hdf5_index, "index_chunks", lambda x: walks.append(x.name) or walk(x))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for key in "abc":
            file.create_dataset(key, data=np.arange(100), chunks=(10,), compression=1)
    for key in "aabca":
        described(path, key).read(slice(3, 30))
    assert walks == ["/a", "/b", "/c", "/a"]
    assert len(hdf5_index._kept) == 2


# Damage -----------------------------------------------------------------------------------------


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
    named = [array.path, "/x", *([f"byte {chunk.byte_offset:,}"] if filters in FAST else [])]
    assert all(name in message for message in messages for name in named)
    same(array.read(), data)


def test_a_stream_of_another_length_is_an_error(tmp_path):
    for name, count in {"short": 7, "long": 9, "longer": 1000}.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            x = file.create_dataset("x", (32,), "f4", chunks=(8,), compression=4)
            x.id.write_direct_chunk((8,), zlib.compress(np.ones(count, "f4").tobytes()))
        with pytest.raises(DataError, match=r"it holds [\d,]+ bytes, and a chunk 32"):
            described(path).read()
        same(described(path).read(slice(0, 8)), np.zeros(8, "f4"))


@pytest.mark.parametrize(
    ("count", "said"),
    {
        7: "it holds 28 bytes, and a chunk 32",
        9: "its LZF stream .* holds more than 32 bytes",
    }.items(),
)
def test_an_lzf_stream_of_another_length_is_an_error(tmp_path, count, said):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        whole = np.ones(count, "f4")
        x = file.create_dataset("x", data=whole, chunks=whole.shape, compression="lzf")
        _, stream = x.id.read_direct_chunk((0,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        x = file.create_dataset("x", (32,), "f4", chunks=(8,), compression="lzf")
        x.id.write_direct_chunk((8,), stream)
    with pytest.raises(DataError, match=said):
        described(tmp_path / "a.h5").read()


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(min_size=1, max_size=300), nbytes=st.integers(1, 2000))
def test_any_bytes_are_an_lzf_stream_or_none(raw, nbytes):
    assert len(lzf_decompress(np.frombuffer(raw, np.uint8), nbytes)) <= nbytes


def test_without_a_decoder_hdf5_decodes_lzf(tmp_path, monkeypatch):
    assert hdf5_lzf.lzf_decoder() is not None  # h5py's wheels export it: the tests above meant it
    monkeypatch.setattr(hdf5_index, "DECODABLE", {(), (1,)})
    data = values((4000,), "f4")
    array = stored(tmp_path / "a.h5", data, chunks=(1000,), compression="lzf")
    assert array.storage.layout == "hdf5"
    same(array.read(), data)


def test_a_worker_without_a_decoder_reads_lzf_through_hdf5(tmp_path, monkeypatch):
    data = values((4000,), "f4")
    array = stored(tmp_path / "a.h5", data, chunks=(1000,), compression="lzf")
    assert array.storage.layout == "chunked"
    monkeypatch.setattr(hdf5_array, "lzf_decoder", lambda: None)
    same(array.read(slice(900, 1100)), data[900:1100])


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
    # As if the file had been cut before it was opened, or its index were at hand.
    cut = replace(array, identity=identity_of(path))
    entry = (array.path, array.identity, array.key)
    if entry in hdf5_index._kept:
        hdf5_index._kept[cut.path, cut.identity, cut.key] = hdf5_index._kept[entry]
    with pytest.raises(DataError, match=r"a\.h5: cannot read /x: "):
        cut.read()


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


@pytest.mark.parametrize(
    ("chunk", "lengths"),
    [(50_000, [40_000, 10_000]), (1_000, [32_000, 18_000]), (30_000, [20_000, 30_000])],
)
def test_short_chunks_are_put_together(tmp_path, chunk, lengths):
    array = stored(tmp_path / "a.h5", np.arange(100_000), chunks=(chunk,), compression=1)
    assert [len(part) for part in array.parts(10_000, 60_000)] == lengths


def test_a_file_replaced_between_parts_is_an_error(tmp_path):
    path = tmp_path / "a.h5"
    array = stored(path, np.arange(200_000), chunks=(50_000,), compression=1)
    parts = array.parts(0, 200_000)
    next(parts)
    stored(path, np.arange(9))
    with pytest.raises(DataError, match="changed since it was opened"):
        list(parts)


def test_a_file_replaced_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    array = stored(path, np.arange(100), chunks=(10,), compression=1)
    read = Hdf5Array._read_chunks

    def slow(self, box):
        found = read(self, box)
        stored(path, np.arange(50))
        return found

    monkeypatch.setattr(Hdf5Array, "_read_chunks", slow)
    with pytest.raises(DataError, match="changed since it was opened"):
        array.read()


# Text -------------------------------------------------------------------------------------------


def test_text_of_every_kind(tmp_path):
    path, words = tmp_path / "a.h5", ["", "CD3E", "größe", "細胞"]
    with h5py.File(path, "w") as file:
        file.create_dataset("vlen", data=words * 50, dtype=h5py.string_dtype(), chunks=(7,))
        file["fixed"] = np.array([b"a", b"", b"abc"])
        file["utf8"] = np.array([w.encode() for w in words], dtype=h5py.string_dtype("utf-8", 12))
        file["table"] = np.array([[b"a", b"b"], [b"c", b"d"]])
        file["one"] = "text"
        file["number"] = [1]
    expected = {"vlen": words * 50, "fixed": ["a", "", "abc"], "utf8": words, "one": "text"}
    for key, texts in expected.items():
        found = strings(path, key)
        assert (found.dtype, found.shape) == (np.dtype(object), np.shape(texts))
        assert found.read().dtype == object
        assert found.read().tolist() == texts
    assert strings(path, "vlen").read(slice(1, 3)).tolist() == words[1:3]
    assert strings(path, "table").read(slice(1, 2)).tolist() == [["c", "d"]]
    assert strings(path, "vlen").token != strings(path, "vlen").stored.token
    assert pickle.loads(pickle.dumps(strings(path, "vlen"))) == strings(path, "vlen")
    with pytest.raises(DataError, match="/number holds int64; expected strings"):
        strings(path, "number")


def strings(path, key):
    identity = identity_of(path)
    with h5py.File(path, "r") as file:
        return Hdf5Strings.of(file[key], identity)


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.array([b"ok", b"\xff\xfe"])
    with pytest.raises(DataError, match="/x is not UTF-8"):
        strings(path, "x").read()
