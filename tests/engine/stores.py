"""Datasets written part by part, so that any matrix and any storage can be had."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numcodecs
import numpy as np
import pandas as pd
import zarr
from scipy import sparse
from zarr import codecs

from tests.data import writing

HDF5 = {
    "none": {"chunks": (37,)},
    "contiguous": {},
    "gzip": {"chunks": (37,), "compression": "gzip", "compression_opts": 4},
    "shuffle+gzip": {"chunks": (64,), "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": (37,), "compression": "lzf"},
    "shuffle+lzf": {"chunks": (37,), "compression": "lzf", "shuffle": True},
    "fletcher32": {"chunks": (37,), "fletcher32": True},
    "gzip+fletcher32": {"chunks": (37,), "compression": "gzip", "fletcher32": True},
    "szip": {"chunks": (64,), "compression": "szip"},
    "one chunk": {"chunks": True, "compression": "gzip"},
}
ZARR: dict[str, tuple[int, dict[str, Any]]] = {
    "v2 blosc": (2, {"compressors": numcodecs.Blosc("lz4", shuffle=1)}),
    "v2 zlib": (2, {"compressors": numcodecs.Zlib(1)}),
    "v2 zstd+delta": (2, {"compressors": numcodecs.Zstd(1)}),
    "v2 none": (2, {"compressors": None}),
    "v3 zstd": (3, {"compressors": [codecs.ZstdCodec(level=1)]}),
    "v3 gzip+crc32c": (3, {"compressors": [codecs.GzipCodec(level=1), codecs.Crc32cCodec()]}),
    "v3 blosc": (3, {"compressors": [codecs.BloscCodec(cname="zstd", shuffle="bitshuffle")]}),
    "v3 none": (3, {"compressors": None}),
    "v3 sharded": (3, {"compressors": [codecs.ZstdCodec()], "shard": 4}),
}


def write(path: Path, matrix: Any, form: str, *, chunks: tuple[int, int] | None = None) -> Path:
    """Write a dataset with one embedding around a matrix; ``form`` is of ``HDF5`` or ``ZARR``.

    ``chunks`` is the chunk shape of a dense matrix.
    """
    if form in HDF5:
        with h5py.File(path, "w") as root:
            _frame(root, matrix)
            _matrix(
                root, matrix, lambda node, name, values: _hdf5(node, name, values, form, chunks)
            )
    else:
        root = zarr.open_group(path, mode="w", zarr_format=ZARR[form][0])
        _frame(root, matrix)
        _matrix(root, matrix, lambda node, name, values: _zarr(node, name, values, form, chunks))
    return path


def _frame(root: Any, matrix: Any) -> None:
    n_cells, n_genes = matrix.shape
    parts = {
        "obs": pd.DataFrame({"n": np.arange(n_cells)}, index=[f"c{i}" for i in range(n_cells)]),
        "var": pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]),
        "obsm": {"X_umap": np.random.default_rng(0).random((n_cells, 2), dtype=np.float32)},
    }
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    with writing():
        for key, value in parts.items():
            anndata.io.write_elem(root, key, value)


def _matrix(root: Any, matrix: Any, put: Any) -> None:
    if not sparse.issparse(matrix):
        node = put(root, "X", np.asarray(matrix))
        node.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return
    group = root.create_group("X")
    kind = f"{matrix.format}_matrix"
    shape = [int(n) for n in matrix.shape]
    group.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0", "shape": shape})
    for part in ("data", "indices", "indptr"):
        put(group, part, getattr(matrix, part))


def _hdf5(node: Any, name: str, values: Any, form: str, chunks: Any) -> Any:
    options = dict(HDF5[form])
    if values.size == 0 or values.dtype == bool:
        options = {}
    elif values.ndim == 2 and "chunks" in options:
        sides = zip(values.shape, chunks or (7, 5), strict=True)
        options["chunks"] = tuple(min(n, size) for n, size in sides)
    elif options.get("chunks", True) is not True:
        options["chunks"] = (min(options["chunks"][0], len(values)),)
    if options.get("compression") == "szip" and np.prod(options["chunks"]) < 64:
        options = {}
    return node.create_dataset(name, data=values, **options)


def _zarr(node: Any, name: str, values: Any, form: str, chunks: Any) -> Any:
    options = dict(ZARR[form][1])
    shard = options.pop("shard", 0)
    chunks = chunks or (7, 5) if values.ndim == 2 else (37,)
    chunks = tuple(max(1, min(n, size)) for n, size in zip(values.shape, chunks, strict=True))
    if "delta" in form and values.dtype.kind in "iu":
        options["filters"] = [numcodecs.Delta(dtype=values.dtype.str)]
    if shard:
        options["shards"] = tuple(shard * n for n in chunks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return node.create_array(name, data=values, chunks=chunks, **options)
