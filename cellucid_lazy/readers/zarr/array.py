"""One array of a zarr store, read in any process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from cellucid_lazy.errors import ChangedError, DataError
from cellucid_lazy.readers.matrix import check_fits
from cellucid_lazy.readers.zarr.codecs import bound_codecs
from cellucid_lazy.readers.zarr.store import StorageOptions, file_status, key_value_store

# Size in bytes and time of writing in nanoseconds.
Status = tuple[int, int]


@dataclass(frozen=True)
class ZarrArray:
    """One zarr array. It pickles; each process that reads opens it once.

    Attributes
    ----------
    url
        Absolute path or URL of the store.
    key
        Path of the array within it.
    options
        Storage options of a remote store.
    zarr_format
        2 or 3. Given that, opening the array asks for one file, not for those of both formats.
    fingerprint
        Name of the content.
    quick_fingerprint
        Of local files, when the store was opened; reading an array with another one fails.
    newest
        Of the folders that hold the chunks of each range of rows: the latest time in nanoseconds,
        when the store was opened. Reading chunks of a later one fails.
    rows_per_folder
        Rows in such a folder; 0 where there are none.
    shape, dtype, chunks
        Of the array; dtype object means text.
    """

    url: str
    key: str
    options: StorageOptions
    zarr_format: Literal[2, 3]
    fingerprint: str
    quick_fingerprint: tuple[Status, ...]
    newest: int
    rows_per_folder: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None

    @classmethod
    def describe(cls, array: Any, url: str, options: StorageOptions, modified: str) -> ZarrArray:
        """Describe an open array; reads metadata only.

        Parameters
        ----------
        array
            Of zarr.
        url, options
            The store it is in.
        modified
            When a remote store was written; empty if the server does not say.
        """
        key, dtype, shape = str(array.path), np.dtype(array.dtype), array.shape
        check_fits(prod(shape[1:]) * dtype.itemsize, f"{url}: {key}", "a row")
        check_fits(prod(array.chunks) * dtype.itemsize, f"{url}: {key}", "a chunk")
        folders = () if "://" in url else sorted(_folders(url, key))
        return cls(
            url,
            key,
            options,
            array.metadata.zarr_format,
            _fingerprint(url, key, f"{array.metadata.to_dict()}{modified}", folders),
            _quick_fingerprint(url, key),
            max((changed for _, (_, changed) in folders), default=0),
            int((array.shards or array.chunks)[0]) if folders and len(shape) > 1 else 0,
            tuple(int(size) for size in shape),
            np.dtype(object) if dtype.kind in "OSUT" else dtype.newbyteorder("="),
            tuple(int(size) for size in array.chunks),
        )

    @property
    def token(self) -> str:
        """Name of the content; it does not depend on credentials."""
        content = (self.url, self.options.shown, self.key, self.fingerprint, str(self.dtype))
        return hashlib.blake2b(repr((*content, self.shape)).encode(), digest_size=16).hexdigest()

    def read(self, *selection: slice) -> NDArray[Any]:
        """Read one contiguous slice per dimension; trailing dimensions left out are read whole.

        Raises
        ------
        DataError
            When the array changed since it was opened, or cannot be read or decoded.
        """
        self._check_fingerprint(*selection[:1])
        array = None
        try:
            array = _open_array(
                self.url, self.key, self.options, self.zarr_format, self.fingerprint
            )
            values = np.asarray(array[selection] if selection else array[...])
            if self.dtype.kind == "O":
                values = _decoded(values)
        except Exception as problem:
            # zarr, its codecs and its stores raise errors of many kinds; all mean the same here.
            reason = self.options.scrub(f"{type(problem).__name__}: {problem}")
            if array is not None and array.shards and self.url.startswith("http"):
                reason += "; its chunks are in shards: does the server answer byte ranges?"
            raise DataError(f"{self.url}: {self.key}: cannot be read: {reason}") from problem
        self._check_fingerprint(*selection[:1])
        return values.astype(self.dtype, copy=False)

    def _check_fingerprint(self, rows: slice = slice(None)) -> None:
        same = _quick_fingerprint(self.url, self.key) == self.quick_fingerprint
        if not same or self._newest_of(rows) > self.newest:
            raise ChangedError(f"{self.url}: {self.key} changed since it was opened; open it again")

    def _newest_of(self, rows: slice) -> int:
        """Return the latest time of the folders that hold the chunks of a range of rows."""
        newest = 0
        if self.rows_per_folder:
            start, stop, _ = rows.indices(self.shape[0])
            for row in range(start // self.rows_per_folder, -(-stop // self.rows_per_folder)):
                for folder in (f"c/{row}", str(row)):
                    with suppress(OSError):  # chunks without values are not stored
                        newest = max(newest, file_status(f"{self.url}/{self.key}/{folder}")[1])
        return newest


@lru_cache(maxsize=256)
def _open_array(
    url: str, key: str, options: StorageOptions, zarr_format: Literal[2, 3], content: str
) -> Any:
    del content  # part of the cache's key: a rewritten array is opened again
    store = key_value_store(url, options)
    array = zarr.open_array(store, path=key, mode="r", zarr_format=zarr_format)
    bound_codecs(array)
    return array


def _decoded(values: NDArray[Any]) -> NDArray[Any]:
    texts = values.astype(object)
    for position, text in enumerate(texts.flat):
        if isinstance(text, bytes):
            texts.flat[position] = text.decode()
    return texts


def _fingerprint(url: str, key: str, metadata: str, folders: Sequence[tuple[str, Status]]) -> str:
    """Name the content of an array without reading it, from metadata and times of local files.

    The time of a folder changes when a file in it is replaced. A remote store would have to be
    listed.
    """
    found = [metadata, repr(_quick_fingerprint(url, key)), *map(repr, folders)]
    return hashlib.blake2b("".join(found).encode(), digest_size=16).hexdigest()


def _quick_fingerprint(url: str, key: str) -> tuple[Status, ...]:
    """Return sizes and times of an array's main files, which every read checks; empty for a URL."""
    if "://" in url:
        return ()
    if url.endswith(".zip"):
        return (file_status(url),)
    found = []
    folder = f"{url}/{key}"
    for path in (folder, f"{folder}/c", f"{folder}/zarr.json", f"{folder}/.zarray"):
        with suppress(OSError):
            found.append(file_status(path))
    return tuple(found)


def _folders(url: str, key: str) -> Iterator[tuple[str, Status]]:
    """Find the folders that hold a matrix's chunks: in c, or in zarr v2 those of separator "/"."""
    for path in (f"{url}/{key}", f"{url}/{key}/c"):
        if Path(path).is_dir():
            with os.scandir(path) as entries:
                yield from ((one.name, file_status(one.path)) for one in entries if one.is_dir())
