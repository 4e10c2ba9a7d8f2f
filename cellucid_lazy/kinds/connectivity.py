"""The neighbour graph: ``connectivity/src`` and ``connectivity/dst``, the cells of each edge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import nan
from typing import Any

import dask.array as da
from numpy.typing import NDArray

from cellucid_lazy.engine.matrix import matrix_array
from cellucid_lazy.engine.output import Manifest, Output
from cellucid_lazy.graph import whole_rows
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.kind import Row, array_producer, constant_manifest, output_row
from cellucid_lazy.names import Name
from cellucid_lazy.transforms.edges import (
    edge_counts,
    edge_destinations,
    edge_dtype,
    edge_sources,
    edges,
    renumber_edges,
)

prefix = "connectivity"
producer = array_producer

_ENDS = {"src": edge_sources, "dst": edge_destinations}
_COUNTS = "connectivity counts"


def keys(dataset: Dataset) -> Sequence[str]:
    """List the chosen ends of edges."""
    return dataset.chosen(prefix, _ENDS if dataset.source.connectivities else ())


def required(dataset: Dataset) -> Sequence[str]:
    """List both ends of edges, if one is chosen."""
    return tuple(_ENDS) if keys(dataset) else ()


def names(dataset: Dataset, keys: Sequence[str]) -> Iterable[Name]:
    """Name the ends of edges."""
    del dataset
    return (Name(prefix, key) for key in keys)


def build(dataset: Dataset, name: Name) -> Output:
    """Build one end of all edges."""
    return Output(
        str(name),
        prefix,
        _path(name.key),
        (nan,),
        edge_dtype(dataset.source.n_cells),
        partial(_end, dataset, name.key),
        {"counts": partial(counts, dataset)},
    )


def rows(dataset: Dataset, names: Sequence[Name]) -> Iterable[Row]:
    """Describe the ends of edges."""
    return (output_row(build(dataset, name)) for name in names)


def manifests(dataset: Dataset) -> Mapping[str, Callable[[], Manifest]]:
    """Describe the edges, and count them in the identity."""
    if not keys(dataset):
        return {"identity": partial(constant_manifest, _stats(None))}
    return {"identity": partial(_identity, dataset), prefix: partial(_manifest, dataset)}


def counts(dataset: Dataset) -> da.Array:
    """Make the lazy number of edges and largest number of neighbours."""
    return dataset.array("edge counts", lambda: edge_counts(_edges(dataset)))


def _path(end: str) -> str:
    return f"connectivity/edges.{end}.bin"


def _edges(dataset: Dataset) -> da.Array:
    """Make the lazy edges (n_edges, 2), sources below destinations, sorted."""
    return dataset.array("edges", partial(_make_edges, dataset))


def _make_edges(dataset: Dataset) -> da.Array:
    graph = dataset.source.connectivities
    assert graph is not None
    if graph.matrix is None:
        assert graph.edges is not None
        n_cells = dataset.source.n_cells
        return renumber_edges(graph.edges, n_cells=n_cells, cell_of=graph.row_to_cell)
    return edges(
        whole_rows(matrix_array(graph.matrix, dataset.sizes.matrix_values)),
        n_cells=dataset.source.n_cells,
        row_to_cell=graph.row_to_cell,
        n_stored=graph.matrix.n_stored,
    )


def _end(dataset: Dataset, end: str) -> da.Array:
    return _ENDS[end](_edges(dataset))


def _stats(n_edges: int | None) -> dict[str, Any]:
    return {"stats": {"has_connectivity": n_edges is not None, "n_edges": n_edges}}


def _identity(dataset: Dataset) -> Manifest:
    return Manifest({_COUNTS: counts(dataset)}, _render_identity)


def _render_identity(values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return _stats(int(values[_COUNTS][0]))


def _manifest(dataset: Dataset) -> Manifest:
    options = dataset.options
    live = options.manifest_shape == "live"
    dtype = edge_dtype(dataset.source.n_cells)
    document = {
        "format": "edge_pairs",
        "n_cells": dataset.source.n_cells,
        "n_edges": None,
        "max_neighbors": None,
        "index_bytes": dtype.itemsize,
        "index_dtype": dtype.name,
        "sourcesPath": _path("src") + dataset.suffix,
        "destinationsPath": _path("dst") + dataset.suffix,
        "compression": None if live else options.compression,
    }
    return Manifest({_COUNTS: counts(dataset)}, partial(_render, document))


def _render(document: dict[str, Any], values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    n_edges, max_neighbors = values[_COUNTS].tolist()
    return {**document, "n_edges": n_edges, "max_neighbors": max_neighbors}
