"""A catalogue as a lazy xarray Dataset, which `from_dataset` takes back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from cellucid_lazy.catalogue import Catalogue, check_catalogue
from cellucid_lazy.engine.matrix import dense_array
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.resources import scheduler_kwargs
from cellucid_lazy.kinds import KINDS
from cellucid_lazy.kinds.embeddings import DIMENSIONS
from cellucid_lazy.names import (
    FLAG_MEANINGS,
    FLAG_VALUES,
    MISSING_CODE,
    STORED_DTYPE,
    TRUE_LABELS,
    safe_name,
    split_last,
    values_dtype,
)
from cellucid_lazy.xarray import variables as v

# xarray's dtype for text of any length; it writes such an array without loading it first.
_TEXT = np.dtype("O", metadata={"element_type": str})


def to_dataset(
    catalogue: Catalogue,
    names: Iterable[str] | None = None,
    *,
    index: bool = False,
    edges: bool = False,
) -> xr.Dataset:
    """Make an xarray Dataset of outputs; no values are computed.

    Names of genes are read, and the values of text columns, to find their labels.

    Parameters
    ----------
    catalogue
        Outputs on offer.
    names
        Names or patterns, as `Catalogue.select` takes them. Default: all. Codes bring their labels,
        outlier quantiles and centroids.
    index
        Read the names of cells and genes, and index them, so that ``.sel(gene_id="CD3E")`` works.
    edges
        Include the edges of the neighbour graph. xarray needs their number, so they are counted at
        once, with a UserWarning.

    Returns
    -------
    xarray.Dataset
        ``points_2d`` (cell, axis_2d); ``vector_<field>_2d``; ``expression`` (cell, gene), float32
        in lazy blocks; ``obs_<key>`` (cell), float32 or codes; for codes ``obs_<key>_label``,
        ``_outliers``, ``_centroid_2d`` and ``_centroid_n``; ``edge_src`` and ``edge_dst`` (edge),
        which number cells as ``cell_number`` does. Coordinates are ``cell_id``, ``gene_id`` and
        the names of axes. Values are never quantized. Attributes name each variable's output, its
        key, its file and the type in it.

    Raises
    ------
    DataError
        When labels cannot be read.
    MissingKeyError
        When a name or pattern matches nothing.
    """
    check_catalogue(catalogue)
    if names is not None:
        catalogue = catalogue.select(*([names] if isinstance(names, str) else names))
    found: dict[str, xr.Variable] = {}
    _add_embeddings(catalogue, found)
    _add_obs(catalogue, found)
    _add_expression(catalogue, found)
    if edges and catalogue.listed("connectivity"):
        _add_edges(catalogue, found)
    coordinates = _coordinates(catalogue, found)
    dataset = xr.Dataset(found, coordinates, attrs=_attributes(catalogue))
    for name in (v.CELL_ID, v.GENE_ID) if index else ():
        if name in dataset.coords:
            dataset = dataset.assign_coords({name: dataset[name].compute()}).set_xindex(name)
    return dataset


def _add_embeddings(catalogue: Catalogue, found: dict[str, xr.Variable]) -> None:
    shown = catalogue.dataset.shown
    for text, name in catalogue.listed("points").items():
        if not name.part:
            variable = f"points_{name.key}"
            attributes = v.attributes(catalogue[text], name.key, variable)
            attributes[v.OBSM_KEY] = shown.embeddings[name.key].as_option()
            dims = (v.CELL, v.axis(name.key))
            found[variable] = xr.Variable(dims, catalogue[text].array, attributes)
    for text, name in catalogue.listed("vectors").items():
        field, dimension = split_last(name.key)
        variable = v.vector_name(field, dimension, found)
        attributes = v.attributes(catalogue[text], name.key, variable)
        attributes[v.OBSM_KEY] = shown.vector_fields[field][dimension]
        dims = (v.CELL, v.axis(dimension))
        found[variable] = xr.Variable(dims, catalogue[text].array, attributes)


def _add_obs(catalogue: Catalogue, found: dict[str, xr.Variable]) -> None:
    """Add columns: codes and outlier quantiles both, whichever of them was chosen."""
    obs, unquantized = KINDS["obs"], catalogue.unquantized()
    listed = {name.key for name in catalogue.listed("obs").values()}
    keys = [key for key in obs.required(catalogue.dataset) if key in listed]
    stems = v.column_stems(keys, catalogue.dataset.shown.embeddings)
    for name in obs.names(catalogue.dataset, keys):
        stem, output = stems[name.key], obs.build(catalogue.dataset, name)
        variable = f"{stem}_outliers" if name.part == "outliers" else stem
        attributes = v.attributes(output, name.key, variable)
        if name.part == "codes":
            _add_codes(output, stem, attributes, found)
        else:
            values = obs.build(unquantized.dataset, name).array
            found[variable] = xr.Variable(v.CELL, values, attributes)


def _add_codes(
    output: Output, stem: str, attributes: dict[str, Any], found: dict[str, xr.Variable]
) -> None:
    labels, dtype, category = output.labels or (), output.dtype, f"{stem}_category"
    attributes |= {
        FLAG_VALUES: np.arange(len(labels), dtype=dtype),
        FLAG_MEANINGS: v.meanings(labels),
        MISSING_CODE: dtype.type(np.iinfo(dtype).max),
        v.LABELS: f"{stem}_label",
    }
    if attributes[FLAG_MEANINGS].split() != list(labels):
        # For Datasets that have lost the variable of labels.
        attributes[TRUE_LABELS] = json.dumps(labels)
    if output.colors:
        attributes[v.COLORS] = json.dumps(output.colors)
    found[stem] = xr.Variable(v.CELL, output.array, attributes)

    def add(variable: str, dims: Any, values: Any) -> None:
        own = {v.KEY: attributes[v.KEY], v.VARIABLE: variable}
        found[variable] = xr.Variable(dims, values, own)

    add(f"{stem}_label", category, np.array(labels, dtype=object))
    for statistic, centroids in output.statistics.items():
        dimension = statistic.removeprefix("centroids/")
        add(f"{stem}_centroid_{dimension}", (category, v.axis(dimension)), centroids[:, :-1])
        # The numbers differ between embeddings only by cells that one of them lacks: the last wins.
        add(f"{stem}_centroid_n", category, centroids[:, -1].astype(np.int64))


def _add_expression(catalogue: Catalogue, found: dict[str, xr.Variable]) -> None:
    genes = catalogue.listed("var")
    dataset = catalogue.dataset
    if not genes:
        return
    positions = [dataset.gene_positions[name.key] for name in genes.values()]
    every = positions == list(range(dataset.expression.shape[1]))
    values = dense_array(dataset.expression, None if every else positions, dataset.sizes)
    attributes = {
        v.OUTPUT: "var/*",
        v.VARIABLE: v.EXPRESSION,
        STORED_DTYPE: values_dtype(catalogue.options.var_quantization).name,
        v.FILE: "var/<gene>.values.*",
    }
    found[v.EXPRESSION] = xr.Variable((v.CELL, v.GENE), values, attributes)


def _add_edges(catalogue: Catalogue, found: dict[str, xr.Variable]) -> None:
    n_cells = catalogue.source.n_cells
    warnings.warn(
        f"{catalogue.source.name}: edges are counted now, which reads the neighbour graph",
        UserWarning,
        stacklevel=3,
    )
    ends = {name.key: catalogue[text] for text, name in catalogue.listed("connectivity").items()}
    first = next(iter(ends.values()))
    blocks = first.array.to_delayed().ravel()
    lengths = dask.compute(*map(dask.delayed(len), blocks), **scheduler_kwargs())
    for end, output in ends.items():
        known = output.array.copy()
        known._chunks = (lengths,)  # as compute_chunk_sizes does, which would count each end
        variable = v.ENDS[end]
        found[variable] = xr.Variable(v.EDGE, known, v.attributes(output, end, variable))
    # Edges refer to these, also when cells are selected.
    numbers = np.arange(n_cells, dtype=first.dtype)
    own = {v.VARIABLE: v.CELL_NUMBER, v.N_CELLS: n_cells}
    found[v.CELL_NUMBER] = xr.Variable(v.CELL, numbers, own)


def _coordinates(catalogue: Catalogue, found: dict[str, xr.Variable]) -> dict[str, xr.Variable]:
    source = catalogue.source
    coordinates = {
        v.CELL_ID: xr.Variable(v.CELL, _as_text(source.cell_names(catalogue.dataset.sizes)))
    }
    if v.EXPRESSION in found:
        genes = np.array([name.key for name in catalogue.listed("var").values()], dtype=object)
        lazy = da.from_array(genes, chunks=-1)
        coordinates[v.GENE_ID] = xr.Variable(v.GENE, _as_text(lazy))
    for dimension, width in DIMENSIONS.items():
        if any(v.axis(dimension) in variable.dims for variable in found.values()):
            name = v.axis(dimension)
            coordinates[name] = xr.Variable(name, np.array(list(v.AXES[:width])))
    return coordinates


def _as_text(names: da.Array) -> da.Array:
    """Mark an array of objects as text."""
    return da.Array(names.dask, names.name, names.chunks, dtype=_TEXT)


def _attributes(catalogue: Catalogue) -> dict[str, Any]:
    """Describe the dataset in text and numbers, which all stores take."""
    dataset, source = catalogue.dataset, catalogue.source
    resolution = dataset.shown.umap_resolution
    found = {
        "source": source.name,
        "id": catalogue.options.dataset_id or safe_name(dataset.name),
        "name": dataset.name,
        "storage": source.storage,
        "is_backed": int(source.is_backed),
        "n_genes": source.n_genes,
        # Stores list variables by name.
        "obs_keys": json.dumps(list(dataset.obs_keys)),
        "cellucid_lazy_version": version("cellucid-lazy"),
        "path": source.path,
        "latent_key": source.latent_key or dataset.latent_key,
        "umap_resolution": None if resolution is None else json.dumps(dict(resolution)),
    }
    return {key: value for key, value in found.items() if value is not None}
