"""Measure a command: wall clock, processor time and peak memory of its process, from outside.

The peak is the kernel's (``ru_maxrss``), of the process or the largest of the children it waited
for. A child starts out with its parent's peak in that figure, so this module and the ones that
call it import nothing large, and data are generated in child processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Measurement:
    """One run: seconds, megabytes (10^6 bytes), exit code, its own report, bytes written."""

    wall_seconds: float
    cpu_seconds: float
    peak_megabytes: float
    exit_code: int
    report: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    written: int = 0

    @property
    def seconds(self) -> float:
        """The seconds to compare: scaled ones where the command timed a sample, else the wall's."""
        return float(self.report.get("scaled_seconds", self.wall_seconds))

    @property
    def inner_seconds(self) -> float | None:
        """The seconds after imports, where the command reported them."""
        inner = self.report.get("seconds")
        return None if inner is None else float(inner)


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measurement:
    """Run a command to its end and measure it.

    A command may print one JSON object as its last line; it becomes ``report``.
    """
    variables = {**os.environ, **(environment or {})}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=variables)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        report = _last_json(output.read())
        error = _last_line(errors.read()) if process.returncode else ""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = usage.ru_maxrss * unit / 1e6
    processor = usage.ru_utime + usage.ru_stime
    return Measurement(wall, processor, peak, process.returncode, report, error)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _last_json(text: str) -> dict[str, Any]:
    last = _last_line(text)
    if not last.startswith("{"):
        return {}
    try:
        report = json.loads(last)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def median_run(runs: Sequence[Measurement]) -> Measurement:
    """Return the run whose seconds are the (lower) median; a failed run is returned at once."""
    for run in runs:
        if run.exit_code:
            return run
    return sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]
