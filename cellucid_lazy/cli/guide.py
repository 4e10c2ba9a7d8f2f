"""The text that the demo prints: what was exported, its files, and what to do next."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

from cellucid_lazy.errors import format_count, format_size


def guide(folder: Path, written: str, drawn: str) -> str:
    """Describe an exported demo, from its files.

    Parameters
    ----------
    folder
        The export.
    written
        One line: path, number and size of the files, seconds.
    drawn
        One line: where the picture is.

    Returns
    -------
    str
        Text of several parts.
    """
    identity = json.loads((folder / "dataset_identity.json").read_text())
    stats = identity["stats"]
    cells, genes = format_count(stats["n_cells"], "cell"), format_count(stats["n_genes"], "gene")
    columns = format_count(stats["n_obs_fields"], "column")
    edges = format_count(stats["n_edges"], "edge")
    title = f"{identity['name']}, generated: {cells} x {genes}, {columns}, {edges}"
    parts = [title, drawn, f"Written to {written}", _files(folder), _next_steps(folder)]
    return "\n\n".join(parts) + "\n"


_DESCRIPTIONS = {
    "*_manifest.json": "names, labels, centroids",
    "dataset_identity.json": "list of contents; a viewer reads it first",
    "points_*": "coordinates of each cell, float32, row i is cell i",
    "vectors/*": "velocity of each cell",
    "obs/*": "columns of cell metadata",
    "var/*": "expression, a file per gene",
    "connectivity/*": "edges of the neighbour graph",
}


def _files(folder: Path) -> str:
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
  as a picture      {command} plot atlas.h5ad atlas.png --color CD3E
  in Python         {python}
                    import cellucid_lazy as cl
                    print(cl.outputs("atlas.h5ad")["points/2d"].array)"""


def _programs() -> tuple[str, str]:
    """Return the commands for this program and for Python: paths if they are not on PATH."""
    python = Path(sys.executable)
    active = Path(shutil.which("python") or "").parent == python.parent
    typed = "python" if active else _typed(python)
    if shutil.which("cellucid-lazy"):
        return "cellucid-lazy", typed
    own = python.with_name("cellucid-lazy")
    return (_typed(own) if own.exists() else f"{typed} -m cellucid_lazy"), typed


def _typed(program: Path) -> str:
    """Quote a program's path for a shell, relative if it is in the current folder."""
    here = Path.cwd()
    below = here != program.parent and program.is_relative_to(here)
    return shlex.quote(str(program.relative_to(here) if below else program))
