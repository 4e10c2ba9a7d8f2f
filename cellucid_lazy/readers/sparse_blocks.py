"""Stored sparse matrices as dask arrays, cut along the axis they are stored by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask.base import tokenize
from scipy import sparse

from cellucid_lazy.readers.memory_array import MemoryArray
from cellucid_lazy.readers.sparse_array import MajorBlocks, SparseReader

if TYPE_CHECKING:
    import dask.array as da


def major_cut(reader: SparseReader, stored_values: int) -> tuple[int, ...]:
    """Cut the stored axis of a sparse matrix into equal numbers of rows (or columns).

    Nothing is read, so a block may exceed the aim as far as its rows exceed the mean.

    Parameters
    ----------
    reader
        The stored matrix.
    stored_values
        Values aimed at per block.

    Returns
    -------
    tuple of int
        Rows (CSR) or columns (CSC) of each block.
    """
    n_major = reader.n_major
    step = max(1, min(n_major, n_major * stored_values // max(1, reader.n_stored)))
    whole, rest = divmod(n_major, step)
    return (step,) * whole + ((rest,) if rest or not whole else ())


def major_array(reader: SparseReader, cut: tuple[int, ...]) -> da.Array:
    """Build the lazy blocks of a stored sparse matrix along the axis it is stored by.

    Parameters
    ----------
    reader
        The stored matrix.
    cut
        Rows (CSR) or columns (CSC) of each block.

    Returns
    -------
    dask.array.Array
        Blocks are SciPy CSR or CSC matrices.
    """
    import dask.array as da

    by_row = reader.layout == "csr"
    kind = sparse.csr_matrix if by_row else sparse.csc_matrix
    return da.from_array(
        MajorBlocks(reader),
        chunks=(cut, reader.shape[1]) if by_row else (reader.shape[0], cut),
        name=f"read-{reader.token}-{tokenize(cut)}",
        asarray=False,
        fancy=False,
        inline_array=not isinstance(reader.data, MemoryArray),
        meta=kind((0, 0), dtype=reader.dtype),
    )
