"""Bounds of indices, looked at some at a time: a wrong one would move values to other cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


class IndexBounds:
    """Whether indices lie within an axis; where they do not, how far they reach.

    Parameters
    ----------
    limit
        Length of the axis.

    Attributes
    ----------
    low, high
        The extremes where an index lies beyond; ``low`` is above ``high`` until then.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.low, self.high = math.inf, -math.inf

    @property
    def exceeded(self) -> bool:
        """Whether an index was seen that lies beyond."""
        return self.low <= self.high

    def admit(self, indices: NDArray[Any]) -> bool:
        """Look at some indices; tell whether all of them lie within."""
        if not len(indices) or self._within(indices):
            return True
        self.low = min(self.low, int(indices.min()))
        self.high = max(self.high, int(indices.max()))
        return False

    def _within(self, indices: NDArray[Any]) -> bool:
        dtype = indices.dtype
        if dtype.kind == "i" and self._limit > np.iinfo(dtype).max:
            return bool(indices.min() >= 0)
        # Read without a sign, negative numbers are beyond the limit too: one pass is enough.
        return bool(indices.view(dtype.str.replace("i", "u")).max() < self._limit)
