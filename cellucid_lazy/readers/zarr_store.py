"""zarr stores as sources: v2 and v3, folders, zip files and remote stores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from cellucid_lazy.errors import CellucidLazyError, DataError
from cellucid_lazy.readers import stored_frame
from cellucid_lazy.readers.dataset import stored_source
from cellucid_lazy.readers.remote import (
    StorageOptions,
    check_url,
    find_mark,
    refusal,
    store_at,
    written,
)
from cellucid_lazy.source import ArrayReader, Column, Source

_MARKS = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")
# Files of a folder that are looked at one by one.
_MOST_FILES = 1024


@dataclass(frozen=True)
class ZarrArray:
    """One zarr array, opened anew (and kept) by each process that reads it.

    Attributes
    ----------
    url
        Absolute path or URL of the store.
    key
        Path of the array within it.
    options
        Storage options of a remote store.
    zarr_format
        2 or 3; with it a process that opens the array asks for one file, not for all marks.
    identity
        Name of the content: sizes and times of the files, or what a remote store tells.
    stamp
        Sizes and times of what any rewriting touches; reading anything else fails.
    shape, dtype, chunks
        Metadata of the array; dtype object means text.
    """

    url: str
    key: str
    options: StorageOptions
    zarr_format: Literal[2, 3]
    identity: str
    stamp: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None

    @property
    def token(self) -> str:
        """Name of the content."""
        place = f"{self.url}|{self.options.place}|{self.key}"
        text = f"{place}|{self.identity}|{self.dtype}|{self.shape}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, *selection: slice) -> np.ndarray[Any, Any]:
        """Read one contiguous slice per dimension.

        Raises
        ------
        DataError
            When the array changed since it was opened, or a chunk cannot be read or decoded.
        """
        place = f"{self.url}: {self.key}"
        self._check_stamp()
        array = None
        try:
            array = _array(self.url, self.key, self.options, self.zarr_format, self.identity)
            values = np.asarray(array[selection] if selection else array[...])
        except Exception as problem:
            # zarr, its codecs and its stores raise errors of many kinds; all mean the same here.
            said = self.options.scrub(f"{type(problem).__name__}: {problem}")
            if array is not None and array.shards and self.url.startswith("http"):
                said += "; its chunks are in shards: does the server answer byte ranges?"
            raise DataError(f"{place}: cannot be read: {said}") from problem
        self._check_stamp()
        if self.dtype.kind == "O":
            return _text(values)
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _check_stamp(self) -> None:
        if _stamp(self.url, self.key) != self.stamp:
            raise DataError(f"{self.url}: {self.key} changed since it was opened; open it again")


def _text(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    labels = values.astype(object)
    for position, one in enumerate(labels.flat):
        if isinstance(one, bytes):
            labels.flat[position] = one.decode()
    return labels


@dataclass(frozen=True)
class ZarrStorage:
    """Readers for the arrays of one zarr store.

    Attributes
    ----------
    name
        Absolute path or URL.
    options
        Storage options.
    state
        What a remote store tells of when it was written; empty for a local one.
    """

    name: str
    options: StorageOptions
    state: str = ""

    def is_array(self, node: Any) -> bool:
        """Whether a node is an array."""
        return isinstance(node, zarr.Array)

    def is_text(self, node: Any) -> bool:
        """Whether an array holds text."""
        return node.dtype.kind in "OSUT"

    def reader(self, node: Any) -> ArrayReader:
        """Reader of a numeric array."""
        return self._reader(node, np.dtype(node.dtype).newbyteorder("="))

    def text_reader(self, node: Any) -> ArrayReader:
        """Reader of a text array."""
        return self._reader(node, np.dtype(object))

    def _reader(self, node: Any, dtype: np.dtype[Any]) -> ArrayReader:
        key = str(node.path)
        identity = _identity(self.name, key, f"{node.metadata.to_dict()}{self.state}")
        shape = tuple(int(n) for n in node.shape)
        chunks = tuple(int(n) for n in node.chunks)
        stamp = _stamp(self.name, key)
        kind = node.metadata.zarr_format
        return ZarrArray(self.name, key, self.options, kind, identity, stamp, shape, dtype, chunks)


def _identity(url: str, key: str, metadata: str) -> str:
    """Name the content of an array without reading it.

    Local files tell by size and time. A remote store would have to be listed, so there the
    metadata has to do, with the time of the store's own: who changes single arrays in place writes
    them under a new URL, or writes the consolidated metadata again.
    """
    digest = hashlib.blake2b(metadata.encode(), digest_size=16)
    path = Path(url)
    if path.is_file():
        digest.update(repr(_status(path)).encode())
    elif (path / key).is_dir():
        for fact in _files(path / key):
            digest.update(repr(fact).encode())
    return digest.hexdigest()


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


def _stamp(url: str, key: str) -> tuple[tuple[int, int], ...]:
    """Look at an array as quickly as every read can afford: not at its chunks, but their folder."""
    if "://" in url:
        return ()
    found = []
    folder = f"{url}/{key}"
    for path in (url, folder, f"{folder}/c", f"{folder}/zarr.json", f"{folder}/.zarray"):
        if path != url or url.endswith(".zip"):
            with suppress(OSError):
                found.append(_status(path))
    return tuple(found)


def _status(path: Path | str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat
    return (status.st_size, status.st_mtime_ns)


def _store(url: str, options: StorageOptions) -> Any:
    if "://" in url:
        return store_at(url, options)
    if url.endswith(".zip"):
        return zarr.storage.ZipStore(url, mode="r")
    return zarr.storage.LocalStore(url, read_only=True)


@lru_cache(maxsize=256)
def _array(
    url: str, key: str, options: StorageOptions, zarr_format: Literal[2, 3], identity: str
) -> Any:
    del identity  # part of the cache's key: a rewritten array is opened anew
    return zarr.open_array(_store(url, options), path=key, mode="r", zarr_format=zarr_format)


def is_zarr(path: Path) -> bool:
    """Whether a local path looks like a zarr store: a folder with its marks, or a zip."""
    if path.is_dir():
        return path.suffix == ".zarr" or any((path / mark).exists() for mark in _MARKS)
    return path.is_file() and path.suffix == ".zip"


def _open_group(url: str, options: StorageOptions, *, mark: str | None = None) -> Any:
    """Open a group; consolidated metadata that hold a type unknown to this zarr are passed over.

    uns may hold anything, and one array there must not keep the rest from being read. The mark of
    a remote store says what to ask for.
    """
    kind: Literal[2, 3] | None = None if mark is None else 3 if mark == "zarr.json" else 2
    opened = partial(zarr.open_group, mode="r", zarr_format=kind)
    try:
        consolidated = False if mark == ".zgroup" else None
        return opened(_store(url, options), use_consolidated=consolidated)
    except Exception as problem:
        try:
            return opened(_store(url, options), use_consolidated=False)
        except Exception:  # the first problem tells more
            if mark is not None:
                raise refusal(url, options, problem) from problem
            said = " ".join(f"{type(problem).__name__}: {problem}"[:300].split())
            raise DataError(f"{url}: cannot be opened as a zarr store: {said}") from problem


def open_column(url: str, frame: str, name: str) -> Column:
    """Describe one column of a dataframe in a local zarr store."""
    options = StorageOptions()
    root = _open_group(url, options)
    return stored_frame.column(ZarrStorage(url, options), root[frame], name)


def open_zarr(
    url: str, *, layer: str | None, use_raw: bool, storage_options: Mapping[str, Any] | None = None
) -> Source:
    """Describe a zarr store; reads metadata only.

    Parameters
    ----------
    url
        Absolute path or URL.
    layer, use_raw
        What serves as expression.
    storage_options
        For remote stores, as fsspec takes them.

    Returns
    -------
    Source
        The lazy view.

    Raises
    ------
    DataError
        When the store cannot be reached or read, or holds no AnnData.
    OptionError
        When the URL holds a password, or the storage options do not fit.
    """
    options = StorageOptions(storage_options)
    if "://" in url:
        return _open_remote(url, options, layer=layer, use_raw=use_raw)
    root = _open_group(url, options)
    storage = ZarrStorage(url, options)
    return stored_source(storage, root, kind="zarr", path=url, layer=layer, use_raw=use_raw)


def _open_remote(url: str, options: StorageOptions, *, layer: str | None, use_raw: bool) -> Source:
    check_url(url)
    url = url.rstrip("/")
    mark = find_mark(url, options)
    root = _open_group(url, options, mark=mark)
    storage = ZarrStorage(url, options, written(url, options, mark))
    try:
        return stored_source(storage, root, kind="zarr", path=url, layer=layer, use_raw=use_raw)
    except CellucidLazyError:
        raise
    except Exception as problem:
        # Without consolidated metadata, describing an AnnData goes on asking the store.
        raise refusal(url, options, problem) from problem
