"""Elements of a stored AnnData, told by their encoding: HDF5 and zarr groups look the same here.

Metadata is read when a dataset is opened, values only inside tasks. Element by element this
follows the on-disk format of AnnData 0.7 and later (dataframe encodings 0.1.0 and 0.2.0).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.dense_expression import StoredDense
from cellucid_lazy.readers.lazy_array import element_of
from cellucid_lazy.readers.sparse_array import SparseReader
from cellucid_lazy.readers.sparse_blocks import major_array, major_cut
from cellucid_lazy.readers.sparse_expression import stored_sparse
from cellucid_lazy.source import ArrayReader, Connectivities, Element, Expression, PartsReader

if TYPE_CHECKING:
    import dask.array as da

# Stored entries of the neighbour graph that are read at a time.
EDGE_VALUES = 2**20

_SPARSE = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}


class Storage(Protocol):
    """What a file format has to offer: its nodes' kinds and readers for their arrays."""

    @property
    def name(self) -> str:
        """What messages call the file."""

    def is_array(self, node: Any) -> bool:
        """Whether a node is an array, not a group."""

    def is_text(self, node: Any) -> bool:
        """Whether an array holds text."""

    def reader(self, node: Any) -> PartsReader:
        """Reader of a numeric array."""

    def text_reader(self, node: Any) -> ArrayReader:
        """Reader of a text array; gives Python strings."""


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Read an attribute; bytes become text, arrays of text become lists."""
    value = node.attrs.get(name, default)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return [one.decode() if isinstance(one, bytes) else one for one in value.tolist()]
    return value


def encoding(node: Any) -> str:
    """Tell the encoding of a node, also for sparse groups from before AnnData 0.7."""
    return str(attribute(node, "encoding-type") or attribute(node, "h5sparse_format") or "")


def where(storage: Storage, node: Any) -> str:
    """Name a node in messages: the file and the key."""
    return f"{storage.name}: {str(node.name).lstrip('/')}"


def sparse_reader(storage: Storage, group: Any) -> SparseReader:
    """Describe a stored sparse matrix.

    Raises
    ------
    DataError
        When a part is missing or the parts do not fit.
    """
    place = where(storage, group)
    shape = attribute(group, "shape") or attribute(group, "h5sparse_shape")
    missing = [part for part in ("data", "indices", "indptr") if part not in group]
    if missing or shape is None or len(shape) != 2:
        raise DataError(
            f"{place}: not a complete sparse matrix (shape {shape}, missing: {missing or 'none'})"
        )
    data, indices, indptr = (storage.reader(group[part]) for part in ("data", "indices", "indptr"))
    layout = _SPARSE[encoding(group)]
    rows, columns = (int(n) for n in shape)
    return SparseReader(
        "csr" if layout == "csr" else "csc", (rows, columns), data, indices, indptr, place
    )


def real_numbers(dtype: np.dtype[Any], place: str) -> None:
    """Refuse arrays that do not hold real numbers.

    Raises
    ------
    DataError
        For text, complex, dates and structures.
    """
    if dtype.kind not in "biuf":
        raise DataError(f"{place}: holds {dtype}, but real numbers are needed")


def expression(storage: Storage, node: Any) -> Expression:
    """Describe a stored matrix as an expression matrix.

    Raises
    ------
    DataError
        When it is no matrix of real numbers.
    """
    place = where(storage, node)
    if not storage.is_array(node):
        if encoding(node) not in _SPARSE:
            raise DataError(f"{place}: is a {encoding(node) or 'group'}, not a matrix")
        reader = sparse_reader(storage, node)
        real_numbers(reader.dtype, place)
        return stored_sparse(reader)
    if storage.is_text(node) or len(node.shape) != 2:
        raise DataError(f"{place}: has shape {tuple(node.shape)} and type {node.dtype}, no matrix")
    real_numbers(np.dtype(node.dtype), place)
    return StoredDense(storage.reader(node))


def element(storage: Storage, node: Any) -> Element:
    """Describe an entry of obsm: dense, sparse or a dataframe of numbers.

    Raises
    ------
    DataError
        When it holds no real numbers.
    """
    place = where(storage, node)
    if storage.is_array(node):
        if storage.is_text(node):
            raise DataError(f"{place}: holds text, but real numbers are needed")
        real_numbers(np.dtype(node.dtype), place)
        return element_of(storage.reader(node))
    if encoding(node) in _SPARSE:
        reader = sparse_reader(storage, node)
        real_numbers(reader.dtype, place)
        return Element(reader.shape, reader.dtype, partial(_densified, reader))
    if encoding(node) == "dataframe":
        return _frame_element(storage, node)
    raise DataError(f"{place}: is a {encoding(node) or 'group'}, not an array")


def _densified(reader: SparseReader, *, again: bool = False) -> da.Array:
    del again  # rare and small: one name serves both passes
    by_row = reader.layout == "csr"
    dense_rows = max(1, 2**22 // max(1, reader.shape[1]))
    cut = major_cut(reader, dense_rows if by_row else reader.n_stored)
    matrix = major_array(reader, cut)
    meta = np.empty((0, 0), dtype=matrix.dtype)
    return matrix.map_blocks(_toarray, dtype=matrix.dtype, meta=meta)


def _toarray(block: Any) -> NDArray[Any]:
    dense: NDArray[Any] = block.toarray()
    return dense


def _frame_element(storage: Storage, group: Any) -> Element:
    names = attribute(group, "column-order")
    columns = [element(storage, group[name]) for name in names if storage.is_array(group[name])]
    if len(columns) != len(names) or not columns:
        raise DataError(f"{where(storage, group)}: a dataframe with columns that are no numbers")
    dtype = np.result_type(*(column.dtype for column in columns))
    return Element((columns[0].shape[0], len(columns)), dtype, partial(_stacked, tuple(columns)))


def _stacked(columns: tuple[Element, ...], *, again: bool = False) -> da.Array:
    import dask.array as da

    stacked = da.stack([column.array(again=again) for column in columns], axis=1)
    return stacked.rechunk({1: -1})


def connectivities(storage: Storage, node: Any) -> Connectivities:
    """Describe a stored neighbour graph.

    Raises
    ------
    DataError
        When it is no matrix of real numbers.
    """
    if storage.is_array(node):
        dense = expression(storage, node)
        return Connectivities(dense.shape, partial(_row_blocks, dense), dense.n_stored)
    reader = sparse_reader(storage, node)
    # The transpose has the same edges, so a matrix stored by column is read as its transpose.
    by_row = SparseReader(
        "csr",
        reader.shape if reader.layout == "csr" else reader.shape[::-1],
        reader.data,
        reader.indices,
        reader.indptr,
        reader.where,
    )
    cut = major_cut(by_row, EDGE_VALUES)
    return Connectivities(reader.shape, partial(major_array, by_row, cut), reader.n_stored)


def _row_blocks(matrix: Expression) -> da.Array:
    return matrix.blocks(EDGE_VALUES).blocks.rechunk({1: -1})
