"""What of a dataset cannot be read: found by reading it, once an export has failed."""

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
        None when all of it can be read, or nothing: then the trouble is elsewhere.

    Raises
    ------
    DataError
        When the options ask for something that cannot be read.
    """
    shown = [embedding.key for embedding in dataset.shown.embeddings.values()]
    fields = [key for keys in dataset.shown.vector_fields.values() for key in keys.values()]
    latent = [] if dataset.latent_key is None else [dataset.latent_key]
    # Of the columns that cannot be shown a warning was given already.
    columns = [key for key in dataset.obs_keys if _can_be_shown(dataset, key)]
    arrays = {
        **{("obsm", key): _obsm for key in (*shown, *fields, *latent)},
        **{("obs column", key): _obs for key in columns},
        **{("obsp", key): _graph for key in connectivity.keys(dataset)[:1]},
    }
    problems = {
        (noun, key): problem
        for (noun, key), build in arrays.items()
        if (problem := _problem(dataset, partial(build, dataset, key)))
    }
    if not problems or len(problems) == len(arrays):
        return None
    reasons = [
        f"{'the neighbour graph' if noun == 'obsp' else f'{noun} {key!r}'} is left out: {problem}"
        for (noun, key), problem in problems.items()
    ]
    for sentence in reasons:
        warn(dataset.source, sentence)
    left = {noun: [key for one, key in problems if one == noun] for noun, _ in problems}
    obs = [key for key in dataset.obs_keys if key not in columns] + left.get("obs column", [])
    rest = dataset.without(obs, left.get("obsm", ()), graph="obsp" in left, reasons=reasons)
    whole = replace(rest, choice={})
    choice = {
        prefix: keys
        if prefix == "var"
        else tuple(key for key in KINDS[prefix].keys(whole) if key in keys)
        for prefix, keys in dataset.choice.items()
    }
    return replace(rest, choice=choice)


def _problem(dataset: Dataset, build: Callable[[], da.Array]) -> str:
    """Say why an array cannot be computed; "" when it can."""
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


def _obsm(dataset: Dataset, key: str) -> da.Array:
    return dataset.source.obsm[key].array(dataset.sizes)


def _obs(dataset: Dataset, key: str) -> da.Array:
    column = dataset.column(key)
    if column.kind == "category":
        return category(dataset, key).codes
    return column.array(dataset.sizes)


def _graph(dataset: Dataset, end: str) -> da.Array:
    del end
    return connectivity.counts(dataset)
