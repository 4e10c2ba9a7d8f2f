"""AnnData from ``anndata.experimental.read_lazy``.

Such an object holds dask arrays whose tasks know a path, and obs columns that hold open handles,
which neither pickle nor notice a rewritten file. Where the object still is what the file holds, the
file is opened our way instead; where it was edited, its arrays are used as they are.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import pandas as pd

from cellucid_lazy.errors import DataError, FallbackWarning
from cellucid_lazy.readers.frame import series_column
from cellucid_lazy.readers.lazy_array import element_of_dask
from cellucid_lazy.readers.stored import real_numbers
from cellucid_lazy.readers.subset import positions, take_cells
from cellucid_lazy.source import Column, Source

if TYPE_CHECKING:
    from anndata import AnnData


def behind(adata: AnnData, *, layer: str | None, use_raw: bool) -> Source | None:
    """Open the file behind a lazy AnnData, when the object still is what the file holds.

    Parameters
    ----------
    adata
        From ``read_lazy``; not a view.
    layer, use_raw
        What serves as expression.

    Returns
    -------
    Source or None
        None when there is no single local file, or the object was edited since.
    """
    path = _path(adata)
    if path is None or not path.exists():
        return None
    from anndata.experimental import read_lazy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = read_lazy(path, load_annotation_index=False)
    try:
        same = _names(fresh) == _names(adata)
    finally:
        if getattr(fresh, "file", None) is not None and fresh.file._file is not None:
            fresh.file.close()
    if not same:
        return None
    from cellucid_lazy.readers import _open_path

    return _open_path(str(path), layer=layer, use_raw=use_raw, storage_options=None)


def _path(adata: AnnData) -> Path | None:
    """Find the file: anndata keeps it where a column is read by handle, or in the file manager."""
    if adata.filename is not None:
        return Path(adata.filename)
    for name in adata.obs.columns:
        path = _file_of(adata.obs[name].attrs.get("base_path_or_zarr_group"))
        if path is not None:
            return path
    return None


def _names(adata: AnnData) -> dict[str, object]:
    """Name every element by its tasks, so that equal names mean equal content."""
    elements = {"X": adata.X, "cells": adata.n_obs, "genes": adata.n_vars}
    for axis in ("layers", "obsm", "obsp"):
        elements |= {f"{axis}/{key}": value for key, value in getattr(adata, axis).items()}
    for name in adata.obs.columns:
        column = adata.obs[name]
        lazy = isinstance(column.variable._data, da.Array)
        elements[f"obs/{name}"] = column.data if lazy else column.attrs.get("elem_name")
    return {
        key: value.name if isinstance(value, da.Array) else str(type(value)) + str(value)[:80]
        for key, value in elements.items()
    }


def lazy_columns(frame: Any, token: str, left_out: list[str]) -> dict[str, Column]:
    """Describe the columns of anndata's lazy dataframe.

    Plain columns are dask arrays and stay lazy. Categorical and nullable ones hold open handles,
    so they are read from their file by path; only where that cannot be found they are loaded.

    Parameters
    ----------
    frame
        obs of a lazy AnnData.
    token
        Prefix of task names.
    left_out
        Receives a sentence for each column that cannot be used.

    Returns
    -------
    dict
        Columns by key, in the order of the underlying dataset.
    """
    columns: dict[str, Column] = {}
    for name in getattr(frame, "ds", frame).data_vars if hasattr(frame, "ds") else frame.columns:
        key = str(name)
        try:
            columns[key] = _lazy_column(key, frame[name], f"{token}-obs-{key}")
        except DataError as problem:
            left_out.append(f"obs column {key!r} is left out: {problem}")
    return columns


def _lazy_column(key: str, column: Any, token: str) -> Column:
    if isinstance(column.variable._data, da.Array):
        array = column.data
        if array.dtype.kind in "OUST":
            return Column(key, "category", element_of_dask(array.astype(object)).array)
        real_numbers(array.dtype, "it")
        kind = "category" if array.dtype.kind == "b" else "continuous"
        return Column(
            key, "category" if kind == "category" else "continuous", element_of_dask(array).array
        )
    stored = _stored_column(key, column)
    if stored is not None:
        return stored
    warnings.warn(
        f"obs column {key!r} is loaded now: in this edited lazy AnnData it hangs on an open file; "
        "write the AnnData and open the file to keep it lazy",
        FallbackWarning,
        stacklevel=7,
    )
    values = column.variable._data.get_duck_array()
    return series_column(key, pd.Series(getattr(values, "array", values)), token)


def _stored_column(key: str, column: Any) -> Column | None:
    """Find where a categorical or nullable column lies in its file, and which cells it takes."""
    lazy = column.variable._data
    base, name = (column.attrs.get(one) for one in ("base_path_or_zarr_group", "elem_name"))
    indexer: tuple[Any, ...] = getattr(getattr(lazy, "key", None), "tuple", ())
    if base is None or name is None or len(indexer) != 1 or not hasattr(lazy.array, "elem_name"):
        return None
    path = _file_of(base)
    if path is None or not path.exists():
        return None
    parent, _, last = str(name).strip("/").rpartition("/")
    whole = _open_column(path, parent, last)
    cells = positions(indexer[0], lazy.array.shape[0])
    return replace(take_cells(whole, cells), name=key)


def _file_of(base: Any) -> Path | None:
    if isinstance(base, Path):
        return base.absolute()
    root = getattr(getattr(base, "store", None), "root", None)
    return None if root is None else Path(root)


def _open_column(path: Path, frame: str, name: str) -> Column:
    from cellucid_lazy.readers.h5ad import is_hdf5, open_column

    if is_hdf5(path):
        return open_column(path, frame, name)
    from cellucid_lazy.readers import zarr_store

    return zarr_store.open_column(str(path), frame, name)
