"""Category codes: labels merged, values turned into small integers.

Law: ``labels[codes[i]] == str(value of cell i)`` for every cell with a value, and the missing code
for every other, whatever the chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.transforms.blocks import map_indexed, merge_tree
from cellucid_lazy.transforms.distinct_values import MOST_CATEGORIES, Numbered

if TYPE_CHECKING:
    import dask.array as da

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


def used_codes(codes: da.Array, /) -> da.Array:
    """Find the codes that a cell has.

    Parameters
    ----------
    codes
        Integers (n_cells,), negative for missing.

    Returns
    -------
    dask.array.Array
        Lazy, sorted, of the dtype of `codes` and unknown length.
    """
    found = map_indexed(_distinct, "i", codes, "i", dtype=codes.dtype)
    return merge_tree(found, _union, shape=(math.nan,), dtype=codes.dtype)


def _distinct(codes: NDArray[Any]) -> NDArray[Any]:
    import pandas as pd

    found: NDArray[Any] = pd.unique(codes[codes >= 0])
    return found


def _union(blocks: list[NDArray[Any]]) -> NDArray[Any]:
    return np.unique(np.concatenate(blocks))


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
        New code of each stored category, where they differ.
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
    values: da.Array,
    /,
    *,
    categories: Sequence[object],
    dtype: np.dtype[Any],
    code_of: NDArray[np.int32] | None = None,
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
    code_of
        New code of each category, where labels were merged.

    Returns
    -------
    dask.array.Array
        ``dtype`` (n_cells,).
    """
    block = partial(_look_up, categories=tuple(categories), dtype=dtype, code_of=code_of)
    return values.map_blocks(block, dtype=dtype, meta=np.empty((0,), dtype=dtype))


def _look_up(
    values: NDArray[Any],
    *,
    categories: tuple[object, ...],
    dtype: np.dtype[Any],
    code_of: NDArray[np.int32] | None,
) -> NDArray[Any]:
    import pandas as pd

    places = pd.Index(categories, dtype=object).get_indexer(pd.Index(values.astype(object)))
    return _code_table(np.arange(len(categories)), code_of, dtype)[places]


def encode_numbered(
    numbered: Numbered,
    /,
    *,
    chunks: Sequence[int],
    dtype: np.dtype[Any],
    code_of: NDArray[np.int32] | None = None,
) -> da.Array:
    """Turn provisional codes into those that `encode_labels` gives, without the values.

    Parameters
    ----------
    numbered
        Of a column with no more distinct values than can be encoded.
    chunks
        Number of cells of each of its blocks.
    dtype
        uint8 or uint16.
    code_of
        New code of each distinct value, where labels were merged.

    Returns
    -------
    dask.array.Array
        ``dtype`` (n_cells,).
    """
    import dask.array as da

    codes: da.Array = da.map_blocks(
        partial(_settle, dtype=dtype, code_of=code_of),
        numbered.codes,
        numbered.places,
        chunks=(tuple(chunks),),
        dtype=dtype,
        meta=np.empty((0,), dtype=dtype),
    )
    return codes


def _settle(
    codes: NDArray[Any],
    places: NDArray[Any],
    *,
    dtype: np.dtype[Any],
    code_of: NDArray[np.int32] | None,
    block_id: tuple[int, ...],
) -> NDArray[Any]:
    settled: NDArray[Any] = _code_table(places.item()[block_id[0]], code_of, dtype)[codes.item()]
    return settled


def _code_table(
    places: NDArray[Any], code_of: NDArray[np.int32] | None, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Code of each place among the categories; last, so at -1 too, the missing code."""
    codes = places if code_of is None else code_of[places]
    return np.append(codes, np.iinfo(dtype).max).astype(dtype)
