"""zarr stores as sources: v2 and v3, folders, zip files and remote stores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers import stored_frame
from cellucid_lazy.readers.dataset import stored_source
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
        Storage options of a remote store, as sorted pairs.
    identity
        Name of the content: sizes and times of the files, or the metadata of a remote array.
    stamp
        Sizes and times of what any rewriting touches; reading anything else fails.
    shape, dtype, chunks
        Metadata of the array; dtype object means text.
    """

    url: str
    key: str
    options: tuple[tuple[str, Any], ...]
    identity: str
    stamp: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None

    @property
    def token(self) -> str:
        """Name of the content."""
        text = f"{self.url}|{self.key}|{self.identity}|{self.dtype}|{self.shape}"
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
        try:
            array = _array(self.url, self.key, self.options, self.identity)
            values = np.asarray(array[selection] if selection else array[...])
        except Exception as problem:
            # zarr, its codecs and its stores raise errors of many kinds; all mean the same here.
            raise DataError(f"{place}: cannot be read: {type(problem).__name__}: {problem}") from (
                problem
            )
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
        Storage options, as sorted pairs.
    """

    name: str
    options: tuple[tuple[str, Any], ...]

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
        identity = _identity(self.name, key, str(node.metadata.to_dict()))
        shape = tuple(int(n) for n in node.shape)
        chunks = tuple(int(n) for n in node.chunks)
        stamp = _stamp(self.name, key)
        return ZarrArray(self.name, key, self.options, identity, stamp, shape, dtype, chunks)


def _identity(url: str, key: str, metadata: str) -> str:
    """Name the content of an array without reading it.

    Local files tell by size and time. A remote store would have to be listed, so there the
    metadata has to do: write changed data under a new URL.
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


def _store(url: str, options: tuple[tuple[str, Any], ...]) -> Any:
    if url.endswith(".zip") and "://" not in url:
        return zarr.storage.ZipStore(url, mode="r")
    if "://" in url:
        return zarr.storage.FsspecStore.from_url(
            url, storage_options=_thawed(options), read_only=True
        )
    return zarr.storage.LocalStore(url, read_only=True)


@lru_cache(maxsize=256)
def _array(url: str, key: str, options: tuple[tuple[str, Any], ...], identity: str) -> Any:
    del identity  # part of the cache's key: a rewritten array is opened anew
    return zarr.open_array(_store(url, options), path=key, mode="r")


def _frozen(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (key, _frozen(value) if isinstance(value, Mapping) else value)
        for key, value in sorted(options.items())
    )


def _thawed(options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return {key: _thawed(value) if isinstance(value, tuple) else value for key, value in options}


def is_zarr(path: Path) -> bool:
    """Whether a local path looks like a zarr store: a folder with its marks, or a zip."""
    if path.is_dir():
        return path.suffix == ".zarr" or any((path / mark).exists() for mark in _MARKS)
    return path.is_file() and path.suffix == ".zip"


def _open_group(url: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """Open a group; consolidated metadata that hold a type unknown to this zarr are passed over.

    uns may hold anything, and one array there must not keep the rest from being read.
    """
    try:
        return zarr.open_group(_store(url, options), mode="r")
    except Exception as problem:
        try:
            return zarr.open_group(_store(url, options), mode="r", use_consolidated=False)
        except Exception:  # the first problem tells more
            raise DataError(
                f"{url}: cannot be opened as a zarr store: "
                f"{type(problem).__name__}: {str(problem)[:300]}"
            ) from problem


def open_column(url: str, frame: str, name: str) -> Column:
    """Describe one column of a dataframe in a local zarr store."""
    root = _open_group(url, ())
    return stored_frame.column(ZarrStorage(url, ()), root[frame], name)


def open_zarr(
    url: str, *, layer: str | None, use_raw: bool, storage_options: Mapping[str, Any] | None
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
        When the store cannot be read or holds no AnnData.
    """
    options = _frozen(storage_options or {})
    root = _open_group(url, options)
    storage = ZarrStorage(url, options)
    return stored_source(storage, root, kind="zarr", path=url, layer=layer, use_raw=use_raw)
