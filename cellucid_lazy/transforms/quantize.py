"""Continuous values as 8- or 16-bit integers.

For every finite x of the range, ``dequantize_block(quantize_block(x))`` is within one step of x,
up to float32 rounding; a step is (max - min) / 254 or / 65534. NaN and infinities come back as NaN.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, TypeAlias

import dask.array as da
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from cellucid_lazy.graph import map_indexed, rechunk
from cellucid_lazy.transforms.values import finite_extremes

Bits: TypeAlias = Literal[8, 16]

_DTYPES: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def quantized_dtype(bits: int, /) -> np.dtype[Any]:
    """Return the dtype that holds `bits`.

    Raises
    ------
    ValueError
        If `bits` is neither 8 nor 16.
    """
    if bits not in _DTYPES:
        raise ValueError(f"bits must be 8 or 16, found {bits!r}")
    return _DTYPES[bits]


def quantization_range(minimum: float, maximum: float, /) -> tuple[float, float]:
    """Return the range that codes span, where minimum is always below maximum.

    Parameters
    ----------
    minimum, maximum
        Extremes of a column over its finite values.

    Returns
    -------
    tuple of float
        The same range. For a constant column the maximum is raised by 1, or to the next float where
        1 is lost in rounding. Extremes that are not finite give (0, 1).
    """
    minimum, maximum = float(minimum), float(maximum)
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        return 0.0, 1.0
    if maximum == minimum:
        return minimum, max(minimum + 1.0, math.nextafter(minimum, math.inf))
    return minimum, maximum


def quantize_block(
    values: npt.ArrayLike, minimum: float, maximum: float, *, bits: Bits
) -> NDArray[Any]:
    """Quantize values over a range.

    Parameters
    ----------
    values
        Real numbers, shape (n,) or more, taken as float32.
    minimum, maximum
        The range, see :func:`quantization_range`. Values outside it are clipped.
    bits
        8 or 16.

    Returns
    -------
    numpy.ndarray
        uint8 or uint16 of the same shape; the highest code is a missing value (NaN, Inf).

    Raises
    ------
    ValueError
        If `bits` is neither 8 nor 16, or `minimum` is not below `maximum`.
    """
    dtype = quantized_dtype(bits)
    minimum, maximum = float(minimum), float(maximum)
    if not minimum < maximum:
        raise ValueError(f"the minimum {minimum!r} is not below the maximum {maximum!r}")
    span = maximum - minimum
    scale = (np.iinfo(dtype).max - 1) / span
    with np.errstate(over="ignore"):
        single = np.asarray(values).astype(np.float32, copy=False)
    # The format is defined by float32 arithmetic; float64 is used where that overflows. The range
    # is in Python floats: NumPy's float64 would turn float32 arrays to float64.
    work = single.astype(np.float64) if max(span, scale) > _FLOAT32_MAX else single
    missing = np.iinfo(dtype).max
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = work - minimum
        scaled *= scale
    np.clip(scaled, 0, missing - 1, out=scaled)
    scaled[~np.isfinite(work)] = missing
    codes: NDArray[Any] = scaled.astype(dtype)
    return codes


def dequantize_block(codes: NDArray[Any], minimum: float, maximum: float) -> NDArray[np.float32]:
    """Turn codes back to values as the viewer does.

    Parameters
    ----------
    codes
        uint8 or uint16 of any shape.
    minimum, maximum
        The range they were quantized over.

    Returns
    -------
    numpy.ndarray
        float32 of the same shape, NaN for missing.
    """
    missing = np.iinfo(codes.dtype).max
    values = minimum + codes * ((maximum - minimum) / (missing - 1))
    # Rounding may step over the maximum, beyond which float32 may have no finite value.
    single: NDArray[np.float32] = np.minimum(values, maximum).astype(np.float32)
    single[codes == missing] = np.nan
    return single


def finite_range(values: da.Array, /) -> da.Array:
    """Find the minimum and maximum of a continuous column, as manifests have them.

    Parameters
    ----------
    values
        Real numbers, shape (n_cells,), taken as float32.

    Returns
    -------
    dask.array.Array
        float64 (2,): minimum and maximum over finite values, 0 and 1 if there are none.

    Raises
    ------
    ValueError
        If `values` is not one-dimensional.
    """
    if values.ndim != 1:
        raise ValueError(f"expected one value per cell, found shape {values.shape}")
    extremes = finite_extremes(values, dtype=np.float32)
    return map_indexed(_unit_if_none, "k", extremes, "k", dtype=np.float64)


def quantize(values: da.Array, /, *, bits: Bits, value_range: da.Array | None = None) -> da.Array:
    """Quantize a continuous column lazily.

    Parameters
    ----------
    values
        Real numbers, shape (n_cells,), taken as float32.
    bits
        8 or 16.
    value_range
        Minimum and maximum, shape (2,); those of `values` by default.

    Returns
    -------
    dask.array.Array
        uint8 or uint16 (n_cells,) in the chunks of `values`, see :func:`quantize_block`.

    Raises
    ------
    ValueError
        If `bits` is neither 8 nor 16, `values` is not one-dimensional, or `value_range` not (2,).
    """
    dtype = quantized_dtype(bits)
    extremes = finite_range(values) if value_range is None else value_range
    if values.ndim != 1 or extremes.shape != (2,):
        raise ValueError(
            f"expected values (n,) and a range (2,), found {values.shape} and {extremes.shape}"
        )
    encode = partial(_quantize_over, bits=bits)
    return map_indexed(encode, "i", values, "i", rechunk(extremes, -1), "k", dtype=dtype)


def _quantize_over(values: NDArray[Any], extremes: NDArray[Any], *, bits: Bits) -> NDArray[Any]:
    minimum, maximum = quantization_range(float(extremes[0]), float(extremes[1]))
    return quantize_block(values, minimum, maximum, bits=bits)


def _unit_if_none(extremes: NDArray[Any]) -> NDArray[np.float64]:
    if np.isfinite(extremes).all():
        return extremes.astype(np.float64)
    return np.array([0.0, 1.0])
