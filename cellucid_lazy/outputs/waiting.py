"""How much of what outputs are made of has to wait for the last of its parts."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.source import Element

# A distance, or a pair of cells.
_ITEM_BYTES = 8
_TELL_EDGES = frozenset(
    ("connectivity/src", "connectivity/dst", "manifest/connectivity", "manifest/identity")
)


def waiting_bytes(context: Context, selection: Selection, names: Collection[str]) -> int:
    """Tell how many bytes wait until all of their kind are there, at most.

    Edges wait to be sorted, distances to be ranked; the latent space, the embeddings and codes wait
    to be measured from the means of categories. Codes are not counted: they are small beside these.

    Parameters
    ----------
    context, selection
        Of the outputs.
    names
        Of the outputs that one call makes.

    Returns
    -------
    int
        Bytes.
    """
    n_cells, obsm = context.source.n_cells, context.source.obsm
    waiting = 0
    graph = context.source.connectivities
    if graph is not None and selection.connectivity and not _TELL_EDGES.isdisjoint(names):
        # Pairs for each stored value, and the edges they come to.
        waiting += 2 * _ITEM_BYTES * graph.n_stored
    ranked = sum(name.startswith("obs/") and name.endswith("/outliers") for name in names)
    if ranked and context.latent_key is not None:
        waiting += _n_bytes(obsm[context.latent_key]) + _ITEM_BYTES * n_cells * ranked
    if "manifest/obs" in names:
        categories = sum(context.column(key).kind == "category" for key in selection.obs)
        for dimension in context.embeddings if categories else ():
            waiting += n_cells * (4 * dimension + _ITEM_BYTES * categories)
    return waiting


def _n_bytes(element: Element) -> int:
    return int(np.prod(element.shape, dtype=np.int64)) * element.dtype.itemsize
