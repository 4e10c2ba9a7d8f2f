"""A catalogue as an xarray Dataset: labelled, lazy, and with a way back."""

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

from cellucid_lazy.catalogue import Catalogue
from cellucid_lazy.engine.matrix import dense_array
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.resources import scheduler_kwargs
from cellucid_lazy.errors import OptionError
from cellucid_lazy.kinds import obs
from cellucid_lazy.kinds.embeddings import DIMENSIONS
from cellucid_lazy.names import (
    FLAG_MEANINGS,
    FLAG_VALUES,
    MISSING_CODE,
    STORED_DTYPE,
    TRUE_LABELS,
    safe_name,
)
from cellucid_lazy.xarray import variables as v

# Text of any length, as xarray notes it: an array of it is written without being loaded first.
_TEXT = np.dtype("O", metadata={"element_type": str})


def to_dataset(
    catalogue: Catalogue,
    names: Iterable[str] | None = None,
    *,
    index: bool = False,
    edges: bool = False,
) -> xr.Dataset:
    """Make an xarray Dataset of outputs; no values are computed.

    Names of genes are read, and the labels of text columns, which only their values tell.

    Parameters
    ----------
    catalogue
        Outputs on offer.
    names
        Names or patterns of those wanted, as `Catalogue.select` takes them. Default: all. With
        codes come their labels, outlier quantiles and centroids.
    index
        Read the names of cells and genes, and index them, so that ``.sel(gene_id="CD3E")`` works.
    edges
        Include the edges of the neighbour graph. Their number has to be known, so they are
        counted at once, with a UserWarning that says so.

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
    if not isinstance(catalogue, Catalogue):
        raise OptionError(
            f"a catalogue is needed, not {type(catalogue).__name__}: pass what cl.outputs(...) "
            "returns"
        )
    if names is not None:
        catalogue = catalogue.select(*([names] if isinstance(names, str) else names))
    whole = catalogue.unquantized()
    found: dict[str, xr.Variable] = {}
    _add_embeddings(catalogue, whole, found)
    _add_obs(catalogue, whole, found)
    _add_expression(catalogue, found)
    if edges and catalogue.listed("connectivity"):
        _add_edges(catalogue, found)
    coordinates = _coordinates(catalogue, found)
    dataset = xr.Dataset(found, coordinates, attrs=_attributes(catalogue))
    for name in (v.CELL_ID, v.GENE_ID) if index else ():
        if name in dataset.coords:
            dataset = dataset.assign_coords({name: dataset[name].compute()}).set_xindex(name)
    return dataset


def _add_embeddings(catalogue: Catalogue, whole: Catalogue, found: dict[str, xr.Variable]) -> None:
    shown = catalogue.dataset.shown
    for text, name in catalogue.listed("points").items():
        if not name.part:
            variable = v.points_name(name.key)
            attributes = v.attributes(catalogue[text], name.key, variable)
            attributes[v.OBSM_KEY] = shown.embeddings[name.key].as_option()
            dims = (v.CELL, v.axis(name.key))
            found[variable] = xr.Variable(dims, whole[text].array, attributes)
    for text, name in catalogue.listed("vectors").items():
        field, _, dimension = name.key.rpartition("/")
        variable = v.distinct(v.vector_name(field, dimension), found.__contains__)
        attributes = v.attributes(catalogue[text], name.key, variable)
        attributes[v.OBSM_KEY] = shown.vector_fields[field][dimension]
        dims = (v.CELL, v.axis(dimension))
        found[variable] = xr.Variable(dims, whole[text].array, attributes)


def _add_obs(catalogue: Catalogue, whole: Catalogue, found: dict[str, xr.Variable]) -> None:
    """Add columns whole: outlier quantiles go with the codes, whichever of them was chosen."""
    listed = {name.key for name in catalogue.listed("obs").values()}
    keys = [key for key in obs.required(catalogue.dataset) if key in listed]
    named = v.column_names(keys, catalogue.dataset.shown.embeddings)
    for name in obs.names(catalogue.dataset, keys):
        names, output = named[name.key], obs.build(catalogue.dataset, name)
        variable = names.outliers if name.part == "outliers" else names.values
        attributes = v.attributes(output, name.key, variable)
        if name.part == "codes":
            _add_codes(output, names, attributes, found)
        else:
            values = obs.build(whole.dataset, name).array
            found[variable] = xr.Variable(v.CELL, values, attributes)


def _add_codes(
    output: Output, names: v.ColumnNames, attributes: dict[str, Any], found: dict[str, xr.Variable]
) -> None:
    labels, dtype = output.labels or (), output.dtype
    attributes |= {
        FLAG_VALUES: np.arange(len(labels), dtype=dtype),
        FLAG_MEANINGS: v.meanings(labels),
        MISSING_CODE: dtype.type(np.iinfo(dtype).max),
        v.LABELS: names.label,
    }
    if attributes[FLAG_MEANINGS].split() != list(labels):
        # Without the variable of labels, these would be all there is.
        attributes[TRUE_LABELS] = json.dumps(labels)
    if output.colors:
        attributes[v.COLORS] = json.dumps(output.colors)
    found[names.values] = xr.Variable(v.CELL, output.array, attributes)

    def add(variable: str, dims: Any, values: Any) -> None:
        own = {v.KEY: attributes[v.KEY], v.VARIABLE: variable}
        found[variable] = xr.Variable(dims, values, own)

    add(names.label, names.category, np.array(labels, dtype=object))
    for statistic, centroids in output.statistics.items():
        dimension = statistic.removeprefix("centroids/")
        if dimension in DIMENSIONS:
            dims = (names.category, v.axis(dimension))
            add(names.centroid_of(dimension), dims, centroids[:, :-1])
            # As many in each embedding, but for cells that one of them lacks: the last one's.
            add(names.centroid_n, names.category, centroids[:, -1].astype(np.int64))


def _add_expression(catalogue: Catalogue, found: dict[str, xr.Variable]) -> None:
    genes = catalogue.listed("var")
    dataset = catalogue.dataset
    if not genes:
        return
    positions = [dataset.gene_positions[name.key] for name in genes.values()]
    every = positions == list(range(dataset.expression.shape[1]))
    values = dense_array(dataset.expression, None if every else positions, dataset.sizes)
    first = catalogue[next(iter(genes))]
    attributes = {
        v.OUTPUT: "var/*",
        v.VARIABLE: v.EXPRESSION,
        STORED_DTYPE: first.dtype.name,
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
    arrays = {end: output.array for end, output in ends.items()}
    lengths = dask.compute(
        [dask.delayed(len)(block) for block in next(iter(arrays.values())).to_delayed().ravel()],
        **scheduler_kwargs(),
    )[0]
    for end, array in arrays.items():
        known = array.copy()
        known._chunks = (tuple(lengths),)  # what compute_chunk_sizes does, once for both
        variable = v.ENDS[end]
        found[variable] = xr.Variable(v.EDGE, known, v.attributes(ends[end], end, variable))
    # Edges go by these, also when cells are selected.
    numbers = np.arange(n_cells, dtype=next(iter(ends.values())).dtype)
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
    """Note that an array of objects is text."""
    return da.Array(names.dask, names.name, names.chunks, dtype=_TEXT)


def _attributes(catalogue: Catalogue) -> dict[str, Any]:
    """Describe the dataset; stores take text and numbers."""
    dataset, source = catalogue.dataset, catalogue.source
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
    }
    latent_key = source.latent_key or dataset.latent_key
    resolution = dataset.shown.umap_resolution
    more = {
        "path": source.path,
        "latent_key": latent_key,
        "umap_resolution": None if resolution is None else json.dumps(dict(resolution)),
    }
    return {**found, **{key: value for key, value in more.items() if value is not None}}
