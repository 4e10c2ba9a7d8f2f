"""What the commands do, each a function of its parsed arguments."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellucid_lazy.cli_options import OPENING, SCHEDULING, SETTINGS, WORK, given
from cellucid_lazy.errors import OptionError
from cellucid_lazy.naming import name_problems

if TYPE_CHECKING:
    from cellucid_lazy.catalogue import Catalogue

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
        shown: Any = _described(catalogue) if arguments.json else repr(catalogue)
        refused = list(name_problems(catalogue.source.name, catalogue))
    notes = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    notes += [f"export would refuse this: {one}" for one in refused]
    if arguments.json:
        shown = json.dumps({**shown, "left_out": notes}, indent=2)
    elif notes:
        shown = "\n".join(
            [shown, "", "Left out, or worth knowing:", *(f"  {one}" for one in notes)]
        )
    sys.stdout.write(f"{shown}\n")


def _described(catalogue: Catalogue) -> dict[str, Any]:
    """Describe a catalogue for machines; what only reading tells is null."""
    source = catalogue.source
    genes = catalogue.names("var")
    return {
        "dataset": source.name,
        "storage": source.storage,
        "n_cells": source.n_cells,
        "n_genes": source.n_genes,
        "expression": source.expression.layout if source.expression else None,
        "latent_key": catalogue.latent_key,
        "outputs": [_told(catalogue, name) for name in catalogue if not name.startswith("var/")],
        "genes": [name.removeprefix("var/") for name in genes],
    }


def _told(catalogue: Catalogue, name: str) -> dict[str, Any]:
    kind, _, rest = name.partition("/")
    column = catalogue.source.obs.get(rest.rpartition("/")[0]) if kind == "obs" else None
    text = column is not None and column.kind == "category" and column.labels is None
    if text or kind == "manifest":
        return {"name": name, "dtype": None, "shape": None, "file": None}
    output = catalogue[name]
    shape = [None if n != n else int(n) for n in output.shape]
    return {"name": name, "dtype": output.dtype.name, "shape": shape, "file": output.path}


def export(arguments: argparse.Namespace) -> None:
    """Write the folder that the viewer opens, or tell how it would be done."""
    import dask

    from cellucid_lazy.materialize import explain, to_directory

    began = time.monotonic()
    work = given(arguments, WORK)
    with dask.config.set(given(arguments, SCHEDULING)):
        catalogue = _catalogue(arguments)
        if arguments.select:
            catalogue = catalogue.select(*arguments.select)
        if arguments.explain:
            plan = explain(catalogue, memory_budget=work.get("memory_budget"))
            sys.stdout.write(f"{plan}\n")
            return
        to_directory(catalogue, arguments.out, overwrite=arguments.overwrite, **work)
    if sys.stderr.isatty():
        sys.stderr.write(f"{_written(arguments.out, time.monotonic() - began)}\n")


def _written(folder: Path, seconds: float) -> str:
    from cellucid_lazy.show import human_size

    sizes = [entry.stat().st_size for entry in folder.rglob("*") if entry.is_file()]
    return f"{folder}: {len(sizes):,} files, {human_size(sum(sizes))}, in {seconds:,.1f} s"


def write_bytes(arguments: argparse.Namespace) -> None:
    """Write one output's bytes, and nothing else, to standard output."""
    import dask

    from cellucid_lazy.materialize import to_bytes

    if sys.stdout.isatty():
        raise OptionError("bytes are not for a terminal: send them to a file with > FILE")
    with dask.config.set(given(arguments, SCHEDULING)):
        catalogue = _catalogue(arguments)
        level = catalogue.options.compression
        found = to_bytes(
            catalogue, [arguments.output], level, progress=None, **given(arguments, WORK)
        )
    sys.stdout.buffer.write(found[arguments.output])


def demo(arguments: argparse.Namespace) -> None:
    """Generate an atlas, export it, and tell what to look at."""
    from cellucid_lazy.catalogue import outputs
    from cellucid_lazy.cli_demo import guide
    from cellucid_lazy.demo import write_demo
    from cellucid_lazy.materialize import to_directory
    from cellucid_lazy.options import Options
    from cellucid_lazy.sinks.directory import check_target

    check_target(arguments.out, overwrite=arguments.overwrite)
    with tempfile.TemporaryDirectory(prefix="cellucid-lazy-demo-") as folder:
        atlas = Path(folder) / "blood.h5ad"
        try:
            write_demo(atlas, n_cells=arguments.cells, n_genes=arguments.genes)
        except ValueError as problem:
            raise OptionError(str(problem)) from problem
        began = time.monotonic()
        catalogue = outputs(atlas, Options(**DEMO_SETTINGS))
        to_directory(catalogue, arguments.out, overwrite=arguments.overwrite)
    written = _written(arguments.out, time.monotonic() - began)
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    sys.stdout.write(guide(arguments.out, written, colored=colored))


def _catalogue(arguments: argparse.Namespace) -> Catalogue:
    """Open the dataset that a command is about, under the settings given."""
    from cellucid_lazy.catalogue import outputs
    from cellucid_lazy.options import Options
    from cellucid_lazy.readers import open as open_source

    options = Options(**given(arguments, SETTINGS))
    return outputs(open_source(arguments.data, **given(arguments, OPENING)), options)
