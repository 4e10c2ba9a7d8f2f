"""The budget holds: whole processes, on matrices ten times as large decoded."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.engine.stores import write

if not Path("/proc/self/status").exists():
    pytest.skip("peak memory is read from /proc", allow_module_level=True)

BUDGET = 72 * 2**20
N_CELLS, N_GENES, N_STORED = 24_000, 6_000, 90_000_000

CHILD = """
    import sys, warnings
    import numpy as np
    import dask
    import cellucid_lazy as cl

    tiny, path, out, budget, genes = sys.argv[1:]
    warnings.simplefilter("ignore")

    def status(key):
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    def export(source, out, **options):
        names = tuple(f"g{i}" for i in range(int(genes))) if int(genes) else None
        chosen = cl.Options(compression=1, genes=names)
        catalogue = cl.outputs(cl.open(source), chosen)
        plan = cl.explain(catalogue, **options)
        cl.to_directory(catalogue, out, progress=False, **options)
        return plan

    with dask.config.set(num_workers=2):
        # A tiny export imports what an export needs.
        export(tiny, out + "-tiny")
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")
        before = status("VmRSS")
        plan = export(path, out, memory_budget=int(budget))
        print(status("VmHWM") - before, plan.partition(":")[0]); print(plan, file=sys.stderr)
"""


def row_counts(skewed):
    """Values per cell; when skewed, the first twentieth of the cells holds half of them."""
    if not skewed:
        return np.full(N_CELLS, N_STORED // N_CELLS)
    deep = N_CELLS // 20
    counts = np.full(N_CELLS, N_STORED // 2 // (N_CELLS - deep))
    # A cell holds a gene once, and the deep ones most of them.
    counts[:deep] = min(N_GENES, N_STORED // 2 // deep)
    return counts


def big_file(path, *, skewed, by_gene=False):
    """Cheap values: each cell's genes are a stretch that begins anywhere, its values count up."""
    n_major, n_minor = (N_GENES, N_CELLS) if by_gene else (N_CELLS, N_GENES)
    counts = np.full(n_major, N_STORED // n_major) if by_gene else row_counts(skewed)
    from scipy import sparse

    shape = (N_CELLS, N_GENES)
    empty = (sparse.csc_matrix if by_gene else sparse.csr_matrix)(shape, dtype=np.float32)
    write(path, empty, "none")
    indptr = np.concatenate([[0], np.cumsum(counts)])
    starts = begins(n_major, counts, n_minor)
    with h5py.File(path, "r+") as root:
        group = root["X"]
        for part in ("data", "indices", "indptr"):
            del group[part]
        group["indptr"] = indptr
        options = {"shape": (indptr[-1],), "chunks": (2**16,)}
        data = group.create_dataset("data", dtype=np.float32, **options)
        indices = group.create_dataset("indices", dtype=np.int32, **options)
        for low in range(0, n_major, 500):
            part = slice(low, min(low + 500, n_major))
            where = np.arange(indptr[part.start], indptr[part.stop])
            inner = where - np.repeat(indptr[part], counts[part])
            stretch = slice(indptr[part.start], indptr[part.stop])
            indices[stretch] = inner + np.repeat(starts[part], counts[part])
            data[stretch] = where % 5 + 1
    return indptr, starts


def begins(n_major, counts, n_minor):
    return np.arange(n_major) * 7919 % (n_minor - counts + 1)


def expected_gene(gene, indptr, starts, *, by_gene):
    column = np.zeros(N_CELLS, dtype=np.float32)
    if by_gene:
        n = indptr[gene + 1] - indptr[gene]
        column[starts[gene] : starts[gene] + n] = np.arange(indptr[gene], indptr[gene + 1]) % 5 + 1
        return column
    inner = gene - starts
    inside = (inner >= 0) & (inner < np.diff(indptr))
    column[inside] = (indptr[:-1] + inner)[inside] % 5 + 1
    return column


@pytest.mark.parametrize(
    ("skewed", "by_gene", "genes", "way"),
    [
        (False, False, 0, "external"),
        (True, False, 0, "external"),
        (True, False, 100, "in memory"),
        (False, True, 0, "by gene"),
    ],
    ids=["even depth", "skewed depth", "few genes of skewed depth", "stored by gene"],
)
def test_an_x_ten_times_the_budget(tmp_path, skewed, by_gene, genes, way):
    path = tmp_path / "big.h5ad"
    indptr, starts = big_file(path, skewed=skewed, by_gene=by_gene)
    assert indptr[-1] * 8 > 8.5 * BUDGET
    tiny = np.eye(150, dtype=np.float32)
    write(tmp_path / "tiny.h5ad", __import__("scipy.sparse").sparse.csr_matrix(tiny), "gzip")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(CHILD),
            *(str(tmp_path / "tiny.h5ad"), str(path), str(tmp_path / "out")),
            *(str(BUDGET), str(genes)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    taken, found_way = done.stdout.strip().split(" ", 1)
    assert found_way == way
    import gzip

    for gene in range(0, genes or N_GENES, 499 if not genes else 33):
        found = (tmp_path / "out" / "var" / f"g{gene}.values.f32.gz").read_bytes()
        expected = expected_gene(gene, indptr, starts, by_gene=by_gene)
        assert gzip.decompress(found) == expected.tobytes()
    print(f"{int(taken) / BUDGET:.2f} of the budget", done.stderr)
    assert int(taken) <= 1.3 * BUDGET
