"""``var_manifest.json``: the genes and how their values are stored."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.manifest import Fact, GeneRanges, Later
from cellucid_lazy.output import file_extension
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.outputs.identity import suffix
from cellucid_lazy.transforms.genes import gene_ranges
from cellucid_lazy.transforms.quantize import quantization_range, quantized_dtype

if TYPE_CHECKING:
    import dask.array as da

# Stored values per block of a pass that looks for minimum and maximum only.
_BLOCK_VALUES = 4 * 2**20


def draft(context: Context, selection: Selection) -> dict[str, Any]:
    """Draft the manifest of the genes."""
    options = context.options
    bits = options.var_quantization
    names = context.genes(selection)
    fields: Any = Later(partial(_plain_rows, names))
    if bits is not None:
        ranges = GeneRanges(names, partial(_lazy_ranges, context, names))
        fields = Fact(ranges, partial(_quantized_rows, names))
    live = options.manifest_shape == "live"
    return {
        "_format": "compact_v1",
        "n_points": context.source.n_cells,
        "var_gene_id_column": options.gene_id_column,
        "compression": None if live else options.compression,
        "quantization": bits,
        "_varSchema": {"kind": "continuous", **schema("var/{key}.values", bits, suffix(context))},
        "fields": fields,
    }


def schema(stem: str, bits: Any, ending: str) -> dict[str, Any]:
    """How continuous values are stored, as manifests say it."""
    dtype = np.dtype(np.float32) if bits is None else quantized_dtype(bits)
    extension = file_extension(dtype)
    found: dict[str, Any] = {
        "pathPattern": f"{stem}.{extension}{ending}",
        "ext": extension,
        "dtype": dtype.name,
        "quantized": bits is not None,
    }
    if bits is not None:
        found["quantizationBits"] = bits
    return found


def _plain_rows(names: tuple[str, ...]) -> list[list[str]]:
    return [[name] for name in names]


def _quantized_rows(names: tuple[str, ...], ranges: NDArray[np.float64]) -> list[list[Any]]:
    return [
        [name, *quantization_range(low, high)]
        for name, low, high in zip(names, ranges[0].tolist(), ranges[1].tolist(), strict=True)
    ]


def _lazy_ranges(context: Context, names: tuple[str, ...]) -> da.Array:
    import dask.array as da

    positions = context.gene_positions
    columns = np.array([positions[name] for name in names], dtype=np.intp)
    expression = context.source.expression
    if expression is None:
        return da.zeros((3, len(names)))
    cut = expression.blocks(_BLOCK_VALUES)
    rows = None
    if cut.cells is not None:
        chosen = np.zeros(cut.blocks.shape[0], dtype=bool)
        chosen[cut.cells] = True
        rows = da.from_array(chosen, chunks=(cut.blocks.chunks[0],))
    ranges = gene_ranges(cut.blocks, rows=rows)
    return ranges[:, columns if cut.genes is None else cut.genes[columns]]
