"""Adding what users computed to a dataset: columns, embeddings and vector fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cellucid_lazy.errors import OptionError
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.embeddings import DIMENSIONS, Embedding
from cellucid_lazy.source import ObsColumn, ObsmArray


def assign(
    dataset: Dataset,
    obs: Mapping[str, ObsColumn],
    embeddings: Mapping[int | str, ObsmArray],
    vectors: Mapping[str, ObsmArray],
) -> tuple[Dataset, set[tuple[str, str]]]:
    """Add columns, embeddings and vector fields to a dataset.

    Parameters
    ----------
    dataset
        The dataset.
    obs
        Columns by key.
    embeddings
        By dimension or by name; each replaces the one with as many columns.
    vectors
        By the name of the field.

    Returns
    -------
    tuple
        The new dataset, and the kind and key of each added output.

    Raises
    ------
    OptionError
        When an embedding does not have 1 to 3 columns, or not as many as its dimension, or when no
        embedding is shown that has as many columns as a vector field.
    """
    shown = dict(dataset.options.chosen_embeddings or dataset.shown.as_options())
    obsm = dict(dataset.source.obsm)
    keys = {("obs", key) for key in obs}
    for name, array in embeddings.items():
        dimension = _dimension(name, array)
        key = f"X_embedding_{dimension}" if _is_dimension(name) else str(name)
        obsm[key], shown[dimension] = array, key
        keys.add(("points", dimension))
    for name, array in vectors.items():
        dimension = f"{_width(array)}d"
        if dimension not in shown:
            raise OptionError(
                f"vectors: {name!r} has shape {array.shape}, but embeddings of "
                f"{', '.join(shown) or 'no dimension'} are shown"
            )
        basis = Embedding(shown[dimension].partition("[")[0]).basis
        field = name if name.endswith(f"_{basis}") else f"{name}_{basis}"
        obsm[f"{field}_{dimension}"] = array
        keys.add(("vectors", f"{field}/{dimension}"))
    options = dataset.options
    if embeddings:
        options = replace(options, embeddings=tuple(sorted(shown.items())))
    if options.obs_keys is not None:
        options = replace(options, obs_keys=tuple(dict.fromkeys((*options.obs_keys, *obs))))
    source = replace(dataset.source, obs={**dataset.source.obs, **obs}, obsm=obsm)
    return dataset.with_source(source, options), keys


def _is_dimension(name: int | str) -> bool:
    return f"{name}d" in DIMENSIONS or name in DIMENSIONS


def _width(array: ObsmArray) -> int:
    return array.shape[1] if len(array.shape) == 2 else 1


def _dimension(name: int | str, array: ObsmArray) -> str:
    found = f"{array.shape[1]}d" if len(array.shape) == 2 else ""
    given = f"{str(name).removesuffix('d')}d" if _is_dimension(name) else found
    if found not in DIMENSIONS or given != found:
        needed = f"{DIMENSIONS[given]}" if given in DIMENSIONS else "1 to 3"
        raise OptionError(
            f"embeddings: {name!r} has shape {array.shape}, but {needed} columns are needed"
        )
    return found
