"""zarr stores: names that follow the content, and arrays that changed."""

from __future__ import annotations

import pickle
import shutil
import time
import tracemalloc
import zipfile
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr

from cellucid_lazy import readers
from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.zarr import Zarr
from tests import data

NESTED = {"name": "v2", "separator": "/"}
FORMS = {
    "v3": {"zarr_format": 3},
    "v2": {"zarr_format": 2},
    "v2 nested": {"zarr_format": 2, "chunk_key_encoding": NESTED},
    "v3 sharded": {"zarr_format": 3, "shards": True},
}


def written(path, shape, chunks, **options):
    shards = tuple(4 * n for n in chunks) if options.pop("shards", False) else None
    zarr_format = options.pop("zarr_format")
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    values = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    root.create_array("x", data=values, chunks=chunks, shards=shards, **options)
    return described(path), values


def described(path):
    with Zarr().open(str(path), None) as tree:
        return tree.reader(tree.root["x"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "chunks"), [((40,), (5,)), ((40, 9), (5, 3))])
def test_a_rewritten_chunk_changes_the_token(form, shape, chunks, tmp_path):
    path = tmp_path / "a.zarr"
    array, values = written(path, shape, chunks, **FORMS[form])
    assert described(path).token == array.token
    np.testing.assert_array_equal(array.read(), values)
    time.sleep(0.02)  # times of files have steps
    zarr.open_group(path, mode="r+")["x"][...] = values + 1
    again = described(path)
    assert again.token != array.token
    np.testing.assert_array_equal(again.read(), values + 1)


def test_one_chunk_of_a_matrix_is_enough(tmp_path):
    """Writing it moves the time of c/0, not of c."""
    path = tmp_path / "a.zarr"
    array, _ = written(path, (40, 9), (5, 3), zarr_format=3)
    time.sleep(0.02)
    zarr.open_group(path, mode="r+")["x"][:2, :2] = -1
    assert described(path).token != array.token


@pytest.mark.parametrize("form", FORMS)
def test_a_chunk_of_a_matrix_that_changed_is_not_read(form, tmp_path):
    path = tmp_path / "a.zarr"
    array, values = written(path, (40, 9), (5, 3), **FORMS[form])
    time.sleep(0.02)
    zarr.open_group(path, mode="r+")["x"][21, 4] = -1
    with pytest.raises(DataError, match=r"a\.zarr: x changed since it was opened; open it again"):
        array.read(slice(20, 25))
    if "nested" in form or form.startswith("v3"):
        # Chunks of other rows are in other folders.
        np.testing.assert_array_equal(array.read(slice(3, 17)), values[3:17])


@pytest.mark.parametrize("form", ["v3", "v2"])
def test_an_array_that_changed_is_not_read(form, tmp_path):
    path = tmp_path / "a.zarr"
    array, values = written(path, (40,), (5,), **FORMS[form])
    np.testing.assert_array_equal(array.read(slice(3, 20)), values[3:20])
    time.sleep(0.02)
    zarr.open_group(path, mode="r+")["x"][...] = 1
    with pytest.raises(DataError, match=r"a\.zarr: x changed since it was opened; open it again"):
        array.read()
    shutil.rmtree(path)
    with pytest.raises(DataError, match=r"a\.zarr: x changed since it was opened"):
        array.read()


def test_a_zip_file_that_changed_is_not_read(tmp_path):
    path = data.write_zarr(data.atlas(30, 5, slim=True), tmp_path / "a.zarr.zip", zarr_format=3)
    reader = readers.open(path).obsm["X_umap_2d"]
    before = reader.array().name
    reader.array().compute(scheduler="synchronous")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"text")
    assert readers.open(path).obsm["X_umap_2d"].array().name != before
    with pytest.raises(DataError, match="changed since it was opened"):
        reader.array().compute(scheduler="synchronous")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files of Linux")
def test_a_zip_file_is_opened_once(tmp_path):
    path = data.write_zarr(data.atlas(30, 5, slim=True), tmp_path / "a.zarr.zip", zarr_format=3)
    for array in readers.open(path).obsm.values():
        array.array().compute(scheduler="synchronous")
    links = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    assert links.count(str(path)) == 1


BOMBS = {
    "v2 gzip": {"zarr_format": 2, "compressors": numcodecs.GZip(9)},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib(9)},
    "v2 lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(9)},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc()},
    "v3 gzip": {"zarr_format": 3, "compressors": zarr.codecs.GzipCodec()},
    "v3 zstd": {"zarr_format": 3, "compressors": zarr.codecs.ZstdCodec()},
    "v3 blosc": {"zarr_format": 3, "compressors": zarr.codecs.BloscCodec()},
    "v3 sharded": {"zarr_format": 3, "shards": (2**24,), "compressors": zarr.codecs.ZstdCodec()},
}


@pytest.mark.parametrize("form", BOMBS)
def test_decoding_stops_at_the_size_of_a_chunk(form, tmp_path):
    """A chunk that inflates to 64 MB is there, and metadata that say 400 bytes."""
    path, length = tmp_path / "a.zarr", 2**24
    zarr.open_group(path, mode="w", zarr_format=BOMBS[form]["zarr_format"])
    ones = np.ones(length, "f4")
    zarr.create_array(path, name="x", data=ones, chunks=(length,), **BOMBS[form])
    file = next(file for file in ("zarr.json", ".zarray") if (path / "x" / file).exists())
    text = (path / "x" / file).read_text()
    (path / "x" / file).write_text(text.replace(str(length), "100"))
    array = described(path)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.zarr: x: .*a chunk decodes to more than 65,936 bytes"):
        array.read()
    assert tracemalloc.get_traced_memory()[1] < 4 * length / 8
    tracemalloc.stop()


def test_damage_is_an_error_that_names_file_and_key(tmp_path):
    path = tmp_path / "a.zarr"
    options = {"zarr_format": 2, "compressors": numcodecs.Zlib(1)}
    written(path, (40,), (5,), **options)
    (path / "x" / "2").write_bytes(b"no stream")
    with pytest.raises(DataError, match=rf"{path}: x: cannot be read: "):
        described(path).read()


def test_text_byte_order_and_pickling(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.create_array("x", data=np.array([b"a", b"b\xc3\xa4"]))
    array = described(tmp_path / "a.zarr")
    assert (array.dtype, array.read().tolist()) == (np.dtype(object), ["a", "bä"])
    root.create_array("x", data=np.array([b"\xff"]), overwrite=True)
    with pytest.raises(DataError, match=r"a\.zarr: x: cannot be read: UnicodeDecodeError"):
        described(tmp_path / "a.zarr").read()
    root.create_array("x", data=np.arange(9, dtype=">i4"), overwrite=True)
    array = described(tmp_path / "a.zarr")
    assert array.dtype.isnative
    assert array.read().dtype == np.dtype("i4")
    copy = pickle.loads(pickle.dumps(array))
    assert (copy, copy.token) == (array, array.token)
    np.testing.assert_array_equal(copy.read(slice(2, 4)), [2, 3])


def test_consolidated_metadata_of_unknown_types_are_passed_over(tmp_path):
    path = data.write_zarr(data.atlas(30, 5, slim=True), tmp_path / "a.zarr", zarr_format=3)
    zarr.consolidate_metadata(path)
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"float32"', '"float99"'))
    source = readers.open(path)
    assert source.n_cells == 30
    assert "X_umap_2d" in source.obsm
