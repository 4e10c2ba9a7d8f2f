"""``connectivity_manifest.json``: the edges' files and counts."""

from __future__ import annotations

from typing import Any

from cellucid_lazy.manifest import Fact
from cellucid_lazy.outputs import connectivity
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.outputs.identity import suffix
from cellucid_lazy.transforms.edges import edge_dtype


def draft(context: Context, selection: Selection) -> dict[str, Any]:
    """Draft the manifest of the edges."""
    del selection
    counts = connectivity.counts(context)
    dtype = edge_dtype(context.source.n_cells)
    live = context.options.manifest_shape == "live"
    return {
        "format": "edge_pairs",
        "n_cells": context.source.n_cells,
        "n_edges": Fact(counts, connectivity.n_edges),
        "max_neighbors": Fact(counts, connectivity.max_neighbors),
        "index_bytes": dtype.itemsize,
        "index_dtype": dtype.name,
        "sourcesPath": connectivity.path("src") + suffix(context),
        "destinationsPath": connectivity.path("dst") + suffix(context),
        "compression": None if live else context.options.compression,
    }
