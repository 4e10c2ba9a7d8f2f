"""Matrices as they are stored: sparse and dense, in a file or in memory."""

from __future__ import annotations

from itertools import pairwise


def cut(length: int, step: int) -> list[tuple[int, int]]:
    """Cut a length into spans of `step`, the last one shorter; one empty span for length 0."""
    return list(pairwise([*range(0, max(1, length), step), length]))
