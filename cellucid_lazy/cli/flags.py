"""The options of the command line: a row each, with the setting of the library that it fills.

Only options that are given are passed on, so defaults are the library's own.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Flag(NamedTuple):
    """One option.

    Attributes
    ----------
    flag
        Name on the command line.
    setting
        Name of the library's argument.
    help
        One line.
    more
        Other arguments of ``add_argument``.
    """

    flag: str
    setting: str
    help: str
    more: dict[str, Any]


def positive(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def compression(text: str) -> int | str:
    """Read a gzip level, or the name and level of a codec."""
    return int(text) if text.lstrip("-").isdigit() else text


class _Pair(argparse.Action):
    """Collects KEY=VALUE in a mapping; errors do not repeat the value, which may be secret."""

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
    """Read true, false, or JSON in brackets; all else is text, since a key may be a number."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return json.loads(text) if text.startswith(("{", "[")) else text


def _value(metavar: str, read: Callable[[str], Any] = str) -> dict[str, Any]:
    return {"metavar": metavar, "type": read}


def _choice(*values: int | str) -> dict[str, Any]:
    return {"type": type(values[0]), "choices": values}


def _pairs(metavar: str) -> dict[str, Any]:
    return {"metavar": metavar, "action": _Pair}


_SWITCH = {"action": "store_true"}
_NAMES = {"nargs": "+", "action": "extend", "metavar": "NAME"}

# Arguments of `cellucid_lazy.open`.
OPENING = (
    Flag("--layer", "layer", "layer that serves as expression (default: X)", _value("KEY")),
    Flag("--use-raw", "use_raw", "take raw.X as expression", _SWITCH),
    Flag(
        "--neighbors-key", "neighbors_key", "neighbour graph, as scanpy's key_added", _value("KEY")
    ),
    Flag("--modality", "modality", "modality of a MuData file", _value("NAME")),
    Flag("--table", "table", "table of a SpatialData store", _value("NAME")),
    Flag(
        "--storage-option",
        "storage_options",
        "option for a URL, such as anon=true or endpoint_url=https://...; may be repeated",
        _pairs("KEY=VALUE"),
    ),
)

# Fields of `Options` that say what is offered.
OFFER = (
    Flag("--obs-keys", "obs_keys", "obs columns to offer (default: all)", _NAMES),
    Flag("--genes", "genes", "genes to offer (default: all)", _NAMES),
    Flag("--gene-id-column", "gene_id_column", "column of var with gene names", _value("KEY")),
    Flag(
        "--embedding",
        "embeddings",
        "obsm key of a dimension, such as 2=X_tsne or 3=X_pca[:3]; may be repeated",
        _pairs("DIMENSION=KEY"),
    ),
    Flag(
        "--rename",
        "rename",
        "another name, such as obs/OLD=NEW or var/OLD=NEW; may be repeated",
        _pairs("OLD=NEW"),
    ),
    Flag("--latent-key", "latent_key", "obsm key for outlier quantiles", _value("KEY")),
)

# Which cells are taken.
CELLS = (
    Flag(
        "--where",
        "where",
        "cells for which this holds, such as \"louvain == 'B' and n_counts > 500\"",
        _value("EXPRESSION"),
    ),
    Flag(
        "--sample",
        "sample",
        "number of cells to draw at random; they keep their order",
        _value("N", positive),
    ),
    Flag("--seed", "seed", "seed of --sample, to draw the same cells again", _value("N", int)),
)

# Fields of `Options` that say how it is encoded.
ENCODING = (
    Flag(
        "--compression",
        "compression",
        "gzip level 1-9, 1 is fastest; 0 for none (the default)",
        _value("N", compression),
    ),
    Flag("--quantize-genes", "var_quantization", "bits per gene value", _choice(8, 16)),
    Flag(
        "--quantize-obs",
        "obs_continuous_quantization",
        "bits per continuous obs value",
        _choice(8, 16),
    ),
    Flag(
        "--categorical-dtype",
        "obs_categorical_dtype",
        "type of category codes",
        _choice("auto", "uint8", "uint16"),
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
        _value("Q", float),
    ),
    Flag(
        "--centroid-min-points",
        "centroid_min_points",
        "smallest category with a centroid and outlier quantiles (default: 10)",
        _value("N", int),
    ),
)

# Fields of `Options` that say what the dataset is called.
IDENTITY = (
    Flag("--name", "dataset_name", "name of the dataset", _value("TEXT")),
    Flag("--id", "dataset_id", "its identifier", _value("TEXT")),
    Flag("--description", "description", "a sentence about it", _value("TEXT")),
    Flag("--source-name", "source_name", "where the data come from", _value("TEXT")),
    Flag("--source-url", "source_url", "their address", _value("URL")),
    Flag("--source-citation", "source_citation", "how to cite them", _value("TEXT")),
)

SETTINGS = (*OFFER, *ENCODING, *IDENTITY)

# Arguments of `to_bytes` and `to_directory`.
WORK = (
    Flag(
        "--memory-budget",
        "memory_budget",
        "such as 1GB, at least 64MB (default: a quarter of memory)",
        _value("SIZE"),
    ),
    Flag("--scratch", "scratch", "folder for intermediate blocks", _value("FOLDER")),
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
        _value("NAME"),
    ),
    Flag("--dim", "dim", "dimensions of the embedding (default: 2)", _choice(2, 3)),
)

# Configuration of dask.
SCHEDULING = (Flag("--threads", "num_workers", "number of threads", _value("N", positive)),)


def add_flags(parser: argparse.ArgumentParser, groups: Mapping[str, tuple[Flag, ...]]) -> None:
    """Add groups of options by their titles."""
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            group.add_argument(
                flag.flag, dest=flag.setting, help=flag.help, default=argparse.SUPPRESS, **flag.more
            )


_FLAGS = {
    flag.setting: flag.flag
    for flag in (*OPENING, *SETTINGS, *WORK, *REPLACE, *PICTURE, *SCHEDULING)
}
# A setting with its value, or the name of a setting if it is no English word; no part of a path.
_VALUE = r"True|-?\d[\d.]*|'[^']*'|\"[^\"]*\"|\{[^{}]*\}|\[[^\[\]]*\]"
_SETTING = re.compile(
    rf"(?<![\w/.'\"-])(?:({'|'.join(_FLAGS)})=({_VALUE})?"
    rf"|({'|'.join(name for name in _FLAGS if '_' in name)}))(?![\w=/])"
)
# Python followed by the flag that does the same.
_BOTH = re.compile(r"(?:Options\(\S[^()]*\)|\w+=(?:'[^']*'|\S+)|select) \((--[^()]*)\)")


def in_flags(sentence: str) -> str:
    """Rewrite the settings in a message of the library, named as in Python, as flags."""
    return _SETTING.sub(_typed, _BOTH.sub(r"\1", sentence))


def _typed(found: re.Match[str]) -> str:
    """Write a setting as a flag: ``layer='counts'`` becomes ``--layer counts``."""
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
    """Return the settings of the flags that were given."""
    named = vars(arguments)
    return {flag.setting: named[flag.setting] for flag in flags if flag.setting in named}
