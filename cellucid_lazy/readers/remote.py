"""Stores behind a URL: options that stay secret, and errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import zarr

from cellucid_lazy.errors import CellucidLazyError, DataError, MissingFileError, OptionError

# Files of a store's root: of version 3, of version 2 with and without consolidated metadata.
MARKS = ("zarr.json", ".zmetadata", ".zgroup")

# `remote` in pyproject.toml: what it installs serves these.
_EXTRA = "pip install 'cellucid-lazy[remote]'"
_OF_EXTRA = ("s3", "s3a", "http", "https")

_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_SECRET = re.compile(r"key|secret|token|pass|auth|credential|cookie|signature|sas|conn", re.I)
# Scrubbing shorter texts would tear harmless words apart, and they are no secrets.
_SHORTEST_SECRET = 4

# What file systems call the facts that change when a file is written anew.
_FACTS = ("ETag", "etag", "LastModified", "Last-Modified", "last_modified", "updated", "mtime")


# Errors of clients, by name.
_UNREACHED = {"ConnectionError", "ClientConnectionError", "HTTPClientError", "TimeoutError"}
_UNSIGNED = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}


class StorageOptions:
    """Options of a remote store as fsspec takes them; never shows a value.

    Tasks carry them, so they pickle, and compare by content. Names of tasks depend on those that
    are no secret, such as the address of the service.
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
        return self.place

    @property
    def place(self) -> str:
        """What the options add to a URL: all but the secrets."""
        return repr(_shown(self.values))

    def scrub(self, text: str) -> str:
        """Bring a message into one line that shows no secret."""
        # The longest first: one secret may hold another.
        for secret in sorted(_secrets(self.values), key=len, reverse=True):
            text = text.replace(secret, "***")
        text = _PASSWORD.sub("://***@", text)
        return " ".join(text.split())


def _shown(values: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        (key, _shown(value) if isinstance(value, Mapping) else value)
        for key, value in sorted(values.items())
        if not _SECRET.search(str(key)) and isinstance(value, (Mapping, str, int, float))
    ]


def _secrets(values: Any, *, within: bool = False) -> Iterator[str]:
    """Texts among options, however deep, whose name or place says that they are secret."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _secrets(value, within=within or bool(_SECRET.search(str(key))))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _secrets(value, within=within)
    elif within and isinstance(values, str) and len(values) >= _SHORTEST_SECRET:
        yield values


def check_url(url: str) -> None:
    """Refuse URLs that cannot be a store, before anything is asked of the network.

    Raises
    ------
    OptionError
        When it holds credentials, which messages and task names would show.
    DataError
        When it names nothing, or an HDF5 or zip file.
    """
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
    suffix = PurePosixPath(parts.path).suffix.lower()
    if suffix in (".h5ad", ".h5", ".hdf5"):
        raise DataError(
            f"{url}: HDF5 is not read from a URL; copy the file here, or write it as zarr: "
            "anndata.read_h5ad(...).write_zarr(...)"
        )
    if suffix == ".zip":
        raise DataError(f"{url}: a zip file is not read from a URL; copy it here, or unpack it")


def store_at(url: str, options: StorageOptions) -> Any:
    """Give the zarr store at a URL; it lists anew what fsspec may remember."""
    store = zarr.storage.FsspecStore.from_url(
        url, storage_options=dict(options.values), read_only=True
    )
    store.fs.invalidate_cache()
    return store


def find_mark(url: str, options: StorageOptions) -> str:
    """Find the file that makes a place a zarr store, one request after the other.

    zarr asks for all of them at a time. Where that fails it leaves requests behind, and Python
    complains of them when it exits.

    Returns
    -------
    str
        One of ``MARKS``.

    Raises
    ------
    CellucidLazyError
        When the store is not there, or cannot be had.
    """
    refused: Exception | None = None
    for mark in MARKS:
        try:
            files, path = _files(url, options)
            files.cat_file(f"{path}/{mark}", start=0, end=1)
        except FileNotFoundError as problem:
            refused = refused or problem
        except Exception as problem:
            # Who may not list a bucket is refused what is not there, too: another may be there.
            if not _is_forbidden(problem):
                raise refusal(url, options, problem) from problem
            refused = problem
        else:
            return mark
    raise refusal(url, options, refused or FileNotFoundError(url)) from refused


def written(url: str, options: StorageOptions, mark: str) -> str:
    """Tell when, or with what content, a file of the store was written.

    Parameters
    ----------
    url, options
        The store.
    mark
        The file's name within it.

    Returns
    -------
    str
        Differs when the file is written anew; empty where the server does not tell.
    """
    with suppress(Exception):  # servers need not tell, and fail in many ways
        files, path = _files(url, options)
        files.invalidate_cache(path)
        facts = files.info(f"{path}/{mark}")
        return repr([(name, str(facts[name])) for name in _FACTS if name in facts])
    return ""


def _files(url: str, options: StorageOptions) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    files, path = url_to_fs(url, **options.values)
    return files, path.rstrip("/")


def refusal(url: str, options: StorageOptions, problem: Exception) -> CellucidLazyError:
    """Say in one line why a store could not be opened, and what to do.

    Parameters
    ----------
    url, options
        The store.
    problem
        What zarr, fsspec or the client of the service raised.

    Returns
    -------
    CellucidLazyError
        Ready to raise.
    """
    said = options.scrub(f"{type(problem).__name__}: {problem}")[:300]
    if isinstance(problem, ImportError):
        return DataError(f"{url}: {_to_install(url, problem)}")
    if isinstance(problem, FileNotFoundError):
        return MissingFileError(f"{url}: no zarr store is there; check host, bucket and path")
    if _is_forbidden(problem) or _kinds(problem) & _UNSIGNED:
        return DataError(
            f"{url}: access is refused ({said}); give credentials in storage_options or the "
            "environment, or anon=True where the data are public"
        )
    if _kinds(problem) & _UNREACHED:
        return DataError(
            f"{url}: cannot be reached ({said}); check the network, and endpoint_url in "
            "storage_options"
        )
    if isinstance(problem, TypeError) and "keyword argument" in str(problem):
        return OptionError(f"{url}: storage_options do not fit ({said})")
    return DataError(f"{url}: cannot be opened as a zarr store: {said}")


def _to_install(url: str, problem: ImportError) -> str:
    scheme = url.split("://", 1)[0].rsplit("::", 1)[-1]
    if scheme in _OF_EXTRA:
        return f"reading {scheme}:// needs packages that are not installed; {_EXTRA}"
    return " ".join(str(problem).split())


def _is_forbidden(problem: Exception) -> bool:
    return isinstance(problem, PermissionError) or getattr(problem, "status", 0) in (401, 403)


def _kinds(problem: Exception) -> set[str]:
    """Names of an error's classes: those of a service's client may not be installed."""
    return {one.__name__ for one in type(problem).__mro__}
