"""Embeddings and vectors in the viewer's coordinates.

The arithmetic runs in the work dtype, ``numpy.result_type(stored dtype, float32)``. So float32
gives what float32 arithmetic gives, bit for bit, and float64 is centred before it is rounded.
"""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellucid_lazy.graph import map_indexed, rechunk, whole_rows
from cellucid_lazy.transforms.values import finite_extremes, to_float32

# A smaller range counts as 1, so that points that all but coincide are not pulled apart.
MIN_RANGE = 1e-8


def work_dtype(dtype: DTypeLike, /) -> np.dtype[Any]:
    """Return the floating dtype in which values of `dtype` are normalized."""
    return np.result_type(np.dtype(dtype), np.float32)


def finite_bounds(embedding: da.Array, /) -> da.Array:
    """Find each column's minimum and maximum over its finite values.

    Parameters
    ----------
    embedding
        Real numbers, shape (n_cells, d), any chunks.

    Returns
    -------
    dask.array.Array
        (2, d) in the work dtype: minimum, then maximum. A column without a finite value has
        0 for both.

    Raises
    ------
    ValueError
        If `embedding` is not two-dimensional.
    """
    rows = whole_rows(embedding)
    extremes = finite_extremes(rows, dtype=work_dtype(rows.dtype))
    return map_indexed(_zero_if_none, "kj", extremes, "kj", dtype=extremes.dtype)


def scale_factor(bounds: da.Array, /) -> da.Array:
    """Return 2 / (largest axis range), which scales the largest axis to [-1, 1].

    Parameters
    ----------
    bounds
        Minimum and maximum, (2, d), see :func:`finite_bounds`.

    Returns
    -------
    dask.array.Array
        0-d float64; a range below ``MIN_RANGE`` counts as 1.
    """
    return map_indexed(_scale, "", rechunk(bounds, -1), "kj", dtype=np.float64)


def center(bounds: da.Array, /) -> da.Array:
    """Return the middle of each axis, (minimum + maximum) / 2.

    Parameters
    ----------
    bounds
        Minimum and maximum, (2, d), see :func:`finite_bounds`.

    Returns
    -------
    dask.array.Array
        (d,), of the dtype of `bounds`.
    """
    return map_indexed(_center, "j", rechunk(bounds, -1), "kj", dtype=bounds.dtype)


def normalize_embedding(embedding: da.Array, /, *, bounds: da.Array | None = None) -> da.Array:
    """Center an embedding and scale its largest axis to [-1, 1], keeping proportions.

    Finite values give ``(x - (min + max) / 2) * (2 / largest range)`` in the work dtype, cast to
    float32 last; a point with a value that is not finite, before or after, is NaN throughout.

    Parameters
    ----------
    embedding
        Real numbers, shape (n_cells, d), any chunks.
    bounds
        Minimum and maximum, (2, d); those of `embedding` by default.

    Returns
    -------
    dask.array.Array
        float32 (n_cells, d), chunked along cells only.

    Raises
    ------
    ValueError
        If `embedding` is not two-dimensional or `bounds` is not (2, d).
    """
    rows = whole_rows(embedding)
    if bounds is None:
        bounds = finite_bounds(rows)
    if bounds.shape != (2, rows.shape[1]):
        raise ValueError(f"bounds must have shape (2, {rows.shape[1]}), found {bounds.shape}")
    whole = rechunk(bounds, -1)
    return map_indexed(_normalize_block, "ij", rows, "ij", whole, "kj", dtype=np.float32)


def cast_embedding(embedding: da.Array, /) -> da.Array:
    """Cast an embedding to float32 without normalizing it.

    Parameters
    ----------
    embedding
        Real numbers, shape (n_cells, d), any chunks.

    Returns
    -------
    dask.array.Array
        float32 (n_cells, d), chunked along cells only. A point with a value that is not a finite
        float32 is NaN throughout: one Inf would ruin the viewer's bounds for all points.

    Raises
    ------
    ValueError
        If `embedding` is not two-dimensional.
    """
    rows = whole_rows(embedding)
    return map_indexed(_cast_points, "ij", rows, "ij", dtype=np.float32)


def pad_embedding(points: da.Array, /) -> da.Array:
    """Pad points with zeros to three dimensions, as WebGL needs them.

    Parameters
    ----------
    points
        float32 (n_cells, d) with d of 1 to 3.

    Returns
    -------
    dask.array.Array
        float32 (n_cells, 3), chunked along cells only.

    Raises
    ------
    ValueError
        If `points` does not have one to three columns.
    """
    rows = whole_rows(points)
    if not 1 <= rows.shape[1] <= 3:
        raise ValueError(f"points must have 1 to 3 columns, found shape {points.shape}")
    return map_indexed(_pad_block, "ij", rows, "ij", adjust_chunks={"j": 3}, dtype=np.float32)


def scale_vectors(vectors: da.Array, /, *, scale: da.Array | None = None) -> da.Array:
    """Bring vectors to the scale of their normalized embedding, without centering.

    Parameters
    ----------
    vectors
        Real numbers, shape (n_cells, d) or (n_cells,), any chunks.
    scale
        0-d factor, see :func:`scale_factor`; without it vectors are only cast.

    Returns
    -------
    dask.array.Array
        float32 (n_cells, d), or (n_cells, 1), chunked along cells only. Values that are not finite
        are kept as they are.

    Raises
    ------
    ValueError
        If `vectors` has neither one nor two dimensions, or `scale` has any.
    """
    rows = whole_rows(vectors[:, np.newaxis] if vectors.ndim == 1 else vectors)
    if scale is None:
        return map_indexed(to_float32, "ij", rows, "ij", dtype=np.float32)
    if scale.ndim != 0:
        raise ValueError(f"scale must have no dimensions, found shape {scale.shape}")
    return map_indexed(_scale_block, "ij", rows, "ij", scale, "", dtype=np.float32)


def _zero_if_none(extremes: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(extremes), extremes, extremes.dtype.type(0))


def _scale(bounds: NDArray[Any]) -> np.float64:
    with np.errstate(over="ignore"):
        largest = float((bounds[1] - bounds[0]).max(initial=0))
    return np.float64(2.0 / (largest if largest >= MIN_RANGE else 1.0))


def _center(bounds: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        middle: NDArray[Any] = (bounds[0] + bounds[1]) / 2
    return middle


def _normalize_block(block: NDArray[Any], bounds: NDArray[Any]) -> NDArray[np.float32]:
    work = work_dtype(block.dtype)
    bounds = bounds.astype(work, copy=False)
    # A Python float leaves float32 arrays as they are; NumPy's float64 would make them float64.
    factor = float(_scale(bounds))
    scaled = np.empty(block.shape, work)
    with np.errstate(over="ignore", invalid="ignore"):
        # Column by column: along short rows NumPy's inner loop would be as short as a row.
        for column, middle in enumerate(_center(bounds)):
            np.subtract(block[:, column], middle, out=scaled[:, column], dtype=work)
        scaled *= factor
    return _cast_points(scaled)


def _cast_points(block: NDArray[Any]) -> NDArray[np.float32]:
    points = to_float32(block)
    finite = np.isfinite(points)
    if finite.all():
        return points
    return np.where(finite.all(axis=1, keepdims=True), points, np.float32(np.nan))


def _pad_block(block: NDArray[Any]) -> NDArray[np.float32]:
    padded = np.zeros((block.shape[0], 3), dtype=np.float32)
    padded[:, : block.shape[1]] = block
    return padded


def _scale_block(block: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = block.astype(work_dtype(block.dtype), copy=False) * float(scale)
    return to_float32(scaled)
