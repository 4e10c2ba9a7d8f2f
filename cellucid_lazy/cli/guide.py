"""What the demo prints: a map of the exported cells, the files, and what to do next.

All of it is read from the exported folder, as any other program would read it.
"""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import format_count, format_size

WIDTH, HEIGHT = 64, 22
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COLORS = (39, 208, 70, 203, 141, 178, 44, 205)


class Map(NamedTuple):
    """The cells that are drawn.

    Attributes
    ----------
    points
        float32 (n_cells, 2), within [-1, 1].
    codes
        uint8 (n_cells,).
    labels
        Name of each code.
    """

    points: NDArray[np.float32]
    codes: NDArray[np.uint8]
    labels: list[str]


def guide(folder: Path, written: str, *, colored: bool) -> str:
    """Describe an exported demo.

    Parameters
    ----------
    folder
        The export.
    written
        One line: path, number of files, seconds.
    colored
        Whether to use colors.

    Returns
    -------
    str
        Text of several parts.
    """
    identity = json.loads((folder / "dataset_identity.json").read_text())
    stats = identity["stats"]
    cells, genes = format_count(stats["n_cells"], "cell"), format_count(stats["n_genes"], "gene")
    columns, edges = (
        format_count(stats["n_obs_fields"], "column"),
        format_count(stats["n_edges"], "edge"),
    )
    title = f"{identity['name']}, generated: {cells} x {genes}, {columns}, {edges}"
    shown = read_map(folder)
    parts = [title, draw(shown, colored=colored), legend(shown, colored=colored)]
    parts += [f"Written to {written}", files(folder), _next_steps(folder)]
    return "\n\n".join(parts) + "\n"


def read_map(folder: Path) -> Map:
    """Read positions and cell types back."""
    manifest = json.loads((folder / "obs_manifest.json").read_text())
    rows = {row[0]: row for row in manifest["_categoricalFields"]}
    points = np.frombuffer(_decompressed(folder / "points_2d.bin.gz"), "<f4").reshape(-1, 2)
    codes = np.frombuffer(_decompressed(folder / "obs/cell_type.codes.u8.gz"), np.uint8)
    return Map(points, codes, rows["cell_type"][1])


def _decompressed(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def draw(shown: Map, *, colored: bool) -> str:
    """Draw the cells as letters, each character cell by its most common type."""
    scale = np.array([WIDTH, HEIGHT])
    positions = np.clip(((shown.points + 1) / 2 * scale).astype(int), 0, scale - 1)
    counts = np.zeros((HEIGHT, WIDTH, len(shown.labels)), dtype=int)
    np.add.at(counts, (HEIGHT - 1 - positions[:, 1], positions[:, 0], shown.codes), 1)
    letters = np.where(counts.any(axis=2), counts.argmax(axis=2), -1)
    lines = ["".join(_letter(int(code), colored) for code in row).rstrip() for row in letters]
    drawn = [number for number, row in enumerate(letters) if (row >= 0).any()]
    return "\n".join(f"  {line}" for line in lines[drawn[0] : drawn[-1] + 1])


def _letter(code: int, colored: bool) -> str:
    if code < 0:
        return " "
    letter = LETTERS[code % len(LETTERS)]
    return f"\x1b[38;5;{_COLORS[code % len(_COLORS)]}m{letter}\x1b[0m" if colored else letter


def legend(shown: Map, *, colored: bool) -> str:
    """List the types with their numbers of cells, in two columns."""
    sizes = np.bincount(shown.codes, minlength=len(shown.labels))
    entries = [
        f"{_letter(code, colored)} {label:<20}{sizes[code]:>6,}"
        for code, label in enumerate(shown.labels)
    ]
    half = -(-len(entries) // 2)
    pairs = zip(entries[:half], [*entries[half:], ""], strict=False)
    return "\n".join("  " + "      ".join(pair).rstrip() for pair in pairs)


_DESCRIPTIONS = {
    "*_manifest.json": "names, labels, centroids",
    "dataset_identity.json": "list of contents; a viewer reads it first",
    "points_*": "coordinates of each cell, float32, row i is cell i",
    "vectors/*": "velocity of each cell",
    "obs/*": "columns of cell metadata",
    "var/*": "expression, a file per gene",
    "connectivity/*": "edges of the neighbour graph",
}


def files(folder: Path) -> str:
    """List the files by kind, with sizes."""
    rows = []
    for pattern, description in _DESCRIPTIONS.items():
        sizes = [path.stat().st_size for path in folder.glob(pattern)]
        rows.append(
            f"  {pattern:<22}{len(sizes):>6,} {format_size(sum(sizes)):>10}   {description}"
        )
    return "\n".join(rows)


def _next_steps(folder: Path) -> str:
    command, python = _programs()
    points = str(folder / "points_2d.bin.gz")
    return f"""Read a file back
  in Python         {python}
                    import gzip, numpy as np
                    octets = gzip.open({points!r}).read()
                    print(np.frombuffer(octets, "<f4").reshape(-1, 2))

With your own data, say atlas.h5ad
  as a folder       {command} inspect atlas.h5ad
                    {command} export atlas.h5ad atlas --compression 1
  in Python         {python}
                    import cellucid_lazy as cl
                    print(cl.outputs("atlas.h5ad")["points/2d"].array)"""


def _programs() -> tuple[str, str]:
    """Return what to type for this program and for Python: a path where it is not on PATH."""
    python = Path(sys.executable)
    active = Path(shutil.which("python") or "").parent == python.parent
    typed = "python" if active else _typed(python)
    if shutil.which("cellucid-lazy"):
        return "cellucid-lazy", typed
    own = python.with_name("cellucid-lazy")
    return (_typed(own) if own.exists() else f"{typed} -m cellucid_lazy"), typed


def _typed(program: Path) -> str:
    """Quote a program's path for a shell, relative if it is below the current folder."""
    here = Path.cwd()
    below = here != program.parent and program.is_relative_to(here)
    return shlex.quote(str(program.relative_to(here) if below else program))
