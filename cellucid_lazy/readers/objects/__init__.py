"""AnnData objects as sources: in memory, backed, from ``read_lazy``, and views of these."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import dask.array as da
import pandas as pd
from anndata import AnnData
from dask.graph_manipulation import clone

from cellucid_lazy.errors import DataError, FallbackWarning
from cellucid_lazy.readers.dataset import COLORS
from cellucid_lazy.readers.objects.loaded import describe_loaded
from cellucid_lazy.readers.storage import Tree
from cellucid_lazy.readers.subset import subset
from cellucid_lazy.source import Source


def open_anndata(
    adata: AnnData,
    *,
    layer: str | None,
    use_raw: bool,
    neighbors_key: str | None = None,
    path: str | None = None,
) -> Source:
    """Describe an AnnData object.

    Parameters
    ----------
    adata
        In memory, backed, from ``read_lazy``, or a view of any of these.
    layer, use_raw
        What serves as expression.
    neighbors_key
        Which neighbour graph is shown; None for the usual one.
    path
        The file it was loaded from, where that is known.

    Returns
    -------
    Source
        A backed matrix stays in its file.

    Raises
    ------
    DataError
        When its shapes do not fit.
    MissingKeyError
        When the layer, or raw, is not there.
    """
    whole = adata
    if adata.is_view and (adata._adata_ref.isbacked or _is_lazy(adata._adata_ref)):
        whole = adata._adata_ref
    loaded, called = whole, {}
    if _is_lazy(whole):
        file = _path(whole)
        path = None if file is None else str(file.absolute())
        called = {"name": "AnnData from read_lazy", "storage": "lazy"}
        loaded = _load_frames(whole, path or called["name"], use_raw=use_raw)
    elif loaded.isbacked:
        path = str(Path(loaded.filename).absolute())
    source = describe_loaded(
        loaded, layer=layer, use_raw=use_raw, neighbors_key=neighbors_key, path=path, **called
    )
    if whole is adata:
        return source
    drop_unused = anndata.settings.remove_unused_categories
    genes = None if use_raw else adata._vidx
    return subset(source, adata._oidx, genes, drop_unused=drop_unused)


def open_old_layout(
    tree: Tree, storage: str, *, layer: str | None, use_raw: bool, neighbors_key: str | None
) -> Source:
    """Load a dataset from before AnnData 0.7, with a warning; DataError if that fails."""
    path = tree.path
    warnings.warn(
        f"{path}: this {storage} has the layout from before AnnData 0.7, which must be loaded "
        "whole; write it again with a current anndata to read it lazily",
        FallbackWarning,
        stacklevel=4,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            is_file = storage == "h5ad"
            adata = anndata.read_h5ad(path) if is_file else anndata.io.read_zarr(tree.root)
    except Exception as problem:
        raise DataError(f"{path}: cannot be read as an old {storage}: {problem}") from problem
    source = open_anndata(
        adata, layer=layer, use_raw=use_raw, neighbors_key=neighbors_key, path=path
    )
    return replace(source, storage=storage)


def _is_lazy(adata: AnnData) -> bool:
    """Tell whether an AnnData comes from ``anndata.experimental.read_lazy``."""
    return not isinstance(adata.obs, pd.DataFrame)


def _load_frames(adata: AnnData, name: str, *, use_raw: bool) -> AnnData:
    """Load obs and var of an AnnData from ``read_lazy``; its other arrays stay lazy.

    Its columns hold open handles. Its tasks are named by path and key only, so an overwritten file
    would serve stale results: they get new names.
    """
    warnings.warn(
        f"{name}: obs and var of a lazy AnnData are loaded now, and "
        "its matrices are read in the blocks of anndata; open the file itself to read it lazily",
        FallbackWarning,
        stacklevel=5,
    )
    loaded = AnnData(
        X=_renamed(adata.X),
        obs=_load_frame(adata.obs),
        var=_load_frame(adata.var),
        layers=_all_renamed(adata.layers),
        obsm=_all_renamed(adata.obsm),
        obsp=_all_renamed(adata.obsp),
        uns={
            key: value
            for key, value in adata.uns.items()
            if key == "neighbors" or key.endswith(COLORS)
        },
    )
    if use_raw and adata.raw is not None:
        var = _load_frame(adata.raw.var)
        loaded.raw = AnnData(X=_renamed(adata.raw.X), obs=loaded.obs[[]], var=var)
    return loaded


def _load_frame(frame: Any) -> pd.DataFrame:
    if isinstance(frame, pd.DataFrame):
        return frame
    # anndata would drop categories of the whole dataset that no cell has.
    with anndata.settings.override(remove_unused_categories=False):
        loaded: pd.DataFrame = frame.to_memory()
    # The order of the columns is that of the dataset below.
    return loaded[[key for key in frame.ds.data_vars if key in loaded]]


def _all_renamed(values: Mapping[Any, Any]) -> dict[str, Any]:
    # From anndata 0.13 on X is among the layers, under the name None. The order of the others
    # differs from process to process.
    return {key: _renamed(values[key]) for key in sorted(key for key in values if key is not None)}


def _renamed(value: Any) -> Any:
    return clone(value, seed=uuid.uuid4().hex) if isinstance(value, da.Array) else value


def _path(adata: AnnData) -> Path | None:
    """Find the file: anndata keeps its path where a column is read by handle."""
    if adata.filename is not None:
        return Path(adata.filename)
    for column in adata.obs.ds.data_vars.values():
        base = column.attrs.get("base_path_or_zarr_group")
        path = (
            base if isinstance(base, Path) else getattr(getattr(base, "store", None), "root", None)
        )
        if path is not None:
            return Path(path)
    return None
