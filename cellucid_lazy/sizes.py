"""Block sizes: how much of an array or a matrix one task handles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of blocks, handed down to whatever cuts arrays.

    The grid on which sums run is no block size: it decides bytes, and these must not.

    Attributes
    ----------
    array_bytes
        Bytes of a block of an obs column or an obsm array.
    matrix_values
        Stored values of a block of a lazy matrix.
    min_gene_values, max_gene_values
        Stored values of a block of the transpose, whatever the budget.
    """

    array_bytes: int = 4 * 2**20
    matrix_values: int = 2**20
    min_gene_values: int = 2**14
    max_gene_values: int = 2 * 2**20


DEFAULT_SIZES = BlockSizes()
