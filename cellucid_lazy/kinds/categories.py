"""Labels and codes of category columns.

Labels of text columns, and used codes of columns whose unused categories are dropped, are read on
first access and kept for the source. A call reads those of all its columns in one computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.engine.resources import scheduler_kwargs
from cellucid_lazy.errors import DataError, FieldError
from cellucid_lazy.kinds.dataset import Category, Dataset
from cellucid_lazy.kinds.embeddings import warn
from cellucid_lazy.source import ObsColumn
from cellucid_lazy.transforms.categories import (
    MAX_CATEGORIES,
    Labels,
    code_dtype,
    encode_codes,
    encode_labels,
    merge_labels,
    unique_values,
    used_codes,
)


def category(dataset: Dataset, key: str) -> Category:
    """Return the labels of a category column, its lazy codes, and its colours.

    Raises
    ------
    FieldError
        When it has too many categories, or its values cannot be categories.
    """
    known = dataset.shared.categories
    if key not in known:
        column = dataset.column(key)
        if _is_unread(dataset, column):
            others = [name.key for name in dataset.call or () if name.kind == "obs"]
            read_labels(dataset, dict.fromkeys([key, *others]))
        try:
            known[key] = _category(dataset, column)
        except FieldError as problem:
            known[key] = problem
    found = known[key]
    if isinstance(found, FieldError):
        raise found
    return found


def read_labels(dataset: Dataset, keys: Iterable[str]) -> None:
    """Read the values or used codes that the labels of obs columns need, in one computation."""
    unread: dict[str, da.Array] = {}
    for column in map(dataset.column, keys):
        if _is_unread(dataset, column):
            find = unique_values if column.read_labels is None else used_codes
            # It is raised again when the column is used.
            with suppress(FieldError):
                unread[column.name] = find(column.array(dataset.sizes))
    if not unread:
        return
    try:
        found = dask.compute(*unread.values(), **scheduler_kwargs())
        values = dict(zip(unread, found, strict=True))
    except DataError:
        values = _read_one_by_one(dataset, unread)
    for key, value in values.items():
        if dataset.column(key).read_labels is None:
            dataset.findings.uniques[key] = np.asarray(value).item()
        else:
            dataset.findings.used_codes[key] = value


def _read_one_by_one(dataset: Dataset, unread: Mapping[str, da.Array]) -> dict[str, Any]:
    """Compute each array by itself, and note why some cannot be read."""
    values: dict[str, Any] = {}
    for key, array in unread.items():
        try:
            (values[key],) = dask.compute(array, **scheduler_kwargs())
        except DataError as problem:
            dataset.findings.unreadable[key] = str(problem).removeprefix(f"{dataset.source.name}: ")
    return values


def _is_unread(dataset: Dataset, column: ObsColumn) -> bool:
    """Return whether labels, or used codes, must still be read."""
    if column.kind != "category" or column.name in dataset.findings.unreadable:
        return False
    if column.read_labels is None:
        return column.name not in dataset.findings.uniques
    return column.drop_unused and column.name not in dataset.findings.used_codes


def _category(dataset: Dataset, column: ObsColumn) -> Category:
    where = f"{dataset.source.name}: obs column {column.name!r}"
    try:
        if column.name in dataset.findings.unreadable:
            raise FieldError(dataset.findings.unreadable[column.name])
        if column.read_labels is None:
            return _from_values(dataset, column)
        if not column.drop_unused:
            # Before labels are read, since there may be very many.
            _check_n_categories(column.max_categories or 0)
        return _from_codes(dataset, column, column.read_labels(), where)
    except DataError as problem:
        reason = str(problem).removeprefix(f"{dataset.source.name}: ")
        raise FieldError(f"{where}: {reason}") from problem


def _from_values(dataset: Dataset, column: ObsColumn) -> Category:
    """Make the category of a column whose cells hold labels."""
    found = dataset.findings.uniques[column.name]
    labels = merge_labels(found.values)
    stored = np.arange(len(found.values))
    codes = encode_labels(
        column.array(dataset.sizes),
        categories=found.values,
        # Of too many values only the number is kept.
        dtype=_dtype(dataset, len(labels.names) or found.n_unique),
        code_of=labels.code_of,
    )
    return Category(labels.names, codes, _colors(dataset, column, stored, len(stored), labels))


def _from_codes(
    dataset: Dataset, column: ObsColumn, categories: Sequence[object], where: str
) -> Category:
    """Make the category of a column whose cells hold codes of stored categories."""
    n_stored = len(categories)
    used: NDArray[np.integer[Any]] = np.arange(n_stored)
    if column.drop_unused:
        used = dataset.findings.used_codes[column.name]
        # A code without a category is an error when codes are encoded.
        used = used[used < n_stored]
    labels = merge_labels([categories[code] for code in used.tolist()])
    code_of = labels.code_of
    if len(used) < n_stored:
        # No cell has the unused ones, which stay 0.
        code_of = np.zeros(n_stored, dtype=np.int32)
        code_of[used] = np.arange(len(used)) if labels.code_of is None else labels.code_of
    codes = encode_codes(
        column.array(dataset.sizes),
        n_categories=n_stored,
        dtype=_dtype(dataset, len(labels.names)),
        code_of=code_of,
        field=where,
        error=DataError,
    )
    return Category(labels.names, codes, _colors(dataset, column, used, n_stored, labels))


def _colors(
    dataset: Dataset,
    column: ObsColumn,
    used: NDArray[np.integer[Any]],
    n_stored: int,
    labels: Labels,
) -> tuple[str, ...] | None:
    """Read the colours of a column's labels; warns of those that cannot be used."""
    if column.read_colors is None:
        return None
    where = f"the colours of obs column {column.name!r} are left out"
    try:
        stored = column.read_colors()
    except DataError as problem:
        warn(dataset.source, f"{where}: {problem}")
        return None
    if len(stored) != n_stored:
        warn(dataset.source, f"{where}: there are {len(stored):,} for {n_stored:,} categories")
        return None
    colors = [stored[position] for position in used.tolist()]
    if labels.code_of is not None:
        # Categories that are equal as text have the colour of the first.
        _, first = np.unique(labels.code_of, return_index=True)
        colors = [colors[position] for position in first.tolist()]
    return tuple(colors)


def _check_n_categories(n_categories: int) -> None:
    if n_categories > MAX_CATEGORIES:
        raise FieldError(
            f"{n_categories:,} categories, but codes tell apart {MAX_CATEGORIES:,}; "
            "group them into fewer, or drop the column"
        )


def _dtype(dataset: Dataset, n_categories: int) -> np.dtype[Any]:
    _check_n_categories(n_categories)
    try:
        return code_dtype(n_categories, requested=dataset.options.obs_categorical_dtype)
    except ValueError as problem:
        raise FieldError(f"{problem}; use obs_categorical_dtype='auto' or 'uint16'") from None
