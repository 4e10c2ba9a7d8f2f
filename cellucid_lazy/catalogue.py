"""The catalogue of a dataset's outputs: it lists names, and builds arrays on access."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from dask.base import is_dask_collection

from cellucid_lazy.codecs import codec_for
from cellucid_lazy.engine.output import Output
from cellucid_lazy.errors import (
    CellucidLazyError,
    DataError,
    LeftOutWarning,
    OptionError,
    format_count,
    missing_key,
)
from cellucid_lazy.graph import unfused
from cellucid_lazy.kinds import KINDS, Dataset, Row
from cellucid_lazy.kinds.assign import assign
from cellucid_lazy.kinds.dataset import Shared
from cellucid_lazy.kinds.obs import obs_frame
from cellucid_lazy.names import Name, kind_of, name_problems, split_last, split_name
from cellucid_lazy.options import Options
from cellucid_lazy.readers import open as open_source
from cellucid_lazy.readers.subset import subset
from cellucid_lazy.readers.user_values import checked, obs_column, obsm_entry
from cellucid_lazy.show import as_html, as_text, format_shape
from cellucid_lazy.source import Source

_HEAD = ("name", "dtype", "shape", "size", "file")
# Rows shown of a kind; the rest are counted.
_MAX_ROWS = 24
_WILDCARD = re.compile(r"[*?\[]")


def outputs(source: Any, options: Options | None = None) -> Catalogue:
    """Make the catalogue of all outputs of a dataset; nothing is computed.

    Parameters
    ----------
    source
        What `open` returns, or anything it takes.
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
        When `options` are not `Options`, or name an unknown codec.
    """
    options = Options() if options is None else options
    if not isinstance(options, Options):
        raise OptionError(f"options must be Options(...), not {type(options).__name__}")
    codec = codec_for(options.compression)
    opened = source if isinstance(source, Source) else open_source(source)
    return Catalogue(Dataset.resolve(opened, options, suffix=codec.suffix))


class Catalogue(Mapping[str, Output]):
    """An immutable mapping of names to outputs.

    Names come from metadata; those of genes are read when genes are first listed or looked up. An
    output is built on access, and kept.

    Parameters
    ----------
    dataset
        What is offered, and what is chosen of it.
    selected
        Names of the chosen outputs; None for all.
    """

    def __init__(self, dataset: Dataset, selected: frozenset[str] | None = None) -> None:
        self._dataset = dataset
        self._selected = selected
        self._built: dict[str, Output] = {}
        self._listed: dict[str, dict[str, Name]] = {}

    @property
    def dataset(self) -> Dataset:
        """What is offered, and what is chosen of it; for use inside this library."""
        return self._dataset

    @property
    def source(self) -> Source:
        """The dataset."""
        return self._dataset.source

    @property
    def options(self) -> Options:
        """The settings."""
        return self._dataset.options

    @property
    def latent_key(self) -> str | None:
        """The obsm key of the latent space that outlier quantiles are measured in, if any."""
        return self._dataset.latent_key

    def listed(self, kind: str) -> Mapping[str, Name]:
        """List the outputs of a kind by their names as text; for use inside this library."""
        if kind not in self._listed:
            names = KINDS[kind].names(self._dataset, KINDS[kind].keys(self._dataset))
            by_text = {str(name): name for name in names}
            if self._selected is not None:
                by_text = {text: by_text[text] for text in by_text if text in self._selected}
            self._listed[kind] = by_text
        return self._listed[kind]

    def find(self, name: str) -> Name:
        """Split a name that is offered, or raise MissingKeyError; for use inside this library."""
        if name not in self:
            key, _ = split_last(split_name(str(name))[1])
            left_out = self.source.left_out_error("obs column", key)
            raise left_out or missing_key("output", str(name), self, where=self.source.name)
        return self.listed(kind_of(name))[name]

    def rows(self) -> dict[str, list[Row]]:
        """Describe the outputs for a table, by kind; for use inside this library."""
        return {
            prefix: list(kind.rows(self._dataset, list(self.listed(prefix).values())))
            for prefix, kind in KINDS.items()
        }

    def problems(self) -> list[str]:
        """List the reasons, as sentences, why an export of all outputs would be refused."""
        return list(name_problems(name for kind in KINDS for name in self.listed(kind).values()))

    def __getitem__(self, name: str) -> Output:
        if name not in self._built:
            found = self.find(name)
            self._built[name] = KINDS[found.kind].build(self._dataset, found)
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        kind = kind_of(name)
        return kind in KINDS and name in self.listed(kind)

    def __iter__(self) -> Iterator[str]:
        for kind in KINDS:
            yield from self.listed(kind)

    def __len__(self) -> int:
        return sum(len(self.listed(kind)) for kind in KINDS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Catalogue):
            return NotImplemented
        mine, others = self._dataset, other._dataset
        same = mine.source is others.source and mine.options == others.options
        return same and mine.choice == others.choice and self._selected == other._selected

    def __hash__(self) -> int:
        return hash((self.options, self._selected))

    def names(self, kind: str | None = None) -> tuple[str, ...]:
        """List names.

        Parameters
        ----------
        kind
            First part of the names, such as ``"obs"``. Default: all kinds.

        Returns
        -------
        tuple of str
            In order; listing genes reads their names.

        Raises
        ------
        MissingKeyError
            For an unknown kind.
        """
        if kind is None:
            return tuple(self)
        if kind not in KINDS:
            raise missing_key("kind of output", str(kind), KINDS, where=self.source.name)
        return tuple(self.listed(kind))

    def select(self, *patterns: str, exclude: str | Iterable[str] = ()) -> Catalogue:
        """Narrow the catalogue.

        Parameters
        ----------
        patterns
            Names, or patterns with ``*``, ``?`` and ``[...]``, such as ``"obs/*"``,
            ``"var/CD3*"``. A name that is offered counts as itself, whatever its characters. With
            `exclude` alone, all.
        exclude
            Names or patterns to leave out of these, such as ``"var/MT-*"``.

        Returns
        -------
        Catalogue
            Offers what matches, in the same order. The manifests of an export made from it describe
            just that.

        Raises
        ------
        MissingKeyError
            When a pattern matches nothing.
        OptionError
            For a pattern that is not text.
        """
        left_out = self._all_matching([exclude] if isinstance(exclude, str) else exclude)
        selected = self._all_matching(patterns or (("*",) if left_out else ())) - left_out
        dataset = self._dataset
        kinds = {kind_of(name) for name in selected}
        for kind in KINDS:
            # Genes are not listed unless one is selected.
            names = self.listed(kind) if kind in kinds else {}
            keys = dict.fromkeys(name.key for text, name in names.items() if text in selected)
            dataset = dataset.choose(kind, keys)
        return Catalogue(dataset, frozenset(selected))

    def unquantized(self) -> Catalogue:
        """Offer continuous values as float32, to compute with, whatever the options encode."""
        options = replace(self.options, var_quantization=None, obs_continuous_quantization=None)
        dataset = replace(self._dataset, options=options, shared=Shared())
        return Catalogue(dataset, self._selected)

    @property
    def cell_names(self) -> da.Array:
        """The lazy names of the cells, text (n_cells,): the index of obs."""
        return unfused(self.source.cell_names(self._dataset.sizes))

    def isel(self, *, cell: Any) -> Catalogue:
        """Take some of the cells, as ``adata[cells]`` does.

        Parameters
        ----------
        cell
            A slice, a mask or positions, in the order wanted. A lazy one is computed.

        Returns
        -------
        Catalogue
            Of these cells, as if there were no others: embeddings, outlier quantiles and centroids
            are computed from these alone. Categories without a cell are dropped, and so are edges
            to other cells. If a cell is chosen twice, the neighbour graph is left out, with a
            LeftOutWarning.

        Raises
        ------
        DataError
            When no cell is left.
        OptionError
            When `cell` is none of these, or reaches beyond the cells.
        """
        n_cells = self.source.n_cells
        if not isinstance(cell, slice):
            if getattr(cell, "shape", ()) == (n_cells,) and cell.dtype.kind == "b":
                # If a mask names its cells, they must be these.
                cell = checked(self.source, f"{self.source.name}: isel(cell=...)", cell)
            cell = np.atleast_1d(np.asarray(cell))
            cell = cell if len(cell) else cell.astype(np.intp)
            is_mask = cell.dtype == bool and cell.shape == (n_cells,)
            if cell.ndim != 1 or not (is_mask or cell.dtype.kind in "iu"):
                raise OptionError(
                    f"{self.source.name}: isel(cell=...): give a slice, positions, or a mask of "
                    f"{n_cells:,} cells, not {cell.dtype} of shape {cell.shape}"
                )
        try:
            source = subset(self.source, cell, None, drop_unused=True)
        except IndexError as problem:
            raise OptionError(f"{self.source.name}: isel(cell=...): {problem}") from problem
        for sentence in source.left_out[len(self.source.left_out) :]:
            warnings.warn(f"{source.name}: {sentence}", LeftOutWarning, stacklevel=2)
        return Catalogue(self._dataset.with_cells(source), self._selected)

    def query(self, expression: str) -> Catalogue:
        """Take the cells for which an expression on obs columns is true.

        Parameters
        ----------
        expression
            As ``pandas.DataFrame.eval`` takes it, such as ``"louvain == 'B' and n_counts > 500"``.
            Keys that are no Python identifiers are quoted in backticks. Labels are text, ``'True'``
            and ``'10'`` too; continuous values are float32.

        Returns
        -------
        Catalogue
            Of these cells, as `isel` gives it. The columns that are named are read at once.

        Raises
        ------
        DataError
            When no cell is left.
        OptionError
            When the expression cannot be evaluated, or is no condition.
        """
        source = self.source
        keys = [key for key in source.obs if key in str(expression)]
        try:
            # Empty scopes: a name is a column, never a variable of this function.
            frame = obs_frame(self._dataset, keys)
            found = np.asarray(
                frame.eval(expression, engine="python", local_dict={}, global_dict={})
            )
        except CellucidLazyError:
            raise
        except Exception as problem:  # pandas and Python raise errors of any type here
            raise OptionError(
                f"{source.name}: {expression!r} cannot be evaluated ({problem}); obs has "
                f"{', '.join(list(source.obs)[:10])}"
            ) from problem
        if found.dtype != bool or found.shape != (source.n_cells,):
            raise OptionError(
                f"{source.name}: {expression!r} is no condition on obs; compare a column, such as "
                "in \"louvain == 'B'\""
            )
        if not found.any():
            raise DataError(f"{source.name}: no cell has {expression}")
        return self.isel(cell=found)

    def assign(
        self,
        *,
        obs: Mapping[str, Any] | None = None,
        embeddings: Mapping[int | str, Any] | None = None,
        vectors: Mapping[str, Any] | None = None,
    ) -> Catalogue:
        """Add what a user computed, as outputs like any other.

        Values are NumPy, pandas, dask or xarray, one row per cell. Lazy ones stay lazy. If they
        name their cells, by an index or a coordinate ``cell_id``, the names must be those of the
        dataset, in the same order; names are read for that.

        Parameters
        ----------
        obs
            Columns of obs by key: numbers are continuous; text, bool, categoricals and codes with
            the attributes ``flag_values`` and ``flag_meanings`` are categories. They take the
            place of columns of the same key.
        embeddings
            Values of one to three columns by name, or by dimension, such as ``{2: values}``. They
            take the place of the embedding of their number of columns.
        vectors
            Vector fields by name, on the embedding of their number of columns.

        Returns
        -------
        Catalogue
            Has these among its outputs, even where `select` has chosen others.

        Raises
        ------
        DataError
            When values do not fit the cells.
        OptionError
            When an embedding or a vector field has a number of columns that is not shown.
        """
        source = self.source
        obs, embeddings, vectors = (
            _by_name(name, values)
            for name, values in {"obs": obs, "embeddings": embeddings, "vectors": vectors}.items()
        )
        self._warn_if_quantized(obs)
        new, keys = assign(
            self._dataset,
            {key: obs_column(source, key, one) for key, one in obs.items()},
            {key: obsm_entry(source, key, one) for key, one in embeddings.items()},
            {key: obsm_entry(source, key, one) for key, one in vectors.items()},
        )
        whole = Catalogue(replace(new, choice={}))
        if self._selected is None:
            return whole
        kept = [name for name in self if name in whole]
        added = [
            str(name)
            for kind in ("obs", "points", "vectors")
            for name in whole.listed(kind).values()
            if (kind, name.key) in keys
        ]
        return whole.select(*kept, *added)

    def _warn_if_quantized(self, obs: Mapping[str, Any]) -> None:
        """Warn of lazy values that may come from quantized ones."""
        options = self.options
        if options.var_quantization is None and options.obs_continuous_quantization is None:
            return
        for key, values in obs.items():
            if is_dask_collection(values) and np.dtype(values.dtype) in (np.uint8, np.uint16):
                warnings.warn(
                    f"{self.source.name}: obs {key!r} holds {values.dtype}; if it was computed "
                    "from outputs, these are quantized: compute it from catalogue.unquantized()",
                    UserWarning,
                    stacklevel=3,
                )

    def _all_matching(self, patterns: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise OptionError(f"select({pattern!r}): give patterns one by one, as texts")
            matches = self._matching(pattern)
            if not matches:
                raise missing_key("output matching", pattern, self, where=self.source.name)
            found.update(matches)
        return found

    def _matching(self, pattern: str) -> list[str]:
        matches: list[str] = []
        for kind in KINDS:
            if _may_match(pattern, f"{kind}/"):
                names = self.listed(kind)
                matches += [pattern] if pattern in names else fnmatch.filter(names, pattern)
        return matches

    def __reduce__(self) -> tuple[type[Catalogue], tuple[Dataset, frozenset[str] | None]]:
        return Catalogue, (self._dataset, self._selected)

    def as_text(self, width: int | None = None) -> str:
        """Format the catalogue, `width` characters wide if given; for use inside this library."""
        return as_text(self._title(), self._table(), below=self._notes(), width=width)

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return as_html(self._title(), self._table(), head=_HEAD, below=self._notes())

    def _notes(self) -> list[str]:
        """List the stored matrices, if X is not the only one, and obs columns with colours."""
        source, notes = self.source, []
        if set(source.matrices) - {"X"}:
            shapes = [f"{key} {format_shape(shape)}" for key, shape in source.matrices.items()]
            notes.append(f"  matrices: {', '.join(shapes)}")
        colored = [key for key in self._dataset.obs_keys if source.obs[key].read_colors]
        if colored:
            notes.append(f"  colours of: {', '.join(colored)}")
        return notes

    def _title(self) -> str:
        source = self.source
        cells, genes = format_count(source.n_cells, "cell"), format_count(source.n_genes, "gene")
        return f"Catalogue of {source.name}: {cells} x {genes}"

    def _table(self) -> Iterator[tuple[str, ...]]:
        for kind, rows in self.rows().items():
            yield from (row.cells for row in rows[:_MAX_ROWS])
            if len(rows) > _MAX_ROWS:
                yield Row(f"... and {len(rows) - _MAX_ROWS:,} more of {kind}/*").cells


def check_catalogue(given: object) -> None:
    """Raise OptionError for what is not a catalogue."""
    if not isinstance(given, Catalogue):
        raise OptionError(
            f"a catalogue is needed, not {type(given).__name__}: pass what cl.outputs(...) returns"
        )


def _by_name(argument: str, values: Any) -> Mapping[Any, Any]:
    """Return assigned values by name; columns of a DataFrame have their own."""
    if values is None:
        return {}
    if isinstance(values, pd.DataFrame):
        return {str(key): values.iloc[:, at] for at, key in enumerate(values.columns)}
    if not isinstance(values, Mapping):
        raise OptionError(
            f"{argument}: give values by name, such as {argument}={{'name': values}}, not "
            f"{type(values).__name__}"
        )
    return values


def _may_match(pattern: str, start: str) -> bool:
    """Return whether a pattern can match names with this start, by its text before wildcards."""
    wildcard = _WILDCARD.search(pattern)
    literal = pattern[: wildcard.start()] if wildcard else pattern
    return literal.startswith(start) or (wildcard is not None and start.startswith(literal))
