"""A source under given options: what is found in it by name and shape, and what is chosen.

That comes from metadata. Names of genes and unknown labels are read when they are needed, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import PurePath
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.engine.resources import memory_budget
from cellucid_lazy.errors import (
    CollisionError,
    DataError,
    FieldError,
    format_count,
    format_size,
    missing_key,
)
from cellucid_lazy.graph import spillable
from cellucid_lazy.kinds.embeddings import Shown, choose_shown, find_latent_key, warn
from cellucid_lazy.names import Name
from cellucid_lazy.options import Options
from cellucid_lazy.source import DEFAULT_SIZES, BlockSizes, ExpressionMatrix, ObsColumn, Source
from cellucid_lazy.transforms.categories import Uniques

# Outside a call, larger obsm arrays are read anew for a second pass.
_TWO_PASSES_ABOVE = 256 * 2**20

# Of a gene's name, as text and in tables.
_NAME_BYTES = 400


class Category(NamedTuple):
    """A category column whose labels are known.

    Attributes
    ----------
    labels
        Distinct, in category order.
    codes
        Lazy codes (n_cells,), the largest value of the type for missing.
    colors
        Of the labels; None where none are stored.
    """

    labels: tuple[str, ...]
    codes: da.Array
    colors: tuple[str, ...] | None = None


@dataclass
class Findings:
    """What has been read of a source. It does not depend on choices.

    Attributes
    ----------
    uniques
        Distinct values of obs columns whose labels are not stored.
    used_codes
        Codes that occur, of obs columns whose unused categories are dropped.
    unreadable
        Why labels, or codes, of obs columns cannot be read.
    gene_positions
        By column of var: the position of each gene identifier.
    """

    uniques: dict[str, Uniques] = field(default_factory=dict)
    used_codes: dict[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    gene_positions: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass
class Shared:
    """What the outputs of one dataset share. It pickles empty, since all can be made again.

    Attributes
    ----------
    arrays
        Lazy arrays by name.
    categories
        Category columns by key; an error for one that cannot be shown.
    warned
        obs columns that have been warned of.
    """

    arrays: dict[str, da.Array] = field(default_factory=dict)
    categories: dict[str, Category | FieldError] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    def __reduce__(self) -> tuple[type[Shared], tuple[()]]:
        return Shared, ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A source under given options, and what is chosen of it. It pickles.

    Attributes
    ----------
    source, options
        As given.
    shown
        Embeddings and vector fields.
    latent_key
        obsm key of the latent space, or None.
    suffix
        What manifests append to the paths of files.
    choice
        Chosen keys by prefix of their kind; a kind that is absent offers all its keys.
    sizes
        Block sizes.
    call
        Outputs that a call is known to compute before it begins; None outside such a call.
    findings
        What has been read; shared with datasets of the same source.
    shared
        What outputs share.
    """

    source: Source
    options: Options
    shown: Shown
    latent_key: str | None
    suffix: str = ""
    choice: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: BlockSizes = DEFAULT_SIZES
    call: tuple[Name, ...] | None = None
    findings: Findings = field(default_factory=Findings, repr=False)
    shared: Shared = field(default_factory=Shared, repr=False)

    @classmethod
    def resolve(cls, source: Source, options: Options, *, suffix: str = "") -> Dataset:
        """Find embeddings, vector fields and the latent space by names and shapes; choose all.

        Raises DataError when a chosen embedding does not fit, and MissingKeyError for an embedding,
        an obs key, a latent key or a column of gene identifiers that is not there.
        """
        source = _renamed(source, dict(options.rename))
        dataset = cls(
            source,
            options,
            choose_shown(source, options.chosen_embeddings),
            find_latent_key(source, options.latent_key),
            "" if options.manifest_shape == "live" else suffix,
        )
        for key in options.obs_keys or ():
            dataset.column(key)
        column = options.gene_id_column
        if column not in ("index", *source.var_keys):
            noun = f"{source.var_name} column"
            raise missing_key(noun, column, source.var_keys, where=source.name)
        if source.expression is None and source.n_genes:
            warn(source, f"there is no X, so genes are not offered; {_other_matrices(source)}")
        return dataset

    def choose(self, prefix: str, keys: Iterable[str]) -> Dataset:
        """Choose keys of a kind; the other kinds keep their choice."""
        return replace(self, choice={**self.choice, prefix: tuple(keys)})

    def for_call(self, names: Iterable[Name] = ()) -> Dataset:
        """Copy for one call that computes outputs; `names` are those known beforehand."""
        return replace(self, call=tuple(names), shared=Shared())

    def chosen(self, prefix: str, offered: Iterable[str]) -> tuple[str, ...]:
        """Return the chosen keys of a kind, or all that it offers."""
        return self.choice[prefix] if prefix in self.choice else tuple(offered)

    @cached_property
    def obs_keys(self) -> tuple[str, ...]:
        """The chosen obs columns."""
        keys = self.options.obs_keys
        return self.chosen("obs", self.source.obs if keys is None else keys)

    def column(self, key: str) -> ObsColumn:
        """Look up an obs column. Raises MissingKeyError when there is none of that name."""
        if key not in self.source.obs:
            raise self.source.missing("obs column", key, self.source.obs)
        return self.source.obs[key]

    def with_cells(self, source: Source) -> Dataset:
        """Take a source of some of the cells; all else stays."""
        findings = Findings(gene_positions=self.findings.gene_positions)
        return replace(self, source=source, findings=findings, shared=Shared())

    def with_source(self, source: Source, options: Options) -> Dataset:
        """Take a source of the same cells with other columns or arrays; choices stay.

        Raises as `resolve` does.
        """
        return replace(
            self.with_cells(source),
            options=options,
            shown=choose_shown(source, options.chosen_embeddings),
            latent_key=find_latent_key(source, options.latent_key),
        )

    def array(self, name: str, build: Callable[[], da.Array]) -> da.Array:
        """Build a lazy array on first use, and keep it for the other outputs of this dataset."""
        if name not in self.shared.arrays:
            self.shared.arrays[name] = build()
        return self.shared.arrays[name]

    def two_passes(self, key: str) -> tuple[da.Array, da.Array]:
        """Make an obsm array for two passes over it.

        Outside a call the second pass over a large one has tasks of other names, so that a
        scheduler frees blocks in between and reads them twice. Inside a call it is read once, and
        may be spilled.
        """
        obsm = self.source.obsm[key]
        first = self.array(f"obsm/{key}", lambda: self._obsm(key))
        if self.call is not None or obsm.n_bytes <= _TWO_PASSES_ABOVE:
            return first, first
        return first, obsm.array(self.sizes, again=True)

    def embedding(self, dimension: str) -> tuple[da.Array, da.Array]:
        """Make the embedding of a dimension for two passes over it."""
        key, columns = self.shown.embeddings[dimension]
        first, again = self.two_passes(key)
        if columns is None:
            return first, again
        return first[:, columns], again[:, columns]

    def _obsm(self, key: str) -> da.Array:
        array = self.source.obsm[key].array(self.sizes)
        return array if self.call is None else spillable(array)

    @cached_property
    def expression(self) -> ExpressionMatrix:
        """The expression matrix. Raises DataError where the source has none."""
        if self.source.expression is None:
            source = self.source
            raise DataError(f"{source.name}: there is no X; {_other_matrices(source)}")
        return self.source.expression

    @property
    def gene_positions(self) -> Mapping[str, int]:
        """Position of each gene among the dataset's; of duplicates the last, with a warning."""
        column = self.options.gene_id_column
        found = self.findings.gene_positions
        if column not in found:
            found[column] = _gene_positions(self.source, column)
        return found[column]

    @property
    def name(self) -> str:
        """Name of the dataset: given, or that of its file."""
        if self.options.dataset_name:
            return self.options.dataset_name
        if self.source.path is None:
            return "AnnData Dataset"
        path = PurePath(self.source.path)
        return path.stem if self.source.storage == "h5ad" else path.name


def _renamed(source: Source, names: Mapping[str, str]) -> Source:
    """Give obs columns and genes other names; MissingKeyError for one that is not there."""
    if not names:
        return source
    columns, genes = (
        {old.removeprefix(prefix): new for old, new in names.items() if old.startswith(prefix)}
        for prefix in ("obs/", "var/")
    )
    for key in columns:
        if key not in source.obs:
            raise source.missing("obs column", key, source.obs)
    keys = [columns.get(key, key) for key in source.obs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise CollisionError(f"{source.name}: two obs columns would be {repeated[0]!r}")
    obs = {
        key: replace(column, name=key)
        for key, column in zip(keys, source.obs.values(), strict=True)
    }
    read = partial(_renamed_genes, source.read_gene_ids, genes, source.name)
    return replace(source, obs=obs, read_gene_ids=read)


def _renamed_genes(
    read: Callable[[str], list[str]], names: Mapping[str, str], where: str, column: str
) -> list[str]:
    found = read(column)
    for gene in set(names) - set(found):
        raise missing_key("gene", gene, found, where=where)
    return [names.get(gene, gene) for gene in found]


def _other_matrices(source: Source) -> str:
    """Describe the matrices beside X, and how to choose them."""
    layers = [key.removeprefix("layers/") for key in source.matrices if key.startswith("layers/")]
    ways = [f"layer={layer!r} (--layer {layer})" for layer in layers]
    ways += ["use_raw=True (--use-raw)"] if "raw/X" in source.matrices else []
    return f"open with {' or '.join(ways)}" if ways else "no other matrix is stored"


def _gene_positions(source: Source, column: str) -> dict[str, int]:
    n_bytes, budget = source.n_genes * _NAME_BYTES, memory_budget()
    if n_bytes > budget:
        raise DataError(
            f"{source.name}: the names of {source.n_genes:,} genes in var take about "
            f"{format_size(n_bytes)}, but the memory budget is {format_size(budget)}; if that is "
            "no mistake, set dask's configuration cellucid_lazy.memory-budget"
        )
    names = source.read_gene_ids(column)
    found = {name: position for position, name in enumerate(names)}
    n_repeated = len(names) - len(found)
    if n_repeated:
        repeated = sorted({name for i, name in enumerate(names) if found[name] != i})
        shown = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
        warn(
            source,
            f"{format_count(n_repeated, 'gene')} {'share' if n_repeated > 1 else 'shares'} "
            f"an identifier with another ({shown}); the last of each is offered. "
            "Choose another gene_id_column, or make them unique",
        )
    return found
