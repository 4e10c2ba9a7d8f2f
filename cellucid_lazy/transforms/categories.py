"""Labels of a categorical column, and its values as codes: small unsigned integers.

For every cell with a value ``labels[codes[i]] == str(value of cell i)``; every other cell has the
missing code. This does not depend on chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellucid_lazy.graph import map_indexed, merge_tree

# Codes are at most uint16, whose value 65,535 is kept for missing.
MAX_CATEGORIES = 65_535
# Most categories in uint8, with 255 kept for missing.
_MAX_NARROW = 254


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


class Uniques(NamedTuple):
    """Unique values of a column.

    Attributes
    ----------
    values
        Sorted by code point; empty if there are more than codes can hold.
    n_unique
        Number of unique values.
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
    return merge_tree(found, _merge_uniques, _finish_uniques, shape=(), dtype=object)


def _block_uniques(values: NDArray[Any]) -> set[object] | NDArray[np.uint64]:
    unique = pd.unique(values)
    return _bounded(set(unique[~pd.isna(unique)].tolist()))


def _bounded(values: set[object]) -> set[object] | NDArray[np.uint64]:
    return values if len(values) <= MAX_CATEGORIES else _hashes(values)


def _hashes(values: set[object]) -> NDArray[np.uint64]:
    texts = np.array([str(value) for value in values], dtype=object)
    return np.unique(pd.util.hash_array(texts, categorize=False))


def _merge_uniques(found: list[set[object] | NDArray[np.uint64]]) -> Any:
    sets = [one for one in found if isinstance(one, set)]
    if len(sets) == len(found):
        return _bounded(set().union(*sets))
    return np.unique(
        np.concatenate([_hashes(one) if isinstance(one, set) else one for one in found])
    )


def _finish_uniques(found: list[set[object] | NDArray[np.uint64]]) -> NDArray[Any]:
    merged = _merge_uniques(found)
    values = sorted(merged, key=_sort_key) if isinstance(merged, set) else []
    box = np.empty((), dtype=object)
    box[()] = Uniques(tuple(values), len(merged))
    return box


def _sort_key(value: object) -> tuple[bool, str]:
    return (isinstance(value, str), str(value))


def merge_labels(categories: Sequence[object], /) -> Labels:
    """Turn categories into text; those that are equal as text are merged into the first."""
    names: dict[str, int] = {}
    codes = [names.setdefault(str(one), len(names)) for one in categories]
    merged = len(names) < len(codes)
    return Labels(tuple(names), np.asarray(codes, dtype=np.int32) if merged else None)


def code_dtype(
    n_categories: int, /, *, requested: Literal["auto", "uint8", "uint16"] = "auto"
) -> np.dtype[Any]:
    """Return the dtype of codes; its largest value means missing.

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
        If the dtype cannot hold that many.
    """
    if n_categories > MAX_CATEGORIES:
        raise ValueError(f"{n_categories:,} categories, but codes hold {MAX_CATEGORIES:,}")
    if requested == "uint8" and n_categories > _MAX_NARROW:
        raise ValueError(f"{n_categories:,} categories, but uint8 codes tell apart {_MAX_NARROW}")
    narrow = requested == "uint8" or (requested == "auto" and n_categories <= _MAX_NARROW)
    return np.dtype(np.uint8 if narrow else np.uint16)


def used_codes(codes: da.Array, /) -> da.Array:
    """Find the codes that at least one cell has.

    Parameters
    ----------
    codes
        Integers (n_cells,), negative for missing.

    Returns
    -------
    dask.array.Array
        Sorted, of the dtype of `codes` and unknown length.
    """
    found = map_indexed(_present, "i", codes, "i", dtype=codes.dtype)
    return merge_tree(found, _union, shape=(math.nan,), dtype=codes.dtype)


def _present(codes: NDArray[Any]) -> NDArray[Any]:
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
    error: type[ValueError] = ValueError,
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
        Name of the column in error messages.
    error
        Error to raise for a code without a category.

    Returns
    -------
    dask.array.Array
        ``dtype`` (n_cells,). Computing it raises an error for a code without a category.
    """
    block = partial(
        _recode, n_categories=n_categories, dtype=dtype, code_of=code_of, field=field, error=error
    )
    return map_indexed(block, "i", codes, "i", dtype=dtype)


def _recode(
    codes: NDArray[Any],
    *,
    n_categories: int,
    dtype: np.dtype[Any],
    code_of: NDArray[np.int32] | None,
    field: str,
    error: type[ValueError],
) -> NDArray[Any]:
    missing = codes < 0
    if len(codes) and int(codes.max()) >= n_categories:
        raise error(
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
    """Encode values as codes of their categories.

    Parameters
    ----------
    values
        Text, booleans or objects (n_cells,); None and NaN are missing.
    categories
        All unique values, in category order.
    dtype
        uint8 or uint16.
    code_of
        New code of each category, where labels were merged.

    Returns
    -------
    dask.array.Array
        ``dtype`` (n_cells,).
    """
    block = partial(_encode, categories=tuple(categories), dtype=dtype, code_of=code_of)
    return map_indexed(block, "i", values, "i", dtype=dtype)


def _encode(
    values: NDArray[Any],
    *,
    categories: tuple[object, ...],
    dtype: np.dtype[Any],
    code_of: NDArray[np.int32] | None,
) -> NDArray[Any]:
    found, unique = pd.factorize(values)
    positions = pd.Index(categories, dtype=object).get_indexer(pd.Index(unique, dtype=object))
    codes = positions if code_of is None else code_of[positions]
    # Missing values have position -1, which picks the last entry: the missing code.
    return np.append(codes, np.iinfo(dtype).max).astype(dtype)[found]
