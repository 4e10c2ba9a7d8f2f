"""Every example runs as it is, in a process of its own, without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

SAYS = {
    "cluster": "out: 2,023 files",
    "live_server": "var/CD3E.values.f32: 2,000 bytes",
    "selected_outputs": "markers: 22 files",
    "xarray_analysis": "t_cell_score.values.f32",
}


def test_every_example_is_known() -> None:
    assert {path.stem for path in EXAMPLES} == set(SAYS)


def _marked(path: Path) -> Any:
    return pytest.param(path, marks=pytest.mark.long if path.stem == "cluster" else ())


@pytest.mark.parametrize("path", [*map(_marked, EXAMPLES)], ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[path.stem] in done.stdout
    assert "run_spec" not in done.stderr  # a cluster's key with two definitions
    assert list(tmp_path.iterdir()) == []
