"""Spill blocks to a scratch folder, which this run or, if it is killed, a later one removes."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import dask
import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellucid_lazy.errors import ExportError, format_size, reason
from cellucid_lazy.folders import Lock, make_folder, remove_folder, remove_leftovers, set_aside

# How the names of scratch folders begin.
_PREFIX = "cellucid-lazy-"


@dataclass(frozen=True, slots=True)
class SpilledBlock:
    """An array of one or more dimensions in a scratch file, in C order.

    ``np.asarray`` reads all of it, a slice only the rows in the slice. It pickles.

    Attributes
    ----------
    path
        The file.
    begin
        Offset of its first byte in the file.
    dtype
        Type of its values.
    shape
        Its shape.
    """

    path: str
    begin: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | tuple[Any, ...]) -> NDArray[Any]:
        """Read successive rows; indices of further dimensions apply to what was read.

        Raises
        ------
        ExportError
            When the scratch file is gone or too short.
        """
        rows, *others = key if isinstance(key, tuple) else (key,)
        (values,) = read_slices([(self, rows)])
        return values[(slice(None), *others)] if others else values

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a spilled block is read from disk, which makes a copy")
        values = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)


def read_slices(requests: Sequence[tuple[SpilledBlock, slice]]) -> list[NDArray[Any]]:
    """Read successive rows of many spilled blocks into one buffer.

    Hundreds of small arrays instead would fragment the heap.

    Parameters
    ----------
    requests
        Blocks, each with the rows wanted, of step 1. Neighbours in one file are read together.

    Returns
    -------
    list of numpy.ndarray
        Views of the buffer, each aligned to 8 bytes.

    Raises
    ------
    ExportError
        When a scratch file is gone or too short.
    """
    wanted = [(block, *_row_bounds(block, rows)) for block, rows in requests]
    sizes = [(stop - start) * block.row_bytes for block, start, stop in wanted]
    offsets = list(accumulate((-(-size // 8) * 8 for size in sizes), initial=0))
    buffer = np.empty(offsets.pop(), dtype=np.uint8)
    targets = [buffer[offset:][:size] for offset, size in zip(offsets, sizes, strict=True)]
    reads = [
        (block.path, block.begin + start * block.row_bytes, target)
        for (block, start, _), target in zip(wanted, targets, strict=True)
    ]
    for path, group in groupby(reads, key=itemgetter(0)):
        _read(path, [(begin, target) for _, begin, target in group])
    return [
        target.view(block.dtype).reshape(stop - start, *block.shape[1:])
        for (block, start, stop), target in zip(wanted, targets, strict=True)
    ]


def _row_bounds(block: SpilledBlock, rows: slice) -> tuple[int, int]:
    start, stop, step = rows.indices(len(block))
    if step != 1:
        raise IndexError(f"rows of a spilled block are read in steps of 1, not {step}")
    return start, max(start, stop)


def _read(path: str, parts: Sequence[tuple[int, NDArray[np.uint8]]]) -> None:
    """Read parts of a file, given where each begins, into arrays."""
    try:
        with open(path, "rb", buffering=0) as file:
            for begin, target in parts:
                file.seek(begin)
                view = target.data
                while len(view):
                    count = file.readinto(view)
                    if not count:
                        raise OSError("the file ends early")
                    view = view[count:]
    except OSError as problem:
        raise ExportError(
            f"{path}: scratch cannot be read: {reason(problem)}; was it removed, or does not every "
            "worker of the cluster see the folder?"
        ) from problem


@dataclass(frozen=True)
class Save:
    """Writes blocks to files of a scratch folder. It pickles.

    Attributes
    ----------
    folder
        Absolute path.
    """

    folder: str

    def __call__(self, block: NDArray[Any] | Sequence[NDArray[Any]]) -> Any:
        """Write an array, or several to one file; returns a `SpilledBlock` for each.

        Raises
        ------
        ExportError
            When the disk is full or the folder is gone.
        TypeError
            When an array holds Python objects.
        """
        if isinstance(block, np.ndarray):
            return self._write([block])[0]
        return self._write(block)

    def _write(self, arrays: Sequence[NDArray[Any]]) -> list[SpilledBlock]:
        path, begin = f"{self.folder}/{uuid.uuid4().hex}.spill", 0
        spilled = []
        try:
            with open(path, "xb", buffering=0) as file:
                for array in arrays:
                    _write_array(file, array)
                    spilled.append(SpilledBlock(path, begin, array.dtype, array.shape))
                    begin += array.nbytes
        except OSError as problem:
            raise ExportError(
                f"{path}: scratch cannot be written: {reason(problem)}; give scratch= a folder "
                "with room that every worker sees"
            ) from problem
        return spilled


def _write_array(file: FileIO, array: NDArray[Any]) -> None:
    if array.dtype.hasobject:
        raise TypeError(f"an array of {array.dtype} cannot be spilled")
    view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while len(view):
        view = view[file.write(view) :]


class Spiller:
    """Spills blocks to a scratch folder, which is removed when the context ends.

    Parameters
    ----------
    parent
        Folder to make the scratch folder in. Default: dask's ``temporary-directory``, else the
        system's.
    """

    def __init__(self, parent: str | None = None) -> None:
        self._parent = parent
        self._folder: Path | None = None
        self._lock: Lock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None and self._lock is not None:
            gone = set_aside(self._folder)
            self._lock.release()  # on NFS an open file would keep the folder
            remove_folder(gone)
            self._folder = self._lock = None

    def reserve(self, n_bytes: int) -> None:
        """Make the scratch folder, if it does not exist, and check that it has room.

        Parameters
        ----------
        n_bytes
            Bytes that will be written.

        Raises
        ------
        ExportError
            When the folder cannot be used or has too little space.
        """
        parent = _checked_folder(self._parent or _default_scratch())
        free = shutil.disk_usage(parent).free
        if free < n_bytes:
            raise ExportError(
                f"{parent}: scratch needs {format_size(n_bytes)}, but {format_size(free)} are "
                "free; give another folder as scratch=, or a larger memory_budget="
            )
        if self._folder is None:
            try:
                self._folder, self._lock = make_folder(parent, _PREFIX)
            except OSError as problem:
                raise ExportError(
                    f"{parent}: scratch cannot be made: {reason(problem)}"
                ) from problem

    @property
    def save(self) -> Save:
        """The function that spills a block, for use in tasks; call `reserve` first."""
        if self._folder is None:
            raise RuntimeError("reserve comes before save")
        return Save(str(self._folder))


def check_scratch(path: str | os.PathLike[str] | None) -> str | None:
    """Check that a folder can hold scratch, before any work.

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
    return None if path is None else str(_checked_folder(path))


def remove_scratch_leftovers(path: str | None) -> None:
    """Remove scratch that killed processes left in a checked folder, or in the default."""
    remove_leftovers(Path(path or _default_scratch()), _PREFIX)


def scratch_prefix(path: str | None) -> str:
    """Return what the path of a scratch folder begins with, in a checked folder or the default."""
    return f"{path or _default_scratch()}/{_PREFIX}"


def _default_scratch() -> str:
    found = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    return str(Path(found).expanduser().absolute())


def _checked_folder(path: str | os.PathLike[str]) -> Path:
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
