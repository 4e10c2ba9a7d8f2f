"""Many clients at once on the reference's server: ``python -m tests.storm [ATLAS]``.

The server is that of cellucid 0.0.9, with the reference's adapter or with the one of this library
in its place; ours also with a thread per request, which the reference's adapter is not made for.
Clients ask for random genes and fields, all the time. Prints throughput, the 99th percentile of
what an answer takes, and the peak of the server's memory; raises AssertionError for an answer that
is no answer.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from cellucid_lazy.names import safe_name as safe
from tests.bench.recipe import Recipe

# Who answers: the adapter in the reference's server, and whether a request has its own thread.
SERVERS = {
    "the reference": ("reference", False),
    "cellucid_lazy": ("lazy", False),
    "cellucid_lazy, a thread per request": ("lazy", True),
}


class Storm(NamedTuple):
    """What came of it."""

    answers: int
    per_second: float
    percentile_99: float
    peak_megabytes: float
    problems: list[str]

    def __str__(self) -> str:
        return (
            f"{self.answers:,} answers, {self.per_second:.2f} per second, 99th percentile "
            f"{self.percentile_99:.2f} s, peak {self.peak_megabytes:,.0f} MB, "
            f"{len(self.problems)} problems"
        )


def serve(path: str, adapter: str, threads: bool, budget: str | None) -> None:
    """Serve until standard input ends; print the address, and at the end the peak of memory."""
    from http.server import HTTPServer, ThreadingHTTPServer

    from cellucid import anndata_server

    options = {}
    if adapter == "lazy":
        import cellucid_lazy as cl

        anndata_server.AnnDataAdapter = cl.AnnDataAdapter
        options = {"memory_budget": budget}
    # Or clients of a slow server would be refused.
    HTTPServer.request_queue_size = 128
    if threads:
        anndata_server.HTTPServer = ThreadingHTTPServer
    server = anndata_server.AnnDataServer(path, open_browser=False, quiet=True, **options)
    server.start_background()
    print(server.url, flush=True)
    sys.stdin.read()
    server.stop()
    print(_peak_bytes() / 1e6)


def _peak_bytes() -> int:
    """Return the peak of this process's memory; `resource` counts that of the one before it too."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def storm(
    path: Path, server: str, *, n_clients: int, seconds: float, budget: str | None = None
) -> Storm:
    """Let clients ask one of `SERVERS` for so long; those that have asked wait for their answer."""
    adapter, threads = SERVERS[server]
    command = [sys.executable, "-W", "ignore", "-m", "tests.storm", str(path), "--serve", adapter]
    command += ["--threads"] * threads + (["--budget", budget] if budget else [])
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        crowd = Crowd(url, seconds)
        clients = [Thread(target=crowd.ask, args=(seed,)) for seed in range(n_clients)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        peak, _ = process.communicate()
    took = sorted(end - start for start, end in crowd.answers)
    in_time = sum(end <= crowd.end for _, end in crowd.answers)
    return Storm(
        len(took),
        in_time / seconds,
        took[int(0.99 * (len(took) - 1))] if took else float("nan"),
        float(peak),
        crowd.problems,
    )


class Crowd:
    """Clients of one server: what they ask for, and what they are told."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self.answers: list[tuple[float, float]] = []
        self.problems: list[str] = []
        self._checksums: dict[str, int] = {}
        self._sizes = self._files()
        self.end = time.monotonic() + seconds

    def _files(self) -> list[dict[str, int]]:
        """List genes, and all else but edges, with the size of their files; from the manifests."""

        def document(name: str) -> Any:
            return json.loads(self._get(f"{name}.json"))

        identity, obs, var = map(document, ("dataset_identity", "obs_manifest", "var_manifest"))
        n_cells = obs["n_points"]
        fields = {f"obs/{safe(row[0])}.values.f32": 4 * n_cells for row in obs["_continuousFields"]}
        for key, _, dtype, *_ in obs["_categoricalFields"]:
            ending, width = {"uint8": ("u8", 1), "uint16": ("u16", 2)}[dtype]
            fields |= {f"obs/{safe(key)}.codes.{ending}": width * n_cells}
            fields |= {f"obs/{safe(key)}.outliers.f32": 4 * n_cells}
        for dimension in identity["embeddings"]["available_dimensions"]:
            fields[f"points_{dimension}d.bin"] = 4 * n_cells * dimension
        return [{f"var/{safe(row[0])}.values.f32": 4 * n_cells for row in var["fields"]}, fields]

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(
            f"{self.url}/{urllib.parse.quote(path)}", timeout=1_200
        ) as told:
            content: bytes = told.read()
        return content

    def ask(self, seed: int) -> None:
        """Ask once, and until the end: two genes to each field."""
        rng = random.Random(seed)
        while True:
            sizes = self._sizes[rng.randrange(3) // 2]
            self._ask(rng.choice(list(sizes)), sizes)
            if time.monotonic() >= self.end:
                return

    def _ask(self, path: str, sizes: dict[str, int]) -> None:
        began = time.monotonic()
        try:
            content = self._get(path)
        except OSError as problem:
            self.problems.append(f"{path}: {problem}")
            return
        self.answers.append((began, time.monotonic()))
        known = self._checksums.setdefault(path, zlib.crc32(content))
        if len(content) != sizes[path] or zlib.crc32(content) != known:
            self.problems.append(f"{path}: {len(content)} bytes, not the same as before")


def main() -> None:
    """Run the storm on each server, or be one."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("atlas", nargs="?", help="h5ad file; default: one of 100,000 cells is made")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--budget", help="memory_budget of the adapter")
    parser.add_argument("--serve", choices=["reference", "lazy"], help=argparse.SUPPRESS)
    parser.add_argument("--threads", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.atlas, arguments.serve, arguments.threads, arguments.budget)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(arguments.atlas or f"{folder}/atlas.h5ad")
        if not arguments.atlas:
            recipe = Recipe(n_cells=100_000, n_genes=20_000).to_json()
            command = [sys.executable, "-m", "tests.bench.atlas", str(path), "--recipe", recipe]
            subprocess.run(command, check=True)
        for name in SERVERS:
            came = storm(
                path,
                name,
                n_clients=arguments.clients,
                seconds=arguments.seconds,
                budget=arguments.budget,
            )
            print(f"{name}: {came}", *came.problems[:5], sep="\n  ", flush=True)
            assert came.problems == []


if __name__ == "__main__":
    main()
