"""Category codes: the law ``labels[code] == str(value)``, whatever the blocks."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellucid_lazy.transforms import categories as cat
from cellucid_lazy.transforms.categories import unique_values
from tests.helpers import compute, graph_bytes, raise_if_dask_computes

# Texts that a careless encoder would merge, cut or take for missing.
WORDS = ["", " ", "a", "A", "a ", "nan", "None", "é", "é", "B/naïve", "0", "True", "日本"]
MISSING = [None, np.nan, float("nan")]


def boxed(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@st.composite
def columns(draw):
    kind = draw(st.sampled_from(["text", "bool"]))
    present = st.sampled_from(WORDS if kind == "text" else [True, False])
    values = draw(st.lists(present | st.sampled_from(MISSING), max_size=40))
    return boxed(values), draw(st.integers(1, 41))


def is_missing(value):
    return value is None or value != value


@settings(max_examples=50, deadline=None)
@given(column=columns())
def test_labels_of_codes_are_the_values(column):
    values, rows = column
    array = da.from_array(values, chunks=max(1, min(rows, len(values))), asarray=False)
    with raise_if_dask_computes():
        lazy = unique_values(array)
    found = compute(lazy).item()
    expected = sorted({value for value in values if not is_missing(value)}, key=str)
    assert list(found.values) == expected
    assert found.n_unique == len(expected)
    dtype = cat.code_dtype(len(found.values))
    with raise_if_dask_computes():
        codes = cat.encode_labels(array, categories=found.values, dtype=dtype)
    codes = compute(codes)
    assert codes.dtype == dtype
    for code, value in zip(codes.tolist(), values, strict=True):
        if is_missing(value):
            assert code == np.iinfo(dtype).max
        else:
            assert found.values[code] == value


def test_labels_that_are_equal_as_text_share_their_code():
    values = da.from_array(boxed(["True", True, None, "b"]), chunks=2, asarray=False)
    found = compute(unique_values(values)).item()
    labels = cat.merge_labels(found.values)
    assert labels.names == ("True", "b")
    options = {"dtype": np.dtype("u1"), "code_of": labels.code_of}
    codes = cat.encode_labels(values, categories=found.values, **options)
    assert compute(codes).tolist() == [0, 0, 255, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-3, 6), max_size=40), st.integers(1, 41), st.booleans())
def test_stored_codes_are_recoded_on_any_grid(stored, rows, merged):
    stored = np.array(stored, dtype=np.int8)
    array = da.from_array(stored, chunks=max(1, min(rows, len(stored))))
    code_of = np.array([0, 1, 0, 2, 1, 3, 3], dtype=np.int32) if merged else None
    codes = cat.encode_codes(array, n_categories=7, dtype=np.dtype("u1"), code_of=code_of)
    known = stored if code_of is None else code_of[stored.clip(0)]
    expected = np.where(stored < 0, 255, known.astype(int)).astype("u1")
    assert compute(codes).tobytes() == expected.tobytes()


def test_a_code_without_a_category_names_the_field():
    codes = cat.encode_codes(
        da.from_array(np.array([0, 1, 2])), n_categories=2, dtype=np.dtype("u1"), field="f: obs/x"
    )
    with pytest.raises(ValueError, match=r"f: obs/x: .* code 2.* 2 categories"):
        compute(codes)


@given(st.lists(st.sampled_from([1, "1", 1.0, "a", None, True, "True"]), max_size=12))
def test_labels_that_are_equal_as_text_become_one(stored):
    labels = cat.merge_labels(stored)
    assert len(set(labels.names)) == len(labels.names)
    code_of = range(len(stored)) if labels.code_of is None else labels.code_of
    assert [labels.names[code] for code in code_of] == [str(one) for one in stored]
    # In the order of first appearance.
    assert list(labels.names) == list(dict.fromkeys(str(one) for one in stored))


@pytest.mark.parametrize(
    ("n", "requested", "expected"),
    [
        (0, "auto", "u1"),
        (254, "auto", "u1"),
        (255, "auto", "u2"),
        (254, "uint8", "u1"),
        (3, "uint16", "u2"),
        (65_535, "auto", "u2"),
    ],
)
def test_type_of_codes_leaves_room_for_missing(n, requested, expected):
    dtype = cat.code_dtype(n, requested=requested)
    assert dtype == np.dtype(expected)
    assert n <= np.iinfo(dtype).max


@pytest.mark.parametrize(("n", "requested"), [(65_536, "auto"), (65_536, "uint16"), (255, "uint8")])
def test_more_categories_than_codes_are_refused(n, requested):
    with pytest.raises(ValueError, match="categories"):
        cat.code_dtype(n, requested=requested)


def test_beyond_65535_values_are_counted_and_not_kept():
    values = da.from_array(np.array([f"c{i}" for i in range(65_536)], dtype=object), chunks=9_000)
    found = compute(unique_values(values)).item()
    assert (found.n_unique, found.values) == (65_536, ())
    assert compute(unique_values(values.rechunk(-1))).item() == found
    found = compute(unique_values(values[1:])).item()
    assert (found.n_unique, len(found.values)) == (65_535, 65_535)


def test_graphs_pickle_and_names_follow_the_content():
    values = da.from_array(boxed(["a", "b", None]), chunks=2, name="content", asarray=False)
    codes = da.from_array(np.array([0, -1, 1]), chunks=2, name="codes")
    dtype = np.dtype("u1")
    built = [
        lambda: unique_values(values),
        lambda: cat.encode_labels(values, categories=("a", "b"), dtype=dtype),
        lambda: cat.encode_codes(codes, n_categories=2, dtype=dtype),
    ]
    for build in built:
        assert build().name == build().name
        assert graph_bytes(build())
    other = cat.encode_labels(values, categories=("b", "a"), dtype=dtype)
    assert other.name != built[1]().name


@settings(max_examples=60, deadline=None)
@given(codes=st.lists(st.integers(-1, 99), max_size=30), rows=st.integers(1, 31))
def test_used_codes_are_those_of_a_cell(codes, rows):
    array = da.from_array(np.array(codes, dtype=np.int8), chunks=max(1, min(rows, len(codes))))
    with raise_if_dask_computes():
        lazy = cat.used_codes(array)
    found = compute(lazy)
    assert found.dtype == lazy.dtype == np.int8
    assert found.tolist() == sorted(set(codes) - {-1})
