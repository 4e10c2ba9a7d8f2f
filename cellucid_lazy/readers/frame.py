"""Columns of a pandas dataframe in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError, FieldError
from cellucid_lazy.readers.lazy_array import lazy_array
from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.source import Column
from cellucid_lazy.transforms.float32 import to_float32


def frame_columns(frame: Any, token: str, left_out: list[str]) -> dict[str, Column]:
    """Describe the columns of a dataframe.

    Parameters
    ----------
    frame
        obs.
    token
        Prefix of task names.
    left_out
        Receives a sentence for each column that cannot be used.

    Returns
    -------
    dict
        Columns by key, in order.
    """
    columns: dict[str, Column] = {}
    for place, key in enumerate(map(str, frame.columns)):
        try:
            if key in columns:
                raise DataError("another column has the same name")
            columns[key] = series_column(key, frame.iloc[:, place], f"{token}-obs-{key}")
        except DataError as problem:
            left_out.append(f"obs column {key!r} is left out: {problem}")
    return columns


def series_column(key: str, series: pd.Series[Any], token: str) -> Column:
    """Describe a pandas series.

    Parameters
    ----------
    key
        Its name.
    series
        One value per cell.
    token
        Name of its tasks.

    Returns
    -------
    Column
        Continuous for numbers; a category for all else.

    Raises
    ------
    DataError
        For complex numbers, dates and durations.
    """
    dtype = series.dtype
    kind = getattr(dtype, "kind", "O")
    if kind in "cmM" or isinstance(dtype, (pd.DatetimeTZDtype, pd.PeriodDtype)):
        raise DataError(f"it holds {dtype}; turn it into numbers or text to show it")
    categorical = isinstance(dtype, pd.CategoricalDtype)
    if not categorical and kind != "b" and pd.api.types.is_numeric_dtype(dtype):
        return Column(key, "continuous", partial(_numbers, series, token))
    codes = cache(partial(_encode, series))
    return Column(
        key,
        "category",
        partial(_codes, codes, token),
        labels=partial(_labels, codes),
        at_most=len(series.cat.categories) if categorical else 2 if kind == "b" else None,
    )


def _numbers(series: pd.Series[Any], token: str) -> da.Array:
    if isinstance(series.dtype, np.dtype):
        return lazy_array(MemoryArray(series.to_numpy(), token))
    if pd.api.types.is_integer_dtype(series.dtype) and not series.hasnans:
        return lazy_array(MemoryArray(to_float32(series.to_numpy()), token))
    return lazy_array(MemoryArray(series.to_numpy(dtype=np.float32, na_value=np.nan), token))


def _encode(series: pd.Series[Any]) -> tuple[NDArray[Any], list[object]]:
    """Encode as pandas does: sorted where the labels can be sorted, else as they come."""
    try:
        categories = series if hasattr(series, "cat") else series.astype("category")
    except TypeError as problem:
        raise FieldError(f"its values cannot be categories: {problem}") from problem
    return categories.cat.codes.to_numpy(), list(categories.cat.categories)


def _codes(encode: Callable[[], tuple[NDArray[Any], list[object]]], token: str) -> da.Array:
    return lazy_array(MemoryArray(encode()[0], token))


def _labels(encode: Callable[[], tuple[NDArray[Any], list[object]]]) -> Sequence[object]:
    return encode()[1]
