"""The populations of the generated atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CellType:
    """A population: its colour and share of the cells, where it lies, and its marker genes."""

    name: str
    color: str
    share: float
    center: tuple[float, float, float]
    markers: tuple[str, ...]


CELL_TYPES = (
    CellType(
        "CD4 T cells", "#3b75af", 0.30, (-6.0, 4.0, 0.5), ("CD3D", "CD3E", "IL7R", "CD4", "LTB")
    ),
    CellType(
        "CD8 T cells", "#7fb3e0", 0.16, (-5.5, -1.0, 1.5), ("CD3D", "CD3E", "CD8A", "CD8B", "CCL5")
    ),
    CellType(
        "NK cells", "#2f9e8f", 0.12, (-3.0, -5.5, 2.5), ("NKG7", "GNLY", "KLRD1", "PRF1", "CCL5")
    ),
    CellType(
        "B cells", "#e08b31", 0.14, (7.0, 6.5, -2.0), ("MS4A1", "CD79A", "CD79B", "CD74", "HLA-DRA")
    ),
    CellType(
        "CD14+ monocytes",
        "#c23b3b",
        0.18,
        (6.5, -4.0, 0.0),
        ("LYZ", "CD14", "S100A8", "S100A9", "HLA-DRB1"),
    ),
    CellType(
        "FCGR3A+ monocytes", "#ef8a8a", 0.05, (9.0, -0.5, 1.0), ("FCGR3A", "MS4A7", "LYZ", "LST1")
    ),
    CellType(
        "Dendritic cells",
        "#8a5fb0",
        0.04,
        (3.0, -1.5, -1.5),
        ("FCER1A", "CST3", "CLEC10A", "HLA-DRB1"),
    ),
    CellType("Megakaryocytes", "#8c6d46", 0.01, (0.5, 9.0, 3.0), ("PPBP", "PF4", "GP9", "ITGA2B")),
)


def draw_types(n_cells: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the cell type of each cell as its place in ``CELL_TYPES``; none goes without cells.

    Parameters
    ----------
    n_cells
        Number of cells.
    rng
        Where chance comes from.

    Returns
    -------
    numpy.ndarray
        int64 (n_cells,).
    """
    shares = np.array([cell_type.share for cell_type in CELL_TYPES])
    types = rng.choice(len(CELL_TYPES), n_cells, p=shares / shares.sum())
    types[: len(CELL_TYPES)] = np.arange(len(CELL_TYPES))
    return rng.permutation(types)
