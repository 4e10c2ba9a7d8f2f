"""Tables as text for terminals and as HTML for notebooks."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from cellucid_lazy.errors import format_size, printable


def as_text(
    title: str,
    rows: Iterable[Sequence[str]],
    *,
    below: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Format a table as text.

    Parameters
    ----------
    title
        The first line.
    rows
        Cells, as many in each row.
    below
        Lines after the table.
    width
        Columns of the terminal. A wider table is shown without its last column, or with all cells
        but the first on a line of their own. None for any width.

    Returns
    -------
    str
        Lines without trailing spaces.
    """
    table = [[_escaped(cell) for cell in cells] for cells in rows]
    lines = _aligned(table)
    if width is not None and _widest(lines) > width:
        lines = _aligned([cells[:-1] for cells in table])
        if _widest(lines) > width:
            lines = [line for cells in table for line in _stacked(cells, width)]
    first, *last = (wrapped(_escaped(line), width) for line in (title, *below))
    return "\n".join([first, *lines, *last])


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    # A row of one cell is a note, and has no columns to align.
    rows = [cells for cells in table if any(cells[1:])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + ("  ".join(map(str.ljust, cells, widths)).rstrip() if any(cells[1:]) else cells[0])
        for cells in table
    ]


def _widest(lines: Iterable[str]) -> int:
    return max(map(len, lines), default=0)


def _stacked(cells: Sequence[str], width: int) -> list[str]:
    rest = "  ".join(cell for cell in cells[1:] if cell)
    return [f"  {cells[0]}", *([wrapped(f"    {rest}", width)] if rest else [])]


def wrapped(line: str, width: int | None) -> str:
    """Break a line that is wider than `width`, if there is one, and indent the rest."""
    if width is None or len(line) <= width:
        return line
    start = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line,
        width,
        subsequent_indent=f"{start}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def as_html(
    title: str,
    rows: Iterable[Sequence[str]],
    *,
    head: Sequence[str] = (),
    below: Sequence[str] = (),
) -> str:
    """Format a table as HTML, as `as_text` does; `head` names its columns."""
    table = "".join(map(_html_row, rows))
    heading = _html_row(head, "th") if head else ""
    start = html.escape(_escaped(title))
    end = "<br>".join(html.escape(_escaped(line)) for line in below)
    return f"<div><b>{start}</b><table>{heading}{table}</table>{end}</div>"


def _html_row(cells: Sequence[str], tag: str = "td") -> str:
    shown = (html.escape(_escaped(cell)) for cell in cells)
    return f"<tr>{''.join(f'<{tag} style={_LEFT}>{cell}</{tag}>' for cell in shown)}</tr>"


_LEFT = "'text-align:left'"


def _escaped(text: str) -> str:
    """Make a text safe to print on one line."""
    return printable(text).replace("\n", "\\n")


def folder_summary(folder: Path, seconds: float) -> str:
    """Format the number and size of a folder's files, and the seconds taken, in a line."""
    sizes = [entry.stat().st_size for entry in folder.rglob("*") if entry.is_file()]
    return f"{folder}: {len(sizes):,} files, {format_size(sum(sizes))}, in {seconds:,.1f} s"


def format_shape(shape: Sequence[float]) -> str:
    """Format a shape: ``(3,000, 2)``, with ``?`` for NaN; empty without dimensions."""
    lengths = ["?" if math.isnan(length) else f"{length:,.0f}" for length in shape]
    if len(lengths) == 1:
        return f"({lengths[0]},)"
    return f"({', '.join(lengths)})" if lengths else ""


def format_names(names: Sequence[str], most: int = 12) -> str:
    """List names in a line; of more than `most`, the first and a count."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
