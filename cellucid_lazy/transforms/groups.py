"""Sums and distances per category over one block of cells, in NumPy.

A cell takes part in its category if its code is one (0 to n_categories - 1) and all its values are
finite. Sums run in float64, in the order of the cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    import numpy.typing as npt

# Rows whose float64 differences are held at once: they stay in the processor's cache.
_ROWS_AT_ONCE = 2048


def category_labels(codes: npt.NDArray[Any], /, *, n_categories: int) -> npt.NDArray[np.int32]:
    """Give every missing code the number after the last category.

    Parameters
    ----------
    codes
        Integers (rows,); missing below 0 and from `n_categories` on.
    n_categories
        Number of categories.

    Returns
    -------
    numpy.ndarray
        int32 (rows,) of 0 to `n_categories`.
    """
    known = (codes >= 0) & (codes < n_categories)
    return np.where(known, codes, n_categories).astype(np.int32)


def category_sums(
    values: npt.NDArray[Any], labels: npt.NDArray[np.int32], /, *, n_categories: int
) -> npt.NDArray[np.float64]:
    """Sum values per category, and count its cells.

    Parameters
    ----------
    values
        Real numbers (rows, d).
    labels
        int32 (rows,), `n_categories` for a cell that takes no part.
    n_categories
        Number of categories.

    Returns
    -------
    numpy.ndarray
        float64 (n_categories, d + 1): sums, then the count of cells.
    """
    rows, columns = values.shape
    # Column i of the one-hot matrix is cell i, so that the product runs over cells in their order;
    # cells that take no part are added to a row that is thrown away.
    one_hot = sparse.csc_array(
        (np.ones(rows), labels, np.arange(rows + 1, dtype=np.int32)), shape=(n_categories + 1, rows)
    )
    sums = np.empty((n_categories, columns + 1))
    with np.errstate(over="ignore", invalid="ignore"):
        sums[:, :-1] = (one_hot @ values.astype(np.float64, copy=False))[:-1]
    sums[:, -1] = np.bincount(labels, minlength=n_categories + 1)[:-1]
    return sums


def block_sums(
    values: npt.NDArray[Any], codes: npt.NDArray[Any], /, *, n_categories: int
) -> npt.NDArray[np.float64]:
    """Sum the finite cells of a block per category.

    Parameters
    ----------
    values
        Real numbers (rows, d).
    codes
        Integers (rows,), see :func:`category_labels`.
    n_categories
        Number of categories.

    Returns
    -------
    numpy.ndarray
        float64 (1, n_categories, d + 1), ready to be stacked: sums, then the count of cells.
    """
    labels = category_labels(codes, n_categories=n_categories)
    if not np.isfinite(values).all():
        labels[~np.isfinite(values).all(axis=1)] = n_categories
    return category_sums(values, labels, n_categories=n_categories)[np.newaxis]


def inlier_sums(
    values: npt.NDArray[Any],
    codes: npt.NDArray[Any],
    distances: npt.NDArray[np.float64],
    limits: npt.NDArray[np.float64],
    /,
) -> npt.NDArray[np.float64]:
    """Sum the cells of a block that lie within their category's limit.

    Parameters
    ----------
    values
        Real numbers (rows, d).
    codes
        Integers (rows,), see :func:`category_labels`.
    distances
        float64 (rows,), NaN for a cell that takes no part.
    limits
        float64 (n_categories,): the largest distance that counts.

    Returns
    -------
    numpy.ndarray
        float64 (1, n_categories, d + 1), ready to be stacked: sums, then the count of cells.
    """
    n_categories = len(limits)
    labels = category_labels(codes, n_categories=n_categories)
    outside = ~(distances <= np.append(limits, np.nan)[labels])
    labels[outside] = n_categories
    return category_sums(values, labels, n_categories=n_categories)[np.newaxis]


def category_means(totals: npt.NDArray[np.float64], /) -> npt.NDArray[np.float64]:
    """Divide sums by counts.

    Parameters
    ----------
    totals
        float64 (n_categories, d + 1): sums, then the count of cells.

    Returns
    -------
    numpy.ndarray
        float64 (n_categories, d), NaN for a category without cells.
    """
    with np.errstate(invalid="ignore"):
        means: npt.NDArray[np.float64] = totals[:, :-1] / totals[:, -1:]
    return means


def block_distances(
    values: npt.NDArray[Any], codes: npt.NDArray[Any], means: npt.NDArray[np.float64], /
) -> npt.NDArray[np.float64]:
    """Measure each cell's Euclidean distance to the mean of its category.

    Parameters
    ----------
    values
        Real numbers (rows, d).
    codes
        Integers (rows,), see :func:`category_labels`.
    means
        float64 (n_categories, d).

    Returns
    -------
    numpy.ndarray
        float64 (rows, 1); NaN for a missing code and where a value is not finite.
    """
    labels = category_labels(codes, n_categories=len(means))
    targets = np.vstack([means, np.full((1, means.shape[1]), np.nan)])
    squares = np.empty(len(values))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(values), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            offsets = values[rows] - targets[labels[rows]]
            np.einsum("ij,ij->i", offsets, offsets, out=squares[rows])
    distances = np.sqrt(squares)
    if not np.isfinite(distances).all():
        # An infinite value is infinitely far from everything, yet it is no cell of the category.
        distances[(labels == len(means)) | ~np.isfinite(values).all(axis=1)] = np.nan
    return distances[:, np.newaxis]
