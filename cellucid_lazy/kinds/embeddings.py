"""Which arrays of obsm are shown: an embedding for each dimension, and the vector fields on it.

Without a choice, X_umap and X_umap_1d, _2d and _3d are taken, as the format says.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from cellucid_lazy.errors import DataError, LeftOutWarning, format_count
from cellucid_lazy.options import parse_embedding
from cellucid_lazy.source import Source

# Columns of an embedding, by its dimension.
DIMENSIONS = {"1d": 1, "2d": 2, "3d": 3}

# Other spellings of X_umap.
_SPELLINGS = ("X_UMAP", "UMAP", "umap")


class Embedding(NamedTuple):
    """An array of obsm, or some of its columns, that is shown.

    Attributes
    ----------
    key
        obsm key.
    columns
        The columns that are taken; None for all.
    """

    key: str
    columns: slice | None = None

    def as_option(self) -> str:
        """Return the embedding as options choose it, such as ``"X_pca[:3]"``."""
        if self.columns is None:
            return self.key
        start, stop = (
            "" if one is None else str(one) for one in (self.columns.start, self.columns.stop)
        )
        return f"{self.key}[{start}:{stop}]"

    @property
    def basis(self) -> str:
        """Name of the embedding as keys of its vector fields end: ``"umap"`` of ``"X_umap_2d"``."""
        stem, _, end = self.key.rpartition("_")
        basis = (stem if end in DIMENSIONS else self.key).removeprefix("X_")
        return "umap" if self.key in _SPELLINGS else basis


class Shown(NamedTuple):
    """What of obsm is shown.

    Attributes
    ----------
    embeddings
        By dimension, such as ``"2d"``.
    umap_resolution
        How ``X_umap`` was used, as the live identity reports it; None when it was not looked for.
    vector_fields
        For each field, the obsm key of each dimension.
    """

    embeddings: Mapping[str, Embedding]
    umap_resolution: Mapping[str, Any] | None
    vector_fields: Mapping[str, Mapping[str, str]]

    def as_options(self) -> dict[str, str]:
        """Return the embeddings as options choose them."""
        return {dimension: one.as_option() for dimension, one in self.embeddings.items()}


def choose_shown(source: Source, chosen: tuple[tuple[str, str], ...] | None) -> Shown:
    """Find embeddings and vector fields by names and shapes; warn of what cannot be used.

    Parameters
    ----------
    source
        The dataset.
    chosen
        Dimensions and obsm keys, with columns where there are others; None for UMAP.

    Raises
    ------
    DataError
        When a chosen embedding has another number of columns.
    MissingKeyError
        When it is not there.
    """
    resolution = None
    if chosen is None:
        embeddings, resolution = _umap(source)
    else:
        embeddings = {one: _chosen(source, one, text) for one, text in chosen}
    return Shown(embeddings, resolution, _vector_fields(source, embeddings))


def way_to_choose(source: Source) -> str:
    """Say in a sentence which arrays could be shown, and what to type."""
    usable = {
        key: obsm.shape[1]
        for key, obsm in source.obsm.items()
        if len(obsm.shape) == 2 and obsm.shape[1] >= 2 and not _field_of(key, ["umap"])[0]
    }
    if not usable:
        return "obsm has no array that could be one; store it there, such as X_umap"
    listed = ", ".join(f"{key} ({format_count(n, 'column')})" for key, n in usable.items())
    # What is drawn in two or three dimensions has as many columns; others are spaces.
    key = next((key for key, n in usable.items() if n == 2), None)
    key = key or next((f"{key}[:2]" for key in usable), "")
    return (
        f"obsm has {listed}; choose with Options(embeddings={{2: {key!r}}}) (--embedding 2={key})"
    )


def warn(source: Source, problem: str) -> None:
    """Warn of something that is left out."""
    warnings.warn(f"{source.name}: {problem}", LeftOutWarning, stacklevel=6)


def _chosen(source: Source, dimension: str, text: str) -> Embedding:
    """Look up a chosen embedding."""
    # A key may look like one with columns.
    key, columns = (text, None) if text in source.obsm else parse_embedding(text)
    if key not in source.obsm:
        raise source.missing("obsm", key, source.obsm)
    shape, width = source.obsm[key].shape, DIMENSIONS[dimension]
    found = shape[1] if len(shape) == 2 else 0
    taken = found if columns is None else len(range(found)[columns])
    if len(shape) != 2 or taken != width:
        raise DataError(
            f"{source.name}: embedding {dimension[0]}={text} takes {format_count(taken, 'column')} "
            f"of obsm {key!r} with shape {shape}, but needs {width}; take some of them, such as "
            f"{dimension[0]}={key}[:{width}]"
        )
    return Embedding(key, columns)


def is_umap_field(key: str) -> bool:
    """Tell whether an obsm key names a vector field on UMAP."""
    return _field_of(key, ["umap"])[1] == "umap"


def _umap(source: Source) -> tuple[dict[str, Embedding], dict[str, Any] | None]:
    """Find the UMAP of each dimension, and how ``X_umap`` is used."""
    found: dict[str, Embedding] = {}
    problems = []
    for dimension, width in DIMENSIONS.items():
        key = f"X_umap_{dimension}"
        if key not in source.obsm:
            continue
        shape = source.obsm[key].shape
        if shape[1:] == (width,):
            found[dimension] = Embedding(key)
        else:
            problems.append(
                f"obsm {key!r} has shape {shape}, not {format_count(width, 'column')}: left out"
            )
    spelled = next((key for key in ("X_umap", *_SPELLINGS) if key in source.obsm), None)
    resolution = None
    if spelled is not None:
        resolution = _resolve_umap(source.obsm[spelled].shape, found)
        if resolution["action"] == "used_as":
            found[f"{resolution['dim']}d"] = Embedding(spelled)
            if spelled != "X_umap":
                problems.append(f"obsm {spelled!r} is taken for X_umap")
        elif resolution["reason"] in _UMAP_PROBLEMS:
            problem = _UMAP_PROBLEMS[resolution["reason"]].format(**resolution)
            problems.append(f"obsm {spelled!r} is left out: it has {problem}")
    if not found:
        problems.append(f"there is no UMAP, so no embedding is offered: {way_to_choose(source)}")
    for problem in problems:
        warn(source, problem)
    return dict(sorted(found.items())), resolution


# By the reason that the format reports; an embedding that is stored twice is no problem.
_UMAP_PROBLEMS = {
    "invalid_shape": "shape {shape}; cells by columns are needed",
    "unsupported_dim": "{n_dims} columns; 1, 2 or 3 are supported",
}


def _resolve_umap(shape: tuple[int, ...], found: Mapping[str, Embedding]) -> dict[str, Any]:
    """Decide how ``X_umap`` is used, in the format's own words."""
    ignored = {"source_key": "X_umap", "action": "ignored"}
    if len(shape) != 2:
        return {**ignored, "reason": "invalid_shape", "shape": list(shape)}
    width = shape[1]
    if width not in DIMENSIONS.values():
        return {**ignored, "reason": "unsupported_dim", "n_dims": width}
    alias = {"dim": width, "alias_key": f"X_umap_{width}d"}
    if f"{width}d" in found:
        return {**ignored, "reason": "explicit_key_present", **alias}
    return {"source_key": "X_umap", "action": "used_as", **alias}


def _vector_fields(
    source: Source, embeddings: Mapping[str, Embedding]
) -> dict[str, dict[str, str]]:
    """Group vector fields by name; warn of those that cannot be used."""
    shown = {one.basis for one in embeddings.values()}
    found = {key: _field_of(key, {"umap", *shown}) for key in source.obsm}
    fields: dict[str, dict[str, str]] = {}
    # A key that names its dimension comes before one that does not.
    for key in sorted(found, key=lambda key: found[key][2] is None):
        name, basis, named = found[key]
        if not name:
            continue
        shape = source.obsm[key].shape
        width = shape[1] if len(shape) == 2 else 1
        dimension = named or f"{width}d"
        if DIMENSIONS.get(dimension, width) != width or (named and len(shape) != 2):
            reason = f"shape {shape} does not fit {DIMENSIONS[dimension]} dimensions"
        elif dimension not in embeddings:
            reason = f"no embedding of {format_count(width, 'dimension')} is shown"
        elif embeddings[dimension].basis != basis:
            reason = f"it is of {basis}, but {embeddings[dimension].key} is shown"
        else:
            fields.setdefault(name, {}).setdefault(dimension, key)
            continue
        warn(source, f"vector field {key!r} is left out: {reason}")
    return {name: dict(sorted(keys.items())) for name, keys in fields.items()}


def _field_of(key: str, bases: Collection[str]) -> tuple[str, str, str | None]:
    """Return the vector field, the basis and the dimension that a key names; "" for no field.

    A key ends with a basis; with another one than those given it has to be a velocity.
    """
    stem, _, end = key.rpartition("_")
    name, dimension = (stem, end) if end in DIMENSIONS else (key, None)
    basis = next((one for one in bases if name.endswith(f"_{one}")), "")
    if not basis and name.startswith("velocity_"):
        basis = name.removeprefix("velocity_")
    is_field = bool(basis) and not name.startswith("X_")
    return (name, basis, dimension) if is_field else ("", "", dimension)
