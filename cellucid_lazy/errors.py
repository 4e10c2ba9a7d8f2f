"""Errors and warnings for users; messages name the file, the key, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any


def printable(text: str) -> str:
    r"""Escape control and invisible characters, except line ends, as `repr` does: ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)


class _Message:
    """A message that is safe to print, whatever the names in it."""

    args: tuple[Any, ...]

    def __str__(self) -> str:
        return printable(" ".join(map(str, self.args)))


class CellucidLazyError(_Message, Exception):
    """Base of every error this library raises on purpose."""


class DataError(CellucidLazyError, ValueError):
    """A dataset that cannot be used as it is: unreadable, inconsistent or incomplete."""


class MissingFileError(DataError, FileNotFoundError):
    """A path that does not exist."""


class ChangedError(DataError):
    """A dataset that changed since it was opened; open it again."""


class FieldError(DataError):
    """A field that cannot be shown; the rest of the dataset can."""


class MissingKeyError(CellucidLazyError, KeyError):
    """A name that the dataset does not have; the message lists close matches."""


class OptionError(CellucidLazyError, ValueError):
    """A setting that does not exist or is outside its range."""


class CollisionError(CellucidLazyError, ValueError):
    """Two outputs with the same file."""


class ExportError(CellucidLazyError, OSError):
    """A target that cannot be written, or must not be replaced."""


class ClusterError(CellucidLazyError, RuntimeError):
    """A Dask cluster without workers, or one that closed during the work."""


class ClosedError(CellucidLazyError, RuntimeError):
    """An adapter that is used after it was closed."""


class MissingPackageError(CellucidLazyError, ImportError):
    """An optional package that is not installed."""


class LeftOutWarning(_Message, UserWarning):
    """Something was left out of the catalogue or the export; the message gives the reason."""


class FallbackWarning(_Message, UserWarning):
    """Something was loaded whole that could not be read lazily."""


def missing_key(kind: str, key: object, available: Iterable[str], *, where: str) -> MissingKeyError:
    """Build the error for a name that does not exist, with close matches.

    Parameters
    ----------
    kind
        Kind of name, such as ``"obs column"``.
    key
        The name that was given.
    available
        The names that exist.
    where
        The dataset or file.

    Returns
    -------
    MissingKeyError
        Ready to raise.
    """
    names = list(available)
    hint = did_you_mean(str(key), names)
    if not hint and names:
        shown = ", ".join(repr(name) for name in names[:10])
        hint = f"available: {shown}" + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
    return MissingKeyError(f"{where}: no {kind} {key!r}; {hint or 'there are none'}")


def did_you_mean(key: str, names: Iterable[str]) -> str:
    """Suggest names for one that does not exist.

    Preferred are names with `key` as a part between slashes, in any case: ``cd3e`` and ``CD3*`` are
    parts of ``var/CD3E``. Otherwise names with a similar part are suggested.

    Parameters
    ----------
    key
        The name that was given, or a pattern.
    names
        The names that exist.

    Returns
    -------
    str
        A question, or empty if no name is close.
    """
    by_part: dict[str, list[str]] = {}
    same: list[str] = []
    part = key.lower()
    for name in names:
        low = name.lower()
        if f"/{part}/" in f"/{low}/" or fnmatchcase(f"/{low}/", f"*/{part}/*"):
            same.append(name)
        for one in [low] if "/" in part else dict.fromkeys(low.split("/")):
            by_part.setdefault(one, []).append(name)
    below = [name for name in same if name.lower().startswith(f"{part}/")]
    if len(below) > _N_CLOSE:
        return f"did you mean one of {below[0][: len(key)] + '/*'!r}, such as {below[0]!r}?"
    close = same or [
        name
        for one in difflib.get_close_matches(part, by_part, n=_N_CLOSE, cutoff=0.6)
        for name in by_part[one]
    ]
    shown = list(dict.fromkeys(close))[:_N_CLOSE]
    return f"did you mean {' or '.join(map(repr, shown))}?" if shown else ""


_N_CLOSE = 3


def reason(problem: OSError) -> str:
    """Return the system's message of an error, without its number and path."""
    return problem.strerror or str(problem)


def no_raw(where: str) -> MissingKeyError:
    """Build the error for a dataset without a raw matrix."""
    return MissingKeyError(f"{where}: there is no raw matrix, raw/X; do without use_raw")


def format_count(number: int, noun: str) -> str:
    """Format a number of things: ``1 gene``, ``2,000 genes``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_size(n_bytes: float) -> str:
    """Format a number of bytes: ``1.6 MB``; ``?`` for NaN."""
    if n_bytes != n_bytes:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"
