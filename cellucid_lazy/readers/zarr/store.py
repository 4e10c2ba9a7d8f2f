"""Open zarr stores, with options that may hold secrets; and the errors of opening."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

import zarr
from zarr.core.sync import sync

from cellucid_lazy.errors import CellucidLazyError, DataError, MissingFileError, OptionError
from cellucid_lazy.readers.mistaken import describe_no_store

# The root file of version 3, of version 2 with consolidated metadata, and of version 2 without.
_ROOT_FILES = ("zarr.json", ".zmetadata", ".zgroup")

_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_SECRET = re.compile(r"key|secret|token|pass|auth|credential|cookie|signature|sas|conn", re.I)
# Shorter texts are parts of harmless words, and no secrets.
_MIN_SECRET_LENGTH = 4

# What fsspec's file systems call the time, or the version, of a file.
_MODIFIED = ("ETag", "etag", "LastModified", "Last-Modified", "last_modified", "updated", "mtime")


class StorageOptions:
    """Options of a remote store as fsspec takes them; no secret among them is ever shown.

    Tasks carry them, so they pickle, and compare by content.

    Raises
    ------
    OptionError
        When they are no mapping of names to values.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        options = {} if options is None else options
        if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
            raise OptionError(
                "storage_options: give a mapping of names to values, such as {'anon': True}"
            )
        self.values: dict[str, Any] = dict(options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageOptions) and self.values == other.values

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.values)))  # values may be lists and mappings

    def __repr__(self) -> str:
        return f"StorageOptions({', '.join(f'{key}=...' for key in self.values)})"

    def __dask_tokenize__(self) -> str:
        return self.shown

    @property
    def shown(self) -> str:
        """The options without secrets, such as the address of the service."""
        return repr(_without_secrets(self.values))

    def scrub(self, text: str) -> str:
        """Return a message in one line, without secrets."""
        # The longest first: one secret may hold another.
        for secret in sorted(_secrets(self.values), key=len, reverse=True):
            text = text.replace(secret, "***")
        return " ".join(_PASSWORD.sub("://***@", text).split())


def _without_secrets(values: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        (key, _without_secrets(value) if isinstance(value, Mapping) else value)
        for key, value in sorted(values.items())
        if not _SECRET.search(str(key)) and isinstance(value, (Mapping, str, int, float))
    ]


def _secrets(values: Any, *, within: bool = False) -> Iterator[str]:
    """Yield the texts, at any depth, whose key or an enclosing key sounds like a secret."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _secrets(value, within=within or bool(_SECRET.search(str(key))))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _secrets(value, within=within)
    elif within and isinstance(values, str) and len(values) >= _MIN_SECRET_LENGTH:
        yield values


def check_url(url: str) -> None:
    """Refuse a URL that cannot be a store, before the network is asked.

    Raises
    ------
    OptionError
        When it holds credentials, which messages and task names would show.
    DataError
        When it names nothing, or an HDF5 or zip file.
    """
    if "://" not in url:
        return
    if _PASSWORD.search(url):
        raise OptionError(
            f"{_PASSWORD.sub('://***@', url)}: holds a password, which would be shown; give it in "
            "storage_options"
        )
    parts = urlsplit(url)
    if not parts.netloc and not parts.path:
        raise DataError(f"{url}: names no store; give the whole URL, as s3://bucket/atlas.zarr")
    if parts.scheme in ("http", "https") and parts.query:
        raise OptionError(
            f"{url.split('?')[0]}: a store is many files, so its URL cannot end in ?...; give "
            "what has to be sent, such as headers, in storage_options"
        )
    if PurePosixPath(parts.path).suffix.lower() in (".h5ad", ".h5", ".hdf5", ".zip"):
        raise DataError(
            f"{url}: only zarr stores are read from a URL; copy the file here, or unpack it, or "
            "write it as zarr: anndata.read_h5ad(...).write_zarr(...)"
        )


def key_value_store(url: str, options: StorageOptions) -> Any:
    """Return zarr's store for a folder, a zip file or a URL, for reading only."""
    if "://" in url:
        store = zarr.storage.FsspecStore.from_url(
            url, storage_options=dict(options.values), read_only=True
        )
        store.fs.invalidate_cache()  # of what fsspec has listed before
        return store
    if url.endswith(".zip"):
        return _zip_store(url, *file_status(url))
    return zarr.storage.LocalStore(url, read_only=True)


@lru_cache(maxsize=8)
def _zip_store(url: str, size: int, changed: int) -> Any:
    """Open a zip file once for all of its arrays, and again when it changed."""
    del size, changed
    return zarr.storage.ZipStore(url, mode="r")


def file_status(path: str) -> tuple[int, int]:
    """Return the size of a file in bytes and the time of writing in nanoseconds."""
    status = os.stat(path)  # noqa: PTH116 - takes a third of the time of Path.stat
    return status.st_size, status.st_mtime_ns


def open_root(url: str, options: StorageOptions) -> tuple[Any, str]:
    """Open the root group of a store.

    Returns
    -------
    tuple
        The group of zarr, and when a remote store was written, if the server reports it.

    Raises
    ------
    Exception
        Whatever zarr, fsspec or the client of the service raise.
    """
    file, modified = _probe(url, options) if "://" in url else (None, "")
    zarr_format: Literal[2, 3] | None = None if file is None else 3 if file == "zarr.json" else 2
    # In the zip file of a store's folder, the store is one level down.
    inner = _folder_in_zip(url) if url.endswith(".zip") else None
    open_group = partial(zarr.open_group, mode="r", zarr_format=zarr_format, path=inner)
    consolidated = False if file == ".zgroup" else None
    try:
        return open_group(key_value_store(url, options), use_consolidated=consolidated), modified
    except Exception:
        # uns may hold anything: consolidated metadata with a type that is unknown to this zarr must
        # not keep the rest from being read.
        with suppress(Exception):  # the first error is more specific
            return open_group(key_value_store(url, options), use_consolidated=False), modified
        raise


def _folder_in_zip(path: str) -> str | None:
    """Return the one folder at the top of a zip file, or None."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    return tops.pop() if len(tops) == 1 else None


def member_names(group: zarr.Group) -> list[str]:
    """List the members of a group, damaged ones too."""
    try:
        return list(group)
    except Exception:  # what zarr raises for metadata that it cannot read
        names: list[str] = sync(_listed(group))
        return [name for name in names if not name.startswith(".") and name != "zarr.json"]


async def _listed(group: zarr.Group) -> list[str]:
    return [name.rstrip("/") async for name in group.store.list_dir(group.path)]


def _probe(url: str, options: StorageOptions) -> tuple[str, str]:
    """Find the root file of a remote store, whose name gives the format, and when it was written.

    Requests are sent one by one. zarr sends all at once: when one fails, the others are left
    pending, and Python warns of them at exit.
    """
    store = key_value_store(url, options)
    refused: Exception = FileNotFoundError(url)
    for file in _ROOT_FILES:
        name = f"{store.path.rstrip('/')}/{file}"
        try:
            sync(store.fs._cat_file(name, start=0, end=1))
        except FileNotFoundError:
            continue
        except Exception as problem:
            # Without the right to list a bucket, reading a file that is missing is forbidden too.
            if not isinstance(problem, PermissionError) and getattr(problem, "status", 0) != 403:
                raise
            refused = problem
        else:
            return file, _last_modified(store.fs, name)
    raise refused


def _last_modified(files: Any, name: str) -> str:
    with suppress(Exception):  # not all servers report it, and errors differ
        info = sync(files._info(name))
        return repr([(key, str(info[key])) for key in _MODIFIED if key in info])
    return ""


def user_error(url: str, options: StorageOptions, problem: Exception) -> CellucidLazyError:
    """Make the error for a store that could not be opened: why, and what to do, in one line."""
    reason = options.scrub(f"{type(problem).__name__}: {problem}")[:300]
    if "://" not in url:
        if isinstance(problem, (FileNotFoundError, zarr.errors.ContainsArrayError)):
            return DataError(f"{url}: {describe_no_store(url)}")
        return DataError(f"{url}: cannot be opened as a zarr store: {reason}")
    if isinstance(problem, FileNotFoundError):
        return MissingFileError(f"{url}: no zarr store is there; check host, bucket and path")
    if isinstance(problem, ImportError):
        return DataError(
            f"{url}: a package for such URLs is missing ({reason}); for s3 and http: "
            "pip install '.[remote]' in the clone of cellucid_lazy"
        )
    if isinstance(problem, TypeError):
        return OptionError(f"{url}: storage_options do not fit ({reason})")
    return DataError(
        f"{url}: cannot be opened ({reason}); check the network and endpoint_url, and give "
        "credentials in storage_options or the environment, or anon=True for public data"
    )
