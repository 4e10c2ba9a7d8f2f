"""Smallest and largest finite value along the cells."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.transforms.blocks import reduce_rows, whole_rows

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
    return reduce_rows(
        whole,
        partial(_block_extremes, dtype=np.dtype(dtype)),
        _merge_extremes,
        _merge_extremes,
        output_size=2,
        dtype=dtype,
    )


def _block_extremes(block: npt.NDArray[Any], *, dtype: np.dtype[Any], **_: Any) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        values = block.astype(dtype, copy=False)
    finite = np.isfinite(values)
    lowest = np.where(finite, values, np.inf).min(axis=0, initial=np.inf)
    highest = np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf)
    return np.stack([lowest, highest]).astype(dtype, copy=False)


def _merge_extremes(pairs: npt.NDArray[Any], **_: Any) -> npt.NDArray[Any]:
    """Merge (minimum, maximum) rows that lie below each other."""
    lowest = pairs[0::2].min(axis=0, initial=np.inf)
    highest = pairs[1::2].max(axis=0, initial=-np.inf)
    # Which of -0.0 and 0.0 is found depends on the order of blocks; adding 0.0 makes both 0.0.
    merged: npt.NDArray[Any] = np.stack([lowest, highest]) + pairs.dtype.type(0)
    return merged
