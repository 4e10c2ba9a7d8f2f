"""Names of files: the safe name of a key, and what must not share one.

The viewer rebuilds every path from its key by this rule, so it is part of the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from cellucid_lazy.errors import CollisionError

# Most file systems allow 255 bytes; the longest suffix is ".outliers.f32.gz", and a temporary
# name needs a few bytes more.
LONGEST_STEM = 220

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


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


# By the first part of an output's name: what its keys are, and what the user can do.
_KEYED = {
    "obs": ("obs columns", "rename one, or choose with obs_keys"),
    "var": ("genes", "choose with genes, or another gene_id_column"),
    "vectors": ("vector fields", "rename one in obsm"),
}
_OR_SELECT = "or leave it out with select (--select)"


def name_problems(dataset: str, names: Iterable[str]) -> Iterator[str]:
    """Tell which outputs could not be in one folder.

    Parameters
    ----------
    dataset
        What messages call the dataset.
    names
        Of outputs, such as ``"obs/donor/codes"`` and ``"var/CD3E"``.

    Yields
    ------
    str
        One sentence for each kind of output of which two would share a file, or one has a name
        that is too long.
    """
    keys: dict[str, dict[str, None]] = {kind: {} for kind in _KEYED}
    for name in names:
        kind, _, rest = name.partition("/")
        if kind in keys:
            keys[kind][rest if kind == "var" else rest.rpartition("/")[0]] = None
    for kind, (what, fix) in _KEYED.items():
        try:
            check_collisions(f"{dataset}: {what}", keys[kind], fix=fix)
        except CollisionError as problem:
            yield str(problem)


def check_collisions(kind: str, keys: Iterable[str], *, fix: str) -> None:
    """Refuse keys that would share a file, or whose file name is too long.

    Parameters
    ----------
    kind
        What the keys are, such as ``"obs columns"``.
    keys
        Distinct keys.
    fix
        What the user can do, as the end of a sentence.

    Raises
    ------
    CollisionError
        Names both keys and the shared file name, or the key that is too long.
    """
    owners: dict[str, str] = {}
    for key in keys:
        safe = safe_name(key)
        if len(safe) > LONGEST_STEM:
            raise CollisionError(
                f"{kind} {key[:60]!r}...: its file name would have {len(safe)} characters, "
                f"{LONGEST_STEM} fit; {fix}, {_OR_SELECT}"
            )
        if safe in owners:
            raise CollisionError(
                f"{kind} {owners[safe]!r} and {key!r} share the file name {safe!r}, and the viewer "
                f"would show one under both names; {fix}, {_OR_SELECT}"
            )
        owners[safe] = key
