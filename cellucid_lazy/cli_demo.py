"""What the demo ends with: a map of the exported cells, the files, and where to go from there.

All of it is read from the exported folder, as any other program would read it.
"""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.show import human_size
from cellucid_lazy.wording import counted

WIDTH, HEIGHT = 64, 22
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COLORS = (39, 208, 70, 203, 141, 178, 44, 205)


class Map(NamedTuple):
    """Cells as a viewer would draw them.

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
        One line: where, how many files, how long it took.
    colored
        Whether a terminal shows colors.

    Returns
    -------
    str
        Text of several parts.
    """
    identity = json.loads((folder / "dataset_identity.json").read_text())
    stats = identity["stats"]
    title = (
        f"{identity['name']}, generated: {counted(stats['n_cells'], 'cell')} x "
        f"{counted(stats['n_genes'], 'gene')}, {counted(stats['n_obs_fields'], 'column')}, "
        f"{counted(stats['n_edges'], 'edge')}"
    )
    shown = read_map(folder)
    parts = [title, draw(shown, colored=colored), legend(shown, colored=colored)]
    parts += [f"Written to {written}", files(folder), _next_steps(folder)]
    return "\n\n".join(parts) + "\n"


def read_map(folder: Path) -> Map:
    """Read positions and cell types back."""
    manifest = json.loads((folder / "obs_manifest.json").read_text())
    rows = {row[0]: row for row in manifest["_categoricalFields"]}
    points = np.frombuffer(_inflated(folder / "points_2d.bin.gz"), "<f4").reshape(-1, 2)
    codes = np.frombuffer(_inflated(folder / "obs/cell_type.codes.u8.gz"), np.uint8)
    return Map(points, codes, rows["cell_type"][1])


def _inflated(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def draw(shown: Map, *, colored: bool) -> str:
    """Draw the cells as letters, each place by its most common type."""
    scale = np.array([WIDTH, HEIGHT])
    places = np.clip(((shown.points + 1) / 2 * scale).astype(int), 0, scale - 1)
    counts = np.zeros((HEIGHT, WIDTH, len(shown.labels)), dtype=int)
    np.add.at(counts, (HEIGHT - 1 - places[:, 1], places[:, 0], shown.codes), 1)
    letters = np.where(counts.any(axis=2), counts.argmax(axis=2), -1)
    lines = ["".join(_mark(int(code), colored) for code in row).rstrip() for row in letters]
    drawn = [number for number, row in enumerate(letters) if (row >= 0).any()]
    return "\n".join(f"  {line}" for line in lines[drawn[0] : drawn[-1] + 1])


def _mark(code: int, colored: bool) -> str:
    if code < 0:
        return " "
    letter = LETTERS[code % len(LETTERS)]
    return f"\x1b[38;5;{_COLORS[code % len(_COLORS)]}m{letter}\x1b[0m" if colored else letter


def legend(shown: Map, *, colored: bool) -> str:
    """List the types with their numbers of cells, in two columns."""
    sizes = np.bincount(shown.codes, minlength=len(shown.labels))
    entries = [
        f"{_mark(code, colored)} {label:<20}{sizes[code]:>6,}"
        for code, label in enumerate(shown.labels)
    ]
    half = -(-len(entries) // 2)
    pairs = zip(entries[:half], [*entries[half:], ""], strict=False)
    return "\n".join("  " + "      ".join(pair).rstrip() for pair in pairs)


_WHAT = {
    "*_manifest.json": "names, labels, centroids",
    "dataset_identity.json": "what is here; the viewer reads it first",
    "points_*": "where each cell lies, float32, row i is cell i",
    "vectors/*": "velocity of each cell",
    "obs/*": "columns of cell metadata",
    "var/*": "expression, a file per gene",
    "connectivity/*": "edges of the neighbour graph",
}


def files(folder: Path) -> str:
    """List the files by kind, with sizes."""
    rows = []
    for pattern, what in _WHAT.items():
        sizes = [path.stat().st_size for path in folder.glob(pattern)]
        rows.append(f"  {pattern:<22}{len(sizes):>6,} {_size(sizes):>10}   {what}")
    return "\n".join(rows)


def _size(sizes: list[Any]) -> str:
    return human_size(sum(sizes))


def _next_steps(folder: Path) -> str:
    command, python, viewer = _programs()
    return f"""Look at it
  in the browser    {python} -m pip install cellucid==0.0.9
                    {viewer} serve {shlex.quote(str(folder))}

With your own data, say atlas.h5ad
  as a folder       {command} inspect atlas.h5ad
                    {command} export atlas.h5ad atlas --compression 1
  in Python         {python}
                    import cellucid_lazy as cl
                    cl.outputs("atlas.h5ad")["points/2d"].array"""


def _programs() -> tuple[str, str, str]:
    """What to type for this program, for Python and for the viewer: paths where need be."""
    python = Path(sys.executable)
    active = Path(shutil.which("python") or "").parent == python.parent
    typed = "python" if active else _typed(python)
    if shutil.which("cellucid-lazy"):
        return "cellucid-lazy", typed, "cellucid"
    own = python.with_name("cellucid-lazy")
    command = _typed(own) if own.exists() else f"{typed} -m cellucid_lazy"
    return command, typed, _typed(python.with_name("cellucid"))


def _typed(program: Path) -> str:
    """A program's path as a shell takes it, from the current folder where it is further down."""
    here = Path.cwd()
    below = here != program.parent and program.is_relative_to(here)
    return shlex.quote(str(program.relative_to(here) if below else program))
