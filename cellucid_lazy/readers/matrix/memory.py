"""A NumPy array in memory, read through the interface of a stored one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class MemoryArray:
    """An array in memory. Its values travel with the graph: there is no file to read from.

    Attributes
    ----------
    values
        The array.
    token
        Name of the content, unique for one opened dataset.
    """

    values: NDArray[Any]
    token: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        shape: tuple[int, ...] = self.values.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, in native byte order."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype.newbyteorder("=")

    @property
    def chunks(self) -> None:
        """Memory has no chunks."""
        return

    def read(self, *selection: slice) -> NDArray[Any]:
        """Take one slice per dimension, without a copy where the byte order is native."""
        return self.values[selection].astype(self.dtype, copy=False)
