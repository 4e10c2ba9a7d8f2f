"""Spilled blocks in memory: what transforms get where marked blocks are saved."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np

from cellucid_lazy import graph


class StandIn:
    """A block that is no array: only its rows can be read, and each read is a copy."""

    def __init__(self, array):
        assert isinstance(array, np.ndarray)
        self._array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._array[rows].copy()

    def __array__(self, dtype=None, copy=None):
        return self._array.astype(dtype or self.dtype)


def save(block):
    """Stand in for an array, or for each of a list."""
    return [StandIn(one) for one in block] if isinstance(block, list) else StandIn(block)


def compute_spilled(arrays) -> list[Any]:
    """Compute arrays together as the engine does, with all marked blocks saved.

    An array whose own blocks are saved comes back as an array.
    """
    merged = graph.with_spilling(graph.merge_graphs(arrays), save)
    keys = [graph.block_keys(array) for array in arrays]
    tasks = graph.optimize_graph(merged, [key for own in keys for key in own])
    found = dask.get(tasks, keys)
    return [_joined(array, blocks) for array, blocks in zip(arrays, found, strict=True)]


def _joined(array, blocks):
    if len(blocks) == 1:
        return np.asarray(blocks[0])
    if array.ndim == 1 or len(array.chunks[1]) == 1:
        return np.concatenate([np.asarray(block) for block in blocks])
    widths = len(array.chunks[1])
    rows = [blocks[first : first + widths] for first in range(0, len(blocks), widths)]
    return np.block([[np.asarray(block) for block in row] for row in rows])
