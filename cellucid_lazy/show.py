"""How a catalogue shows itself, with shapes, dtypes, files and sizes, and a folder that is done.

Of a catalogue metadata only, but for the names of genes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cellucid_lazy.errors import format_count, format_size
from cellucid_lazy.kinds import Row
from cellucid_lazy.source import Source

_MAX_ROWS = 24
_HEAD = ("name", "dtype", "shape", "size", "file")


def as_text(source: Source, rows: Mapping[str, Sequence[Row]]) -> str:
    """Show a catalogue, given its rows by kind, as aligned text."""
    table = list(_table(rows))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  " + "  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
    below = matrices_line(source) if source.expression is None else ""
    return "\n".join([_title(source), *lines, *below.splitlines()])


def matrices_line(source: Source) -> str:
    """List the stored matrices in a line; "" where there is none beside X."""
    if not set(source.matrices) - {"X"}:
        return ""
    listed = [f"{key} {_shape(shape)}" for key, shape in source.matrices.items()]
    return f"  matrices: {', '.join(listed)}"


def damage_line(source: Source) -> str:
    """Say in a line whether damage in the expression matrix is noticed; "" if that is unknown."""
    if source.checksum is None:
        return ""
    if not source.checksum:
        return "  damage in the expression matrix is not noticed: it is stored without a checksum"
    return f"  damage in the expression matrix is noticed: {source.checksum} has a checksum"


def folder_summary(folder: Path, seconds: float) -> str:
    """Tell in a line how many files a folder has, their size, and how long it took."""
    sizes = [entry.stat().st_size for entry in folder.rglob("*") if entry.is_file()]
    return f"{folder}: {len(sizes):,} files, {format_size(sum(sizes))}, in {seconds:,.1f} s"


def as_html(source: Source, rows: Mapping[str, Sequence[Row]]) -> str:
    """Show a catalogue, given its rows by kind, as an HTML table for notebooks."""
    head = "".join(f"<th style='text-align:left'>{name}</th>" for name in _HEAD)
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for cells in _table(rows)
    )
    title = html.escape(_title(source))
    below = html.escape(matrices_line(source)) if source.expression is None else ""
    return f"<div><b>{title}</b><table><tr>{head}</tr>{body}</table>{below}</div>"


def _title(source: Source) -> str:
    cells, genes = format_count(source.n_cells, "cell"), format_count(source.n_genes, "gene")
    return f"Catalogue of {source.name}: {cells} x {genes}"


def _table(rows: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, ...]]:
    for kind, group in rows.items():
        yield from map(_cells, group[:_MAX_ROWS])
        if len(group) > _MAX_ROWS:
            yield _cells(Row(f"... and {len(group) - _MAX_ROWS:,} more of {kind}/*"))


def _cells(row: Row) -> tuple[str, ...]:
    size = "" if row.nbytes is None else format_size(row.nbytes) + (" each" if row.each else "")
    return row.name, row.dtype, _shape(row.shape), size, row.file


def _shape(shape: Sequence[float]) -> str:
    lengths = ["?" if math.isnan(length) else f"{length:,.0f}" for length in shape]
    if len(lengths) == 1:
        return f"({lengths[0]},)"
    return f"({', '.join(lengths)})" if lengths else ""
