"""Unique values of a column of labels, the same whatever the chunks."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellucid_lazy.graph import map_indexed, merge_tree

# What codes can hold: uint16, with 65,535 kept for missing.
MOST_CATEGORIES = 65_535


class Uniques(NamedTuple):
    """Unique values of a column.

    Attributes
    ----------
    values
        Sorted by code point; empty when there are more than can be encoded.
    n_unique
        How many there are.
    """

    values: tuple[object, ...]
    n_unique: int


def unique_values(values: da.Array, /) -> da.Array:
    """Find the unique values of a column, in bounded memory.

    Beyond 65,535 unique values only their 64-bit hashes are kept, to count them.

    Parameters
    ----------
    values
        Text or booleans (n_cells,); None and NaN are missing.

    Returns
    -------
    dask.array.Array
        0-d object array that holds a `Uniques`.
    """
    found = map_indexed(_block_uniques, "i", values, "i", adjust_chunks={"i": 1}, dtype=object)
    return merge_tree(found, _merge, _finish, shape=(), dtype=object)


def _block_uniques(values: NDArray[Any]) -> NDArray[Any]:
    unique = pd.unique(values)
    return _boxed(_bounded(set(unique[~pd.isna(unique)].tolist())), (1,))


def _bounded(values: set[object]) -> set[object] | NDArray[np.uint64]:
    """Replace too many values by their hashes."""
    return values if len(values) <= MOST_CATEGORIES else _hashes(values)


def _hashes(values: set[object]) -> NDArray[np.uint64]:
    texts = np.array([str(value) for value in values], dtype=object)
    return np.unique(pd.util.hash_array(texts, categorize=False))


def _union(boxes: list[NDArray[Any]]) -> set[object] | NDArray[np.uint64]:
    found = [box.item() for box in boxes]
    if all(isinstance(one, set) for one in found):
        return _bounded(set().union(*found))
    return np.unique(
        np.concatenate([_hashes(one) if isinstance(one, set) else one for one in found])
    )


def _merge(boxes: list[NDArray[Any]]) -> NDArray[Any]:
    return _boxed(_union(boxes), (1,))


def _finish(boxes: list[NDArray[Any]]) -> NDArray[Any]:
    found = _union(boxes)
    values = sorted(found, key=_order) if isinstance(found, set) else []
    return _boxed(Uniques(tuple(values), len(found)), ())


def _order(value: object) -> tuple[bool, str]:
    return (isinstance(value, str), str(value))


def _boxed(content: object, shape: tuple[int, ...]) -> NDArray[Any]:
    box = np.empty(shape, dtype=object)
    box[...] = [content] if shape else content
    return box
