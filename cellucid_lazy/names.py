"""Names of outputs and of their files.

The viewer derives paths from keys by the rule of `safe_name`: the rule is part of the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

# Most file systems allow 255 bytes; the longest suffix is ".outliers.f32.gz", and a temporary
# name needs a few bytes more.
_MAX_STEM = 220

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_REMEDY = (
    "rename one: Options(rename={...}) (--rename), or leave one out with select (--select, "
    "--exclude)"
)


class Name(NamedTuple):
    """Name of an output: ``kind/key``, or ``kind/key/part``.

    Attributes
    ----------
    kind
        Kind of output, such as ``"obs"``.
    key
        Key of an obs column, a gene, a dimension or the like.
    part
        Which of the key's outputs, such as ``"codes"``; empty where it has one.
    """

    kind: str
    key: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.key}/{self.part}" if self.part else f"{self.kind}/{self.key}"


def split_name(name: str, /) -> tuple[str, str]:
    """Split an output's name into its kind and the rest: its key, and the part if it has one."""
    kind, _, rest = name.partition("/")
    return kind, rest


def split_last(key: str, /) -> tuple[str, str]:
    """Split the last part off a key, such as the dimension off ``velocity_umap/2d``."""
    start, _, last = key.rpartition("/")
    return start, last


def kind_of(name: str, /) -> str:
    """Return the kind that an output's name begins with."""
    return split_name(name)[0]


def safe_name(key: str, /) -> str:
    """Make a key safe for a file name.

    Every run of characters outside ``A-Za-z0-9._-`` becomes ``_``; leading and trailing ``.`` and
    ``_`` are stripped; an empty result is ``field``.

    Parameters
    ----------
    key
        Any text.

    Returns
    -------
    str
        ASCII text without separators, never empty, ``.`` or ``..``.
    """
    return _UNSAFE.sub("_", key).strip("._") or "field"


# By dtype: NumPy computes the name of a dtype each time, and there are many genes.
_EXTENSIONS = {np.dtype(np.float32): "f32", np.dtype(np.uint8): "u8", np.dtype(np.uint16): "u16"}


def file_extension(dtype: np.dtype[Any], /) -> str:
    """Return the extension of a file of float32, uint8 or uint16."""
    return _EXTENSIONS[dtype]


def values_dtype(bits: int | None, /) -> np.dtype[Any]:
    """Return the dtype of continuous values: unsigned integers of `bits`, float32 for None."""
    return np.dtype(np.float32 if bits is None else f"uint{bits}")


def name_problems(names: Iterable[Name]) -> Iterator[str]:
    """Find outputs that cannot be in one folder.

    Parameters
    ----------
    names
        Names of all outputs of the folder.

    Yields
    ------
    str
        A sentence for each kind in which two keys share a file, or a file name is too long.
    """
    owners: dict[tuple[str, str], str] = {}
    refused: set[str] = set()
    for kind, key in dict.fromkeys((name.kind, name.key) for name in names):
        safe = safe_name(key)
        owner = owners.setdefault((kind, safe), key)
        if kind in refused:
            continue
        if len(safe) > _MAX_STEM:
            refused.add(kind)
            yield (
                f"{kind} {key[:60]!r}...: its file name would have {len(safe)} characters, "
                f"{_MAX_STEM} fit; {_REMEDY}"
            )
        elif owner != key:
            refused.add(kind)
            yield (
                f"{kind} {owner!r} and {key!r} share the file name {safe!r}, and the viewer would "
                f"show one under both names; {_REMEDY}"
            )


def names_by_case(names: Iterable[Name]) -> Iterator[tuple[str, str]]:
    """Find outputs whose files differ in case only.

    On many disks of macOS and Windows these would be one file.

    Parameters
    ----------
    names
        Names of all outputs of a folder.

    Yields
    ------
    tuple of str
        Kind and key of two such outputs.
    """
    owners: dict[tuple[str, str], Name] = {}
    for name in names:
        owner = owners.setdefault((name.kind, safe_name(name.key).lower()), name)
        if safe_name(owner.key) != safe_name(name.key):
            yield f"{owner.kind}/{owner.key}", f"{name.kind}/{name.key}"


# Attributes of codes in xarray; the first two are those of the CF conventions.
FLAG_VALUES, FLAG_MEANINGS, MISSING_CODE = "flag_values", "flag_meanings", "missing_code"
STORED_DTYPE = "stored_dtype"
# The labels as JSON, where flag_meanings had to change them.
TRUE_LABELS = "true_labels"


def are_codes(dtype: Any, attributes: Mapping[Any, Any]) -> bool:
    """Return whether the values of an xarray variable are codes, by its attribute ``flag_values``.

    xarray keeps attributes through arithmetic, so booleans, and integers of another dtype than
    ``stored_dtype``, do not count as codes. Floats do, since missing values turn codes into floats.

    Parameters
    ----------
    dtype
        Dtype of the values.
    attributes
        Attributes of the variable.

    Returns
    -------
    bool
        Whether each value is the code of a label, or missing.
    """
    kind, stored = getattr(dtype, "kind", "O"), attributes.get(STORED_DTYPE, dtype)
    return FLAG_VALUES in attributes and (kind == "f" or (kind in "iu" and bool(dtype == stored)))
