"""What every codec keeps: encoded whole or in parts, a file decodes to the same bytes."""

from __future__ import annotations

import gzip
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellucid_lazy.codecs import CODECS, Part, codec_for

LEVELS = (1, 2, 6, 9)
# How what a codec makes is decoded, by its suffix.
DECODE = {"": bytes, ".gz": gzip.decompress}

each_codec = pytest.mark.parametrize(
    "codec",
    [
        pytest.param(codec_for(compression), id=str(compression))
        for compression in (None, *(f"{name}:{level}" for name in CODECS for level in LEVELS))
    ],
)


def decoded(codec, data):
    return DECODE[codec.suffix](data)


def encoded(codec, data):
    return bytes(codec.encode(memoryview(data)))


def joined(codec, blocks):
    return b"".join(codec.join(codec.encode_part(memoryview(block)) for block in blocks))


@each_codec
@given(block=st.binary(max_size=300), repeats=st.integers(1, 400))
def test_a_whole_file_decodes_to_its_bytes(codec, block, repeats):
    data = block * repeats
    assert decoded(codec, encoded(codec, data)) == data


@each_codec
@given(
    blocks=st.lists(st.binary(max_size=300), max_size=6),
    repeats=st.integers(1, 400),
)
def test_joined_parts_decode_to_their_bytes_in_order(codec, blocks, repeats):
    blocks = [block * repeats for block in blocks]
    assert decoded(codec, joined(codec, blocks)) == b"".join(blocks)


@each_codec
@given(cuts=st.lists(st.integers(0, 40_000), max_size=5))
def test_any_cut_decodes_to_the_same_bytes(codec, cuts):
    column = np.arange(10_000, dtype="<f4") % 97
    blocks = np.split(column.view("u1"), sorted(cuts))
    assert decoded(codec, joined(codec, blocks)) == column.tobytes()


@each_codec
@pytest.mark.parametrize("blocks", [[], [b""], [b"", b"a", b"", b"b", b""]])
def test_empty_parts(codec, blocks):
    assert decoded(codec, joined(codec, blocks)) == b"".join(blocks)


@each_codec
def test_the_same_bytes_are_made_again(codec):
    data = np.random.default_rng(0).integers(0, 5, 50_000).astype("u1")
    assert encoded(codec, data) == encoded(codec, data.copy())
    assert joined(codec, [data, data]) == joined(codec, [data, data])


@each_codec
def test_it_travels_to_tasks(codec):
    copy = pickle.loads(pickle.dumps(codec))
    assert copy == codec
    assert copy.suffix == codec.suffix
    assert encoded(copy, b"abc") == encoded(codec, b"abc")


@each_codec
def test_parts_are_taken_one_at_a_time(codec):
    taken = []

    def parts():
        for block in (b"a", b"b"):
            taken.append(block)
            yield codec.encode_part(memoryview(block))

    stream = codec.join(parts())
    assert taken == []
    decode = partial(decoded, codec)
    assert decode(b"".join(stream)) == b"ab"


@each_codec
def test_the_data_of_a_part_is_any_buffer(codec):
    parts = [codec.encode_part(memoryview(block)) for block in (b"abc" * 99, b"", b"d")]
    arrays = [part._replace(data=np.frombuffer(part.data, "u1")) for part in parts]
    assert decoded(codec, b"".join(codec.join(arrays))) == b"abc" * 99 + b"d"
    assert all(isinstance(part, Part) for part in parts)
