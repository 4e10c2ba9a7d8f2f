"""Sums, means and distances per category, lazily.

Law: chunks, scheduler and workers never change a byte. Float sums depend on the order of their
terms, so every sum runs over one grid of rows that depends on the array's shape alone, and the
grid's blocks are added by a tree that depends on their number alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.transforms.blocks import map_indexed, rechunk, reduce_rows
from cellucid_lazy.transforms.groups import (
    block_distances,
    block_sums,
    category_means,
    inlier_sums,
)

if TYPE_CHECKING:
    import dask.array as da
    import numpy.typing as npt

# Rows per block of the grid, counted from row 0; fewer where rows are wide.
GROUP_ROWS = 65_536
_GROUP_VALUES = GROUP_ROWS * 64


def group_rows(n_columns: int, /) -> int:
    """Return the rows per block of the grid for rows of `n_columns` values."""
    return min(GROUP_ROWS, max(1024, _GROUP_VALUES // max(1, n_columns)))


def on_grid(values: da.Array, codes: da.Array, /) -> tuple[da.Array, da.Array]:
    """Bring values and codes to the grid; equal values give equal task names.

    Parameters
    ----------
    values
        Real numbers (n_cells, d), any chunks.
    codes
        Integers (n_cells,), any chunks.

    Returns
    -------
    tuple of da.Array
        The same arrays in the grid's chunks.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    TypeError
        If `codes` are not integers.
    """
    if values.ndim != 2 or codes.shape != values.shape[:1]:
        raise ValueError(f"values {values.shape} and codes {codes.shape} do not fit together")
    if codes.dtype.kind not in "iu":
        raise TypeError(f"codes must be integers, found {codes.dtype}")
    rows = group_rows(values.shape[1])
    return rechunk(values, (rows, -1)), rechunk(codes, (rows,))


def group_totals(values: da.Array, codes: da.Array, /, *, n_categories: int) -> da.Array:
    """Sum finite cells per category.

    Parameters
    ----------
    values, codes
        See :func:`on_grid`, which they come from.
    n_categories
        Number of categories.

    Returns
    -------
    da.Array
        Lazy float64 (n_categories, d + 1), one block: sums, then the count of cells.
    """
    shape = (n_categories, values.shape[1] + 1)
    part = partial(block_sums, n_categories=n_categories)
    return _sum_blocks(part, shape, values, codes)


def group_inlier_totals(
    values: da.Array, codes: da.Array, distances: da.Array, limits: da.Array, /
) -> da.Array:
    """Sum the cells that lie within their category's limit.

    Parameters
    ----------
    values, codes
        See :func:`on_grid`, which they come from.
    distances
        See :func:`group_distances`.
    limits
        Lazy float64 (n_categories,).

    Returns
    -------
    da.Array
        Lazy float64 (n_categories, d + 1), one block: sums, then the count of cells.
    """
    shape = (limits.shape[0], values.shape[1] + 1)
    return _sum_blocks(inlier_sums, shape, values, codes, distances, "i", limits, "m")


def group_distances(values: da.Array, codes: da.Array, totals: da.Array, /) -> da.Array:
    """Measure each cell's distance to the mean of its category.

    Parameters
    ----------
    values, codes
        See :func:`on_grid`, which they come from.
    totals
        See :func:`group_totals`.

    Returns
    -------
    da.Array
        float64 (n_cells,) in the grid's chunks, NaN for cells that take no part.
    """
    columns = values.shape[1]
    means = map_indexed(
        category_means, "kj", totals, "kj", adjust_chunks={"j": columns}, dtype=np.float64
    )
    # The column axis is kept, one long, so that dask hands blocks over as they are.
    distances = map_indexed(
        block_distances,
        "ij",
        values,
        "ij",
        codes,
        "i",
        means,
        "km",
        adjust_chunks={"j": 1},
        dtype=np.float64,
    )
    flat: da.Array = distances[:, 0]
    return flat


def _sum_blocks(
    function: Any, shape: tuple[int, int], values: da.Array, codes: da.Array, *others: Any
) -> da.Array:
    stacked = map_indexed(
        function,
        "ikj",
        values,
        "ij",
        codes,
        "i",
        *others,
        new_axes={"k": shape[0]},
        adjust_chunks={"i": 1, "j": shape[1]},
        dtype=np.float64,
    )
    total = reduce_rows(stacked, _keep, _add, _add, output_size=1, dtype=np.float64)
    whole: da.Array = total[0]
    return whole


def _keep(part: npt.NDArray[np.float64], **_: Any) -> npt.NDArray[np.float64]:
    return part


def _add(parts: npt.NDArray[np.float64], **_: Any) -> npt.NDArray[np.float64]:
    total: npt.NDArray[np.float64] = parts.sum(axis=0, keepdims=True)
    return total
