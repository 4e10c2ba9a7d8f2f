"""Quantiles and ranks of distances within categories, in NumPy.

Categories are sorted in batches of a bounded number of cells, and a larger category by itself: no
loop over categories, and beside its distances no more than eight bytes for a cell of the largest.
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


# Cells looked at once where all are looked through.
STEP_CELLS = 2**18


class Batch(NamedTuple):
    """Some neighbouring categories.

    Attributes
    ----------
    categories
        Which, as a slice.
    sizes
        Cells of each category.
    """

    categories: slice
    sizes: npt.NDArray[np.intp]

    @property
    def starts(self) -> npt.NDArray[np.intp]:
        """Where each category starts among the batch's cells."""
        return np.cumsum(self.sizes) - self.sizes

    def inside(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Tell which codes are of these categories."""
        inside: npt.NDArray[np.bool_] = codes >= self.categories.start
        inside &= codes < self.categories.stop
        return inside


def batches(
    distances: npt.NDArray[np.float64],
    codes: npt.NDArray[Any],
    /,
    *,
    n_categories: int,
    batch_cells: int = BATCH_CELLS,
) -> Iterator[Batch]:
    """Group neighbouring categories.

    Parameters
    ----------
    distances
        float64 (n_cells,), NaN for a cell that takes no part (every missing code is one).
    codes
        Integers (n_cells,).
    n_categories
        Number of categories.
    batch_cells
        Cells of a batch at most, or a ``MAX_BATCHES``-th of all; a larger category is one by
        itself.

    Yields
    ------
    Batch
        Categories in their order.
    """
    sizes = np.zeros(n_categories, dtype=np.intp)
    for step in _steps(len(codes)):
        taking_part = codes[step][~np.isnan(distances[step])]
        sizes += np.bincount(taking_part.astype(np.intp), minlength=n_categories)
    ends = np.cumsum(sizes)
    batch_cells = max(batch_cells, len(distances) // MAX_BATCHES)
    first, done = 0, 0
    while first < n_categories:
        last = max(int(np.searchsorted(ends, done + batch_cells, side="right")), first + 1)
        yield Batch(slice(first, last), sizes[first:last])
        first, done = last, int(ends[last - 1])


def _steps(n_cells: int) -> Iterator[slice]:
    return (slice(low, low + STEP_CELLS) for low in range(0, n_cells, STEP_CELLS))


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
    for batch in batches(distances, codes, n_categories=n_categories):
        if len(batch.sizes) == 1:
            ordered = _sorted_alone(distances, codes, batch)
        else:
            ordered = _sorted_cells(distances, codes, batch)[1]
        filled = batch.sizes > 0
        last = batch.sizes[filled] - 1
        starts = batch.starts[filled]
        place = last * quantile
        below = np.floor(place).astype(np.intp)
        lower = ordered[starts + below]
        upper = ordered[starts + np.minimum(below + 1, last)]
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
    for batch in batches(distances, codes, n_categories=n_categories):
        # A size is rounded to float32 here as it is in the reference's float32 / int.
        sizes = np.where(batch.sizes >= min_points, batch.sizes, np.nan).astype(np.float32)
        if len(sizes) == 1 and batch.sizes[0] > STEP_CELLS:
            for cells, ranks in _ranks_alone(distances, codes, batch):
                quantiles[cells] = ranks / sizes
            continue
        cells, ordered = _sorted_cells(distances, codes, batch)
        before = np.repeat(batch.starts, batch.sizes)
        ranks = (_run_ends(ordered, batch.starts) - before).astype(np.float32)
        quantiles[cells] = ranks / np.repeat(sizes, batch.sizes)
    return quantiles


def _sorted_cells(
    distances: npt.NDArray[np.float64], codes: npt.NDArray[Any], batch: Batch
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Sort a batch's cells by category, then by distance; return their numbers and distances."""
    inside = batch.inside(codes)
    inside &= ~np.isnan(distances)
    cells = np.flatnonzero(inside)
    own, found = codes[cells], distances[cells]
    if len(own) and own.max() <= np.iinfo(np.uint16).max:
        # NumPy sorts 16-bit integers by radix, a stable sort in linear time.
        own = own.astype(np.uint16)
    by_distance = np.argsort(found)
    order = by_distance[np.argsort(own[by_distance], kind="stable")]
    return cells[order], found[order]


def _sorted_alone(
    distances: npt.NDArray[np.float64], codes: npt.NDArray[Any], batch: Batch
) -> npt.NDArray[np.float64]:
    """Sort the distances of a single category."""
    ordered = np.empty(batch.sizes[0])
    end = 0
    for step in _steps(len(codes)):
        found = distances[step][batch.inside(codes[step])]
        found = found[~np.isnan(found)]
        start, end = end, end + len(found)
        ordered[start:end] = found
    ordered.sort()
    return ordered


def _ranks_alone(
    distances: npt.NDArray[np.float64], codes: npt.NDArray[Any], batch: Batch
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]]:
    """Rank the cells of a single category, some cells at a time: numbers and ranks, in any order.

    Takes a third of the memory of sorting the cells themselves, and less time.
    """
    ordered = _sorted_alone(distances, codes, batch)
    for step in _steps(len(codes)):
        inside = batch.inside(codes[step])
        inside &= ~np.isnan(distances[step])
        cells = np.flatnonzero(inside) + step.start
        # Looked up in their order, so that neighbours are found in the same place.
        cells = cells[np.argsort(distances[cells])]
        yield cells, np.searchsorted(ordered, distances[cells], side="right").astype(np.float32)


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
