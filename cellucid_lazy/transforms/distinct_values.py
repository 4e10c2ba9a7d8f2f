"""Distinct values of a column, and its cells numbered by them in the same read.

Law: the values found do not depend on the chunks. How the blocks number their cells does;
`categories.encode_numbered` turns that into codes that do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import dask.array as da

# What codes can hold: uint16 with 65535 kept for missing.
MOST_CATEGORIES = 65_535

_OBJECTS: NDArray[Any] = np.empty((0,), dtype=object)


class Distinct(NamedTuple):
    """Distinct values of a column.

    Attributes
    ----------
    values
        Sorted by code point; empty when there are more than can be encoded.
    n_distinct
        How many there are.
    """

    values: tuple[object, ...]
    n_distinct: int


class Numbered(NamedTuple):
    """A column read once: its distinct values, and provisional codes that refer to them.

    Attributes
    ----------
    distinct
        Lazy 0-d object array that holds a `Distinct`.
    codes
        Lazy object array with an element per block of the column: the codes of its cells as the
        block itself numbers its values, in the smallest unsigned type that holds them. The code
        after the last means missing. A block with more values than can be encoded keeps none.
    places
        Lazy 0-d object array that holds a tuple with an array per block, uint32: for each of the
        block's codes the place of its value among the distinct ones.
    """

    distinct: da.Array
    codes: da.Array
    places: da.Array


def distinct(values: da.Array, /) -> da.Array:
    """Find the distinct values of a column, in bounded memory.

    Beyond 65,535 distinct values only their 64-bit hashes are kept, to count them.

    Parameters
    ----------
    values
        Text or booleans (n_cells,); None and NaN are missing.

    Returns
    -------
    dask.array.Array
        Lazy 0-d object array that holds a `Distinct`.
    """
    return number(values).distinct


def number(values: da.Array, /) -> Numbered:
    """Find the distinct values of a column and number its cells, with one read for both.

    The parts belong into one ``dask.persist``; `categories.encode_numbered` then makes the codes.

    Parameters
    ----------
    values
        Text or booleans (n_cells,); None and NaN are missing.

    Returns
    -------
    Numbered
        Takes what `numbered_bytes` tells.
    """
    import dask.array as da

    blocks = values.map_blocks(
        _number_block, dtype=object, chunks=((1,) * values.numblocks[0],), meta=_OBJECTS
    )
    found = da.reduction(
        blocks,
        chunk=_found_of,
        combine=_unite,
        aggregate=_finish,
        dtype=object,
        meta=np.empty((), dtype=object),
        concatenate=True,
        split_every=8,
    )
    one = np.empty((), dtype=object)
    return Numbered(
        found.map_blocks(_distinct_of, dtype=object, meta=one),
        blocks.map_blocks(_codes_of, dtype=object, meta=_OBJECTS),
        found.map_blocks(_places_of, dtype=object, meta=one),
    )


def numbered_bytes(n_cells: int, n_values: int, /) -> int:
    """Tell how much the provisional codes of a column take at most.

    Parameters
    ----------
    n_cells, n_values
        Number of cells and of distinct values.

    Returns
    -------
    int
        Bytes: one or two for each cell; 0 for more values than can be encoded.
    """
    return n_cells * _local_dtype(n_values).itemsize if n_values <= MOST_CATEGORIES else 0


class _Found(NamedTuple):
    """Distinct values of some blocks, in the order found, and for each block the places of its own.

    Hashes are sorted; beyond `MOST_CATEGORIES` they alone are kept.
    """

    values: tuple[object, ...]
    hashes: NDArray[np.uint64]
    places: tuple[NDArray[np.uint32], ...]


class _Block(NamedTuple):
    found: _Found
    codes: NDArray[np.unsignedinteger[Any]]


def _number_block(values: NDArray[Any]) -> NDArray[Any]:
    import pandas as pd

    codes, unique = pd.factorize(values.astype(object))
    hashes = _hashes(unique)
    if len(hashes) > MOST_CATEGORIES:
        return _wrap(_Block(_Found((), hashes, ()), np.empty((0,), dtype=np.uint8)))
    found = _Found(tuple(unique.tolist()), hashes, (np.arange(len(unique), dtype=np.uint32),))
    missing = codes < 0
    local = codes.astype(_local_dtype(len(unique)))
    local[missing] = len(unique)
    return _wrap(_Block(found, local))


def _local_dtype(n_values: int) -> np.dtype[Any]:
    """Smallest unsigned type for the codes of so many values and one more for missing."""
    return np.min_scalar_type(n_values)


def _hashes(values: NDArray[Any]) -> NDArray[np.uint64]:
    import pandas as pd

    texts = np.array([str(one) for one in values], dtype=object)
    return np.unique(pd.util.hash_array(texts, categorize=False))


def _wrap(content: object, shape: tuple[int, ...] = (1,)) -> NDArray[Any]:
    box = np.empty((1,), dtype=object)
    box[0] = content
    return box.reshape(shape)


def _found_of(boxes: NDArray[Any], **_: Any) -> NDArray[Any]:
    return _wrap(boxes.item().found)


def _codes_of(boxes: NDArray[Any]) -> NDArray[Any]:
    return _wrap(boxes.item().codes)


def _distinct_of(box: NDArray[Any]) -> NDArray[Any]:
    found: _Found = box.item()
    return _wrap(Distinct(found.values, len(found.hashes)), ())


def _places_of(box: NDArray[Any]) -> NDArray[Any]:
    return _wrap(box.item().places, ())


def _unite(boxes: NDArray[Any], **_: Any) -> NDArray[Any]:
    return _wrap(_united(boxes))


def _united(boxes: NDArray[Any]) -> _Found:
    founds: list[_Found] = list(boxes.ravel())
    hashes = np.unique(np.concatenate([found.hashes for found in founds]))
    if len(hashes) > MOST_CATEGORIES:
        return _Found((), hashes, ())
    # Equal texts become one object here: no more than the distinct values stays of the blocks.
    place_of: dict[object, int] = {}
    places: list[NDArray[np.uint32]] = []
    for found in founds:
        here = [place_of.setdefault(value, len(place_of)) for value in found.values]
        table = np.array(here, dtype=np.uint32)
        places += [table[own] for own in found.places]
    return _Found(tuple(place_of), hashes, tuple(places))


def _finish(boxes: NDArray[Any], **_: Any) -> NDArray[Any]:
    found = _united(boxes)
    order = sorted(range(len(found.values)), key=lambda place: _order(found.values[place]))
    rank = np.empty(len(order), dtype=np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    values = tuple(found.values[place] for place in order)
    return _wrap(_Found(values, found.hashes, tuple(rank[own] for own in found.places)), ())


def _order(value: object) -> tuple[bool, str]:
    return (isinstance(value, str), str(value))
