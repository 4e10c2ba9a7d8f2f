"""Output: a name, a path, a lazy array and its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import dask
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.gene import Gene
from cellucid_lazy.manifest import Manifest

if TYPE_CHECKING:
    import dask.array as da

OutputKind = Literal["points", "vectors", "obs", "var", "connectivity", "manifest"]

# By dtype, not by its name: NumPy makes a name anew each time, and there are many genes.
_EXTENSIONS = {np.dtype(np.float32): "f32", np.dtype(np.uint8): "u8", np.dtype(np.uint16): "u16"}


def file_extension(dtype: np.dtype[Any], /) -> str:
    """Extension of files that hold values of a type: float32, uint8 or uint16."""
    return _EXTENSIONS[dtype]


class Facts(Mapping[str, "da.Array"]):
    """Lazy facts by name, each built when it is asked for.

    Parameters
    ----------
    builders
        Function that builds each fact.
    """

    def __init__(self, builders: Mapping[str, Callable[[], da.Array]]) -> None:
        self._builders = builders
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


class Lazy(Protocol):
    """Builds lazy arrays when somebody asks for them."""

    def values(self) -> da.Array:
        """Build the array of an output."""

    def facts(self) -> Mapping[str, Callable[[], da.Array]]:
        """Tell by name what builds each of its facts."""


@dataclass(frozen=True, eq=False)
class Built:
    """Lazy arrays that functions build.

    Attributes
    ----------
    build
        Builds the array of an output.
    builders
        By name, what builds each of its facts.
    """

    build: Callable[[], da.Array]
    builders: Mapping[str, Callable[[], da.Array]] = field(default_factory=dict)

    def values(self) -> da.Array:
        """Build the array."""
        return self.build()

    def facts(self) -> Mapping[str, Callable[[], da.Array]]:
        """Tell what builds each fact."""
        return self.builders


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
    lazy
        Builds the array and the facts.
    labels
        Labels of codes, in order; None for other outputs.
    manifest
        Set for a manifest.
    """

    name: str
    kind: OutputKind
    path: str | None
    shape: tuple[float, ...]
    dtype: np.dtype[Any]
    lazy: Lazy
    labels: tuple[str, ...] | None = None
    manifest: Manifest | None = None

    @cached_property
    def array(self) -> da.Array:
        """The lazy array: an ordinary dask array, cut along its first axis only."""
        return self.lazy.values()

    @cached_property
    def facts(self) -> Facts:
        """Lazy arrays by name.

        ``range`` of values: min and max over finite ones. ``centroids/2d`` and the like of codes:
        per label the mean position, last the number of cells averaged. ``counts`` of edges: their
        number, and the most neighbours of a cell.
        """
        return Facts(self.lazy.facts())

    @property
    def gene(self) -> Gene | None:
        """Where the values of a gene come from; None for other outputs."""
        return self.lazy if isinstance(self.lazy, Gene) else None

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
