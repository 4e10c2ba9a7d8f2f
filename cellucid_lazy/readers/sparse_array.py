"""Stored sparse matrices, read along the axis they are stored by.

The three arrays of a CSR or CSC matrix are given as readers, so the same code serves HDF5, zarr
and memory. What is read is checked before it is used: a wrong index would otherwise move values to
other cells or crash the process.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.index_bounds import IndexBounds
from cellucid_lazy.readers.shared_chunks import (
    ranges_of,
    read_positions,
    read_ranges,
    read_stretches,
)
from cellucid_lazy.source import PartsReader

Layout = Literal["csr", "csc"]


@dataclass(frozen=True, eq=False)
class SparseReader:
    """A stored CSR or CSC matrix.

    Attributes
    ----------
    layout
        ``"csr"`` (by row) or ``"csc"`` (by column).
    shape
        Rows and columns.
    data, indices, indptr
        Readers of the three arrays.
    where
        What messages call it: the file and the key.
    """

    layout: Layout
    shape: tuple[int, int]
    data: PartsReader
    indices: PartsReader
    indptr: PartsReader
    where: str

    def __post_init__(self) -> None:
        n_major = self.n_major
        found = {"data": self.data.shape, "indices": self.indices.shape}
        if len(self.data.shape) != 1 or self.data.shape != self.indices.shape:
            raise DataError(f"{self.where}: data and indices differ in shape: {found}")
        if self.indptr.shape != (n_major + 1,):
            raise DataError(
                f"{self.where}: indptr has shape {self.indptr.shape}, but a {self.layout} matrix "
                f"of shape {self.shape} needs ({n_major + 1},)"
            )
        for part in ("indices", "indptr"):
            if getattr(self, part).dtype.kind not in "iu":
                raise DataError(f"{self.where}: {part} holds {getattr(self, part).dtype}, not ints")

    @property
    def n_major(self) -> int:
        """Length of the axis the matrix is stored by."""
        return self.shape[0 if self.layout == "csr" else 1]

    @property
    def n_minor(self) -> int:
        """Length of the other axis."""
        return self.shape[1 if self.layout == "csr" else 0]

    @property
    def n_stored(self) -> int:
        """Number of stored values."""
        return int(self.data.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that ``major`` returns; SciPy has no float16, so that is widened."""
        stored = self.data.dtype
        return np.dtype(np.float32) if stored.newbyteorder("=") == np.float16 else stored

    @property
    def token(self) -> str:
        """Name of the content."""
        return f"{self.layout}-{self.data.token}-{self.indices.token}-{self.indptr.token}"

    def pointers(self, start: int, stop: int) -> NDArray[np.int64]:
        """Read where rows (CSR) or columns (CSC) ``start`` to ``stop`` lie among stored values.

        Returns
        -------
        numpy.ndarray
            int64 (stop - start + 1,), checked to rise within the stored values.
        """
        pointers = self.indptr.read(slice(start, stop + 1)).astype(np.int64, copy=False)
        rising = bool((pointers[1:] >= pointers[:-1]).all())
        first_is_zero = start > 0 or pointers[0] == 0
        last_is_end = stop < self.n_major or pointers[-1] == self.n_stored
        within = pointers[0] >= 0 and pointers[-1] <= self.n_stored
        if not (rising and first_is_zero and last_is_end and within):
            raise DataError(
                f"{self.where}: indptr is inconsistent between positions {start:,} and {stop:,} "
                f"(it must rise from 0 to the {self.n_stored:,} stored values); the matrix is "
                "corrupted, write the file again"
            )
        return pointers

    def major(self, start: int, stop: int) -> Any:
        """Read rows ``start`` to ``stop`` of a CSR matrix, or columns of a CSC one.

        Returns
        -------
        scipy.sparse.csr_matrix or csc_matrix
            The slice, of ``dtype``; indices as stored, sorted or not.
        """
        pointers = self.pointers(start, stop)
        return self.select(pointers[:-1], pointers[1:], between=(start, stop))

    def select(
        self,
        begins: NDArray[np.int64],
        ends: NDArray[np.int64],
        /,
        *,
        between: tuple[int, int],
        decoded: Sequence[Mapping[int, NDArray[Any]]] = ({}, {}),
    ) -> Any:
        """Read chosen rows of a CSR matrix, or columns of a CSC one, no stored chunk twice.

        Parameters
        ----------
        begins, ends
            int64 (n,), rising: where each lies among the stored values, as ``pointers`` tells.
        between
            First and past-the-last of them, for messages.
        decoded
            Chunks of data and of indices that need not be read any more, by number.

        Returns
        -------
        scipy.sparse.csr_matrix or csc_matrix
            Of ``dtype``; indices as stored, sorted or not.
        """
        ranges = ranges_of(begins, ends)
        indices = read_ranges(self.indices, ranges, decoded[1])
        self._check_indices(indices, *between)
        data = read_ranges(self.data, ranges, decoded[0]).astype(self.dtype, copy=False)
        return self._matrix(data, indices, np.concatenate([[0], np.cumsum(ends - begins)]))

    def pick(
        self,
        pointers: NDArray[np.int64],
        minor: NDArray[np.intp],
        /,
        *,
        between: tuple[int, int],
        decoded: Sequence[Mapping[int, NDArray[Any]]] = ({}, {}),
    ) -> Any:
        """Read chosen columns of successive rows of a CSR matrix (or rows of columns, CSC).

        All indices are read, but only those chunks of data that hold one of the values.

        Parameters
        ----------
        pointers
            int64 (n + 1,): where the rows lie among the stored values.
        minor
            The columns wanted, rising, each once.
        between, decoded
            As ``select`` takes them.

        Returns
        -------
        scipy.sparse.csr_matrix or csc_matrix
            (n, len(minor)), or its transpose if CSC.
        """
        positions, columns = self._found(pointers[0], pointers[-1], minor, between, decoded[1])
        data = read_positions(self.data, positions, decoded[0]).astype(self.dtype, copy=False)
        inner = np.searchsorted(positions, pointers)
        return self._matrix(data, columns, inner, n_minor=len(minor))

    def _found(
        self,
        first: int,
        last: int,
        minor: NDArray[np.intp],
        between: tuple[int, int],
        decoded: Mapping[int, NDArray[Any]],
    ) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Find the stored values of chosen columns: their positions, and places in ``minor``.

        Indices are looked at as they are decoded, while the processor's cache holds them.
        """
        is_wanted = self._wanted(minor)
        bounds = IndexBounds(self.n_minor)
        positions, found = [np.zeros(0, np.int64)], [np.zeros(0, self.indices.dtype)]
        ranges = ranges_of(np.array([first]), np.array([last]))
        for begin, values in read_stretches(self.indices, ranges, decoded):
            # Chunks at the borders of the rows hold those of other rows too.
            start = max(first - begin, 0)
            indices = values[start : max(last - begin, 0)]
            # Told when all is read: that the file was replaced explains it better.
            if bounds.admit(indices):
                hits = np.flatnonzero(is_wanted(indices))
                positions.append(hits + (begin + start))
                found.append(indices[hits])
        self._check_bounds(bounds, *between)
        return np.concatenate(positions), np.searchsorted(minor, np.concatenate(found))

    def _wanted(self, minor: NDArray[np.intp]) -> Callable[[NDArray[Any]], NDArray[np.bool_]]:
        """Tell which indices are among chosen ones."""
        if len(minor) == 1:
            # A Python number: with one of NumPy's all indices would be widened first.
            return partial(operator.eq, int(minor[0]))
        wanted = np.zeros(self.n_minor, dtype=np.bool_)
        wanted[minor] = True
        # Half the time of wanted[indices].
        return wanted.take

    def _check_indices(self, indices: NDArray[Any], start: int, stop: int) -> None:
        bounds = IndexBounds(self.n_minor)
        bounds.admit(indices)
        self._check_bounds(bounds, start, stop)

    def _check_bounds(self, bounds: IndexBounds, start: int, stop: int) -> None:
        if bounds.exceeded:
            raise DataError(
                f"{self.where}: between positions {start:,} and {stop:,} indices reach from "
                f"{bounds.low} to {bounds.high}, but the other axis has {self.n_minor:,}; "
                "the matrix is corrupted, write the file again"
            )

    def _matrix(
        self,
        data: NDArray[Any],
        indices: NDArray[Any],
        pointers: NDArray[Any],
        n_minor: int | None = None,
    ) -> Any:
        n, m = len(pointers) - 1, self.n_minor if n_minor is None else n_minor
        by_row = self.layout == "csr"
        kind = sparse.csr_matrix if by_row else sparse.csc_matrix
        index_dtype = np.int32 if max(len(data), m, n) < 2**31 else np.int64
        return kind(
            (data, indices.astype(index_dtype, copy=False), pointers.astype(index_dtype)),
            shape=(n, m) if by_row else (m, n),
            copy=False,
        )


class MajorBlocks:
    """Array-like over a stored sparse matrix that dask cuts along the stored axis."""

    ndim = 2

    def __init__(self, reader: SparseReader) -> None:
        self.reader = reader
        self.shape = reader.shape
        self.dtype = reader.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> Any:
        major = key[0 if self.reader.layout == "csr" else 1]
        start, stop, _ = major.indices(self.reader.n_major)
        return self.reader.major(start, stop)
