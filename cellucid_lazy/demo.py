"""A generated little atlas of blood cells, to try every output without a download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse


@dataclass(frozen=True)
class CellType:
    """A population: its share of the cells, where it lies on the map, and its marker genes."""

    name: str
    share: float
    center: tuple[float, float, float]
    markers: tuple[str, ...]


CELL_TYPES = (
    CellType("CD4 T cells", 0.30, (-6.0, 4.0, 0.5), ("CD3D", "CD3E", "IL7R", "CD4", "LTB")),
    CellType("CD8 T cells", 0.16, (-5.5, -1.0, 1.5), ("CD3D", "CD3E", "CD8A", "CD8B", "CCL5")),
    CellType("NK cells", 0.12, (-3.0, -5.5, 2.5), ("NKG7", "GNLY", "KLRD1", "PRF1", "CCL5")),
    CellType("B cells", 0.14, (7.0, 6.5, -2.0), ("MS4A1", "CD79A", "CD79B", "CD74", "HLA-DRA")),
    CellType(
        "CD14+ monocytes", 0.18, (6.5, -4.0, 0.0), ("LYZ", "CD14", "S100A8", "S100A9", "HLA-DRB1")
    ),
    CellType("FCGR3A+ monocytes", 0.05, (9.0, -0.5, 1.0), ("FCGR3A", "MS4A7", "LYZ", "LST1")),
    CellType("Dendritic cells", 0.04, (3.0, -1.5, -1.5), ("FCER1A", "CST3", "CLEC10A", "HLA-DRB1")),
    CellType("Megakaryocytes", 0.01, (0.5, 9.0, 3.0), ("PPBP", "PF4", "GP9", "ITGA2B")),
)
MITOCHONDRIAL = (
    *("MT-ND1", "MT-ND2", "MT-ND3", "MT-ND4", "MT-ND4L", "MT-ND5", "MT-ND6"),
    *("MT-CO1", "MT-CO2", "MT-CO3", "MT-ATP6", "MT-ATP8", "MT-CYB"),
)
HOUSEKEEPING = ("MALAT1", "B2M", "TMSB4X", "ACTB", "FTL", "FTH1", "EEF1A1", "GAPDH", "TPT1")
GENE_FAMILIES = ("ZNF", "SLC", "TMEM", "KIF", "RAB", "PSM", "NDUFA", "POLR2", "USP", "TRIM", "FBXO")
LATENT_COLUMNS = 20
NEIGHBOURS = 15
READS_PER_CELL = 2_500.0


def write_demo(path: Path, *, n_cells: int = 3000, n_genes: int = 2000, seed: int = 0) -> Path:
    """Generate the demonstration atlas and write it as h5ad.

    Parameters
    ----------
    path
        The file to write; one that is there is replaced.
    n_cells
        Number of cells, more than the neighbours of the graph.
    n_genes
        Number of genes. The markers of the cell types come first, so a small number keeps them.
    seed
        Equal seeds and sizes give equal values.

    Returns
    -------
    Path
        The file written: log-normalized CSR expression, cell metadata of every kind, 2D and 3D
        embeddings, a velocity field, a latent space and a neighbour graph.
    """
    import anndata
    import numpy as np

    if n_cells <= NEIGHBOURS or n_genes < 1:
        raise ValueError(
            f"the demo needs more than {NEIGHBOURS} cells and at least one gene, "
            f"not {n_cells} and {n_genes}"
        )
    rng = np.random.default_rng(seed)
    symbols = gene_symbols(n_genes)
    types = _draw_types(n_cells, rng)
    counts = _draw_counts(types, symbols, rng)
    obsm = _draw_coordinates(types, rng)
    adata = anndata.AnnData(
        X=log_normalize(counts),
        obs=_draw_metadata(types, counts, symbols, rng),
        var=_gene_table(symbols),
        obsm=obsm,
        obsp={"connectivities": neighbour_graph(obsm["X_pca"], NEIGHBOURS)},
    )
    adata.write_h5ad(path, compression="gzip", convert_strings_to_categoricals=False)
    return path


def gene_symbols(n_genes: int) -> list[str]:
    """Return distinct gene symbols: markers, genes of every cell, then further plausible names.

    Parameters
    ----------
    n_genes
        How many.

    Returns
    -------
    list of str
        Real symbols first.
    """
    symbols: dict[str, None] = {}
    for symbol in _endless_symbols():
        if len(symbols) == n_genes:
            break
        symbols[symbol] = None
    return list(symbols)


def _endless_symbols() -> Iterator[str]:
    for cell_type in CELL_TYPES:
        yield from cell_type.markers
    yield from HOUSEKEEPING
    yield from MITOCHONDRIAL
    for number in range(3, 28):
        yield f"RPL{number}"
        yield f"RPS{number}"
    number = 1
    while True:
        for family in GENE_FAMILIES:
            yield f"{family}{number}"
        yield f"LINC{number:05d}"
        yield f"AC{11_000 + 37 * number:06d}.{number % 3 + 1}"
        number += 1


def _draw_types(n_cells: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the cell type of each cell as its place in ``CELL_TYPES``; none goes without cells."""
    import numpy as np

    shares = np.array([cell_type.share for cell_type in CELL_TYPES])
    types = rng.choice(len(CELL_TYPES), n_cells, p=shares / shares.sum())
    types[: len(CELL_TYPES)] = np.arange(len(CELL_TYPES))
    return rng.permutation(types)


def _draw_counts(
    types: NDArray[np.int64], symbols: list[str], rng: np.random.Generator
) -> sparse.csr_matrix[np.float32]:
    """Return molecule counts, (n_cells, n_genes): Poisson around each type's profile and depth."""
    import numpy as np
    from scipy import sparse

    profiles = _type_profiles(symbols, rng)
    depth = READS_PER_CELL * rng.lognormal(0.0, 0.35, len(types))
    counts = rng.poisson(profiles[types] * depth[:, None]).astype(np.float32)
    return sparse.csr_matrix(counts)


def _type_profiles(symbols: list[str], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return each type's share of molecules per gene, (n_types, n_genes), rows summing to one."""
    place = {symbol: number for number, symbol in enumerate(symbols)}
    popularity = rng.lognormal(0.0, 1.8, len(symbols))
    common = [number for symbol, number in place.items() if _is_everywhere(symbol)]
    popularity[common] = rng.lognormal(5.2, 0.6, len(common))
    profiles = popularity * rng.lognormal(0.0, 0.4, (len(CELL_TYPES), len(symbols)))
    markers = {symbol for cell_type in CELL_TYPES for symbol in cell_type.markers}
    profiles[:, [place[symbol] for symbol in markers if symbol in place]] = 0.3
    for row, cell_type in enumerate(CELL_TYPES):
        own = [place[symbol] for symbol in cell_type.markers if symbol in place]
        profiles[row, own] = rng.lognormal(4.0, 0.5, len(own))
    shares: NDArray[np.float64] = profiles / profiles.sum(axis=1, keepdims=True)
    return shares


def _is_everywhere(symbol: str) -> bool:
    return symbol in HOUSEKEEPING or symbol.startswith(("MT-", "RPL", "RPS"))


def log_normalize(counts: sparse.csr_matrix[np.float32]) -> sparse.csr_matrix[np.float32]:
    """Scale every cell to 10,000 molecules and take log(1 + x), as scanpy's defaults do.

    Parameters
    ----------
    counts
        Molecule counts, (n_cells, n_genes).

    Returns
    -------
    scipy.sparse.csr_matrix
        float32, (n_cells, n_genes), natural logarithms; a cell without counts stays empty.
    """
    import numpy as np

    totals = np.asarray(counts.sum(axis=1)).ravel()
    scale = 1e4 / np.maximum(totals, 1.0)
    result = counts.copy()
    result.data = np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr)))
    result.data = result.data.astype(np.float32)
    return result


def _draw_coordinates(
    types: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Return obsm: two embeddings, a velocity field and a latent space, all float32."""
    import numpy as np

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


def _draw_metadata(
    types: NDArray[np.int64],
    counts: sparse.csr_matrix[np.float32],
    symbols: list[str],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return obs: categories, text, floats with and without gaps, an integer and a bool."""
    import numpy as np
    import pandas as pd

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


def _clusters(types: NDArray[np.int64], rng: np.random.Generator) -> pd.Categorical[str]:
    """Return clusters numbered by size from ``"0"``; the two largest types are split in two."""
    import numpy as np

    sizes = np.bincount(types, minlength=len(CELL_TYPES))
    largest = np.argsort(-sizes, kind="stable")[:2]
    halves = 2 * types + (np.isin(types, largest) & (rng.random(len(types)) < 0.4))
    values, inverse, counts = np.unique(halves, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
    return _categories(rank[inverse], [str(number) for number in range(len(values))])


def _categories(codes: NDArray[np.int64], labels: list[str]) -> pd.Categorical[str]:
    """Return a categorical column from places in a list of labels."""
    import pandas as pd

    return pd.Categorical.from_codes(codes, pd.Index(labels))


def _barcodes(n_cells: int) -> list[str]:
    """Return distinct 16-letter cell barcodes."""
    letters = "ACGT"
    multiplier = 2_654_435_761  # odd, so distinct numbers stay distinct modulo 4**16
    codes = ((number * multiplier) % 4**16 for number in range(n_cells))
    return ["".join(letters[code >> 2 * at & 3] for at in range(16)) + "-1" for code in codes]


def _gene_table(symbols: list[str]) -> pd.DataFrame:
    """Return var: symbols as index, and a column of stable identifiers."""
    import pandas as pd

    identifiers = [f"ENSG{100_000 + 97 * number:011d}" for number in range(len(symbols))]
    return pd.DataFrame({"gene_ids": identifiers}, index=pd.Index(symbols))


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
    import numpy as np
    from scipy import sparse
    from scipy.spatial import cKDTree

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
