"""One array of a zarr store, read in any process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from cellucid_lazy.errors import ChangedError, DataError
from cellucid_lazy.readers.zarr.store import StorageOptions, key_value_store

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
    shape, dtype, chunks
        Of the array; dtype object means text.
    """

    url: str
    key: str
    options: StorageOptions
    zarr_format: Literal[2, 3]
    fingerprint: str
    quick_fingerprint: tuple[Status, ...]
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
        key, dtype = str(array.path), np.dtype(array.dtype)
        return cls(
            url,
            key,
            options,
            array.metadata.zarr_format,
            _fingerprint(url, key, f"{array.metadata.to_dict()}{modified}"),
            _quick_fingerprint(url, key),
            tuple(int(size) for size in array.shape),
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
        self._check_fingerprint()
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
        self._check_fingerprint()
        return values.astype(self.dtype, copy=False)

    def _check_fingerprint(self) -> None:
        if _quick_fingerprint(self.url, self.key) != self.quick_fingerprint:
            raise ChangedError(f"{self.url}: {self.key} changed since it was opened; open it again")


@lru_cache(maxsize=256)
def _open_array(
    url: str, key: str, options: StorageOptions, zarr_format: Literal[2, 3], content: str
) -> Any:
    del content  # part of the cache's key: a rewritten array is opened again
    return zarr.open_array(
        key_value_store(url, options), path=key, mode="r", zarr_format=zarr_format
    )


def _decoded(values: NDArray[Any]) -> NDArray[Any]:
    texts = values.astype(object)
    for position, text in enumerate(texts.flat):
        if isinstance(text, bytes):
            texts.flat[position] = text.decode()
    return texts


def _fingerprint(url: str, key: str, metadata: str) -> str:
    """Name the content of an array without reading it, from metadata and times of local files.

    The time of a folder changes when a file in it is replaced. A remote store would have to be
    listed.
    """
    found = [metadata, repr(_quick_fingerprint(url, key))]
    if "://" not in url:
        # Chunks of matrices are a level deeper: in folders of c, or in zarr 2 with "/".
        for folder in (f"{url}/{key}", f"{url}/{key}/c"):
            found += sorted(map(repr, _folders(folder)))
    return hashlib.blake2b("".join(found).encode(), digest_size=16).hexdigest()


def _quick_fingerprint(url: str, key: str) -> tuple[Status, ...]:
    """Return sizes and times of an array's main files, which every read checks; empty for a URL."""
    if "://" in url:
        return ()
    if url.endswith(".zip"):
        return (_status(url),)
    found = []
    folder = f"{url}/{key}"
    for path in (folder, f"{folder}/c", f"{folder}/zarr.json", f"{folder}/.zarray"):
        with suppress(OSError):
            found.append(_status(path))
    return tuple(found)


def _folders(path: str) -> Iterator[tuple[str, Status]]:
    if Path(path).is_dir():
        with os.scandir(path) as entries:
            yield from ((one.name, _status(one.path)) for one in entries if one.is_dir())


def _status(path: str) -> Status:
    status = os.stat(path)  # noqa: PTH116 - takes a third of the time of Path.stat
    return status.st_size, status.st_mtime_ns
