"""Progress: a line with an estimate on a terminal, silence where output is piped."""

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
import pytest

import cellucid_lazy as cl
from cellucid_lazy.engine.progress import Progress
from tests import data

CHILD = """
    import sys
    import cellucid_lazy as cl

    path, out, progress = sys.argv[1:]
    options = {} if progress == "default" else {"progress": progress == "on"}
    cl.to_directory(cl.outputs(cl.open(path)), out, **options)
"""
LINE = re.compile(r"\r\x1b\[K\w[\w ]*: ([\d,]+)/([\d,]+) tasks, ([\d,]+) s left")
ERASE = "\r\x1b[K"


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
        assert LINE.search(text)
        assert text.endswith(ERASE)
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


def sleeps(n_tasks):
    return [dask.delayed(time.sleep, pure=False)(0.05) for _ in range(n_tasks)]


def test_the_estimate_follows_the_tasks(capsys):
    with Progress("work", shown=True):
        dask.compute(*sleeps(24), scheduler="synchronous")
    text = capsys.readouterr().err
    lines = [tuple(map(int, found)) for found in LINE.findall(text)]
    assert len(lines) >= 2
    assert lines[-1] == (24, 24, 0)
    assert [line[0] for line in lines] == sorted({line[0] for line in lines})
    for done, total, left in lines:
        assert total == 24
        assert (total - done) * 0.05 - 0.5 <= left <= (total - done) * 0.2 + 0.5
    assert text.endswith(ERASE)


@pytest.mark.parametrize("shown", [False, None])
def test_silent_where_nothing_is_a_terminal(capsys, shown):
    with Progress("work", shown):
        dask.compute(*sleeps(1), scheduler="synchronous")
    assert capsys.readouterr().err == ""


def test_a_failure_erases_the_line(capsys):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), Progress("work", shown=True):
        dask.compute(dask.delayed(fail)(), scheduler="synchronous")
    assert capsys.readouterr().err.endswith(ERASE)


def test_bytes_are_silent_unless_asked(capsys):
    catalogue = cl.outputs(cl.open(data.atlas(50, 5)))
    names = catalogue.names("var")
    cl.to_bytes(catalogue, names)
    assert capsys.readouterr().err == ""
    cl.to_bytes(catalogue, names, progress=True)
    assert LINE.search(capsys.readouterr().err)
