from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellucid_lazy.transforms import quantize as qu
from tests.helpers import compute, graph_bytes, raise_if_dask_computes

FLOATS = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32))
# No wider than float32 arithmetic holds, which is all the reference has.
MODERATE = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
    | st.sampled_from([np.nan, np.inf, -np.inf]),
)


def encode(values, bits):
    finite = values[np.isfinite(values)]
    extremes = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    bounds = qu.quantization_range(float(extremes[0]), float(extremes[1]))
    return qu.quantize_block(values, *bounds, bits=bits), bounds


@settings(max_examples=50, deadline=None)
@given(MODERATE, st.sampled_from([8, 16]))
def test_bytes_of_the_reference(values, bits):
    prepare = pytest.importorskip("cellucid.prepare_data")
    codes, (minimum, maximum) = encode(values, bits)
    span = maximum - minimum
    if span > 2.0**100 or (2**bits) / span > 2.0**127 or minimum + 1.0 == minimum == maximum:
        return
    try:
        expected, low, high, _, _ = prepare._quantize_continuous(values, bits)
    except ZeroDivisionError:
        # A constant so large that adding 1 does not change it.
        return
    assert codes.dtype == expected.dtype
    assert codes.tobytes() == expected.tobytes()
    assert (minimum, maximum) == (low, high)


@settings(max_examples=50, deadline=None)
@given(FLOATS, st.sampled_from([8, 16]))
def test_decoding_lies_within_one_step(values, bits):
    codes, (minimum, maximum) = encode(values, bits)
    decoded = qu.dequantize_block(codes, minimum, maximum)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(np.isnan(decoded), ~finite)
    step = (maximum - minimum) / (2.0**bits - 2)
    room = step * 1.01 + 2 * np.spacing(np.abs(values[finite]).astype(np.float64)) * 2**29
    assert (np.abs(decoded[finite].astype(np.float64) - values[finite]) <= room).all()


@settings(max_examples=50, deadline=None)
@given(FLOATS, st.sampled_from([8, 16]), st.integers(1, 61))
def test_lazy_is_the_block_function_at_any_chunking(values, bits, rows):
    array = da.from_array(values, chunks=rows)
    assert compute(qu.quantize(array, bits=bits)).tobytes() == encode(values, bits)[0].tobytes()
    finite = values[np.isfinite(values)]
    expected = [finite.min() + 0.0, finite.max() + 0.0] if finite.size else [0.0, 1.0]
    found = compute(qu.finite_range(array))
    assert found.dtype == np.float64
    assert found.tobytes() == np.array(expected, np.float64).tobytes()


def test_range_of_a_constant_and_of_nothing():
    assert qu.quantization_range(2.0, 2.0) == (2.0, 3.0)
    assert qu.quantization_range(np.nan, np.nan) == (0.0, 1.0)
    low, high = qu.quantization_range(1e30, 1e30)
    assert low < high < 1.1e30


def test_widest_range_does_not_overflow():
    values = np.array([-3.4e38, 0.0, 1e38, 3.4e38], np.float32)
    codes, bounds = encode(values, 8)
    assert bounds == (float(values[0]), float(values[3]))
    assert codes.tolist() == [0, 127, 164, 254]


def test_clips_to_a_given_range_and_casts():
    values = da.from_array(np.array([-5, 0, 5, 10, 50]), chunks=2)
    codes = qu.quantize(values, bits=8, value_range=da.from_array(np.array([0.0, 10.0])))
    assert compute(codes).tolist() == [0, 0, 127, 254, 254]
    huge = da.from_array(np.array([1e300, 1.0, 2.0]))
    assert compute(qu.finite_range(huge)).tolist() == [1.0, 2.0]
    assert compute(qu.quantize(huge, bits=16)).tolist() == [65535, 0, 65534]


def test_no_cells():
    empty = da.zeros(0, dtype=np.float32)
    assert compute(qu.finite_range(empty)).tolist() == [0.0, 1.0]
    assert compute(qu.quantize(empty, bits=8)).shape == (0,)


def test_what_is_refused():
    with pytest.raises(ValueError, match="8 or 16"):
        qu.quantize(da.zeros(3), bits=12)
    with pytest.raises(ValueError, match="not below"):
        qu.quantize_block(np.zeros(3), 1.0, 1.0, bits=8)
    with pytest.raises(ValueError, match="one value per cell"):
        qu.finite_range(da.zeros((3, 2)))


def test_building_computes_nothing_and_names_are_deterministic():
    values = da.from_array(np.random.default_rng(0).normal(size=90), chunks=8)
    with raise_if_dask_computes():
        first = [qu.finite_range(values), qu.quantize(values, bits=8)]
        second = [qu.finite_range(values), qu.quantize(values, bits=8)]
    assert [a.name for a in first] == [a.name for a in second]
    for array in first:
        graph_bytes(array)
        assert compute(array).dtype == array.dtype
    assert qu.quantize(values, bits=16).name != first[1].name
