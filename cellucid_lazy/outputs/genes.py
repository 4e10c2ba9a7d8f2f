"""Genes: ``var/<gene>``."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cellucid_lazy.errors import missing_key
from cellucid_lazy.gene import Gene
from cellucid_lazy.naming import safe_name
from cellucid_lazy.output import Output, file_extension
from cellucid_lazy.outputs.context import Context, Selection
from cellucid_lazy.transforms.quantize import quantized_dtype


def names(context: Context, selection: Selection) -> Iterable[str]:
    """Names of the genes offered; reads the identifiers."""
    return (f"var/{name}" for name in context.genes(selection))


def build(context: Context, selection: Selection, name: str) -> Output:
    """Build the output of a name.

    Raises
    ------
    MissingKeyError
        When there is no such gene.
    """
    identifier = name.removeprefix("var/")
    positions = context.gene_positions
    if identifier not in positions:
        raise missing_key("gene", identifier, context.genes(selection), where=context.source.name)
    gene = gene_of(context, identifier)
    dtype = np.dtype(np.float32) if gene.bits is None else quantized_dtype(gene.bits)
    return Output(name, "var", path(identifier, dtype), (gene.n_cells,), dtype, gene)


def gene_of(context: Context, identifier: str) -> Gene:
    """Where a gene's values come from."""
    return Gene(
        context.source.expression,
        context.gene_positions[identifier],
        context.options.var_quantization,
        context.source.n_cells,
    )


def path(identifier: str, dtype: np.dtype[np.generic]) -> str:
    """File of a gene."""
    return f"var/{safe_name(identifier)}.values.{file_extension(dtype)}"
