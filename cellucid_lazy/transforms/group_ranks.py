"""Quantiles and ranks of distances within categories, in NumPy.

Distances are float64 (n_cells,), NaN for a cell that takes no part, such as one without a code. A
call takes 4 bytes per cell, and 8 per cell of the largest category. All else is handled some cells
at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Cells handled at once, few enough for the processor's cache.
_STEP_CELLS = 2**16


def category_quantiles(
    distances: NDArray[np.float64], codes: NDArray[Any], /, *, n_categories: int, quantile: float
) -> NDArray[np.float64]:
    """Find a quantile of each category's distances, as ``numpy.quantile`` does by default.

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
        for step in _steps(len(members)):
            # Sorted, so that successive searches use the same memory.
            cells = members[step][np.argsort(distances[members[step]])]
            ranks = np.searchsorted(ordered, distances[cells], side="right")
            quantiles[cells] = ranks.astype(np.float32) / size
    return quantiles


def _members(
    distances: NDArray[np.float64], codes: NDArray[Any], n_categories: int, min_points: int = 1
) -> Iterator[tuple[int, NDArray[np.unsignedinteger[Any]]]]:
    """Yield each category of at least `min_points` cells, and the cells that take part in it."""

    def labels(step: slice) -> NDArray[Any]:
        # NumPy sorts 16-bit integers by radix, a stable sort in linear time.
        found = codes[step].astype(np.uint16 if n_categories < 2**16 else np.int64)
        found[np.isnan(distances[step])] = n_categories
        return found

    sizes = np.zeros(n_categories + 1, dtype=np.intp)
    for step in _steps(len(codes)):
        sizes += np.bincount(labels(step), minlength=n_categories + 1)
    starts = np.cumsum(sizes) - sizes
    cells = np.empty(len(codes), dtype=np.min_scalar_type(len(codes)))
    free = starts.copy()
    for step in _steps(len(codes)):
        own = labels(step)
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
    for step in _steps(len(cells)):
        taken[step] = distances[cells[step]]
    return taken


def _steps(n_cells: int) -> Iterator[slice]:
    return (slice(first, first + _STEP_CELLS) for first in range(0, n_cells, _STEP_CELLS))
