"""The bare work of an export, as a lower bound: two threads, no dask, no library of ours.

    python bare_loops.py export ATLAS.h5ad --out OUT
    python bare_loops.py raw-write --out OUT --files 20000 --bytes-each 800000

The first decodes X, transposes it and writes a gzip file for each gene: it reads the stored
chunks by their offset, inflates them outside HDF5's lock, turns each row block into CSC and writes
it to a scratch folder; then, for each block of genes, it reads its part of every piece, fills
dense columns and writes them with gzip level 1. The second writes as many bytes in as many files
and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from isal import igzip, isal_zlib
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

THREADS = 2
NONZEROS_PER_BLOCK = 8_000_000
DENSE_BYTES_PER_BLOCK = 32_000_000
THREAD = threading.local()


@dataclass(frozen=True)
class StoredColumn:
    """Where the chunks of a one-dimensional HDF5 dataset lie in its file."""

    dtype: np.dtype[Any]
    chunk_length: int
    places: dict[int, tuple[int, int]]

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> StoredColumn:
        """Read the places of all chunks."""
        identifier = dataset.id
        places = {}

        def note(info: Any) -> None:
            places[info.chunk_offset[0]] = (info.byte_offset, info.size)

        identifier.chunk_iter(note)
        return cls(dataset.dtype, dataset.chunks[0], places)

    def read(self, descriptor: int, start: int, stop: int) -> np.ndarray:
        """Read and inflate the elements from start to stop."""
        result = np.empty(stop - start, dtype=self.dtype)
        first = start - start % self.chunk_length
        for begin in range(first, stop, self.chunk_length):
            offset, size = self.places[begin]
            plain = isal_zlib.decompress(
                os.pread(descriptor, size, offset), bufsize=self.chunk_length * self.dtype.itemsize
            )
            low, high = max(start, begin), min(stop, begin + self.chunk_length)
            chunk = np.frombuffer(plain, self.dtype)
            result[low - start : high - start] = chunk[low - begin : high - begin]
        return result


@dataclass(frozen=True)
class Layout:
    """All that the threads need to know of X."""

    descriptor: int
    data: StoredColumn
    indices: StoredColumn
    indptr: np.ndarray
    shape: tuple[int, int]


def read_layout(path: Path, descriptor: int) -> Layout:
    """Read the layout of X."""
    with h5py.File(path, "r") as file:
        group = file["X"]
        n_cells, n_genes = (int(length) for length in group.attrs["shape"])
        return Layout(
            descriptor,
            StoredColumn.of(group["data"]),
            StoredColumn.of(group["indices"]),
            group["indptr"][:].astype(np.int64),
            (n_cells, n_genes),
        )


def row_blocks(layout: Layout) -> list[tuple[int, int]]:
    """Cut the cells into blocks of about the same number of nonzeros."""
    n_blocks = max(1, -(-int(layout.indptr[-1]) // NONZEROS_PER_BLOCK))
    targets = np.linspace(0, layout.indptr[-1], n_blocks + 1)
    edges = np.unique(np.searchsorted(layout.indptr, targets))
    return [(int(start), int(stop)) for start, stop in pairwise(edges)]


def write_piece(layout: Layout, scratch: Path, start: int, stop: int) -> np.ndarray:
    """Decode one row block, transpose it and write it; return the column pointers."""
    low, high = int(layout.indptr[start]), int(layout.indptr[stop])
    data = layout.data.read(layout.descriptor, low, high)
    indices = layout.indices.read(layout.descriptor, low, high)
    pointers = layout.indptr[start : stop + 1] - low
    shape = (stop - start, layout.shape[1])
    by_gene = sparse.csr_matrix((data, indices, pointers.astype(np.int32)), shape=shape).tocsc()
    by_gene.data.tofile(scratch / f"{start}.data")
    by_gene.indices.tofile(scratch / f"{start}.indices")
    return by_gene.indptr


def zeroed_buffer(n_genes: int, n_cells: int) -> np.ndarray:
    """Return zeros in memory that this thread keeps: fresh pages would cost more than the work."""
    buffer = getattr(THREAD, "buffer", None)
    if buffer is None or len(buffer) < n_genes:
        buffer = THREAD.buffer = np.empty((n_genes, n_cells), dtype=np.float32)
    part = buffer[:n_genes]
    part.fill(0)
    return part


def write_genes(
    scratch: Path, out: Path, pieces: dict[int, np.ndarray], n_cells: int, genes: range
) -> int:
    """Gather a block of genes from all pieces and write one gzip file for each."""
    dense = zeroed_buffer(len(genes), n_cells)
    for start, indptr in pieces.items():
        low, high = int(indptr[genes.start]), int(indptr[genes.stop])
        place = {"count": high - low, "offset": 4 * low}
        data = np.fromfile(scratch / f"{start}.data", np.float32, **place)
        indices = np.fromfile(scratch / f"{start}.indices", np.int32, **place)
        counts = np.diff(indptr[genes.start : genes.stop + 1])
        rows = np.repeat(np.arange(len(genes)), counts)
        dense[rows, indices + start] = data
    written = 0
    for gene, column in zip(genes, dense, strict=True):
        stored = igzip.compress(column, 1)
        (out / f"{gene}.gz").write_bytes(stored)
        written += len(stored)
    return written


def run_all(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Run the task over the items on the threads, results in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(task, items))


def export(path: Path, out: Path) -> dict[str, Any]:
    """Run both phases; report their seconds and the bytes written."""
    scratch = out / "scratch"
    scratch.mkdir(parents=True)
    descriptor = os.open(path, os.O_RDONLY)
    begin = time.perf_counter()
    layout = read_layout(path, descriptor)
    blocks = row_blocks(layout)
    indptrs = run_all(lambda block: write_piece(layout, scratch, *block), blocks)
    transposed = time.perf_counter()
    pieces = {start: indptr for (start, _), indptr in zip(blocks, indptrs, strict=True)}
    n_cells, n_genes = layout.shape
    width = max(1, DENSE_BYTES_PER_BLOCK // (4 * n_cells))
    starts = range(0, n_genes, width)
    genes = [range(start, min(start + width, n_genes)) for start in starts]
    written = run_all(lambda block: write_genes(scratch, out, pieces, n_cells, block), genes)
    end = time.perf_counter()
    os.close(descriptor)
    phases = {"transpose": transposed - begin, "write": end - transposed}
    return {"seconds": end - begin, "bytes": sum(written), **phases}


def raw_write(out: Path, files: int, bytes_each: int) -> dict[str, Any]:
    """Write as many bytes in as many files."""
    out.mkdir(parents=True)
    block = np.random.default_rng(0).bytes(bytes_each)
    begin = time.perf_counter()
    run_all(lambda number: (out / str(number)).write_bytes(block), range(files))
    return {"seconds": time.perf_counter() - begin, "bytes": files * bytes_each}


def main() -> None:
    """Run one mode into a folder that must not exist yet; the caller removes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("export", "raw-write"))
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=int)
    parser.add_argument("--bytes-each", type=int)
    arguments = parser.parse_args()
    if arguments.mode == "export":
        report = export(arguments.path, arguments.out)
    else:
        report = raw_write(arguments.out, arguments.files, arguments.bytes_each)
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
