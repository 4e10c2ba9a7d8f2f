"""Describe users' NumPy, pandas, dask or xarray values as columns of obs and arrays of obsm."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from dask.base import tokenize
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError
from cellucid_lazy.graph import map_indexed, whole_rows
from cellucid_lazy.names import FLAG_MEANINGS, FLAG_VALUES, MISSING_CODE, TRUE_LABELS, are_codes
from cellucid_lazy.readers.elements import check_numeric
from cellucid_lazy.readers.memory import build_as_is, column_of, matrix_of, obsm_of
from cellucid_lazy.source import (
    DEFAULT_SIZES,
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
        One value per cell: numbers are continuous; text, bool, categoricals, and numbers with the
        attribute ``flag_values`` are categories. A pandas or xarray object that names cells has to
        name those of the dataset, in their order.

    Returns
    -------
    ObsColumn
        Lazy where the values are.

    Raises
    ------
    DataError
        When the length, the cells or the type do not fit.
    """
    name = f"{source.name}: obs {key!r}"
    array = checked(source, name, values)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}, but one value per cell is needed")
    attributes = getattr(values, "attrs", {})
    if are_codes(array.dtype, attributes):
        return coded_column(key, array, attributes)
    if isinstance(array, da.Array):
        return _lazy_column(key, name, array)
    series = array if isinstance(array, pd.Series) else pd.Series(array)
    try:
        return column_of(key, series, f"user-{tokenize(series)}")
    except DataError as problem:
        raise DataError(f"{name}: {problem}") from problem


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
    name = f"{source.name}: obsm {key!r}"
    array = checked(source, name, values)
    return obsm_of(array, f"user-{tokenize(array)}", name)


def checked(source: Source, name: str, values: Any) -> Any:
    """Check that values belong to the dataset's cells; xarray's become dask or NumPy.

    Raises
    ------
    DataError
        When their number is not that of the cells, or they name other cells.
    """
    if hasattr(values, "dims"):
        if values.dims[:1] != ("cell",):
            raise DataError(f"{name} has dimensions {values.dims}; the first has to be 'cell'")
        named = [values.coords[key] for key in ("cell_id", "cell") if key in values.coords]
        check_cells(source, name, values.shape, named[0].data if named else None)
        return values.data if isinstance(values.data, da.Array) else values.to_numpy()
    if isinstance(values, pd.api.extensions.ExtensionArray):
        values = pd.Series(values)
    elif not hasattr(values, "shape"):
        array = np.asarray(values)
        # NumPy would turn missing values among text into text.
        values = np.asarray(values, dtype=object) if array.dtype.kind == "U" else array
    index = getattr(values, "index", None)
    if isinstance(index, pd.RangeIndex):
        index = None
    check_cells(source, name, values.shape, None if index is None else index.to_numpy())
    return values if isinstance(values, (da.Array, pd.Series)) else np.asarray(values)


def check_cells(source: Source, name: str, shape: tuple[float, ...], found: Any = None) -> None:
    """Check by shape, and by the names of cells if known, that values belong to the cells.

    Names are read and compared, unless they are the lazy names of the dataset itself.

    Raises
    ------
    DataError
        Begins with `name`, and gives what does not fit.
    """
    if shape[:1] != (source.n_cells,):
        raise DataError(f"{name} has shape {shape}, but there are {source.n_cells:,} cells")
    if found is None:
        return
    lazy = source.cell_names(DEFAULT_SIZES)
    if getattr(found, "name", None) == lazy.name:
        return
    found, expected = np.asarray(found).astype(str), lazy.compute().astype(str)
    if np.array_equal(found, expected):
        return
    known = len(np.intersect1d(found, expected))
    order = known == len(expected)
    raise DataError(
        f"{name} names {'the cells in another order' if order else 'other cells'} "
        f"({known:,} of {len(expected):,} are the same); bring it into the order of "
        "catalogue.cell_names, or give its values without names (.to_numpy())"
    )


def _lazy_column(key: str, name: str, values: da.Array) -> ObsColumn:
    if values.dtype.kind in "OUTb":
        labels = values if values.dtype.kind in "Ob" else values.astype(object)
        most = 2 if values.dtype.kind == "b" else None
        return ObsColumn(key, "category", partial(build_as_is, labels), max_categories=most)
    check_numeric(values.dtype, name)
    return ObsColumn(key, "continuous", partial(build_as_is, values))


def coded_column(
    key: str,
    codes: Any,
    attributes: Mapping[str, Any],
    read_labels: Callable[[], list[str]] | None = None,
) -> ObsColumn:
    """Describe codes as a column of obs.

    Parameters
    ----------
    key
        Name of the column.
    codes
        Numbers (n_cells,), NumPy or dask.
    attributes
        ``flag_values``, the code of each label; ``flag_meanings``, the labels in one text; and
        ``missing_code``, if any.
    read_labels
        Reads the labels. Default: those of ``true_labels``, as JSON, else of ``flag_meanings``.

    Returns
    -------
    ObsColumn
        A category. NaN, the missing code, and negative codes without a flag are missing; any other
        code without a flag is an error when it is computed.

    Raises
    ------
    DataError
        When there are not as many labels as flags.
    """
    flags = np.atleast_1d(np.asarray(attributes[FLAG_VALUES]))
    if read_labels is None:
        labels = json.loads(attributes.get(TRUE_LABELS, "null"))
        if labels is None:
            labels = str(attributes.get(FLAG_MEANINGS, "")).split()
        if len(labels) != len(flags):
            raise DataError(
                f"obs {key!r} has {len(flags):,} {FLAG_VALUES}, but {len(labels):,} {FLAG_MEANINGS}"
            )
        read_labels = partial(list, labels)
    find_flags = partial(_flag_positions, flags, attributes.get(MISSING_CODE))
    found = map_indexed(find_flags, "i", as_dask(codes), "i", dtype=np.int32)
    return ObsColumn(
        key, "category", partial(build_as_is, found), read_labels, max_categories=len(flags)
    )


def _flag_positions(flags: NDArray[Any], missing: Any, codes: NDArray[Any]) -> NDArray[np.int32]:
    """Find the position of each code among the flags; -1 for missing."""
    order = np.argsort(flags)
    at = np.searchsorted(flags, codes, sorter=order)
    found = order.take(at, mode="clip").astype(np.int32) if len(flags) else at.astype(np.int32)
    known = at < len(flags)
    known[known] = flags[found[known]] == codes[known]
    # A position beyond the labels is an error when codes are encoded.
    found[~known] = len(flags)
    found[~known & ~(codes >= 0)] = -1
    if missing is not None:
        found[codes == missing] = -1
    return found


def expression(values: Any) -> ExpressionMatrix:
    """Describe a matrix of cells by genes, NumPy or dask."""
    return ExpressionMatrix(matrix_of(values, f"user-{tokenize(values)}", "the expression matrix"))


def edges(sources: Any, destinations: Any, *, n_cells: int) -> da.Array:
    """Join the ends of edges, (n_edges,) each: (n_edges, 2). A cell beyond the last is an error."""
    pairs = whole_rows(da.stack([as_dask(sources), as_dask(destinations)], axis=1))
    return map_indexed(partial(_check_edges, n_cells), "ij", pairs, "ij", dtype=pairs.dtype)


def _check_edges(n_cells: int, pairs: NDArray[Any]) -> NDArray[Any]:
    if pairs.size and not (pairs.min() >= 0 and pairs.max() < n_cells):
        raise DataError(
            f"edges between cells {pairs.min()} and {pairs.max()}, but there are {n_cells:,} cells"
        )
    return pairs


def as_dask(values: Any) -> da.Array:
    """Make values a dask array, if they are none; text has one block, since its size is unknown."""
    if isinstance(values, da.Array):
        return values
    array = np.asarray(values)
    return da.from_array(array, chunks="auto" if array.dtype.kind in "biuf" else -1)


def as_built(array: Any) -> Callable[..., da.Array]:
    """Return a function that builds an array that exists already."""
    return partial(build_as_is, as_dask(array))
