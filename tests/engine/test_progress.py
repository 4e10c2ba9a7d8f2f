"""Progress: a bar with an estimate where somebody may be looking, silence where it is piped."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import textwrap
import time

import dask
import nbclient
import nbformat
import pytest
from distributed import Client, LocalCluster

import cellucid_lazy as cl
from cellucid_lazy.engine import run
from cellucid_lazy.engine.producer import Stage
from cellucid_lazy.engine.resources import Resources
from tests import data

CHILD = """
    import sys
    import cellucid_lazy as cl

    path, out, progress = sys.argv[1:]
    options = {} if progress == "default" else {"progress": progress == "on"}
    cl.to_directory(cl.outputs(cl.open(path)), out, **options)
"""
LINE = re.compile(r"\r(\w[\w ]*): +\d+% .*? ([\d,]+)/([\d,]+) tasks, (\?|[\d:]+) left")
CLOSING = re.compile(r"out: \d+ files, [\d.]+ [kM]?B, in [\d.]+ s; next: .*compact_v1\r?\n$")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return data.write_chunked(data.atlas(300, 20), tmp_path_factory.mktemp("data") / "a.h5ad")


def on_a_terminal(arguments):
    """What a child process shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", textwrap.dedent(CHILD), *arguments]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal that is gone reads as an error
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert child.wait(60) == 0, shown
    return shown.decode()


@pytest.mark.parametrize(("progress", "shown"), [("default", True), ("on", True), ("off", False)])
def test_on_a_terminal(path, tmp_path, progress, shown):
    text = on_a_terminal([str(path), str(tmp_path / "out"), progress])
    if shown:
        steps = {found[0] for found in LINE.findall(text)}
        assert steps == {"cells", "writing genes", "putting it in place"}
        assert CLOSING.search(text)
    else:
        assert text == ""


@pytest.mark.parametrize("progress", ["default", "on", "off"])
def test_silent_when_piped(path, tmp_path, progress):
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    done = subprocess.run(
        [*command, str(path), str(tmp_path / "out"), progress],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def work(n_tasks, seconds=0.05):
    """A graph of tasks that sleep; the last one needs all."""
    graph = {f"sleep-{i}": (time.sleep, seconds) for i in range(n_tasks - 1)}
    return Stage("work", {**graph, "all": (list, list(graph))}, ["all"])


def counted(text):
    """The tasks done and the seconds left of each line that has an estimate."""
    return [
        (
            int(done),
            int(total),
            sum(int(part) * 60**i for i, part in enumerate(left.split(":")[::-1])),
        )
        for _, done, total, left in LINE.findall(text)
        if left != "?"
    ]


def test_the_estimate_follows_the_tasks(capsys):
    with dask.config.set(scheduler="synchronous"):
        run.compute(work(60), Resources(2**26, 1, 1), progress=True)
    lines = counted(capsys.readouterr().err)
    assert len(lines) >= 5
    assert [line[0] for line in lines] == sorted({line[0] for line in lines})
    for done, total, left in lines:
        assert total == 60
        assert (total - done) * 0.05 - 1 <= left <= (total - done) * 0.1 + 1


def test_a_cluster_is_counted(capsys):
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as one,
        Client(one),
    ):
        stage = work(20)
        keys = [*stage.graph][:-1]
        found = run.compute(stage._replace(keys=keys), Resources(2**26, 1, 1), progress=True)
        assert found == (None,) * 19
        lines = counted(capsys.readouterr().err)
        assert len(lines) >= 2
        assert {total for _, total, _ in lines} == {19}
        with pytest.raises(ZeroDivisionError):
            run.compute(
                Stage("bad", {"x": (divmod, 1, 0)}, ["x"]), Resources(1, 1, 1), progress=True
            )


@pytest.mark.parametrize("progress", [False, None])
def test_silent_where_nothing_is_a_terminal(capsys, progress):
    run.compute(work(2, 0), Resources(2**26, 1, 1), progress)
    assert capsys.readouterr().err == ""


def test_a_failure_erases_the_line(capsys):
    with pytest.raises(ZeroDivisionError):
        run.compute(Stage("bad", {"x": (divmod, 1, 0)}, ["x"]), Resources(1, 1, 1), progress=True)
    assert capsys.readouterr().err.endswith(" \r")


def test_bytes_are_silent_unless_asked(capsys):
    catalogue = cl.outputs(cl.open(data.atlas(50, 5)))
    names = catalogue.names("var")
    cl.to_bytes(catalogue, names)
    assert capsys.readouterr().err == ""
    cl.to_bytes(catalogue, names, progress=True)
    assert LINE.search(capsys.readouterr().err)


NOTEBOOK = """
import cellucid_lazy as cl
cl.to_directory(cl.outputs({path!r}), {out!r})
"""


def test_in_a_notebook(path, tmp_path):
    """A real kernel; without widgets the bar is text."""
    notebook = nbformat.v4.new_notebook()
    code = NOTEBOOK.format(path=str(path), out=str(tmp_path / "out"))
    notebook.cells = [nbformat.v4.new_code_cell(code)]
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = "".join(one.get("text", "") for one in notebook.cells[0].outputs)
    assert "tasks" in shown
    assert CLOSING.search(shown)
