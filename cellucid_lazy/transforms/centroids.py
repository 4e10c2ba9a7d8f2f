"""Centroids of categories in an embedding: the mean of their cells without outliers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.graph import map_indexed, map_row_ranges
from cellucid_lazy.transforms.groups import (
    category_means,
    category_quantiles,
    group_inlier_sums,
    inlier_sums,
    is_one_range,
    measure_block,
    measure_groups,
)


def centroids(
    coordinates: da.Array,
    codes: da.Array,
    /,
    *,
    n_categories: int,
    quantile: float = 0.95,
    min_points: int = 10,
) -> da.Array:
    """Average the cells of each category, then once more without the farthest.

    With more than `min_points` cells, those at or below the quantile of distance to the mean are
    averaged again, if at least `min_points` remain.

    Parameters
    ----------
    coordinates
        Embedding (n_cells, d), any chunks. A cell with a coordinate that is not finite takes no
        part.
    codes
        Integers (n_cells,), any chunks; missing below 0 and from `n_categories` on.
    n_categories
        Number of categories.
    quantile
        Share of distances that are kept, 0 to 1, by NumPy's linear quantile.
    min_points
        Cells a category must have.

    Returns
    -------
    dask.array.Array
        float64 (n_categories, d + 1), one block: position in the units of `coordinates`, then the
        number of cells averaged. NaN and 0 for a category with fewer than `min_points` cells.

    Raises
    ------
    ValueError
        If shapes do not fit together or `quantile` is not from 0 to 1.
    TypeError
        If `codes` are not integers.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie from 0 to 1, found {quantile!r}")
    find_limits = partial(category_quantiles, n_categories=n_categories, quantile=quantile)
    trim = partial(_trim, min_points=min_points)
    if is_one_range(coordinates, codes):
        one = partial(_find_centroids, find_limits, trim, n_categories=n_categories)
        axes = {"k": n_categories, "m": coordinates.shape[1] + 1}
        arrays = (coordinates, "ij", codes, "i")
        return map_indexed(one, "km", *arrays, new_axes=axes, dtype=np.float64)
    groups = measure_groups(coordinates, codes, n_categories=n_categories)
    limits = map_row_ranges(
        find_limits,
        coordinates.shape[0],
        arrays=(groups.distances, groups.codes),
        shape=(n_categories,),
        dtype=np.float64,
        exclusive=True,
    )
    inliers = group_inlier_sums(groups, limits)
    return map_indexed(trim, "kj", groups.sums, "kj", inliers, "kj", dtype=np.float64)


def _find_centroids(
    find_limits: Callable[..., NDArray[np.float64]],
    trim: Callable[..., NDArray[np.float64]],
    coordinates: NDArray[Any],
    codes: NDArray[Any],
    *,
    n_categories: int,
) -> NDArray[np.float64]:
    sums, distances = measure_block(coordinates, codes, n_categories=n_categories)
    limits = find_limits(distances, codes)
    return trim(sums, inlier_sums(coordinates, codes, distances, limits))


def _trim(
    sums: NDArray[np.float64], inliers: NDArray[np.float64], *, min_points: int
) -> NDArray[np.float64]:
    sizes = sums[:, -1]
    is_trimmed = (sizes > min_points) & (inliers[:, -1] >= min_points)
    chosen = np.where(is_trimmed[:, np.newaxis], inliers, sums)
    rows = np.column_stack([category_means(chosen), chosen[:, -1]])
    rows[sizes < min_points, :-1] = np.nan
    rows[sizes < min_points, -1] = 0
    return rows
