"""Columns of pandas as columns of obs."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError, FieldError
from cellucid_lazy.readers.elements import lazy_array
from cellucid_lazy.readers.matrix import MemoryArray
from cellucid_lazy.source import BlockSizes, ObsColumn
from cellucid_lazy.transforms.values import to_float32


def series_column(key: str, series: pd.Series[Any], token: str) -> ObsColumn:
    """Describe a column.

    Parameters
    ----------
    key
        Its name in obs.
    series
        A value per cell.
    token
        Names of tasks begin with it.

    Returns
    -------
    ObsColumn
        Numbers are continuous, all else are categories.

    Raises
    ------
    DataError
        For dates, complex numbers and the like.
    """
    dtype = series.dtype
    kind = getattr(dtype, "kind", "O")
    if kind in "cmM" or isinstance(dtype, (pd.DatetimeTZDtype, pd.PeriodDtype)):
        raise DataError(f"it holds {dtype}; turn it into numbers or text to show it")
    categorical = isinstance(dtype, pd.CategoricalDtype)
    if not categorical and kind != "b" and pd.api.types.is_numeric_dtype(dtype):
        return ObsColumn(key, "continuous", partial(_numbers, series, token))
    return ObsColumn(
        key,
        "category",
        partial(_codes, series, token),
        read_labels=partial(_labels, series),
        max_categories=len(series.cat.categories) if categorical else 2 if kind == "b" else None,
    )


def _numbers(series: pd.Series[Any], token: str, sizes: BlockSizes) -> da.Array:
    values: NDArray[Any]
    if isinstance(series.dtype, np.dtype):
        values = series.to_numpy()
    elif pd.api.types.is_integer_dtype(series.dtype) and not series.hasnans:
        # Straight to float32: by way of float64 large integers would be rounded twice.
        values = to_float32(series.to_numpy())
    else:
        values = series.to_numpy(dtype=np.float32, na_value=np.nan)
    return lazy_array(MemoryArray(values, token), sizes)


def _codes(series: pd.Series[Any], token: str, sizes: BlockSizes) -> da.Array:
    return lazy_array(MemoryArray(_categories(series).cat.codes.to_numpy(), token), sizes)


def _labels(series: pd.Series[Any]) -> list[object]:
    return list(_categories(series).cat.categories)


def _categories(series: pd.Series[Any]) -> pd.Series[Any]:
    """Encode as pandas does: sorted where the labels can be sorted, else as they come."""
    try:
        return series if hasattr(series, "cat") else series.astype("category")
    except TypeError as problem:
        raise FieldError(f"its values cannot be categories: {problem}") from problem
