"""What this library is asked to do, through its public names only.

    python our_runs.py TASK PATH ...

The tasks and their options are those of ``reference_runs.py``. Every task prints a line of JSON
with ``seconds``: those after the imports.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

import cellucid_lazy as cl

if TYPE_CHECKING:
    from collections.abc import Callable

# The library imports what a name needs when it is first used; that belongs to the imports.
PUBLIC = (cl.open, cl.outputs, cl.to_bytes, cl.to_directory)

# Read at a time to compare: 16 MB.
VALUES_COMPARED = 2**21


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
    return {"genes compared": compare(arguments.path, arguments.out, arguments.check)}


def compare(path: Path, folder: Path, names: list[str]) -> int:
    """Compare exported genes with the file, read without this library; return how many.

    Raises
    ------
    SystemExit
        For a gene that differs.
    """
    if not names:
        return 0
    with h5py.File(path) as file:
        matrix = file["X"]
        begins = matrix["indptr"][:]
        known = file["var"][file["var"].attrs["_index"]].asstr()[:].tolist()
        columns = np.zeros((len(names), len(begins) - 1), dtype=np.float32)
        positions = [known.index(name) for name in names]
        for low in range(0, len(matrix["data"]), VALUES_COMPARED):
            part = slice(low, low + VALUES_COMPARED)
            data, indices = matrix["data"][part], matrix["indices"][part]
            for column, position in zip(columns, positions, strict=True):
                places = np.flatnonzero(indices == position)
                column[np.searchsorted(begins, places + low, side="right") - 1] = data[places]
    for name, column in zip(names, columns, strict=True):
        written = (folder / "var" / f"{name}.values.f32.gz").read_bytes()
        if gzip.decompress(written) != column.tobytes():
            raise SystemExit(f"{name}: the exported values are not those of the file")
    return len(names)


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
    parser.add_argument("--check", nargs="+", default=[], help="genes to compare with the file")
    arguments = parser.parse_args()
    imported = time.perf_counter()
    report = TASKS[arguments.task](arguments)
    report["seconds"] = time.perf_counter() - imported
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
