"""What a dataset offers under given options: keys resolved once, from metadata alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.errors import LeftOutWarning, missing_key
from cellucid_lazy.naming import safe_name
from cellucid_lazy.options import Options
from cellucid_lazy.source import Column, Element, Source
from cellucid_lazy.transforms.keeping import keep_rows
from cellucid_lazy.wording import counted

if TYPE_CHECKING:
    import dask.array as da

DIMENSIONS = (1, 2, 3)
KEPT_BYTES = 256 * 2**20


class Room:
    """Bytes that may be held for as long as one call takes, shared by all that wants to hold some.

    Parameters
    ----------
    n_bytes
        How many there are.
    """

    def __init__(self, n_bytes: int = 0) -> None:
        self.left = n_bytes

    def take(self, n_bytes: int) -> bool:
        """Take so many if they are left; tell whether they were."""
        taken = n_bytes <= self.left
        self.left -= n_bytes if taken else 0
        return taken

    def give_back(self, n_bytes: int) -> None:
        """Return what was taken and is not needed."""
        self.left += n_bytes


@dataclass(frozen=True)
class Selection:
    """Which fields are offered.

    Attributes
    ----------
    dimensions
        Embeddings.
    fields
        Vector fields with their dimensions, as ``(field, dimension)``.
    obs
        Columns of obs.
    genes
        Gene identifiers; None for all.
    connectivity
        Whether the edges are offered.
    """

    dimensions: tuple[int, ...]
    fields: tuple[tuple[str, int], ...]
    obs: tuple[str, ...]
    genes: tuple[str, ...] | None
    connectivity: bool


@dataclass(frozen=True, eq=False)
class Context:
    """A source, the options, and what they resolve to.

    Attributes
    ----------
    source, options
        As given.
    embeddings
        obsm key of each dimension.
    umap_resolution
        What happened to ``X_umap``, as the live identity tells it.
    vector_fields
        For each field, the obsm key of each dimension.
    latent_key
        obsm key of the latent space, or None.
    facts
        What reading told of the source, so that it is found once: shared by every context made of
        this one.
    made
        What outputs of this context share, such as lazy arrays: gone with the call it is for.
    keep
        Where a call puts what several steps need, as `transforms.keeping.Keep`; None for memory.
    kept_bytes
        Up to this size an array that is needed twice is kept rather than read again.
    room
        What ``made`` may hold in memory. There is none outside a call: no graph holds an array.
    """

    source: Source
    options: Options
    embeddings: Mapping[int, str]
    umap_resolution: Mapping[str, Any] | None
    vector_fields: Mapping[str, Mapping[int, str]]
    latent_key: str | None
    facts: dict[Any, Any] = field(default_factory=dict, repr=False)
    made: dict[Any, Any] = field(default_factory=dict, repr=False)
    keep: Any = None
    kept_bytes: int = KEPT_BYTES
    room: Room = field(default_factory=Room, repr=False)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Make a thing on first use and keep it: what several outputs share."""
        return _once(self.made, key, make)

    def learn(self, key: Hashable, find: Callable[[], Any]) -> Any:
        """Find a thing out on first use and keep it, for this context and all of its source."""
        return _once(self.facts, key, find)

    def with_options(self, options: Options) -> Context:
        """The same source under other options; keeps what was found already."""
        return replace(self, options=options)

    def within(self, budget: int, keep: Any) -> Context:
        """The same outputs for one call: its budget, and where to ``keep`` what waits.

        What the call finds out stays known; what it makes and holds goes with it.
        """
        return replace(
            self,
            made={},
            keep=keep,
            kept_bytes=min(KEPT_BYTES, budget // 4),
            room=Room(budget // 8),
        )

    def for_groups(self, element: Element) -> tuple[da.Array, da.Array]:
        """An array for the two passes that every category field makes."""
        if self.keep is None:
            return self.read_twice(element)
        kept = self.waiting(element.array())
        return kept, kept

    def waiting(self, array: da.Array) -> da.Array:
        """An array whose blocks many tasks need, kept where the call says."""
        return array if self.keep is None else keep_rows(array, self.keep)

    def read_twice(self, element: Element) -> tuple[da.Array, da.Array]:
        """An array for two passes: while it is small one array, which dask keeps in between."""
        size = float(np.prod(element.shape, dtype=float)) * element.dtype.itemsize
        first = element.array()
        return first, element.array(again=True) if size > self.kept_bytes else first

    @cached_property
    def everything(self) -> Selection:
        """All that the options offer."""
        fields = tuple((name, d) for name, keys in self.vector_fields.items() for d in sorted(keys))
        return Selection(
            tuple(sorted(self.embeddings)),
            fields,
            self.options.obs_keys if self.options.obs_keys is not None else tuple(self.source.obs),
            self.options.genes,
            self.source.connectivities is not None,
        )

    @property
    def gene_positions(self) -> Mapping[str, int]:
        """Column of each gene identifier; of duplicates the last, with a warning."""
        found: Mapping[str, int] = self.learn("gene positions", self._gene_positions)
        return found

    def _gene_positions(self) -> dict[str, int]:
        names = self.source.read_gene_ids(self.options.gene_id_column)
        found = {name: position for position, name in enumerate(names)}
        if len(found) < len(names):
            repeated = sorted({name for place, name in enumerate(names) if found[name] != place})
            more = len(names) - len(found)
            told = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
            warnings.warn(
                f"{self.source.name}: {counted(more, 'gene')} {'share' if more > 1 else 'shares'} "
                f"an identifier with another ({told}); the last of each is offered. "
                "Choose another gene_id_column, or make them unique",
                LeftOutWarning,
                stacklevel=2,
            )
        for name in self.options.genes or ():
            if name not in found:
                raise missing_key("gene", name, found, where=self.source.name)
        return found

    def genes(self, selection: Selection) -> tuple[str, ...]:
        """Gene identifiers of a selection, in order; reads the names."""
        positions = self.gene_positions
        return tuple(positions) if selection.genes is None else selection.genes

    def column(self, key: str) -> Column:
        """Look up a column of obs.

        Raises
        ------
        MissingKeyError
            When there is none of that name.
        """
        if key not in self.source.obs:
            raise missing_key("obs column", key, self.source.obs, where=self.source.name)
        return self.source.obs[key]

    @property
    def dataset_name(self) -> str:
        """Name of the dataset: given, or that of its file."""
        if self.options.dataset_name:
            return self.options.dataset_name
        if self.source.path is None:
            return "AnnData Dataset"
        path = PurePath(self.source.path)
        return path.stem if self.source.storage == "h5ad" else path.name

    @property
    def dataset_id(self) -> str:
        """Identifier of the dataset: given, or made from its name."""
        return self.options.dataset_id or safe_name(self.dataset_name)


def _once(memo: dict[Any, Any], key: Hashable, make: Callable[[], Any]) -> Any:
    if key not in memo:
        memo[key] = make()
    return memo[key]
