"""What this library is asked to do, through its public names only.

    python our_runs.py TASK PATH ...

The tasks and their options are those of ``reference_runs.py``. Every task prints a line of JSON
with ``seconds``: those after the imports.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellucid_lazy as cl

if TYPE_CHECKING:
    from collections.abc import Callable


def run_export(arguments: argparse.Namespace) -> dict[str, Any]:
    """Export everything."""
    options = cl.Options(
        compression=arguments.compression,
        var_quantization=arguments.var_quantization,
        obs_continuous_quantization=arguments.obs_continuous_quantization,
    )
    catalogue = cl.outputs(cl.open(arguments.path), options)
    budget = {"memory_budget": arguments.memory_budget} if arguments.memory_budget else {}
    cl.to_directory(catalogue, arguments.out, overwrite=True, progress=False, **budget)
    return {}


def run_genes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask for all the genes in one call."""
    catalogue = cl.outputs(cl.open(arguments.path), cl.Options())
    answers = cl.to_bytes(catalogue, [f"var/{name}" for name in arguments.names])
    return {"bytes": sum(len(answer) for answer in answers.values())}


def run_gene_median(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask for genes one after another with the dataset open: median milliseconds."""
    start = time.perf_counter()
    catalogue = cl.outputs(cl.open(arguments.path), cl.Options())
    names = [f"var/{name}" for name in arguments.names]
    catalogue[names[0]].array.compute()
    opened = time.perf_counter() - start
    times = []
    for name in names[1:]:
        start = time.perf_counter()
        catalogue[name].array.compute()
        times.append(time.perf_counter() - start)
    return {"milliseconds": 1000 * statistics.median(times), "opened": opened}


def run_edges(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask for the edges."""
    catalogue = cl.outputs(cl.open(arguments.path), cl.Options())
    answers = cl.to_bytes(catalogue, ["connectivity/src", "connectivity/dst"])
    return {"bytes": sum(len(answer) for answer in answers.values())}


def run_groups(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask for codes and outlier quantiles of categorical columns; the manifest has centroids."""
    options = cl.Options(obs_keys=tuple(arguments.names))
    catalogue = cl.outputs(cl.open(arguments.path), options)
    wanted = [f"obs/{key}/{part}" for key in arguments.names for part in ("codes", "outliers")]
    answers = cl.to_bytes(catalogue, [*wanted, "manifest/obs"])
    return {"bytes": sum(len(answer) for answer in answers.values())}


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
    parser.add_argument("--memory-budget")
    arguments = parser.parse_args()
    imported = time.perf_counter()
    report = TASKS[arguments.task](arguments)
    report["seconds"] = time.perf_counter() - imported
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
