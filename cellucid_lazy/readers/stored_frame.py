"""Stored dataframes, obs and var: encodings 0.1.0 and 0.2.0, in HDF5 and zarr alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.lazy_array import lazy_array
from cellucid_lazy.readers.stored import Storage, attribute, encoding, real_numbers, where
from cellucid_lazy.source import ArrayReader, Column
from cellucid_lazy.transforms.blocks import rechunk
from cellucid_lazy.transforms.float32 import to_float32

if TYPE_CHECKING:
    import dask.array as da


def frame_keys(group: Any) -> tuple[str, ...]:
    """Columns of a stored dataframe, in order."""
    return tuple(attribute(group, "column-order") or ())


def frame_length(storage: Storage, group: Any) -> int:
    """Number of rows of a stored dataframe, from its index's shape.

    Raises
    ------
    DataError
        When there is no index.
    """
    index = attribute(group, "_index") or "_index"
    if index not in group:
        raise DataError(f"{where(storage, group)}: no index {index!r}; is this an AnnData file?")
    return column_length(storage, group[index])


def column_length(storage: Storage, node: Any) -> int:
    """Number of values of a column, or of an index, whatever its encoding."""
    part = "" if storage.is_array(node) else "codes" if "codes" in node else "values"
    return int((node[part] if part else node).shape[0])


def column(storage: Storage, frame: Any, key: str) -> Column:
    """Describe a column of a stored dataframe.

    Raises
    ------
    DataError
        When its type is none that can be shown.
    """
    if key not in frame:
        raise DataError(f"{where(storage, frame)}: column {key!r} is listed but not there")
    node = frame[key]
    place = where(storage, node)
    if storage.is_array(node):
        legacy = attribute(node, "categories")
        if legacy is not None:
            return _categorical(storage, key, node, frame[node.attrs["categories"]])
        return _plain(storage, key, node, place)
    kind = encoding(node)
    if kind == "categorical":
        return _categorical(storage, key, node["codes"], node["categories"])
    if kind.startswith("nullable-"):
        return _nullable(storage, key, node)
    raise DataError(f"{place}: is a {kind or 'group'}, which cannot be shown")


def _plain(storage: Storage, key: str, node: Any, place: str) -> Column:
    if len(node.shape) != 1:
        raise DataError(f"{place}: has shape {tuple(node.shape)}, but one value per cell is needed")
    if storage.is_text(node):
        return Column(key, "category", partial(lazy_array, storage.text_reader(node)))
    real_numbers(np.dtype(node.dtype), place)
    values = partial(lazy_array, storage.reader(node))
    if np.dtype(node.dtype).kind == "b":
        return Column(key, "category", values, at_most=2)
    return Column(key, "continuous", values)


def _categorical(storage: Storage, key: str, codes: Any, categories: Any) -> Column:
    return Column(
        key,
        "category",
        partial(lazy_array, storage.reader(codes)),
        labels=labels_reader(storage, categories),
        at_most=int(categories.shape[0]) if storage.is_array(categories) else None,
    )


def labels_reader(storage: Storage, node: Any) -> Callable[[], Sequence[object]]:
    """Prepare to read a short array, such as the categories of a column, as Python objects.

    Parameters
    ----------
    storage
        The file format.
    node
        An array, or a group of values and a mask.

    Returns
    -------
    Callable
        Reads on its first call and remembers; holds readers, no handles.
    """
    values_node = node if storage.is_array(node) else node["values"]
    text = storage.is_text(values_node)
    values = storage.text_reader(values_node) if text else storage.reader(values_node)
    mask = None if storage.is_array(node) else storage.reader(node["mask"])
    return cache(partial(_read_labels, values, mask))


def _read_labels(values: ArrayReader, mask: ArrayReader | None) -> Sequence[object]:
    found: list[object] = values.read().tolist()
    if mask is None:
        return found
    return [None if gone else one for one, gone in zip(found, mask.read(), strict=True)]


def _nullable(storage: Storage, key: str, group: Any) -> Column:
    node = group["values"]
    text = storage.is_text(node)
    values = storage.text_reader(node) if text else storage.reader(node)
    mask = storage.reader(group["mask"])
    if mask.shape != values.shape or len(mask.shape) != 1:
        raise DataError(
            f"{where(storage, group)}: values have shape {values.shape}, their mask {mask.shape}; "
            "one of each per cell is needed"
        )
    if text or values.dtype.kind == "b":
        build = partial(_masked, values, mask, _missing_label)
        return Column(key, "category", build, at_most=None if text else 2)
    return Column(key, "continuous", partial(_masked, values, mask, _missing_number))


def _masked(values: ArrayReader, mask: ArrayReader, block: Callable[..., NDArray[Any]]) -> da.Array:
    import dask.array as da

    found = lazy_array(values)
    # Cut by its own stored chunks first: those of a mask, a byte per cell, are longer.
    missing = rechunk(lazy_array(mask), found.chunks)
    dtype = np.float32 if block is _missing_number else object
    return da.map_blocks(block, found, missing, dtype=dtype, meta=np.empty((0,), dtype=dtype))


def _missing_number(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    # Straight to float32: by way of float64 large integers would be rounded twice.
    return np.where(mask, np.float32(np.nan), to_float32(values))


def _missing_label(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    labels = values.astype(object)
    labels[mask.astype(bool)] = None
    return labels
