"""``obs_manifest.json``: the cell metadata, labels and centroids."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.manifest import Fact
from cellucid_lazy.outputs import obs
from cellucid_lazy.outputs.category import category
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.outputs.identity import suffix
from cellucid_lazy.outputs.var_manifest import schema
from cellucid_lazy.transforms.quantize import finite_range, quantization_range


def draft(context: Context, selection: Selection) -> dict[str, Any]:
    """Draft the manifest of the cell metadata."""
    options = context.options
    live = options.manifest_shape == "live"
    keys = obs.usable(context, selection)
    continuous = [key for key in keys if context.column(key).kind == "continuous"]
    categories = [key for key in keys if context.column(key).kind == "category"]
    latent = context.latent_key if live or context.latent_key is None else "latent_space"
    return {
        "_format": "compact_v1",
        "n_points": context.source.n_cells,
        "centroid_outlier_quantile": options.centroid_outlier_quantile,
        "latent_key": latent,
        "compression": None if live else options.compression,
        "_obsSchemas": _schemas(context, live or bool(continuous), live or bool(categories)),
        "_continuousFields": [_continuous_row(context, key) for key in continuous],
        "_categoricalFields": [_category_row(context, selection, key) for key in categories],
    }


def _schemas(context: Context, continuous: bool, categories: bool) -> dict[str, Any]:
    bits = context.options.obs_continuous_quantization
    ending = suffix(context)
    schemas: dict[str, Any] = {}
    if continuous:
        schemas["continuous"] = schema("obs/{key}.values", bits, ending)
    if categories:
        outliers = schema("obs/{key}.outliers", bits, ending)
        schemas["categorical"] = {
            "codesPathPattern": f"obs/{{key}}.codes.{{ext}}{ending}",
            "outlierPathPattern": outliers["pathPattern"],
            "outlierExt": outliers["ext"],
            "outlierDtype": outliers["dtype"],
            "outlierQuantized": outliers["quantized"],
        }
    return schemas


def _continuous_row(context: Context, key: str) -> Any:
    bits = context.options.obs_continuous_quantization
    if context.options.manifest_shape == "export" and bits is None:
        return [key]
    read = _plain_range if bits is None else _quantized_range
    return Fact(finite_range(obs.continuous(context, key)), partial(_row, key, read))


def _row(key: str, read: Any, found: NDArray[np.float64]) -> list[Any]:
    return [key, *read(found)]


def _plain_range(found: NDArray[np.float64]) -> list[float]:
    return [float(found[0]), float(found[1])]


def _quantized_range(found: NDArray[np.float64]) -> list[float]:
    return list(quantization_range(float(found[0]), float(found[1])))


def _category_row(context: Context, selection: Selection, key: str) -> Any:
    field = category(context, key)
    dtype = field.codes.dtype
    centroids = {
        str(dimension): Fact(
            obs.centroids(context, key, dimension),
            partial(obs.centroid_rows, labels=field.labels),
        )
        for dimension in selection.dimensions
    }
    row: list[Any] = [key, list(field.labels), dtype.name, int(np.iinfo(dtype).max), centroids]
    if context.options.obs_continuous_quantization is not None:
        found = finite_range(obs.outliers(context, key))
        row += [Fact(found, _quantized_low), Fact(found, _quantized_high)]
    elif context.options.manifest_shape == "live":
        row += [0.0, 1.0]
    return row


def _quantized_low(found: NDArray[np.float64]) -> float:
    return _quantized_range(found)[0]


def _quantized_high(found: NDArray[np.float64]) -> float:
    return _quantized_range(found)[1]
