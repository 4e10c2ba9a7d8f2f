"""AnnData objects with dataframes in memory; their matrices may be in a file, or dask arrays."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellucid_lazy.errors import DataError, missing_key, no_raw
from cellucid_lazy.graph import rechunk, whole_rows
from cellucid_lazy.readers.dataset import (
    COLORS,
    check_choice,
    check_expression,
    check_graph,
    usable,
)
from cellucid_lazy.readers.elements import (
    check_numeric,
    lazy_array,
    neighbour_graph,
    obsm_array,
    sparse_obsm_array,
    stored_matrix,
)
from cellucid_lazy.readers.graphs import find_graph
from cellucid_lazy.readers.hdf5 import Hdf5
from cellucid_lazy.readers.matrix import DenseMatrix, MemoryArray, SparseMatrix
from cellucid_lazy.readers.series import series_column
from cellucid_lazy.source import (
    BlockSizes,
    DaskMatrix,
    Matrix,
    NeighbourGraph,
    ObsColumn,
    ObsmArray,
    Source,
)


def describe_loaded(
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

    `path` is where it was loaded from, `name` and `storage` what it is called where that is not
    known.
    """
    name = path or name
    # Names of tasks begin with it.
    token = f"memory-{uuid.uuid4().hex}"
    left_out: list[str] = []
    keys = [str(key) for key in adata.obs.columns]
    obsm = {str(key): value for key, value in adata.obsm.items()}

    def column(key: str) -> ObsColumn:
        found = series_column(key, adata.obs.iloc[:, keys.index(key)], f"{token}-obs-{key}")
        colors = adata.uns.get(f"{key}{COLORS}")
        is_list = np.ndim(colors) == 1
        return replace(found, read_colors=partial(_read_colors, colors) if is_list else None)

    def array(key: str) -> ObsmArray:
        return _obsm_array(obsm[key], f"{token}-obsm-{key}", f"obsm/{key}")

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
        connectivities=_graph(adata, token, name, neighbors_key, left_out),
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
        # Last: the lines before add to it.
        left_out=tuple(left_out),
    )


def _storage_of(path: str) -> str:
    return "zarr" if Path(path).is_dir() or path.endswith(".zip") else "h5ad"


# Matrices


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
    return None if matrix is None else _matrix(matrix, f"{token}-{key}", f"{name}: {key}"), var


def _matrices(adata: AnnData, left_out: list[str]) -> dict[str, tuple[int, ...]]:
    """Find the shapes of all matrices that could serve as expression."""
    # From anndata 0.13 on X is among the layers, under the name None.
    layers = {f"layers/{key}": adata.layers[key] for key in adata.layers if key is not None}
    every = {"X": adata.X, **layers}
    if adata.raw is not None:
        # A backed AnnData looks for raw in its file, and may find none.
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


def _matrix(matrix: Any, token: str, name: str) -> Matrix:
    """Describe a matrix in memory, or a dask array."""
    if isinstance(matrix, da.Array):
        check_numeric(matrix.dtype, name)
        return DaskMatrix(matrix)
    if sparse.issparse(matrix):
        return _sparse_matrix(matrix, token, name)
    values = np.asarray(matrix)
    check_numeric(values.dtype, name)
    if values.ndim != 2:
        raise DataError(f"{name}: has shape {values.shape}, but a matrix is needed")
    return DenseMatrix(MemoryArray(values, token))


def _sparse_matrix(matrix: Any, token: str, name: str) -> SparseMatrix:
    check_numeric(matrix.dtype, name)
    if matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    data, indices, indptr = (
        MemoryArray(getattr(matrix, part), f"{token}-{part}")
        for part in ("data", "indices", "indptr")
    )
    shape = int(matrix.shape[0]), int(matrix.shape[1])
    return SparseMatrix(matrix.format, shape, data, indices, indptr, name)


def _graph(
    adata: AnnData, token: str, name: str, neighbors_key: str | None, left_out: list[str]
) -> NeighbourGraph | None:
    found = find_graph(adata.obsp, adata.uns, neighbors_key, name)

    def described(values: Any, key: str) -> NeighbourGraph:
        if isinstance(values, da.Array):
            values = whole_rows(values)
        matrix = _matrix(values, f"{token}-connectivities", f"{name}: {key}")
        return neighbour_graph(matrix, adata.n_obs, key)

    return check_graph(found, described, left_out, name)


def _obsm_array(value: Any, token: str, name: str) -> ObsmArray:
    if isinstance(value, da.Array):
        check_numeric(value.dtype, name)
        return ObsmArray(value.shape, value.dtype, partial(_whole_rows, value))
    if sparse.issparse(value):
        return sparse_obsm_array(_sparse_matrix(value, token, name))
    values = np.asarray(value)
    check_numeric(values.dtype, name)
    return obsm_array(MemoryArray(values, token))


def _whole_rows(array: da.Array, sizes: BlockSizes, *, again: bool = False) -> da.Array:
    # The user's array: its blocks are what they are, and its tasks keep their names.
    del sizes, again
    return rechunk(array, {1: -1}) if array.ndim == 2 else array


# Names and colours


def _read_colors(colors: Any) -> list[str]:
    return [str(color) for color in np.asarray(colors).tolist()]


def _read_gene_ids(var: pd.DataFrame, name: str, column: str) -> list[str]:
    if column == "index":
        return [str(one) for one in var.index]
    keys = [str(key) for key in var.columns]
    if column not in keys:
        raise missing_key("var column", column, keys, where=name)
    return [str(one) for one in var.iloc[:, keys.index(column)]]
