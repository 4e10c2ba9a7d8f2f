"""The errors and warnings that users meet, each naming the file, the key and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CellucidLazyError(Exception):
    """Base of every error this library raises on purpose."""


class DataError(CellucidLazyError, ValueError):
    """A dataset that cannot be used as it is: unreadable, inconsistent or incomplete."""


class MissingFileError(DataError, FileNotFoundError):
    """A path where nothing is."""


class ChangedError(DataError):
    """A dataset that changed since it was opened; open it again."""


class FieldError(DataError):
    """One field that cannot be shown; the rest of the dataset can."""


class MissingKeyError(CellucidLazyError, KeyError):
    """A name that the dataset does not have; the message lists close matches."""

    def __str__(self) -> str:
        # KeyError quotes its argument; a sentence reads better plain.
        return str(self.args[0]) if self.args else ""


class OptionError(CellucidLazyError, ValueError):
    """An export setting outside its range."""


class CollisionError(CellucidLazyError, ValueError):
    """Two outputs that would be the same file."""


class ExportError(CellucidLazyError, OSError):
    """A target that cannot be written, or must not be replaced."""


class ClusterError(CellucidLazyError, RuntimeError):
    """A Dask cluster that has no workers, or went away during the work."""


class ClosedError(CellucidLazyError, RuntimeError):
    """An adapter that is used after it was closed."""


class LeftOutWarning(UserWarning):
    """Names something that was left out of the catalogue or the export, and why."""


class FallbackWarning(UserWarning):
    """A layout that had to be loaded whole instead of read lazily."""


def missing_key(kind: str, key: object, available: Iterable[str], *, where: str) -> MissingKeyError:
    """Build the error for a name that is not there, with close matches.

    Parameters
    ----------
    kind
        What was looked up, such as ``"obs column"``.
    key
        The name asked for, or whatever was given for it.
    available
        The names that exist.
    where
        The dataset or file it was looked up in.

    Returns
    -------
    MissingKeyError
        Ready to raise.
    """
    names, text = list(available), str(key)
    close = _same_but_for_case(text, names)
    close = close or difflib.get_close_matches(text, names, n=3, cutoff=0.6)
    if close:
        hint = "did you mean " + " or ".join(repr(name) for name in close) + "?"
    elif names:
        shown = ", ".join(repr(name) for name in names[:10])
        hint = f"available: {shown}" + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
    else:
        hint = "there are none"
    return MissingKeyError(f"{where}: no {kind} {key!r}; {hint}")


def _same_but_for_case(key: str, names: list[str]) -> list[str]:
    """Names that differ in case only, as genes of man and mouse do, or lack their kind."""
    folded = key.casefold()
    return [name for name in names if f"/{name.casefold()}".endswith(f"/{folded}")][:3]


def no_raw(where: str) -> MissingKeyError:
    """Build the error for a dataset that is asked for its raw matrix and has none.

    Parameters
    ----------
    where
        The dataset or file.

    Returns
    -------
    MissingKeyError
        Ready to raise.
    """
    return MissingKeyError(f"{where}: there is no raw matrix, raw/X; do without use_raw")


def format_count(number: int, noun: str) -> str:
    """Format a number of things: ``1 gene``, ``2,000 genes``.

    Parameters
    ----------
    number
        How many there are.
    noun
        The thing, in the singular; its plural takes an s.

    Returns
    -------
    str
        Number and noun.
    """
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
