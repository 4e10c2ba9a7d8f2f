"""Output: a name, a path, a lazy array and its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

# By dtype, not by its name: NumPy makes a name anew each time, and there are many genes.
_EXTENSIONS = {np.dtype(np.float32): "f32", np.dtype(np.uint8): "u8", np.dtype(np.uint16): "u16"}


def file_extension(dtype: np.dtype[Any], /) -> str:
    """Extension of files that hold values of a type: float32, uint8 or uint16."""
    return _EXTENSIONS[dtype]


class Facts(Mapping[str, da.Array]):
    """Lazy facts by name, each built when it is asked for.

    Parameters
    ----------
    builders
        Function that builds each fact.
    """

    def __init__(self, builders: Mapping[str, Callable[[], da.Array]]) -> None:
        self._builders = dict(builders)
        self._built: dict[str, da.Array] = {}

    def __getitem__(self, name: str) -> da.Array:
        if name not in self._built:
            self._built[name] = self._builders[name]()
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._builders

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)

    def __repr__(self) -> str:
        return f"Facts({', '.join(self)})"


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
        Lazy arrays by name. ``range`` of values: min and max over finite ones. ``centroids/2d``
        and the like of codes: per label the mean position, last the number of cells averaged.
        ``counts`` of edges: their number, and the most neighbours of a cell.
    labels
        Labels of codes, in order; None for other outputs.
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
    facts: Facts = field(default_factory=lambda: Facts({}))
    labels: tuple[str, ...] | None = None
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
