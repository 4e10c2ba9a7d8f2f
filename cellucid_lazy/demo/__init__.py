"""A small, generated atlas of blood cells, to try every output without a download."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np

from cellucid_lazy.demo.cells import (
    CELL_TYPES,
    draw_coordinates,
    draw_metadata,
    draw_types,
    neighbour_graph,
)
from cellucid_lazy.demo.expression import draw_counts, gene_symbols, gene_table, log_normalize

NEIGHBOURS = 15


def write_demo(path: Path, *, n_cells: int = 3000, n_genes: int = 2000, seed: int = 0) -> Path:
    """Generate the demonstration atlas and write it as h5ad.

    Parameters
    ----------
    path
        File to write; an existing one is replaced.
    n_cells
        Number of cells, at least 16: the neighbour graph links each to 15 others.
    n_genes
        Number of genes. The markers of the cell types come first, so a small number keeps them.
    seed
        Equal seeds and sizes give equal values.

    Returns
    -------
    Path
        The file written: log-normalized CSR expression, cell metadata of every kind, colours of the
        cell types, 2D and 3D embeddings, a velocity field, a latent space and a neighbour graph.
    """
    if n_cells <= NEIGHBOURS or n_genes < 1:
        raise ValueError(
            f"the demo needs more than {NEIGHBOURS} cells and at least one gene, "
            f"not {n_cells} and {n_genes}"
        )
    rng = np.random.default_rng(seed)
    symbols = gene_symbols(n_genes)
    types = draw_types(n_cells, rng)
    counts = draw_counts(types, symbols, rng)
    obsm = draw_coordinates(types, rng)
    adata = anndata.AnnData(
        X=log_normalize(counts),
        obs=draw_metadata(types, counts, symbols, rng),
        var=gene_table(symbols),
        obsm=obsm,
        uns={"cell_type_colors": [cell_type.color for cell_type in CELL_TYPES]},
        obsp={"connectivities": neighbour_graph(obsm["X_pca"], NEIGHBOURS)},
    )
    adata.write_h5ad(path, compression="gzip", convert_strings_to_categoricals=False)
    return path
