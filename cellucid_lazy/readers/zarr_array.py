"""One array of a zarr store, read in any process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import zarr

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.remote import StorageOptions, store_at
from cellucid_lazy.readers.zarr_identity import stamp_of


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

    def parts(self, start: int, stop: int) -> Iterator[np.ndarray[Any, Any]]:
        """Read a stretch of a 1-D array at once: zarr reads and decodes its chunks side by side."""
        yield self.read(slice(start, stop))

    def _check_stamp(self) -> None:
        if stamp_of(self.url, self.key) != self.stamp:
            raise DataError(f"{self.url}: {self.key} changed since it was opened; open it again")


def _text(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    labels = values.astype(object)
    for position, one in enumerate(labels.flat):
        if isinstance(one, bytes):
            labels.flat[position] = one.decode()
    return labels


@lru_cache(maxsize=256)
def _array(
    url: str, key: str, options: StorageOptions, zarr_format: Literal[2, 3], identity: str
) -> Any:
    del identity  # part of the cache's key: a rewritten array is opened anew
    return zarr.open_array(
        key_value_store(url, options), path=key, mode="r", zarr_format=zarr_format
    )


def key_value_store(url: str, options: StorageOptions) -> Any:
    """Give zarr's store for a folder, a zip file or a URL.

    Parameters
    ----------
    url
        Absolute path or URL.
    options
        Storage options of a remote store.

    Returns
    -------
    zarr.abc.store.Store
        For reading only.
    """
    if "://" in url:
        return store_at(url, options)
    if url.endswith(".zip"):
        return zarr.storage.ZipStore(url, mode="r")
    return zarr.storage.LocalStore(url, read_only=True)
