"""Sums per category, distances of cells to the mean of their category, and ranks of distances.

A cell takes part in its category if its code is from 0 to n_categories - 1 and all its values are
finite. Sums are float64 (n_categories, d + 1): the sum of each column, then the number of cells.
Distances are float64 (n_cells,), NaN for a cell that takes no part.

Results are the same to the last bit for all chunks, schedulers and workers. Float sums depend on
the order of their terms, so cells are added in order within ranges of rows, which depend on the
number of columns alone, and ranges are added by a tree that depends on their number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.graph import map_row_ranges, merge_tree, spillable, whole_rows

# Rows per range, counted from row 0; fewer where rows are wide.
GROUP_ROWS = 2**18
_RANGE_VALUES = 2**22
# Values that are converted to float64 at once. Sums depend on it in their last digits.
_STEP_VALUES = 2**17
# Cells that are ranked at once, few enough for the processor's cache.
_STEP_CELLS = 2**16


class Groups(NamedTuple):
    """Values by category, as lazy arrays.

    Attributes
    ----------
    values, codes
        Real numbers (n_cells, d), chunked along rows only, and integers (n_cells,).
    sums
        float64 (n_categories, d + 1), one block.
    distances
        float64 (n_cells,), NaN for a cell that takes no part.
    """

    values: da.Array
    codes: da.Array
    sums: da.Array
    distances: da.Array


def measure_groups(
    values: da.Array,
    codes: da.Array,
    /,
    *,
    n_categories: int,
    values_again: da.Array | None = None,
) -> Groups:
    """Sum the cells of each category, and measure their distances to its mean.

    Parameters
    ----------
    values
        Real numbers (n_cells, d), any chunks.
    codes
        Integers (n_cells,), any chunks.
    n_categories
        Number of categories.
    values_again
        The same values under other task names, for the distances.

    Returns
    -------
    Groups
        All but the sums are marked as spillable. Equal arrays give equal task names.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    TypeError
        If `codes` are not integers.
    """
    again = values if values_again is None else values_again
    _check_groups(values, codes)
    _check_groups(again, codes)
    rows, groups = spillable(whole_rows(values)), spillable(codes)
    again = spillable(whole_rows(again))
    part = partial(_block_sums, n_categories=n_categories)
    sums = _add_ranges(part, (rows, groups), n_categories)
    # A distance depends on its own cell only, so blocks can be as they are.
    arrays, lengths = (again, groups), again.chunks[0]
    distances = map_row_ranges(
        _block_distances, lengths, arrays=arrays, broadcast=(sums,), dtype=np.float64
    )
    return Groups(rows, groups, sums, spillable(distances))


def group_inlier_sums(groups: Groups, limits: da.Array, /) -> da.Array:
    """Sum the cells whose distance is at most the limit of their category.

    Limits are float64 (n_categories,); the sums are one block.
    """
    arrays = (groups.values, groups.codes, groups.distances)
    return _add_ranges(inlier_sums, arrays, limits.shape[0], (limits,))


def is_one_range(values: da.Array, codes: da.Array, /) -> bool:
    """Check the arrays, and return whether each is one block of no more rows than a range.

    All is then computed by one task, which halves the time of a small export.
    """
    _check_groups(values, codes)
    n_rows, n_columns = values.shape
    is_single = values.numblocks == (1, 1) and codes.numblocks == (1,)
    return bool(is_single and n_rows <= group_rows(n_columns))


def group_rows(n_columns: int, /) -> int:
    """Return the rows per range for rows of `n_columns` values."""
    return min(GROUP_ROWS, max(1024, _RANGE_VALUES // max(1, n_columns)))


def _check_groups(values: da.Array, codes: da.Array) -> None:
    if values.ndim != 2 or codes.shape != values.shape[:1]:
        raise ValueError(f"values {values.shape} and codes {codes.shape} do not fit together")
    if codes.dtype.kind not in "iu":
        raise TypeError(f"codes must be integers, found {codes.dtype}")


def _add_ranges(
    function: Callable[..., Any],
    arrays: Sequence[da.Array],
    n_categories: int,
    broadcast: Sequence[da.Array] = (),
) -> da.Array:
    n_columns = arrays[0].shape[1]
    rows, shape = group_rows(n_columns), (n_categories, n_columns + 1)
    parts = map_row_ranges(
        function, rows, arrays=arrays, broadcast=broadcast, shape=shape, dtype=np.float64
    )
    return merge_tree(parts, _add, shape=shape, dtype=np.float64)


def _add(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def measure_block(
    values: NDArray[Any], codes: NDArray[Any], /, *, n_categories: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums and distances of a block in memory, as `measure_groups` does."""
    sums = _block_sums(values, codes, n_categories=n_categories)
    return sums, _block_distances(values, codes, sums)


def inlier_sums(
    values: NDArray[Any],
    codes: NDArray[Any],
    distances: NDArray[np.float64],
    limits: NDArray[np.float64],
    /,
) -> NDArray[np.float64]:
    """Sum the cells of a block in memory as `group_inlier_sums` does."""
    n_categories = len(limits)
    categories = _categories_of(codes, n_categories)
    outside = ~(distances <= np.append(limits, np.nan)[categories])
    categories[outside] = n_categories
    return _sum_by_category(values, categories, n_categories)


def category_means(sums: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Divide sums by the number of cells; NaN for a category without cells."""
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = sums[:, :-1] / sums[:, -1:]
    return means


def _categories_of(codes: NDArray[Any], n_categories: int) -> NDArray[np.int32]:
    """Make a new array of the category of each cell, `n_categories` for missing ones."""
    categories = codes.astype(np.int32)
    categories[(codes < 0) | (codes >= n_categories)] = n_categories
    return categories


def _block_sums(
    values: NDArray[Any], codes: NDArray[Any], *, n_categories: int
) -> NDArray[np.float64]:
    categories = _categories_of(codes, n_categories)
    sums = _sum_by_category(values, categories, n_categories)
    # A value that is not finite makes its sum not finite, so values need not be checked first.
    if not np.isfinite(sums).all():
        categories[~np.isfinite(values).all(axis=1)] = n_categories
        sums = _sum_by_category(values, categories, n_categories)
    return sums


def _sum_by_category(
    values: NDArray[Any], categories: NDArray[np.int32], n_categories: int
) -> NDArray[np.float64]:
    """Sum and count the cells of each category."""
    n_columns = values.shape[1]
    sums = np.zeros((n_categories + 1, n_columns + 1))
    sums[:, -1] = np.bincount(categories, minlength=n_categories + 1)
    # A step makes sums of all categories, so it has at least as many rows as there are categories.
    step = max(_STEP_VALUES // (n_columns + 1), n_categories, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _steps(len(categories), step):
            own = categories[rows]
            # Column i of the one-hot matrix is cell i, so that the product adds cells in their
            # order. The last row is of cells that take no part.
            one_hot = sparse.csc_array(
                (np.ones(len(own)), own, np.arange(len(own) + 1, dtype=np.int32)),
                shape=(n_categories + 1, len(own)),
            )
            sums[:, :-1] += one_hot @ values[rows].astype(np.float64, order="C")
    return sums[:-1]


def _block_distances(
    values: NDArray[Any], codes: NDArray[Any], sums: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Measure Euclidean distances; NaN for a missing code and where a value is not finite."""
    n_categories, n_columns = sums.shape[0], values.shape[1]
    categories = _categories_of(codes, n_categories)
    # Missing codes have the last row: a distance to NaN is NaN.
    means = np.append(category_means(sums), np.full((1, n_columns), np.nan), axis=0)
    distances = np.empty(len(categories))
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _steps(len(categories), max(_STEP_VALUES // max(n_columns, 1), 1)):
            offsets = means[categories[rows]]
            np.subtract(values[rows], offsets, out=offsets)
            np.einsum("ij,ij->i", offsets, offsets, out=distances[rows])
    np.sqrt(distances, out=distances)
    if not np.isfinite(distances).all():
        # The distance of an infinite value is infinite, but its cell takes no part.
        distances[(categories == n_categories) | ~np.isfinite(values).all(axis=1)] = np.nan
    return distances


def category_quantiles(
    distances: NDArray[np.float64], codes: NDArray[Any], /, *, n_categories: int, quantile: float
) -> NDArray[np.float64]:
    """Find a quantile of each category's distances, as ``numpy.quantile`` does by default.

    It takes 4 bytes per cell, and 8 per cell of the largest category.

    Returns
    -------
    numpy.ndarray
        float64 (n_categories,), NaN for a category without cells.
    """
    lower, upper, weight = (np.full(n_categories, np.nan) for _ in range(3))
    for category, cells in _members(distances, codes, n_categories):
        position = (len(cells) - 1) * quantile
        below = int(position)
        above = min(below + 1, len(cells) - 1)
        found = _take(distances, cells)
        found.partition((below, above))
        lower[category], upper[category] = found[below], found[above]
        weight[category] = position - below
    # NumPy interpolates from the nearer value as well, and rounding depends on it.
    with np.errstate(invalid="ignore"):
        gap = upper - lower
        quantiles: NDArray[np.float64] = np.where(
            weight < 0.5, lower + gap * weight, upper - gap * (1 - weight)
        )
    return quantiles


def rank_quantiles(
    distances: NDArray[np.float64], codes: NDArray[Any], /, *, n_categories: int, min_points: int
) -> NDArray[np.float32]:
    """Rank each cell's distance within its category and divide by the category's size.

    It takes as much memory as `category_quantiles`.

    Returns
    -------
    numpy.ndarray
        float32 (n_cells,) above 0 and up to 1, equal distances with the highest rank; NaN for a
        cell that takes no part, and in categories of fewer than `min_points` cells.
    """
    quantiles = np.full(len(codes), np.nan, dtype=np.float32)
    for _, members in _members(distances, codes, n_categories, min_points):
        ordered = _take(distances, members)
        ordered.sort()
        # In float32, which is how the reference divides.
        size = np.float32(len(members))
        for step in _steps(len(members), _STEP_CELLS):
            # Sorted, so that successive searches use the same memory.
            cells = members[step][np.argsort(distances[members[step]])]
            ranks = np.searchsorted(ordered, distances[cells], side="right")
            quantiles[cells] = ranks.astype(np.float32) / size
    return quantiles


def _members(
    distances: NDArray[np.float64], codes: NDArray[Any], n_categories: int, min_points: int = 1
) -> Iterator[tuple[int, NDArray[np.unsignedinteger[Any]]]]:
    """Yield each category of at least `min_points` cells, and the cells that take part in it."""

    def categories(step: slice) -> NDArray[Any]:
        # NumPy sorts 16-bit integers by radix, a stable sort in linear time.
        found = codes[step].astype(np.uint16 if n_categories < 2**16 else np.int64)
        found[np.isnan(distances[step])] = n_categories
        return found

    sizes = np.zeros(n_categories + 1, dtype=np.intp)
    for step in _steps(len(codes), _STEP_CELLS):
        sizes += np.bincount(categories(step), minlength=n_categories + 1)
    starts = np.cumsum(sizes) - sizes
    cells = np.empty(len(codes), dtype=np.min_scalar_type(len(codes)))
    free = starts.copy()
    for step in _steps(len(codes), _STEP_CELLS):
        own = categories(step)
        counts = np.bincount(own, minlength=n_categories + 1)
        targets = np.repeat(free - np.cumsum(counts) + counts, counts) + np.arange(len(own))
        cells[targets] = np.argsort(own, kind="stable") + step.start
        free += counts
    for category in np.flatnonzero(sizes[:-1] >= max(min_points, 1)).tolist():
        yield category, cells[starts[category] : starts[category] + sizes[category]]


def _take(
    distances: NDArray[np.float64], cells: NDArray[np.unsignedinteger[Any]]
) -> NDArray[np.float64]:
    """Index some cells at a time: NumPy converts indices to 8 bytes each."""
    taken = np.empty(len(cells))
    for step in _steps(len(cells), _STEP_CELLS):
        taken[step] = distances[cells[step]]
    return taken


def _steps(n_rows: int, step: int) -> Iterator[slice]:
    return (slice(first, first + step) for first in range(0, n_rows, step))
