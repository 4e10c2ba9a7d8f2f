"""Ranks of cells by their distance to the mean of their category in latent space."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.graph import map_indexed, map_row_ranges, rechunk
from cellucid_lazy.transforms.groups import (
    is_one_range,
    measure_block,
    measure_groups,
    rank_quantiles,
)


def outlier_quantiles(
    latent: da.Array,
    codes: da.Array,
    /,
    *,
    n_categories: int,
    min_points: int = 10,
    latent_again: da.Array | None = None,
) -> da.Array:
    """Rank each cell's distance to the mean of its category, divided by the category's size.

    Parameters
    ----------
    latent
        Latent space (n_cells, d), any chunks. A cell with a value that is not finite takes no part:
        not in the mean, not in the size.
    codes
        Integers (n_cells,), any chunks; missing below 0 and from `n_categories` on.
    n_categories
        Number of categories.
    min_points
        Cells a category must have.
    latent_again
        The same values under other task names, for the second pass. Blocks that are not spilled
        are then freed between the passes and read twice.

    Returns
    -------
    dask.array.Array
        float32 (n_cells,) in the chunks of `codes`: above 0 and up to 1, equal distances with the
        highest rank; NaN in smaller categories, for missing codes and cells that take no part.

    Raises
    ------
    ValueError
        If shapes do not fit together.
    TypeError
        If `codes` are not integers.
    """
    if is_one_range(latent, codes):
        one = partial(_rank_cells, n_categories=n_categories, min_points=min_points)
        return map_indexed(one, "i", latent, "ij", codes, "i", dtype=np.float32)
    groups = measure_groups(latent, codes, n_categories=n_categories, values_again=latent_again)
    # Ranks need all distances at once, 8 bytes per cell.
    ranks = map_row_ranges(
        partial(rank_quantiles, n_categories=n_categories, min_points=min_points),
        latent.shape[0],
        arrays=(groups.distances, groups.codes),
        dtype=np.float32,
        exclusive=True,
    )
    return rechunk(ranks, codes.chunks)


def _rank_cells(
    latent: NDArray[Any], codes: NDArray[Any], *, n_categories: int, min_points: int
) -> NDArray[np.float32]:
    _, distances = measure_block(latent, codes, n_categories=n_categories)
    return rank_quantiles(distances, codes, n_categories=n_categories, min_points=min_points)
