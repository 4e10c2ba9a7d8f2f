"""Values that a user computed as columns of obs and arrays of obsm: NumPy, pandas, dask, xarray."""

from __future__ import annotations

from collections.abc import Callable
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
from cellucid_lazy.readers.matrix.dense import DenseMatrix
from cellucid_lazy.readers.matrix.memory import MemoryArray
from cellucid_lazy.readers.series import series_column
from cellucid_lazy.source import (
    BlockSizes,
    DaskMatrix,
    ExpressionMatrix,
    ObsColumn,
    ObsmArray,
    Source,
)


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
        check_cells(source, name, values.shape, None if named is None else named.to_numpy())
        return values.data if isinstance(values.data, da.Array) else values.to_numpy()
    if not hasattr(values, "shape"):
        values = np.asarray(values)
    index = getattr(values, "index", None)
    if isinstance(index, pd.RangeIndex):
        index = None
    check_cells(source, name, values.shape, None if index is None else index.to_numpy())
    return values


def check_cells(
    source: Source, name: str, shape: tuple[float, ...], found: NDArray[Any] | None = None
) -> None:
    """Refuse values of other cells, given their shape and the names of their cells, if known.

    Raises
    ------
    DataError
        Names the values, and what does not fit.
    """
    if shape[:1] != (source.n_cells,):
        raise DataError(
            f"{source.name}: {name} has shape {shape}, but there are {source.n_cells:,} cells"
        )
    if found is None:
        return
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


def coded_column(
    key: str,
    codes: da.Array,
    read_labels: Callable[[], list[str]],
    flags: NDArray[Any],
    missing: Any = None,
) -> ObsColumn:
    """Describe codes and their labels as a column of obs.

    Parameters
    ----------
    key
        Name of the column.
    codes
        Numbers (n_cells,).
    read_labels
        Reads the label of each flag.
    flags
        The code that stands for each label.
    missing
        The code of cells without a label; NaN and negative codes are too.

    Returns
    -------
    ObsColumn
        A category. A code that is no flag is an error when it is computed.
    """
    place = partial(_places, flags, missing)
    found = map_indexed(place, "i", codes, "i", dtype=np.int32)
    return ObsColumn(key, "category", as_built(found), read_labels, max_categories=len(flags))


def _places(flags: NDArray[Any], missing: Any, codes: NDArray[Any]) -> NDArray[np.int32]:
    order = np.argsort(flags)
    at = np.searchsorted(flags, codes, sorter=order)
    found = order.take(at, mode="clip").astype(np.int32) if len(flags) else at.astype(np.int32)
    known = at < len(flags)
    known[known] = flags[found[known]] == codes[known]
    # Beyond the labels: an error when they are encoded.
    found[~known] = len(flags)
    gone = ~(codes >= 0)
    if missing is not None:
        gone |= codes == missing
    found[gone] = -1
    return found


def expression(values: Any) -> ExpressionMatrix:
    """Describe a matrix of cells by genes, NumPy or dask."""
    if isinstance(values, da.Array):
        return ExpressionMatrix(DaskMatrix(values))
    return ExpressionMatrix(DenseMatrix(MemoryArray(values, f"given-{tokenize(values)}")))


def edges(sources: Any, destinations: Any) -> da.Array:
    """Join the ends of edges, (n_edges,) each: (n_edges, 2)."""
    return whole_rows(da.stack([da.asarray(sources), da.asarray(destinations)], axis=1))


def as_built(array: Any) -> Callable[..., da.Array]:
    """Return what builds an array that is there already."""
    return partial(_as_given, da.asarray(array))
