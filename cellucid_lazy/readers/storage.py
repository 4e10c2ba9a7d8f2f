"""The protocol of a storage of AnnData: it recognises a path, and opens it as a tree of arrays.

Everything about AnnData's own encoding is shared by all storages: see `elements`, `frames` and
`dataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from cellucid_lazy.source import ArrayReader


class Tree(NamedTuple):
    """An opened AnnData: a tree of groups and arrays.

    Nodes behave as those of h5py and zarr do: groups are mappings, arrays have ``shape`` and
    ``dtype``, and both have ``name`` and the mapping ``attrs``.

    Attributes
    ----------
    path
        Absolute path or URL, for messages.
    root
        The AnnData's group.
    reader
        Makes the reader of an array; one of text has dtype object and reads Python strings.
    is_backed
        Whether the reference exporter opens such a dataset in backed mode.
    keys
        Lists the members of a group, damaged ones too.
    notes
        Sentences for users about links that are not followed.
    checksum
        Names the filter of an array that has a checksum, such as ``"gzip"``; "" for none. None
        where that is unknown.
    """

    path: str
    root: Any
    reader: Callable[[Any], ArrayReader]
    is_backed: bool = False
    keys: Callable[[Any], list[str]] = list
    notes: tuple[str, ...] = ()
    checksum: Callable[[Any], str] | None = None


class Storage(Protocol):
    """A way to store AnnData, such as HDF5 files."""

    @property
    def name(self) -> str:
        """Name of the storage, such as ``"h5ad"``."""

    def sniff(self, path: str) -> bool:
        """Return whether this storage may open a path, which exists, or a URL."""

    def open(
        self, path: str, storage_options: Mapping[str, Any] | None
    ) -> AbstractContextManager[Tree]:
        """Open a dataset to read metadata; DataError if it cannot be opened.

        Readers are used after the context has ended, in any process: they pickle, and open
        what they read themselves.
        """
