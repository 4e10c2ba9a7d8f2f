"""Results kept between runs, and the Markdown made of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.bench.cases import GROWTH_MEMORY, GROWTH_TIME
from tests.bench.facts import machine_facts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.cases import Case
    from tests.bench.measure import Measurement

START, END = "<!-- benchmark: start -->", "<!-- benchmark: end -->"
COLUMNS = (
    "case",
    "ours",
    "theirs",
    "time ratio",
    "after imports",
    "our peak, MB",
    "their peak, MB",
    "memory ratio",
    "written, MB",
    "note",
)


@dataclass
class Results:
    """All that was measured on this machine with these libraries: finished table rows by case."""

    facts: dict[str, str] = field(default_factory=machine_facts)
    rows: dict[str, list[str]] = field(default_factory=dict)
    growth: list[list[float]] = field(default_factory=list)
    date: str = ""

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read earlier results, none if they are of another machine or other libraries."""
        current = cls()
        if not path.exists():
            return current
        earlier = cls(**json.loads(path.read_text(encoding="utf-8")))
        return earlier if earlier.facts == current.facts else current

    def save(self, path: Path) -> None:
        """Write the results, with today's date."""
        self.date = datetime.now(UTC).date().isoformat()
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def case_row(case: Case, ours: Measurement, theirs: Measurement | None) -> list[str]:
    """Return the table row of a case; a side that failed says how instead of a figure."""
    value, their_value = (None if run is None else figure(case, run) for run in (ours, theirs))
    time = told(case, ours)
    if case.value_target and value is not None:
        time = f"{against(value, case.value_target, '.3g')} {unit(case)}"
    peak = f"{ours.peak_megabytes:,.0f}"
    if case.peak_target:
        peak += f" ({against(ours.peak_megabytes, case.peak_target, '.0f')})"
    written = [f"{run.written / 1e6:,.0f}" for run in (ours, theirs) if run and run.written]
    return [
        case.title,
        time,
        "" if theirs is None else told(case, theirs),
        ratio(value, their_value, case.time_target),
        after_imports(case, ours, theirs),
        peak,
        "" if theirs is None else f"{theirs.peak_megabytes:,.0f}",
        ratio(ours.peak_megabytes, theirs.peak_megabytes, case.memory_target)
        if theirs and None not in (value, their_value)
        else "",
        " / ".join(written),
        case.note,
    ]


def told(case: Case, run: Measurement) -> str:
    """Return the figure of a run as text, or how it failed."""
    value = figure(case, run)
    if value is None:
        return f"failed: {run.error[:80].replace('|', '/')}"
    return f"{value:.3g} {unit(case)}"


def after_imports(case: Case, ours: Measurement, theirs: Measurement | None) -> str:
    """Return the ratio of what both sides spent after their imports."""
    if theirs is None or case.metric != "seconds" or theirs.exit_code or ours.exit_code:
        return ""
    inner = theirs.report.get("scaled_seconds", theirs.inner_seconds)
    return ratio(ours.inner_seconds, inner, None)


def unit(case: Case) -> str:
    """Return the unit of a case's figure."""
    return "ms" if case.metric == "milliseconds" else "s"


def figure(case: Case, run: Measurement) -> float | None:
    """Return the figure that a case compares, or None of a run that failed."""
    if run.exit_code:
        return None
    return float(run.report["milliseconds"]) if case.metric == "milliseconds" else run.seconds


def ratio(ours: float | None, theirs: float | None, target: float | None) -> str:
    """Return ours over theirs, with the target if there is one."""
    if ours is None or not theirs:
        return ""
    value = ours / theirs
    return f"{value:.2g}" if target is None else against(value, target, ".2g")


def against(value: float, target: float, style: str) -> str:
    """Return a figure beside its target; a target that is missed stands out."""
    if value <= target:
        return f"{value:{style}} ≤ {target:.3g}"
    return f"**{value:{style}} > {target:.3g}**"


def growth_lines(rows: list[list[float]]) -> list[str]:
    """Return the table of the growth series: cells, nonzeros, seconds, megabytes."""
    if not rows:
        return []
    lines = table(
        ("cells", "nonzeros, million", "seconds", "ns per nonzero", "peak, MB"),
        [
            [f"{cells:,.0f}", f"{nnz / 1e6:,.0f}", f"{t:.3g}", f"{1e9 * t / nnz:.3g}", f"{mb:,.0f}"]
            for cells, nnz, t, mb in rows
        ],
    )
    first, last = rows[0], rows[-1]
    speed = (last[2] / last[1]) / (first[2] / first[1])
    summary = (
        f"Largest to smallest: time per nonzero {against(speed, GROWTH_TIME, '.2g')}, "
        f"peak memory {against(last[3] / first[3], GROWTH_MEMORY, '.2g')}."
    )
    return ["", "Growth at a fixed memory budget (export, gzip 1):", "", *lines, "", summary]


def table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [list(header), ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def render(results: Results, order: list[str]) -> str:
    """Return the measured part of the page."""
    facts = "; ".join(f"{name}: {value}" for name, value in results.facts.items())
    rows = [results.rows[name] for name in order if name in results.rows]
    lines = [f"Measured on {results.date}. {facts}.", "", *table(COLUMNS, rows)]
    lines += growth_lines(results.growth)
    return "\n".join(lines)


def write_page(page: Path, measured: str) -> None:
    """Put the measured part between the markers of a page, keeping the prose around it."""
    if page.exists():
        text = page.read_text(encoding="utf-8")
    else:
        text = f"# Performance\n\n{START}\n{END}\n"
    if START not in text or END not in text:
        text = f"{text.rstrip()}\n\n{START}\n{END}\n"
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{START}\n\n{measured}\n\n{END}{after}", encoding="utf-8")
