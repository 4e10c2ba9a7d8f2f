"""Finding embeddings, vector fields and the latent space by their names and shapes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from cellucid_lazy.errors import DataError, LeftOutWarning, missing_key
from cellucid_lazy.options import Options
from cellucid_lazy.outputs.context import DIMENSIONS, Context
from cellucid_lazy.source import Source

_LATENT_KEYS = ("scanvi", "scvi", "X_scvi", "X_pca", "harmony", "X_harmony")
_WITH_DIMENSION = re.compile(r"^(.*)_([123])d$")


def resolve(source: Source, options: Options) -> Context:
    """Find embeddings, vector fields and the latent space by their names and shapes.

    Parameters
    ----------
    source
        The dataset.
    options
        The settings.

    Returns
    -------
    Context
        Nothing is read but metadata.

    Raises
    ------
    DataError
        When there is no valid embedding.
    MissingKeyError
        When an obs key, the latent key or the column of gene identifiers is not there.
    """
    embeddings, umap_resolution, problems = _embeddings(source)
    if not embeddings:
        told = "; ".join(problems) if problems else "none is named X_umap, X_umap_1d, _2d or _3d"
        raise DataError(
            f"{source.name}: no valid UMAP embedding in obsm ({told}). obsm keys: "
            f"{list(source.obsm)}. Store one as X_umap_2d or X_umap_3d"
        )
    for problem in problems:
        warnings.warn(f"{source.name}: {problem}", LeftOutWarning, stacklevel=3)
    fields = _vector_fields(source, embeddings)
    context = Context(
        source, options, embeddings, umap_resolution, fields, _latent(source, options, fields)
    )
    for key in options.obs_keys or ():
        context.column(key)
    if options.gene_id_column not in ("index", *source.var_keys):
        raise missing_key("var column", options.gene_id_column, source.var_keys, where=source.name)
    if source.expression is None and source.n_genes:
        warnings.warn(
            f"{source.name}: there is no expression matrix; genes are zeros everywhere",
            LeftOutWarning,
            stacklevel=3,
        )
    return context


def _check_rows(source: Source, key: str) -> None:
    shape = source.obsm[key].shape
    if shape[0] != source.n_cells:
        raise DataError(
            f"{source.name}: obsm {key!r} has {shape[0]:,} rows for {source.n_cells:,} cells"
        )


def _embeddings(source: Source) -> tuple[dict[int, str], dict[str, Any] | None, list[str]]:
    found: dict[int, str] = {}
    problems = []
    for dimension in DIMENSIONS:
        key = f"X_umap_{dimension}d"
        if key not in source.obsm:
            continue
        _check_rows(source, key)
        shape = source.obsm[key].shape
        if shape[1:] == (dimension,):
            found[dimension] = key
        else:
            problems.append(f"obsm {key!r} has shape {shape}, not {dimension} columns: left out")
    if "X_umap" not in source.obsm:
        return found, None, problems
    resolution = _resolve_umap(source.obsm["X_umap"].shape, source.n_cells, found)
    if resolution["action"] == "used_as":
        found[resolution["dim"]] = "X_umap"
    elif resolution["reason"] != "explicit_key_present":
        problems.append(
            f"obsm 'X_umap' of shape {source.obsm['X_umap'].shape} is left out: "
            f"{resolution['reason'].replace('_', ' ')}"
        )
    return found, resolution, problems


def _resolve_umap(shape: tuple[int, ...], n_cells: int, found: Mapping[int, str]) -> dict[str, Any]:
    ignored = {"source_key": "X_umap", "action": "ignored"}
    if len(shape) != 2:
        return {**ignored, "reason": "invalid_shape", "shape": list(shape)}
    if shape[0] != n_cells:
        told = {"shape": list(shape), "expected_rows": n_cells}
        return {**ignored, "reason": "row_count_mismatch", **told}
    width = shape[1]
    if width not in DIMENSIONS:
        return {**ignored, "reason": "unsupported_dim", "n_dims": width}
    place = {"dim": width, "alias_key": f"X_umap_{width}d"}
    if width in found:
        return {**ignored, "reason": "explicit_key_present", **place}
    return {"source_key": "X_umap", "action": "used_as", **place}


def _vector_fields(source: Source, embeddings: Mapping[int, str]) -> dict[str, dict[int, str]]:
    """Group vector fields by name; a key that tells its dimension wins over one that does not."""
    fields: dict[str, dict[int, str]] = {}
    for explicit in (True, False):
        for key, element in source.obsm.items():
            match = _WITH_DIMENSION.match(key)
            name = match[1] if match else key
            if not name.endswith("_umap") or name.startswith("X_") or bool(match) != explicit:
                continue
            _check_rows(source, key)
            width = element.shape[1] if len(element.shape) == 2 else 1
            dimension = int(match[2]) if match else width
            if width != dimension or (explicit and len(element.shape) != 2):
                _left_out(source, key, f"shape {element.shape} does not fit {dimension} dimensions")
            elif dimension in embeddings:
                fields.setdefault(name, {}).setdefault(dimension, key)
    return fields


def _left_out(source: Source, key: str, reason: str) -> None:
    warnings.warn(
        f"{source.name}: vector field {key!r} is left out: {reason}", LeftOutWarning, stacklevel=5
    )


def _latent(
    source: Source, options: Options, fields: Mapping[str, Mapping[int, str]]
) -> str | None:
    taken = {key for keys in fields.values() for key in keys.values()}
    if options.latent_key is not None:
        if options.latent_key not in source.obsm:
            raise missing_key("obsm key", options.latent_key, source.obsm, where=source.name)
        _check_rows(source, options.latent_key)
        return options.latent_key
    usable = [
        key
        for key, element in source.obsm.items()
        if element.shape[0] == source.n_cells and len(element.shape) == 2 and element.shape[1]
    ]
    for key in _LATENT_KEYS:
        if key in usable:
            return key
    return next(
        (
            key
            for key in usable
            if not key.startswith("X_umap") and key not in taken and not _is_field(key)
        ),
        None,
    )


def _is_field(key: str) -> bool:
    match = _WITH_DIMENSION.match(key)
    name = match[1] if match else key
    return name.endswith("_umap") and not name.startswith("X_")
