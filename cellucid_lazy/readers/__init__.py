"""Readers: whatever holds an AnnData becomes a Source."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cellucid_lazy.errors import DataError, LeftOutWarning, MissingFileError, OptionError
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
        ``.zarr`` suffix, or ``.zarr.zip``); URL of a zarr store, such as
        ``"s3://bucket/atlas.zarr"``; an AnnData in memory, backed or from
        ``anndata.experimental.read_lazy``, or a view of any of these.
    layer
        Layer that serves as expression. Default: X.
    use_raw
        Whether raw.X serves as expression.
    storage_options
        Options of the URL's file system, as fsspec takes them; for S3 such as
        ``{"anon": True}`` or ``{"endpoint_url": ..., "key": ..., "secret": ...}``. What is not
        given comes from the environment and fsspec's configuration. Credentials show in no name
        and no message, but tasks carry them to the workers that read.

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
    OptionError
        When storage options do not fit, or are given for what is no URL.

    Examples
    --------
    >>> source = open("atlas.h5ad", layer="counts")  # doctest: +SKIP
    >>> source = open("s3://bucket/atlas.zarr", storage_options={"anon": True})  # doctest: +SKIP
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
    place = _place(data)
    if place is not None and "://" in place:
        from cellucid_lazy.readers.zarr_store import open_zarr

        return open_zarr(place, layer=layer, use_raw=use_raw, storage_options=storage_options)
    if storage_options:
        raise OptionError("storage_options are for URLs, such as s3://bucket/atlas.zarr")
    if place is not None:
        return _open_path(place, layer=layer, use_raw=use_raw)
    from anndata import AnnData

    if isinstance(data, AnnData):
        from cellucid_lazy.readers.in_memory import open_anndata

        return open_anndata(data, layer=layer, use_raw=use_raw)
    raise DataError(
        f"cannot open a {type(data).__name__}: give a path, a URL, an AnnData or an opened source"
    )


def _place(data: Any) -> str | None:
    """The path or URL given, if it is one; the URL of a local file becomes its path."""
    if not isinstance(data, (str, os.PathLike)):
        return None
    place = os.fspath(data)
    if place.startswith("file://"):
        return url2pathname(urlsplit(place).path)
    return place


def _open_path(path: str, *, layer: str | None, use_raw: bool) -> Source:
    if not path:
        raise MissingFileError("the name of the dataset is empty: give a path or a URL")
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
        return open_zarr(str(local), layer=layer, use_raw=use_raw)
    if (local / "dataset_identity.json").is_file():
        raise DataError(
            f"{local}: an export for the viewer, not AnnData; give the h5ad or zarr it was made of"
        )
    raise DataError(
        f"{local}: neither an HDF5 file nor a zarr store; give an .h5ad file, a zarr folder or a "
        ".zarr.zip"
    )
