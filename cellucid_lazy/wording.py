"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Say how many of a thing: ``1 gene``, ``2,000 genes``.

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
