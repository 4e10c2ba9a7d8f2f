"""Cells of the generated atlas: types, coordinates, metadata and neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

LATENT_COLUMNS = 20


@dataclass(frozen=True)
class CellType:
    """A cell type: its colour, its share of the cells, its centre in 3-D and its marker genes."""

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
    """Return the type of each cell as a position in ``CELL_TYPES``; every type has cells."""
    shares = np.array([cell_type.share for cell_type in CELL_TYPES])
    types = rng.choice(len(CELL_TYPES), n_cells, p=shares / shares.sum())
    types[: len(CELL_TYPES)] = np.arange(len(CELL_TYPES))
    return rng.permutation(types)


def draw_coordinates(
    types: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Return obsm: two embeddings, a velocity field and a latent space, all float32."""
    centers = np.array([cell_type.center for cell_type in CELL_TYPES])
    along = rng.normal(0.0, 1.0, len(types))
    angle = rng.uniform(0.0, np.pi, len(CELL_TYPES))[types]
    # Each cell type lies along a curve, as a continuum of states does in a UMAP.
    bend = np.stack([along * np.cos(angle), along * np.sin(angle), 0.35 * along**2], axis=1)
    bend[:, :2] += 0.25 * along[:, None] ** 2 * np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    cloud = centers[types] + 1.1 * bend + rng.normal(0.0, 0.45, (len(types), 3))
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    spread = np.linspace(3.0, 0.5, LATENT_COLUMNS)
    latent = (rng.normal(0.0, 1.0, (len(CELL_TYPES), LATENT_COLUMNS)) * spread)[types]
    latent += rng.normal(0.0, 1.0, latent.shape) * np.sqrt(spread)
    latent[:, :2] += along[:, None]
    velocity = 0.3 * direction + rng.normal(0.0, 0.05, direction.shape)
    arrays = {"X_pca": latent, "X_umap_2d": cloud[:, :2], "X_umap_3d": cloud}
    arrays["velocity_umap_2d"] = velocity
    return {key: np.ascontiguousarray(values, np.float32) for key, values in arrays.items()}


def draw_metadata(
    types: NDArray[np.int64],
    counts: sparse.csr_matrix[np.float32],
    symbols: list[str],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return obs: categories, text, floats with and without gaps, an integer and a bool."""
    n_cells = len(types)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    is_mitochondrial = np.array([symbol.startswith("MT-") for symbol in symbols])
    mitochondrial = np.asarray(counts[:, is_mitochondrial].sum(axis=1)).ravel()
    score = rng.normal(0.0, 1.0, n_cells).astype(np.float32)
    score[rng.random(n_cells) < 0.05] = np.nan
    donor, run = rng.integers(1, 5, n_cells), rng.integers(1, 3, n_cells)
    columns: dict[str, Any] = {
        "cell_type": _categories(types, [kind.name for kind in CELL_TYPES]),
        "leiden": _clusters(types, rng),
        "donor": pd.Categorical([f"donor_{number}" for number in donor]),
        "sample": [f"donor {one}, run {two}" for one, two in zip(donor, run, strict=True)],
        "n_counts": totals.astype(np.float32),
        "n_genes": np.diff(counts.indptr).astype(np.int64),
        "percent_mito": 100.0 * mitochondrial.astype(np.float64) / np.maximum(totals, 1.0),
        "is_doublet": rng.random(n_cells) < 0.04,
        "score": score,
    }
    return pd.DataFrame(columns, index=pd.Index(_barcodes(n_cells)))


def neighbour_graph(
    points: NDArray[np.float32], n_neighbours: int
) -> sparse.csr_matrix[np.float32]:
    """Return a symmetric graph of nearest neighbours; weights fall with distance."""
    n_cells = len(points)
    found = cKDTree(points).query(points, k=n_neighbours + 1)
    distances, nearest = np.asarray(found[0]), np.asarray(found[1])
    weights = np.exp(-distances / np.maximum(distances[:, -1:], 1e-12)).astype(np.float32)
    cells = np.broadcast_to(np.arange(n_cells)[:, None], nearest.shape)
    others = nearest != cells
    others[others.all(axis=1), -1] = False  # among equal points a cell may not find itself
    links = sparse.csr_matrix(
        (weights[others], (cells[others], nearest[others])), shape=(n_cells, n_cells)
    )
    return sparse.csr_matrix(links.maximum(links.T))


def _clusters(types: NDArray[np.int64], rng: np.random.Generator) -> pd.Categorical[str]:
    """Return clusters numbered by size from ``"0"``; the two largest types are split in two."""
    sizes = np.bincount(types, minlength=len(CELL_TYPES))
    largest = np.argsort(-sizes, kind="stable")[:2]
    halves = 2 * types + (np.isin(types, largest) & (rng.random(len(types)) < 0.4))
    values, inverse, counts = np.unique(halves, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
    return _categories(rank[inverse], [str(number) for number in range(len(values))])


def _categories(codes: NDArray[np.int64], labels: list[str]) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes, pd.Index(labels))


def _barcodes(n_cells: int) -> list[str]:
    letters = "ACGT"
    multiplier = 2_654_435_761  # odd, so distinct numbers stay distinct modulo 4**16
    codes = ((number * multiplier) % 4**16 for number in range(n_cells))
    return ["".join(letters[code >> 2 * at & 3] for at in range(16)) + "-1" for code in codes]
