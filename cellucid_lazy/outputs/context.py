"""What a dataset offers under given options: keys resolved once, from metadata alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any

import dask.array as da
import numpy as np

from cellucid_lazy.errors import DataError, LeftOutWarning, missing_key
from cellucid_lazy.naming import safe_name
from cellucid_lazy.options import Options
from cellucid_lazy.source import Column, Element, Source

DIMENSIONS = (1, 2, 3)
KEPT_BYTES = 128 * 2**20
_LATENT_KEYS = ("scanvi", "scvi", "X_scvi", "X_pca", "harmony", "X_harmony")
_WITH_DIMENSION = re.compile(r"^(.*)_([123])d$")


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
    memo
        What was found by reading, so that it is found once.
    keep
        Where the edges' shuffle puts its pieces, as `transforms.edges.edges` takes it.
    kept_bytes
        Up to this size an array that is needed twice is kept rather than read again.
    """

    source: Source
    options: Options
    embeddings: Mapping[int, str]
    umap_resolution: Mapping[str, Any] | None
    vector_fields: Mapping[str, Mapping[int, str]]
    latent_key: str | None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    keep: Any = None
    kept_bytes: int = KEPT_BYTES

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Make a thing on first use and keep it: what several outputs share."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    def with_options(self, options: Options) -> Context:
        """The same source under other options; keeps what was found already."""
        return replace(self, options=options)

    def within(self, budget: int, keep: Any) -> Context:
        """The same outputs for a budget, with the edges' pieces kept elsewhere if ``keep``."""
        edges = ("edges", "edge counts")
        memo = {key: value for key, value in self.memo.items() if key not in edges}
        return replace(self, memo=memo, keep=keep, kept_bytes=min(KEPT_BYTES, budget // 4))

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

    @cached_property
    def gene_positions(self) -> Mapping[str, int]:
        """Column of each gene identifier; of duplicates the last, with a warning."""
        names = self.source.read_gene_ids(self.options.gene_id_column)
        found = {name: position for position, name in enumerate(names)}
        if len(found) < len(names):
            repeated = sorted({name for place, name in enumerate(names) if found[name] != place})
            warnings.warn(
                f"{self.source.name}: {len(names) - len(found):,} genes share an identifier with "
                f"another ({', '.join(repeated[:5])}{', ...' if len(repeated) > 5 else ''}); the "
                "last of each is offered. Choose another gene_id_column, or make them unique",
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


def resolve(source: Source, options: Options) -> Context:
    """Find embeddings, vector fields and the latent space by their names and shapes.

    Parameters
    ----------
    source
        The dataset.
    options
        The settings.

    Returns
    -------
    Context
        Nothing is read but metadata.

    Raises
    ------
    DataError
        When there is no valid embedding.
    MissingKeyError
        When an obs key or the latent key is not there.
    """
    embeddings, umap_resolution, problems = _embeddings(source)
    if not embeddings:
        told = "; ".join(problems) if problems else "none is named X_umap, X_umap_1d, _2d or _3d"
        raise DataError(
            f"{source.name}: no valid UMAP embedding in obsm ({told}). obsm keys: "
            f"{list(source.obsm)}. Store one as X_umap_2d or X_umap_3d"
        )
    for problem in problems:
        warnings.warn(f"{source.name}: {problem}", LeftOutWarning, stacklevel=3)
    fields = _vector_fields(source, embeddings)
    context = Context(
        source, options, embeddings, umap_resolution, fields, _latent(source, options, fields)
    )
    for key in options.obs_keys or ():
        context.column(key)
    if source.expression is None and source.n_genes:
        warnings.warn(
            f"{source.name}: there is no expression matrix; genes are zeros everywhere",
            LeftOutWarning,
            stacklevel=3,
        )
    return context


def _check_rows(source: Source, key: str) -> None:
    shape = source.obsm[key].shape
    if shape[0] != source.n_cells:
        raise DataError(
            f"{source.name}: obsm {key!r} has {shape[0]:,} rows for {source.n_cells:,} cells"
        )


def _embeddings(source: Source) -> tuple[dict[int, str], dict[str, Any] | None, list[str]]:
    found: dict[int, str] = {}
    problems = []
    for dimension in DIMENSIONS:
        key = f"X_umap_{dimension}d"
        if key not in source.obsm:
            continue
        _check_rows(source, key)
        shape = source.obsm[key].shape
        if shape[1:] == (dimension,):
            found[dimension] = key
        else:
            problems.append(f"obsm {key!r} has shape {shape}, not {dimension} columns: left out")
    if "X_umap" not in source.obsm:
        return found, None, problems
    resolution = _resolve_umap(source.obsm["X_umap"].shape, source.n_cells, found)
    if resolution["action"] == "used_as":
        found[resolution["dim"]] = "X_umap"
    elif resolution["reason"] != "explicit_key_present":
        problems.append(
            f"obsm 'X_umap' of shape {source.obsm['X_umap'].shape} is left out: "
            f"{resolution['reason'].replace('_', ' ')}"
        )
    return found, resolution, problems


def _resolve_umap(shape: tuple[int, ...], n_cells: int, found: Mapping[int, str]) -> dict[str, Any]:
    ignored = {"source_key": "X_umap", "action": "ignored"}
    if len(shape) != 2:
        return {**ignored, "reason": "invalid_shape", "shape": list(shape)}
    if shape[0] != n_cells:
        told = {"shape": list(shape), "expected_rows": n_cells}
        return {**ignored, "reason": "row_count_mismatch", **told}
    width = shape[1]
    if width not in DIMENSIONS:
        return {**ignored, "reason": "unsupported_dim", "n_dims": width}
    place = {"dim": width, "alias_key": f"X_umap_{width}d"}
    if width in found:
        return {**ignored, "reason": "explicit_key_present", **place}
    return {"source_key": "X_umap", "action": "used_as", **place}


def _vector_fields(source: Source, embeddings: Mapping[int, str]) -> dict[str, dict[int, str]]:
    """Group vector fields by name; a key that tells its dimension wins over one that does not."""
    fields: dict[str, dict[int, str]] = {}
    for explicit in (True, False):
        for key, element in source.obsm.items():
            match = _WITH_DIMENSION.match(key)
            name = match[1] if match else key
            if not name.endswith("_umap") or name.startswith("X_") or bool(match) != explicit:
                continue
            _check_rows(source, key)
            width = element.shape[1] if len(element.shape) == 2 else 1
            dimension = int(match[2]) if match else width
            if width != dimension or (explicit and len(element.shape) != 2):
                _left_out(source, key, f"shape {element.shape} does not fit {dimension} dimensions")
            elif dimension in embeddings:
                fields.setdefault(name, {}).setdefault(dimension, key)
    return fields


def _left_out(source: Source, key: str, reason: str) -> None:
    warnings.warn(
        f"{source.name}: vector field {key!r} is left out: {reason}", LeftOutWarning, stacklevel=5
    )


def _latent(
    source: Source, options: Options, fields: Mapping[str, Mapping[int, str]]
) -> str | None:
    taken = {key for keys in fields.values() for key in keys.values()}
    if options.latent_key is not None:
        if options.latent_key not in source.obsm:
            raise missing_key("obsm key", options.latent_key, source.obsm, where=source.name)
        _check_rows(source, options.latent_key)
        return options.latent_key
    usable = [
        key
        for key, element in source.obsm.items()
        if element.shape[0] == source.n_cells and len(element.shape) == 2 and element.shape[1]
    ]
    for key in _LATENT_KEYS:
        if key in usable:
            return key
    return next(
        (
            key
            for key in usable
            if not key.startswith("X_umap") and key not in taken and not _is_field(key)
        ),
        None,
    )


def _is_field(key: str) -> bool:
    match = _WITH_DIMENSION.match(key)
    name = match[1] if match else key
    return name.endswith("_umap") and not name.startswith("X_")
