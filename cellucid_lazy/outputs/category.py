"""Labels and codes of a category column: what only reading tells is read once in a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import FieldError
from cellucid_lazy.outputs.context import Context
from cellucid_lazy.source import Column
from cellucid_lazy.surroundings import dask_options
from cellucid_lazy.transforms.categories import (
    code_dtype,
    encode_codes,
    encode_labels,
    encode_numbered,
    merge_labels,
    used_codes,
)
from cellucid_lazy.transforms.distinct_values import (
    MOST_CATEGORIES,
    Distinct,
    Numbered,
    distinct,
    number,
    numbered_bytes,
)

if TYPE_CHECKING:
    import dask.array as da

# Encodes the cells of a column, given ``dtype`` and ``code_of``.
Encode = Callable[..., "da.Array"]


class Category(NamedTuple):
    """A category field whose labels are known.

    Attributes
    ----------
    labels
        Distinct, in category order.
    codes
        Lazy codes (n_cells,), the largest value of the type for missing.
    """

    labels: tuple[str, ...]
    codes: da.Array


def category(context: Context, key: str) -> Category:
    """Labels and codes of a category column; what only reading tells is read once.

    Raises
    ------
    FieldError
        When the field has too many categories, or its values cannot be categories.
    """
    found: Category = context.once(("category", key), partial(_category, context, key))
    return found


def _category(context: Context, key: str) -> Category:
    column = context.column(key)
    where = f"{context.source.name}: obs column {key!r}"
    if column.labels is None:
        categories, encode = _told_by_values(context, column, where)
    elif column.only_used:
        categories, encode = _told_by_codes(context, column, column.labels, where)
    else:
        categories, encode = _told_by_labels(column, column.labels, where)
    labels = merge_labels(categories)
    _check_count(len(labels.names), where)
    try:
        dtype = code_dtype(len(labels.names), requested=context.options.obs_categorical_dtype)
    except ValueError as problem:
        raise FieldError(
            f"{where}: {problem}; use obs_categorical_dtype='auto' or 'uint16'"
        ) from problem
    return Category(labels.names, encode(dtype=dtype, code_of=labels.code_of))


def _told_by_labels(
    column: Column, read: Callable[[], Sequence[object]], where: str
) -> tuple[Sequence[object], Encode]:
    """Categories that are stored, and what encodes the column."""
    categories = _stored(read, where)
    return categories, partial(
        encode_codes, column.values(), n_categories=len(categories), field=where
    )


def _stored(read: Callable[[], Sequence[object]], where: str) -> Sequence[object]:
    try:
        return read()
    except FieldError as problem:
        raise FieldError(f"{where}: {problem}") from problem


def _told_by_codes(
    context: Context, column: Column, read: Callable[[], Sequence[object]], where: str
) -> tuple[Sequence[object], Encode]:
    """Those of the stored categories that a cell has, and what encodes the column.

    A call that has to find them keeps the codes as stored, where it has room.
    """
    stored = _stored(read, where)
    codes = column.values()
    fact = ("used", column.name)
    n_bytes = context.source.n_cells * codes.dtype.itemsize
    if fact not in context.facts and context.room.take(n_bytes):
        (codes,) = dask.persist(codes, **dask_options())

    def find() -> NDArray[np.integer[Any]]:
        found: NDArray[np.integer[Any]] = dask.compute(used_codes(codes), **dask_options())[0]
        return found

    used: NDArray[np.integer[Any]] = context.learn(fact, find)
    # A code that has no category is left to the encoding, which refuses it.
    used = used[used < len(stored)]

    def encode(*, dtype: np.dtype[Any], code_of: NDArray[np.int32] | None) -> da.Array:
        if len(used) < len(stored):
            # What is not used stays 0: no cell asks for it.
            table = np.zeros(used.max(initial=0) + 1, dtype=np.int32)
            table[used] = np.arange(len(used)) if code_of is None else code_of
            code_of = table
        return encode_codes(
            codes, n_categories=len(stored), dtype=dtype, code_of=code_of, field=where
        )

    return [stored[code] for code in used.tolist()], encode


def _told_by_values(
    context: Context, column: Column, where: str
) -> tuple[Sequence[object], Encode]:
    """Categories that only the values tell, and what encodes the column.

    A call that has to find them keeps provisional codes of the same read, where it has room.
    """
    values = column.values()
    fact = ("distinct", column.name)
    most = numbered_bytes(context.source.n_cells, column.at_most or MOST_CATEGORIES)
    if fact in context.facts or not context.room.take(most):
        found: Distinct = context.learn(fact, lambda: _find(distinct(values)))
        encode = partial(encode_labels, values, categories=found.values)
    else:
        numbered = Numbered(*dask.persist(*number(values), **dask_options()))
        found = context.learn(fact, partial(_find, numbered.distinct))
        encode = partial(encode_numbered, numbered, chunks=values.chunks[0])
        context.room.give_back(most - numbered_bytes(context.source.n_cells, found.n_distinct))
    _check_count(found.n_distinct, where)
    return found.values, encode


def _find(lazy: da.Array) -> Distinct:
    (box,) = dask.compute(lazy, **dask_options())
    found: Distinct = box.item() if isinstance(box, np.ndarray) else box
    return found


def _check_count(count: int, where: str) -> None:
    if count > MOST_CATEGORIES:
        raise FieldError(
            f"{where}: {count:,} categories, but codes tell apart {MOST_CATEGORIES:,}; "
            "group them into fewer, or drop the column"
        )
