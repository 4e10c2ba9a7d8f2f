"""Sums and distances per category over one block of cells, in NumPy.

A cell takes part in its category if its code is one (0 to n_categories - 1) and all its values are
finite. Sums run in float64, in the order of the cells, over steps of rows that the number of
columns and categories alone decide.

Values come in pieces that lie below each other, arrays or what waits elsewhere. They are widened to
float64 step by step, in one buffer that stays in the processor's cache: copies as long as the block
cost more than the sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from cellucid_lazy.transforms.keeping import Kept

# Values that are widened to float64 at once.
_STEP_VALUES = 2**17


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
    labels = codes.astype(np.int32)
    labels[(codes < 0) | (codes >= n_categories)] = n_categories
    return labels


def category_sums(
    pieces: Sequence[npt.NDArray[Any] | Kept],
    labels: npt.NDArray[np.int32],
    /,
    *,
    n_categories: int,
) -> npt.NDArray[np.float64]:
    """Sum values per category, and count its cells.

    Parameters
    ----------
    pieces
        Real numbers (rows, d), in parts.
    labels
        int32 (rows,), `n_categories` for a cell that takes no part.
    n_categories
        Number of categories.

    Returns
    -------
    numpy.ndarray
        float64 (n_categories, d + 1): sums, then the count of cells.
    """
    columns = pieces[0].shape[1] + 1
    # A step makes sums of all categories, so it has at least as many rows as there are categories.
    step = min(max(_STEP_VALUES // columns, n_categories, 1), max(len(labels), 1))
    buffer = np.empty((step, columns))
    buffer[:, -1] = 1  # counts are sums of ones
    ones, pointers = np.ones(step), np.arange(step + 1, dtype=np.int32)
    sums = np.zeros((n_categories + 1, columns))
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, n in _widened(pieces, buffer[:, :-1]):
            # Column i of the one-hot matrix is cell i, so that the product runs over cells in
            # their order; cells that take no part are added to a row that is thrown away.
            one_hot = sparse.csc_array(
                (ones[:n], labels[rows], pointers[: n + 1]), shape=(n_categories + 1, n)
            )
            sums += one_hot @ buffer[:n]
    return sums[:-1]


def block_sums(
    pieces: Sequence[npt.NDArray[Any] | Kept], codes: npt.NDArray[Any], /, *, n_categories: int
) -> npt.NDArray[np.float64]:
    """Sum the finite cells of a block per category.

    Parameters
    ----------
    pieces
        Real numbers (rows, d), in parts.
    codes
        Integers (rows,), see :func:`category_labels`.
    n_categories
        Number of categories.

    Returns
    -------
    numpy.ndarray
        float64 (n_categories, d + 1), see :func:`category_sums`.
    """
    labels = category_labels(codes, n_categories=n_categories)
    sums = category_sums(pieces, labels, n_categories=n_categories)
    # A value that is not finite shows in its sum: no need to look at every value first.
    if not np.isfinite(sums).all():
        labels[~_finite_rows(pieces)] = n_categories
        sums = category_sums(pieces, labels, n_categories=n_categories)
    return sums


def inlier_sums(
    pieces: Sequence[npt.NDArray[Any] | Kept],
    codes: npt.NDArray[Any],
    distances: npt.NDArray[np.float64],
    limits: npt.NDArray[np.float64],
    /,
) -> npt.NDArray[np.float64]:
    """Sum the cells of a block that lie within their category's limit.

    Parameters
    ----------
    pieces
        Real numbers (rows, d), in parts.
    codes
        Integers (rows,), see :func:`category_labels`.
    distances
        float64 (rows,), NaN for a cell that takes no part.
    limits
        float64 (n_categories,): the largest distance that counts.

    Returns
    -------
    numpy.ndarray
        float64 (n_categories, d + 1), see :func:`category_sums`.
    """
    n_categories = len(limits)
    labels = category_labels(codes, n_categories=n_categories)
    outside = ~(distances <= np.append(limits, np.nan)[labels])
    labels[outside] = n_categories
    return category_sums(pieces, labels, n_categories=n_categories)


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
    pieces: Sequence[npt.NDArray[Any] | Kept],
    codes: npt.NDArray[Any],
    totals: npt.NDArray[np.float64],
    /,
) -> npt.NDArray[np.float64]:
    """Measure each cell's Euclidean distance to the mean of its category.

    Parameters
    ----------
    pieces
        Real numbers (rows, d), in parts.
    codes
        Integers (rows,), see :func:`category_labels`.
    totals
        float64 (n_categories, d + 1): sums, then the count of cells.

    Returns
    -------
    numpy.ndarray
        float64 (rows,); NaN for a missing code and where a value is not finite.
    """
    n_categories, columns = totals.shape[0], totals.shape[1] - 1
    labels = category_labels(codes, n_categories=n_categories)
    # A missing code is NaN away from everything.
    means = category_means(np.append(totals, np.full((1, columns + 1), np.nan), axis=0))
    offsets = np.empty((max(_STEP_VALUES // max(columns, 1), 1), columns))
    centers = np.empty_like(offsets)
    distances = np.empty(len(labels))
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, n in _widened(pieces, offsets):
            np.take(means, labels[rows], axis=0, out=centers[:n], mode="clip")
            np.subtract(offsets[:n], centers[:n], out=offsets[:n])
            np.einsum("ij,ij->i", offsets[:n], offsets[:n], out=distances[rows])
    np.sqrt(distances, out=distances)
    if not np.isfinite(distances).all():
        # An infinite value is infinitely far from everything, yet it is no cell of the category.
        distances[(labels == n_categories) | ~_finite_rows(pieces)] = np.nan
    return distances


def _widened(
    pieces: Sequence[npt.NDArray[Any] | Kept], buffer: npt.NDArray[np.float64]
) -> Iterator[tuple[slice, int]]:
    """Fill a buffer with the next rows, again and again; yield which rows, and how many."""
    first = filled = 0
    for piece in pieces:
        taken = 0
        while taken < len(piece):
            n = min(len(buffer) - filled, len(piece) - taken)
            buffer[filled : filled + n] = piece[taken : taken + n]
            taken, filled = taken + n, filled + n
            if filled == len(buffer):
                yield slice(first, first + filled), filled
                first, filled = first + filled, 0
    if filled:
        yield slice(first, first + filled), filled


def _finite_rows(pieces: Sequence[npt.NDArray[Any] | Kept]) -> npt.NDArray[np.bool_]:
    return np.concatenate([np.isfinite(piece[:]).all(axis=1) for piece in pieces])
