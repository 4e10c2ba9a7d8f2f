"""JSON: ``manifest/identity`` describes the dataset, and ``manifest/obs`` and the like one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from numpy.typing import NDArray

# As a module: its table of kinds, which includes this one, is complete when it is used.
from cellucid_lazy import kinds
from cellucid_lazy.engine.output import Manifest, Output, manifest_output
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.kind import Row, array_producer, constant_manifest
from cellucid_lazy.names import Name, safe_name

prefix = "manifest"
producer = array_producer

# Version of the format that is written.
FORMAT_VERSION = "0.0.9"

_IDENTITY = "identity"

Render = Callable[[Mapping[str, NDArray[Any]]], dict[str, Any]]


def keys(dataset: Dataset) -> Sequence[str]:
    """List the chosen manifests, of those that the chosen outputs have."""
    offered = required(dataset)
    chosen = dataset.chosen(prefix, offered)
    return [key for key in offered if key in chosen]


def required(dataset: Dataset) -> Sequence[str]:
    """List all manifests."""
    return list(_parts(dataset))


def names(dataset: Dataset, keys: Sequence[str]) -> Iterable[Name]:
    """Name manifests."""
    del dataset
    return (Name(prefix, key) for key in keys)


def build(dataset: Dataset, name: Name) -> Output:
    """Merge the parts that the kinds give; labels are read where metadata has none."""
    parts = [part() for part in _parts(dataset)[name.key]]
    needs = {need: array for part in parts for need, array in part.needs.items()}
    render = partial(_render, tuple(part.render for part in parts))
    indent = 2 if name.key == _IDENTITY else None
    return manifest_output(str(name), _path(name.key), Manifest(needs, render, indent))


def rows(dataset: Dataset, names: Sequence[Name]) -> Iterable[Row]:
    """Describe manifests."""
    del dataset
    return (Row(str(name), "json", file=_path(name.key)) for name in names)


def manifests(dataset: Dataset) -> Mapping[str, Callable[[], Manifest]]:
    """Add nothing to other manifests."""
    del dataset
    return {}


def _path(key: str) -> str:
    return "dataset_identity.json" if key == _IDENTITY else f"{key}_manifest.json"


def _parts(dataset: Dataset) -> dict[str, list[Callable[[], Manifest]]]:
    """List the parts of each manifest; that of the dataset as a whole comes first."""
    found: dict[str, list[Callable[[], Manifest]]] = {_IDENTITY: [partial(_identity, dataset)]}
    for kind in kinds.KINDS.values():
        for key, part in kind.manifests(dataset).items():
            found.setdefault(key, []).append(part)
    return found


def _render(renders: Sequence[Render], values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for render in renders:
        for key, entry in render(values).items():
            both = isinstance(entry, dict) and isinstance(document.get(key), dict)
            document[key] = {**document[key], **entry} if both else entry
    return document


def _identity(dataset: Dataset) -> Manifest:
    """Make the identity, without what kinds add; its entries are in the format's order."""
    options, source = dataset.options, dataset.source
    live = options.manifest_shape == "live"
    document: dict[str, Any] = {
        "version": 2,
        "id": options.dataset_id or safe_name(dataset.name),
        "name": dataset.name,
        "description": options.description or ("Loaded directly from AnnData" if live else ""),
        "created_at": options.created_at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cellucid_data_version": "anndata_adapter" if live else FORMAT_VERSION,
        "stats": {"n_cells": source.n_cells, "n_genes": source.n_genes},
        "embeddings": {},
        "obs_fields": [],
        "export_settings": {
            "compression": None if live else options.compression,
            "var_quantization": options.var_quantization,
            "obs_continuous_quantization": options.obs_continuous_quantization,
            "obs_categorical_dtype": options.obs_categorical_dtype,
        },
    }
    given = {
        "name": options.source_name,
        "url": options.source_url,
        "citation": options.source_citation,
    }
    if live:
        document["source"] = {
            "type": "anndata_adapter",
            "format": source.storage,
            "path": source.path,
            "is_backed": source.is_backed,
        }
        document["_anndata_adapter"] = True
    elif any(given.values()):
        document["source"] = {key: text for key, text in given.items() if text}
    return constant_manifest(document)
