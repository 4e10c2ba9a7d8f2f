"""Gene: where a gene's values come from, so that many genes can share one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cellucid_lazy.source import Expression


@dataclass(frozen=True, eq=False)
class Gene:
    """Where a gene's values come from, so that many genes can share one pass.

    Attributes
    ----------
    expression
        The matrix; None stands for zeros.
    position
        The gene's column in it.
    bits
        8 or 16 when quantized, else None.
    n_cells
        Number of values.
    """

    expression: Expression | None
    position: int
    bits: Literal[8, 16] | None
    n_cells: int
