"""Run the benchmark cases: ``python -m tests.bench [--quick] [--only NAME ...]``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.cases import (
    BUDGET,
    CASES,
    DATASETS,
    EXPORT,
    LEVEL_1,
    REFERENCE,
    Case,
    Dataset,
    fill_in,
    growth_recipes,
)
from tests.bench.datasets import ENVIRONMENT, ROOT, dataset_path
from tests.bench.measure import Measurement, measure, median_run
from tests.bench.reference_env import reference_python
from tests.bench.report import Results, case_row, render, write_page

HERE = Path(__file__).parent
OURS = "our_runs.py"


@dataclass(frozen=True)
class Bench:
    """Where data are kept, where results are written, and how often each side runs."""

    data: Path
    written: Path
    quick: bool
    runs: int | None

    def dataset(self, name: str) -> Dataset:
        """Return a dataset, the small one in a quick run."""
        return DATASETS[name].shrunk() if self.quick else DATASETS[name]

    def run(self, script: str, command: tuple[str, ...], dataset: Dataset) -> Measurement:
        """Run one command, with a new folder to write to; disks are quiet before it."""
        path = dataset_path(self.data, dataset)
        reference = script == REFERENCE
        python = reference_python(self.data) if reference else Path(sys.executable)
        out = Path(tempfile.mkdtemp(dir=self.written)) / "out"
        arguments = fill_in(command, dataset.recipe, str(path), str(out))
        os.sync()
        read_whole(path)
        environment = ENVIRONMENT if script == OURS else None
        result = measure([str(python), str(HERE / script), *arguments], environment)
        shutil.rmtree(out / "scratch", ignore_errors=True)
        return replace(result, written=emptied(out))

    def compare(self, case: Case) -> list[str]:
        """Run both sides in turn and return the table row."""
        dataset = self.dataset(case.dataset)
        runs = self.runs or (1 if case.heavy else 3)
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(self.run(OURS, case.ours, dataset))
            if case.theirs:
                theirs.append(self.run(case.their_script, case.theirs, dataset))
        for run in (*ours, *theirs):
            sys.stderr.write(f"  {run}\n")
        return case_row(case, median_run(ours), median_run(theirs) if theirs else None)

    def grow(self) -> list[list[float]]:
        """Export atlases of growing size with one memory budget; stop at one that fails."""
        rows: list[list[float]] = []
        for recipe in growth_recipes(quick=self.quick):
            command = (*EXPORT, *LEVEL_1, "--memory-budget", BUDGET)
            result = self.run(OURS, command, Dataset(recipe))
            sys.stderr.write(f"  {result}\n")
            if result.exit_code:
                break
            nonzeros = recipe.n_cells * recipe.nonzeros_per_cell
            rows.append([recipe.n_cells, nonzeros, result.seconds, result.peak_megabytes])
        return rows


def read_whole(path: Path) -> None:
    """Read a dataset, so that the system has it at hand for whichever side runs first."""
    for file in [path] if path.is_file() else filter(Path.is_file, path.rglob("*")):
        with file.open("rb", buffering=0) as opened:
            while opened.read(2**22):
                pass


def emptied(folder: Path) -> int:
    """Empty all files below a folder without removing them; return the bytes they held.

    For minutes after many files were removed, ext4 looks at every one of their inodes for each
    file that is made: the next run would pay for the last one's.
    """
    size = 0
    for path in filter(Path.is_file, folder.rglob("*")):
        size += path.stat().st_size
        os.truncate(path, 0)
    return size


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = [*(case.name for case in CASES), "growth"]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small datasets; writes no page")
    parser.add_argument(
        "--runs", type=int, help="runs of each side (default: 3, and 1 of what takes minutes)"
    )
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where data are kept")
    page = ROOT / "docs" / "performance.md"
    parser.add_argument("--page", type=Path, default=page, help="the page to write")
    return parser.parse_args()


def main() -> None:
    """Run the cases asked for, print the table of all that is known and write it to the page."""
    arguments = read_arguments()
    data: Path = arguments.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    kept = data / ("results-quick.json" if arguments.quick else "results.json")
    results = Results.load(kept)
    with tempfile.TemporaryDirectory(dir=data) as written:
        bench = Bench(data, Path(written), arguments.quick, arguments.runs)
        for case in CASES:
            if case.name in arguments.only:
                sys.stderr.write(f"{case.name}\n")
                results.rows[case.name] = bench.compare(case)
                results.save(kept)
        if "growth" in arguments.only:
            results.growth = bench.grow()
            results.save(kept)
    measured = render(results, [case.name for case in CASES])
    print(measured)
    if not arguments.quick:
        write_page(arguments.page, measured)


if __name__ == "__main__":
    main()
