"""FolderSink: writes a folder as a whole, in place of an earlier export.

Files are written to a staging folder beside the target, which then takes the target's place. A lock
beside the target keeps other exports out. Its holder removes what killed exports left.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cellucid_lazy.errors import CollisionError, ExportError, format_count, reason
from cellucid_lazy.folders import Lock, exchange, remove_folder, synchronize

IDENTITY_FILE = "dataset_identity.json"

# Files of an export; a codec may append its suffix. Nothing else is ever removed from a target.
_EXPORT_FILE = re.compile(
    r"dataset_identity\.json|.*_manifest\.json|.+\.(bin|f32|u8|u16|u32|u64)(\.\w+)?|\.DS_Store"
)
# Folders beside a target: the staged export, files written a second time, the replaced export.
_STATES = ("partial", "again", "earlier")
# Bytes of the target's name in the names of the lock and the folders beside it; a name has 255.
_STEM_BYTES = 180


@dataclass(frozen=True)
class FolderWriter:
    """Writes files into a folder.

    Attributes
    ----------
    folder
        Absolute path.
    again
        Folder beside it, for files that are being written a second time.
    """

    folder: str
    again: str

    def put(self, name: str, parts: Iterable[Any]) -> int:
        """Write a file and return its size.

        Raises
        ------
        ExportError
            When it cannot be written.
        """
        path = f"{self.folder}/{name}"
        try:
            try:
                with open(path, "xb") as file:
                    return _write(file, parts)
            except FileExistsError:
                return self._replace(path, parts)
        except OSError as problem:
            raise ExportError(f"{path}: cannot be written: {reason(problem)}") from problem

    def _replace(self, path: str, parts: Iterable[Any]) -> int:
        """Replace a file that an earlier run of the same task wrote, once the new one is whole.

        A task that a cluster runs again may outlive the call, so the folder may be put in place
        while it still writes.
        """
        folder, name = os.path.split(path)
        # On a file system that ignores case this may be another file, which stays.
        if name not in os.listdir(folder):  # noqa: PTH208
            raise FileExistsError(f"{name} differs from another file in case only")
        Path(self.again).mkdir(exist_ok=True)
        new = Path(self.again, f"{uuid.uuid4().hex}.bin")
        with new.open("xb") as file:
            size = _write(file, parts)
        new.replace(path)
        return size


def _write(file: BinaryIO, parts: Iterable[Any]) -> int:
    return sum(file.write(part) for part in parts)


class FolderSink:
    """Writes a folder that appears as a whole, in place of an earlier export if there is one.

    On failure the earlier export stays, and files that no export wrote are never removed.

    Parameters
    ----------
    path
        The target.
    overwrite
        Whether an earlier export may be replaced.

    Raises
    ------
    ExportError
        When the target is a file or a mount point, holds something else than an export, holds an
        export that must not be replaced, or its name or parent cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self._target = _resolved(path)
        self._overwrite = overwrite
        self._check_target()
        stem = _stem(self._target.name)
        suffix = uuid.uuid4().hex[:8]
        self._staging, self._again, self._earlier = (
            self._target.with_name(f"{stem}.{suffix}.{state}") for state in _STATES
        )
        states = "|".join(_STATES)
        self._leftover = re.compile(rf"{re.escape(stem)}\.[0-9a-f]{{8}}\.({states})(\.gone)?")
        self._lock = Lock(self._target.with_name(f"{stem}.cellucid-lazy.lock"))
        self._names: tuple[str, ...] = ()
        self._created_parents: list[Path] = []

    def prepare(self, inputs: Sequence[str] = ()) -> None:
        """Lock the target, and remove what killed exports left beside it.

        Raises
        ------
        ExportError
            When an input is in the target or the target in an input, another export has locked the
            target, or its parent cannot be written.
        """
        for path in inputs:
            self._check_apart(Path(path).resolve())
        with self._naming_target("cannot be written"):
            self._acquire()
            self._clear_leftovers()
            self._check_target()

    def begin(self, names: Sequence[str]) -> FolderWriter:
        """Create the staging folder and its subfolders.

        Raises
        ------
        CollisionError
            When a name is repeated, or the file system ignores the case by which two names differ.
        ExportError
            When a file would be outside of the folder, or the folder cannot be created.
        """
        self._check_names(names)
        self._names = tuple(names)
        with self._naming_target("cannot be written"):
            self._staging.mkdir()
            self._check_case()
            for parent in {name.rpartition("/")[0] for name in names}:
                (self._staging / parent).mkdir(parents=True, exist_ok=True)
        return FolderWriter(str(self._staging), str(self._again))

    def commit(self, receipts: Mapping[str, Any]) -> Path:
        """Put the folder in place and return its path.

        Raises
        ------
        ExportError
            When a file is missing or its size has changed, or the folder cannot be put in place.
            The earlier export stays.
        """
        try:
            with self._naming_target("the export cannot be put in place"):
                self._check_files(receipts)
                synchronize(self._staging)
                self._check_target()
                self._swap()
        except BaseException:
            with suppress(OSError):
                self.abort()
            raise
        self._remove_own()
        self._lock.release()
        return self._target

    def abort(self) -> None:
        """Remove all that this export wrote; the target stays as it was."""
        try:
            self._restore(self._earlier)
            self._remove_own()
        finally:
            self._lock.release()
            for folder in reversed(self._created_parents):
                with suppress(OSError):
                    folder.rmdir()  # fails if another export uses it
            self._created_parents = []

    def _remove_own(self) -> None:
        """Remove the staged and the replaced export."""
        for folder in (self._staging, self._again, self._earlier):
            _remove_export(folder, self._names)

    @contextmanager
    def _naming_target(self, what: str) -> Iterator[None]:
        """Raise an OSError as an ExportError that names the target."""
        try:
            yield
        except ExportError:
            raise
        except OSError as problem:
            raise ExportError(f"{self._target}: {what}: {reason(problem)}") from problem

    def _check_names(self, names: Sequence[str]) -> None:
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise CollisionError(f"{self._target}: two files would be {repeated[0]!r}")
        for name in names:
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise ExportError(f"{self._target}: the file {name!r} would leave the folder")

    def _check_case(self) -> None:
        """Refuse names that differ in case only, if the file system ignores case."""
        other = self._staging.with_name(self._staging.name.swapcase())
        if other == self._staging or not other.exists():
            return
        owners: dict[str, str] = {}
        for name in self._names:
            owner = owners.setdefault(name.lower(), name)
            if owner != name:
                raise CollisionError(
                    f"{self._target}: {owner!r} and {name!r} differ in case only, which this file "
                    "system ignores; rename one (--rename), or leave one out (--exclude)"
                )

    def _check_apart(self, path: Path) -> None:
        """Refuse a target that contains an input, which would be removed, or is in an input."""
        if path.is_relative_to(self._target):
            raise ExportError(
                f"{self._target}: {path}, which is read, lies in the target and would be removed "
                "with the earlier export; move it, or give another folder"
            )
        if self._target.is_relative_to(path):
            raise ExportError(
                f"{self._target}: lies in {path}, which is read; give a folder outside of it"
            )

    def _check_target(self) -> None:
        """Refuse a target that is no export, or one that must not be replaced."""
        target = self._target
        with self._naming_target("cannot be used"):
            if target.exists() and not target.is_dir():
                raise ExportError(f"{target}: is a file; give the name of a folder")
            if os.path.ismount(target):
                raise ExportError(
                    f"{target}: is a mount point, which cannot be replaced as a whole; give a "
                    f"folder in it, such as {target / 'export'}"
                )
            if target.is_dir() and any(target.iterdir()):
                self._check_export(target)
            parent = next(one for one in target.parents if one.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ExportError(f"{target}: {parent} cannot be written")

    def _check_export(self, folder: Path) -> None:
        """Refuse to replace a folder that is no export, or must be kept."""
        target = self._target
        if not (folder / IDENTITY_FILE).is_file():
            raise ExportError(
                f"{target}: holds files but no {IDENTITY_FILE}, so it is no export and is left "
                "alone; give another folder"
            )
        if not self._overwrite:
            raise ExportError(
                f"{target}: holds an earlier export; pass overwrite=True (--overwrite) to replace "
                "it as a whole"
            )
        for path in _foreign_paths(folder):
            raise ExportError(
                f"{target}: holds {path.relative_to(folder)}, which is no file of an export and "
                "would be removed with it; move it, or give another folder"
            )

    def _acquire(self) -> None:
        """Create missing parents and take the lock."""
        for _ in range(10):
            # A failed export may be removing the parents that it created.
            with suppress(FileNotFoundError):
                for folder in [one for one in self._target.parents if not one.exists()][::-1]:
                    with suppress(FileExistsError):
                        folder.mkdir()
                        self._created_parents.append(folder)
                if self._lock.acquire():
                    return
                raise ExportError(
                    f"{self._target}: in use: {self._lock.owner()} is exporting to it; wait until "
                    "that is done, or give another folder"
                )
        raise ExportError(
            f"{self._target}: no file can be made in {self._target.parent}; give a folder elsewhere"
        )

    def _clear_leftovers(self) -> None:
        """Restore an export that a killed run had moved away, and remove what such runs left."""
        if not self._lock.is_real:
            return  # another export may be running
        for path in self._target.parent.iterdir():
            if self._leftover.fullmatch(path.name):
                if path.suffix == ".earlier":
                    self._restore(path)
                _remove_export(path)

    def _restore(self, earlier: Path) -> None:
        if earlier.exists() and not self._target.exists():
            earlier.rename(self._target)

    def _check_files(self, receipts: Mapping[str, Any]) -> None:
        """Check that all files exist, with the sizes that were written."""
        wrong = []
        for name in self._names:
            try:
                size = (self._staging / name).stat().st_size
            except FileNotFoundError:
                size = -1
            if size != receipts.get(name):
                found = "is gone" if size < 0 else f"has {size:,} bytes"
                wrong.append(f"{name} {found} ({receipts.get(name, 0):,} were written)")
        if wrong:
            raise ExportError(
                f"{self._target}: {format_count(len(wrong), 'file')} of the export changed before "
                f"it was complete: {wrong[0]}; nothing was put in place, export again"
            )

    def _swap(self) -> None:
        """Exchange the staging folder and the target, and check the replaced folder once more."""
        target, staging, earlier = self._target, self._staging, self._earlier
        if not target.exists():
            staging.rename(target)
        elif exchange(staging, target):
            try:
                self._check_replaced(staging)
            except BaseException:
                exchange(staging, target)
                raise
        else:
            target.rename(earlier)
            try:
                self._check_replaced(earlier)
                staging.rename(target)
            finally:
                self._restore(earlier)

    def _check_replaced(self, folder: Path) -> None:
        if any(folder.iterdir()):
            self._check_export(folder)


def _resolved(path: str | os.PathLike[str]) -> Path:
    """Return a target's absolute path, with links followed."""
    if not os.fspath(path):
        raise ExportError("the name of the target is empty: give the name of a folder")
    try:
        target = Path(path).expanduser().resolve()
        if target.is_symlink():
            raise RuntimeError("a loop of links")  # from Python 3.13 on it is not followed
        target.exists()
        too_long = len(os.fsencode(target.name)) > 255
    except (OSError, RuntimeError, ValueError) as problem:
        # A loop of links, an unknown user, a NUL.
        text = os.fspath(path)
        raise ExportError(f"{text!r}: cannot be the name of a folder: {problem}") from problem
    if too_long:
        raise ExportError(f"{target}: the name has more than 255 bytes; give a shorter one")
    return target


def _stem(name: str) -> str:
    """Return the start of all names beside a target, shortened if the target's name is long."""
    encoded = os.fsencode(name)
    if len(encoded) > _STEM_BYTES:
        digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
        name = f"{encoded[:_STEM_BYTES].decode(errors='ignore')}.{digest}"
    return f".{name}"


def _foreign_paths(folder: Path) -> Iterator[Path]:
    """Find what no export wrote in a folder: other files, links, empty folders."""

    def refuse(problem: OSError) -> None:
        raise problem

    for parent, folders, names in os.walk(folder, onerror=refuse):
        path = Path(parent)
        if not folders and not names and path != folder:
            yield path
        yield from (path / name for name in folders if (path / name).is_symlink())
        yield from (path / name for name in names if not _EXPORT_FILE.fullmatch(name))


def _remove_export(folder: Path, names: Collection[str] = ()) -> None:
    """Remove a staged or replaced export, unless it has a file of neither an export nor `names`.

    Empty folders do not count: a staging folder has them before its files are written.
    """
    with suppress(OSError):
        others = {
            path.relative_to(folder).as_posix()
            for path in _foreign_paths(folder)
            if path.is_symlink() or not path.is_dir()
        }
        if folder.exists() and others <= set(names):
            remove_folder(folder)
