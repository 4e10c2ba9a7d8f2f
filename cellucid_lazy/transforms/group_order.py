"""Quantiles and ranks of distances within categories, in NumPy.

Categories are sorted in batches of a bounded number of cells: no loop over categories, and no
temporaries as long as the dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

# Cells sorted at once, few enough for the processor's cache; only a category larger exceeds it.
BATCH_CELLS = 2**17
# Each batch looks through all codes, so that batches grow rather than be more than this.
MAX_BATCHES = 32


class SortedBatch(NamedTuple):
    """Some neighbouring categories, their cells sorted by category, then by distance.

    Attributes
    ----------
    categories
        Which categories, as a slice.
    sizes
        Cells of each category.
    starts
        Where each category starts among the cells.
    cells
        Cell numbers.
    distances
        Their distances.
    """

    categories: slice
    sizes: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    cells: npt.NDArray[np.intp]
    distances: npt.NDArray[np.float64]


def sorted_batches(
    distances: npt.NDArray[np.float64],
    codes: npt.NDArray[Any],
    /,
    *,
    n_categories: int,
    batch_cells: int = BATCH_CELLS,
) -> Iterator[SortedBatch]:
    """Sort the cells of all categories, some categories at a time.

    Parameters
    ----------
    distances
        float64 (n_cells,), NaN for a cell that takes no part (every missing code is one).
    codes
        Integers (n_cells,).
    n_categories
        Number of categories.
    batch_cells
        Cells sorted at once, at least a ``MAX_BATCHES``-th of all.

    Yields
    ------
    SortedBatch
        Categories in their order.
    """
    part = ~np.isnan(distances)
    sizes = np.bincount(codes[part].astype(np.intp), minlength=n_categories)
    ends = np.cumsum(sizes)
    batch_cells = max(batch_cells, len(distances) // MAX_BATCHES)
    first, done = 0, 0
    while first < n_categories:
        last = max(int(np.searchsorted(ends, done + batch_cells, side="right")), first + 1)
        cells = np.flatnonzero(part & (codes >= first) & (codes < last))
        batch = sizes[first:last]
        yield SortedBatch(
            slice(first, last),
            batch,
            np.cumsum(batch) - batch,
            *_sort_cells(cells, codes[cells], distances[cells]),
        )
        first, done = last, int(ends[last - 1])


def category_quantiles(
    distances: npt.NDArray[np.float64],
    codes: npt.NDArray[Any],
    /,
    *,
    n_categories: int,
    quantile: float,
) -> npt.NDArray[np.float64]:
    """Find a quantile of each category's distances, as ``numpy.quantile`` does by default.

    Parameters
    ----------
    distances
        float64 (n_cells,), NaN for a cell that takes no part.
    codes
        Integers (n_cells,).
    n_categories
        Number of categories.
    quantile
        0 to 1.

    Returns
    -------
    numpy.ndarray
        float64 (n_categories,), NaN for a category without cells.
    """
    quantiles = np.full(n_categories, np.nan)
    for batch in sorted_batches(distances, codes, n_categories=n_categories):
        filled = batch.sizes > 0
        last = batch.sizes[filled] - 1
        starts = batch.starts[filled]
        place = last * quantile
        below = np.floor(place).astype(np.intp)
        lower = batch.distances[starts + below]
        upper = batch.distances[starts + np.minimum(below + 1, last)]
        quantiles[batch.categories][filled] = _interpolate(lower, upper, place - below)
    return quantiles


def rank_quantiles(
    distances: npt.NDArray[np.float64],
    codes: npt.NDArray[Any],
    /,
    *,
    n_categories: int,
    min_points: int,
) -> npt.NDArray[np.float32]:
    """Rank each cell's distance within its category and divide by the category's size.

    Parameters
    ----------
    distances
        float64 (n_cells,), NaN for a cell that takes no part.
    codes
        Integers (n_cells,).
    n_categories
        Number of categories.
    min_points
        Cells a category must have.

    Returns
    -------
    numpy.ndarray
        float32 (n_cells,) above 0 and up to 1, equal distances with the highest rank; NaN for a
        cell that takes no part and in smaller categories.
    """
    quantiles = np.full(len(codes), np.nan, dtype=np.float32)
    for batch in sorted_batches(distances, codes, n_categories=n_categories):
        starts = np.repeat(batch.starts, batch.sizes)
        ranks = (_run_ends(batch.distances, batch.starts) - starts).astype(np.float32)
        # A size is rounded to float32 here as it is in the reference's float32 / int.
        sizes = np.where(batch.sizes >= min_points, batch.sizes, np.nan).astype(np.float32)
        quantiles[batch.cells] = ranks / np.repeat(sizes, batch.sizes)
    return quantiles


def _sort_cells(
    cells: npt.NDArray[np.intp], codes: npt.NDArray[Any], distances: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    if len(codes) and codes.max() <= np.iinfo(np.uint16).max:
        # NumPy sorts 16-bit integers by radix, a stable sort in linear time.
        codes = codes.astype(np.uint16)
    by_distance = np.argsort(distances)
    order = by_distance[np.argsort(codes[by_distance], kind="stable")]
    return cells[order], distances[order]


def _interpolate(
    lower: npt.NDArray[np.float64], upper: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Interpolate from the nearer end, which is how NumPy's quantile rounds."""
    with np.errstate(invalid="ignore"):
        gap = upper - lower
        return np.where(weight < 0.5, lower + gap * weight, upper - gap * (1 - weight))


def _run_ends(
    distances: npt.NDArray[np.float64], starts: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Return for each cell where the run of its distance within its category ends."""
    n_cells = len(distances)
    first = np.ones(n_cells, dtype=np.bool_)
    first[1:] = distances[1:] != distances[:-1]
    first[starts[starts < n_cells]] = True
    run_starts = np.flatnonzero(first)
    ends = np.append(run_starts, n_cells)[1:]
    return np.repeat(ends, ends - run_starts)
