"""Values as float32, the type the viewer reads, and their finite extremes."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellucid_lazy.graph import map_indexed, merge_tree, whole_rows


def to_float32(values: NDArray[Any], /) -> NDArray[np.float32]:
    """Cast to float32; values beyond its range become infinite, without a warning.

    Parameters
    ----------
    values
        Any real dtype, any shape.

    Returns
    -------
    numpy.ndarray
        float32, same shape; the same object when it is float32 already.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


def as_text(values: da.Array, /) -> da.Array:
    """Turn values into text, as Python prints them.

    Parameters
    ----------
    values
        Any dtype, shape (n,). Of dtype object: text, which stays as it is.

    Returns
    -------
    dask.array.Array
        Python strings, dtype object, same chunks.
    """
    return (
        values if values.dtype.kind == "O" else map_indexed(_text, "i", values, "i", dtype=object)
    )


def _text(values: NDArray[Any]) -> NDArray[Any]:
    return np.array([str(value) for value in values.tolist()], dtype=object)


def finite_extremes(values: da.Array, /, *, dtype: DTypeLike) -> da.Array:
    """Find the smallest and the largest finite value of each column.

    The result does not depend on chunks or scheduler. Zeros are always positive.

    Parameters
    ----------
    values
        Real numbers, shape (n,) or (n, d).
    dtype
        Floating dtype in which values are compared; values beyond its range count as not finite.

    Returns
    -------
    dask.array.Array
        One block, shape (2,) or (2, d): minimum, then maximum. Without a finite value they are
        ``inf`` and ``-inf``.
    """
    whole = whole_rows(values) if values.ndim == 2 else values
    axes = "ij"[: whole.ndim]
    part = partial(_block_extremes, dtype=np.dtype(dtype))
    pairs = map_indexed(part, axes, whole, axes, adjust_chunks={"i": 2}, dtype=dtype)
    return merge_tree(pairs, _merge_extremes, shape=(2, *whole.shape[1:]), dtype=dtype)


def _block_extremes(block: NDArray[Any], *, dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        values = block.astype(dtype, copy=False)
    if values.ndim == 1:
        return _column_extremes(values)
    # Column by column: along short rows NumPy's inner loop would be as short as a row.
    columns = [_column_extremes(column) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.empty((2, 0), dtype)


def _column_extremes(values: NDArray[Any]) -> NDArray[Any]:
    ends = np.stack([values.min(initial=np.inf), values.max(initial=-np.inf)])
    # A NaN or an infinity among the values would be the minimum or the maximum.
    if np.isfinite(ends).all() or not len(values):
        return ends
    finite = values[np.isfinite(values)]
    return np.stack([finite.min(initial=np.inf), finite.max(initial=-np.inf)])


def _merge_extremes(pairs: list[NDArray[Any]]) -> NDArray[Any]:
    lowest = np.min([pair[0] for pair in pairs], axis=0)
    highest = np.max([pair[1] for pair in pairs], axis=0)
    # Which of -0.0 and 0.0 is found depends on the order of blocks; adding 0.0 makes both 0.0.
    merged: NDArray[Any] = np.stack([lowest, highest]) + pairs[0].dtype.type(0)
    return merged
