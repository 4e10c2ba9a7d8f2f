"""Attack exports, and see what is left: ``python -m tests.reliability [kills|workers|races]``.

Raises AssertionError for whatever docs/reliability.md rules out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from pathlib import Path
from threading import Event, Thread

import anndata
import dask
import numpy as np
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo
from tests.data import writing

IDENTITY = "dataset_identity.json"
# Beyond the smallest budget, so that scratch is used.
N_CELLS, N_GENES = 6_000, 1_200

EXPORT = """
    import sys, warnings
    import cellucid_lazy as cl

    warnings.simplefilter("ignore")
    path, folder, scratch, name = sys.argv[1:]
    catalogue = cl.outputs(path, cl.Options(compression=6, dataset_name=name))
    options = {"memory_budget": "64MB", "scratch": scratch, "progress": False}
    cl.to_directory(catalogue, folder, overwrite=True, **options)
"""

EXPORTS = """
    import sys, warnings
    import cellucid_lazy as cl

    warnings.simplefilter("ignore")
    path, folder, count = sys.argv[1:]
    catalogue = cl.outputs(path).select("points/2d")
    for _ in range(int(count)):
        try:
            cl.to_directory(catalogue, folder, overwrite=True, progress=False)
        except cl.ExportError as problem:
            print(problem)
"""


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a script in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_atlas(path: Path) -> Path:
    """Write an atlas whose export takes a few seconds."""
    rng = np.random.default_rng(0)
    matrix = sparse.random_array((N_CELLS, N_GENES), density=0.5, format="csr", rng=rng, dtype="f4")
    with writing():
        adata = anndata.AnnData(sparse.csr_matrix(matrix))
        adata.obsm["X_umap"] = rng.random((N_CELLS, 2), dtype=np.float32)
        adata.write_h5ad(path)
    return path


def content(folder: Path) -> str:
    """Hash names and bytes of all files but the identity, which must be a whole document."""
    json.loads((folder / IDENTITY).read_text())
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != IDENTITY:
            total.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return total.hexdigest()


class Watch:
    """Looks, all the time, whether a folder holds an export; ``absences`` counts when not."""

    def __init__(self, folder: Path) -> None:
        self._file, self._stop = folder / IDENTITY, Event()
        self._thread = Thread(target=self._look)
        self.absences = self.looks = 0

    def _look(self) -> None:
        while not self._stop.is_set():
            self.looks += 1
            # By the whole path at once: a folder that was opened before stays the earlier one.
            self.absences += not self._file.exists()
            time.sleep(0.0002)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def kill_exports(folder: Path, count: int, seed: int = 0) -> str:
    """Kill an export again and again at random moments; then let one finish."""
    rng = random.Random(seed)
    path, out, scratch = write_atlas(folder / "a.h5ad"), folder / "out", folder / "scratch"
    scratch.mkdir()
    began = time.monotonic()
    assert child(EXPORT, path, out, scratch, "first").wait(120) == 0
    seconds, whole = time.monotonic() - began, content(out)
    n_killed, most = 0, 0
    with Watch(out) as watch:
        for number in range(count):
            process = child(EXPORT, path, out, scratch, str(number))
            time.sleep(rng.uniform(0, 1.1 * seconds))
            process.send_signal(signal.SIGKILL)
            n_killed += process.wait() == -signal.SIGKILL
            process.communicate()
            assert content(out) == whole
            most = max(most, len(list(folder.iterdir())) + len(list(scratch.iterdir())))
        last = child(EXPORT, path, out, scratch, "last")
        assert last.wait(120) == 0, last.communicate()
    assert json.loads((out / IDENTITY).read_text())["name"] == "last"
    assert content(out) == whole
    assert sorted(entry.name for entry in folder.iterdir()) == ["a.h5ad", "out", "scratch"]
    assert list(scratch.iterdir()) == []
    assert watch.absences == 0
    return (
        f"{n_killed} of {count} exports were killed: the target was whole each time and never "
        f"absent in {watch.looks:,} looks; at most {most - 3} entries were left for the next run, "
        "and none after the last"
    )


def race(folder: Path, count: int, n_processes: int = 3) -> str:
    """Export to one target from several processes at once."""
    path, out = write_demo(folder / "a.h5ad", n_cells=200, n_genes=20), folder / "made" / "out"
    cl.to_directory(cl.outputs(path).select("points/2d"), out, progress=False)
    with Watch(out) as watch:
        children = [child(EXPORTS, path, out, count) for _ in range(n_processes)]
        said = [process.communicate() for process in children]
    assert [error for _, error in said] == [""] * n_processes
    problems = [line for lines, _ in said for line in lines.splitlines()]
    assert [line for line in problems if " in use: " not in line] == []
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]
    assert watch.absences == 0
    done = n_processes * count - len(problems)
    assert done > 0
    return (
        f"{n_processes} processes, {count} exports each: {done} were made, {len(problems)} were "
        f"told that the target is in use; never absent in {watch.looks:,} looks, nothing left"
    )


def kill_workers(folder: Path, count: int, seed: int = 0) -> str:
    """Kill workers of a cluster at random moments while it exports."""
    from distributed import Client, LocalCluster

    rng = random.Random(seed)
    path, scratch = write_atlas(folder / "a.h5ad"), folder / "scratch"
    scratch.mkdir()
    catalogue = cl.outputs(path, cl.Options(compression=1))
    options = {"memory_budget": "64MB", "scratch": scratch, "progress": False}
    with dask.config.set(scheduler="threads"):
        cl.to_directory(catalogue, folder / "threads", **options)
    whole = content(folder / "threads")
    n_killed = n_exports = 0
    failures: list[BaseException] = []

    def export() -> None:
        try:
            cl.to_directory(catalogue, folder / "out", overwrite=True, client=client, **options)
        except BaseException as problem:
            failures.append(problem)

    with (
        # Random kills may meet the same task many times.
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        start = [sys.executable, "-m", "dask", "worker", "--no-nanny", "--nthreads", "1"]
        start += ["--no-dashboard", cluster.scheduler_address]
        workers = [subprocess.Popen(start, stderr=subprocess.DEVNULL) for _ in range(2)]
        try:
            while n_killed < count:
                client.wait_for_workers(2, timeout=60)
                exporting = Thread(target=export)
                exporting.start()
                while exporting.is_alive() and n_killed < count:
                    exporting.join(rng.uniform(0, 3))
                    workers.pop(rng.randrange(2)).kill()
                    workers.append(subprocess.Popen(start, stderr=subprocess.DEVNULL))
                    n_killed += 1
                exporting.join(300)
                assert not exporting.is_alive()
                assert failures == []
                assert content(folder / "out") == whole
                n_exports += 1
        finally:
            for worker in workers:
                worker.kill()
    assert list(scratch.iterdir()) == []
    return f"{n_killed} workers were killed during {n_exports} exports: the same bytes"


ATTACKS = {"kills": (kill_exports, 50), "workers": (kill_workers, 20), "races": (race, 200)}


def main() -> None:
    """Run the attacks asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("attacks", nargs="*", choices=[*ATTACKS, []], help="default: all")
    parser.add_argument("--count", type=int, help="rounds of each")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in arguments.attacks or ATTACKS:
        attack, count = ATTACKS[name]
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: {attack(Path(folder), arguments.count or count)}", flush=True)


if __name__ == "__main__":
    main()
