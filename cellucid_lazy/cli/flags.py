"""The options of the command line: a row each, named after the setting that it fills.

An option that is not given is not passed on, so defaults are the library's own.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_SWITCH = MappingProxyType({"action": "store_true"})
_NAMES = MappingProxyType({"nargs": "+", "action": "extend", "metavar": "NAME"})
_DIMENSIONS = MappingProxyType({"type": int, "choices": (2, 3)})
_BITS = MappingProxyType({"type": int, "choices": (8, 16)})


class Flag(NamedTuple):
    """One option.

    Attributes
    ----------
    flag
        As typed.
    setting
        The argument of the library that it fills.
    help
        One line.
    more
        Further arguments of ``add_argument``.
    """

    flag: str
    setting: str
    help: str
    more: Mapping[str, Any] = _NOTHING


def _text(metavar: str) -> Mapping[str, Any]:
    return {"metavar": metavar}


def positive(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def compression(text: str) -> int | str:
    """Read a gzip level, or the name and level of a codec."""
    return int(text) if text.lstrip("-").isdigit() else text


class _Pair(argparse.Action):
    """Collects KEY=VALUE into a mapping; errors do not repeat the value, which may be secret."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        key, equals, text = values.partition("=")
        if not key or not equals:
            raise argparse.ArgumentError(self, "give KEY=VALUE")
        try:
            value = _option_value(text)
        except ValueError as problem:
            raise argparse.ArgumentError(self, f"{key}: is not valid JSON") from problem
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), key: value})


def _option_value(text: str) -> Any:
    """Read a switch or JSON; all else is text, also numbers, which keys may look like."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return json.loads(text) if text.startswith(("{", "[")) else text


# Arguments of `cellucid_lazy.open`.
OPENING = (
    Flag("--layer", "layer", "layer that serves as expression (default: X)", _text("KEY")),
    Flag("--use-raw", "use_raw", "take raw.X as expression", _SWITCH),
    Flag(
        "--neighbors-key", "neighbors_key", "neighbour graph, as scanpy's key_added", _text("KEY")
    ),
    Flag("--modality", "modality", "modality of a MuData file", _text("NAME")),
    Flag("--table", "table", "table of a SpatialData store", _text("NAME")),
    Flag(
        "--storage-option",
        "storage_options",
        "of a URL, such as anon=true or endpoint_url=https://...; may be repeated",
        {"action": _Pair, "metavar": "KEY=VALUE"},
    ),
)

# Fields of `Options` that say what is offered.
OFFER = (
    Flag("--obs-keys", "obs_keys", "obs columns to offer (default: all)", _NAMES),
    Flag("--genes", "genes", "genes to offer (default: all)", _NAMES),
    Flag("--gene-id-column", "gene_id_column", "column of var with gene names", _text("KEY")),
    Flag(
        "--embedding",
        "embeddings",
        "obsm key of a dimension, such as 2=X_tsne or 3=X_pca[:3]; may be repeated",
        {"action": _Pair, "metavar": "DIMENSION=KEY"},
    ),
    Flag(
        "--rename",
        "rename",
        "another name, such as obs/OLD=NEW or var/OLD=NEW; may be repeated",
        {"action": _Pair, "metavar": "OLD=NEW"},
    ),
    Flag("--latent-key", "latent_key", "obsm key for outlier quantiles", _text("KEY")),
)

# Which cells are taken.
CELLS = (
    Flag(
        "--where",
        "where",
        "cells for which this holds, such as \"louvain == 'B' and n_counts > 500\"",
        _text("EXPRESSION"),
    ),
    Flag(
        "--sample",
        "sample",
        "so many cells, drawn at random, in their order",
        {"type": positive, "metavar": "N"},
    ),
    Flag("--seed", "seed", "of --sample: the same cells each time", {"type": int, "metavar": "N"}),
)

# Fields of `Options` that say how it is encoded.
ENCODING = (
    Flag(
        "--compression",
        "compression",
        "gzip level 1-9, 1 is fastest; 0 for none (the default)",
        {"type": compression, "metavar": "N"},
    ),
    Flag("--quantize-genes", "var_quantization", "bits per gene value", _BITS),
    Flag("--quantize-obs", "obs_continuous_quantization", "bits per continuous obs value", _BITS),
    Flag(
        "--categorical-dtype",
        "obs_categorical_dtype",
        "type of category codes",
        {"choices": ("auto", "uint8", "uint16")},
    ),
    Flag(
        "--no-normalize",
        "normalize_embeddings",
        "keep the embeddings' own coordinates",
        {"action": "store_false"},
    ),
    Flag(
        "--centroid-quantile",
        "centroid_outlier_quantile",
        "cells beyond it are left out of centroids (default: 0.95)",
        {"type": float, "metavar": "Q"},
    ),
    Flag(
        "--centroid-min-points",
        "centroid_min_points",
        "smallest category with a centroid and outlier quantiles (default: 10)",
        {"type": int, "metavar": "N"},
    ),
)

# Fields of `Options` that say what the dataset is called.
IDENTITY = (
    Flag("--name", "dataset_name", "name of the dataset", _text("TEXT")),
    Flag("--id", "dataset_id", "its identifier", _text("TEXT")),
    Flag("--description", "description", "a sentence about it", _text("TEXT")),
    Flag("--source-name", "source_name", "where the data come from", _text("TEXT")),
    Flag("--source-url", "source_url", "their address", _text("URL")),
    Flag("--source-citation", "source_citation", "how to cite them", _text("TEXT")),
)

SETTINGS = (*OFFER, *ENCODING, *IDENTITY)

# Arguments of `to_bytes` and `to_directory`.
WORK = (
    Flag(
        "--memory-budget",
        "memory_budget",
        "such as 1GB, at least 64MB (default: a quarter of memory)",
        _text("SIZE"),
    ),
    Flag("--scratch", "scratch", "folder for intermediate blocks", _text("FOLDER")),
)

# Of `to_directory` alone.
REPLACE = (Flag("--overwrite", "overwrite", "replace an earlier export", _SWITCH),)

# Arguments of `plot.embedding`.
PICTURE = (
    Flag(
        "--color",
        "color",
        "obs column or gene, such as louvain or CD3E; of two with one name the column "
        "(default: how many cells there are)",
        _text("NAME"),
    ),
    Flag("--dim", "dim", "dimensions of the embedding (default: 2)", _DIMENSIONS),
)

# Configuration of dask.
SCHEDULING = (
    Flag("--threads", "num_workers", "number of threads", {"type": positive, "metavar": "N"}),
)


def add_flags(parser: argparse.ArgumentParser, title: str, flags: tuple[Flag, ...]) -> None:
    """Add a titled group of options."""
    group = parser.add_argument_group(title)
    for flag in flags:
        group.add_argument(
            flag.flag, dest=flag.setting, help=flag.help, default=argparse.SUPPRESS, **flag.more
        )


_FLAGS = {
    flag.setting: flag.flag
    for flag in (*OPENING, *SETTINGS, *WORK, *REPLACE, *PICTURE, *SCHEDULING)
}
# A setting with its value, or its name where that is no word of English; no part of a path.
_VALUE = r"True|-?\d[\d.]*|'[^']*'|\"[^\"]*\"|\{[^{}]*\}|\[[^\[\]]*\]"
_SETTING = re.compile(
    rf"(?<![\w/.'\"-])(?:({'|'.join(_FLAGS)})=({_VALUE})?"
    rf"|({'|'.join(name for name in _FLAGS if '_' in name)}))(?![\w=/])"
)
# Python with the flag that does the same behind it.
_BOTH = re.compile(r"(?:Options\(\S[^()]*\)|\w+=(?:'[^']*'|\S+)|select) \((--[^()]*)\)")


def in_flags(sentence: str) -> str:
    """Put a message of the library, which names settings as in Python, in terms of flags."""
    return _SETTING.sub(_typed, _BOTH.sub(r"\1", sentence))


def _typed(found: re.Match[str]) -> str:
    """Write a setting as it is typed: ``layer='counts'`` becomes ``--layer counts``."""
    flag, value = _FLAGS[found[1] or found[3]], found[2]
    if value in (None, "True"):
        return flag
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return f"{flag} {value}"
    if isinstance(read, dict):
        read = [f"{key}={one}" for key, one in read.items()]
    return shlex.join([flag, *map(str, read if isinstance(read, list) else [read])])


def given(arguments: argparse.Namespace, flags: tuple[Flag, ...]) -> dict[str, Any]:
    """Collect the settings of those options that were given."""
    named = vars(arguments)
    return {flag.setting: named[flag.setting] for flag in flags if flag.setting in named}
