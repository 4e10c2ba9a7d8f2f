"""The commands: functions of the parsed arguments."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import dask
import numpy as np

import cellucid_lazy as cl
from cellucid_lazy.cli.flags import (
    CELLS,
    OPENING,
    PICTURE,
    REPLACE,
    SCHEDULING,
    SETTINGS,
    WORK,
    given,
    in_flags,
)
from cellucid_lazy.cli.guide import guide
from cellucid_lazy.errors import ExportError, MissingPackageError, OptionError, printable, reason
from cellucid_lazy.kinds import Row
from cellucid_lazy.show import folder_summary, wrapped
from cellucid_lazy.sinks import sink_for

DEMO_SETTINGS: dict[str, Any] = {
    "dataset_name": "Demo: blood cells",
    "description": "A generated atlas of blood cells",
    "compression": 6,
}
_PICTURES = (".pdf", ".png", ".svg")


def run(arguments: argparse.Namespace) -> None:
    """Run the command that was parsed."""
    commands = {
        "inspect": inspect,
        "export": export,
        "bytes": write_bytes,
        "plot": plot,
        "demo": demo,
    }
    with dask.config.set(given(arguments, SCHEDULING)):
        commands[arguments.command](arguments)


def inspect(arguments: argparse.Namespace) -> None:
    """Show what a dataset offers, and what was left out of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        catalogue = _catalogue(arguments)
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        shown: Any = _description(catalogue) if arguments.json else _table(catalogue, width)
        problems = catalogue.problems()
    notes = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    notes += [f"export would refuse this: {one}" for one in problems]
    notes = [printable(in_flags(one)) for one in notes]
    if arguments.json:
        shown = json.dumps({**shown, "left_out": notes}, indent=2)
    elif notes:
        lines = (wrapped(f"  {one}", width) for one in notes)
        shown = "\n".join([shown, "", "Left out, or worth knowing:", *lines])
    sys.stdout.write(f"{shown}\n")


def _table(catalogue: cl.Catalogue, width: int | None) -> str:
    """Format a catalogue, and whether damage in the expression matrix is noticed."""
    table, checksum = catalogue.as_text(width), catalogue.source.checksum
    if checksum is None:
        return table
    noticed = (
        f"is noticed: {checksum} has a checksum"
        if checksum
        else "is not noticed: it is stored without a checksum"
    )
    return "\n".join([table, wrapped(f"  damage in the expression matrix {noticed}", width)])


def _description(catalogue: cl.Catalogue) -> dict[str, Any]:
    """Describe a catalogue as JSON; null is what is not known before reading."""
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
        "colors": [key for key, column in source.obs.items() if column.read_colors],
        "outputs": [_row(row) for row in rows if row.name not in genes],
        "genes": [name.key for name in genes.values()],
    }


def _row(row: Row) -> dict[str, Any]:
    if row.dtype == "json" or "|" in row.dtype:
        return {"name": row.name, "dtype": None, "shape": None, "file": None}
    shape = [None if math.isnan(length) else int(length) for length in row.shape]
    return {"name": row.name, "dtype": row.dtype, "shape": shape, "file": row.file or None}


def export(arguments: argparse.Namespace) -> None:
    """Write a folder for a viewer, or print the plan of the work."""
    work = given(arguments, WORK)
    if arguments.details and not arguments.explain:
        raise OptionError("--details goes with --explain")
    catalogue = _catalogue(arguments)
    if arguments.select or arguments.exclude:
        catalogue = catalogue.select(*arguments.select, exclude=arguments.exclude)
    if arguments.explain:
        budget = work.get("memory_budget")
        plan = cl.explain(catalogue, memory_budget=budget, details=arguments.details)
        sys.stdout.write(f"{plan}\n")
        return
    cl.to_directory(catalogue, arguments.out, **given(arguments, REPLACE), **work)


def write_bytes(arguments: argparse.Namespace) -> None:
    """Write one output's bytes to standard output or a file, or several to a folder."""
    names = list(dict.fromkeys(arguments.outputs))
    if arguments.output is None and len(names) > 1:
        raise OptionError("several outputs need a folder: give one with -o FOLDER")
    if arguments.output is None and sys.stdout.isatty():
        raise OptionError("bytes are not for a terminal: send them to a file with -o FILE")
    catalogue = _catalogue(arguments)
    paths = _paths(catalogue, names, arguments.output)
    compression = catalogue.options.compression
    files = cl.to_bytes(catalogue, names, compression, progress=None, **given(arguments, WORK))
    for name, path in paths.items():
        if path is None:
            sys.stdout.buffer.write(files[name])
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        except OSError as problem:
            raise ExportError(f"{path}: cannot be written: {reason(problem)}") from problem


def _paths(catalogue: cl.Catalogue, names: list[str], out: str | None) -> dict[str, Path | None]:
    """Return the file of each output; None for standard output."""
    if out is None:
        return {names[0]: None}
    target = Path(out).expanduser()
    _check_not_read(catalogue, target)
    if len(names) == 1 and not target.is_dir():
        return {names[0]: target}
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target}: is a file; several outputs need a folder")
    suffix = catalogue.dataset.suffix
    paths: dict[str, Path | None] = {}
    for name in names:
        output = catalogue[name]
        if output.path is None:
            raise OptionError(f"{name} has no file in an export: ask for it alone, with -o FILE")
        paths[name] = target / (output.path + ("" if output.manifest else suffix))
    return paths


def _check_not_read(catalogue: cl.Catalogue, target: Path) -> None:
    source = catalogue.source.path
    if source is not None and target.resolve().is_relative_to(Path(source).resolve()):
        raise ExportError(f"{target}: is what is read; give another place")


def plot(arguments: argparse.Namespace) -> None:
    """Draw an embedding as a picture file."""
    target = Path(arguments.out).expanduser()
    if target.suffix.lower() not in _PICTURES:
        raise OptionError(f"{target}: a picture's name ends in {', '.join(_PICTURES)}")
    catalogue = _catalogue(arguments)
    _check_not_read(catalogue, target)
    _draw(catalogue, target, arguments.dpi, **given(arguments, PICTURE), progress=None)


def _draw(catalogue: cl.Catalogue, path: Path, dpi: int, **arguments: Any) -> None:
    # A backend without windows.
    os.environ["MPLBACKEND"] = "agg"
    figure: Any = cl.plot.embedding(catalogue, **arguments).figure
    try:
        figure.savefig(path, dpi=dpi, bbox_inches="tight")
    except OSError as problem:
        raise ExportError(f"{path}: cannot be written: {reason(problem)}") from problem


def demo(arguments: argparse.Namespace) -> None:
    """Generate an atlas, export it, draw it, and describe the files."""
    # Deferred: it imports anndata, which takes long and which no other command needs.
    from cellucid_lazy.demo import write_demo

    # Targets are refused before the work.
    replace = given(arguments, REPLACE)
    sink_for(arguments.out, **replace)
    picture = Path(f"{arguments.out.rstrip('/')}.png")
    if picture.exists() and not replace:
        raise ExportError(f"{picture}: is there; replace it with overwrite=True (--overwrite)")
    with tempfile.TemporaryDirectory(prefix="cellucid-lazy-demo-") as folder:
        atlas = Path(folder) / "blood.h5ad"
        try:
            write_demo(atlas, n_cells=arguments.n_cells, n_genes=arguments.n_genes)
        except ValueError as problem:
            raise OptionError(str(problem)) from problem
        began = time.monotonic()
        catalogue = cl.outputs(atlas, cl.Options(**DEMO_SETTINGS))
        cl.to_directory(catalogue, arguments.out, **replace, progress=False)
        summary = folder_summary(Path(arguments.out), time.monotonic() - began)
        try:
            _draw(catalogue, picture, 150, color="cell_type")
            drawn = f"The cells by cell type: {picture}"
        except MissingPackageError as problem:
            drawn = f"No picture: {problem}"
    sys.stdout.write(guide(Path(arguments.out), summary, drawn))


def _catalogue(arguments: argparse.Namespace) -> cl.Catalogue:
    """Make the catalogue of a command: its dataset, settings and cells."""
    options = cl.Options(**given(arguments, SETTINGS))
    source = cl.open(arguments.data, **given(arguments, OPENING))
    return _select_cells(cl.outputs(source, options), **given(arguments, CELLS))


def _select_cells(
    catalogue: cl.Catalogue,
    where: str | None = None,
    sample: int | None = None,
    seed: int | None = None,
) -> cl.Catalogue:
    """Select cells by an expression, then at random."""
    if seed is not None and sample is None:
        raise OptionError("--seed goes with --sample")
    if where is not None:
        catalogue = catalogue.query(where)
    n_cells = catalogue.source.n_cells
    if sample is None or sample >= n_cells:
        return catalogue
    drawn = np.random.default_rng(seed).choice(n_cells, sample, replace=False)
    return catalogue.isel(cell=np.sort(drawn))
