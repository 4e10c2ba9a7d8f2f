"""A folder that holds a whole export or an earlier one, never a mixture."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cellucid_lazy.errors import CollisionError, ExportError

IDENTITY_FILE = "dataset_identity.json"


@dataclass(frozen=True)
class FolderWriter:
    """Writes files into a folder.

    Attributes
    ----------
    folder
        Absolute path.
    """

    folder: str

    def put(self, name: str, parts: Iterable[Any]) -> int:
        """Write a file; returns its size.

        Raises
        ------
        ExportError
            When it cannot be written.
        """
        path, size = f"{self.folder}/{name}", 0
        try:
            with _create(path) as file:
                for part in parts:
                    size += file.write(part)
        except OSError as problem:
            raise ExportError(f"{path}: cannot be written: {problem}") from problem
        return size


def _create(path: str) -> BinaryIO:
    """Open a new file, replacing one that an earlier run of the same task left."""
    try:
        return open(path, "xb")
    except FileExistsError:
        folder, name = os.path.split(path)
        # Where the file system ignores case, this may be another file, which stays.
        if name not in os.listdir(folder):  # noqa: PTH208
            raise
        # Removed, not emptied: a worker that still has it open writes to a file of its own.
        Path(path).unlink()
        return open(path, "xb")


class FolderSink:
    """Writes a folder that appears as a whole, in place of an earlier export if there is one.

    Files are written to a staging folder beside the target, which is then renamed.

    Parameters
    ----------
    path
        The target.
    overwrite
        Whether an earlier export may be replaced.

    Raises
    ------
    ExportError
        When the target is a file, holds something else than an export, holds an export that must
        not be replaced, or its parent cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self._target = _checked_target(path, overwrite)
        suffix = uuid.uuid4().hex[:8]
        self._staging, self._earlier = (
            self._target.with_name(f".{self._target.name[:100]}.{suffix}.{state}")
            for state in ("partial", "earlier")
        )

    def begin(self, names: Sequence[str]) -> FolderWriter:
        """Make the staging folder, and the folders in it that files go into.

        Raises
        ------
        CollisionError
            When a name is repeated.
        ExportError
            When a file would leave the folder, or the folder cannot be made.
        """
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise CollisionError(f"{self._target}: two files would be {repeated[0]!r}")
        for name in names:
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise ExportError(f"{self._target}: the file {name!r} would leave the folder")
        try:
            self._staging.mkdir(parents=True)
            for parent in {name.rpartition("/")[0] for name in names}:
                (self._staging / parent).mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ExportError(f"{self._target}: cannot be written: {problem}") from problem
        return FolderWriter(str(self._staging))

    def commit(self, receipts: Mapping[str, Any]) -> Path:
        """Put the folder in place; returns its path.

        Raises
        ------
        ExportError
            When it cannot be put in place; what was there stays.
        """
        del receipts
        target, earlier = self._target, self._earlier
        try:
            if target.exists():
                target.rename(earlier)
            try:
                self._staging.rename(target)
            except OSError:
                if earlier.exists():
                    earlier.rename(target)
                raise
        except OSError as problem:
            self.abort()
            raise ExportError(
                f"{target}: the export cannot be put in place: {problem}"
            ) from problem
        remove_folder(earlier)
        return target

    def abort(self) -> None:
        """Remove the staging folder; what was at the target stays as it was."""
        remove_folder(self._staging)


def _checked_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return a target's absolute path, links followed, if it may be written."""
    if not os.fspath(path):
        raise ExportError("the name of the target is empty: give the name of a folder")
    target = Path(path).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target}: is a file; give the name of a folder")
    if target.is_dir() and any(target.iterdir()):
        if not (target / IDENTITY_FILE).is_file():
            raise ExportError(
                f"{target}: holds files but no {IDENTITY_FILE}, so it is no export and is left "
                "alone; give another folder"
            )
        if not overwrite:
            raise ExportError(
                f"{target}: holds an earlier export; pass overwrite=True (--overwrite) to replace "
                "it as a whole"
            )
    parent = next(one for one in target.parents if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ExportError(f"{target}: {parent} cannot be written")
    return target


def remove_folder(folder: Path) -> None:
    """Remove a folder if it is there, even while tasks that are ending still write into it.

    Parameters
    ----------
    folder
        Absolute path.
    """
    # Under another name first, so that whoever opens a file in it from now on fails.
    with suppress(OSError):
        folder = folder.rename(folder.with_name(f"{folder.name}.gone"))
    for _ in range(20):
        if not folder.exists():
            return
        with suppress(OSError):
            shutil.rmtree(folder)
            return
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
