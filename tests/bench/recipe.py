"""What a synthetic atlas is made from; apart from the generator so that nothing large is imported.

The process that measures others must stay small, see ``measure``.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Recipe:
    """What an atlas is made from; equal recipes give equal files.

    ``categories`` names the categorical obs columns with their number of categories; the first is
    the cell type that shapes expression.
    """

    n_cells: int
    n_genes: int
    nonzeros_per_cell: float = 980.0
    categories: tuple[tuple[str, int], ...] = (("cell_type", 30), ("cluster", 300), ("donor", 24))
    latent_columns: int = 50
    neighbours: int = 15
    seed: int = 0

    def file_name(self, suffix: str = ".h5ad") -> str:
        """Tell recipes apart by name: sizes to read, a checksum for the rest."""
        checksum = zlib.crc32(self.to_json().encode())
        return f"atlas_{self.n_cells}x{self.n_genes}_{checksum:08x}{suffix}"

    def to_json(self) -> str:
        """Return the fields as JSON, in a fixed order."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Build the recipe of some fields as JSON."""
        fields = json.loads(text)
        if "categories" in fields:
            fields["categories"] = tuple((name, count) for name, count in fields["categories"])
        return cls(**fields)


def gene_name(number: int) -> str:
    """Return the identifier of a gene of a synthetic atlas."""
    return f"GENE{number:05d}"
