"""AnnData objects as sources: in memory, backed, from ``read_lazy``, and views of these."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
from scipy import sparse

from cellucid_lazy.errors import DataError, missing_key, no_raw
from cellucid_lazy.readers.dataset import (
    check_choice,
    check_connectivities,
    check_expression,
)
from cellucid_lazy.readers.dense_expression import StoredDense
from cellucid_lazy.readers.expression import dask_expression
from cellucid_lazy.readers.frame import frame_columns
from cellucid_lazy.readers.lazy_array import element_of, element_of_dask
from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.readers.sparse_array import SparseReader
from cellucid_lazy.readers.sparse_blocks import major_array, major_cut
from cellucid_lazy.readers.sparse_expression import stored_sparse
from cellucid_lazy.readers.stored import EDGE_VALUES, real_numbers
from cellucid_lazy.readers.subset import positions, subset
from cellucid_lazy.source import Column, Connectivities, Element, Expression, Source

if TYPE_CHECKING:
    from anndata import AnnData


def open_anndata(
    adata: AnnData, *, layer: str | None, use_raw: bool, path: str | None = None
) -> Source:
    """Describe an AnnData object.

    Parameters
    ----------
    adata
        In memory, backed, from ``read_lazy``, or a view of any of these.
    layer, use_raw
        What serves as expression.
    path
        The file it was loaded from, where that is known.

    Returns
    -------
    Source
        The lazy view. What lies in a file stays there.

    Raises
    ------
    DataError
        When its shapes do not fit.
    MissingKeyError
        When the layer, or raw, is not there.
    """
    if adata.is_view and (adata._adata_ref.isbacked or _is_lazy(adata._adata_ref)):
        from anndata import settings

        whole = open_anndata(adata._adata_ref, layer=layer, use_raw=use_raw)
        cells = positions(adata._oidx, whole.n_cells)
        genes = None if use_raw else positions(adata._vidx, whole.n_genes)
        return subset(whole, cells, genes, prune=settings.remove_unused_categories)
    if _is_lazy(adata):
        from cellucid_lazy.readers.from_read_lazy import behind

        stored = behind(adata, layer=layer, use_raw=use_raw)
        if stored is not None:
            return stored
    return _describe(adata, layer=layer, use_raw=use_raw, path=path)


def _is_lazy(adata: AnnData) -> bool:
    return not isinstance(adata.obs, pd.DataFrame)


def _describe(adata: AnnData, *, layer: str | None, use_raw: bool, path: str | None) -> Source:
    token = f"memory-{uuid.uuid4().hex}"
    if adata.isbacked:
        path = str(Path(adata.filename).absolute())
    name = path or "AnnData in memory"
    left_out: list[str] = []
    matrix, var = _expression(adata, layer=layer, use_raw=use_raw, name=name, token=token)
    n_genes = len(var.index)
    check_expression(matrix, adata.n_obs, n_genes, name)
    graph = None
    if "connectivities" in adata.obsp:
        graph = _graph(adata.obsp["connectivities"], f"{token}-connectivities", name)
        check_connectivities(graph, adata.n_obs, name)
    return Source(
        name=name,
        storage="h5ad" if path else "memory",
        path=path,
        is_backed=bool(adata.isbacked),
        n_cells=adata.n_obs,
        n_genes=n_genes,
        obs=_columns(adata, token, left_out),
        obsm=_elements(adata.obsm, token, left_out),
        expression=matrix,
        connectivities=graph,
        var_keys=tuple(str(key) for key in var.columns),
        read_gene_ids=partial(_gene_ids, var, name),
        left_out=tuple(left_out),
    )


def _expression(
    adata: AnnData, *, layer: str | None, use_raw: bool, name: str, token: str
) -> tuple[Expression | None, Any]:
    check_choice(layer, use_raw=use_raw, name=name)
    if use_raw and adata.raw is None:
        raise no_raw(name)
    if layer is not None and layer not in adata.layers:
        # From anndata 0.13 on X is among the layers, under the name None.
        layers = [key for key in adata.layers if key is not None]
        raise missing_key("layer", layer, layers, where=name)
    var = adata.raw.var if use_raw else adata.var
    if adata.isbacked and layer is None:
        from cellucid_lazy.readers.h5ad import backed_expression

        return backed_expression(adata.filename, use_raw=use_raw), var
    if use_raw:
        matrix, key = adata.raw.X, "raw.X"
    elif layer is not None:
        matrix, key = adata.layers[layer], f"layers/{layer}"
    else:
        matrix, key = adata.X, "X"
    if matrix is None:
        return None, var
    return matrix_expression(matrix, f"{token}-{key}", f"{name}: {key}"), var


def matrix_expression(matrix: Any, token: str, place: str) -> Expression:
    """Describe a matrix in memory, or a dask array, as an expression matrix.

    Raises
    ------
    DataError
        When it is no matrix of real numbers.
    """
    if isinstance(matrix, da.Array):
        real_numbers(matrix.dtype, place)
        return dask_expression(matrix)
    if sparse.issparse(matrix):
        reader = sparse_in_memory(matrix, token, place)
        real_numbers(reader.dtype, place)
        return stored_sparse(reader)
    values = np.asarray(matrix)
    real_numbers(values.dtype, place)
    if values.ndim != 2:
        raise DataError(f"{place}: has shape {values.shape}, but a matrix is needed")
    return StoredDense(MemoryArray(values, token))


def sparse_in_memory(matrix: Any, token: str, place: str) -> SparseReader:
    """Describe a SciPy sparse matrix; formats other than CSR and CSC become CSR."""
    if matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    return SparseReader(
        matrix.format,
        (int(matrix.shape[0]), int(matrix.shape[1])),
        MemoryArray(matrix.data, f"{token}-data"),
        MemoryArray(matrix.indices, f"{token}-indices"),
        MemoryArray(matrix.indptr, f"{token}-indptr"),
        place,
    )


def _graph(matrix: Any, token: str, name: str) -> Connectivities:
    place = f"{name}: obsp/connectivities"
    if not sparse.issparse(matrix):
        whole = matrix_expression(matrix, token, place)
        return Connectivities(whole.shape, partial(_row_blocks, whole), whole.n_stored)
    reader = sparse_in_memory(matrix.T if matrix.format == "csc" else matrix, token, place)
    cut = major_cut(reader, EDGE_VALUES)
    return Connectivities(reader.shape, partial(major_array, reader, cut), reader.n_stored)


def _row_blocks(matrix: Expression) -> da.Array:
    return matrix.blocks(EDGE_VALUES).blocks.rechunk({1: -1})


def _columns(adata: AnnData, token: str, left_out: list[str]) -> dict[str, Column]:
    if _is_lazy(adata):
        from cellucid_lazy.readers.from_read_lazy import lazy_columns

        return lazy_columns(adata.obs, token, left_out)
    return frame_columns(adata.obs, token, left_out)


def _elements(obsm: Mapping[str, Any], token: str, left_out: list[str]) -> dict[str, Element]:
    elements = {}
    for key, value in obsm.items():
        try:
            elements[str(key)] = element_in_memory(value, f"{token}-obsm-{key}", f"obsm/{key}")
        except (DataError, TypeError, ValueError) as problem:
            left_out.append(f"obsm {key!r} is left out: {problem}")
    return elements


def element_in_memory(value: Any, token: str, place: str) -> Element:
    """Describe an entry of obsm: array, sparse matrix, dataframe or dask array.

    Raises
    ------
    DataError
        When it holds no real numbers.
    """
    if isinstance(value, da.Array):
        real_numbers(value.dtype, place)
        return element_of_dask(value)
    if sparse.issparse(value):
        value = value.toarray()
    values = np.asarray(value)
    real_numbers(values.dtype, place)
    return element_of(MemoryArray(values, token))


def _gene_ids(var: Any, name: str, column: str) -> list[str]:
    if column == "index":
        return [str(one) for one in var.index]
    keys = [str(key) for key in var.columns]
    if column not in keys:
        raise missing_key("var column", column, keys, where=name)
    values = var[column]
    return [str(one) for one in (values if isinstance(values, pd.Series) else values.to_series())]
