from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellucid_lazy.transforms import embeddings as em
from tests.helpers import compute, graph_bytes, raise_if_dask_computes

DTYPES = [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.uint16, np.bool_]
MATRICES = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.integers(1, 30), st.integers(1, 3)),
    elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, -0.0]),
)


def lazy(array, rows=4, columns=1):
    return da.from_array(array, chunks=(rows, columns)[: array.ndim])


def expected_points(x):
    """Float64 arithmetic throughout, one column at a time."""
    x = x.astype(np.float64)
    bounds = []
    for column in x.T:
        finite = column[np.isfinite(column)]
        bounds.append((finite.min(), finite.max()) if finite.size else (0.0, 0.0))
    low, high = np.array(bounds).T
    widest = (high - low).max()
    out = (x - (low + high) / 2) * 2 / (widest if widest >= 1e-8 else 1.0)
    out[~np.isfinite(x).all(axis=1)] = np.nan
    return out


@settings(max_examples=30, deadline=None)
@given(MATRICES, st.integers(1, 31))
def test_normalize_is_right_and_does_not_depend_on_chunks(x, rows):
    one = compute(em.normalize_embedding(da.from_array(x, chunks=-1)))
    split = compute(em.normalize_embedding(lazy(x, rows)))
    assert one.dtype == np.float32
    assert one.tobytes() == split.tobytes()
    np.testing.assert_allclose(one, expected_points(x), rtol=1e-4, atol=1e-5)


@pytest.fixture
def reference():
    anndata = pytest.importorskip("anndata")
    cellucid = pytest.importorskip("cellucid")

    def build(x, vectors):
        data = anndata.AnnData(obs={"a": np.arange(len(x))})
        data.obsm[f"X_umap_{x.shape[1]}d"] = x
        data.obsm[f"velocity_umap_{x.shape[1]}d"] = vectors
        data.obsm["X_pca"] = np.zeros((len(x), 2), np.float32)
        return cellucid.AnnDataAdapter(data)

    return build


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 7e4])
def test_float32_gives_the_bytes_of_the_reference(reference, d, spread):
    rng = np.random.default_rng(d)
    x = (rng.normal(size=(500, d)) * spread + 3 * spread).astype(np.float32)
    vectors = rng.normal(size=(500, d)).astype(np.float32)
    adapter = reference(x, vectors)
    array = lazy(x, 77)
    points = em.normalize_embedding(array)
    assert compute(points).tobytes() == adapter.get_points_binary(d)
    assert compute(em.pad_embedding(points)).tobytes() == adapter.get_embedding_3d(d).tobytes()
    scaled = em.scale_vectors(lazy(vectors, 30), scale=em.scale_factor(em.finite_bounds(array)))
    assert compute(scaled).tobytes() == adapter.get_vector_field_binary("velocity_umap", d)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_real_dtype(dtype):
    x = np.random.default_rng(0).integers(0, 2, (40, 2)).astype(dtype)
    np.testing.assert_allclose(compute(em.normalize_embedding(lazy(x, 7))), expected_points(x))
    assert compute(em.cast_embedding(lazy(x))).tobytes() == x.astype(np.float32).tobytes()
    assert compute(em.scale_vectors(lazy(x))).tobytes() == x.astype(np.float32).tobytes()


def test_float64_is_centered_before_digits_are_lost():
    x = 1e9 + np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_allclose(
        compute(em.normalize_embedding(lazy(x))), expected_points(x), atol=1e-6
    )


def test_a_value_beyond_float32_is_not_shown():
    x = np.array([[1e300, 0.0], [1.0, np.inf], [2.0, 3.0]])
    points = compute(em.cast_embedding(lazy(x)))
    assert np.isnan(points[:2]).all()
    assert points[2].tolist() == [2.0, 3.0]


def test_bounds_scale_and_center():
    x = np.array([[np.nan, 1.0, -0.0], [np.inf, 5.0, 0.0]], np.float32)
    bounds = em.finite_bounds(lazy(x, 1))
    assert compute(bounds).tolist() == [[0, 1, 0], [0, 5, 0]]
    assert not np.signbit(compute(bounds)).any()
    assert compute(em.scale_factor(bounds)) == 0.5
    assert compute(em.center(bounds)).tolist() == [0, 3, 0]
    assert compute(em.scale_factor(em.finite_bounds(da.zeros((3, 2), chunks=1)))) == 2.0


def test_given_bounds_are_used():
    x = np.zeros((3, 2), np.float32)
    bounds = lazy(np.array([[0.0, 0.0], [4.0, 2.0]], np.float32))
    points = compute(em.normalize_embedding(lazy(x), bounds=bounds))
    assert points.tolist() == [[-1.0, -0.5]] * 3
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        em.normalize_embedding(lazy(x), bounds=bounds[:, :1])


def test_vectors_keep_what_is_not_finite():
    x = np.array([1.0, np.nan, np.inf])
    scaled = compute(em.scale_vectors(lazy(x), scale=da.from_array(np.float64(2))))
    assert scaled.shape == (3, 1)
    np.testing.assert_array_equal(scaled[:, 0], [2.0, np.nan, np.inf])


def test_no_cells():
    empty = da.zeros((0, 2), dtype=np.float32)
    assert compute(em.finite_bounds(empty)).tolist() == [[0, 0], [0, 0]]
    assert compute(em.normalize_embedding(empty)).shape == (0, 2)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="found shape"):
        em.finite_bounds(da.zeros(3))
    with pytest.raises(ValueError, match="1 to 3 columns"):
        em.pad_embedding(da.zeros((3, 4)))
    with pytest.raises(ValueError, match="no dimensions"):
        em.scale_vectors(da.zeros((3, 2)), scale=da.zeros(1))


def build(x):
    bounds = em.finite_bounds(x)
    return [
        bounds,
        em.center(bounds),
        em.pad_embedding(em.normalize_embedding(x)),
        em.cast_embedding(x),
        em.scale_vectors(x, scale=em.scale_factor(bounds)),
    ]


def test_building_computes_nothing_and_names_are_deterministic():
    x = lazy(np.random.default_rng(0).normal(size=(40, 3)))
    with raise_if_dask_computes():
        first, second = build(x), build(x)
    assert [a.name for a in first] == [a.name for a in second]
    for array in first:
        graph_bytes(array)
        result = compute(array)
        assert (result.shape, result.dtype) == (array.shape, array.dtype)
        assert array.ndim < 2 or len(array.chunks[1]) == 1
