"""Gene: where a gene's values come from, so that many genes can share one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellucid_lazy.source import Expression
from cellucid_lazy.transforms.genes import gene_column
from cellucid_lazy.transforms.quantize import finite_range, quantize

if TYPE_CHECKING:
    import dask.array as da


@dataclass(frozen=True, eq=False)
class Gene:
    """Where a gene's values come from, so that many genes can share one pass.

    There are tens of thousands of them: all that is built is built on demand.

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

    def values(self) -> da.Array:
        """Build the lazy values: float32, or quantized to uint8 or uint16, (n_cells,)."""
        plain = self._plain()
        return plain if self.bits is None else quantize(plain, bits=self.bits)

    def facts(self) -> Mapping[str, Callable[[], da.Array]]:
        """Tell what builds ``range``: minimum and maximum over finite values, not quantized."""
        return {"range": self._range}

    def _range(self) -> da.Array:
        return finite_range(self._plain())

    def _plain(self) -> da.Array:
        import dask.array as da

        if self.expression is None:
            return da.zeros(self.n_cells, chunks="auto", dtype=np.float32)
        return gene_column(self.expression.columns([self.position]))
