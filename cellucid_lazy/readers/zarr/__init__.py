"""AnnData in zarr stores: v2 and v3, folders, zip files and URLs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cellucid_lazy.errors import CellucidLazyError
from cellucid_lazy.readers.storage import Tree

_FILES = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")


class Zarr:
    """AnnData in zarr stores."""

    name = "zarr"

    def sniff(self, path: str) -> bool:
        """Return whether a path is a URL, a zip file, or a folder with files of a store."""
        if "://" in path:
            return True
        local = Path(path)
        if local.is_dir():
            return local.suffix == ".zarr" or any((local / name).exists() for name in _FILES)
        return local.is_file() and local.suffix == ".zip"

    @contextmanager
    def open(self, path: str, storage_options: Mapping[str, Any] | None) -> Iterator[Tree]:
        """Open a store to read metadata; DataError or OptionError if it cannot be opened."""
        # Deferred: importing zarr takes half a second, and other files do without.
        from cellucid_lazy.readers.zarr import codecs, store
        from cellucid_lazy.readers.zarr.array import ZarrArray

        options = store.StorageOptions(storage_options)
        store.check_url(path)
        url = path.rstrip("/")
        try:
            root, modified = store.open_root(url, options)
            describe = partial(ZarrArray.describe, url=url, options=options, modified=modified)
            # Without consolidated metadata, the store is still read while it is described.
            yield Tree(url, root, describe, keys=store.member_names, checksum=codecs.checksum_of)
        except CellucidLazyError:
            raise
        except Exception as problem:
            raise store.user_error(url, options, problem) from problem
