"""The kinds of output. A new one is a module with ``names`` and ``build``, and a line here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from cellucid_lazy.output import Output
from cellucid_lazy.outputs import connectivity, genes, manifests, obs, points, vectors
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.outputs.resolve import resolve

__all__ = ["KINDS", "Context", "Kind", "Selection", "resolve"]


class Kind(Protocol):
    """What the module of a kind offers."""

    def names(self, context: Context, selection: Selection, /) -> Iterable[str]:
        """Names offered, in order."""

    def build(self, context: Context, selection: Selection, name: str, /) -> Output:
        """The output of a name."""


# By the first part of the name, in the order in which they are listed.
KINDS: dict[str, Kind] = {
    "points": points,
    "vectors": vectors,
    "obs": obs,
    "var": genes,
    "connectivity": connectivity,
    "manifest": manifests,
}
