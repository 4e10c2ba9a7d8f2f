"""Output: a name, a path, a lazy array and its facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.gene import Gene
from cellucid_lazy.manifest import Manifest

OutputKind = Literal["points", "vectors", "obs", "var", "connectivity", "manifest"]

EXTENSIONS = {"float32": "f32", "uint8": "u8", "uint16": "u16"}


@dataclass(frozen=True, eq=False)
class Output:
    """One named output of a dataset.

    Attributes
    ----------
    name
        Its name in the catalogue, such as ``"obs/louvain/codes"``.
    kind
        What it belongs to.
    path
        Its file in an exported folder, without ``.gz``; None when it has no file.
    shape
        NaN where only reading can tell a length.
    dtype
        Of the array.
    build
        Builds the lazy array.
    facts
        Lazy arrays by name: ``range`` (min and max), ``counts`` and the like.
    gene
        Set for a gene.
    manifest
        Set for a manifest.
    """

    name: str
    kind: OutputKind
    path: str | None
    shape: tuple[float, ...]
    dtype: np.dtype[Any]
    build: Callable[[], da.Array]
    facts: Mapping[str, da.Array] = field(default_factory=dict)
    gene: Gene | None = None
    manifest: Manifest | None = None

    @cached_property
    def array(self) -> da.Array:
        """The lazy array: an ordinary dask array, cut along its first axis only."""
        return self.build()

    @property
    def nbytes(self) -> float:
        """Size of the file before compression; NaN where only reading can tell."""
        return float(np.prod(self.shape, dtype=float)) * self.dtype.itemsize

    def compute(self, **options: Any) -> NDArray[Any]:
        """Compute the array; options go to dask."""
        (values,) = dask.compute(self.array, **options)
        return np.asarray(values)

    def __repr__(self) -> str:
        shape = tuple("?" if np.isnan(n) else int(n) for n in self.shape)
        where = f" -> {self.path}" if self.path else ""
        return f"Output({self.name!r}: {self.dtype} {shape}{where})".replace("'?'", "?")
