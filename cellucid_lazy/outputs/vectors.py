"""Vector fields: ``vectors/<field>/<d>d``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cellucid_lazy.naming import safe_name
from cellucid_lazy.output import Built, Output
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.outputs.points import scale
from cellucid_lazy.transforms.embeddings import scale_vectors

if TYPE_CHECKING:
    import dask.array as da

_SUFFIX = "_umap"


def names(context: Context, selection: Selection) -> Iterable[str]:
    """Names of the vector fields offered."""
    del context
    for field, dimension in selection.fields:
        yield f"vectors/{field}/{dimension}d"


def build(context: Context, selection: Selection, name: str) -> Output:
    """Build the output of a name."""
    del selection
    field, dimension_text = name.removeprefix("vectors/").rsplit("/", 1)
    dimension = int(dimension_text[0])
    return Output(
        name,
        "vectors",
        path(field, dimension),
        (context.source.n_cells, dimension),
        np.dtype(np.float32),
        Built(partial(_vectors, context, field, dimension)),
    )


def path(field: str, dimension: int) -> str:
    """File of a vector field."""
    return f"vectors/{safe_name(field)}_{dimension}d.bin"


def _vectors(context: Context, field: str, dimension: int) -> da.Array:
    element = context.source.obsm[context.vector_fields[field][dimension]]
    return scale_vectors(element.array(), scale=scale(context, dimension))


def label(field: str) -> str:
    """Name of a vector field for people: ``velocity_umap`` becomes ``Velocity (UMAP)``."""
    base = field.removesuffix(_SUFFIX).replace("_", " ").strip()
    return f"{base[:1].upper() + base[1:] if base else field} (UMAP)"


def default_field(fields: Iterable[str]) -> str:
    """The field shown first."""
    ordered = sorted(fields)
    return "velocity_umap" if "velocity_umap" in ordered else ordered[0]
