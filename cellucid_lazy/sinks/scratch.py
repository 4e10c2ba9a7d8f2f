"""Scratch: pieces of a transposition on disk, in a folder that is removed whatever happens."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
from dask.utils import format_bytes
from numpy.typing import NDArray

from cellucid_lazy.errors import ExportError
from cellucid_lazy.sinks.directory import remove
from cellucid_lazy.transforms.gene_major import Piece


class StoredPiece(NamedTuple):
    """A piece in a scratch file: its data, its rows, its indptr, one after the other.

    Attributes
    ----------
    path
        The file.
    n_stored, n_genes
        Size of the piece.
    wide
        Whether rows take four bytes, not two.
    first_row, n_rows
        The cells it covers.
    """

    path: str
    n_stored: int
    n_genes: int
    wide: bool
    first_row: int
    n_rows: int

    @property
    def _rows_type(self) -> np.dtype[Any]:
        return np.dtype(np.uint32 if self.wide else np.uint16)

    def pointers(self, start: int, stop: int) -> NDArray[np.int64]:
        """Read where each gene of a range begins, and where the last one ends."""
        begin = (4 + self._rows_type.itemsize) * self.n_stored
        pointers = np.empty(stop + 1 - start, dtype=np.int64)
        _read(self.path, [(pointers, begin + 8 * start)])
        return pointers

    def genes(self, pointers: NDArray[np.int64], buffer: NDArray[np.uint8]) -> Piece:
        """Read a range of genes: one stretch of data, one of rows.

        Parameters
        ----------
        pointers
            Of the range.
        buffer
            `n_bytes` of the range, which the piece will lie in.
        """
        low, high = int(pointers[0]), int(pointers[-1])
        data = buffer[: 4 * (high - low)].view(np.float32)
        rows = buffer[data.nbytes :].view(self._rows_type)
        rows_begin = 4 * self.n_stored + rows.itemsize * low
        _read(self.path, [(data, 4 * low), (rows, rows_begin)])
        return Piece(data, rows, pointers - low, self.first_row, self.n_rows)

    def n_bytes(self, pointers: NDArray[np.int64]) -> int:
        """Tell what a range of genes takes."""
        return int(pointers[-1] - pointers[0]) * (4 + self._rows_type.itemsize)


def read_genes(pieces: Sequence[StoredPiece], start: int, stop: int) -> list[Piece]:
    """Read a range of genes of every piece, of which there is one at least, into one buffer.

    Hundreds of small arrays instead would leave the heap in shreds.

    Raises
    ------
    ExportError
        When a scratch file is gone or too short.
    """
    pointers = [piece.pointers(start, stop) for piece in pieces]
    sizes = [piece.n_bytes(own) for piece, own in zip(pieces, pointers, strict=True)]
    # At multiples of 8 bytes, so that what views them as numbers is aligned.
    ends = np.cumsum([-(-size // 8) * 8 for size in sizes])
    buffer = np.empty(int(ends[-1]), dtype=np.uint8)
    begins = [0, *ends[:-1].tolist()]
    return [
        piece.genes(own, buffer[begin : begin + size])
        for piece, own, begin, size in zip(pieces, pointers, begins, sizes, strict=True)
    ]


def _read(path: str, parts: Sequence[tuple[NDArray[Any], int]]) -> None:
    try:
        with open(path, "rb", buffering=0) as file:
            for values, place in parts:
                _fill(file.fileno(), values, place)
    except OSError as problem:
        raise ExportError(
            f"{path}: scratch cannot be read: {problem}; was it removed, or does not every worker "
            "of the cluster see the folder?"
        ) from problem


def _fill(descriptor: int, values: NDArray[Any], place: int) -> None:
    view = memoryview(values.reshape(-1).view(np.uint8).data)
    while len(view):
        count = os.preadv(descriptor, [view], place)
        if count == 0:
            raise OSError("the file ends early")
        view, place = view[count:], place + count


def store_piece(piece: Piece, folder: str) -> StoredPiece:
    """Write a piece to a scratch folder.

    Raises
    ------
    ExportError
        When the disk is full or the folder is gone.
    """
    path = Path(folder) / f"{uuid.uuid4().hex}.piece"
    _write_parts(path, (piece.data, piece.rows, piece.indptr))
    wide = piece.rows.dtype == np.uint32
    n_genes = len(piece.indptr) - 1
    return StoredPiece(str(path), len(piece.data), n_genes, wide, piece.first_row, piece.n_rows)


def _write_parts(path: Path, parts: Sequence[NDArray[Any]]) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            for part in parts:
                view = memoryview(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
                while len(view):
                    view = view[file.write(view) :]
    except OSError as problem:
        raise ExportError(
            f"{path}: scratch cannot be written: {problem}; give scratch= a folder with room that "
            "every worker sees"
        ) from problem


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array within a scratch file, in C order.

    Attributes
    ----------
    path
        The file.
    dtype
        Type of its values.
    shape
        Its shape.
    begin
        Its first byte.
    """

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read successive rows.

        Raises
        ------
        ExportError
            When the scratch file is gone or too short.
        """
        start, stop, _ = rows.indices(len(self))
        values = np.empty((max(stop - start, 0), *self.shape[1:]), dtype=self.dtype)
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        _read(self.path, [(values, self.begin + start * row_bytes)])
        return values


def store_arrays(arrays: Sequence[NDArray[Any]], *, folder: str) -> list[StoredArray]:
    """Write arrays to one scratch file.

    Raises
    ------
    ExportError
        When the disk is full or the folder is gone.
    """
    path = Path(folder) / f"{uuid.uuid4().hex}.arrays"
    _write_parts(path, arrays)
    stored, begin = [], 0
    for array in arrays:
        stored.append(StoredArray(str(path), array.dtype, array.shape, begin))
        begin += array.nbytes
    return stored


def check_scratch(path: str | os.PathLike[str] | None) -> str | None:
    """Tell whether a folder can take scratch, before any work is done and whether or not it will.

    Parameters
    ----------
    path
        The folder, or None for the default.

    Returns
    -------
    str or None
        Absolute path, or None.

    Raises
    ------
    ExportError
        When it is not there, is no folder, or cannot be written.
    """
    return None if path is None else str(_usable(path))


def _usable(path: str | os.PathLike[str]) -> Path:
    folder = Path(path).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ExportError(
            f"{folder}: scratch needs a folder, this is a file; give another scratch="
        )
    if not folder.is_dir():
        raise ExportError(f"{folder}: scratch folder not found; make it, or give another scratch=")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(f"{folder}: scratch folder cannot be written; give another scratch=")
    return folder


@contextmanager
def scratch_folder(parent: str | os.PathLike[str] | None, needed: int) -> Iterator[str]:
    """Make a scratch folder with room for what is needed, and remove it in the end.

    Parameters
    ----------
    parent
        Folder to make it in. Default: dask's ``temporary-directory``, else the system's.
    needed
        Bytes that will be written.

    Yields
    ------
    str
        Absolute path.

    Raises
    ------
    ExportError
        When the folder cannot be used or has too little space; nothing was begun then.
    """
    chosen = parent or dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    folder = _usable(chosen)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"{folder}: scratch needs {format_bytes(needed)}, but {format_bytes(free)} are free; "
            "give another folder as scratch=, or a larger memory_budget="
        )
    made = tempfile.mkdtemp(prefix="cellucid-lazy-", dir=folder)
    try:
        yield made
    finally:
        remove(Path(made))
