"""Readers: whatever holds an AnnData becomes a Source."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellucid_lazy.errors import DataError, LeftOutWarning, MissingFileError
from cellucid_lazy.source import Source

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["open"]


def open(  # noqa: A001 - the name that users of xarray, zarr and h5py expect
    data: str | os.PathLike[str] | AnnData | Source,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """Open a dataset lazily: metadata is read, no array.

    Parameters
    ----------
    data
        Path to an ``.h5ad`` file or a zarr store (v2 or v3, a folder with or without the
        ``.zarr`` suffix, or ``.zarr.zip``); URL of a zarr store; an AnnData in memory, backed or
        from ``anndata.experimental.read_lazy``, or a view of any of these.
    layer
        Layer that serves as expression. Default: X.
    use_raw
        Whether raw.X serves as expression.
    storage_options
        Options of a remote store, as fsspec takes them.

    Returns
    -------
    Source
        The lazy view. What cannot be used is named in its ``left_out`` and in a warning.

    Raises
    ------
    DataError
        When it cannot be read, is no AnnData, or its shapes do not fit.
    MissingKeyError
        When the layer, or raw, is not there.

    Examples
    --------
    >>> source = open("atlas.h5ad", layer="counts")  # doctest: +SKIP
    """
    if isinstance(data, Source):
        return data
    source = _open(data, layer=layer, use_raw=use_raw, storage_options=storage_options)
    for sentence in source.left_out:
        warnings.warn(f"{source.name}: {sentence}", LeftOutWarning, stacklevel=2)
    return source


def _open(
    data: Any, *, layer: str | None, use_raw: bool, storage_options: Mapping[str, Any] | None
) -> Source:
    if isinstance(data, (str, os.PathLike)):
        return _open_path(
            os.fspath(data), layer=layer, use_raw=use_raw, storage_options=storage_options
        )
    from anndata import AnnData

    if isinstance(data, AnnData):
        from cellucid_lazy.readers.in_memory import open_anndata

        return open_anndata(data, layer=layer, use_raw=use_raw)
    raise DataError(
        f"cannot open a {type(data).__name__}: give a path, a URL, an AnnData or an opened source"
    )


def _open_path(
    path: str, *, layer: str | None, use_raw: bool, storage_options: Mapping[str, Any] | None
) -> Source:
    if "://" in path:
        from cellucid_lazy.readers.zarr_store import open_zarr

        return open_zarr(
            path.rstrip("/"), layer=layer, use_raw=use_raw, storage_options=storage_options
        )
    local = Path(path).expanduser().absolute()
    if not local.exists():
        raise MissingFileError(f"{local}: no such file or folder")
    from cellucid_lazy.readers.h5ad import has_old_layout, is_hdf5, open_h5ad

    if is_hdf5(local):
        if has_old_layout(local):
            from cellucid_lazy.readers.old_layout import open_old_layout

            return open_old_layout(local, layer=layer, use_raw=use_raw)
        return open_h5ad(local, layer=layer, use_raw=use_raw)
    from cellucid_lazy.readers.zarr_store import is_zarr, open_zarr

    if is_zarr(local):
        return open_zarr(str(local), layer=layer, use_raw=use_raw, storage_options=None)
    raise DataError(
        f"{local}: neither an HDF5 file nor a zarr store; give an .h5ad file, a zarr folder or a "
        ".zarr.zip"
    )
