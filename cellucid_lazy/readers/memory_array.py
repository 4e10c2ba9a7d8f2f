"""A NumPy array in memory, read through the interface of a stored one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class MemoryArray:
    """An array in memory. Its values travel with the graph, once: there is no path to read from.

    Attributes
    ----------
    values
        The array.
    token
        Name of the content, unique for one opened dataset.
    """

    values: np.ndarray[Any, Any]
    token: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        shape: tuple[int, ...] = self.values.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

    @property
    def chunks(self) -> None:
        """Memory has no chunks."""
        return

    def read(self, *selection: slice) -> np.ndarray[Any, Any]:
        """Take one slice per dimension, without a copy."""
        return self.values[selection]

    def parts(self, start: int, stop: int) -> Iterator[np.ndarray[Any, Any]]:
        """Take a stretch of a 1-D array."""
        yield self.values[start:stop]
