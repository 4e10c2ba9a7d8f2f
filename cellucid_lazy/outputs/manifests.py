"""Manifests: ``manifest/identity``, ``/obs``, ``/var`` and ``/connectivity``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import nan
from typing import Any, NamedTuple

import numpy as np

from cellucid_lazy.manifest import Manifest
from cellucid_lazy.output import Built, Output
from cellucid_lazy.outputs import connectivity_manifest, identity, obs_manifest, var_manifest
from cellucid_lazy.outputs.context import Context, Selection


class Kind(NamedTuple):
    """One manifest: its file, how it is drafted, its indentation."""

    file: str
    draft: Callable[[Context, Selection], dict[str, Any]]
    indent: int | None = None


KINDS: dict[str, Kind] = {
    "manifest/identity": Kind("dataset_identity.json", identity.draft, 2),
    "manifest/obs": Kind("obs_manifest.json", obs_manifest.draft),
    "manifest/var": Kind("var_manifest.json", var_manifest.draft),
    "manifest/connectivity": Kind("connectivity_manifest.json", connectivity_manifest.draft),
}


def names(context: Context, selection: Selection) -> Iterable[str]:
    """Names of the manifests offered."""
    yield "manifest/identity"
    yield "manifest/obs"
    if context.source.n_genes and selection.genes != ():
        yield "manifest/var"
    if selection.connectivity:
        yield "manifest/connectivity"


def build(context: Context, selection: Selection, name: str) -> Output:
    """Build the output of a name; labels that only reading tells are read."""
    kind = KINDS[name]
    manifest = Manifest.of(kind.draft(context, selection), kind.indent)
    lazy = Built(manifest.lazy)
    return Output(name, "manifest", kind.file, (nan,), np.dtype(np.uint8), lazy, manifest=manifest)
