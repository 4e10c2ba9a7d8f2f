"""Category codes: labels found, labels merged, values turned into small integers.

Law: ``labels[codes[i]] == str(value of cell i)`` for every cell with a value, and the missing code
for every other, whatever the chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

# uint16 with 65535 kept for missing.
MOST_CATEGORIES = 65_535
_NARROW = 254


class Labels(NamedTuple):
    """Labels of a category.

    Attributes
    ----------
    names
        Distinct labels, in category order.
    code_of
        For each category as stored, the code of its label; None when they are the same.
    """

    names: tuple[str, ...]
    code_of: NDArray[np.int32] | None


def merge_labels(categories: Sequence[object], /) -> Labels:
    """Turn categories into text; those that are equal as text become one.

    Parameters
    ----------
    categories
        As stored, in order.

    Returns
    -------
    Labels
        ``names`` keeps the place of each label's first category.
    """
    names: dict[str, int] = {}
    codes = [names.setdefault(str(one), len(names)) for one in categories]
    merged = len(names) < len(codes)
    return Labels(tuple(names), np.asarray(codes, dtype=np.int32) if merged else None)


def code_dtype(
    n_categories: int, /, *, requested: Literal["auto", "uint8", "uint16"] = "auto"
) -> np.dtype[Any]:
    """Choose the type of the codes; its largest value means missing.

    Parameters
    ----------
    n_categories
        Number of labels.
    requested
        ``"auto"`` takes uint8 up to 254 categories, else uint16.

    Returns
    -------
    numpy.dtype
        uint8 or uint16.

    Raises
    ------
    ValueError
        When the type cannot hold that many.
    """
    if n_categories > MOST_CATEGORIES:
        raise ValueError(f"{n_categories:,} categories, but codes hold {MOST_CATEGORIES:,}")
    if requested == "uint8" and n_categories > _NARROW:
        raise ValueError(f"{n_categories:,} categories, but uint8 holds {_NARROW}")
    narrow = requested == "uint8" or (requested == "auto" and n_categories <= _NARROW)
    return np.dtype(np.uint8 if narrow else np.uint16)


def encode_codes(
    codes: da.Array,
    /,
    *,
    n_categories: int,
    dtype: np.dtype[Any],
    code_of: NDArray[np.int32] | None = None,
    field: str = "the field",
) -> da.Array:
    """Recode stored codes: negative ones become the missing code.

    Parameters
    ----------
    codes
        Integers (n_cells,), negative for missing.
    n_categories
        Number of categories as stored.
    dtype
        uint8 or uint16.
    code_of
        New code of each stored category, where labels were merged.
    field
        What messages call the column.

    Returns
    -------
    dask.array.Array
        ``dtype`` (n_cells,). A code that has no category raises ValueError when computed.
    """
    block = partial(_recode, n_categories=n_categories, dtype=dtype, code_of=code_of, field=field)
    return codes.map_blocks(block, dtype=dtype, meta=np.empty((0,), dtype=dtype))


def _recode(
    codes: NDArray[Any],
    *,
    n_categories: int,
    dtype: np.dtype[Any],
    code_of: NDArray[np.int32] | None,
    field: str,
) -> NDArray[Any]:
    missing = codes < 0
    if len(codes) and int(codes.max()) >= n_categories:
        raise ValueError(
            f"{field}: a cell has category code {int(codes.max())}, but there are "
            f"{n_categories} categories; write the column again"
        )
    known = codes if code_of is None else code_of[np.where(missing, 0, codes)]
    out = known.astype(dtype)
    out[missing] = np.iinfo(dtype).max
    return out


def encode_labels(
    values: da.Array, /, *, categories: Sequence[object], dtype: np.dtype[Any]
) -> da.Array:
    """Encode labels, block by block.

    Parameters
    ----------
    values
        Text, booleans or objects (n_cells,); None and NaN are missing.
    categories
        All distinct values, in category order.
    dtype
        uint8 or uint16.

    Returns
    -------
    dask.array.Array
        ``dtype`` (n_cells,).
    """
    block = partial(_look_up, categories=tuple(categories), dtype=dtype)
    return values.map_blocks(block, dtype=dtype, meta=np.empty((0,), dtype=dtype))


def _look_up(
    values: NDArray[Any], *, categories: tuple[object, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    codes = pd.Index(categories, dtype=object).get_indexer(pd.Index(values.astype(object)))
    return np.where(codes < 0, np.iinfo(dtype).max, codes).astype(dtype)


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
    partial_sets = values.map_blocks(
        _distinct_block, dtype=object, chunks=((1,) * values.numblocks[0],), meta=_OBJECTS
    )
    return da.reduction(
        partial_sets,
        chunk=_pass_on,
        combine=_unite,
        aggregate=_finish,
        dtype=object,
        meta=np.empty((), dtype=object),
        concatenate=True,
        split_every=8,
    )


_OBJECTS: NDArray[Any] = np.empty((0,), dtype=object)


class _Found(NamedTuple):
    values: frozenset[object]
    hashes: NDArray[np.uint64]


def _distinct_block(values: NDArray[Any]) -> NDArray[Any]:
    unique = np.asarray(pd.unique(pd.Series(values.astype(object), dtype=object)))
    present = unique[~pd.isna(unique)]
    return _wrap(_Found(frozenset(present.tolist()), _hashes(present)))


def _hashes(values: NDArray[Any]) -> NDArray[np.uint64]:
    texts = np.array([str(one) for one in values], dtype=object)
    return np.sort(pd.util.hash_array(texts, categorize=False))


def _wrap(found: _Found) -> NDArray[Any]:
    box = np.empty((1,), dtype=object)
    box[0] = found
    return box


def _pass_on(boxes: NDArray[Any], **_: Any) -> NDArray[Any]:
    return boxes


def _unite(boxes: NDArray[Any], **_: Any) -> NDArray[Any]:
    return _wrap(_united(boxes))


def _united(boxes: NDArray[Any]) -> _Found:
    founds: list[_Found] = list(boxes.ravel())
    hashes = np.unique(np.concatenate([found.hashes for found in founds]))
    values = frozenset().union(*(found.values for found in founds))
    return _Found(values if len(hashes) <= MOST_CATEGORIES else frozenset(), hashes)


def _finish(boxes: NDArray[Any], **_: Any) -> NDArray[Any]:
    found = _united(boxes)
    box = np.empty((), dtype=object)
    box[()] = Distinct(tuple(sorted(found.values, key=_order)), len(found.hashes))
    return box


def _order(value: object) -> tuple[bool, str]:
    return (isinstance(value, str), str(value))
