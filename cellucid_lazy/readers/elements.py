"""Elements of a stored AnnData by their encoding: matrices and arrays per cell.

This follows AnnData's on-disk format since version 0.7. Arrays become lazy in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, Literal

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError
from cellucid_lazy.graph import from_graph, whole_rows
from cellucid_lazy.readers.matrix import DenseMatrix, MemoryArray, SparseMatrix, check_fits, cut
from cellucid_lazy.readers.storage import Tree
from cellucid_lazy.source import ArrayReader, Block, BlockSizes, ObsmArray

_LAYOUTS: dict[str, Literal["csr", "csc"]] = {
    "csr_matrix": "csr",
    "csc_matrix": "csc",
    "csr": "csr",
    "csc": "csc",
}

# Least size that is assumed for a row, since narrow types are widened later; and for a text.
_MIN_ROW_BYTES = 8
_TEXT_BYTES = 64


def is_array(node: Any) -> bool:
    """Return whether a node is an array, not a group."""
    return hasattr(node, "shape")


def attribute(node: Any, name: str) -> Any:
    """Read an attribute, or None; bytes become text, arrays become lists."""
    value = node.attrs.get(name)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return [one.decode() if isinstance(one, bytes) else one for one in value.tolist()]
    return value


def encoding(node: Any) -> str:
    """Return the encoding of a node; also for sparse groups from before AnnData 0.7."""
    return str(attribute(node, "encoding-type") or attribute(node, "h5sparse_format") or "")


def location(tree: Tree, node: Any) -> str:
    """Return what messages call a node: the file and the key."""
    return f"{tree.path}: {str(node.name).lstrip('/')}"


def check_numeric(dtype: np.dtype[Any], name: str) -> None:
    """Refuse all but real numbers with a DataError, whose message begins with `name`."""
    if dtype.kind not in "biuf":
        held = "text" if dtype.kind == "O" else dtype
        raise DataError(f"{name}: holds {held}, but real numbers are needed")


def _numeric_reader(tree: Tree, node: Any) -> ArrayReader:
    """Make the reader of an array of real numbers."""
    reader = tree.reader(node)
    check_numeric(reader.dtype, location(tree, node))
    return reader


def stored_matrix(tree: Tree, node: Any) -> DenseMatrix | SparseMatrix:
    """Describe a stored matrix.

    Raises
    ------
    DataError
        When the node is no matrix of real numbers.
    """
    name = location(tree, node)
    if not is_array(node):
        if encoding(node) not in _LAYOUTS:
            raise DataError(
                f"{name}: is a group of encoding {encoding(node)!r}; an array, csr_matrix or "
                "csc_matrix is needed"
            )
        return _sparse_matrix(tree, node, name)
    if len(node.shape) != 2:
        raise DataError(f"{name}: has shape {tuple(node.shape)}, but a matrix is needed")
    return DenseMatrix(_numeric_reader(tree, node))


def _sparse_matrix(tree: Tree, group: Any, name: str) -> SparseMatrix:
    shape = attribute(group, "shape") or attribute(group, "h5sparse_shape")
    missing = [part for part in ("data", "indices", "indptr") if part not in group]
    if missing or shape is None or len(shape) != 2:
        raise DataError(
            f"{name}: not a complete sparse matrix (shape {shape}, missing: {missing or 'none'})"
        )
    return SparseMatrix(
        _LAYOUTS[encoding(group)],
        (int(shape[0]), int(shape[1])),
        _numeric_reader(tree, group["data"]),
        tree.reader(group["indices"]),
        tree.reader(group["indptr"]),
        name,
    )


def stored_obsm(tree: Tree, node: Any, n_cells: int) -> ObsmArray:
    """Describe an entry of obsm: a dense or sparse array, or a dataframe of numbers.

    Raises
    ------
    DataError
        When it does not hold real numbers, or does not have a row per cell.
    """
    found = _obsm_entry(tree, node)
    if found.shape[:1] != (n_cells,):
        raise DataError(
            f"{location(tree, node)}: has shape {found.shape}, but there are {n_cells:,} cells"
        )
    return found


def _obsm_entry(tree: Tree, node: Any) -> ObsmArray:
    if is_array(node):
        return dense_obsm(_numeric_reader(tree, node))
    name = location(tree, node)
    if encoding(node) in _LAYOUTS:
        return sparse_obsm(_sparse_matrix(tree, node, name))
    if encoding(node) != "dataframe":
        raise DataError(f"{name}: is a {encoding(node) or 'group'}, not an array")
    keys = attribute(node, "column-order") or []
    # In encoding 0.1.0 the codes of a category column are an array, as numbers are.
    if not keys or not all(
        is_array(node[key]) and "categories" not in node[key].attrs for key in keys
    ):
        raise DataError(f"{name}: a dataframe with columns that are no numbers")
    columns = tuple(dense_obsm(_numeric_reader(tree, node[key])) for key in keys)
    dtype = np.result_type(*(column.dtype for column in columns))
    return ObsmArray((columns[0].shape[0], len(columns)), dtype, partial(_stack_columns, columns))


def _stack_columns(
    columns: tuple[ObsmArray, ...], sizes: BlockSizes, *, again: bool = False
) -> da.Array:
    return whole_rows(da.stack([column.array(sizes, again=again) for column in columns], axis=1))


def lazy_array(reader: ArrayReader, sizes: BlockSizes, *, again: bool = False) -> da.Array:
    """Build the dask array of a stored array; reads nothing.

    Parameters
    ----------
    reader
        The stored array.
    sizes
        Block sizes; a block has whole stored chunks.
    again
        Use other task names, so that a second pass reads again.

    Returns
    -------
    dask.array.Array
        Same shape and dtype, chunked along the first axis.
    """
    rows = _rows_per_block(reader, sizes.array_bytes)
    return _by_rows(_read_rows, reader, reader.shape, rows, again=again)


def dense_obsm(reader: ArrayReader) -> ObsmArray:
    """Describe a stored array with a row per cell."""
    return ObsmArray(reader.shape, reader.dtype, partial(lazy_array, reader))


def sparse_obsm(matrix: SparseMatrix) -> ObsmArray:
    """Describe a stored sparse matrix with a row per cell; it is made dense when read.

    Raises DataError when a row, or all of one that is stored by column, exceeds memory.
    """
    n_rows = 1 if matrix.layout == "csr" else matrix.shape[0]
    n_bytes = n_rows * matrix.shape[1] * matrix.dtype.itemsize
    check_fits(n_bytes, matrix.name, "a row" if n_rows == 1 else "the array")
    return ObsmArray(matrix.shape, matrix.dtype, partial(_dense_array, matrix))


def _dense_array(matrix: SparseMatrix, sizes: BlockSizes, *, again: bool = False) -> da.Array:
    n_rows, width = matrix.shape
    row_bytes = max(_MIN_ROW_BYTES, width * matrix.dtype.itemsize)
    # A matrix that is stored by column cannot be read by rows.
    rows = max(1, sizes.array_bytes // row_bytes) if matrix.layout == "csr" else max(1, n_rows)
    return _by_rows(_read_dense_rows, matrix, matrix.shape, rows, again=again)


def _by_rows(
    read: Callable[..., Any], source: Any, shape: tuple[int, ...], rows: int, *, again: bool
) -> da.Array:
    """Build a dask array of tasks that each read a range of rows of `source`."""
    name = f"read-{source.token}-{rows}{'-again' if again else ''}"
    graph: dict[Any, Any] = {}
    argument = source
    if isinstance(source.data if isinstance(source, SparseMatrix) else source, MemoryArray):
        # The values are one node of the graph, so that they are sent once.
        argument = f"source-{name}"
        graph[argument] = source
    spans = cut(shape[0], rows)
    for i, span in enumerate(spans):
        graph[(name, i, *(0,) * (len(shape) - 1))] = (partial(read, *span), argument)
    lengths = tuple(stop - start for start, stop in spans)
    chunks = (lengths, *((length,) for length in shape[1:]))
    return from_graph(name, graph, chunks=chunks, dtype=source.dtype)


def _read_rows(start: int, stop: int, reader: ArrayReader) -> NDArray[Any]:
    return reader.read(slice(start, stop))


def _read_dense_rows(start: int, stop: int, matrix: SparseMatrix) -> NDArray[Any]:
    rows: NDArray[Any] = matrix.read_block(Block((start, stop), (0, matrix.shape[1]))).toarray()
    return rows


def _rows_per_block(reader: ArrayReader, n_bytes: int) -> int:
    item_bytes = _TEXT_BYTES if reader.dtype.kind == "O" else reader.dtype.itemsize
    rows = max(1, n_bytes // max(_MIN_ROW_BYTES, prod(reader.shape[1:]) * item_bytes))
    if reader.chunks is not None:
        stored = max(1, reader.chunks[0])
        rows = max(stored, rows // stored * stored)
    return min(rows, max(1, reader.shape[0]))
