"""Vector fields: ``vectors/<field>/2d``, displacements of cells, scaled as the points are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from cellucid_lazy.engine.output import Manifest, Output
from cellucid_lazy.kinds import points
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.embeddings import DIMENSIONS
from cellucid_lazy.kinds.kind import Row, array_producer, constant_manifest, output_row
from cellucid_lazy.names import Name, safe_name, split_last
from cellucid_lazy.transforms.embeddings import scale_vectors

prefix = "vectors"
producer = array_producer


def keys(dataset: Dataset) -> Sequence[str]:
    """List the chosen fields, each with a dimension."""
    fields = dataset.shown.vector_fields.items()
    offered = (f"{field}/{dimension}" for field, found in fields for dimension in found)
    return dataset.chosen(prefix, offered)


def required(dataset: Dataset) -> Sequence[str]:
    """List the chosen fields of dimensions that have points."""
    dimensions = points.dimensions(dataset)
    return [key for key in keys(dataset) if split_last(key)[1] in dimensions]


def names(dataset: Dataset, keys: Sequence[str]) -> Iterable[Name]:
    """Name vector fields."""
    del dataset
    return (Name(prefix, key) for key in keys)


def build(dataset: Dataset, name: Name) -> Output:
    """Build a vector field."""
    field, dimension = split_last(name.key)
    return Output(
        str(name),
        prefix,
        _path(field, dimension),
        (dataset.source.n_cells, DIMENSIONS[dimension]),
        np.dtype(np.float32),
        partial(_vectors, dataset, field, dimension),
    )


def rows(dataset: Dataset, names: Sequence[Name]) -> Iterable[Row]:
    """Describe vector fields."""
    return (output_row(build(dataset, name)) for name in names)


def manifests(dataset: Dataset) -> Mapping[str, Callable[[], Manifest]]:
    """Add the vector fields to the identity, if there are any."""
    chosen = keys(dataset)
    return {"identity": partial(_identity, dataset, chosen)} if chosen else {}


def _path(field: str, dimension: str) -> str:
    return f"vectors/{safe_name(field)}_{dimension}.bin"


def _vectors(dataset: Dataset, field: str, dimension: str) -> da.Array:
    obsm = dataset.source.obsm[dataset.shown.vector_fields[field][dimension]]
    scale = None if obsm.is_normalized else points.scale(dataset, dimension)
    return scale_vectors(obsm.array(dataset.sizes), scale=scale)


def _identity(dataset: Dataset, keys: Sequence[str]) -> Manifest:
    dimensions: dict[str, list[str]] = {}
    for field, dimension in map(split_last, keys):
        dimensions.setdefault(field, []).append(dimension)
    fields = {field: _entry(dataset, field, found) for field, found in dimensions.items()}
    velocities = [f"velocity_{one.basis}" for one in dataset.shown.embeddings.values()]
    default = next((name for name in velocities if name in fields), min(fields))
    return constant_manifest({"vector_fields": {"default_field": default, "fields": fields}})


def _entry(dataset: Dataset, field: str, dimensions: Sequence[str]) -> dict[str, Any]:
    numbers = [DIMENSIONS[dimension] for dimension in dimensions]
    basis = dataset.shown.embeddings[dimensions[0]].basis
    entry: dict[str, Any] = {
        "label": _label(field, basis),
        "basis": basis,
        "available_dimensions": numbers,
        "default_dimension": max(numbers),
        "files": {one: _path(field, one) + dataset.suffix for one in dimensions},
    }
    if dataset.options.manifest_shape == "live":
        entry["obsm_keys"] = {one: dataset.shown.vector_fields[field][one] for one in dimensions}
    return entry


def _label(name: str, basis: str) -> str:
    """Return the label of a vector field: ``Velocity (UMAP)`` for ``velocity_umap``."""
    base = name.removesuffix(f"_{basis}").replace("_", " ").strip()
    return f"{base[:1].upper() + base[1:] if base else name} ({basis.upper()})"
