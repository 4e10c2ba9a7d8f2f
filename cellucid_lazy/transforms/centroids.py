"""Where to put the label of a category: the middle of its cells without its outliers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.transforms.blocks import map_indexed, map_rows
from cellucid_lazy.transforms.group_order import category_quantiles
from cellucid_lazy.transforms.group_totals import (
    check_groups,
    group_distances,
    group_inlier_totals,
    group_totals,
)
from cellucid_lazy.transforms.groups import category_means
from cellucid_lazy.transforms.keeping import brought_back, keep_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da
    import numpy.typing as npt

    from cellucid_lazy.transforms.keeping import Keep, Kept


def centroids(
    coordinates: da.Array,
    codes: da.Array,
    /,
    *,
    n_categories: int,
    quantile: float = 0.95,
    min_points: int = 10,
    keep: Keep | None = None,
) -> da.Array:
    """Average the cells of each category, then once more without the farthest.

    With more than `min_points` cells, those at or below the quantile of distance to the mean are
    averaged again, if at least `min_points` remain.

    Parameters
    ----------
    coordinates
        Embedding (n_cells, d), any chunks; blocks may wait elsewhere, as those of
        `transforms.keeping.keep_rows`. A cell with a coordinate that is not finite takes no part.
    codes
        Integers (n_cells,), as `coordinates`; missing below 0 and from `n_categories` on.
    n_categories
        Number of categories.
    quantile
        Share of distances that are kept, 0 to 1, by NumPy's linear quantile.
    min_points
        Cells a category must have.
    keep
        Puts distances elsewhere until all of them are there, as `transforms.keeping.Keep`; without
        it they take 8 bytes per cell.

    Returns
    -------
    da.Array
        Lazy float64 (n_categories, d + 1), one block: position in the units of `coordinates`, then
        the number of cells averaged. NaN and 0 for a category with fewer than `min_points` cells.

    Raises
    ------
    ValueError
        If shapes do not fit together or `quantile` is not from 0 to 1.
    TypeError
        If `codes` are not integers.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie from 0 to 1, found {quantile!r}")
    values = check_groups(coordinates, codes)
    totals = group_totals(values, codes, n_categories=n_categories)
    distances = group_distances(values, codes, totals)
    if keep is not None:
        distances = keep_rows(distances, keep)
    limit = partial(_limits, n_categories=n_categories, quantile=quantile)
    limits = map_rows(
        limit,
        values.shape[0],
        pieces=(distances,),
        joined=(codes,),
        shape=(n_categories,),
        dtype=np.float64,
    )
    inliers = group_inlier_totals(values, codes, distances, limits)
    settle = partial(settle_centroids, min_points=min_points)
    return map_indexed(settle, "kj", totals, "kj", inliers, "kj", dtype=np.float64)


def _limits(
    pieces: Sequence[npt.NDArray[np.float64] | Kept],
    codes: npt.NDArray[Any],
    *,
    n_categories: int,
    quantile: float,
) -> npt.NDArray[np.float64]:
    with brought_back(pieces) as distances:
        return category_quantiles(distances, codes, n_categories=n_categories, quantile=quantile)


def settle_centroids(
    totals: npt.NDArray[np.float64], inliers: npt.NDArray[np.float64], /, *, min_points: int
) -> npt.NDArray[np.float64]:
    """Choose between the mean of all cells and that of the inliers.

    Parameters
    ----------
    totals, inliers
        float64 (n_categories, d + 1): sums over all cells and over inliers, then their counts.
    min_points
        Cells a category must have.

    Returns
    -------
    numpy.ndarray
        float64 (n_categories, d + 1), see :func:`centroids`.
    """
    sizes = totals[:, -1]
    trimmed = (sizes > min_points) & (inliers[:, -1] >= min_points)
    chosen = np.where(trimmed[:, np.newaxis], inliers, totals)
    settled = np.column_stack([category_means(chosen), chosen[:, -1]])
    settled[sizes < min_points, :-1] = np.nan
    settled[sizes < min_points, -1] = 0
    return settled
