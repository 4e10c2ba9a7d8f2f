"""Values that a user computed as columns of obs and arrays of obsm: NumPy, pandas, dask, xarray."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from dask.base import tokenize
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError
from cellucid_lazy.graph import map_indexed, whole_rows
from cellucid_lazy.readers.elements import check_numeric, obsm_array
from cellucid_lazy.readers.matrix.memory import MemoryArray
from cellucid_lazy.readers.series import series_column
from cellucid_lazy.source import BlockSizes, ObsColumn, ObsmArray, Source


def obs_column(source: Source, key: str, values: Any) -> ObsColumn:
    """Describe values as a column of obs.

    Parameters
    ----------
    source
        The dataset whose cells they belong to.
    key
        Name of the column.
    values
        One value per cell: numbers are continuous; text, bool and categoricals are categories. A
        pandas or xarray object that names cells has to name those of the dataset, in their order.

    Returns
    -------
    ObsColumn
        Lazy where the values are.

    Raises
    ------
    DataError
        When the length, the cells or the type do not fit.
    """
    name = f"obs {key!r}"
    values = _checked(source, name, values)
    if isinstance(values, da.Array):
        if values.ndim != 1:
            raise DataError(f"{name}: has shape {values.shape}, but a column is needed")
        return _lazy_column(key, name, values)
    if not isinstance(values, pd.Series):
        values = np.asarray(values)
        if values.ndim != 1:
            raise DataError(f"{name}: has shape {values.shape}, but a column is needed")
        values = pd.Series(values)
    return series_column(key, values, f"given-{tokenize(values)}")


def obsm_entry(source: Source, key: int | str, values: Any) -> ObsmArray:
    """Describe values as an array of obsm, such as an embedding.

    Parameters
    ----------
    source
        The dataset whose cells they belong to.
    key
        Key of obsm.
    values
        Real numbers, a row per cell; as `obs_column` takes them.

    Returns
    -------
    ObsmArray
        Lazy where the values are.

    Raises
    ------
    DataError
        When the length, the cells or the type do not fit.
    """
    name = f"obsm {key!r}"
    values = _checked(source, name, values)
    if not isinstance(values, da.Array):
        array = np.asarray(values)
        check_numeric(array.dtype, name)
        return obsm_array(MemoryArray(array, f"given-{tokenize(array)}"))
    check_numeric(values.dtype, name)
    return ObsmArray(values.shape, values.dtype, partial(_as_given, whole_rows(values)))


def _checked(source: Source, name: str, values: Any) -> Any:
    """Refuse values of other cells; xarray's become dask or NumPy."""
    if hasattr(values, "dims"):
        if values.dims[:1] != ("cell",):
            raise DataError(f"{name}: has dimensions {values.dims}; the first has to be 'cell'")
        named = values.coords.get("cell_id", values.coords.get("cell"))
        _check_length(source, name, values.shape)
        if named is not None:
            _check_cells(source, name, named.to_numpy())
        return values.data if isinstance(values.data, da.Array) else values.to_numpy()
    if not hasattr(values, "shape"):
        values = np.asarray(values)
    _check_length(source, name, values.shape)
    index = getattr(values, "index", None)
    if index is not None and not isinstance(index, pd.RangeIndex):
        _check_cells(source, name, index.to_numpy())
    return values


def _check_length(source: Source, name: str, shape: tuple[float, ...]) -> None:
    if shape[:1] != (source.n_cells,):
        raise DataError(
            f"{source.name}: {name} has shape {shape}, but there are {source.n_cells:,} cells"
        )


def _check_cells(source: Source, name: str, found: NDArray[Any]) -> None:
    expected = source.cell_names(BlockSizes()).compute()
    if np.array_equal(found.astype(object), expected.astype(object)):
        return
    known = len(np.intersect1d(found.astype(str), expected.astype(str)))
    order = known == len(expected)
    raise DataError(
        f"{source.name}: {name} names {'the cells in another order' if order else 'other cells'} "
        f"({known:,} of {len(expected):,} are the same); bring it into the order of "
        "catalogue.cell_names, or give its values without names (.to_numpy())"
    )


def _lazy_column(key: str, name: str, values: da.Array) -> ObsColumn:
    if values.dtype.kind in "OUTb":
        labels = values if values.dtype.kind in "Ob" else values.astype(object)
        most = 2 if values.dtype.kind == "b" else None
        return ObsColumn(key, "category", partial(_as_given, labels), max_categories=most)
    check_numeric(values.dtype, name)
    return ObsColumn(key, "continuous", partial(_as_given, values))


def _as_given(array: da.Array, sizes: BlockSizes, *, again: bool = False) -> da.Array:
    # The user's array: its blocks are what they are, and its tasks keep their names.
    del sizes, again
    return array


def coded_column(key: str, codes: da.Array, labels: list[str], missing: int) -> ObsColumn:
    """Describe codes and their labels as a column of obs.

    Parameters
    ----------
    key
        Name of the column.
    codes
        Integers (n_cells,).
    labels
        The label of each code.
    missing
        The code of cells without a label.

    Returns
    -------
    ObsColumn
        A category.
    """
    found = map_indexed(partial(_missing_below, missing), "i", codes, "i", dtype=np.int32)
    column = ObsColumn(key, "category", partial(_as_given, found), max_categories=len(labels))
    return replace(column, read_labels=partial(list, labels))


def _missing_below(missing: int, codes: NDArray[Any]) -> NDArray[np.int32]:
    return np.where(codes == missing, -1, codes).astype(np.int32)
