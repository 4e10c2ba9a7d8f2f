"""Any number of cells that are nowhere: each block is made when it is read."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import dask.array as da
import numpy as np
import pandas as pd

import cellucid_lazy as cl
from cellucid_lazy.source import ObsColumn, ObsmArray

BLOCK = 2**19
LABELS = [f"type {i}" for i in range(40)]


def _kinds(first: int, n_rows: int) -> Any:
    return np.random.default_rng(first).integers(0, len(LABELS), n_rows)


def _points(cells: Any) -> Any:
    rng = np.random.default_rng(int(cells[0]) + 1)
    kinds = _kinds(int(cells[0]), len(cells))
    turn = kinds * 2.4
    centers = np.stack([np.cos(turn), np.sin(turn)], axis=1) * np.sqrt(kinds + 1.0)[:, None]
    return (centers + rng.normal(0, 0.3, (len(cells), 2))).astype(np.float32)


def _codes(cells: Any) -> Any:
    return _kinds(int(cells[0]), len(cells)).astype(np.int8)


def _values(cells: Any) -> Any:
    return np.sin(cells / 1e6).astype(np.float32)


def _column(make: Any, n_cells: int, _: Any = None) -> da.Array:
    cells = da.arange(n_cells, chunks=BLOCK)
    return cells.map_blocks(make, dtype=make(np.arange(1)).dtype)


def _embedding(n_cells: int, _: Any = None, *, again: bool = False) -> da.Array:
    cells = da.arange(n_cells, chunks=BLOCK)
    return cells.map_blocks(_points, dtype="f4", new_axis=1, chunks=(cells.chunks[0], (2,)))


def catalogue(n_cells: int) -> cl.Catalogue:
    """Offer a 2-D embedding, a category and a number of so many cells."""
    small = cl.open(
        anndata.AnnData(
            obs=pd.DataFrame({"a": [1.0, 2.0]}, index=["0", "1"]), obsm={"X_umap": np.ones((2, 2))}
        )
    )
    kinds = ObsColumn("kind", "category", partial(_column, _codes, n_cells), lambda: LABELS)
    values = ObsColumn("value", "continuous", partial(_column, _values, n_cells))
    points = ObsmArray((n_cells, 2), np.dtype("f4"), partial(_embedding, n_cells))
    columns = {"kind": kinds, "value": values}
    return cl.outputs(replace(small, n_cells=n_cells, obs=columns, obsm={"X_umap": points}))


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
