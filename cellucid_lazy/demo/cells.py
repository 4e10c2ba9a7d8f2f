"""What the generated atlas tells of its cells: metadata, coordinates, neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from cellucid_lazy.demo.cell_types import CELL_TYPES

LATENT_COLUMNS = 20


def draw_coordinates(
    types: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Return obsm: two embeddings, a velocity field and a latent space, all float32.

    Parameters
    ----------
    types
        Cell type of each cell, as its place in ``CELL_TYPES``.
    rng
        Where chance comes from.

    Returns
    -------
    dict
        Arrays (n_cells, n_dimensions), by key.
    """
    centers = np.array([cell_type.center for cell_type in CELL_TYPES])
    along = rng.normal(0.0, 1.0, len(types))
    angle = rng.uniform(0.0, np.pi, len(CELL_TYPES))[types]
    # Each population is a bent streak, as a UMAP draws a continuum of states.
    bend = np.stack([along * np.cos(angle), along * np.sin(angle), 0.35 * along**2], axis=1)
    bend[:, :2] += 0.25 * along[:, None] ** 2 * np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    cloud = centers[types] + 1.1 * bend + rng.normal(0.0, 0.45, (len(types), 3))
    heading = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    spread = np.linspace(3.0, 0.5, LATENT_COLUMNS)
    latent = (rng.normal(0.0, 1.0, (len(CELL_TYPES), LATENT_COLUMNS)) * spread)[types]
    latent += rng.normal(0.0, 1.0, latent.shape) * np.sqrt(spread)
    latent[:, :2] += along[:, None]
    velocity = 0.3 * heading + rng.normal(0.0, 0.05, heading.shape)
    arrays = {"X_pca": latent, "X_umap_2d": cloud[:, :2], "X_umap_3d": cloud}
    arrays["velocity_umap_2d"] = velocity
    return {key: np.ascontiguousarray(values, np.float32) for key, values in arrays.items()}


def draw_metadata(
    types: NDArray[np.int64],
    counts: sparse.csr_matrix[np.float32],
    symbols: list[str],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return obs: categories, text, floats with and without gaps, an integer and a bool.

    Parameters
    ----------
    types
        Cell type of each cell, as its place in ``CELL_TYPES``.
    counts
        Molecule counts, (n_cells, n_genes).
    symbols
        Gene symbols.
    rng
        Where chance comes from.

    Returns
    -------
    pandas.DataFrame
        Indexed by barcode.
    """
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
    """Link every cell to its nearest ones, and back.

    Parameters
    ----------
    points
        Coordinates, (n_cells, n_dimensions).
    n_neighbours
        Nearest cells to link, without the cell itself.

    Returns
    -------
    scipy.sparse.csr_matrix
        Symmetric (n_cells, n_cells) float32 without a diagonal; weights fall with distance and
        are the larger of the two directions.
    """
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
    """Return a categorical column from places in a list of labels."""
    return pd.Categorical.from_codes(codes, pd.Index(labels))


def _barcodes(n_cells: int) -> list[str]:
    """Return distinct 16-letter cell barcodes."""
    letters = "ACGT"
    multiplier = 2_654_435_761  # odd, so distinct numbers stay distinct modulo 4**16
    codes = ((number * multiplier) % 4**16 for number in range(n_cells))
    return ["".join(letters[code >> 2 * at & 3] for at in range(16)) + "-1" for code in codes]
