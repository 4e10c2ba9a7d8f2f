"""Embeddings: ``points/2d``; ``points/2d/padded`` has zeros up to three columns, for WebGL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from cellucid_lazy.engine.output import Manifest, Output
from cellucid_lazy.errors import DataError
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.embeddings import DIMENSIONS, way_to_choose
from cellucid_lazy.kinds.kind import Row, array_producer, constant_manifest, output_row
from cellucid_lazy.names import Name
from cellucid_lazy.transforms.embeddings import (
    cast_embedding,
    finite_bounds,
    normalize_embedding,
    pad_embedding,
    scale_factor,
)

prefix = "points"
producer = array_producer

_PADDED = "padded"


def keys(dataset: Dataset) -> Sequence[str]:
    """List the chosen dimensions."""
    return dataset.chosen(prefix, dataset.shown.embeddings)


def required(dataset: Dataset) -> Sequence[str]:
    """List the dimensions of a viewer's folder; DataError when there is no embedding."""
    found = dimensions(dataset)
    if not found:
        source = dataset.source
        raise DataError(
            f"{source.name}: a viewer's folder needs an embedding: {way_to_choose(source)}"
        )
    return found


def names(dataset: Dataset, keys: Sequence[str]) -> Iterable[Name]:
    """Name embeddings, then padded ones."""
    del dataset
    yield from (Name(prefix, key) for key in keys)
    yield from (Name(prefix, key, _PADDED) for key in keys)


def build(dataset: Dataset, name: Name) -> Output:
    """Build an embedding."""
    padded = name.part == _PADDED
    return Output(
        str(name),
        prefix,
        None if padded else _path(name.key),
        (dataset.source.n_cells, 3 if padded else DIMENSIONS[name.key]),
        np.dtype(np.float32),
        partial(_padded if padded else points, dataset, name.key),
    )


def rows(dataset: Dataset, names: Sequence[Name]) -> Iterable[Row]:
    """Describe embeddings, and the latent space where outlier quantiles need it."""
    yield from (output_row(build(dataset, name)) for name in names)
    columns = map(dataset.column, dataset.obs_keys)
    if all(column.kind != "category" or column.outliers for column in columns):
        return
    if dataset.latent_key is None:
        yield Row("(latent space: none found, outlier quantiles are 0)")
    else:
        obsm = dataset.source.obsm[dataset.latent_key]
        yield Row(f"(latent space: obsm/{dataset.latent_key})", obsm.dtype.name, obsm.shape)


def manifests(dataset: Dataset) -> Mapping[str, Callable[[], Manifest]]:
    """Add the embeddings to the identity, if there are any."""
    return {"identity": partial(_identity, dataset)} if dataset.shown.embeddings else {}


def dimensions(dataset: Dataset) -> Sequence[str]:
    """List the dimensions that manifests describe: the chosen ones, or all if none is chosen."""
    shown = dataset.shown.embeddings
    return dataset.chosen(prefix, shown) or tuple(shown)


def points(dataset: Dataset, dimension: str) -> da.Array:
    """Make the lazy embedding as the viewer draws it, float32 (n_cells, d)."""
    return dataset.array(f"points/{dimension}", partial(_points, dataset, dimension))


def scale(dataset: Dataset, dimension: str) -> da.Array | None:
    """Make the lazy factor that the embedding is scaled by, float64 (); None for 1."""
    if not _is_scaled(dataset, dimension):
        return None
    first, _ = dataset.embedding(dimension)
    return scale_factor(finite_bounds(first))


def _path(dimension: str) -> str:
    return f"points_{dimension}.bin"


def _is_scaled(dataset: Dataset, dimension: str) -> bool:
    array = dataset.source.obsm[dataset.shown.embeddings[dimension].key]
    return dataset.options.normalize_embeddings and not array.is_normalized


def _points(dataset: Dataset, dimension: str) -> da.Array:
    first, again = dataset.embedding(dimension)
    if not _is_scaled(dataset, dimension):
        return cast_embedding(first)
    return normalize_embedding(again, bounds=finite_bounds(first))


def _padded(dataset: Dataset, dimension: str) -> da.Array:
    return pad_embedding(points(dataset, dimension))


def _identity(dataset: Dataset) -> Manifest:
    shown = dimensions(dataset)
    numbers = [DIMENSIONS[dimension] for dimension in shown]
    embeddings: dict[str, Any] = {
        "available_dimensions": numbers,
        "default_dimension": max(numbers),
        "files": {dimension: _path(dimension) + dataset.suffix for dimension in shown},
    }
    if dataset.options.manifest_shape == "live" and dataset.shown.umap_resolution is not None:
        embeddings["umap_resolution"] = dict(dataset.shown.umap_resolution)
    return constant_manifest({"embeddings": embeddings})
