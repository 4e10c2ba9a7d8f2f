"""The neighbour graph: ``connectivity/src`` and ``connectivity/dst``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import nan
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.output import Built, Output
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.transforms import edges as transform

if TYPE_CHECKING:
    import dask.array as da

_ENDS = {"src": transform.edge_sources, "dst": transform.edge_destinations}


def names(context: Context, selection: Selection) -> Iterable[str]:
    """Names of the edge arrays offered."""
    del context
    if selection.connectivity:
        yield "connectivity/src"
        yield "connectivity/dst"


def build(context: Context, selection: Selection, name: str) -> Output:
    """Build the output of a name."""
    del selection
    end = name.rsplit("/", 1)[1]
    dtype = transform.edge_dtype(context.source.n_cells)
    return Output(
        name,
        "connectivity",
        path(end),
        (nan,),
        np.dtype(dtype),
        Built(partial(_end, context, end), {"counts": partial(counts, context)}),
    )


def path(end: str) -> str:
    """File of one end of the edges."""
    return f"connectivity/edges.{end}.bin"


def edges(context: Context) -> da.Array:
    """Edges (n_edges, 2): sources below destinations, sorted."""
    found: da.Array = context.once("edges", partial(_edges, context))
    return found


def _edges(context: Context) -> da.Array:
    graph = context.source.connectivities
    if graph is None:
        raise KeyError("connectivity")
    return transform.edges(
        graph.blocks(),
        n_cells=context.source.n_cells,
        position=graph.position,
        keep=context.keep,
    )


def _end(context: Context, end: str) -> da.Array:
    return _ENDS[end](edges(context))


def counts(context: Context) -> da.Array:
    """Lazy number of edges and largest number of neighbours."""
    found: da.Array = context.once("edge counts", lambda: transform.edge_counts(edges(context)))
    return found


def n_edges(found: NDArray[np.int64]) -> int:
    """Number of edges, of the counts."""
    return int(found[0])


def max_neighbors(found: NDArray[np.int64]) -> int:
    """Largest number of neighbours, of the counts."""
    return int(found[1])
