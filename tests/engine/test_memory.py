"""The budget holds: whole processes, on matrices ten times as large decoded."""

from __future__ import annotations

import gzip
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from scipy import sparse

from tests.engine.stores import write

if not Path("/proc/self/status").exists():
    pytest.skip("peak memory is read from /proc", allow_module_level=True)

BUDGET = 64 * 2**20
# 672 MB once decoded, 10 times the budget.
N_STORED = 84_000_000


class Shape(NamedTuple):
    """Size of a matrix; its first ``deep`` cells hold half of the values, where there are any."""

    n_cells: int
    n_genes: int
    deep: int = 0
    by_gene: bool = False

    @property
    def counts(self):
        """Values per cell, or per gene."""
        n_major = self.n_genes if self.by_gene else self.n_cells
        if not self.deep:
            return np.full(n_major, N_STORED // n_major)
        counts = np.full(n_major, N_STORED // 2 // (n_major - self.deep))
        counts[: self.deep] = N_STORED // 2 // self.deep
        return counts

    @property
    def n_minor(self):
        return self.n_cells if self.by_gene else self.n_genes


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

    def export(source, out, genes=0, **options):
        names = tuple(f"g{i}" for i in range(genes)) if genes else None
        chosen = cl.Options(compression=1, genes=names)
        catalogue = cl.outputs(cl.open(source), chosen)
        cl.to_directory(catalogue, out, progress=False, **options)
        return catalogue

    with dask.config.set(num_workers=2):
        # A tiny export imports what an export needs.
        export(tiny, out + "-tiny")
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")
        before = status("VmRSS")
        catalogue = export(path, out, int(genes), memory_budget=int(budget))
        taken = status("VmHWM") - before
        print(cl.explain(catalogue, memory_budget=int(budget)).partition(":")[0], taken, sep=": ")
"""


def big_file(path, shape):
    """Cheap values: each cell's genes are a stretch that begins anywhere, its values count up."""
    counts, kind = shape.counts, sparse.csc_matrix if shape.by_gene else sparse.csr_matrix
    write(path, kind((shape.n_cells, shape.n_genes), dtype=np.float32), "none")
    indptr = np.concatenate([[0], np.cumsum(counts)])
    starts = np.arange(len(counts)) * 7919 % (shape.n_minor - counts + 1)
    with h5py.File(path, "r+") as root:
        group = root["X"]
        for part in ("data", "indices", "indptr"):
            del group[part]
        group["indptr"] = indptr
        options = {"shape": (indptr[-1],), "chunks": (2**16,)}
        data = group.create_dataset("data", dtype=np.float32, **options)
        indices = group.create_dataset("indices", dtype=np.int32, **options)
        for low in range(0, len(counts), 500):
            part = slice(low, min(low + 500, len(counts)))
            where = np.arange(indptr[part.start], indptr[part.stop])
            inner = where - np.repeat(indptr[part], counts[part])
            stretch = slice(indptr[part.start], indptr[part.stop])
            indices[stretch] = inner + np.repeat(starts[part], counts[part])
            data[stretch] = where % 5 + 1
    return indptr, starts


def expected_gene(gene, shape, indptr, starts):
    column = np.zeros(shape.n_cells, dtype=np.float32)
    if shape.by_gene:
        low, high = indptr[gene], indptr[gene + 1]
        column[starts[gene] : starts[gene] + high - low] = np.arange(low, high) % 5 + 1
        return column
    inner = gene - starts
    inside = (inner >= 0) & (inner < np.diff(indptr))
    column[inside] = (indptr[:-1] + inner)[inside] % 5 + 1
    return column


@pytest.mark.parametrize(
    ("shape", "genes", "way"),
    [
        (Shape(80_000, 4_000), 0, "external"),
        (Shape(40_000, 22_000, deep=2_000), 2_000, "external"),
        (Shape(20_000, 60_000, deep=700), 100, "in memory"),
        (Shape(80_000, 4_000, by_gene=True), 0, "by gene"),
    ],
    ids=["even depth", "skewed depth", "few genes of skewed depth", "stored by gene"],
)
def test_an_x_many_times_the_budget(tmp_path, shape, genes, way):
    path = tmp_path / "big.h5ad"
    indptr, starts = big_file(path, shape)
    assert indptr[-1] * 8 > 10 * BUDGET
    assert exported(tmp_path, path, genes) == way
    count = genes or shape.n_genes
    for gene in range(0, count, count // 12):
        assert written(tmp_path, gene) == expected_gene(gene, shape, indptr, starts).tobytes()


def test_a_dense_x_in_chunks_of_few_genes(tmp_path):
    n_cells, n_genes = 40_000, 4_200
    assert 4 * n_cells * n_genes > 10 * BUDGET
    path = tmp_path / "big.h5ad"
    cells, genes = np.arange(n_cells)[:, None], np.arange(n_genes)
    matrix = ((cells + genes) % 5).astype(np.float32)
    write(path, matrix, "none", chunks=(15_000, 4))
    assert exported(tmp_path, path) == "by gene"
    for gene in range(0, n_genes, n_genes // 12):
        assert written(tmp_path, gene) == matrix[:, gene].tobytes()


def exported(folder, path, genes=0):
    """Export in a process of its own, within the budget; tells the way that was taken."""
    write(folder / "tiny.h5ad", sparse.csr_matrix(np.eye(150, dtype=np.float32)), "gzip")
    arguments = [folder / "tiny.h5ad", path, folder / "out", BUDGET, genes]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    path.unlink()
    way, taken = done.stdout.strip().split(": ")
    print(f"{int(taken) / BUDGET:.2f} of the budget")
    assert int(taken) <= 1.3 * BUDGET
    return way


def written(folder, gene):
    return gzip.decompress((folder / "out" / "var" / f"g{gene}.values.f32.gz").read_bytes())
