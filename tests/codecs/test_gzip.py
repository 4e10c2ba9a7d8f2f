"""gzip: one anonymous member per file, as browsers read it, and what the levels are."""

from __future__ import annotations

import pickle
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
from isal import isal_zlib
from zlib_ng import zlib_ng

from cellucid_lazy.codecs.codec import Part
from cellucid_lazy.codecs.gzip import Gzip

LEVELS = range(1, 10)


@pytest.fixture(scope="module")
def column():
    """A gene's column, most of it zero."""
    rng = np.random.default_rng(5)
    values = np.log1p(rng.geometric(0.5, 100_000) / rng.lognormal(8.5, 0.5, 100_000) * 1e4)
    return memoryview((values * (rng.random(100_000) < 0.05)).astype("<f4")).cast("B")


def inflated(member):
    """Inflate one member, as a browser does: nothing may follow it."""
    stream = zlib.decompressobj(wbits=31)
    data = stream.decompress(member) + stream.flush()
    assert stream.eof
    assert stream.unused_data == b""
    return data


def members(codec, data):
    """The member of a file encoded whole, and in four parts."""
    cuts = [len(data) * i // 4 for i in range(5)]
    parts = [codec.encode_part(data[a:b]) for a, b in pairwise(cuts)]
    return codec.encode(data), b"".join(codec.join(parts))


@pytest.mark.parametrize("level", LEVELS)
def test_one_member_without_name_or_time(column, level):
    for member in members(Gzip(level), column):
        assert inflated(member) == column
        assert member[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_its_librarys(column, level):
    library = isal_zlib if level == 1 else zlib_ng
    assert Gzip(level).encode(column)[10:-8] == library.compress(column, level, wbits=-15)


@pytest.mark.parametrize("level", LEVELS)
def test_parts_cost_little(column, level):
    whole, joined = members(Gzip(level), column)
    assert len(joined) < 1.02 * len(whole)


def test_sizes_beyond_four_gigabytes():
    megabyte = bytes(2**20)
    checksum = 0
    for _ in range(5 * 1024):
        checksum = isal_zlib.crc32(megabyte, checksum)
    zeros, reached = zlib.crc32(megabyte), 2**20
    while reached < 2**32:
        zeros, reached = isal_zlib.crc32_combine(zeros, zeros, reached), reached * 2
    codec = Gzip(1)
    parts = [Part(b"", zeros, 2**32), *[codec.encode_part(memoryview(megabyte))] * 1024]
    *_, trailer = codec.join(parts)
    assert trailer == b"\x03\x00" + struct.pack("<II", checksum, 2**30)


def test_a_part_pickles(column):
    part = Gzip(1).encode_part(column)
    assert pickle.loads(pickle.dumps(part)) == part


@pytest.mark.parametrize("level", [0, 10, -1, None, "6"])
def test_other_levels_are_refused(level):
    with pytest.raises(ValueError, match="gzip level"):
        Gzip(level)
