"""Outputs and manifests, which the engine computes and writes as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import nan
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import DTypeLike, NDArray

from cellucid_lazy.errors import format_count, format_size
from cellucid_lazy.graph import block_keys, from_graph, rechunk, unfused
from cellucid_lazy.names import kind_of
from cellucid_lazy.show import as_html, format_names, format_shape

Build = Callable[[], da.Array]


@dataclass(frozen=True)
class Manifest:
    """A JSON document that may depend on lazy arrays.

    Attributes
    ----------
    needs
        The lazy arrays it depends on, by name; each is computed as one block.
    render
        Makes the document, given their values by the same names. Pickles.
    indent
        Indentation of the JSON.
    """

    needs: Mapping[str, da.Array]
    render: Callable[[Mapping[str, NDArray[Any]]], dict[str, Any]]
    indent: int | None = None

    def encode(self, values: Mapping[str, NDArray[Any]]) -> bytes:
        """Render as JSON; ValueError for NaN, which JSON cannot hold."""
        return json.dumps(self.render(values), indent=self.indent, allow_nan=False).encode()


class Statistics(Mapping[str, da.Array]):
    """Lazy statistics of an output by name, each built when it is asked for.

    Parameters
    ----------
    builders
        For each name, a function that builds the lazy array.
    """

    def __init__(self, builders: Mapping[str, Build]) -> None:
        self._builders = builders

    def __getitem__(self, name: str) -> da.Array:
        return unfused(self._builders[name]())

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)

    def __repr__(self) -> str:
        return f"Statistics({', '.join(self)})"


@dataclass(frozen=True, eq=False)
class Output:
    """One named output of a dataset. It is a Dask collection that computes to its array.

    Whatever takes a Dask collection or an array takes it: ``dask.compute``, ``client.persist``,
    ``np.asarray``, ``dask.array.asarray``. It pickles.

    Attributes
    ----------
    name
        Its name in the catalogue, such as ``"obs/louvain/codes"``.
    kind
        The first part of the name.
    path
        Its file in an exported folder, without the codec's suffix; None when it has no file.
    shape
        NaN for a length that is unknown until the data are read.
    dtype
        Of the array.
    build
        Builds the lazy array.
    builders
        For the name of each statistic, a function that builds its lazy array.
    labels
        Labels of codes, in order; None for other outputs.
    manifest
        Set for a manifest. Its file is never compressed.
    position
        Position of a gene among the dataset's genes; 0 for other outputs.
    colors
        Colours of the labels, as the dataset stores them; None where it has none.
    """

    name: str
    kind: str
    path: str | None
    shape: tuple[float, ...]
    dtype: np.dtype[Any]
    build: Build
    builders: Mapping[str, Build] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    manifest: Manifest | None = None
    position: int = 0
    colors: tuple[str, ...] | None = None

    @cached_property
    def array(self) -> da.Array:
        """The lazy array: an ordinary dask array, chunked along its first axis only."""
        return unfused(self.build())

    @property
    def statistics(self) -> Statistics:
        """Lazy arrays by name.

        ``range`` of values: minimum and maximum over finite ones. ``centroids/2d`` and the like of
        codes: per label the mean position, last the number of cells averaged. ``counts`` of edges:
        their number, and the largest number of neighbours of a cell.
        """
        return Statistics(self.builders)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def chunks(self) -> tuple[tuple[float, ...], ...]:
        """Lengths of the array's blocks along each dimension, NaN where unknown."""
        chunks: tuple[tuple[float, ...], ...] = self.array.chunks
        return chunks

    @property
    def nbytes(self) -> float:
        """Bytes of the file before compression; NaN if that is unknown until the data are read."""
        return float(np.prod(self.shape, dtype=float)) * self.dtype.itemsize

    def compute(self, **options: Any) -> NDArray[Any]:
        """Compute the array; options go to dask."""
        (values,) = dask.compute(self.array, **options)
        return np.asarray(values)

    def __getitem__(self, key: Any) -> da.Array:
        """Index the lazy array."""
        return self.array[key]

    def to_dask_array(self) -> da.Array:
        """Return the lazy array, as ``dask.array.asarray`` asks for it."""
        return self.array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("an output is computed, which makes a new array")
        values = self.compute()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __dask_graph__(self) -> Any:
        return self.array.__dask_graph__()

    def __dask_keys__(self) -> Any:
        return self.array.__dask_keys__()

    def __dask_layers__(self) -> Any:
        return self.array.__dask_layers__()

    def __dask_tokenize__(self) -> Any:
        return type(self), self.array.name

    def __dask_postcompute__(self) -> Any:
        return self.array.__dask_postcompute__()

    def __dask_postpersist__(self) -> Any:
        return self.array.__dask_postpersist__()

    @property
    def __dask_optimize__(self) -> Any:
        return self.array.__dask_optimize__

    @property
    def __dask_scheduler__(self) -> Any:
        return self.array.__dask_scheduler__

    def __repr__(self) -> str:
        shape = tuple("?" if np.isnan(n) else int(n) for n in self.shape)
        where = f" -> {self.path}" if self.path else ""
        return f"Output({self.name!r}: {self.dtype} {shape}{where})".replace("'?'", "?")

    def _repr_html_(self) -> str:
        rows = [
            ("dtype", str(self.dtype)),
            ("shape", format_shape(self.shape)),
            ("size", format_size(self.nbytes)),
            ("file", self.path or "none"),
        ]
        if self.labels is not None:
            rows.append((format_count(len(self.labels), "label"), format_names(self.labels)))
        if self.builders:
            rows.append(("statistics", format_names(tuple(self.builders))))
        return as_html(f"Output {self.name}", rows)


def manifest_output(name: str, path: str, manifest: Manifest) -> Output:
    """Make the output of a manifest: its JSON as a lazy uint8 array of unknown length.

    Parameters
    ----------
    name
        Its name in the catalogue.
    path
        Its file.
    manifest
        The document.

    Returns
    -------
    Output
        Of kind ``"manifest"``.
    """
    build = partial(_manifest_array, manifest)
    return Output(name, kind_of(name), path, (nan,), np.dtype(np.uint8), build, manifest=manifest)


def _manifest_array(manifest: Manifest) -> da.Array:
    arrays = [rechunk(array, -1) for array in manifest.needs.values()]
    render = partial(_encoded, manifest.render, manifest.indent, tuple(manifest.needs))
    name = f"manifest-{tokenize(render, [array.name for array in arrays])}"
    graph = {(name, 0): (render, [block_keys(array)[0] for array in arrays])}
    return from_graph(name, graph, *arrays, chunks=((nan,),), dtype=np.uint8)


def _encoded(
    render: Callable[..., dict[str, Any]],
    indent: int | None,
    names: tuple[str, ...],
    values: list[NDArray[Any]],
) -> NDArray[np.uint8]:
    found = dict(zip(names, map(np.asarray, values), strict=True))
    return np.frombuffer(Manifest({}, render, indent).encode(found), dtype=np.uint8)
