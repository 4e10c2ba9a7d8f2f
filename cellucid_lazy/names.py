"""Names of outputs and of files: what an output is called, and the safe name of a key.

The viewer rebuilds every path from its key by `safe_name`, so that rule is part of the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

# Most file systems allow 255 bytes; the longest suffix is ".outliers.f32.gz", and a temporary
# name needs a few bytes more.
LONGEST_STEM = 220

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Name(NamedTuple):
    """What an output is called: ``kind/key``, or ``kind/key/part``.

    Attributes
    ----------
    kind
        Prefix of its kind, such as ``"obs"``.
    key
        What is chosen: an obs column, a gene, a dimension.
    part
        Which of a key's outputs it is, such as ``"codes"``; empty where a key has one.
    """

    kind: str
    key: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.key}/{self.part}" if self.part else f"{self.kind}/{self.key}"


def kind_of(name: str, /) -> str:
    """Return the kind that an output's name begins with."""
    return name.partition("/")[0]


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


# By dtype, not by its name: NumPy makes a name anew each time, and there are many genes.
_EXTENSIONS = {np.dtype(np.float32): "f32", np.dtype(np.uint8): "u8", np.dtype(np.uint16): "u16"}


def file_extension(dtype: np.dtype[Any], /) -> str:
    """Return the extension of files that hold float32, uint8 or uint16."""
    return _EXTENSIONS[dtype]


def values_dtype(bits: int | None, /) -> np.dtype[Any]:
    """Return the type of continuous values: float32, or an unsigned integer of so many bits."""
    return np.dtype(np.float32 if bits is None else f"uint{bits}")


def name_problems(names: Iterable[Name]) -> Iterator[str]:
    """Find outputs that cannot be in one folder.

    Yields a sentence for each kind of which two keys would share a file, or one has a file name
    that is too long.
    """
    owners: dict[tuple[str, str], str] = {}
    refused: set[str] = set()
    for kind, key in dict.fromkeys((name.kind, name.key) for name in names):
        safe = safe_name(key)
        owner = owners.setdefault((kind, safe), key)
        if kind in refused:
            continue
        if len(safe) > LONGEST_STEM:
            refused.add(kind)
            yield (
                f"{kind} {key[:60]!r}...: its file name would have {len(safe)} characters, "
                f"{LONGEST_STEM} fit; {_WAY_OUT}"
            )
        elif owner != key:
            refused.add(kind)
            yield (
                f"{kind} {owner!r} and {key!r} share the file name {safe!r}, and the viewer would "
                f"show one under both names; {_WAY_OUT}"
            )


def names_by_case(names: Iterable[Name]) -> Iterator[tuple[str, str]]:
    """Find outputs whose files differ in case only; yields the names of two of them.

    Many disks of macOS and Windows take them for one file.
    """
    owners: dict[tuple[str, str], Name] = {}
    for name in names:
        owner = owners.setdefault((name.kind, safe_name(name.key).lower()), name)
        if safe_name(owner.key) != safe_name(name.key):
            yield f"{owner.kind}/{owner.key}", f"{name.kind}/{name.key}"


_WAY_OUT = (
    "rename one: Options(rename={...}) (--rename), or leave one out with select (--select, "
    "--exclude)"
)


# Attributes of codes in xarray; the first two are those of the CF conventions.
FLAG_VALUES, FLAG_MEANINGS, MISSING_CODE = "flag_values", "flag_meanings", "missing_code"
STORED_DTYPE = "stored_dtype"
# The labels as JSON, where flag_meanings had to change them.
TRUE_LABELS = "true_labels"


def are_codes(dtype: Any, attributes: Mapping[Any, Any]) -> bool:
    """Tell whether values of xarray are codes, by the attribute ``flag_values``.

    What is computed from codes keeps their attributes: bool, or whole numbers of another type than
    their ``stored_dtype``, are none. Floats are, since missing values turn codes into floats.

    Parameters
    ----------
    dtype
        Of the values.
    attributes
        Of the variable.

    Returns
    -------
    bool
        Whether each value stands for a label, or a missing one.
    """
    kind, stored = getattr(dtype, "kind", "O"), attributes.get(STORED_DTYPE, dtype)
    return FLAG_VALUES in attributes and (kind == "f" or (kind in "iu" and bool(dtype == stored)))
