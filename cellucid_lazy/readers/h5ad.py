"""h5ad files as sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers import stored, stored_frame
from cellucid_lazy.readers.dataset import stored_source
from cellucid_lazy.readers.hdf5_array import Hdf5Array, identity_of
from cellucid_lazy.readers.hdf5_strings import Hdf5Strings
from cellucid_lazy.source import ArrayReader, Column, Expression, PartsReader, Source


@dataclass(frozen=True)
class Hdf5Storage:
    """Readers for the arrays of one HDF5 file.

    Attributes
    ----------
    name
        Absolute path.
    identity
        Size and modification time when it was opened.
    """

    name: str
    identity: tuple[int, int]

    def is_array(self, node: Any) -> bool:
        """Whether a node is a dataset."""
        return isinstance(node, h5py.Dataset)

    def is_text(self, node: Any) -> bool:
        """Whether a dataset holds text, of variable or fixed length."""
        return h5py.check_string_dtype(node.dtype) is not None or node.dtype.kind in "SU"

    def reader(self, node: Any) -> PartsReader:
        """Reader of a numeric dataset."""
        return Hdf5Array.of(node, self.identity)

    def text_reader(self, node: Any) -> ArrayReader:
        """Reader of a text dataset."""
        return Hdf5Strings.of(node, self.identity)


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def open_h5ad(path: Path, *, layer: str | None, use_raw: bool) -> Source:
    """Describe an h5ad file; reads metadata only and leaves no handle open.

    Parameters
    ----------
    path
        The file.
    layer, use_raw
        What serves as expression.

    Returns
    -------
    Source
        The lazy view.

    Raises
    ------
    DataError
        When the file cannot be read or holds no AnnData.
    """
    path = path.absolute()
    storage = Hdf5Storage(str(path), identity_of(path))
    try:
        with h5py.File(path, "r") as root:
            return stored_source(
                storage, root, kind="h5ad", path=str(path), layer=layer, use_raw=use_raw
            )
    except OSError as problem:
        raise DataError(f"{path}: cannot be read as HDF5: {problem}") from problem


def backed_expression(path: Path | str, *, use_raw: bool) -> Expression | None:
    """Describe X or raw.X of the file behind a backed AnnData.

    Parameters
    ----------
    path
        The file.
    use_raw
        Whether raw.X is meant.

    Returns
    -------
    Expression or None
        None when the file has no X.
    """
    path = Path(path).absolute()
    storage = Hdf5Storage(str(path), identity_of(path))
    with h5py.File(path, "r") as root:
        key = "X" if not use_raw else "raw/X" if "raw/X" in root else "raw.X"
        return stored.expression(storage, root[key]) if key in root else None


def open_column(path: Path, frame: str, name: str) -> Column:
    """Describe one column of a dataframe in an HDF5 file."""
    storage = Hdf5Storage(str(path), identity_of(path))
    with h5py.File(path, "r") as root:
        return stored_frame.column(storage, root[frame], name)


def has_old_layout(path: Path) -> bool:
    """Whether obs is one compound dataset, as before AnnData 0.7.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    try:
        with h5py.File(path, "r") as root:
            obs = root.get("obs")
            return isinstance(obs, h5py.Dataset) and obs.dtype.names is not None
    except OSError as problem:
        raise DataError(f"{path}: cannot be read as HDF5: {problem}") from problem
