"""Sums, means and distances per category, lazily.

Law: chunks, scheduler and workers never change a byte. Float sums depend on the order of their
terms, so every sum runs over one grid of rows that depends on the array's shape alone, and the
grid's blocks are added by a tree that depends on their number alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.transforms.blocks import map_rows, merge_tree, whole_rows
from cellucid_lazy.transforms.groups import block_distances, block_sums, inlier_sums

if TYPE_CHECKING:
    from collections.abc import Callable

    import dask.array as da
    import numpy.typing as npt

# Rows per block of the grid, counted from row 0; fewer where rows are wide.
GROUP_ROWS = 2**18
_GROUP_VALUES = 2**22


def group_rows(n_columns: int, /) -> int:
    """Return the rows per block of the grid for rows of `n_columns` values."""
    return min(GROUP_ROWS, max(1024, _GROUP_VALUES // max(1, n_columns)))


def check_groups(values: da.Array, codes: da.Array, /) -> da.Array:
    """Check that values and codes belong together, and chunk values along rows only.

    Parameters
    ----------
    values
        Real numbers (n_cells, d), any chunks.
    codes
        Integers (n_cells,), any chunks.

    Returns
    -------
    da.Array
        `values`, chunked along rows only; equal values give equal task names.

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
    return whole_rows(values)


def group_totals(values: da.Array, codes: da.Array, /, *, n_categories: int) -> da.Array:
    """Sum finite cells per category.

    Parameters
    ----------
    values
        See :func:`check_groups`.
    codes
        Integers (n_cells,), any chunks.
    n_categories
        Number of categories.

    Returns
    -------
    da.Array
        Lazy float64 (n_categories, d + 1), one block: sums, then the count of cells.
    """
    part = partial(block_sums, n_categories=n_categories)
    return _add_blocks(part, values, codes, n_categories=n_categories)


def group_inlier_totals(
    values: da.Array, codes: da.Array, distances: da.Array, limits: da.Array, /
) -> da.Array:
    """Sum the cells that lie within their category's limit.

    Parameters
    ----------
    values
        See :func:`check_groups`.
    codes
        Integers (n_cells,), any chunks.
    distances
        See :func:`group_distances`.
    limits
        Lazy float64 (n_categories,).

    Returns
    -------
    da.Array
        Lazy float64 (n_categories, d + 1), one block: sums, then the count of cells.
    """
    n_categories = limits.shape[0]
    return _add_blocks(
        inlier_sums, values, codes, distances, n_categories=n_categories, whole=(limits,)
    )


def group_distances(values: da.Array, codes: da.Array, totals: da.Array, /) -> da.Array:
    """Measure each cell's distance to the mean of its category.

    Parameters
    ----------
    values
        See :func:`check_groups`.
    codes
        Integers (n_cells,), any chunks.
    totals
        See :func:`group_totals`.

    Returns
    -------
    da.Array
        float64 (n_cells,) in the chunks of `values`, NaN for cells that take no part.
    """
    # Each cell's distance is its own: no grid, so that no block waits for the next one.
    return map_rows(
        block_distances,
        values.chunks[0],
        pieces=(values,),
        joined=(codes,),
        whole=(totals,),
        dtype=np.float64,
    )


def _add_blocks(
    function: Callable[..., Any],
    values: da.Array,
    *joined: da.Array,
    n_categories: int,
    whole: tuple[da.Array, ...] = (),
) -> da.Array:
    shape = (n_categories, values.shape[1] + 1)
    parts = map_rows(
        function,
        group_rows(values.shape[1]),
        pieces=(values,),
        joined=joined,
        whole=whole,
        shape=shape,
        dtype=np.float64,
    )
    return merge_tree(parts, _add, shape=shape, dtype=np.float64)


def _add(parts: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
