"""The documentation is true: its code runs on the demo's atlas, and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

import cellucid_lazy as cl
from cellucid_lazy.cli.flags import OPENING, PICTURE, SCHEDULING, SETTINGS, WORK
from cellucid_lazy.demo import write_demo

# anndata 0.13 sets an option that pandas 3 wants gone, whenever it writes a file.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
WITH_CODE = [ROOT / "README.md", ROOT / "docs/api.md", ROOT / "docs/pictures.md"]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def blocks(page: Path, language: str) -> list[str]:
    """Code of the fenced blocks of one language, in order."""
    return [code for found, code in _FENCE.findall(page.read_text()) if found == language]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("docs") / "atlas.h5ad")


def _marked(page: Path) -> Any:
    return pytest.param(page, marks=pytest.mark.long if page.stem == "pictures" else ())


@pytest.mark.parametrize("page", [*map(_marked, WITH_CODE)], ids=lambda page: page.stem)
def test_sessions_run_and_print_what_they_say(
    page: Path, atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("atlas.h5ad").symlink_to(atlas)
    mpl.use("agg")
    run_sessions(page)
    pyplot.close("all")
    # Each picture that a page shows is made by its code, with something on it.
    for shown in re.findall(r"\]\(pictures/(.*?)\)", page.read_text()):
        for folder in (tmp_path, ROOT / "docs/pictures"):
            assert len(np.unique(pyplot.imread(folder / shown)[..., :3])) > 20
        assert (ROOT / "docs/pictures" / shown).stat().st_size < 150_000


def run_sessions(page: Path) -> None:
    """Run the code of a page, which must print what it says."""
    session = "\n".join(blocks(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(session, {}, page.name, str(page), 0)
    assert test.examples
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    assert results.failed == 0, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_only_sessions_hold_python(page: Path) -> None:
    # tests/test_extending.py runs what extending.md holds.
    allowed = {"pycon", "sh", "text"} | ({"python"} if page.stem == "extending" else set())
    assert {language for language, _ in _FENCE.findall(page.read_text())} <= allowed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    # The table of measurements is written by the benchmark.
    links = set(_LINK.findall(page.read_text())) - {"docs/performance.md", "performance.md"}
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_set_up_takes_one_line_each() -> None:
    commands = [line for code in blocks(ROOT / "README.md", "sh") for line in code.splitlines()]
    assert sum(line.startswith("python3 -m venv .venv && ") for line in commands) == 1
    assert sum(line.startswith("python3 -m venv .venv-test && ") for line in commands) == 1


def test_the_reference_knows_every_public_name() -> None:
    page = (ROOT / "docs/api.md").read_text()
    assert [name for name in cl.__all__ if f"cl.{name}" not in page] == []


def test_flags_that_are_named_otherwise_are_in_the_map() -> None:
    """And so are they alone, with those of a list or of pairs."""
    rows = [
        line for line in (ROOT / "docs/api.md").read_text().splitlines() if line.startswith("| `")
    ]
    for flag in (*OPENING, *SETTINGS, *WORK, *PICTURE, *SCHEDULING):
        row = [row for row in rows if f"`{flag.flag}" in row]
        spelled = flag.flag == f"--{flag.setting.replace('_', '-')}"
        assert row or spelled, flag.flag
        assert all(flag.setting in one for one in row if flag.flag != "--storage-option"), row


def test_every_transform_of_the_reference_exists() -> None:
    page = (ROOT / "docs/api.md").read_text()
    listed = re.findall(r"^\| `(\w+)\.(\w+)\(([^)]*)\)`", page, re.MULTILINE)
    assert listed
    for module, name, arguments in listed:
        function = getattr(importlib.import_module(f"cellucid_lazy.transforms.{module}"), name)
        named = {argument.split("=")[0].strip() for argument in arguments.split(",")}
        assert named <= set(inspect.signature(function).parameters), name
