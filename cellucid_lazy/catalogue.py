"""Catalogue: the named outputs of a dataset. Names at once, arrays on access."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from cellucid_lazy.errors import OptionError, missing_key
from cellucid_lazy.options import Options
from cellucid_lazy.output import Output
from cellucid_lazy.outputs import KINDS, Context, Selection, resolve
from cellucid_lazy.outputs.obs import usable
from cellucid_lazy.outputs.waiting import waiting_bytes
from cellucid_lazy.readers import open as open_source
from cellucid_lazy.show import as_html, as_text
from cellucid_lazy.source import Source

_WILDCARD = re.compile(r"[*?\[]")


def outputs(source: Any, options: Options | None = None) -> Catalogue:
    """Offer every output of a dataset; nothing is computed.

    Parameters
    ----------
    source
        What `open` gives, or anything it takes.
    options
        Settings. Default: ``Options()``.

    Returns
    -------
    Catalogue
        Maps names to outputs.

    Raises
    ------
    DataError
        When the dataset cannot be read or has no valid embedding.
    MissingKeyError
        When an obs key or the latent key of the options is not there.
    OptionError
        When ``options`` are none.
    """
    if options is None:
        options = Options()
    if not isinstance(options, Options):
        raise TypeError(f"options must be Options(...), not {type(options).__name__}")
    opened = source if isinstance(source, Source) else open_source(source)
    context = resolve(opened, options)
    return Catalogue(context, context.everything)


class Catalogue(Mapping[str, Output]):
    """An immutable mapping of names to outputs.

    Names come from metadata; a gene's name needs the identifiers, which are read when genes are
    first listed or looked up. An output is built when it is asked for, and kept.
    """

    def __init__(
        self, context: Context, selection: Selection, chosen: frozenset[str] | None = None
    ) -> None:
        self._context = context
        self._selection = selection
        self._chosen = chosen
        self._built: dict[str, Output] = {}
        self._listed: dict[str, dict[str, None]] = {}

    @property
    def source(self) -> Source:
        """The dataset."""
        return self._context.source

    @property
    def options(self) -> Options:
        """The settings."""
        return self._context.options

    @property
    def latent_key(self) -> str | None:
        """The obsm key of the latent space that outlier quantiles are measured in, if any."""
        return self._context.latent_key

    def _of_kind(self, kind: str) -> dict[str, None]:
        if kind not in self._listed:
            names = KINDS[kind].names(self._context, self._selection)
            chosen = self._chosen
            self._listed[kind] = {name: None for name in names if chosen is None or name in chosen}
        return self._listed[kind]

    def __getitem__(self, name: str) -> Output:
        if name not in self._built:
            if name not in self:
                raise missing_key("output", str(name), self, where=self.source.name)
            kind = name.split("/", 1)[0]
            self._built[name] = KINDS[kind].build(self._context, self._selection, name)
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        kind = name.split("/", 1)[0]
        return kind in KINDS and name in self._of_kind(kind)

    def __iter__(self) -> Iterator[str]:
        for kind in KINDS:
            yield from self._of_kind(kind)

    def __len__(self) -> int:
        return sum(len(self._of_kind(kind)) for kind in KINDS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Catalogue):
            return NotImplemented
        mine, others = self._context, other._context
        same = (mine.source is others.source, mine.options == others.options)
        return all(same) and self._selection == other._selection

    def __hash__(self) -> int:
        return hash((id(self.source), self.options, self._selection))

    def names(self, kind: str | None = None) -> tuple[str, ...]:
        """List names.

        Parameters
        ----------
        kind
            ``"points"``, ``"vectors"``, ``"obs"``, ``"var"``, ``"connectivity"`` or
            ``"manifest"``. Default: all.

        Returns
        -------
        tuple of str
            In order; listing genes reads their identifiers.

        Raises
        ------
        MissingKeyError
            For another kind.
        """
        if kind is None:
            return tuple(self)
        if kind not in KINDS:
            raise missing_key("kind of output", str(kind), KINDS, where=self.source.name)
        return tuple(self._of_kind(kind))

    def select(self, *patterns: str) -> Catalogue:
        """Narrow the catalogue.

        Parameters
        ----------
        patterns
            Names, or patterns with ``*``, ``?`` and ``[...]``, such as ``"obs/*"``,
            ``"var/CD3*"``. A name that is offered counts as itself, whatever its characters.

        Returns
        -------
        Catalogue
            Offers what matches. The manifests of an export made from it tell of just that.

        Raises
        ------
        MissingKeyError
            When a pattern matches nothing.
        OptionError
            For something that is no text.
        """
        chosen: dict[str, None] = {}
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise OptionError(f"select({pattern!r}): give patterns one by one, as texts")
            matches = self._matching(pattern)
            if not matches:
                # A name without a kind may be a gene's.
                genes = "/" not in pattern or _may_match(pattern, "var/")
                names = self if genes else self._without_genes()
                raise missing_key("output matching", pattern, names, where=self.source.name)
            chosen |= dict.fromkeys(matches)
        return Catalogue(self._context, _narrowed(self._selection, chosen), frozenset(chosen))

    def for_viewer(self) -> Catalogue:
        """Complete the choice to what a folder for the viewer needs.

        Embeddings (all, where none was chosen), the manifests, and for each chosen category both
        its codes and its outlier quantiles; in the export shape of the manifests.

        Returns
        -------
        Catalogue
            Every output with a file belongs into the folder.
        """
        selection = self._selection
        dimensions = selection.dimensions or self._context.everything.dimensions
        fields = tuple(one for one in selection.fields if one[1] in dimensions)
        context = self._context.with_options(replace(self.options, manifest_shape="export"))
        return Catalogue(context, replace(selection, dimensions=dimensions, fields=fields))

    def within(self, budget: int, *, keep: Any = None) -> Catalogue:
        """The same outputs, built for a budget.

        Parameters
        ----------
        budget
            Bytes; arrays that need two passes and take more than a quarter of it are read twice.
        keep
            Where what waits goes instead of memory, as `transforms.keeping.Keep`.

        Returns
        -------
        Catalogue
            Offers the same names and bytes.
        """
        return Catalogue(self._context.within(budget, keep), self._selection, self._chosen)

    def waiting_bytes(self, names: Collection[str]) -> int:
        """Tell how many bytes wait at most while outputs are made in one call."""
        return waiting_bytes(self._context, self._selection, names)

    def usable_obs(self) -> tuple[str, ...]:
        """Columns of obs that can be shown; warns of the others. Labels are read as needed."""
        return usable(self._context, self._selection)

    def _without_genes(self) -> Iterator[str]:
        return (name for kind in KINDS if kind != "var" for name in self._of_kind(kind))

    def _matching(self, pattern: str) -> list[str]:
        matches = []
        for kind in KINDS:
            if _may_match(pattern, f"{kind}/"):
                names = self._of_kind(kind)
                matches += [pattern] if pattern in names else fnmatch.filter(names, pattern)
        return matches

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def _may_match(pattern: str, prefix: str) -> bool:
    """Whether a pattern can match names with a prefix, told from its literal beginning."""
    wildcard = _WILDCARD.search(pattern)
    literal = pattern[: wildcard.start()] if wildcard else pattern
    return literal.startswith(prefix) or (wildcard is not None and prefix.startswith(literal))


def _narrowed(selection: Selection, names: Mapping[str, None]) -> Selection:
    """The fields that a choice of names stands for."""
    parts = [name.split("/") for name in names]
    dimensions = {int(part[1][0]) for part in parts if part[0] == "points"}
    fields = {("/".join(part[1:-1]), int(part[-1][0])) for part in parts if part[0] == "vectors"}
    obs = {"/".join(part[1:-1]) for part in parts if part[0] == "obs"}
    genes = tuple("/".join(part[1:]) for part in parts if part[0] == "var")
    return replace(
        selection,
        dimensions=tuple(d for d in selection.dimensions if d in dimensions),
        fields=tuple(one for one in selection.fields if one in fields),
        obs=tuple(key for key in selection.obs if key in obs),
        genes=genes,
        connectivity=selection.connectivity and any(p[0] == "connectivity" for p in parts),
    )
