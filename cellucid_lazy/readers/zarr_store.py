"""zarr stores as sources: v2 and v3, folders, zip files and remote stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from cellucid_lazy.errors import CellucidLazyError, DataError
from cellucid_lazy.readers import stored_frame
from cellucid_lazy.readers.dataset import stored_source
from cellucid_lazy.readers.remote import StorageOptions, check_url, find_mark, refusal, written
from cellucid_lazy.readers.zarr_array import ZarrArray, key_value_store
from cellucid_lazy.readers.zarr_identity import identity_of, stamp_of
from cellucid_lazy.source import ArrayReader, Column, PartsReader, Source

_MARKS = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")


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

    def reader(self, node: Any) -> PartsReader:
        """Reader of a numeric array."""
        return self._reader(node, np.dtype(node.dtype).newbyteorder("="))

    def text_reader(self, node: Any) -> ArrayReader:
        """Reader of a text array."""
        return self._reader(node, np.dtype(object))

    def _reader(self, node: Any, dtype: np.dtype[Any]) -> ZarrArray:
        key = str(node.path)
        identity = identity_of(self.name, key, f"{node.metadata.to_dict()}{self.state}")
        shape = tuple(int(n) for n in node.shape)
        chunks = tuple(int(n) for n in node.chunks)
        stamp = stamp_of(self.name, key)
        kind = node.metadata.zarr_format
        return ZarrArray(self.name, key, self.options, kind, identity, stamp, shape, dtype, chunks)


def is_zarr(path: Path) -> bool:
    """Whether a local path looks like a zarr store: a folder with its marks, or a zip."""
    if path.is_dir():
        return path.suffix == ".zarr" or any((path / mark).exists() for mark in _MARKS)
    return path.is_file() and path.suffix == ".zip"


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


def _open_group(url: str, options: StorageOptions, *, mark: str | None = None) -> Any:
    """Open a group; consolidated metadata that hold a type unknown to this zarr are passed over.

    uns may hold anything, and one array there must not keep the rest from being read. The mark of
    a remote store says what to ask for.
    """
    kind: Literal[2, 3] | None = None if mark is None else 3 if mark == "zarr.json" else 2
    opened = partial(zarr.open_group, mode="r", zarr_format=kind)
    try:
        consolidated = False if mark == ".zgroup" else None
        return opened(key_value_store(url, options), use_consolidated=consolidated)
    except Exception as problem:
        try:
            return opened(key_value_store(url, options), use_consolidated=False)
        except Exception:  # the first problem tells more
            if mark is not None:
                raise refusal(url, options, problem) from problem
            said = " ".join(f"{type(problem).__name__}: {problem}"[:300].split())
            raise DataError(f"{url}: cannot be opened as a zarr store: {said}") from problem
