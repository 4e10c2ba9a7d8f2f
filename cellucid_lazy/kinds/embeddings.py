"""Choice of the arrays of obsm that are used: embeddings, vector fields and the latent space.

Without a choice, the embeddings are X_umap and X_umap_1d, _2d and _3d, as the format says.
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

_LATENT_KEYS = ("scanvi", "scvi", "X_scvi", "X_pca", "harmony", "X_harmony")


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
    """The embeddings and vector fields that are shown.

    Attributes
    ----------
    embeddings
        By dimension, such as ``"2d"``.
    umap_resolution
        How ``X_umap`` is used, as the live identity reports it; None when embeddings are chosen, or
        obsm has none.
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
        Dimensions and obsm keys, with the columns to take, if not all; None for UMAP.

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


def find_latent_key(source: Source, chosen: str | None) -> str | None:
    """Return the obsm key of the latent space; None if there is none.

    Raises
    ------
    MissingKeyError
        When the chosen one is not there.
    """
    if chosen is not None:
        if chosen not in source.obsm:
            raise source.missing("obsm", chosen, source.obsm)
        return chosen
    usable = [
        key
        for key, obsm in source.obsm.items()
        if len(obsm.shape) == 2 and obsm.shape[1] and not obsm.is_normalized
    ]
    known = [key for key in _LATENT_KEYS if key in usable]
    others = [
        key
        for key in usable
        if not key.startswith("X_umap") and _field_of(key, ["umap"])[1] != "umap"
    ]
    return next(iter(known + others), None)


def way_to_choose(source: Source) -> str:
    """Describe in a sentence which arrays could be shown, and how to choose them."""
    usable = {
        key: obsm.shape[1]
        for key, obsm in source.obsm.items()
        if len(obsm.shape) == 2 and obsm.shape[1] >= 2 and not _field_of(key, ["umap"])[0]
    }
    if not usable:
        return "obsm has no array that could be one; store it there, such as X_umap"
    listed = ", ".join(f"{key} ({format_count(n, 'column')})" for key, n in usable.items())
    # An array of two columns is most likely meant to be drawn; wider ones may be latent spaces.
    key = next((key for key, n in usable.items() if n == 2), f"{next(iter(usable))}[:2]")
    return (
        f"obsm has {listed}; choose with Options(embeddings={{2: {key!r}}}) (--embedding 2={key})"
    )


def warn(source: Source, problem: str) -> None:
    """Warn of something that is left out."""
    warnings.warn(f"{source.name}: {problem}", LeftOutWarning, stacklevel=6)


def _chosen(source: Source, dimension: str, text: str) -> Embedding:
    # A key may itself end with brackets.
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


def _umap(source: Source) -> tuple[dict[str, Embedding], dict[str, Any] | None]:
    """Find the UMAP of each dimension, and how ``X_umap`` is used."""
    found: dict[str, Embedding] = {}
    for dimension, width in DIMENSIONS.items():
        key = f"X_umap_{dimension}"
        if key not in source.obsm:
            continue
        shape = source.obsm[key].shape
        if shape[1:] == (width,):
            found[dimension] = Embedding(key)
        else:
            columns = format_count(width, "column")
            warn(source, f"obsm {key!r} has shape {shape}, not {columns}: left out")
    spelled = next((key for key in ("X_umap", *_SPELLINGS) if key in source.obsm), None)
    resolution = None
    if spelled is not None:
        resolution, problem = _resolve_umap(source.obsm[spelled].shape, found)
        if problem:
            warn(source, f"obsm {spelled!r} is left out: it has {problem}")
        elif resolution["action"] == "used_as":
            found[f"{resolution['dim']}d"] = Embedding(spelled)
            if spelled != "X_umap":
                warn(source, f"obsm {spelled!r} is taken for X_umap")
    if not found:
        way = way_to_choose(source)
        warn(source, f"there is no UMAP, so no embedding is offered: {way}")
    return dict(sorted(found.items())), resolution


def _resolve_umap(
    shape: tuple[int, ...], found: Mapping[str, Embedding]
) -> tuple[dict[str, Any], str]:
    """Decide how ``X_umap`` is used, in the format's own words, and what is wrong with it."""
    ignored = {"source_key": "X_umap", "action": "ignored"}
    if len(shape) != 2:
        problem = f"shape {list(shape)}; cells by columns are needed"
        return {**ignored, "reason": "invalid_shape", "shape": list(shape)}, problem
    width = shape[1]
    if width not in DIMENSIONS.values():
        problem = f"{width} columns; 1, 2 or 3 are supported"
        return {**ignored, "reason": "unsupported_dim", "n_dims": width}, problem
    alias = {"dim": width, "alias_key": f"X_umap_{width}d"}
    if f"{width}d" in found:
        return {**ignored, "reason": "explicit_key_present", **alias}, ""
    return {"source_key": "X_umap", "action": "used_as", **alias}, ""


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

    The key ends with one of the bases, or starts with ``velocity_``, which any basis may follow.
    """
    stem, _, end = key.rpartition("_")
    name, dimension = (stem, end) if end in DIMENSIONS else (key, None)
    basis = next((one for one in bases if name.endswith(f"_{one}")), "")
    if not basis and name.startswith("velocity_"):
        basis = name.removeprefix("velocity_")
    is_field = bool(basis) and not name.startswith("X_")
    return (name, basis, dimension) if is_field else ("", "", dimension)
