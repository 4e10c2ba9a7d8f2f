"""Options: the settings of a catalogue's outputs, validated once and frozen."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from cellucid_lazy.errors import OptionError, missing_key
from cellucid_lazy.show import as_html

DEFAULT_QUANTILE = 0.95
DEFAULT_MIN_POINTS = 10


class _NamedSettings:
    """Base of Options: an unknown setting is an OptionError that suggests those that exist."""

    # Not in Options itself, whose signature is to be that of its fields.
    def __new__(cls, **settings: Any) -> Self:
        names = cls.__annotations__
        for name in settings:
            if name not in names:
                raise OptionError(str(missing_key("setting", name, names, where=cls.__name__)))
        return super().__new__(cls)


@dataclass(frozen=True, kw_only=True)
class Options(_NamedSettings):
    """Settings of the outputs and their encoding.

    Parameters
    ----------
    dataset_name
        Human-readable name. Default: the file's name without its suffix.
    dataset_id
        Identifier. Default: the name, made safe for file names.
    description
        Text for the identity.
    source_name, source_url, source_citation
        Where the data come from.
    latent_key
        obsm key of the latent space for outlier quantiles. Default: found by name.
    gene_id_column
        ``"index"``, or the column of var that holds the gene identifiers.
    normalize_embeddings
        Whether embeddings are centred and scaled into [-1, 1].
    centroid_outlier_quantile
        Cells of a category beyond this quantile of distance are left out of its centroid;
        in (0.5, 1), else 0.95 with a warning.
    centroid_min_points
        Smallest category that gets a centroid and outlier quantiles; at least 1, else 10 with a
        warning.
    embeddings
        For each dimension (1, 2, 3) the obsm key of its embedding, such as ``{2: "X_tsne"}``; with
        the columns to take where it has others: ``{3: "X_pca[:3]"}``. Default: UMAP.
    rename
        Other names for obs columns and genes, such as ``{"obs/细胞类型": "cell type"}``. All
        other settings use the new names.
    obs_keys
        obs columns to offer. Default: all.
    genes
        Gene identifiers to offer. Default: all.
    var_quantization, obs_continuous_quantization
        8 or 16 bits, or None for float32.
    obs_categorical_dtype
        ``"auto"`` (by the number of categories), ``"uint8"`` or ``"uint16"``.
    compression
        gzip level 1-9, or ``"name:level"`` of another codec; 0 or None for none.
    manifest_shape
        ``"export"``, the shape of an exported folder, or ``"live"``, the one that the
        reference's server answers.
    created_at
        Time stamp of the identity, ``YYYY-MM-DDTHH:MM:SSZ``. Default: now.

    Raises
    ------
    OptionError
        For a value outside its range.
    """

    dataset_name: str | None = None
    dataset_id: str | None = None
    description: str | None = None
    source_name: str | None = None
    source_url: str | None = None
    source_citation: str | None = None
    latent_key: str | None = None
    gene_id_column: str = "index"
    normalize_embeddings: bool = True
    centroid_outlier_quantile: float = DEFAULT_QUANTILE
    centroid_min_points: int = DEFAULT_MIN_POINTS
    embeddings: Mapping[int | str, str] | tuple[tuple[str, str], ...] | None = None
    rename: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    obs_keys: tuple[str, ...] | None = None
    genes: tuple[str, ...] | None = None
    var_quantization: Literal[8, 16] | None = None
    obs_continuous_quantization: Literal[8, 16] | None = None
    obs_categorical_dtype: Literal["auto", "uint8", "uint16"] = "auto"
    compression: int | str | None = None
    manifest_shape: Literal["export", "live"] = "export"
    created_at: str | None = None

    def __post_init__(self) -> None:
        for name in ("obs_keys", "genes"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        object.__setattr__(self, "embeddings", _embeddings(self.embeddings))
        object.__setattr__(self, "rename", _rename(self.rename))
        for name, allowed in _CHOICES.items():
            _choice(name, getattr(self, name), allowed)
        object.__setattr__(self, "compression", compression_setting(self.compression))
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name == "gene_id_column" or (spec.type == "str | None" and value is not None):
                _text(spec.name, value)
        self._check_centroids()

    @property
    def chosen_embeddings(self) -> tuple[tuple[str, str], ...] | None:
        """Dimensions, such as ``"2d"``, and what was chosen for them; None for UMAP."""
        return _embeddings(self.embeddings)

    def _repr_html_(self) -> str:
        rows = [(one.name, repr(getattr(self, one.name))) for one in fields(self)]
        return as_html("Options", rows)

    def _check_centroids(self) -> None:
        quantile = _number("centroid_outlier_quantile", self.centroid_outlier_quantile)
        if not 0.5 < quantile < 1.0:
            warnings.warn(
                f"centroid_outlier_quantile={quantile} is not between 0.5 and 1; "
                f"{DEFAULT_QUANTILE} is used",
                stacklevel=4,
            )
            quantile = DEFAULT_QUANTILE
        min_points = _number("centroid_min_points", self.centroid_min_points)
        if min_points < 1:
            warnings.warn(
                f"centroid_min_points={min_points} is below 1; {DEFAULT_MIN_POINTS} is used",
                stacklevel=4,
            )
            min_points = DEFAULT_MIN_POINTS
        object.__setattr__(self, "centroid_outlier_quantile", float(quantile))
        object.__setattr__(self, "centroid_min_points", int(min_points))


_COLUMNS = re.compile(r"(.+)\[(\d*):(\d*)\]")


def parse_embedding(text: str) -> tuple[str, slice | None]:
    """Split the columns to take off an obsm key, such as ``"X_pca[:3]"``."""
    found = _COLUMNS.fullmatch(text)
    if found is None:
        return text, None
    start, stop = (int(one) if one else None for one in found.groups()[1:])
    return found[1], slice(start, stop)


def _rename(given: object) -> tuple[tuple[str, str], ...]:
    """Return old names, such as ``"obs/a"``, with the new keys."""
    try:
        pairs = dict(given)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise OptionError(f"rename={given!r}: give new names by old: {{'obs/a': 'b'}}") from None
    for old, new in pairs.items():
        _text("rename", old)
        _text(f"rename[{old!r}]", new)
        kind, _, key = old.partition("/")
        if kind not in ("obs", "var") or not key or not new:
            raise OptionError(
                f"rename={{{old!r}: {new!r}}}: {old!r} is none of obs/<column> and var/<gene>"
            )
    return tuple(pairs.items())


def _embeddings(given: object) -> tuple[tuple[str, str], ...] | None:
    """Return dimensions, such as ``"2d"``, and obsm keys; takes 2, "2" and "2d"."""
    if given is None:
        return None
    try:
        pairs = dict(given)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        pairs = {}
    if not pairs:
        raise OptionError(f"embeddings={given!r}: give obsm keys by dimension: {{2: 'X_tsne'}}")
    found: dict[str, str] = {}
    for dimension, key in pairs.items():
        name = f"{str(dimension).removesuffix('d')}d"
        if name not in ("1d", "2d", "3d"):
            raise OptionError(
                f"embeddings={{{dimension!r}: {key!r}}}: dimension {dimension!r} is none of 1, 2 "
                "and 3"
            )
        _text(f"embeddings[{dimension!r}]", key)
        found[name] = key
    return tuple(sorted(found.items()))


_CHOICES: dict[str, tuple[object, ...]] = {
    "normalize_embeddings": (True, False),
    "var_quantization": (None, 8, 16),
    "obs_continuous_quantization": (None, 8, 16),
    "obs_categorical_dtype": ("auto", "uint8", "uint16"),
    "manifest_shape": ("export", "live"),
}


_NAMED_CODEC = re.compile(r"([a-z][a-z0-9_-]*):(\d+)")


def compression_setting(given: Any) -> int | str | None:
    """Check and normalize a compression setting: a gzip level, ``"name:level"``, None or 0.

    ``"gzip:6"`` becomes 6, and 0 becomes None. The names of other codecs are not checked here.

    Raises
    ------
    OptionError
        For anything else.
    """
    level = given
    if isinstance(given, str) and (named := _NAMED_CODEC.fullmatch(given)):
        if named[1] != "gzip":
            return given
        level = int(named[2])
    elif given is None or (given == 0 and not isinstance(given, str)):
        return None
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= 9:
        raise OptionError(
            f"compression={given!r}: a gzip level is a whole number from 1 to 9; 0 is none"
        )
    return level


def _choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not any(value is one or (value == one and type(value) is type(one)) for one in allowed):
        shown = ", ".join(map(repr, allowed))
        raise OptionError(f"{name}={value!r}: choose one of {shown}")


def _names(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise OptionError(f"{name}={value!r}: give a list of names, such as {name}=[{value!r}]")
    names = tuple(dict.fromkeys(value))
    if odd := [one for one in names if not isinstance(one, str)]:
        raise OptionError(f"{name}: names are text, but {odd[0]!r} is {type(odd[0]).__name__}")
    return names


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise OptionError(f"{name}={value!r}: a number is needed")
    return value


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise OptionError(f"{name}={value!r}: text is needed, not {type(value).__name__}")
