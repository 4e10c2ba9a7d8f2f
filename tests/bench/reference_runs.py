"""What the reference is asked to do; a script for the interpreter of its own environment.

    python reference_runs.py TASK PATH ...

Every task prints a line of JSON with ``seconds``: those after the imports.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
from cellucid.anndata_adapter import AnnDataAdapter
from cellucid.prepare_data import prepare

if TYPE_CHECKING:
    from collections.abc import Callable


def run_export(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the whole file, as the reference's guide has it, and export everything."""
    adata = anndata.read_h5ad(arguments.path)
    prepare(
        latent_space=adata.obsm["X_pca"],
        obs=adata.obs,
        var=adata.var,
        gene_expression=adata.X,
        connectivities=adata.obsp["connectivities"],
        X_umap_2d=adata.obsm["X_umap_2d"],
        X_umap_3d=adata.obsm["X_umap_3d"],
        out_dir=arguments.out,
        force=True,
        compression=arguments.compression,
        var_quantization=arguments.var_quantization,
        obs_continuous_quantization=arguments.obs_continuous_quantization,
    )
    return {}


def run_genes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask the adapter for each gene; with ``--scale-to`` tell what that many would have taken."""
    start = time.perf_counter()
    with AnnDataAdapter.from_file(arguments.path) as adapter:
        opened = time.perf_counter() - start
        for gene in arguments.names:
            adapter.get_gene_expression(gene)
    total = time.perf_counter() - start
    each = (total - opened) / len(arguments.names)
    return {"opened": opened, "seconds_each": each, "timed": len(arguments.names)}


def run_gene_median(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask for genes one after another with the dataset open: median milliseconds."""
    begin = time.perf_counter()
    with AnnDataAdapter.from_file(arguments.path) as adapter:
        adapter.get_gene_expression(arguments.names[0])
        opened = time.perf_counter() - begin
        times = []
        for gene in arguments.names[1:]:
            start = time.perf_counter()
            adapter.get_gene_expression(gene)
            times.append(time.perf_counter() - start)
    return {"milliseconds": 1000 * statistics.median(times), "opened": opened}


def run_edges(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask for the edges."""
    with AnnDataAdapter.from_file(arguments.path) as adapter:
        return {"edges": adapter.get_connectivity_edges()[2]}


def run_groups(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask for codes, outlier quantiles and centroids of categorical columns."""
    with AnnDataAdapter.from_file(arguments.path) as adapter:
        for key in arguments.names:
            adapter.get_obs_categorical_codes(key)
            adapter.get_obs_outlier_quantiles(key)
            adapter.get_centroids_for_field(key)
    return {}


TASKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "export": run_export,
    "genes": run_genes,
    "gene-median": run_gene_median,
    "edges": run_edges,
    "groups": run_groups,
}


def main() -> None:
    """Run one task and report it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("path", type=Path)
    parser.add_argument("names", nargs="*", help="genes or obs columns")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compression", type=int)
    parser.add_argument("--var-quantization", type=int)
    parser.add_argument("--obs-continuous-quantization", type=int)
    parser.add_argument("--scale-to", type=int, help="genes to scale the seconds of a sample to")
    arguments = parser.parse_args()
    imported = time.perf_counter()
    report = TASKS[arguments.task](arguments)
    report["seconds"] = time.perf_counter() - imported
    if arguments.scale_to:
        missing = arguments.scale_to - report["timed"]
        report["scaled_seconds"] = report["seconds"] + missing * report["seconds_each"]
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
