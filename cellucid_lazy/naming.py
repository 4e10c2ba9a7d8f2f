"""Names of files: the safe name of a key, and what must not share one.

The viewer rebuilds every path from its key by this rule, so it is part of the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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
                f"{LONGEST_STEM} fit; {fix}"
            )
        if safe in owners:
            raise CollisionError(
                f"{kind} {owners[safe]!r} and {key!r} share the file name {safe!r}, and the viewer "
                f"would show one under both names; {fix}"
            )
        owners[safe] = key
