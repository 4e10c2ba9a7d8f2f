"""Make a catalogue of an xarray Dataset, with its variables as outputs."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from cellucid_lazy.catalogue import Catalogue, outputs
from cellucid_lazy.errors import DataError, LeftOutWarning, OptionError
from cellucid_lazy.kinds import Dataset
from cellucid_lazy.kinds.assign import assign
from cellucid_lazy.kinds.embeddings import DIMENSIONS
from cellucid_lazy.names import FLAG_VALUES, are_codes
from cellucid_lazy.options import Options
from cellucid_lazy.readers import user_values
from cellucid_lazy.readers.subset import subset
from cellucid_lazy.source import ExpressionMatrix, NeighbourGraph, ObsColumn, ObsmArray, Source
from cellucid_lazy.transforms.values import as_text
from cellucid_lazy.xarray import variables as v

_POINTS = re.compile(r"points_([123]d)")
_VECTOR = re.compile(r"vector_(.+)_[123]d")


def from_dataset(
    ds: xr.Dataset, options: Options | None = None, *, base: Catalogue | None = None
) -> Catalogue:
    """Make a catalogue of a Dataset's variables; nothing is computed.

    Variables of `to_dataset` are recognized by their attributes or names, also after they were
    written and read again. Embeddings, vector fields and outlier quantiles that keep their
    attributes stay as they are, also for a part of the cells; embeddings without attributes are
    centred and scaled.

    Other variables with the dimension ``cell`` alone become columns of obs: numbers are continuous;
    text, bool, and codes with ``flag_values`` are categories. Those with ``cell`` and an axis, such
    as ``axis_2d``, become embeddings, or vector fields if their name is ``vector_<field>_2d``;
    those with ``cell`` and another dimension become arrays of obsm.

    Parameters
    ----------
    ds
        With a dimension ``cell``.
    options
        Settings. Default: those of `base`, else ``Options()`` with the Dataset's name and id.
    base
        Supplies what the Dataset lacks. Its cells must be those of the Dataset, in their order:
        names of cells are read and compared, unless the Dataset has the lazy ones of `base`.
        Without ``cell_id``, only the numbers of cells are compared.

    Returns
    -------
    Catalogue
        Lazy where the variables are. What cannot be used is left out, with a LeftOutWarning.

    Raises
    ------
    DataError
        When there is no dimension ``cell``, or the cells are not those of `base`.
    """
    if not isinstance(ds, xr.Dataset):
        raise OptionError(f"an xarray.Dataset is needed, not {type(ds).__name__}")
    if v.CELL not in ds.sizes:
        raise DataError(f"the Dataset has no dimension {v.CELL!r}, only {list(ds.sizes)}")
    source = _source_of_cells(ds) if base is None else base.source
    if base is not None:
        names = _names_along(ds, v.CELL_ID, v.CELL)
        found = None if names is None else names.data
        where = f"{source.name}: the Dataset"
        user_values.check_cells(source, where, (ds.sizes[v.CELL],), found)
    parts = _Parts(ds, source)
    for name in ds.variables:
        parts.add(name)
    parts.add_edges()
    options = _default_options(base, parts) if options is None else options
    dataset = outputs(parts.as_source(options), _with_embeddings(options, base, parts)).dataset
    if "umap_resolution" in ds.attrs:
        resolution = json.loads(ds.attrs["umap_resolution"])
        dataset = replace(dataset, shown=dataset.shown._replace(umap_resolution=resolution))
    dataset = _with_vectors(dataset, parts)
    for sentence in parts.left_out:
        warnings.warn(f"{source.name}: {sentence}", LeftOutWarning, stacklevel=2)
    return Catalogue(dataset)


@dataclass
class _Parts:
    """What the variables of a Dataset become.

    Attributes
    ----------
    ds
        The Dataset.
    source
        The dataset whose cells they belong to.
    obs
        Columns by key.
    obsm
        Arrays per cell by key.
    points
        obsm key of each embedding of `to_dataset`, by dimension.
    embeddings, vectors
        Other ones, by the name of the variable or of the field.
    expression
        The expression matrix.
    read_gene_ids
        Reads the names of its genes.
    graph
        The neighbour graph.
    has_outliers
        Whether a column has outlier quantiles.
    left_out
        A sentence for each variable that cannot be used.
    """

    ds: xr.Dataset
    source: Source
    obs: dict[str, ObsColumn] = field(default_factory=dict)
    obsm: dict[str, ObsmArray] = field(default_factory=dict)
    points: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, ObsmArray] = field(default_factory=dict)
    vectors: list[tuple[str, ObsmArray]] = field(default_factory=list)
    expression: ExpressionMatrix | None = None
    read_gene_ids: Callable[[str], list[str]] | None = None
    graph: NeighbourGraph | None = None
    has_outliers: bool = False
    left_out: list[str] = field(default_factory=list)

    def add(self, name: Hashable) -> None:
        """Add a variable, or note why it cannot be used."""
        dims = self.ds.variables[name].dims
        if _belongs_to_others(self.ds, name):
            return
        try:
            if name == v.EXPRESSION and set(dims) == {v.CELL, v.GENE}:
                self._add_expression()
            elif v.CELL not in dims or len(dims) > 2 or v.GENE in dims:
                raise DataError(f"it has the dimensions {dims}")
            elif len(dims) == 2:
                self._add_array(name)
            else:
                self._add_column(name)
        except (DataError, OptionError) as problem:
            reason = str(problem).removeprefix(f"{self.source.name}: ")
            self.left_out.append(f"variable {name!r} is left out: {reason}")

    def add_edges(self) -> None:
        """Add the neighbour graph of the edges between cells of the Dataset."""
        if not all(name in self.ds.variables for name in v.ENDS.values()):
            return
        ends = [_array(self.ds.variables[name]) for name in v.ENDS.values()]
        n_cells, numbers, cells = self.ds.sizes[v.CELL], self.ds.variables.get(v.CELL_NUMBER), None
        if numbers is not None:
            n_cells = int(numbers.attrs.get(v.N_CELLS, n_cells))
            cells = numbers.to_numpy().astype(np.intp)
        graph = NeighbourGraph(None, edges=user_values.edges(*ends, n_cells=n_cells))
        whole = replace(self.source, n_cells=n_cells, connectivities=graph, left_out=())
        found = subset(whole, cells, None, drop_unused=False)
        self.graph = found.connectivities
        self.left_out += found.left_out

    def as_source(self, options: Options) -> Source:
        """Return the source with the parts, which replace its own of the same keys."""
        attributes, latent_key = self.ds.attrs, self.source.latent_key
        if self.has_outliers:
            latent_key = attributes.get("latent_key")
        keys = [*json.loads(attributes.get("obs_keys", "[]")), *self.obs]
        source = replace(
            self.source,
            obs={**self.source.obs, **{key: self.obs[key] for key in keys if key in self.obs}},
            obsm={**self.source.obsm, **self.obsm, **self.embeddings},
            connectivities=self.graph or self.source.connectivities,
            latent_key=latent_key,
            left_out=(*self.source.left_out, *self.left_out),
        )
        if self.read_gene_ids is None:
            return source
        return replace(
            source,
            n_genes=int(attributes.get("n_genes", self.ds.sizes[v.GENE])),
            expression=self.expression,
            read_gene_ids=self.read_gene_ids,
            read_raw_gene_ids=None,
            # The Dataset has identifiers of one column of var, without its name.
            var_keys=(*source.var_keys, options.gene_id_column),
        )

    def _add_expression(self) -> None:
        values = _array(self.ds.variables[v.EXPRESSION].transpose(v.CELL, v.GENE))
        self.expression = user_values.expression(values)
        names = _names_along(self.ds, v.GENE_ID, v.GENE)
        genes = np.arange(self.ds.sizes[v.GENE]) if names is None else _array(names)
        self.read_gene_ids = partial(_read_gene_ids, genes)

    def _add_array(self, name: Hashable) -> None:
        variable = self.ds.variables[name].transpose(v.CELL, ...)
        array = user_values.obsm_entry(self.source, str(name), _array(variable))
        points, vector = _POINTS.fullmatch(str(name)), _VECTOR.fullmatch(str(name))
        key = str(variable.attrs.get(v.OBSM_KEY, ""))
        if key and v.is_own(name, variable.attrs):
            # The values are those of an output, which are centred and scaled already.
            self.obsm[key] = replace(array, is_normalized=True)
            if points:
                self.points[points[1]] = key
        elif points and array.shape[1] == DIMENSIONS[points[1]]:
            self.points[points[1]] = key = f"X_umap_{points[1]}"
            self.obsm[key] = array
        elif vector:
            self.vectors.append((vector[1], array))
        elif str(variable.dims[1]).startswith("axis_") and array.shape[1] <= len(v.AXES):
            self.embeddings[str(name)] = array
        else:
            self.obsm[str(name)] = array

    def _add_column(self, name: Hashable) -> None:
        variable = self.ds.variables[name]
        attributes = variable.attrs
        own = v.is_own(name, attributes)
        key = str(attributes[v.KEY]) if own else str(name).removeprefix("obs_")
        if own and str(attributes[v.OUTPUT]).endswith("/outliers"):
            raise DataError("the codes that it belongs to are not there")
        if key in self.obs:
            raise DataError(f"another variable stands for obs {key!r}")
        values = _array(variable)
        if not are_codes(variable.dtype, attributes):
            self.obs[key] = user_values.obs_column(self.source, key, values)
            return
        label = self.ds.variables.get(attributes.get(v.LABELS, f"{name}_label"))
        read: Callable[[], list[str]] | None = None
        if label is not None:
            n_flags = np.size(attributes[FLAG_VALUES])
            if label.size != n_flags:
                raise DataError(f"it has {n_flags:,} flag_values, but {label.size:,} labels")
            read = partial(_read_labels, _array(label))
        column = user_values.coded_column(key, values, attributes, read)
        if v.COLORS in attributes:
            column = replace(column, read_colors=partial(json.loads, attributes[v.COLORS]))
        outliers = self.ds.variables.get(f"{name}_outliers")
        if outliers is not None and outliers.dims == (v.CELL,):
            column = replace(column, outliers=user_values.as_built(_array(outliers)))
            self.has_outliers = True
        self.obs[key] = column


def _belongs_to_others(ds: xr.Dataset, name: Hashable) -> bool:
    """Return whether a variable only goes with others, such as the labels of codes."""
    if name in ds.dims or name in (v.CELL_ID, v.GENE_ID, v.CELL_NUMBER, *v.ENDS.values()):
        return True
    variable = ds.variables[name]
    stem, _, part = str(name).rpartition("_")
    codes = ds.variables.get(stem)
    if part in ("label", "outliers") and codes is not None:
        return are_codes(codes.dtype, codes.attrs)
    return v.CELL not in variable.dims and v.is_own(name, variable.attrs)


def _default_options(base: Catalogue | None, parts: _Parts) -> Options:
    if base is None:
        attributes = parts.ds.attrs
        return Options(dataset_name=attributes.get("name"), dataset_id=attributes.get("id"))
    # What is renamed has its new name in the base.
    options = replace(base.options, rename=())
    if options.obs_keys is not None:
        options = replace(options, obs_keys=(*options.obs_keys, *parts.obs))
    return options if parts.expression is None else replace(options, genes=None)


def _with_embeddings(options: Options, base: Catalogue | None, parts: _Parts) -> Options:
    """Choose the embeddings of the Dataset, unless they are those found by name."""
    shown = {} if base is None else base.dataset.shown.as_options()
    shown |= parts.points
    found = {f"{array.shape[1]}d": name for name, array in parts.embeddings.items()} | shown
    usual = all(key in ("X_umap", f"X_umap_{dimension}") for dimension, key in found.items())
    if usual or options.embeddings is not None:
        return options
    return replace(options, embeddings=tuple(sorted(found.items())))


def _with_vectors(dataset: Dataset, parts: _Parts) -> Dataset:
    """Add new vector fields; note those that cannot be used, and embeddings that are not shown."""
    shown = [one.key for one in dataset.shown.embeddings.values()]
    for name, array in parts.embeddings.items():
        if name not in shown:
            parts.left_out.append(
                f"embedding {name!r} is not shown; choose it with "
                f"Options(embeddings={{{array.shape[1]}: {name!r}}})"
            )
    for name, array in parts.vectors:
        try:
            dataset, _ = assign(dataset, {}, {}, {name: array})
        except OptionError as problem:
            parts.left_out.append(f"vector field {name!r} is left out: {problem}")
    return dataset


def _array(variable: xr.Variable) -> Any:
    """Return a variable's array, dask or NumPy; one of a file that is not read yet becomes dask."""
    if variable.chunks is None and not variable._in_memory:
        text = variable.dtype.kind in "OT"  # dask cannot choose chunks by size
        variable = variable.chunk({} if text else "auto")
    return variable.data if variable.chunks is not None else variable.to_numpy()


def _names_along(ds: xr.Dataset, *names: str) -> xr.Variable | None:
    """Return the first of these coordinates that exists."""
    return next((ds.variables[name] for name in names if name in ds.variables), None)


def _read_labels(labels: Any) -> list[str]:
    return [str(label) for label in np.asarray(labels).tolist()]


def _read_gene_ids(names: Any, column: str) -> list[str]:
    del column  # the Dataset has the identifiers of one
    return _read_labels(names)


def _source_of_cells(ds: xr.Dataset) -> Source:
    """Make a source of the Dataset's cells, with nothing else."""
    attributes, n_cells = ds.attrs, int(ds.sizes[v.CELL])
    named = _names_along(ds, v.CELL_ID, v.CELL)
    values = da.arange(n_cells) if named is None else _array(named)
    names = as_text(user_values.as_dask(values))
    found = attributes.get("source")
    return Source(
        name="xarray Dataset" if found is None else f"xarray Dataset of {found}",
        storage=str(attributes.get("storage", "xarray")),
        path=attributes.get("path"),
        is_backed=bool(attributes.get("is_backed", False)),
        n_cells=n_cells,
        n_genes=int(attributes.get("n_genes", 0)),
        obs={},
        obsm={},
        expression=None,
        connectivities=None,
        var_keys=(),
        cell_names=user_values.as_built(names),
        read_gene_ids=partial(_read_gene_ids, []),
        latent_key=attributes.get("latent_key"),
    )
