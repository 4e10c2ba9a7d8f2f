"""Open an AnnData in any storage, or in memory, as a Source."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cellucid_lazy.errors import (
    DataError,
    LeftOutWarning,
    MissingFileError,
    OptionError,
    missing_key,
)
from cellucid_lazy.readers.dataset import describe
from cellucid_lazy.readers.frames import frame_keys
from cellucid_lazy.readers.hdf5 import Hdf5
from cellucid_lazy.readers.mistaken import describe_file
from cellucid_lazy.readers.storage import Storage, Tree
from cellucid_lazy.readers.zarr import Zarr
from cellucid_lazy.source import Source

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["STORAGES", "open"]

# Tried in this order. A new storage is a module and a line here.
STORAGES: tuple[Storage, ...] = (Hdf5(), Zarr())


def open(  # noqa: A001 - the name that users of xarray, zarr and h5py expect
    data: str | os.PathLike[str] | AnnData | Source,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    neighbors_key: str | None = None,
    modality: str | None = None,
    table: str | None = None,
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
    neighbors_key
        Which neighbour graph is shown: what scanpy's ``key_added`` was, or a key of obsp. Default:
        ``obsp/connectivities``, or the one that uns/neighbors names.
    modality
        The modality of a MuData file or store (``.h5mu``).
    table
        The table of a SpatialData store.
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
        When storage options do not fit, or are given without a URL.

    Examples
    --------
    >>> source = open("atlas.h5ad", layer="counts")  # doctest: +SKIP
    >>> source = open("s3://bucket/atlas.zarr", storage_options={"anon": True})  # doctest: +SKIP
    """
    if isinstance(data, Source):
        return data
    path = _path_of(data)
    if storage_options and (path is None or "://" not in path):
        raise OptionError("storage_options are for URLs, such as s3://bucket/atlas.zarr")
    choice = {"layer": layer, "use_raw": use_raw, "neighbors_key": neighbors_key}
    if path is None:
        if modality or table:
            raise OptionError("modality= and table= are for files and stores that hold several")
        source = _open_with_anndata(data, choice)
    else:
        source = _open_path(path, storage_options, (modality, table), choice)
    for sentence in source.left_out:
        warnings.warn(f"{source.name}: {sentence}", LeftOutWarning, stacklevel=2)
    return source


def _path_of(data: Any) -> str | None:
    """Return the absolute path or the URL given, or None for an object."""
    if not isinstance(data, (str, os.PathLike)):
        return None
    path = os.fspath(data)
    if not path:
        raise MissingFileError("the name of the dataset is empty: give a path or a URL")
    if path.startswith("file://"):
        path = url2pathname(urlsplit(path).path)
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _open_path(
    path: str,
    storage_options: Mapping[str, Any] | None,
    part: tuple[str | None, str | None],
    choice: Mapping[str, Any],
) -> Source:
    if "://" not in path:
        _check_readable(path)
    for storage in STORAGES:
        if storage.sniff(path):
            with storage.open(path, storage_options) as whole:
                tree = _choose_anndata(whole, *part)
                if not _has_old_layout(tree):
                    source = describe(tree, storage.name, **choice)
                    if tree is whole:
                        return source
                    shared = _shared_elements(whole, source)
                    return replace(source, left_out=(*shared, *source.left_out))
                return _open_with_anndata(tree, choice, storage=storage.name)
    if (Path(path) / "dataset_identity.json").is_file():
        raise DataError(
            f"{path}: an export for the viewer, not AnnData; give the h5ad or zarr it was made of"
        )
    what = describe_file(path) or (
        "neither an HDF5 file nor a zarr store; give an .h5ad file, a zarr folder or a .zarr.zip"
    )
    raise DataError(f"{path}: {what}")


def _check_readable(path: str) -> None:
    """Refuse a file or folder that is not there or may not be read."""
    file = Path(path)
    try:
        if not file.exists():
            raise MissingFileError(f"{path}: no such file or folder")
        if file.is_dir():
            next(file.iterdir(), None)
        else:
            file.open("rb").close()
    except PermissionError as problem:
        raise DataError(f"{path}: may not be read; check its permissions (ls -l)") from problem


# Groups that hold several AnnData: what the store is, and the argument that names one. Before
# SpatialData 0.1 the one table was in the group table.
_CONTAINERS = {
    "mod": ("MuData", "modality"),
    "tables": ("SpatialData", "table"),
    "table": ("SpatialData", "table"),
}


def _choose_anndata(tree: Tree, modality: str | None, table: str | None) -> Tree:
    """Go to the AnnData that is asked for, in a store that holds several."""
    chosen = {"modality": modality, "table": table}
    group = next((one for one in _CONTAINERS if one in tree.root), "")
    found = _CONTAINERS.get(group)
    for kind, argument in _CONTAINERS.values():
        if chosen[argument] is not None and found != (kind, argument):
            raise DataError(f"{tree.path}: is no {kind}, so there is no {argument} to choose")
    if found is None:
        return tree
    kind, argument = found
    name, held = chosen[argument], sorted(tree.root[group])
    if name is None:
        raise DataError(
            f"{tree.path}: is a {kind} of {', '.join(held) or 'nothing'}; open one with "
            f"{argument}={next(iter(held), '')!r} (--{argument} {next(iter(held), '')})"
        )
    if name not in held:
        raise missing_key(argument, name, held, where=tree.path)
    return tree._replace(root=tree.root[group][name])


def _shared_elements(whole: Tree, source: Source) -> tuple[str, ...]:
    """Name in a sentence what a MuData holds for all its modalities, which is not shown."""
    if "mod" not in whole.root or "obs" not in whole.root:
        return ()
    # MuData repeats a modality's columns, under its name and a colon or under their own name.
    columns = [key for key in frame_keys(whole.root["obs"]) if ":" not in key]
    keys = [f"obs/{key}" for key in columns if key not in source.obs]
    # Under the name of a modality there is a mask of its cells.
    arrays = sorted(whole.root.get("obsm", {}))
    keys += [f"obsm/{key}" for key in arrays if key not in whole.root["mod"]]
    if not keys:
        return ()
    return (f"left out, as a MuData has it for no single modality: {', '.join(keys)}",)


def _has_old_layout(tree: Tree) -> bool:
    """Return whether obs is one array of records, as before AnnData 0.7."""
    dtype = getattr(tree.root.get("obs"), "dtype", None)
    return getattr(dtype, "names", None) is not None


def _open_with_anndata(data: Any, choice: Mapping[str, Any], *, storage: str = "") -> Source:
    """Open an AnnData object, or a stored tree of the old layout."""
    # Deferred: importing anndata takes 1.6 s, and files of today's layout are read without it.
    from anndata import AnnData

    from cellucid_lazy.readers.objects import open_anndata, open_old_layout

    if isinstance(data, Tree):
        return open_old_layout(data, storage, **choice)
    if isinstance(data, AnnData):
        return open_anndata(data, **choice)
    raise DataError(
        f"cannot open a {type(data).__name__}: give a path, a URL, an AnnData or an opened source"
    )
