"""The cast to float32, the type the viewer reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_float32(values: NDArray[Any], /) -> NDArray[np.float32]:
    """Cast to float32; values beyond its range become infinite, silently.

    Parameters
    ----------
    values
        Any real dtype, any shape.

    Returns
    -------
    numpy.ndarray
        float32, same shape; the same object when it is float32 already.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)
