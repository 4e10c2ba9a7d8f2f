"""Smallest and largest finite value along the cells."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.transforms.blocks import map_indexed, merge_tree, whole_rows

if TYPE_CHECKING:
    import dask.array as da
    import numpy.typing as npt


def finite_extremes(values: da.Array, /, *, dtype: npt.DTypeLike) -> da.Array:
    """Find the smallest and the largest finite value per column.

    Law: the result does not depend on chunks or scheduler, not even in the sign of a zero, which
    is always positive.

    Parameters
    ----------
    values
        Real numbers, shape (n,) or (n, d).
    dtype
        Floating dtype in which values are compared; values beyond its range count as not finite.

    Returns
    -------
    da.Array
        Lazy, one block, shape (2,) or (2, d): minimum, then maximum. Where no value is finite they
        are ``inf`` and ``-inf``.
    """
    whole = whole_rows(values) if values.ndim == 2 else values
    axes = "ij"[: whole.ndim]
    part = partial(_block_extremes, dtype=np.dtype(dtype))
    pairs = map_indexed(part, axes, whole, axes, adjust_chunks={"i": 2}, dtype=dtype)
    return merge_tree(pairs, _merge_extremes, shape=(2, *whole.shape[1:]), dtype=dtype)


def _block_extremes(block: npt.NDArray[Any], *, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        values = block.astype(dtype, copy=False)
    if values.ndim == 1:
        return _column_extremes(values)
    # Column by column: along short rows NumPy's inner loop would be as short as a row.
    columns = [_column_extremes(column) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.empty((2, 0), dtype)


def _column_extremes(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    ends = np.stack([values.min(initial=np.inf), values.max(initial=-np.inf)])
    # One value that is not finite shows in the ends; only then is each looked at.
    if np.isfinite(ends).all() or not len(values):
        return ends
    finite = values[np.isfinite(values)]
    return np.stack([finite.min(initial=np.inf), finite.max(initial=-np.inf)])


def _merge_extremes(pairs: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Merge pairs of minimum and maximum."""
    lowest = np.min([pair[0] for pair in pairs], axis=0)
    highest = np.max([pair[1] for pair in pairs], axis=0)
    # Which of -0.0 and 0.0 is found depends on the order of blocks; adding 0.0 makes both 0.0.
    merged: npt.NDArray[Any] = np.stack([lowest, highest]) + pairs[0].dtype.type(0)
    return merged
