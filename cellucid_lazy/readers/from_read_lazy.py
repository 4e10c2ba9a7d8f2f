"""AnnData from ``anndata.experimental.read_lazy``.

Such an object holds dask arrays whose tasks know a path, and obs columns that hold open handles,
which neither pickle nor notice a rewritten file. Where the object still is what the file holds, the
file is opened our way instead; where it was edited, its arrays are used as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
    with _opened(path) as root:
        same = root is not None and _is_stored(adata, root)
    if not same:
        return None
    from cellucid_lazy.readers import _open_path

    source = _open_path(str(path), layer=layer, use_raw=use_raw)
    names = adata.raw.var_names if use_raw else adata.var_names
    return source if source.read_gene_ids("index") == [str(name) for name in names] else None


def _path(adata: AnnData) -> Path | None:
    """Find the file: anndata keeps it in the file manager, or where a column is read by handle."""
    if adata.filename is not None:
        return Path(adata.filename)
    for name in adata.obs.columns:
        base = adata.obs[name].attrs.get("base_path_or_zarr_group")
        path = base if isinstance(base, Path) else _file_of(base)
        if path is not None:
            return path
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the root group of a file or a store; None when it is neither."""
    import h5py
    import zarr

    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as root:
            yield root
        return
    try:
        store = zarr.open_group(path, mode="r")
    except Exception:  # whatever it is, it cannot be compared
        store = None
    yield store


def _is_stored(adata: AnnData, root: Any) -> bool:
    """Whether every element still is what the file holds, told by the names of its tasks."""
    if ("X" in root) != (adata.X is not None) or set(root["obs"].attrs["column-order"]) != set(
        adata.obs.columns
    ):
        return False
    elements = {"X": adata.X} if adata.X is not None else {}
    for axis in ("layers", "obsm", "obsp"):
        # From anndata 0.13 on layers hold X too, under the name None.
        held = {key: value for key, value in getattr(adata, axis).items() if key is not None}
        if set(root.get(axis, ())) != set(held):
            return False
        elements |= {f"{axis}/{key}": value for key, value in held.items()}
    elements |= {f"obs/{key}": _held(adata.obs[key]) for key in adata.obs.columns}
    return all(_is_element(value, root[key], key) for key, value in elements.items())


def _held(column: Any) -> Any:
    lazy = isinstance(column.variable._data, da.Array)
    return column.data if lazy else _key(column)


def _key(column: Any) -> str | None:
    """Name of the element behind a column that hangs on an open file or group."""
    base = column.attrs.get("base_path_or_zarr_group")
    name = base.path if hasattr(base, "store") else column.attrs.get("elem_name")
    return None if name is None else str(name).strip("/")


def _is_element(held: Any, node: Any, key: str) -> bool:
    """Whether a dask array has the tasks that anndata makes for a node, or a name is the node's."""
    from anndata.experimental import read_elem_lazy

    if isinstance(held, str):
        return held == key
    if not isinstance(held, da.Array):
        return False
    if hasattr(node, "dtype") and node.dtype.kind == "O":
        # anndata loads text of an h5ad when it is opened; comparing would load it once more.
        return bool(held.shape == node.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(held.name == read_elem_lazy(node).name)


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
    base, name = column.attrs.get("base_path_or_zarr_group"), _key(column)
    indexer: tuple[Any, ...] = getattr(getattr(lazy, "key", None), "tuple", ())
    if base is None or name is None or len(indexer) != 1 or not hasattr(lazy.array, "elem_name"):
        return None
    path = _file_of(base)
    if path is None or not path.exists():
        return None
    parent, _, last = name.rpartition("/")
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
