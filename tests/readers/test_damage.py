"""Which formats notice damage, as docs/reliability.md tells: bytes of stored chunks are flipped."""

from __future__ import annotations

import random

import h5py
import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.hdf5 import Hdf5
from cellucid_lazy.readers.zarr import Zarr

VALUES = (np.random.default_rng(0).poisson(0.5, 4000) * 1.1).astype(np.float32)

HDF5 = {
    "contiguous": {},
    "chunks": {"chunks": (500,)},
    "lzf": {"chunks": (500,), "compression": "lzf"},
    "gzip": {"chunks": (500,), "compression": "gzip", "shuffle": True},
    "fletcher32": {"chunks": (500,), "fletcher32": True},
    "lzf, fletcher32": {"chunks": (500,), "compression": "lzf", "fletcher32": True},
}
ZARR = {
    "v3": {"zarr_format": 3},
    "v3 none": {"zarr_format": 3, "compressors": None},
    "v3 blosc": {"zarr_format": 3, "compressors": BloscCodec()},
    "v3 sharded": {"zarr_format": 3, "shards": (1000,)},
    "v3 gzip": {"zarr_format": 3, "compressors": GzipCodec()},
    "v3 zstd checksum": {"zarr_format": 3, "compressors": ZstdCodec(checksum=True)},
    "v3 crc32c": {"zarr_format": 3, "compressors": [ZstdCodec(), Crc32cCodec()]},
    "v3 sharded crc32c": {
        "zarr_format": 3,
        "shards": (1000,),
        "compressors": [ZstdCodec(), Crc32cCodec()],
    },
    "v2": {"zarr_format": 2},
    "v2 none": {"zarr_format": 2, "compressors": None},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc()},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "v2 gzip": {"zarr_format": 2, "compressors": numcodecs.GZip()},
    "v2 crc32": {"zarr_format": 2, "compressors": None, "filters": [numcodecs.CRC32()]},
}
NOTICED = {
    "gzip": "gzip",
    "fletcher32": "fletcher32",
    "lzf, fletcher32": "fletcher32",
    "v3 gzip": "gzip",
    "v3 zstd checksum": "zstd",
    "v3 crc32c": "crc32c",
    "v3 sharded crc32c": "crc32c",
    "v2 zlib": "zlib",
    "v2 gzip": "gzip",
    "v2 crc32": "crc32",
}


def wrong_reads(storage, path, key, file, start, size):
    """Flip bits one by one; count reads that give other values without an error."""
    with storage.open(str(path), None) as tree:
        assert tree.checksum(tree.root["x"]) == NOTICED.get(key, "")
    intact, wrong, chosen = file.read_bytes(), 0, random.Random(0)
    for _ in range(40):
        octets = bytearray(intact)
        octets[start + chosen.randrange(size)] ^= 1 << chosen.randrange(8)
        file.write_bytes(octets)
        with storage.open(str(path), None) as tree:
            array = tree.reader(tree.root["x"])
        try:
            wrong += not np.array_equal(array.read(), VALUES)
        except DataError:
            continue
    return wrong


@pytest.mark.parametrize("key", HDF5)
def test_hdf5(key, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=VALUES, **HDF5[key])
        file.flush()
        chunk = x.id.get_chunk_info(2) if x.chunks else None
        start, size = (chunk.byte_offset, chunk.size) if chunk else (x.id.get_offset(), x.nbytes)
    assert (wrong_reads(Hdf5(), path, key, path, start, size) == 0) == (key in NOTICED)


@pytest.mark.parametrize("key", ZARR)
def test_zarr(key, tmp_path):
    path = tmp_path / "a.zarr"
    zarr.open_group(path, mode="w", zarr_format=ZARR[key]["zarr_format"])
    zarr.create_array(path, name="x", data=VALUES, chunks=(500,), **ZARR[key])
    file = path / "x" / ("c/1" if "v3" in key else "1")
    size = file.stat().st_size
    assert (wrong_reads(Zarr(), path, key, file, 0, size) == 0) == (key in NOTICED)
