"""A source under given options: what was found in it by name and shape, and what is chosen of it.

Everything here comes from metadata, but for the names of genes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.engine.arrays import ARRAYS, ArrayProducer
from cellucid_lazy.errors import DataError, FieldError, LeftOutWarning, format_count, missing_key
from cellucid_lazy.graph import spillable
from cellucid_lazy.names import Name
from cellucid_lazy.options import Options
from cellucid_lazy.sizes import DEFAULT_SIZES, BlockSizes
from cellucid_lazy.source import ExpressionMatrix, ObsColumn, Source, ZeroMatrix
from cellucid_lazy.transforms.uniques import Uniques

# Columns of an embedding, by its dimension.
DIMENSIONS = {"1d": 1, "2d": 2, "3d": 3}

# Outside a call, larger obsm arrays are read anew for a second pass.
_TWO_PASSES_ABOVE = 256 * 2**20

_LATENT_KEYS = ("scanvi", "scvi", "X_scvi", "X_pca", "harmony", "X_harmony")


class Category(NamedTuple):
    """A category column whose labels are known.

    Attributes
    ----------
    labels
        Distinct, in category order.
    codes
        Lazy codes (n_cells,), the largest value of the type for missing.
    """

    labels: tuple[str, ...]
    codes: da.Array


@dataclass
class Findings:
    """What reading found out about a source. It does not depend on choices.

    Attributes
    ----------
    uniques
        Distinct values of obs columns whose labels are not stored.
    used_codes
        Codes that a cell has, of obs columns whose unused categories are dropped.
    gene_positions
        By column of var: the position of each gene identifier.
    """

    uniques: dict[str, Uniques] = field(default_factory=dict)
    used_codes: dict[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    gene_positions: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass
class Shared:
    """What the outputs of one dataset share. It pickles empty: all of it can be made again.

    Attributes
    ----------
    arrays
        Lazy arrays by name.
    categories
        Category columns by key; an error for one that cannot be shown.
    warned
        obs columns that a warning has named.
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
    embeddings
        obsm key of each dimension, such as ``"2d"``.
    umap_resolution
        How ``X_umap`` was used, as the live identity reports it.
    vector_fields
        For each field, the obsm key of each dimension.
    latent_key
        obsm key of the latent space, or None.
    suffix
        What manifests append to the paths of files.
    choice
        Chosen keys by prefix of their kind; a kind that is absent offers all its keys.
    sizes
        Block sizes.
    call
        In a call that computes outputs, the names known before it; None outside of one.
    findings
        What reading found, shared by all datasets derived from this one.
    shared
        What outputs share.
    """

    source: Source
    options: Options
    embeddings: Mapping[str, str]
    umap_resolution: Mapping[str, Any] | None
    vector_fields: Mapping[str, Mapping[str, str]]
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

        Raises DataError when there is no valid embedding, and MissingKeyError for an obs key, a
        latent key or a column of gene identifiers that is not there.
        """
        embeddings, umap_resolution = _embeddings(source)
        dataset = cls(
            source,
            options,
            embeddings,
            umap_resolution,
            _vector_fields(source, embeddings),
            _latent_key(source, options),
            "" if options.manifest_shape == "live" else suffix,
        )
        for key in options.obs_keys or ():
            dataset.column(key)
        column = options.gene_id_column
        if column not in ("index", *source.var_keys):
            raise missing_key("var column", column, source.var_keys, where=source.name)
        if source.expression is None and source.n_genes:
            _warn(source, "there is no expression matrix; genes are zeros everywhere")
        return dataset

    def choose(self, prefix: str, keys: Iterable[str]) -> Dataset:
        """Choose keys of a kind; the other kinds keep their choice."""
        return replace(self, choice={**self.choice, prefix: tuple(keys)})

    def for_call(self, names: Iterable[Name] = ()) -> Dataset:
        """Copy for one call that computes outputs, of which `names` are known before it."""
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
            raise missing_key("obs column", key, self.source.obs, where=self.source.name)
        return self.source.obs[key]

    def array_producer(self) -> ArrayProducer:
        """Return the producer of outputs that are arrays."""
        return ARRAYS

    def array(self, name: str, build: Callable[[], da.Array]) -> da.Array:
        """Build a lazy array on first use, and keep it for the other outputs of this dataset."""
        arrays = self.shared.arrays
        if name not in arrays:
            arrays[name] = build()
        return arrays[name]

    def two_passes(self, key: str) -> tuple[da.Array, da.Array]:
        """Make an obsm array for two passes over it.

        Outside a call a large one comes under two names, so that a scheduler frees its blocks in
        between and reads them twice. Inside a call it is read once, and may be spilled.
        """
        obsm = self.source.obsm[key]
        first = self.array(f"obsm/{key}", lambda: self._obsm(key))
        if self.call is not None or obsm.n_bytes <= _TWO_PASSES_ABOVE:
            return first, first
        return first, obsm.array(self.sizes, again=True)

    def _obsm(self, key: str) -> da.Array:
        array = self.source.obsm[key].array(self.sizes)
        return array if self.call is None else spillable(array)

    @cached_property
    def expression(self) -> ExpressionMatrix:
        """The expression matrix; zeros where the source has none."""
        shape = (self.source.n_cells, self.source.n_genes)
        return self.source.expression or ExpressionMatrix(ZeroMatrix(shape))

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


def _warn(source: Source, problem: str) -> None:
    warnings.warn(f"{source.name}: {problem}", LeftOutWarning, stacklevel=5)


def _gene_positions(source: Source, column: str) -> dict[str, int]:
    names = source.read_gene_ids(column)
    found = {name: position for position, name in enumerate(names)}
    n_repeated = len(names) - len(found)
    if n_repeated:
        repeated = sorted({name for i, name in enumerate(names) if found[name] != i})
        shown = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
        _warn(
            source,
            f"{format_count(n_repeated, 'gene')} {'share' if n_repeated > 1 else 'shares'} "
            f"an identifier with another ({shown}); the last of each is offered. "
            "Choose another gene_id_column, or make them unique",
        )
    return found


def _check_rows(source: Source, key: str) -> None:
    n_rows = source.obsm[key].shape[0]
    if n_rows != source.n_cells:
        raise DataError(
            f"{source.name}: obsm {key!r} has {n_rows:,} rows for {source.n_cells:,} cells"
        )


def _embeddings(source: Source) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Find the obsm key of each dimension, and how ``X_umap`` is used; warn of unusable ones."""
    found: dict[str, str] = {}
    problems = []
    for dimension, width in DIMENSIONS.items():
        key = f"X_umap_{dimension}"
        if key not in source.obsm:
            continue
        _check_rows(source, key)
        shape = source.obsm[key].shape
        if shape[1:] == (width,):
            found[dimension] = key
        else:
            problems.append(
                f"obsm {key!r} has shape {shape}, not {format_count(width, 'column')}: left out"
            )
    resolution = None
    if "X_umap" in source.obsm:
        resolution = _resolve_umap(source.obsm["X_umap"].shape, source.n_cells, found)
        if resolution["action"] == "used_as":
            found[f"{resolution['dim']}d"] = "X_umap"
        elif resolution["reason"] in _UMAP_PROBLEMS:
            problem = _UMAP_PROBLEMS[resolution["reason"]].format(**resolution)
            problems.append(f"obsm 'X_umap' is left out: it has {problem}")
    if not found:
        reasons = "; ".join(problems) or "none is named X_umap, X_umap_1d, _2d or _3d"
        raise DataError(
            f"{source.name}: no valid UMAP embedding in obsm ({reasons}). obsm keys: "
            f"{list(source.obsm)}. Store one as X_umap_2d or X_umap_3d"
        )
    for problem in problems:
        _warn(source, problem)
    return dict(sorted(found.items())), resolution


# By the reason that the format reports; an embedding that is stored twice is no problem.
_UMAP_PROBLEMS = {
    "invalid_shape": "shape {shape}; cells by columns are needed",
    "row_count_mismatch": "shape {shape}, but there are {expected_rows:,} cells",
    "unsupported_dim": "{n_dims} columns; 1, 2 or 3 are supported",
}


def _resolve_umap(shape: tuple[int, ...], n_cells: int, found: Mapping[str, str]) -> dict[str, Any]:
    """Decide how ``X_umap`` is used, in the format's own words."""
    ignored = {"source_key": "X_umap", "action": "ignored"}
    if len(shape) != 2:
        return {**ignored, "reason": "invalid_shape", "shape": list(shape)}
    if shape[0] != n_cells:
        expected = {"shape": list(shape), "expected_rows": n_cells}
        return {**ignored, "reason": "row_count_mismatch", **expected}
    width = shape[1]
    if width not in DIMENSIONS.values():
        return {**ignored, "reason": "unsupported_dim", "n_dims": width}
    alias = {"dim": width, "alias_key": f"X_umap_{width}d"}
    if f"{width}d" in found:
        return {**ignored, "reason": "explicit_key_present", **alias}
    return {"source_key": "X_umap", "action": "used_as", **alias}


def _field_of(key: str) -> tuple[str, str | None]:
    """Return the vector field that an obsm key names, or "", and the dimension that it names."""
    stem, _, end = key.rpartition("_")
    name, dimension = (stem, end) if end in DIMENSIONS else (key, None)
    return (name if name.endswith("_umap") and not name.startswith("X_") else ""), dimension


def _vector_fields(source: Source, embeddings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Group vector fields by name; warn of those that cannot be used."""
    found = {key: _field_of(key) for key in source.obsm}
    fields: dict[str, dict[str, str]] = {}
    # A key that names its dimension comes before one that does not.
    for key in sorted(found, key=lambda key: found[key][1] is None):
        name, named = found[key]
        if not name:
            continue
        _check_rows(source, key)
        shape = source.obsm[key].shape
        width = shape[1] if len(shape) == 2 else 1
        dimension = named or f"{width}d"
        if DIMENSIONS.get(dimension, width) != width or (named and len(shape) != 2):
            _warn(
                source,
                f"vector field {key!r} is left out: shape {shape} does not fit "
                f"{DIMENSIONS[dimension]} dimensions",
            )
        elif dimension in embeddings:
            fields.setdefault(name, {}).setdefault(dimension, key)
    return {name: dict(sorted(keys.items())) for name, keys in fields.items()}


def _latent_key(source: Source, options: Options) -> str | None:
    if options.latent_key is not None:
        if options.latent_key not in source.obsm:
            raise missing_key("obsm key", options.latent_key, source.obsm, where=source.name)
        _check_rows(source, options.latent_key)
        return options.latent_key
    usable = [
        key
        for key, obsm in source.obsm.items()
        if obsm.shape[0] == source.n_cells and len(obsm.shape) == 2 and obsm.shape[1]
    ]
    known = [key for key in _LATENT_KEYS if key in usable]
    others = [key for key in usable if not key.startswith("X_umap") and not _field_of(key)[0]]
    return next(iter(known + others), None)
