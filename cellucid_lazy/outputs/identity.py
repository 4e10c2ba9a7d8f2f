"""``dataset_identity.json``: what the dataset is called and what it offers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cellucid_lazy.manifest import Fact
from cellucid_lazy.outputs import points, vectors
from cellucid_lazy.outputs.category import category
from cellucid_lazy.outputs.connectivity import counts, n_edges
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.outputs.obs import usable

# The generation of the format that is written.
FORMAT_VERSION = "0.0.9"


def draft(context: Context, selection: Selection) -> dict[str, Any]:
    """Draft the identity, in the shape that the options ask for."""
    options = context.options
    live = options.manifest_shape == "live"
    fields = [_obs_field(context, key) for key in usable(context, selection)]
    identity: dict[str, Any] = {
        "version": 2,
        "id": context.dataset_id,
        "name": context.dataset_name,
        "description": options.description or ("Loaded directly from AnnData" if live else ""),
        "created_at": options.created_at or _now(),
        "cellucid_data_version": "anndata_adapter" if live else FORMAT_VERSION,
        "stats": _stats(context, selection, fields),
        "embeddings": _embeddings(context, selection),
        "obs_fields": fields,
        "export_settings": _settings(context),
    }
    source = _live_source(context) if live else _given_source(context)
    if source:
        identity["source"] = source
    if live:
        identity["_anndata_adapter"] = True
    if selection.fields:
        identity["vector_fields"] = _vector_fields(context, selection)
    return identity


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def suffix(context: Context) -> str:
    """``.gz`` where the manifests name compressed files."""
    exported = context.options.manifest_shape == "export"
    return ".gz" if exported and context.options.compression else ""


def _obs_field(context: Context, key: str) -> dict[str, Any]:
    kind = context.column(key).kind
    field: dict[str, Any] = {"key": key, "kind": kind}
    if kind == "category":
        field["n_categories"] = len(category(context, key).labels)
    return field


def _stats(context: Context, selection: Selection, fields: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = [field["kind"] for field in fields]
    edges = Fact(counts(context), n_edges) if selection.connectivity else None
    return {
        "n_cells": context.source.n_cells,
        "n_genes": context.source.n_genes,
        "n_obs_fields": len(fields),
        "n_categorical_fields": kinds.count("category"),
        "n_continuous_fields": kinds.count("continuous"),
        "has_connectivity": selection.connectivity,
        "n_edges": edges,
    }


def _embeddings(context: Context, selection: Selection) -> dict[str, Any]:
    dimensions = list(selection.dimensions)
    embeddings: dict[str, Any] = {
        "available_dimensions": dimensions,
        "default_dimension": max(dimensions),
        "files": {f"{d}d": points.path(d) + suffix(context) for d in dimensions},
    }
    if context.options.manifest_shape == "live" and context.umap_resolution is not None:
        embeddings["umap_resolution"] = dict(context.umap_resolution)
    return embeddings


def _settings(context: Context) -> dict[str, Any]:
    options = context.options
    live = options.manifest_shape == "live"
    return {
        "compression": None if live else options.compression,
        "var_quantization": options.var_quantization,
        "obs_continuous_quantization": options.obs_continuous_quantization,
        "obs_categorical_dtype": options.obs_categorical_dtype,
    }


def _live_source(context: Context) -> dict[str, Any]:
    source = context.source
    return {
        "type": "anndata_adapter",
        "format": source.storage,
        "path": source.path,
        "is_backed": source.is_backed,
    }


def _given_source(context: Context) -> dict[str, Any]:
    options = context.options
    given = {
        "name": options.source_name,
        "url": options.source_url,
        "citation": options.source_citation,
    }
    return {key: value for key, value in given.items() if value}


def _vector_fields(context: Context, selection: Selection) -> dict[str, Any]:
    offered: dict[str, list[int]] = {}
    for field, dimension in selection.fields:
        offered.setdefault(field, []).append(dimension)
    fields = {}
    for field, dimensions in offered.items():
        entry: dict[str, Any] = {
            "label": vectors.label(field),
            "basis": "umap",
            "available_dimensions": dimensions,
            "default_dimension": max(dimensions),
            "files": {f"{d}d": vectors.path(field, d) + suffix(context) for d in dimensions},
        }
        if context.options.manifest_shape == "live":
            keys = context.vector_fields[field]
            entry["obsm_keys"] = {f"{d}d": keys[d] for d in dimensions}
        fields[field] = entry
    return {"default_field": vectors.default_field(fields), "fields": fields}
