"""What a zarr array's files tell of its content, without reading it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Files of a folder that are looked at one by one.
_MOST_FILES = 1024


def identity_of(url: str, key: str, metadata: str) -> str:
    """Name the content of an array without reading it.

    Local files tell by size and time. A remote store would have to be listed, so there the
    metadata has to do, with the time of the store's own: who changes single arrays in place writes
    them under a new URL, or writes the consolidated metadata again.

    Parameters
    ----------
    url, key
        The store, and the array in it.
    metadata
        Metadata of the array, and of when a remote store was written.

    Returns
    -------
    str
        Equal as long as all that was looked at is.
    """
    digest = hashlib.blake2b(metadata.encode(), digest_size=16)
    path = Path(url)
    if path.is_file():
        digest.update(repr(_status(path)).encode())
    elif (path / key).is_dir():
        for fact in _files(path / key):
            digest.update(repr(fact).encode())
    return digest.hexdigest()


def stamp_of(url: str, key: str) -> tuple[tuple[int, int], ...]:
    """Look at an array as quickly as every read can afford: not at its chunks, but their folder.

    Parameters
    ----------
    url, key
        The store, and the array in it.

    Returns
    -------
    tuple
        Sizes and times; empty for a remote store.
    """
    if "://" in url:
        return ()
    found = []
    folder = f"{url}/{key}"
    for path in (url, folder, f"{folder}/c", f"{folder}/zarr.json", f"{folder}/.zarray"):
        if path != url or url.endswith(".zip"):
            with suppress(OSError):
                found.append(_status(path))
    return tuple(found)


def _files(folder: Path) -> Iterator[object]:
    """Tell sizes and times of an array's files, folder by folder.

    A folder's own time changes when a file is put into it, as zarr does to write a chunk anew, so
    where chunks are too many to look at each, their number and the folder's time have to do.
    """
    with os.scandir(folder) as entries:
        found = list(entries)
    yield folder.name, _status(folder), len(found)
    if len(found) <= _MOST_FILES:
        found.sort(key=lambda entry: entry.name)
        for entry in found:
            if not entry.is_dir():
                yield entry.name, _status(Path(entry.path))
    for entry in found:
        if entry.is_dir():
            yield from _files(Path(entry.path))


def _status(path: Path | str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat
    return (status.st_size, status.st_mtime_ns)
