"""Sight: what is stored of a column tells how it is deflated as well as the column itself does."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellucid_lazy.sinks.gzip import compress
from cellucid_lazy.sinks.sight import look_at_columns
from tests.sinks.test_gzip import (
    GENES,
    N_CELLS,
    QUANTIZED,
    ROOM,
    assert_no_level_is_larger,
    inflated,
)

COLUMNS = {
    name: column
    for name, column in (GENES | QUANTIZED).items()
    if column.dtype.itemsize * 8 * np.count_nonzero(column) <= column.nbytes
}


def stored(columns):
    rows = [np.flatnonzero(column) for column in columns]
    values = [column[places] for column, places in zip(columns, rows, strict=True)]
    begins = np.concatenate([[0], np.cumsum([len(one) for one in rows])])
    return np.concatenate(values), np.concatenate(rows), begins


def sight_of(column):
    (sight,) = look_at_columns(*stored([column]), n_rows=len(column))
    return sight


@pytest.mark.parametrize("name", COLUMNS)
def test_sizes_are_those_that_the_column_gives(name):
    column = COLUMNS[name]
    sight = sight_of(column)
    stdlib = len(gzip.compress(column.tobytes(), 6))
    one, six = (compress(column, level, sight) for level in (1, 6))
    assert inflated(one) == inflated(six) == column.tobytes()
    assert len(one) <= stdlib * 1.25 + ROOM
    assert len(six) <= min(len(one), stdlib + ROOM)


@pytest.mark.parametrize("name", COLUMNS)
def test_the_share_is_that_of_the_column(name):
    seen = sight_of(COLUMNS[name])
    share = np.count_nonzero(COLUMNS[name].view("u1")) / COLUMNS[name].nbytes
    assert seen.share == pytest.approx(share, rel=0.1, abs=1e-5)


def test_many_columns_are_seen_as_each_alone():
    group = [column for name, column in COLUMNS.items() if name in GENES]
    sights = look_at_columns(*stored(group * 8), n_rows=N_CELLS)
    assert sights == [sight_of(column) for column in group] * 8


def test_full_columns_are_left_to_be_looked_at_and_empty_ones_are_known():
    columns = [np.ones(64, "f4"), np.zeros(64, "f4"), np.r_[1, np.zeros(63)].astype("f4")]
    full, empty, one = look_at_columns(*stored(columns), n_rows=64)
    assert full is None
    assert (empty.share, empty.repeats) == (0, False)
    assert (one.share, one.repeats) == (2 / 256, False)  # 1.0 has two bytes that are not zero


@settings(max_examples=100, deadline=None)
@given(
    n_rows=st.integers(1, 5000),
    share=st.floats(0, 0.125),
    kind=st.sampled_from(["f4", "u1", "u2"]),
    seed=st.integers(0, 2**16),
)
def test_any_column_inflates_and_no_level_is_larger(n_rows, share, kind, seed):
    rng = np.random.default_rng(seed)
    column = (rng.integers(1, 250, n_rows) * (rng.random(n_rows) < share)).astype(kind)
    sight = sight_of(column)
    for level in (1, 6):
        assert zlib.decompress(compress(column, level, sight), 31) == column.tobytes()
    assert_no_level_is_larger(column, sight)
