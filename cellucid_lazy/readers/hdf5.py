"""AnnData in HDF5 files; gzip chunks are decoded here, outside HDF5's global lock.

HDF5 decompresses under its lock, so threads do not make it faster.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from cellucid_lazy.errors import CellucidLazyError, ChangedError, DataError
from cellucid_lazy.readers.matrix import check_fits
from cellucid_lazy.readers.storage import Tree

# Filters beyond HDF5's own register themselves where they are installed.
with suppress(ImportError):
    import_module("hdf5plugin")

_LOCKED = (
    "; another program has it open for writing: close that. Where nobody writes, or the file "
    "system has no locks, set HDF5_USE_FILE_LOCKING=FALSE"
)
_PLUGIN = "it is compressed with a filter that is missing here: pip install hdf5plugin"

Fingerprint = tuple[int, int]
Region = tuple[tuple[int, int], ...]

_DEFLATE = h5py.h5z.FILTER_DEFLATE
_SHUFFLE = h5py.h5z.FILTER_SHUFFLE
_FLETCHER32 = h5py.h5z.FILTER_FLETCHER32
# In the order of writing. HDF5 decodes the others (lzf, fletcher32, szip, blosc), and reads chunks
# without filters as fast.
_DECODABLE = ((_DEFLATE,), (_SHUFFLE, _DEFLATE))
# So many texts of a fixed length must fit the memory budget together.
_READ_TEXTS = 2**16
# Least number of bytes to which a chunk may inflate; filters make a small one longer.
_MIN_CHUNK_LIMIT = 2**20


class Hdf5:
    """AnnData in HDF5 files."""

    name = "h5ad"

    def sniff(self, path: str) -> bool:
        """Return whether a path is an HDF5 file."""
        return Path(path).is_file() and bool(h5py.is_hdf5(path))

    @contextmanager
    def open(self, path: str, storage_options: Mapping[str, Any] | None) -> Iterator[Tree]:
        """Open a file to read metadata; DataError if it cannot be read."""
        del storage_options  # files are local
        links: tuple[str, ...] = ()
        try:
            fingerprint = file_fingerprint(path)
            with h5py.File(path, "r") as root:
                reader = partial(Hdf5Array.describe, path=path, fingerprint=fingerprint)
                links = tuple(_unfollowed_links(root))
                yield Tree(path, root, reader, True, notes=links, checksum=checksum_of)
        except DataError as problem:
            if not links:
                raise
            raise DataError(f"{problem}; {'; '.join(links)}") from problem
        except CellucidLazyError:
            raise
        except Exception as problem:
            # A damaged file makes HDF5, and what is made of its attributes, raise errors of any
            # type.
            advice = _LOCKED if "lock file" in str(problem) else ""
            raise DataError(f"{path}: cannot be read as HDF5: {problem}{advice}") from problem


def _unfollowed_links(root: h5py.File) -> Iterator[str]:
    """Yield a sentence for each link of an AnnData that leads to another file, or nowhere."""
    groups = {"": root}
    for name in ("obs", "var", "obsm", "obsp", "layers", "raw"):
        if isinstance(root.get(name, getlink=True), h5py.HardLink):
            groups[f"{name}/"] = root[name]
    for prefix, group in groups.items():
        for key in group if isinstance(group, h5py.Group) else ():
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield f"{prefix}{key} is a link to {link.filename}; other files are not read"
            elif isinstance(link, h5py.SoftLink) and not _is_there(group, key):
                yield f"{prefix}{key} is a link to {link.path}, where nothing is"


def _is_there(group: h5py.Group, key: str) -> bool:
    try:
        return group.get(key) is not None
    except RuntimeError:  # a loop of links
        return False


def file_fingerprint(path: str) -> Fingerprint:
    """Return the size of a file in bytes and its modification time in nanoseconds."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Hdf5Array:
    """One HDF5 dataset. It pickles, and opens its file only to read.

    Attributes
    ----------
    path
        Absolute path of the file.
    key
        Full name of the dataset in it, such as ``"/X/data"``.
    fingerprint
        Of the file when it was opened; reading a file with another one fails.
    shape, dtype, chunks
        Of the dataset. The dtype is in native byte order, and object for text. The chunks are None
        unless it is stored in chunks.
    """

    path: str
    key: str
    fingerprint: Fingerprint
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None

    @classmethod
    def describe(cls, dataset: h5py.Dataset, path: str, fingerprint: Fingerprint) -> Hdf5Array:
        """Describe an open dataset; reads metadata only.

        Parameters
        ----------
        dataset
            A dataset of numbers or text, with a shape.
        path, fingerprint
            Of its file. The fingerprint is taken before the file is opened.

        Raises
        ------
        DataError
            For a dataset without a shape (a null dataspace), of another type, in another file, or
            in pieces that exceed memory.
        """
        key, shape = str(dataset.name), dataset.shape
        if shape is None:
            raise DataError(f"{path}: {key} holds nothing (a null dataset); expected an array")
        elsewhere = _other_file(dataset, path)
        if elsewhere:
            raise DataError(
                f"{path}: {key}: its values are not here but in {elsewhere}, which is not "
                "followed; write all of it into one file"
            )
        try:
            stored = dataset.dtype
        except TypeError as error:
            raise DataError(f"{path}: {key}: {error}; write it again as numbers or text") from error
        if stored.kind == "O" and h5py.check_string_dtype(stored) is None:
            raise DataError(f"{path}: {key}: holds objects; write it again as numbers or text")
        check_fits(prod(shape[1:]) * stored.itemsize, f"{path}: {key}", "a row")
        if dataset.chunks is not None:
            check_fits(prod(dataset.chunks) * stored.itemsize, f"{path}: {key}", "a chunk")
        if stored.kind == "S":
            texts = min(prod(shape), _READ_TEXTS)
            check_fits(texts * stored.itemsize, f"{path}: {key}", f"text of {texts:,} entries")
        return cls(path, key, fingerprint, shape, _native(stored), dataset.chunks)

    @property
    def token(self) -> str:
        """Name of the content: equal for equal path, fingerprint, key, dtype and shape."""
        content = (self.path, self.fingerprint, self.key, str(self.dtype), self.shape)
        return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()

    def read(self, *selection: slice) -> NDArray[Any]:
        """Read one contiguous slice per dimension; trailing dimensions left out are read whole.

        Returns
        -------
        numpy.ndarray
            A new array of `dtype`.

        Raises
        ------
        DataError
            When the file changed since it was opened, is damaged, or cannot be read; when text is
            not UTF-8.
        """
        region = _region(self.shape, selection)
        if any(start == stop for start, stop in region):
            return np.empty([stop - start for start, stop in region], self.dtype)
        with self._guarded(), h5py.File(self.path, "r") as file:
            dataset = file[self.key]
            filters = _filters(dataset)
            if filters is None:
                _refuse_long_chunks(dataset, region)
                values = np.asarray(dataset[tuple(slice(*bounds) for bounds in region)])
            else:
                values = _read_chunks(dataset, filters, region)
        if self.dtype.kind == "O":
            return self._decoded(values)
        # A view, since h5py's own type for native numbers compares equal but prints as '<f4'.
        return values.astype(self.dtype, copy=False).view(self.dtype)

    def _decoded(self, values: NDArray[Any]) -> NDArray[Any]:
        texts = np.empty(values.size, object)
        try:
            # One pass over a list takes half the time of h5py's ``asstr``.
            texts[:] = [value.decode() for value in values.ravel().tolist()]
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}: {self.key} is not UTF-8 text ({error}); write it again as UTF-8"
            ) from error
        return texts.reshape(values.shape)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Raise errors as a DataError that names the file; one that changed is a ChangedError."""
        self._check_fingerprint()
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            # A file replaced midway explains any error better than the error itself.
            self._check_fingerprint()
            plugin = any(words in str(error) for words in ("required filter", "plugin"))
            advice = _PLUGIN if plugin else "copy or write the file again"
            raise DataError(f"{self.path}: cannot read {self.key}: {error}; {advice}") from error
        self._check_fingerprint()

    def _check_fingerprint(self) -> None:
        try:
            found = file_fingerprint(self.path)
        except OSError as error:
            raise DataError(f"{self.path}: cannot read {self.key}: {error}") from error
        if found != self.fingerprint:
            raise ChangedError(
                f"{self.path}: the file changed since it was opened; open it again "
                f"(reading {self.key}; size and time were {self.fingerprint}, are {found})"
            )


def _other_file(dataset: h5py.Dataset, path: str) -> str:
    """Name the files that a dataset's values are in, if that is not the one that was opened."""
    opened, creation = os.fsdecode(h5py.h5f.get_name(dataset.id)), dataset.id.get_create_plist()
    if opened != path:
        return opened
    sources: list[str] = []
    if creation.get_layout() == h5py.h5d.VIRTUAL:
        files = (source.file_name for source in dataset.virtual_sources())
        sources = [name for name in files if name not in (".", path)]
    elif creation.get_external_count():
        sources = [name for name, _, _ in dataset.external]
    return ", ".join(dict.fromkeys(sources))


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in native byte order, without what h5py attaches to it; text is object."""
    if dtype.kind in "OSU":
        return np.dtype(object)
    if dtype.names is None and dtype.subdtype is None:
        dtype = np.dtype(dtype.str)
    return dtype.newbyteorder("=")


def _region(shape: Sequence[int], selection: Sequence[slice]) -> Region:
    whole = [slice(None)] * (len(shape) - len(selection))
    sides = zip(shape, (*selection, *whole), strict=True)
    spans = [part.indices(size)[:2] for size, part in sides]
    return tuple((start, max(start, stop)) for start, stop in spans)


def _filters(dataset: h5py.Dataset) -> tuple[int, ...] | None:
    """Return the filters of a dataset whose chunks are decoded here; None for others."""
    dtype, creation = dataset.dtype, dataset.id.get_create_plist()
    if creation.get_layout() != h5py.h5d.CHUNKED or dtype.kind not in "biuf":
        return None
    # A type that NumPy lacks (odd precisions, bit fields) differs from the one that h5py makes of
    # it.
    if not dataset.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True)):
        return None
    filters = _filter_codes(dataset)
    return filters if filters in _DECODABLE else None


def _filter_codes(dataset: h5py.Dataset) -> tuple[int, ...]:
    creation = dataset.id.get_create_plist()
    return tuple(creation.get_filter(number)[0] for number in range(creation.get_nfilters()))


def checksum_of(dataset: h5py.Dataset) -> str:
    """Name the filter of a dataset that has a checksum, or ""."""
    names = {_DEFLATE: "gzip", _FLETCHER32: "fletcher32"}
    return next((names[code] for code in _filter_codes(dataset) if code in names), "")


def _refuse_long_chunks(dataset: h5py.Dataset, region: Region) -> None:
    """Raise ValueError for deflated chunks that inflate to more than a chunk.

    HDF5, which reads them afterwards, has no such limit.
    """
    filters = _filter_codes(dataset)
    if _DEFLATE not in filters:
        return
    position = filters.index(_DEFLATE)
    checked = filters[position + 1 :] == (_FLETCHER32,)
    if position + 1 < len(filters) and not checked:
        raise ValueError(f"its filters ({filters}) are in an order that is not read")
    # Filters before it may add a few bytes to a small chunk.
    n_bytes = max(prod(dataset.chunks) * dataset.id.get_type().get_size(), _MIN_CHUNK_LIMIT)
    for offset, _, _ in _overlaps(dataset.chunks, region):
        mask, stored = fetch_chunk(dataset, offset) or (1 << position, b"")
        if not mask >> position & 1:
            # A checksum is the last four bytes.
            _inflate(stored[:-4] if checked and not mask >> position + 1 & 1 else stored, n_bytes)


def _read_chunks(dataset: h5py.Dataset, filters: tuple[int, ...], region: Region) -> NDArray[Any]:
    """Read a region of a chunked dataset, none of whose sides is empty.

    Raises ValueError for a damaged chunk.
    """
    # Once: h5py computes them each time.
    chunks, dtype = dataset.chunks, dataset.dtype
    out = np.empty([stop - start for start, stop in region], dtype)
    for offset, source, target in _overlaps(chunks, region):
        found = fetch_chunk(dataset, offset)
        if found is None:
            part = [
                slice(at + one.start, at + one.stop) for at, one in zip(offset, source, strict=True)
            ]
            out[target] = dataset[tuple(part)]
            continue
        mask, stored = found
        # Bit i of the mask says that the chunk was written without filter i.
        used = [code for bit, code in enumerate(filters) if not mask >> bit & 1]
        try:
            out[target] = _decode(stored, used, chunks, dtype)[source]
        except ValueError as error:
            raise ValueError(f"the chunk at {offset}: {error}") from error
    return out


def fetch_chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> tuple[int, bytes] | None:
    """Fetch the filter mask and the undecoded bytes of the chunk that begins at a position.

    None for one that h5py has to read: it was never written, or h5py says why it cannot be read.
    """
    try:
        found: tuple[int, bytes] = dataset.id.read_direct_chunk(offset)
    except (OSError, RuntimeError, MemoryError):  # any of them, where there is no chunk at all
        return None
    return found


def _overlaps(
    chunks: tuple[int, ...], region: Region
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
    """Yield each chunk that a region overlaps: its offset, slices of the chunk and the region."""
    sides = [
        range(start // chunk * chunk, stop, chunk)
        for chunk, (start, stop) in zip(chunks, region, strict=True)
    ]
    for offset in product(*sides):
        source, target = [], []
        for first, chunk, (start, stop) in zip(offset, chunks, region, strict=True):
            low, high = max(start, first), min(stop, first + chunk)
            source.append(slice(low - first, high - first))
            target.append(slice(low - start, high - start))
        yield offset, tuple(source), tuple(target)


def _decode(
    stored: bytes, filters: list[int], chunks: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Decode a stored chunk."""
    n_bytes = prod(chunks) * dtype.itemsize
    if _DEFLATE in filters:
        stored = _inflate(stored, n_bytes)
    if len(stored) != n_bytes:
        raise ValueError(f"it holds {len(stored):,} bytes, and a chunk {n_bytes:,}")
    if _SHUFFLE in filters and dtype.itemsize > 1:
        planes = np.frombuffer(stored, np.uint8).reshape(dtype.itemsize, -1)
        values = np.empty(planes.shape[::-1], np.uint8)
        for position, plane in enumerate(planes):
            values[:, position] = plane
        return values.reshape(-1).view(dtype).reshape(chunks)
    return np.frombuffer(stored, dtype).reshape(chunks)


def _inflate(stored: bytes, n_bytes: int) -> bytes:
    """Decompress a chunk, and stop where it is longer than a chunk: a few bytes may hold 4 GB."""
    stream = isal_zlib.decompressobj()
    try:
        # One more byte than allowed, so that the stream goes on to its checksum.
        found: bytes = stream.decompress(stored, n_bytes + 1)
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stubs call it an instance
        raise ValueError(f"its deflate stream is damaged ({error})") from error
    if len(found) > n_bytes:
        raise ValueError(f"it inflates to more than the {n_bytes:,} bytes of a chunk")
    if not stream.eof:
        raise ValueError("its deflate stream is cut short")
    return found
