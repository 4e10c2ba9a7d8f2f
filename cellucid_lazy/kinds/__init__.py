"""The kinds of output. They know the viewer's format, not how data are stored or how work runs."""

from __future__ import annotations

from cellucid_lazy.kinds import connectivity, genes, manifests, obs, points, vectors
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.kind import Kind, Row

__all__ = ["KINDS", "Dataset", "Kind", "Row"]

# By the first part of the names of their outputs, in the order in which these are listed. A new
# kind is a module and a line here.
KINDS: dict[str, Kind] = {
    "points": points,
    "vectors": vectors,
    "obs": obs,
    "var": genes,
    "connectivity": connectivity,
    "manifest": manifests,
}
