"""Synthetic atlases of any size, written straight to h5ad in bounded memory.

Row blocks are sampled and compressed on a few threads and their chunks stored as they are, so the
size of the atlas costs time and disk, not memory. A seed gives the same file whatever the threads.

    python -m tests.bench.atlas OUT.h5ad --recipe '{"n_cells": 200000, "n_genes": 20000}'
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from tests.bench.recipe import Recipe, gene_name
from tests.bench.sampling import CellTable, build_model, draw_cells, generator, sample_block
from tests.bench.stored_array import (
    CHUNK_ELEMENTS,
    GZIP_LEVEL,
    StoredArray,
    create_sparse_group,
    write_indptr,
)

ENTRIES_PER_BLOCK = 8_000_000
THREADS = os.cpu_count() or 1


def write_expression(file: h5py.File, recipe: Recipe, cells: CellTable) -> np.ndarray:
    """Write X as CSR block by block; return the number of nonzeros of each cell."""
    model = build_model(recipe)
    group = create_sparse_group(file, "X", "csr_matrix", (recipe.n_cells, recipe.n_genes))
    rows_per_block = max(1, ENTRIES_PER_BLOCK // recipe.n_genes)
    starts = range(0, recipe.n_cells, rows_per_block)
    per_row = np.zeros(recipe.n_cells, dtype=np.int64)
    with ThreadPoolExecutor(THREADS) as sampling, ThreadPoolExecutor(THREADS) as deflating:
        data = StoredArray(group, "data", "<f4", deflating)
        indices = StoredArray(group, "indices", "<i4", deflating)
        waiting: deque[tuple[int, int, Future[Any]]] = deque()
        for start in [*starts, None]:
            if start is not None:
                stop = min(start + rows_per_block, recipe.n_cells)
                task = sampling.submit(sample_block, recipe, model, cells, start, stop)
                waiting.append((start, stop, task))
            while waiting and (start is None or len(waiting) > THREADS):
                first, last, task = waiting.popleft()
                per_row[first:last], columns, values = task.result()
                data.append(values)
                indices.append(columns)
        data.finish()
        indices.finish()
    write_indptr(group, per_row)
    return per_row


def obs_table(recipe: Recipe, cells: CellTable, per_row: np.ndarray) -> pd.DataFrame:
    """Return the cell metadata: the groupings, two floats, an integer and a bool."""
    rng = generator(recipe, 4)
    columns: dict[str, Any] = {}
    for name, n_categories in recipe.categories:
        labels = [f"{name} {number}" for number in range(n_categories)]
        columns[name] = pd.Categorical.from_codes(cells.groups[name], labels)
    columns["n_counts"] = (1e4 / cells.size_factor).astype(np.float32)
    columns["percent_mito"] = rng.gamma(2.0, 2.0, recipe.n_cells)
    columns["n_genes"] = per_row
    columns["is_doublet"] = rng.random(recipe.n_cells) < 0.05
    names = [f"CELL{number:08d}-1" for number in range(recipe.n_cells)]
    return pd.DataFrame(columns, index=pd.Index(names))


def cell_coordinates(recipe: Recipe, cells: CellTable) -> dict[str, np.ndarray]:
    """Return float32 embeddings in which cell types are clouds."""
    rng = generator(recipe, 5)
    n_types = recipe.categories[0][1]
    widths = {"X_umap_2d": 2, "X_umap_3d": 3, "X_pca": recipe.latent_columns}
    coordinates = {}
    for key, width in widths.items():
        centres = rng.uniform(-10, 10, (n_types, width)).astype(np.float32)
        cloud = rng.standard_normal((recipe.n_cells, width), dtype=np.float32)
        coordinates[key] = cloud + centres[cells.cell_type()]
    return coordinates


def neighbour_graph(recipe: Recipe) -> sparse.csr_matrix:
    """Return a symmetric graph: each cell to distinct, nearby later cells, and back."""
    rng = generator(recipe, 6)
    n_cells, n_links = recipe.n_cells, recipe.neighbours
    steps = rng.integers(1, 14, (n_cells, n_links), dtype=np.int32)
    targets = np.arange(n_cells, dtype=np.int32)[:, None] + np.cumsum(steps, axis=1, dtype=np.int32)
    inside = targets < n_cells
    weights = rng.uniform(0.05, 1.0, (n_cells, n_links)).astype(np.float32)
    indptr = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    upper = sparse.csr_matrix((weights[inside], targets[inside], indptr), shape=(n_cells, n_cells))
    return (upper + upper.T).tocsr()


def write_annotations(store: Any, recipe: Recipe, cells: CellTable, per_row: np.ndarray) -> None:
    """Write everything but X through anndata, into an open h5 file or zarr group."""
    from anndata.io import write_elem

    gzip = {"compression": "gzip", "compression_opts": GZIP_LEVEL}
    options = gzip if isinstance(store, h5py.Group) else {}
    genes = pd.Index([gene_name(number) for number in range(recipe.n_genes)])
    store.attrs["encoding-type"], store.attrs["encoding-version"] = "anndata", "0.1.0"
    write_elem(store, "obs", obs_table(recipe, cells, per_row))
    write_elem(store, "var", pd.DataFrame(index=genes))
    write_elem(store, "obsm", cell_coordinates(recipe, cells), dataset_kwargs=options)
    graph = {"connectivities": neighbour_graph(recipe)}
    write_elem(store, "obsp", graph, dataset_kwargs=options)
    for name in ("layers", "varm", "varp", "uns"):
        write_elem(store, name, {})


def write_atlas(path: Path, recipe: Recipe) -> Path:
    """Write the atlas of a recipe, whole or not at all."""
    unfinished = path.with_name(path.name + ".partial")
    cells = draw_cells(recipe)
    with h5py.File(unfinished, "w") as file:
        per_row = write_expression(file, recipe, cells)
        write_annotations(file, recipe, cells, per_row)
    return unfinished.rename(path)


def to_csc(path: Path, out: Path, recipe: Recipe) -> Path:
    """Rewrite an atlas by gene (CSC), in memory, as h5ad or, by its suffix, as zarr."""
    unfinished = out.with_name(out.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    with h5py.File(path, "r") as file:
        parts = tuple(file["X"][name][:] for name in ("data", "indices", "indptr"))
    by_gene = sparse.csr_matrix(parts, shape=(recipe.n_cells, recipe.n_genes)).tocsc()
    per_row = np.diff(parts[2]).astype(np.int64)
    if out.suffix == ".zarr":
        import zarr

        _write_csc_zarr(zarr.open_group(unfinished, mode="w"), by_gene, recipe, per_row)
    else:
        with h5py.File(unfinished, "w") as file:
            _write_csc_h5(file, by_gene, recipe, per_row)
    return unfinished.rename(out)


def _write_csc_h5(file: Any, by_gene: Any, recipe: Recipe, per_row: np.ndarray) -> None:
    group = create_sparse_group(file, "X", "csc_matrix", by_gene.shape)
    with ThreadPoolExecutor(THREADS) as pool:
        for name, dtype in (("data", "<f4"), ("indices", "<i4")):
            array = StoredArray(group, name, dtype, pool)
            array.append(getattr(by_gene, name))
            array.finish()
    write_indptr(group, np.diff(by_gene.indptr))
    write_annotations(file, recipe, draw_cells(recipe), per_row)


def _write_csc_zarr(store: Any, by_gene: Any, recipe: Recipe, per_row: np.ndarray) -> None:
    group = store.create_group("X")
    group.attrs.update({"encoding-type": "csc_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = list(by_gene.shape)
    for name in ("data", "indices"):
        group.create_array(name, data=getattr(by_gene, name), chunks=(CHUNK_ELEMENTS,))
    group.create_array("indptr", data=by_gene.indptr)
    write_annotations(store, recipe, draw_cells(recipe), per_row)


def main() -> None:
    """Write one atlas from the command line; the benchmark runs this in a child process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", type=Recipe.from_json, required=True, help="fields as JSON")
    parser.add_argument("--csc-from", type=Path, help="rewrite this atlas by gene instead")
    arguments = parser.parse_args()
    if arguments.csc_from:
        to_csc(arguments.csc_from, arguments.out, arguments.recipe)
    else:
        write_atlas(arguments.out, arguments.recipe)


if __name__ == "__main__":
    main()
