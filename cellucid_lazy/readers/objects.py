"""AnnData objects as sources: in memory, backed, from ``read_lazy``, and views of these."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData
from dask.graph_manipulation import clone

from cellucid_lazy.errors import DataError, FallbackWarning, missing_key, no_raw
from cellucid_lazy.graph import whole_rows
from cellucid_lazy.readers.dataset import (
    COLORS,
    check_choice,
    check_expression,
    neighbour_graph,
    usable,
)
from cellucid_lazy.readers.elements import lazy_array, stored_matrix
from cellucid_lazy.readers.hdf5 import Hdf5
from cellucid_lazy.readers.matrix import MemoryArray
from cellucid_lazy.readers.memory import column_of, matrix_of, obsm_of
from cellucid_lazy.readers.storage import Tree
from cellucid_lazy.readers.subset import subset
from cellucid_lazy.source import Matrix, ObsColumn, ObsmArray, Source


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
    loaded, labels = whole, {}
    if _is_lazy(whole):
        file = _path(whole)
        path = None if file is None else str(file.absolute())
        labels = {"name": "AnnData from read_lazy", "storage": "lazy"}
        loaded = _load_frames(whole, path or labels["name"], use_raw=use_raw)
    elif loaded.isbacked:
        path = str(Path(loaded.filename).absolute())
    source = _describe(
        loaded, layer=layer, use_raw=use_raw, neighbors_key=neighbors_key, path=path, **labels
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
        stacklevel=5,
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
    """Return whether an AnnData comes from ``anndata.experimental.read_lazy``."""
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
    # In the order of the stored columns.
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


def _describe(
    adata: AnnData,
    *,
    layer: str | None,
    use_raw: bool,
    neighbors_key: str | None,
    path: str | None,
    name: str = "AnnData in memory",
    storage: str = "memory",
) -> Source:
    """Describe an AnnData object that is no view of a file.

    `path` is the file it was loaded from. Without one, messages call it `name`, and its storage is
    `storage`.
    """
    name = path or name
    # Names of tasks begin with it.
    token = f"memory-{uuid.uuid4().hex}"
    left_out: list[str] = []
    keys = [str(key) for key in adata.obs.columns]
    obsm = {str(key): value for key, value in adata.obsm.items()}

    def column(key: str) -> ObsColumn:
        found = column_of(key, adata.obs.iloc[:, keys.index(key)], f"{token}-obs-{key}")
        colors = adata.uns.get(f"{key}{COLORS}")
        is_list = np.ndim(colors) == 1
        return replace(found, read_colors=partial(_read_colors, colors) if is_list else None)

    def array(key: str) -> ObsmArray:
        return obsm_of(obsm[key], f"{token}-obsm-{key}", f"obsm/{key}")

    def graph_matrix(values: Any, place: str) -> Matrix:
        values = whole_rows(values) if isinstance(values, da.Array) else values
        return matrix_of(values, f"{token}-connectivities", f"{name}: {place}")

    matrix, var = _expression(adata, token, name, layer=layer, use_raw=use_raw)
    return Source(
        name=name,
        storage=_storage_of(path) if path else storage,
        path=path,
        is_backed=bool(adata.isbacked),
        n_cells=adata.n_obs,
        n_genes=len(var),
        obs=usable("obs column", keys, column, left_out),
        obsm=usable("obsm", obsm, array, left_out),
        expression=check_expression(matrix, adata.n_obs, len(var), name),
        connectivities=neighbour_graph(
            adata.obsp, adata.uns, neighbors_key, graph_matrix, adata.n_obs, left_out, name
        ),
        var_keys=tuple(str(key) for key in var.columns),
        cell_names=partial(
            lazy_array, MemoryArray(adata.obs_names.to_numpy(dtype=object), f"{token}-cell names")
        ),
        var_name="raw/var" if use_raw else "var",
        read_gene_ids=partial(_read_gene_ids, var, name),
        matrices=_matrices(adata, left_out),
        read_raw_gene_ids=(
            None if use_raw or adata.raw is None else partial(_read_gene_ids, adata.raw.var, name)
        ),
        # Last, since the calls above append to it.
        left_out=tuple(left_out),
    )


def _storage_of(path: str) -> str:
    return "zarr" if Path(path).is_dir() or path.endswith(".zip") else "h5ad"


def _expression(
    adata: AnnData, token: str, name: str, *, layer: str | None, use_raw: bool
) -> tuple[Matrix | None, pd.DataFrame]:
    check_choice(layer, use_raw=use_raw, name=name)
    if use_raw and adata.raw is None:
        raise no_raw(name)
    if layer is not None and layer not in adata.layers:
        # From anndata 0.13 on X is among the layers, under the name None.
        layers = [key for key in adata.layers if key is not None]
        raise missing_key("layer", layer, layers, where=name)
    var = adata.raw.var if use_raw else adata.var
    if adata.isbacked and layer is None:
        return _backed_matrix(name, use_raw=use_raw), var
    if use_raw:
        matrix, key = adata.raw.X, "raw.X"
    elif layer is not None:
        matrix, key = adata.layers[layer], f"layers/{layer}"
    else:
        matrix, key = adata.X, "X"
    return None if matrix is None else matrix_of(matrix, f"{token}-{key}", f"{name}: {key}"), var


def _matrices(adata: AnnData, left_out: list[str]) -> dict[str, tuple[int, ...]]:
    """Find the shapes of all matrices that could serve as expression."""
    # From anndata 0.13 on X is among the layers, under the name None.
    layers = {f"layers/{key}": adata.layers[key] for key in adata.layers if key is not None}
    every = {"X": adata.X, **layers}
    if adata.raw is not None:
        # A backed AnnData reads raw from its file, where it may be missing.
        every |= usable("matrix", ["raw/X"], lambda _: adata.raw.X, left_out)
    return {key: tuple(one.shape) for key, one in every.items() if one is not None}


def _backed_matrix(path: str, *, use_raw: bool) -> Matrix | None:
    with Hdf5().open(path, None) as tree:
        node = tree.root
        for key in ("raw" if "raw" in node else "raw.X", "X") if use_raw else ("X",):
            if key not in node:
                return None
            node = node[key]
        return stored_matrix(tree, node)


def _read_colors(colors: Any) -> list[str]:
    return [str(color) for color in np.asarray(colors).tolist()]


def _read_gene_ids(var: pd.DataFrame, name: str, column: str) -> list[str]:
    if column == "index":
        return [str(one) for one in var.index]
    keys = [str(key) for key in var.columns]
    if column not in keys:
        raise missing_key("var column", column, keys, where=name)
    return [str(one) for one in var.iloc[:, keys.index(column)]]
