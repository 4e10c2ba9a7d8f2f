"""Embeddings: ``points/2d``, and padded for WebGL ``points/2d/padded``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cellucid_lazy.output import Built, Output
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.source import Element
from cellucid_lazy.transforms import embeddings

if TYPE_CHECKING:
    import dask.array as da

_FLOAT32 = np.dtype(np.float32)


def names(context: Context, selection: Selection) -> Iterable[str]:
    """Names of the embeddings offered."""
    del context
    for dimension in selection.dimensions:
        yield f"points/{dimension}d"
    for dimension in selection.dimensions:
        yield f"points/{dimension}d/padded"


def build(context: Context, selection: Selection, name: str) -> Output:
    """Build the output of a name."""
    del selection
    _, dimension_text, *padded = name.split("/")
    dimension = int(dimension_text[0])
    n_cells = context.source.n_cells
    if padded:
        array = partial(_padded, context, dimension)
        return Output(name, "points", None, (n_cells, 3), _FLOAT32, Built(array))
    return Output(
        name,
        "points",
        path(dimension),
        (n_cells, dimension),
        _FLOAT32,
        Built(partial(points, context, dimension)),
    )


def path(dimension: int) -> str:
    """File of an embedding."""
    return f"points_{dimension}d.bin"


def _padded(context: Context, dimension: int) -> da.Array:
    return embeddings.pad_embedding(points(context, dimension))


def points(context: Context, dimension: int) -> da.Array:
    """Embedding of a dimension as the viewer draws it, float32 (n_cells, dimension)."""
    made: da.Array = context.once(("points", dimension), partial(_points, context, dimension))
    return made


def _points(context: Context, dimension: int) -> da.Array:
    element = _element(context, dimension)
    if not context.options.normalize_embeddings:
        return embeddings.cast_embedding(element.array())
    first, again = context.read_twice(element)
    return embeddings.normalize_embedding(again, bounds=embeddings.finite_bounds(first))


def scale(context: Context, dimension: int) -> da.Array | None:
    """Factor that brings displacements into the space of the points; None for 1."""
    if not context.options.normalize_embeddings:
        return None
    return embeddings.scale_factor(embeddings.finite_bounds(_element(context, dimension).array()))


def _element(context: Context, dimension: int) -> Element:
    return context.source.obsm[context.embeddings[dimension]]
