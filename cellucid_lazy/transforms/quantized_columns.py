"""Many sparse columns quantized at a time, each over its own range.

A call for each of tens of thousands of columns costs more than what it computes, and threads wait
for each other meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.transforms.gene_major import gene_runs
from cellucid_lazy.transforms.quantize import (
    FLOAT32_MAX,
    Bits,
    codes_of,
    quantization_range,
    quantize_block,
    quantized_dtype,
)

if TYPE_CHECKING:
    import numpy.typing as npt

# Values, and columns, at a time: what the processor's cache holds.
_VALUES, _COLUMNS = 2**16, 2**12


def quantize_columns(
    values: npt.NDArray[np.float32],
    begins: npt.NDArray[Any],
    /,
    extremes: npt.NDArray[np.float64],
    *,
    bits: Bits,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Quantize what is stored of columns, and the zeros in between.

    Parameters
    ----------
    values
        float32 (n_stored,), column after column.
    begins
        Where each column begins among them, (n_columns + 1,).
    extremes
        float64 (2, n_columns): minimum and maximum of each over its finite values, NaN for none.
    bits
        8 or 16.

    Returns
    -------
    tuple of numpy.ndarray
        uint8 or uint16: codes of the stored values (n_stored,), and of a zero (n_columns,). They
        are what `quantize_block` gives column by column.
    """
    dtype = quantized_dtype(bits)
    codes = np.empty(len(values), dtype=dtype)
    zeros = np.empty(len(begins) - 1, dtype=dtype)
    ranges = np.array([quantization_range(*pair) for pair in extremes.T.tolist()]).reshape(-1, 2)
    with np.errstate(over="ignore"):
        spans = ranges[:, 1] - ranges[:, 0]
        scales = (np.iinfo(dtype).max - 1) / spans
    # Where float32 overflows nothing is scaled at first: these columns are done again, one by one.
    wide = np.maximum(spans, scales) > FLOAT32_MAX
    single_lows = np.where(wide, 0, ranges[:, 0]).astype(np.float32)
    single_scales = np.where(wide, 0, scales).astype(np.float32)
    counts = np.diff(begins)
    for run in gene_runs(counts, most_values=_VALUES, most_genes=_COLUMNS):
        stored = slice(int(begins[run.start]), int(begins[run.stop]))
        own = single_lows[run], single_scales[run]
        # A single column's own values serve all that is stored of it.
        spread = own if len(own[0]) == 1 else [np.repeat(one, counts[run]) for one in own]
        codes[stored] = codes_of(values[stored], *spread, dtype=dtype)
        zeros[run] = codes_of(np.zeros(len(own[0]), np.float32), *own, dtype=dtype)
    for column in np.flatnonzero(wide).tolist():
        stored = slice(int(begins[column]), int(begins[column + 1]))
        low, high = ranges[column].tolist()
        codes[stored] = quantize_block(values[stored], low, high, bits=bits)
        zeros[column] = quantize_block(np.zeros(1, np.float32), low, high, bits=bits)[0]
    return codes, zeros
