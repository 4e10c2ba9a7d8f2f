"""Manifest: a JSON document with places that only reading can fill."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from cellucid_lazy.transforms.blocks import from_graph, rechunk

if TYPE_CHECKING:
    import dask.array as da


@dataclass(frozen=True, eq=False)
class GeneRanges:
    """Minimum and maximum of many genes: found in the genes' own pass where there is one.

    Attributes
    ----------
    genes
        Identifiers of the genes, in order.
    build
        Builds the float64 (3, n_genes) array of min, max and finite count, for when there is none.
    """

    genes: tuple[str, ...]
    build: Callable[[], da.Array]

    @cached_property
    def array(self) -> da.Array:
        """The lazy array, built once."""
        return self.build()


class Fact(NamedTuple):
    """A place in a manifest that only reading can fill.

    Attributes
    ----------
    value
        The lazy array it comes from.
    read
        Turns the computed array into what JSON holds; a module-level function or a partial of one.
    """

    value: da.Array | GeneRanges
    read: Callable[[NDArray[Any]], Any]


class Later(NamedTuple):
    """A place that needs no reading, but is long: it is made when the manifest is rendered.

    Until then tens of thousands of rows need not be made, walked and named.

    Attributes
    ----------
    make
        Gives what JSON holds; a module-level function or a partial of one.
    """

    make: Callable[[], Any]


class Slot(NamedTuple):
    """A `Fact` once its lazy array is kept elsewhere: light enough to travel in a task."""

    number: int
    read: Callable[[NDArray[Any]], Any]


@dataclass(frozen=True, eq=False)
class Manifest:
    """A manifest before its facts are known.

    Attributes
    ----------
    document
        The JSON object, with a `Slot` in each place that only reading can fill, and a `Later` in
        each that can wait.
    facts
        What fills the slots, by their number.
    indent
        Indentation of the JSON.
    """

    document: dict[str, Any]
    facts: tuple[da.Array | GeneRanges, ...]
    indent: int | None = None

    @classmethod
    def of(cls, draft: dict[str, Any], indent: int | None = None) -> Manifest:
        """Take the facts out of a draft."""
        facts: dict[int, tuple[int, da.Array | GeneRanges]] = {}

        def slots(part: Any) -> Any:
            if isinstance(part, Fact):
                number, _ = facts.setdefault(id(part.value), (len(facts), part.value))
                return Slot(number, part.read)
            if isinstance(part, dict):
                return {key: slots(value) for key, value in part.items()}
            return [slots(value) for value in part] if isinstance(part, list) else part

        document = slots(draft)
        return cls(document, tuple(value for _, value in facts.values()), indent)

    def encode(self, facts: Sequence[NDArray[Any]]) -> bytes:
        """Render as JSON bytes, given the computed facts."""
        return render(self.document, self.indent, facts)

    def lazy(self) -> da.Array:
        """Build the JSON bytes as a lazy uint8 array of unknown length."""
        arrays = [
            rechunk(fact.array if isinstance(fact, GeneRanges) else fact, -1) for fact in self.facts
        ]
        # Dask would look into each of the many lists of a document: as text it is named, and
        # within a partial it is passed, at once.
        text = json.dumps(self.document, default=tokenize)
        name = f"manifest-{tokenize(text, self.indent, [array.name for array in arrays])}"
        facts = [(array.name, *(0,) * array.ndim) for array in arrays]
        graph = {(name, 0): (partial(_rendered, self.document, self.indent), facts)}
        return from_graph(name, graph, *arrays, chunks=((nan,),), dtype=np.uint8)


def render(document: Any, indent: int | None, facts: Sequence[NDArray[Any]]) -> bytes:
    """Fill the slots of a document and render it; NaN would make the dataset unreadable."""

    def filled(part: Any) -> Any:
        if isinstance(part, Slot):
            return part.read(facts[part.number])
        if isinstance(part, Later):
            return part.make()
        if isinstance(part, dict):
            return {key: filled(value) for key, value in part.items()}
        return [filled(value) for value in part] if isinstance(part, list) else part

    return json.dumps(filled(document), indent=indent, allow_nan=False).encode()


def _rendered(
    document: Any, indent: int | None, facts: Sequence[NDArray[Any]]
) -> NDArray[np.uint8]:
    return np.frombuffer(render(document, indent, facts), dtype=np.uint8)
