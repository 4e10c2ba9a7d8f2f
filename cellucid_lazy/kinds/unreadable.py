"""Leaving out what of a dataset cannot be read; used once an export has failed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import dask
import dask.array as da

from cellucid_lazy.engine.resources import scheduler_kwargs
from cellucid_lazy.errors import DataError, FieldError
from cellucid_lazy.kinds import KINDS, connectivity
from cellucid_lazy.kinds.categories import category
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.embeddings import warn

_GRAPH = "the neighbour graph"


def without_unreadable(dataset: Dataset) -> Dataset | None:
    """Leave out what cannot be read of obs, obsm and the neighbour graph, with a warning each.

    Everything chosen of these is read for it. They are small beside the expression matrix.

    Parameters
    ----------
    dataset
        One whose export failed.

    Returns
    -------
    Dataset or None
        None when all of it can be read, or nothing: then the error has another cause.

    Raises
    ------
    DataError
        When the options ask for something that cannot be read.
    """
    source = dataset.source
    shown = [embedding.key for embedding in dataset.shown.embeddings.values()]
    fields = [key for keys in dataset.shown.vector_fields.values() for key in keys.values()]
    latent = [] if dataset.latent_key is None else [dataset.latent_key]
    # Columns that cannot be shown have been warned of already.
    columns = [key for key in dataset.obs_keys if _can_be_shown(dataset, key)]
    # By the words that name each in a warning.
    builds: dict[str, Callable[[], da.Array]] = {
        **{
            f"obsm {key!r}": partial(source.obsm[key].array, dataset.sizes)
            for key in (*shown, *fields, *latent)
        },
        **{f"obs column {key!r}": partial(_column, dataset, key) for key in columns},
    }
    if KINDS["connectivity"].keys(dataset):
        builds[_GRAPH] = partial(connectivity.counts, dataset)
    problems = {name: _problem(dataset, build) for name, build in builds.items()}
    reasons = [f"{name} is left out: {why}" for name, why in problems.items() if why]
    if not reasons or len(reasons) == len(builds):
        return None
    for sentence in reasons:
        warn(source, sentence)
    left = {
        key for key in dataset.obs_keys if key not in columns or problems[f"obs column {key!r}"]
    }
    readable = replace(
        source,
        obs={key: column for key, column in source.obs.items() if key not in left},
        obsm={key: one for key, one in source.obsm.items() if not problems.get(f"obsm {key!r}")},
        connectivities=None if problems.get(_GRAPH) else source.connectivities,
        left_out=(*source.left_out, *reasons),
    )
    rest = dataset.with_source(readable, dataset.options)
    whole = replace(rest, choice={})
    choice = {
        prefix: keys
        if prefix == "var"
        else tuple(key for key in KINDS[prefix].keys(whole) if key in keys)
        for prefix, keys in dataset.choice.items()
    }
    return replace(rest, choice=choice)


def _problem(dataset: Dataset, build: Callable[[], da.Array]) -> str:
    """Return why an array cannot be computed; "" when it can."""
    try:
        blocks = build().to_delayed().ravel()
        dask.compute([dask.delayed(len)(block) for block in blocks], **scheduler_kwargs())
    except DataError as problem:
        reason = str(problem).removeprefix(f"{dataset.source.name}: ")
        return re.sub(r"^obs column '.*?': ", "", reason)
    return ""


def _can_be_shown(dataset: Dataset, key: str) -> bool:
    try:
        return dataset.column(key).kind == "continuous" or bool(category(dataset, key))
    except FieldError:
        return False


def _column(dataset: Dataset, key: str) -> da.Array:
    column = dataset.column(key)
    if column.kind == "category":
        return category(dataset, key).codes
    return column.array(dataset.sizes)
