"""Columns of obs: the values of a continuous one, or the codes of a category and outlier quantiles.

``obs/<key>/values``; ``obs/<key>/codes`` and ``obs/<key>/outliers``. An outlier quantile is the
rank of a cell among those of its category, by distance to their mean in the latent space.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellucid_lazy.engine.output import Manifest, Output
from cellucid_lazy.engine.resources import scheduler_kwargs
from cellucid_lazy.errors import FieldError, LeftOutWarning
from cellucid_lazy.graph import map_indexed
from cellucid_lazy.kinds import points
from cellucid_lazy.kinds.categories import category, read_labels
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.embeddings import DIMENSIONS
from cellucid_lazy.kinds.kind import Row, array_producer, constant_manifest, values_schema
from cellucid_lazy.names import Name, file_extension, safe_name, values_dtype
from cellucid_lazy.options import Options
from cellucid_lazy.transforms.categories import MAX_CATEGORIES, code_dtype
from cellucid_lazy.transforms.centroids import centroids
from cellucid_lazy.transforms.outlier_quantiles import outlier_quantiles
from cellucid_lazy.transforms.quantize import finite_range, quantization_range, quantize
from cellucid_lazy.transforms.values import to_float32

prefix = "obs"
producer = array_producer


def keys(dataset: Dataset) -> Sequence[str]:
    """List the chosen columns."""
    return dataset.obs_keys


def required(dataset: Dataset) -> Sequence[str]:
    """List the chosen columns that can be shown; warns of each other one, once."""
    read_labels(dataset, dataset.obs_keys)
    usable = []
    for key in dataset.obs_keys:
        try:
            if dataset.column(key).kind == "category":
                category(dataset, key)
        except FieldError as problem:
            if key not in dataset.shared.warned:
                dataset.shared.warned.add(key)
                warnings.warn(f"{problem}; the field is left out", LeftOutWarning, stacklevel=5)
        else:
            usable.append(key)
    return usable


def names(dataset: Dataset, keys: Sequence[str]) -> Iterable[Name]:
    """Name values of continuous columns, codes and outlier quantiles of categories."""
    for key in keys:
        if dataset.column(key).kind == "continuous":
            yield Name(prefix, key, "values")
        else:
            yield Name(prefix, key, "codes")
            yield Name(prefix, key, "outliers")


def build(dataset: Dataset, name: Name) -> Output:
    """Build a column, or outlier quantiles. Raises FieldError when it cannot be shown."""
    shape = (dataset.source.n_cells,)
    if name.part == "codes":
        labels, codes, colors = category(dataset, name.key)
        return Output(
            str(name),
            prefix,
            _path(name, file_extension(codes.dtype)),
            shape,
            codes.dtype,
            partial(_codes, dataset, name.key),
            {
                f"centroids/{dimension}": partial(_centroids, dataset, name.key, dimension)
                for dimension in dataset.shown.embeddings
            },
            labels,
            colors=colors,
        )
    if name.part == "outliers":
        category(dataset, name.key)  # may raise
    dtype = values_dtype(dataset.options.obs_continuous_quantization)
    return Output(
        str(name),
        prefix,
        _path(name, file_extension(dtype)),
        shape,
        dtype,
        partial(_values, dataset, name),
        {"range": partial(_range, dataset, name)},
    )


def rows(dataset: Dataset, names: Sequence[Name]) -> Iterable[Row]:
    """Describe columns; the type of codes may depend on labels that are not read for it."""
    n_cells = dataset.source.n_cells
    for name in names:
        dtypes = _dtypes(dataset, name)
        n_bytes = n_cells * dtypes[0].itemsize if len(dtypes) == 1 else np.nan
        path = _path(name, "|".join(map(file_extension, dtypes)))
        dtype = "|".join(dtype.name for dtype in dtypes)
        yield Row(str(name), dtype, (n_cells,), n_bytes, path)


def manifests(dataset: Dataset) -> Mapping[str, Callable[[], Manifest]]:
    """Describe the columns, and list them in the identity."""
    return {"identity": partial(_identity, dataset), prefix: partial(_manifest, dataset)}


def obs_frame(dataset: Dataset, keys: Sequence[str]) -> pd.DataFrame:
    """Read columns into a table: categoricals with their labels, and numbers as they are stored.

    Raises
    ------
    DataError
        When a column cannot be read, or shown.
    MissingKeyError
        When there is none of that name.
    """
    read_labels(dataset, keys)
    columns = {key: dataset.column(key) for key in keys}
    categories = {
        key: category(dataset, key) for key, column in columns.items() if column.kind == "category"
    }
    arrays = {
        key: categories[key].codes if key in categories else column.array(dataset.sizes)
        for key, column in columns.items()
    }
    (found,) = dask.compute(arrays, **scheduler_kwargs())
    values = {
        key: _categorical(array, categories[key].labels) if key in categories else array
        for key, array in found.items()
    }
    return pd.DataFrame(values, index=pd.RangeIndex(dataset.source.n_cells))


def _categorical(codes: NDArray[Any], labels: Sequence[str]) -> Any:
    known = codes.astype(np.int32)
    known[codes == np.iinfo(codes.dtype).max] = -1
    return pd.Categorical.from_codes(known, pd.Index(np.array(labels, dtype=object)))


def _path(name: Name, extension: str) -> str:
    return f"obs/{safe_name(name.key)}.{name.part}.{extension}"


def _dtypes(dataset: Dataset, name: Name) -> list[np.dtype[Any]]:
    """List the types that an output may have; from metadata only."""
    if name.part != "codes":
        return [values_dtype(dataset.options.obs_continuous_quantization)]
    requested = dataset.options.obs_categorical_dtype
    if requested != "auto":
        return [np.dtype(requested)]
    most = dataset.column(name.key).max_categories
    widest = code_dtype(MAX_CATEGORIES if most is None else min(most, MAX_CATEGORIES))
    return sorted({np.dtype(np.uint8), widest})


def _codes(dataset: Dataset, key: str) -> da.Array:
    return category(dataset, key).codes


def _plain(dataset: Dataset, name: Name) -> da.Array:
    """Make the lazy values before they are quantized, float32 (n_cells,)."""
    build = _outliers if name.part == "outliers" else _continuous
    return dataset.array(str(name), partial(build, dataset, name.key))


def _continuous(dataset: Dataset, key: str) -> da.Array:
    values = dataset.column(key).array(dataset.sizes)
    return map_indexed(to_float32, "i", values, "i", dtype=np.float32)


def _outliers(dataset: Dataset, key: str) -> da.Array:
    """Make the lazy outlier quantile of each cell in its category; 0 without latent space."""
    labels, codes, _ = category(dataset, key)
    stored = dataset.column(key).outliers
    if stored is not None:
        return map_indexed(to_float32, "i", stored(dataset.sizes), "i", dtype=np.float32)
    if dataset.latent_key is None:
        return da.zeros(dataset.source.n_cells, chunks=codes.chunks, dtype=np.float32)
    latent, again = dataset.two_passes(dataset.latent_key)
    return outlier_quantiles(
        latent,
        codes,
        n_categories=len(labels),
        min_points=dataset.options.centroid_min_points,
        latent_again=again,
    )


def _values(dataset: Dataset, name: Name) -> da.Array:
    bits = dataset.options.obs_continuous_quantization
    plain = _plain(dataset, name)
    if bits is None:
        return plain
    return quantize(plain, bits=bits, value_range=_range(dataset, name))


def _range(dataset: Dataset, name: Name) -> da.Array:
    return dataset.array(f"{name} range", lambda: finite_range(_plain(dataset, name)))


def _centroids(dataset: Dataset, key: str, dimension: str) -> da.Array:
    labels, codes, _ = category(dataset, key)
    return centroids(
        points.points(dataset, dimension),
        codes,
        n_categories=len(labels),
        quantile=dataset.options.centroid_outlier_quantile,
        min_points=dataset.options.centroid_min_points,
    )


def _identity(dataset: Dataset) -> Manifest:
    fields: list[dict[str, Any]] = []
    for key in required(dataset):
        if dataset.column(key).kind == "category":
            n_categories = len(category(dataset, key).labels)
            fields.append({"key": key, "kind": "category", "n_categories": n_categories})
        else:
            fields.append({"key": key, "kind": "continuous"})
    kinds = [field["kind"] for field in fields]
    stats = {
        "n_obs_fields": len(fields),
        "n_categorical_fields": kinds.count("category"),
        "n_continuous_fields": kinds.count("continuous"),
    }
    return constant_manifest({"stats": stats, "obs_fields": fields})


def _manifest(dataset: Dataset) -> Manifest:
    options, keys = dataset.options, required(dataset)
    live = options.manifest_shape == "live"
    continuous = [key for key in keys if dataset.column(key).kind == "continuous"]
    categories = [key for key in keys if dataset.column(key).kind == "category"]
    found = dataset.source.latent_key or dataset.latent_key
    latent_key = found if live or found is None else "latent_space"
    document = {
        "_format": "compact_v1",
        "n_points": dataset.source.n_cells,
        "centroid_outlier_quantile": options.centroid_outlier_quantile,
        "latent_key": latent_key,
        "compression": None if live else options.compression,
        "_obsSchemas": _schemas(dataset, live or bool(continuous), live or bool(categories)),
    }
    dimensions = points.dimensions(dataset)
    quantized = options.obs_continuous_quantization is not None
    ranged = [Name(prefix, key, "values") for key in continuous if live or quantized]
    ranged += [Name(prefix, key, "outliers") for key in categories if quantized]
    needs = {f"range/{name.key}": _range(dataset, name) for name in ranged}
    needs |= {
        f"centroids/{dimension}/{key}": _centroids(dataset, key, dimension)
        for key in categories
        for dimension in dimensions
    }
    columns = [_category_row(dataset, key) for key in categories]
    return Manifest(needs, partial(_render, document, continuous, columns, dimensions, options))


def _schemas(dataset: Dataset, continuous: bool, categories: bool) -> dict[str, Any]:
    bits, suffix = dataset.options.obs_continuous_quantization, dataset.suffix
    schemas: dict[str, Any] = {}
    if continuous:
        schemas["continuous"] = values_schema("obs/{key}.values", bits, suffix)
    if categories:
        outliers = values_schema("obs/{key}.outliers", bits, suffix)
        schemas["categorical"] = {
            "codesPathPattern": f"obs/{{key}}.codes.{{ext}}{suffix}",
            "outlierPathPattern": outliers["pathPattern"],
            "outlierExt": outliers["ext"],
            "outlierDtype": outliers["dtype"],
            "outlierQuantized": outliers["quantized"],
        }
    return schemas


def _category_row(dataset: Dataset, key: str) -> list[Any]:
    labels, codes, _ = category(dataset, key)
    return [key, list(labels), codes.dtype.name, int(np.iinfo(codes.dtype).max)]


def _render(
    document: dict[str, Any],
    continuous: Sequence[str],
    categories: Sequence[list[Any]],
    dimensions: Sequence[str],
    options: Options,
    values: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    rows = []
    for key, labels, *codes in categories:
        found = {
            str(DIMENSIONS[one]): _centroid_rows(values[f"centroids/{one}/{key}"], labels)
            for one in dimensions
        }
        rows.append([key, labels, *codes, found, *_extremes(key, options, values)])
    return {
        **document,
        "_continuousFields": [[key, *_extremes(key, options, values)] for key in continuous],
        "_categoricalFields": rows,
    }


def _extremes(key: str, options: Options, values: Mapping[str, NDArray[Any]]) -> tuple[float, ...]:
    """Return a column's minimum and maximum, or nothing where the format has none."""
    if f"range/{key}" not in values:
        # Outlier quantiles as float32: they are not read for this.
        return (0.0, 1.0) if options.manifest_shape == "live" else ()
    low, high = values[f"range/{key}"].tolist()
    if options.obs_continuous_quantization is None:
        return low, high
    return quantization_range(low, high)


def _centroid_rows(found: NDArray[np.float64], labels: Sequence[str]) -> list[dict[str, Any]]:
    """List centroids as the format does: only categories that have one."""
    return [
        {"category": label, "position": row[:-1].tolist(), "n_points": int(row[-1])}
        for label, row in zip(labels, found, strict=True)
        if row[-1] > 0
    ]
