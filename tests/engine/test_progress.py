"""Progress: a line with rate and estimate on a terminal, silence where output is piped."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import textwrap
import time

import dask
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.progress import Progress
from tests.engine.matrices import awkward
from tests.engine.stores import write
from tests.engine.test_same_bytes import in_memory

CHILD = """
    import sys
    import cellucid_lazy as cl

    path, out, progress = sys.argv[1:]
    options = {} if progress == "default" else {"progress": progress == "on"}
    cl.to_directory(cl.outputs(cl.open(path)), out, **options)
"""
LINE = re.compile(r"genes \[[#-]{24}\] [\d,]+/[\d,]+ tasks, [\d,.]+/s, [\d,]+ s left")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    matrix = awkward(np.random.default_rng(0), 300, 50)
    return write(tmp_path_factory.mktemp("progress") / "a.h5ad", matrix, "gzip")


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
    assert bool(LINE.search(text)) == shown
    assert ("cells [" in text) == shown
    if shown:
        # The line is wiped in the end.
        assert text.endswith("\r\x1b[K")
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


def test_rate_and_estimate_follow_the_tasks():
    stream = io.StringIO()
    with Progress("work", shown=True, stream=stream), dask.config.set(scheduler="synchronous"):
        dask.compute(*[dask.delayed(time.sleep, pure=False)(0.05) for _ in range(12)])
    lines = [line for line in stream.getvalue().split("\r") if line.startswith("work")]
    facts = [re.search(r"(\d+)/12 tasks, ([\d.]+)/s, (\d+) s left", line) for line in lines]
    assert len(facts) >= 2
    assert facts[-1].group(1) == "12"
    assert facts[-1].group(3) == "0"
    for fact in facts:
        assert 5 < float(fact.group(2)) <= 20.5
    assert "#" * 24 in lines[-1]


def test_a_failure_wipes_the_line():
    stream = io.StringIO()

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), Progress("work", shown=True, stream=stream):
        dask.compute(dask.delayed(fail)(), scheduler="synchronous")
    assert stream.getvalue().endswith("\r\x1b[K")


def test_bytes_are_silent_unless_asked(capsys):
    catalogue = cl.outputs(cl.open(in_memory(awkward(np.random.default_rng(0), 50, 5))))
    cl.to_bytes(catalogue, ["var/g1"])
    assert capsys.readouterr().err == ""
    cl.to_bytes(catalogue, ["var/g1"], progress=True)
    assert LINE.search(capsys.readouterr().err)
