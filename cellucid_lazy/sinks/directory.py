"""A folder that holds a whole export or an earlier one, never a mixture."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cellucid_lazy.errors import ExportError

IDENTITY_FILE = "dataset_identity.json"


def check_target(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Tell whether a folder may be written, before any work is done.

    Parameters
    ----------
    path
        The folder.
    overwrite
        Whether an earlier export may be replaced.

    Returns
    -------
    Path
        Absolute, links followed.

    Raises
    ------
    ExportError
        When it is a file, holds something else than an export, holds an export that must not be
        replaced, or its parent cannot be written.
    """
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


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Write a folder under a temporary name beside its target, then put it in place.

    On any error the temporary folder is removed and what was at the target stays as it was.

    Parameters
    ----------
    target
        As `check_target` gives it.

    Yields
    ------
    Path
        The temporary folder.

    Raises
    ------
    ExportError
        When the folder cannot be made or put in place.
    """
    mark = uuid.uuid4().hex[:8]
    staging = target.with_name(f".{target.name[:100]}.{mark}.partial")
    try:
        staging.mkdir(parents=True)
    except OSError as problem:
        raise ExportError(f"{target}: cannot be written: {problem}") from problem
    try:
        yield staging
        _swap(staging, target, target.with_name(f".{target.name[:100]}.{mark}.earlier"))
    finally:
        remove(staging)


def _swap(staging: Path, target: Path, earlier: Path) -> None:
    try:
        if target.exists():
            target.rename(earlier)
        try:
            staging.rename(target)
        except OSError:
            if earlier.exists():
                earlier.rename(target)
            raise
    except OSError as problem:
        raise ExportError(f"{target}: the export cannot be put in place: {problem}") from problem
    remove(earlier)


def remove(folder: Path) -> None:
    """Remove a folder; tasks that still write into it while they end do not keep it alive."""
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
