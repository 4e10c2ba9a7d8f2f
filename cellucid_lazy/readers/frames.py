"""Stored dataframes, obs and var: encodings 0.1.0 and 0.2.0, in any storage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError, missing_key
from cellucid_lazy.graph import map_indexed, rechunk
from cellucid_lazy.readers.elements import (
    attribute,
    check_numeric,
    encoding,
    is_array,
    lazy_array,
    location,
)
from cellucid_lazy.readers.storage import Tree
from cellucid_lazy.source import ArrayReader, BlockSizes, ObsColumn
from cellucid_lazy.transforms.values import as_text, to_float32

ReadLabels = Callable[[], list[object]]

# Of cells, or of genes: edges of the neighbour graph number cells with 32 bits.
_MAX_ROWS = 2**32 - 1


def frame_keys(frame: Any) -> tuple[str, ...]:
    """Return the columns of a stored dataframe, in order; all members where no order is stored."""
    try:
        keys = attribute(frame, "column-order")
    except (ValueError, TypeError, OSError):  # what the attribute holds cannot be read
        keys = None
    if isinstance(keys, str):
        return (keys,)
    if isinstance(keys, (list, tuple)) and all(isinstance(key, str) for key in keys):
        return tuple(keys)
    return tuple(key for key in frame if key not in (_index_key(frame), "__categories"))


def frame_length(tree: Tree, frame: Any) -> int:
    """Return the number of rows of a stored dataframe; DataError when it has no index."""
    key = _index_key(frame)
    if key not in frame:
        raise DataError(f"{location(tree, frame)}: no index {key!r}; is this an AnnData file?")
    try:
        index = frame[key]
        values = index if is_array(index) else index["codes" if "codes" in index else "values"]
        n_rows = int(values.shape[0])
    except Exception as problem:
        # Damaged nodes make HDF5, zarr and Python raise errors of any type.
        raise DataError(
            f"{location(tree, frame)}: the index {key!r} cannot be read ({problem})"
        ) from problem
    if n_rows > _MAX_ROWS:
        raise DataError(f"{location(tree, index)}: has {n_rows:,} rows; at most {_MAX_ROWS:,} fit")
    return n_rows


def _index_key(frame: Any) -> str:
    """Return the key of the row names; where none is stored, it is one that tools use."""
    key = attribute(frame, "_index")
    if isinstance(key, str):
        return key
    return "index" if "index" in frame and "_index" not in frame else "_index"


def obs_column(tree: Tree, frame: Any, key: str, n_cells: int) -> ObsColumn:
    """Describe a column of a stored dataframe.

    Raises
    ------
    DataError
        When its type cannot be shown, or it does not have one value per cell.
    """
    node = frame.get(key)
    if node is None:
        raise DataError(f"{location(tree, frame)}: column {key!r} is listed but not there")
    categorical = _categorical_parts(frame, node)
    if categorical is not None:
        codes, categories = categorical
        return ObsColumn(
            key,
            "category",
            partial(lazy_array, _reader(tree, codes, n_cells)),
            read_labels=_labels(tree, frame, categories),
            max_categories=int(
                (categories if is_array(categories) else categories["values"]).shape[0]
            ),
        )
    if is_array(node):
        values = _reader(tree, node, n_cells)
        build: Callable[[BlockSizes], da.Array] = partial(lazy_array, values)
    elif encoding(node).startswith("nullable-"):
        values = _reader(tree, node["values"], n_cells)
        build = partial(_masked, values, _mask(tree, _reader(tree, node["mask"], n_cells), node))
    else:
        kind = encoding(node) or "group"
        raise DataError(f"{location(tree, node)}: is a {kind}, which cannot be shown")
    if values.dtype.kind in "Ob":
        max_categories = 2 if values.dtype.kind == "b" else None
        return ObsColumn(key, "category", build, max_categories=max_categories)
    check_numeric(values.dtype, location(tree, node))
    return ObsColumn(key, "continuous", build)


def _categorical_parts(frame: Any, node: Any) -> tuple[Any, Any] | None:
    """Return the codes and the categories of a column, if it is categorical."""
    if not is_array(node):
        return (node["codes"], node["categories"]) if encoding(node) == "categorical" else None
    # In encoding 0.1.0 an attribute of the codes refers to the categories.
    return (node, frame[node.attrs["categories"]]) if "categories" in node.attrs else None


def _reader(tree: Tree, node: Any, n_cells: int) -> ArrayReader:
    """Make the reader of an array that has one value per cell."""
    reader = tree.reader(node)
    if reader.shape != (n_cells,):
        raise DataError(
            f"{location(tree, node)}: has shape {reader.shape}, but {n_cells:,} cells need one "
            "value each"
        )
    return reader


def _mask(tree: Tree, mask: ArrayReader, node: Any) -> ArrayReader:
    """Refuse a mask that does not hold booleans: any text would count as true."""
    if mask.dtype.kind != "b":
        held = "text" if mask.dtype.kind == "O" else mask.dtype
        raise DataError(f"{location(tree, node)}: its mask holds {held}, but needs booleans")
    return mask


def _masked(values: ArrayReader, mask: ArrayReader, sizes: BlockSizes) -> da.Array:
    found = lazy_array(values, sizes)
    # The mask is read by its own stored chunks first, which are longer: it has a byte per cell.
    missing = rechunk(lazy_array(mask, sizes), found.chunks)
    if values.dtype.kind in "Ob":
        return map_indexed(_missing_label, "i", found, "i", missing, "i", dtype=object)
    return map_indexed(_missing_number, "i", found, "i", missing, "i", dtype=np.float32)


def _missing_label(values: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    labels = values.astype(object)
    labels[mask] = None
    return labels


def _missing_number(values: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float32]:
    # Straight to float32: by way of float64 large integers would be rounded twice.
    return np.where(mask, np.float32(np.nan), to_float32(values))


def index_array(tree: Tree, frame: Any) -> Callable[[BlockSizes], da.Array]:
    """Return a function that builds the lazy row names of a stored dataframe, as text."""
    node = frame[_index_key(frame)]
    categorical = _categorical_parts(frame, node)
    if categorical is not None:
        codes, categories = categorical
        return partial(_names_by_code, tree.reader(codes), _labels(tree, frame, categories))
    return partial(_names, tree.reader(node if is_array(node) else node["values"]))


def _names(values: ArrayReader, sizes: BlockSizes) -> da.Array:
    return as_text(lazy_array(values, sizes))


def _names_by_code(codes: ArrayReader, read_labels: ReadLabels, sizes: BlockSizes) -> da.Array:
    take = partial(_by_code, read_labels)
    return as_text(map_indexed(take, "i", lazy_array(codes, sizes), "i", dtype=object))


def _by_code(read_labels: ReadLabels, codes: NDArray[Any]) -> NDArray[Any]:
    labels = np.array([*read_labels(), None], dtype=object)
    return labels.take(codes)


def color_reader(tree: Tree, node: Any) -> Callable[[], list[str]]:
    """Return a function that reads the colours of a category's labels, a text array in uns.

    Raises
    ------
    DataError
        When it is no list of texts.
    """
    if not is_array(node) or len(node.shape) != 1:
        raise DataError(f"{location(tree, node)}: is no list of colours")
    return partial(_read_colors, tree.reader(node))


def _read_colors(colors: ArrayReader) -> list[str]:
    return [str(color) for color in colors.read().tolist()]


def gene_id_reader(tree: Tree, var: Any, name: str) -> Callable[[str], list[str]]:
    """Return a function that reads gene identifiers from the index of var or a column.

    Parameters
    ----------
    tree
        The opened dataset.
    var
        The dataframe.
    name
        What messages call it, ``"var"`` or ``"raw/var"``.

    Returns
    -------
    Callable
        ``read("index")`` or ``read(column)`` gives n_genes strings. It pickles.
    """
    index, keys = _index_key(var), frame_keys(var)
    columns: dict[str, ReadLabels] = {}
    for key in (index, *keys):
        # A column of var that cannot be read is an error only when it is asked for.
        with suppress(Exception):
            columns[key] = _labels(tree, var, var[key])
    return partial(_read_gene_ids, columns, index, keys, f"{tree.path}: {name}")


def _labels(tree: Tree, frame: Any, node: Any) -> ReadLabels:
    """Return a function that reads a column, or its categories, as Python objects."""
    categorical = _categorical_parts(frame, node)
    if categorical is not None:
        codes, categories = categorical
        return partial(_read_by_code, tree.reader(codes), _labels(tree, frame, categories))
    if is_array(node):
        return partial(_read_labels, tree.reader(node), None)
    mask = _mask(tree, tree.reader(node["mask"]), node)
    return partial(_read_labels, tree.reader(node["values"]), mask)


def _read_labels(values: ArrayReader, mask: ArrayReader | None) -> list[object]:
    found: list[object] = values.read().tolist()
    if mask is None:
        return found
    return [None if gone else one for one, gone in zip(found, mask.read(), strict=True)]


def _read_by_code(codes: ArrayReader, read_labels: ReadLabels) -> list[object]:
    labels = read_labels()
    return [labels[code] if code >= 0 else None for code in codes.read().tolist()]


def _read_gene_ids(
    columns: dict[str, ReadLabels], index: str, keys: tuple[str, ...], name: str, column: str
) -> list[str]:
    if column != "index" and column not in keys:
        raise missing_key("var column", column, keys, where=name)
    key = index if column == "index" else column
    if key not in columns:
        raise DataError(f"{name}: column {column!r} cannot be read as gene identifiers")
    return ["nan" if one is None else str(one) for one in columns[key]()]
