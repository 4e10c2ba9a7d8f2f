"""LZF, decoded outside HDF5's lock by the decoder that h5py brings along.

h5py registers LZF as a filter for HDF5 to call, and gives its decoder no name in Python; but its
library exports the function, and a call through ctypes leaves Python's lock as well. Where it is
not exported, HDF5 decodes such files as it does any other filter.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LZF: int = h5py.h5z.FILTER_LZF


@cache
def lzf_decoder() -> Any:
    """Find h5py's decoder; None where its library does not export it."""
    try:
        decode = ctypes.CDLL(h5py.h5z.__file__).lzf_decompress
    except (OSError, AttributeError):
        return None
    decode.argtypes = (ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint)
    decode.restype = ctypes.c_uint
    return decode


def lzf_decompress(raw: NDArray[np.uint8], nbytes: int) -> NDArray[np.uint8]:
    """Decompress an LZF stream; there must be a decoder.

    Parameters
    ----------
    raw
        The stream, (n,).
    nbytes
        Bytes it should hold.

    Returns
    -------
    numpy.ndarray
        uint8; shorter if the stream holds less, empty if it is damaged or holds more. What LZF
        cannot know, having no checksum, is whether a byte was changed.
    """
    decode = lzf_decoder()
    data = np.empty(nbytes, dtype=np.uint8)
    return data[: decode(raw.ctypes.data, len(raw), data.ctypes.data, nbytes)]
