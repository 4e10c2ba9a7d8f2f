"""Values in memory as elements of a dataset: of NumPy, pandas, SciPy and dask."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.errors import DataError, FieldError
from cellucid_lazy.graph import whole_rows
from cellucid_lazy.readers.elements import (
    check_numeric,
    dense_obsm,
    lazy_array,
    sparse_obsm,
)
from cellucid_lazy.readers.matrix import DenseMatrix, MemoryArray, SparseMatrix
from cellucid_lazy.source import BlockSizes, DaskMatrix, Matrix, ObsColumn, ObsmArray
from cellucid_lazy.transforms.values import to_float32


def matrix_of(values: Any, token: str, name: str) -> Matrix:
    """Describe a matrix.

    Parameters
    ----------
    values
        Dense or sparse, or a dask array.
    token
        Names of tasks begin with it.
    name
        What messages call it.

    Raises
    ------
    DataError
        When it holds no real numbers, or is no matrix.
    """
    if isinstance(values, da.Array):
        check_numeric(values.dtype, name)
        return DaskMatrix(values)
    if sparse.issparse(values):
        return _sparse_matrix(values, token, name)
    array = np.asarray(values)
    check_numeric(array.dtype, name)
    if array.ndim != 2:
        raise DataError(f"{name}: has shape {array.shape}, but a matrix is needed")
    return DenseMatrix(MemoryArray(array, token))


def obsm_of(values: Any, token: str, name: str) -> ObsmArray:
    """Describe an array with a row per cell; parameters and errors are those of `matrix_of`."""
    if isinstance(values, da.Array):
        check_numeric(values.dtype, name)
        array = whole_rows(values) if values.ndim == 2 else values
        return ObsmArray(array.shape, array.dtype, partial(build_as_is, array))
    if sparse.issparse(values):
        return sparse_obsm(_sparse_matrix(values, token, name))
    values = np.asarray(values)
    check_numeric(values.dtype, name)
    return dense_obsm(MemoryArray(values, token))


def _sparse_matrix(matrix: Any, token: str, name: str) -> SparseMatrix:
    check_numeric(matrix.dtype, name)
    if matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    data, indices, indptr = (
        MemoryArray(getattr(matrix, part), f"{token}-{part}")
        for part in ("data", "indices", "indptr")
    )
    shape = int(matrix.shape[0]), int(matrix.shape[1])
    return SparseMatrix(matrix.format, shape, data, indices, indptr, name)


def build_as_is(array: da.Array, sizes: BlockSizes, *, again: bool = False) -> da.Array:
    """Return a user's array unchanged, with its own blocks and names of tasks."""
    del sizes, again
    return array


def column_of(key: str, series: pd.Series[Any], token: str) -> ObsColumn:
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
        Continuous for numbers, a category for everything else.

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
