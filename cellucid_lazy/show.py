"""How a catalogue shows itself: what is there, with shapes, dtypes, files and sizes.

Nothing is read for it: where only reading tells a type, both possible ones are shown.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from cellucid_lazy.naming import safe_name
from cellucid_lazy.wording import counted

if TYPE_CHECKING:
    from cellucid_lazy.catalogue import Catalogue

_MOST_ROWS = 24


class Row(NamedTuple):
    """One line: an output, or a note that stands for several."""

    name: str
    dtype: str
    shape: str
    size: str
    file: str


def as_text(catalogue: Catalogue) -> str:
    """Show a catalogue as aligned text."""
    rows = list(_rows(catalogue))
    widths = [
        max((len(row[place]) for row in rows), default=0) for place in range(len(Row._fields))
    ]
    lines = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([_title(catalogue), *lines])


def as_html(catalogue: Catalogue) -> str:
    """Show a catalogue as an HTML table, for notebooks."""
    head = "".join(f"<th style='text-align:left'>{name}</th>" for name in Row._fields)
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in _rows(catalogue)
    )
    title = html.escape(_title(catalogue))
    return f"<div><b>{title}</b><table><tr>{head}</tr>{body}</table></div>"


def _title(catalogue: Catalogue) -> str:
    source = catalogue.source
    cells, genes = counted(source.n_cells, "cell"), counted(source.n_genes, "gene")
    return f"Catalogue of {source.name}: {cells} x {genes}"


def _rows(catalogue: Catalogue) -> Iterator[Row]:
    for kind in ("points", "vectors", "obs", "connectivity", "manifest"):
        names = catalogue.names(kind)
        for name in names[:_MOST_ROWS]:
            yield _obs_row(catalogue, name) if kind == "obs" else _row(catalogue, name, kind)
        if len(names) > _MOST_ROWS:
            yield Row(f"... and {len(names) - _MOST_ROWS:,} more of {kind}/*", "", "", "", "")
        if kind == "points":
            yield from _latent_row(catalogue)
        if kind == "obs":
            yield from _gene_row(catalogue)


def _row(catalogue: Catalogue, name: str, kind: str) -> Row:
    if kind == "manifest":
        return Row(name, "json", "", "", f"{_MANIFESTS[name]}.json")
    output = catalogue[name]
    shape = tuple("?" if n != n else int(n) for n in output.shape)
    return Row(name, output.dtype.name, _shape(shape), human_size(output.nbytes), output.path or "")


def _latent_row(catalogue: Catalogue) -> Iterator[Row]:
    """Say where outlier quantiles come from, where some are offered."""
    if not any(name.endswith("/outliers") for name in catalogue.names("obs")):
        return
    key = catalogue.latent_key
    if key is None:
        yield Row("(latent space: none found, outlier quantiles are 0)", "", "", "", "")
        return
    element = catalogue.source.obsm[key]
    yield Row("(latent space)", element.dtype.name, _shape(element.shape), "", f"from obsm/{key}")


_MANIFESTS = {
    "manifest/identity": "dataset_identity",
    "manifest/obs": "obs_manifest",
    "manifest/var": "var_manifest",
    "manifest/connectivity": "connectivity_manifest",
}


def _obs_row(catalogue: Catalogue, name: str) -> Row:
    key, part = name.removeprefix("obs/").rsplit("/", 1)
    n_cells = catalogue.source.n_cells
    bits = catalogue.options.obs_continuous_quantization
    dtype = {None: "float32", 8: "uint8", 16: "uint16"}[bits]
    if part == "codes":
        column = catalogue.source.obs[key]
        requested = catalogue.options.obs_categorical_dtype
        narrow = column.at_most is not None and column.at_most <= 254
        dtype = requested if requested != "auto" else "uint8" if narrow else "uint8|uint16"
    extension = dtype.replace("uint", "u").replace("float", "f")
    width = {"uint8": 1, "uint16": 2, "float32": 4}.get(dtype)
    size = human_size(n_cells * width) if width else "?"
    file = f"obs/{safe_name(key)}.{part}.{extension}"
    return Row(name, dtype, _shape((n_cells,)), size, file)


def _gene_row(catalogue: Catalogue) -> Iterator[Row]:
    genes = catalogue.names("var") if catalogue.source.n_genes else ()
    if genes:
        bits = catalogue.options.var_quantization
        dtype = {None: "float32", 8: "uint8", 16: "uint16"}[bits]
        size = human_size(catalogue.source.n_cells * (4 if bits is None else bits // 8))
        note = f"{genes[0]} ... {genes[-1]} ({len(genes):,})" if len(genes) > 1 else genes[0]
        extension = dtype.replace("uint", "u").replace("float", "f")
        shape = _shape((catalogue.source.n_cells,))
        yield Row(note, dtype, shape, f"{size} each", f"var/<gene>.values.{extension}")


def _shape(shape: tuple[object, ...]) -> str:
    inner = ", ".join(f"{n:,}" if isinstance(n, int) else str(n) for n in shape)
    return f"({inner})" if len(shape) > 1 else f"({inner},)"


def human_size(n_bytes: float) -> str:
    """Write a size for people: ``1.6 MB``; ``?`` when it is not known."""
    if n_bytes != n_bytes:
        return "?"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError
