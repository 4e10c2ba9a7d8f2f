from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellucid_lazy.transforms import groups as gr
from cellucid_lazy.transforms.centroids import centroids
from cellucid_lazy.transforms.outlier_quantiles import outlier_quantiles
from tests.helpers import compute, graph_bytes, raise_if_dask_computes

# Few values, so that distances tie and cells coincide; all sums of them are exact.
VALUES = st.sampled_from([0.0, 1.0, -2.0, 0.5, 4.0] * 3 + [np.nan, np.inf, -np.inf])
MIN_POINTS = 3


@pytest.fixture(autouse=True)
def small_grid(monkeypatch):
    """Many grid blocks and steps from few cells."""
    monkeypatch.setattr(gr, "_STEP_VALUES", 8)
    monkeypatch.setattr(gr, "group_rows", lambda n_columns: 8)
    monkeypatch.setattr(gr, "_STEP_CELLS", 6)


def cells_of(values, codes, category):
    return np.flatnonzero((codes == category) & np.isfinite(values).all(axis=1))


def naive_centroids(values, codes, n_categories, quantile, min_points):
    rows = []
    for category in range(n_categories):
        points = values[cells_of(values, codes, category)].astype(np.float64)
        if len(points) < min_points:
            rows.append([*[np.nan] * values.shape[1], 0])
            continue
        distances = np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1))
        near = points[distances <= np.quantile(distances, quantile)]
        if len(points) > min_points and len(near) >= min_points:
            points = near
        rows.append([*points.mean(axis=0), len(points)])
    return np.array(rows).reshape(n_categories, values.shape[1] + 1)


def naive_outliers(values, codes, n_categories, min_points, slack=0.0):
    out = np.full(len(codes), np.nan, np.float32)
    for category in range(n_categories):
        cells = cells_of(values, codes, category)
        points = values[cells].astype(np.float64)
        if len(points) < max(min_points, 1):
            continue
        distances = np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1))
        ranks = np.searchsorted(np.sort(distances), distances * (1 + slack), side="right")
        out[cells] = ranks.astype(np.float32) / len(points)
    return out


@st.composite
def datasets(draw):
    n, d, k = draw(st.integers(1, 60)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = draw(hnp.arrays(dtype, (n, d), elements=VALUES))
    codes = draw(hnp.arrays(np.int32, n, elements=st.integers(-1, k)))
    return values, codes, k


def lazy(values, codes, rows):
    return da.from_array(values, chunks=(rows, 1)), da.from_array(codes, chunks=rows + 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(datasets(), st.integers(1, 61))
def test_centroids_are_right_and_do_not_depend_on_chunks(data, rows):
    values, codes, k = data
    options = {"n_categories": k, "quantile": 0.8, "min_points": MIN_POINTS}
    found = centroids(*lazy(values, codes, rows), **options)
    result = compute(found)
    assert (result.shape, result.dtype) == (found.shape, np.float64)
    assert result.tobytes() == compute(centroids(*lazy(values, codes, 60), **options)).tobytes()
    # Means of exact sums are the same bits here and there, so that ties fall the same way.
    np.testing.assert_allclose(result, naive_centroids(values, codes, k, 0.8, MIN_POINTS))


@settings(max_examples=40, deadline=None)
@given(datasets(), st.integers(1, 61))
def test_outliers_are_right_and_do_not_depend_on_chunks(data, rows):
    values, codes, k = data
    options = {"n_categories": k, "min_points": MIN_POINTS}
    found = outlier_quantiles(*lazy(values, codes, rows), **options)
    result = compute(found)
    assert (result.shape, result.dtype) == (codes.shape, np.float32)
    again = outlier_quantiles(*lazy(values, codes, 60), **options)
    assert result.tobytes() == compute(again).tobytes()
    # Distances that are equal but for the order in which squares are added are no ties.
    low, high = (naive_outliers(values, codes, k, MIN_POINTS, slack) for slack in (-1e-12, 1e-12))
    np.testing.assert_array_equal(np.isnan(result), np.isnan(high))
    known = ~np.isnan(result)
    assert (low[known] <= result[known]).all()
    assert (result[known] <= high[known]).all()


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(0, 1e6)),
    st.integers(1, 4),
    st.floats(0, 1),
)
def test_quantile_is_bit_for_bit_numpys(distances, k, quantile):
    codes = np.arange(len(distances)) % k
    found = gr.category_quantiles(distances, codes, n_categories=k, quantile=quantile)
    for category in range(k):
        members = distances[codes == category]
        expected = np.quantile(members, quantile) if members.size else np.nan
        np.testing.assert_array_equal(found[category], expected)


def noisy(n=3000, k=7, d=5):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(n, d)).astype(np.float32) + 100
    return values, rng.integers(-1, k, n).astype(np.int32), k


@pytest.mark.parametrize("n", [0, 1, 300])
@pytest.mark.parametrize("function", [centroids, outlier_quantiles])
def test_one_task_gives_the_bytes_of_many(monkeypatch, function, n):
    monkeypatch.setattr(gr, "group_rows", lambda n_columns: 1000)
    values, codes, k = noisy(n)
    values[5:9, 1] = np.nan
    one = function(da.from_array(values), da.from_array(codes), n_categories=k)
    many = function(*lazy(values, codes, 40), n_categories=k)
    assert len(keys_of(one)) < len(keys_of(many))
    assert compute(one).tobytes() == compute(many).tobytes()


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("rows", [7, 100, 300])
def test_inexact_sums_do_not_depend_on_chunks_or_scheduler(rows, scheduler):
    values, codes, k = noisy(300)
    expected = [
        compute(f(*lazy(values, codes, 64), n_categories=k)) for f in (centroids, outlier_quantiles)
    ]
    found = [f(*lazy(values, codes, rows), n_categories=k) for f in (centroids, outlier_quantiles)]
    for array, bytes_of in zip(found, expected, strict=True):
        assert array.compute(scheduler=scheduler).tobytes() == bytes_of.tobytes()


def test_agrees_with_the_reference():
    prepare = pytest.importorskip("cellucid.prepare_data")
    values, codes, k = noisy()
    labels = [str(i) for i in range(k)]
    ranks = prepare._compute_latent_space_quantiles(values, codes, labels)
    found = compute(outlier_quantiles(*lazy(values, codes, 500), n_categories=k))
    # The reference's float32 distances may swap neighbours in rank.
    np.testing.assert_allclose(found, ranks, atol=3 / 300)
    rows = compute(centroids(*lazy(values, codes, 500), n_categories=k))
    for row, expected in zip(
        rows, prepare._compute_centroids_for_field(values, codes, labels), strict=True
    ):
        np.testing.assert_allclose(row[:-1], expected["position"], rtol=1e-5)
        assert row[-1] == expected["n_points"]


@pytest.mark.parametrize(("dtype", "missing"), [(np.uint8, 255), (np.uint16, 65535)])
def test_unsigned_codes(dtype, missing):
    values, codes, k = noisy(200)
    unsigned = np.where(codes < 0, missing, codes).astype(dtype)
    for function in (centroids, outlier_quantiles):
        one = compute(function(*lazy(values, codes, 64), n_categories=k))
        other = compute(function(*lazy(values, unsigned, 64), n_categories=k))
        assert one.tobytes() == other.tobytes()


def test_a_cell_that_is_not_finite_spoils_nothing():
    values = np.ones((12, 2), np.float32)
    values[3, 1] = np.nan
    values[4, 0] = np.inf
    codes = np.zeros(12, np.int32)
    found = compute(outlier_quantiles(*lazy(values, codes, 5), n_categories=1))
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 4]
    assert (np.delete(found, [3, 4]) == 1).all()
    assert compute(centroids(*lazy(values, codes, 5), n_categories=1)).tolist() == [[1, 1, 10]]
    assert np.isnan(
        compute(outlier_quantiles(*lazy(values, codes, 5), n_categories=1, min_points=11))
    ).all()


def test_more_categories_than_16_bits():
    rng = np.random.default_rng(0)
    values, k = rng.normal(size=(40, 2)), 70_000
    codes = rng.choice([3, 65_540, 69_999], 40)
    array = outlier_quantiles(
        da.from_array(values), da.from_array(codes), n_categories=k, min_points=2
    )
    np.testing.assert_array_equal(compute(array), naive_outliers(values, codes, 70_000, 2))


def test_no_cells_and_no_categories():
    values, codes = np.ones((5, 2)), np.full(5, -1)
    assert compute(centroids(*lazy(values, codes, 2), n_categories=0)).shape == (0, 3)
    assert np.isnan(compute(outlier_quantiles(*lazy(values, codes, 2), n_categories=0))).all()
    empty = da.zeros((0, 2)), da.zeros(0, dtype=np.int32)
    assert compute(outlier_quantiles(*empty, n_categories=3)).shape == (0,)
    np.testing.assert_array_equal(compute(centroids(*empty, n_categories=1)), [[np.nan] * 2 + [0]])


def keys_of(array):
    """Names of all arrays in a graph."""
    return {key[0] if isinstance(key, tuple) else key for key in dict(array.__dask_graph__())}


def test_reads_of_latent_space_are_shared_and_can_be_repeated():
    values, codes, k = noisy(100)
    latent, groups = lazy(values, codes, 30)
    other = da.from_array((codes + 1) % k, chunks=30)
    one = outlier_quantiles(latent, groups, n_categories=k)
    two = outlier_quantiles(latent, other, n_categories=k)
    # Rechunked and marked once for both fields.
    sums = [keys_of(array) for array in (one, two)]
    assert {key for key in sums[0] if "spillable-rechunk" in key} <= sums[1]
    again = da.from_array(values + 0, chunks=(30, 1)) * 1
    both = outlier_quantiles(latent, groups, n_categories=k, latent_again=again)
    assert {latent.name, again.name} <= keys_of(both)
    assert compute(both).tobytes() == compute(one).tobytes()


def test_what_is_refused():
    values, codes, k = noisy(20)
    with pytest.raises(ValueError, match="do not fit together"):
        centroids(da.from_array(values), da.from_array(codes[:5]), n_categories=k)
    with pytest.raises(TypeError, match="must be integers"):
        centroids(da.from_array(values), da.from_array(codes * 1.0), n_categories=k)
    with pytest.raises(ValueError, match="from 0 to 1"):
        centroids(da.from_array(values), da.from_array(codes), n_categories=k, quantile=1.5)


def test_the_grid_depends_on_the_width_alone(monkeypatch):
    monkeypatch.undo()
    assert gr.group_rows(1) == gr.group_rows(16) == gr.GROUP_ROWS
    assert gr.group_rows(32) == gr.GROUP_ROWS // 2
    assert gr.group_rows(10**6) == 1024


def test_building_computes_nothing_and_names_are_deterministic():
    values, codes, k = noisy(200)
    arrays = lazy(values, codes, 30)

    def build():
        return [f(*arrays, n_categories=k) for f in (centroids, outlier_quantiles)]

    with raise_if_dask_computes():
        first, second = build(), build()
    assert [a.name for a in first] == [a.name for a in second]
    assert len(first[1].chunks[0]) > 1
    for array in first:
        graph_bytes(array)
    assert [a.dtype for a in dask.compute(*first)] == [a.dtype for a in first]


def test_limits_and_latent_blocks_are_computed_once(monkeypatch):
    values, codes, k = noisy(100)
    calls = {"quantiles": 0, "blocks": 0}
    quantiles = gr.category_quantiles

    def counted_quantiles(*arrays, **options):
        calls["quantiles"] += 1
        return quantiles(*arrays, **options)

    def counted_block(block):
        calls["blocks"] += 1
        return block

    monkeypatch.setattr("cellucid_lazy.transforms.centroids.category_quantiles", counted_quantiles)
    # On the grid already, so that no rechunking stands between reading and grouping.
    latent = da.from_array(values, chunks=(8, -1)).map_blocks(counted_block, dtype=values.dtype)
    calls["blocks"] = 0
    groups = [da.from_array((codes + shift) % k, chunks=8) for shift in range(2)]
    fields = [outlier_quantiles(latent, codes_of, n_categories=k) for codes_of in groups]
    dask.compute(*fields, centroids(latent, groups[0], n_categories=k), scheduler="synchronous")
    assert calls == {"quantiles": 1, "blocks": latent.numblocks[0]}
    compute(centroids(latent, groups[0], n_categories=k))
    assert calls == {"quantiles": 2, "blocks": 2 * latent.numblocks[0]}
