"""Cell metadata: ``obs/<key>/values``, or ``obs/<key>/codes`` and ``obs/<key>/outliers``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import FieldError, LeftOutWarning
from cellucid_lazy.naming import safe_name
from cellucid_lazy.output import Built, Output, file_extension
from cellucid_lazy.outputs.category import category
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.outputs.points import points
from cellucid_lazy.transforms.centroids import centroids as centroids_of
from cellucid_lazy.transforms.float32 import to_float32
from cellucid_lazy.transforms.outlier_quantiles import outlier_quantiles
from cellucid_lazy.transforms.quantize import finite_range, quantize, quantized_dtype

if TYPE_CHECKING:
    import dask.array as da

_FLOAT32 = np.dtype(np.float32)


def names(context: Context, selection: Selection) -> Iterable[str]:
    """Names of the obs outputs offered."""
    for key in selection.obs:
        if context.column(key).kind == "continuous":
            yield f"obs/{key}/values"
        else:
            yield f"obs/{key}/codes"
            yield f"obs/{key}/outliers"


def build(context: Context, selection: Selection, name: str) -> Output:
    """Build the output of a name.

    Raises
    ------
    FieldError
        When the field has too many categories, or its values cannot be categories.
    """
    del selection
    key, part = name.removeprefix("obs/").rsplit("/", 1)
    shape = (context.source.n_cells,)
    if part == "codes":
        labels, codes = category(context, key)
        place = path(key, part, codes.dtype)
        found = {f"centroids/{d}d": partial(centroids, context, key, d) for d in context.embeddings}
        lazy = Built(lambda: codes, found)
        return Output(name, "obs", place, shape, codes.dtype, lazy, labels=labels)
    plain = partial(continuous if part == "values" else outliers, context, key)
    if part == "outliers":
        category(context, key)
    bits = context.options.obs_continuous_quantization
    dtype = _FLOAT32 if bits is None else quantized_dtype(bits)
    built = plain if bits is None else partial(_quantized, plain, bits)
    lazy = Built(built, {"range": partial(_range, plain)})
    return Output(name, "obs", path(key, part, dtype), shape, dtype, lazy)


def path(key: str, part: str, dtype: np.dtype[Any]) -> str:
    """File of an obs output."""
    return f"obs/{safe_name(key)}.{part}.{file_extension(dtype)}"


def continuous(context: Context, key: str) -> da.Array:
    """Values of a continuous column, float32 (n_cells,); NaN and Inf as they are."""
    values = context.column(key).values()
    return values.map_blocks(to_float32, dtype=np.float32, meta=np.empty((0,), dtype=np.float32))


def _range(plain: Callable[[], da.Array]) -> da.Array:
    return finite_range(plain())


def _quantized(plain: Any, bits: Any) -> da.Array:
    return quantize(plain(), bits=bits)


def outliers(context: Context, key: str) -> da.Array:
    """Outlier quantile of each cell in its category, float32 (n_cells,); 0 without latent space."""
    import dask.array as da

    field = category(context, key)
    if context.latent_key is None:
        return da.zeros(context.source.n_cells, chunks=field.codes.chunks, dtype=np.float32)
    latent, again = context.for_groups(context.source.obsm[context.latent_key])
    return outlier_quantiles(
        latent,
        context.waiting(field.codes),
        n_categories=len(field.labels),
        min_points=context.options.centroid_min_points,
        latent_again=again,
        keep=context.keep,
    )


def centroids(context: Context, key: str, dimension: int) -> da.Array:
    """Centroids of a category in one embedding, as `transforms.centroids.centroids` gives them."""
    field = category(context, key)
    return centroids_of(
        context.waiting(points(context, dimension)),
        context.waiting(field.codes),
        n_categories=len(field.labels),
        quantile=context.options.centroid_outlier_quantile,
        min_points=context.options.centroid_min_points,
        keep=context.keep,
    )


def centroid_rows(found: NDArray[np.float64], labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Centroids as manifests list them: only categories that have one."""
    return [
        {"category": label, "position": row[:-1].tolist(), "n_points": int(row[-1])}
        for label, row in zip(labels, found, strict=True)
        if row[-1] > 0
    ]


def usable(context: Context, selection: Selection) -> tuple[str, ...]:
    """Columns that can be shown; the others are left out with a warning that names them."""
    keys = []
    for key in selection.obs:
        try:
            if context.column(key).kind == "category":
                category(context, key)
        except FieldError as problem:
            context.once(("left out", key), partial(_warn, str(problem)))
        else:
            keys.append(key)
    return tuple(keys)


def _warn(problem: str) -> str:
    warnings.warn(f"{problem}; the field is left out", LeftOutWarning, stacklevel=8)
    return problem
