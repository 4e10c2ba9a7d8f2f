"""How far out in its category each cell lies, in latent space."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.transforms.blocks import map_rows, rechunk
from cellucid_lazy.transforms.group_order import rank_quantiles
from cellucid_lazy.transforms.group_totals import (
    check_groups,
    group_distances,
    group_totals,
)
from cellucid_lazy.transforms.keeping import brought_back, keep_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da
    import numpy.typing as npt

    from cellucid_lazy.transforms.keeping import Keep, Kept


def outlier_quantiles(
    latent: da.Array,
    codes: da.Array,
    /,
    *,
    n_categories: int,
    min_points: int = 10,
    latent_again: da.Array | None = None,
    keep: Keep | None = None,
) -> da.Array:
    """Rank each cell's distance to the mean of its category, divided by the category's size.

    Parameters
    ----------
    latent
        Latent space (n_cells, d), any chunks; blocks may wait elsewhere, as those of
        `transforms.keeping.keep_rows`. A cell with a value that is not finite takes no part: not in
        the mean, not in the size.
    codes
        Integers (n_cells,), as `latent`; missing below 0 and from `n_categories` on.
    n_categories
        Number of categories.
    min_points
        Cells a category must have.
    latent_again
        The same values under other task names, for the second pass. A scheduler then lets go of
        the blocks between the passes and reads them twice, instead of holding all of them.
    keep
        Puts distances elsewhere until all of them are there, as `transforms.keeping.Keep`; without
        it they take 8 bytes per cell.

    Returns
    -------
    da.Array
        float32 (n_cells,) in the chunks of `codes`: above 0 and up to 1, equal distances with the
        highest rank; NaN in smaller categories, for missing codes and cells that take no part.

    Raises
    ------
    ValueError
        If shapes do not fit together.
    TypeError
        If `codes` are not integers.
    """
    values = check_groups(latent, codes)
    again = values if latent_again is None else check_groups(latent_again, codes)
    totals = group_totals(values, codes, n_categories=n_categories)
    distances = group_distances(again, codes, totals)
    rank = partial(_rank, n_categories=n_categories, min_points=min_points)
    if keep is not None:
        distances = keep_rows(distances, keep)
    # Ranks need all distances at once, 8 bytes per cell; the result is cut to rows again.
    ranked = map_rows(rank, values.shape[0], pieces=(distances,), joined=(codes,), dtype=np.float32)
    return rechunk(ranked, codes.chunks)


def _rank(
    pieces: Sequence[npt.NDArray[np.float64] | Kept], codes: npt.NDArray[Any], **options: int
) -> npt.NDArray[np.float32]:
    with brought_back(pieces) as distances:
        return rank_quantiles(distances, codes, **options)
