"""An xarray Dataset as a catalogue: its variables are outputs like any other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from cellucid_lazy.catalogue import Catalogue, outputs
from cellucid_lazy.errors import DataError
from cellucid_lazy.kinds.assigned import assigned
from cellucid_lazy.kinds.embeddings import DIMENSIONS
from cellucid_lazy.options import Options
from cellucid_lazy.readers import given
from cellucid_lazy.source import NeighbourGraph, ObsColumn, ObsmArray, Source
from cellucid_lazy.transforms.values import as_text
from cellucid_lazy.xarray import variables as v

_POINTS = re.compile(r"points_([123]d)")
_VECTOR = re.compile(r"vector_(.+)_([123]d)")


def from_dataset(
    ds: xr.Dataset, options: Options | None = None, *, base: Catalogue | None = None
) -> Catalogue:
    """Make a catalogue of a Dataset's variables; nothing is computed.

    Variables that `to_dataset` made are known by their attributes or names, also after they were
    written and read again. Of others, those on ``cell`` alone become columns of obs: numbers are
    continuous; text, bool, and codes with flags are categories. Those on ``cell`` and an axis
    (``axis_2d``) become embeddings, or vector fields if their name is ``vector_<field>_2d``.

    Parameters
    ----------
    ds
        With a dimension ``cell``.
    options
        Settings. Default: those of `base`, else ``Options()`` with the Dataset's name and id.
    base
        Supplies what the Dataset lacks. Its cells have to be those of the Dataset, in their order;
        where the Dataset has no ``cell_id``, as many.

    Returns
    -------
    Catalogue
        Lazy where the variables are.

    Raises
    ------
    DataError
        When there is no dimension ``cell``, a variable cannot be used, or the cells are not those
        of `base`.
    """
    if v.CELL not in ds.sizes:
        raise DataError(f"the Dataset has no dimension {v.CELL!r}, only {list(ds.sizes)}")
    start = _empty(ds) if base is None else base.source
    if base is not None:
        given.check_cells(start, "the Dataset", (ds.sizes[v.CELL],), _names(ds, v.CELL_ID))
    parts = _Parts()
    for name in map(str, ds.variables):
        _sort(ds, name, start, parts)
    order = json.loads(ds.attrs.get("obs_keys", "[]"))
    parts.obs = {key: parts.obs[key] for key in [*order, *parts.obs] if key in parts.obs}
    source = parts.on(start)
    if options is None and base is None:
        options = Options(dataset_name=ds.attrs.get("name"), dataset_id=ds.attrs.get("id"))
    options = options or base.options  # type: ignore[union-attr]  # one of them is there
    if options.embeddings is None and any(not key.startswith("X_umap") for key in parts.points):
        chosen = {dimension: key for key, dimension in parts.points.items()}
        options = replace(options, embeddings=tuple(sorted(chosen.items())))
    dataset = outputs(replace(source, var_keys=_var_keys(source, options)), options).dataset
    if "umap_resolution" in ds.attrs:
        resolution = json.loads(ds.attrs["umap_resolution"])
        dataset = replace(dataset, shown=dataset.shown._replace(umap_resolution=resolution))
    shown = {DIMENSIONS[dimension] for dimension in dataset.shown.embeddings}
    new: dict[int | str, ObsmArray] = {
        key: array for key, array in parts.embeddings.items() if array.shape[1] not in shown
    }
    return Catalogue(assigned(dataset, {}, new, {})[0] if new else dataset)


@dataclass
class _Parts:
    """What variables stand for.

    Attributes
    ----------
    obs
        Columns by key.
    obsm
        Arrays per cell by key.
    points
        Dimension of each array of obsm that is an embedding.
    embeddings
        Embeddings that somebody else named.
    expression
        The expression matrix.
    gene_ids
        Names of its genes.
    ends
        Cells at the ends of edges.
    """

    obs: dict[str, ObsColumn] = field(default_factory=dict)
    obsm: dict[str, ObsmArray] = field(default_factory=dict)
    points: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, ObsmArray] = field(default_factory=dict)
    expression: Any = None
    gene_ids: tuple[str, ...] = ()
    ends: dict[str, Any] = field(default_factory=dict)

    def on(self, start: Source) -> Source:
        """Put the parts on a source, in place of what it has."""
        source = replace(
            start,
            obs={**start.obs, **self.obs},
            obsm={**start.obsm, **self.obsm, **self.embeddings},
        )
        if self.expression is not None:
            source = replace(
                source,
                n_genes=len(self.gene_ids),
                expression=given.expression(self.expression),
                read_gene_ids=partial(_read_gene_ids, self.gene_ids),
                read_raw_gene_ids=None,
            )
        if len(self.ends) == len(v.ENDS):
            graph = NeighbourGraph(None, edges=given.edges(*(self.ends[end] for end in v.ENDS)))
            source = replace(source, connectivities=graph)
        return source


def _sort(ds: xr.Dataset, name: str, source: Source, parts: _Parts) -> None:
    """Find out what a variable stands for."""
    variable = ds.variables[name]
    output = str(variable.attrs.get(v.OUTPUT, ""))
    dims = tuple(map(str, variable.dims))
    if dims == (v.EDGE,) and name in v.ENDS.values():
        end = next(end for end, one in v.ENDS.items() if one == name)
        parts.ends[end] = _array(variable)
    elif dims == (v.CELL, v.GENE) and (name == v.EXPRESSION or output.startswith("var/")):
        parts.expression = _array(variable)
        parts.gene_ids = tuple(map(str, _names(ds, v.GENE_ID, v.GENE)))
    elif dims[:1] == (v.CELL,) and len(dims) == 2:
        _sort_array(name, variable, source, parts)
    elif dims == (v.CELL,) and name not in (v.CELL_ID, v.CELL):
        _sort_column(ds, name, source, parts)


def _sort_array(name: str, variable: xr.Variable, source: Source, parts: _Parts) -> None:
    array = given.obsm_entry(source, name, _array(variable))
    attributes, stored = variable.attrs, str(variable.attrs.get(v.OBSM_KEY, ""))
    points, vector = _POINTS.fullmatch(name), _VECTOR.fullmatch(name)
    output = str(attributes.get(v.OUTPUT, ""))
    # What an output shows already is not centred and scaled again.
    array = replace(array, is_shown=bool(output))
    if output.startswith("points/") or points:
        dimension = output.partition("/")[2] or (points[1] if points else "")
        key = stored or f"X_umap_{dimension}"
        parts.obsm[key], parts.points[key] = array, dimension
    elif output.startswith("vectors/") or vector:
        parts.obsm[stored or "_".join(vector.groups() if vector else (name,))] = array
    elif str(variable.dims[1]).startswith("axis_"):
        parts.embeddings[name] = array
    else:
        parts.obsm[name] = array


def _sort_column(ds: xr.Dataset, name: str, source: Source, parts: _Parts) -> None:
    variable = ds.variables[name]
    output, stem = str(variable.attrs.get(v.OUTPUT, "")), name.removesuffix("_outliers")
    if output.endswith("/outliers") or (stem != name and f"{stem}_label" in ds.variables):
        return  # goes with its codes
    key = str(variable.attrs.get(v.KEY, name.removeprefix("obs_")))
    if "flag_values" not in variable.attrs:
        parts.obs[key] = given.obs_column(source, key, _array(variable))
        return
    column = _coded_column(ds, name, key)
    outliers = ds.variables.get(f"{name}_outliers")
    if outliers is not None and outliers.dims == (v.CELL,):
        column = replace(column, outliers=given.as_built(_array(outliers)))
    parts.obs[key] = column


def _coded_column(ds: xr.Dataset, name: str, key: str) -> ObsColumn:
    variable = ds.variables[name]
    attributes = variable.attrs
    flags = np.atleast_1d(np.asarray(attributes["flag_values"]))
    label = ds.variables.get(f"{name}_label")
    read: Callable[[], list[str]]
    if label is not None:
        read = partial(_read_labels, _array(label))
    else:
        read = partial(list, str(attributes.get("flag_meanings", "")).split())
    n_labels = len(flags) if label is None else label.size
    if n_labels != len(flags):
        raise DataError(
            f"the Dataset's {name!r} has {len(flags):,} flag_values, but {n_labels:,} labels"
        )
    column = given.coded_column(
        key, da.asarray(_array(variable)), read, flags, attributes.get(v.MISSING)
    )
    if v.COLORS in attributes:
        column = replace(column, read_colors=partial(json.loads, attributes[v.COLORS]))
    return column


def _array(variable: xr.Variable) -> Any:
    """Return a variable's dask or NumPy array; one that is read on access becomes dask."""
    if variable.chunks is None and not variable._in_memory:
        text = variable.dtype.kind in "OT"  # of unknown size, so dask cannot choose chunks
        variable = variable.chunk({} if text else "auto")
    return variable.data if variable.chunks is not None else variable.to_numpy()


def _names(ds: xr.Dataset, name: str, dimension: str = "") -> Any:
    """Read the names along a dimension; numbers where it has none, or None without one."""
    if name in ds.variables:
        return np.asarray(ds.variables[name].to_numpy(), dtype=object)
    return np.arange(ds.sizes[dimension]).astype(str) if dimension else None


def _read_labels(labels: Any) -> list[str]:
    return [str(label) for label in np.asarray(labels).tolist()]


def _read_gene_ids(names: tuple[str, ...], column: str) -> list[str]:
    del column  # the Dataset has the names of one
    return list(names)


def _var_keys(source: Source, options: Options) -> tuple[str, ...]:
    column = options.gene_id_column
    return source.var_keys if column == "index" else tuple({*source.var_keys, column})


def _empty(ds: xr.Dataset) -> Source:
    """Describe a dataset that has only its cells."""
    n_cells = int(ds.sizes[v.CELL])
    if v.CELL_ID in ds.variables:
        names = as_text(da.asarray(_array(ds.variables[v.CELL_ID])))
    else:
        names = as_text(da.arange(n_cells))
    attributes: Mapping[Any, Any] = ds.attrs
    path = attributes.get("source")
    return Source(
        name="xarray Dataset" if path is None else f"xarray Dataset of {path}",
        storage=str(attributes.get("storage", "xarray")),
        path=path,
        is_backed=False,
        n_cells=n_cells,
        n_genes=0,
        obs={},
        obsm={},
        expression=None,
        connectivities=None,
        var_keys=(),
        cell_names=given.as_built(names),
        read_gene_ids=partial(_read_gene_ids, ()),
        latent_key=attributes.get("latent_key"),
    )
