"""What the commands do, each a function of its parsed arguments."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellucid_lazy as cl
from cellucid_lazy.cli.flags import OPENING, SCHEDULING, SETTINGS, WORK, given
from cellucid_lazy.errors import OptionError

if TYPE_CHECKING:
    from cellucid_lazy.kinds import Row

# What needs dask is imported by the functions, here and by `cl` itself, so that ``--help`` stays
# quick.

DEMO_SETTINGS: dict[str, Any] = {
    "dataset_name": "Demo: blood cells",
    "description": "A generated atlas of blood cells",
    "compression": 6,
}


def inspect(arguments: argparse.Namespace) -> None:
    """Show what a dataset offers, and what was left out of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        catalogue = _catalogue(arguments)
        shown: Any = _description(catalogue) if arguments.json else _table(catalogue)
        problems = catalogue.problems()
    notes = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    notes += [f"export would refuse this: {one}" for one in problems]
    if arguments.json:
        shown = json.dumps({**shown, "left_out": notes}, indent=2)
    elif notes:
        shown = "\n".join(
            [shown, "", "Left out, or worth knowing:", *(f"  {one}" for one in notes)]
        )
    sys.stdout.write(f"{shown}\n")


def _table(catalogue: cl.Catalogue) -> str:
    """Show a catalogue, the stored matrices if there are others than X, and if X is checked."""
    from cellucid_lazy.show import damage_line, matrices_line

    text, line = repr(catalogue), matrices_line(catalogue.source)
    text = text if not line or text.endswith(line) else f"{text}\n{line}"
    return f"{text}\n{damage_line(catalogue.source)}".rstrip("\n")


def _description(catalogue: cl.Catalogue) -> dict[str, Any]:
    """Describe a catalogue for machines; null is what only reading can tell."""
    source = catalogue.source
    genes = catalogue.listed("var")
    rows = [row for group in catalogue.rows().values() for row in group if row.name in catalogue]
    return {
        "dataset": source.name,
        "storage": source.storage,
        "n_cells": source.n_cells,
        "n_genes": source.n_genes,
        "expression": source.expression.layout if source.expression else None,
        "matrices": {key: list(shape) for key, shape in source.matrices.items()},
        "checksum": source.checksum,
        "latent_key": catalogue.latent_key,
        "outputs": [_row(row) for row in rows if row.name not in genes],
        "genes": [name.key for name in genes.values()],
    }


def _row(row: Row) -> dict[str, Any]:
    if row.dtype == "json" or "|" in row.dtype:
        return {"name": row.name, "dtype": None, "shape": None, "file": None}
    shape = [None if math.isnan(length) else int(length) for length in row.shape]
    return {"name": row.name, "dtype": row.dtype, "shape": shape, "file": row.file or None}


def export(arguments: argparse.Namespace) -> None:
    """Write a folder for a viewer, or describe how it would be done."""
    import dask

    work = given(arguments, WORK)
    with dask.config.set(given(arguments, SCHEDULING)):
        catalogue = _catalogue(arguments)
        if arguments.select or arguments.exclude:
            catalogue = catalogue.select(*arguments.select, exclude=arguments.exclude)
        if arguments.explain:
            plan = cl.explain(catalogue, memory_budget=work.get("memory_budget"))
            sys.stdout.write(f"{plan}\n")
            return
        cl.to_directory(catalogue, arguments.out, overwrite=arguments.overwrite, **work)


def write_bytes(arguments: argparse.Namespace) -> None:
    """Write one output's bytes, and nothing else, to standard output."""
    import dask

    if sys.stdout.isatty():
        raise OptionError("bytes are not for a terminal: send them to a file with > FILE")
    with dask.config.set(given(arguments, SCHEDULING)):
        catalogue = _catalogue(arguments)
        level = catalogue.options.compression
        files = cl.to_bytes(
            catalogue, [arguments.output], level, progress=None, **given(arguments, WORK)
        )
    sys.stdout.buffer.write(files[arguments.output])


def demo(arguments: argparse.Namespace) -> None:
    """Generate an atlas, export it, and show what came out."""
    from cellucid_lazy.cli.guide import guide
    from cellucid_lazy.demo import write_demo
    from cellucid_lazy.show import folder_summary
    from cellucid_lazy.sinks import sink_for

    # Refuses the target before the work.
    sink_for(arguments.out, overwrite=arguments.overwrite)
    with tempfile.TemporaryDirectory(prefix="cellucid-lazy-demo-") as folder:
        atlas = Path(folder) / "blood.h5ad"
        try:
            write_demo(atlas, n_cells=arguments.cells, n_genes=arguments.genes)
        except ValueError as problem:
            raise OptionError(str(problem)) from problem
        began = time.monotonic()
        catalogue = cl.outputs(atlas, cl.Options(**DEMO_SETTINGS))
        cl.to_directory(catalogue, arguments.out, overwrite=arguments.overwrite, progress=False)
    summary = folder_summary(Path(arguments.out), time.monotonic() - began)
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    sys.stdout.write(guide(Path(arguments.out), summary, colored=colored))


def _catalogue(arguments: argparse.Namespace) -> cl.Catalogue:
    """Open the dataset that a command is about, under the settings given."""
    options = cl.Options(**given(arguments, SETTINGS))
    return cl.outputs(cl.open(arguments.data, **given(arguments, OPENING)), options)
