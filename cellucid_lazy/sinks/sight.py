"""What a file looks like to what deflates it: how much is not zero, where, and does it repeat.

Glances at the file tell, or, where it is a column most of which is zero, a few of the values that
are not: the columns of many genes are seen in the time that glancing at one takes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Octets = np.ndarray[Any, np.dtype[np.uint8]]

# A sample of a file is taken from so many places, for cells are often in the order of their type or
# batch.
PIECES = 4
# Values repeat where more than this share of the 16-bit words that are not zero equal the next but
# one. Of genes all counts do, and their logarithms; normalized ones do not, of float32 or 8 or 16
# bits, but for few of those in which there is little to see.
REPEATING = 1 / 24

_GLANCES, _GLANCE_EIGHTS = 32, 64
_LEAST_WORDS = 32
# Values looked at of a column, and columns at a time: a few megabytes.
_SAMPLED, _TOGETHER = 256, 256
# Where all is even no place is further off than by this share of a file; with cells in the order of
# their types, each of which has a rate of its own, places are.
_OFF = 1 / 16
# Where more than this share of a column is stored, the neighbours of a value count as well.
_SPARSE = 1 / 8


class Sight(NamedTuple):
    """What a file looks like.

    Attributes
    ----------
    share
        Of its bytes, those that are not zero.
    places
        Where some of these lie: as many before, between and after the places.
    repeats
        Whether values repeat.
    even
        Whether these bytes are spread evenly, as they are not where cells are in some order.
    """

    share: float
    places: list[int]
    repeats: bool
    even: bool


_NOTHING = Sight(0.0, [0] * PIECES, False, True)


def look(octets: Octets) -> Sight:
    """Glance at evenly spaced places; where they show next to nothing, look at all there is.

    Parameters
    ----------
    octets
        Shape (nbytes,).

    Returns
    -------
    Sight
        Of the file.
    """
    eights = octets[: octets.nbytes // 8 * 8].view(np.uint64)
    every = len(eights) // _GLANCES
    if every > _GLANCE_EIGHTS:
        seen = eights[: _GLANCES * every].reshape(_GLANCES, every)[:, :_GLANCE_EIGHTS]
        sight = _see(seen, every, _LEAST_WORDS)
        if sight is not None:
            return sight
    return _see(eights[None], 0, 1) or _NOTHING


def _see(seen: np.ndarray[Any, np.dtype[np.uint64]], every: int, least: int) -> Sight | None:
    """Tell what rows look like that begin so many eights of bytes apart, if they show enough."""
    flat = np.ascontiguousarray(seen).reshape(-1)
    places = np.flatnonzero(flat != 0)
    words = flat[places].view(np.uint16)
    words = words[words != 0]
    if len(words) < least:
        return None
    rows, columns = np.divmod(places[(len(places) * _shares()).astype(int)], seen.shape[1])
    same = int(np.count_nonzero(words[2:] == words[:-2]))
    found = 8 * (rows * every + columns)
    n_bytes = 8 * (every * len(seen) if every else flat.size)
    return Sight(
        np.count_nonzero(words.view(np.uint8)) / flat.nbytes,
        found.tolist(),
        same > REPEATING * (len(words) - 2),
        _is_even(found, n_bytes),
    )


def look_at_columns(
    values: NDArray[Any], rows: NDArray[Any], begins: NDArray[Any], /, *, n_rows: int
) -> list[Sight | None]:
    """Tell what columns look like as files of their own, from what is stored of them.

    Parameters
    ----------
    values
        float32, uint8 or uint16 (n_stored,), column after column; all else in a column is zero.
    rows
        Integers (n_stored,): the row of each value, rising within a column.
    begins
        Where each column begins among them, (n_columns + 1,).
    n_rows
        Length of a column.

    Returns
    -------
    list of Sight or None
        None for a column so full that it is better looked at itself.
    """
    sights: list[Sight | None] = []
    for first in range(0, len(begins) - 1, _TOGETHER):
        some = begins[first : first + _TOGETHER + 1].astype(np.int64)
        sights += _see_columns(values, rows, some, n_rows)
    return sights


def _see_columns(
    values: NDArray[Any], rows: NDArray[Any], begins: NDArray[np.int64], n_rows: int
) -> list[Sight | None]:
    counts = np.diff(begins)
    sights: list[Sight | None] = [_NOTHING if count == 0 else None for count in counts.tolist()]
    chosen = np.flatnonzero((counts > 0) & (counts <= _SPARSE * n_rows))
    if not len(chosen):
        return sights
    first, count = begins[chosen, None], counts[chosen, None]
    at = first + count * np.arange(_SAMPLED) // _SAMPLED
    last = first + count - 1
    words = _words(values, rows, at)
    next_words = _words(values, rows, np.minimum(at + 1, last))
    some = (words != 0) & (at < last)[:, :, None]
    seen = np.count_nonzero(some, axis=(1, 2))
    same = np.count_nonzero((words == next_words) & some, axis=(1, 2))
    filled = np.count_nonzero(words.view(np.uint8), axis=(1, 2)) / _SAMPLED
    n_bytes = n_rows * values.dtype.itemsize
    shares = filled * count[:, 0] / n_bytes
    places = rows[first + (count * _shares()).astype(np.int64)].astype(np.int64)
    places *= values.dtype.itemsize
    told = shares, places, same > REPEATING * seen, _is_even(places, n_bytes)
    for number, *sight in zip(chosen.tolist(), *(one.tolist() for one in told), strict=True):
        sights[number] = Sight(*sight)
    return sights


def _words(
    values: NDArray[Any], rows: NDArray[Any], at: NDArray[np.int64]
) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The 16-bit words of a column that some of its values lie in, (columns, values, words)."""
    found = values[at]
    if found.dtype.itemsize == 1:
        # Two rows to a word, the other one of which is zero more often than not.
        found = np.left_shift(found.astype(np.uint16), 8 * (rows[at] & 1).astype(np.uint16))
    return found.view(np.uint16).reshape(*at.shape, -1)


def _is_even(places: NDArray[Any], n_bytes: int) -> Any:
    return (np.abs(places / n_bytes - _shares()) <= _OFF).all(axis=-1)


def _shares() -> NDArray[np.float64]:
    return np.arange(1, 2 * PIECES, 2) / (2 * PIECES)
