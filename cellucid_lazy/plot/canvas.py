"""Count, average or choose the cells of each pixel, a range of cells at a time.

Each range gives a canvas, and canvases are merged, so memory depends on pixels and not on cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple, TypeAlias

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from cellucid_lazy.graph import map_row_ranges, merge_tree

# A canvas: arrays (height, width), counts of labels and numbers, by name.
Layers: TypeAlias = dict[str, Any]

# Along the longer side: print at 200 dots per inch, and twice what a notebook shows.
PIXELS = 1000
# Cells of one canvas; each canvas is held until it is merged with others.
ROWS = 2**21
MARGIN = 0.04

_MERGE: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "cells": np.add,
    "counts": np.add,
    "finite": np.add,
    "total": np.add,
    "top": np.maximum,
    "low": np.fmin,
    "high": np.fmax,
}
_CODES = 2**16
_EMPTY = -1


class View(NamedTuple):
    """The part of the plane that is drawn, and its grid.

    Attributes
    ----------
    x_range, y_range
        First and last coordinate.
    width, height
        Pixels.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int
    height: int


def view_of(bounds: NDArray[Any]) -> View:
    """Choose the part that is drawn: all cells and a margin, with square pixels.

    Parameters
    ----------
    bounds
        (2, 2): minimum and maximum of each axis.

    Returns
    -------
    View
        With `PIXELS` along the longer side.
    """
    low, high = np.asarray(bounds, dtype=np.float64)
    margin = MARGIN * (float((high - low).max()) or 1.0)
    low, high = low - margin, high + margin
    width, height = np.maximum(np.round((high - low) / (high - low).max() * PIXELS), 1).astype(int)
    x_range, y_range = zip(low.tolist(), high.tolist(), strict=True)
    return View(x_range, y_range, int(width), int(height))


def canvas_array(
    points: da.Array, values: da.Array | None, n_labels: int | None, view: View
) -> Any:
    """Draw cells lazily, each range of them onto a canvas, and merge the canvases.

    Parameters
    ----------
    points
        (n_cells, 2).
    values
        (n_cells,) numbers, or codes; None to count cells only.
    n_labels
        Number of labels that codes stand for, above which they are missing; None for numbers.
    view
        The part that is drawn.

    Returns
    -------
    dask.array.Array
        0-d, of dtype object; its block is `Layers`. Without codes ``"cells"``, the number of cells
        in each pixel. Of numbers also ``"total"`` and ``"finite"``, the sum and the number of
        finite values in each pixel, and ``"low"`` and ``"high"``, the range of all. Of codes
        ``"top"``, which has the code of one cell of each pixel, see `code_of`, and ``"counts"``,
        the number of cells of each label, then of those without one.
    """
    arrays = [points]
    draw: Callable[..., Any] = partial(_draw_cells, view=view)
    if values is not None:
        arrays.append(values)
        draw = partial(_draw_values, view=view)
    if n_labels is not None:
        arrays.append(da.arange(points.shape[0], chunks=(points.chunks[0],), dtype=np.int64))
        draw = partial(_draw_codes, view=view, n_labels=n_labels)
    ranges = map_row_ranges(draw, ROWS, arrays=arrays, shape=(1,), dtype=object, exclusive=True)
    return merge_tree(ranges, _merge, shape=(), dtype=object)


def _draw_cells(points: NDArray[Any], view: View) -> Layers:
    return {"cells": _count(_pixels(points, view), view)}


def _draw_values(points: NDArray[Any], values: NDArray[Any], view: View) -> Layers:
    pixels = _pixels(points, view)
    is_finite = np.isfinite(values)
    finite = values[is_finite].astype(np.float64)
    return {
        "cells": _count(pixels, view),
        "finite": _count(pixels[is_finite], view),
        "total": _count(pixels[is_finite], view, weights=finite),
        "low": np.fmin.reduce(finite, initial=np.nan),
        "high": np.fmax.reduce(finite, initial=np.nan),
    }


def _draw_codes(
    points: NDArray[Any], codes: NDArray[Any], cells: NDArray[Any], view: View, n_labels: int
) -> Layers:
    """Choose the cell of each pixel that comes first in a random order, those with a label first.

    The largest number in a pixel has the cell's place in that order, then its code + 1.
    """
    known = codes < n_labels
    places = (pd.util.hash_array(cells) >> np.uint64(27)).astype(np.int64)
    numbers = np.where(known, places * _CODES + codes + 1, 0)
    top = np.full(view.height * view.width + 1, _EMPTY)
    np.maximum.at(top, _pixels(points, view), numbers)
    counts = np.bincount(np.where(known, codes, n_labels), minlength=n_labels + 1)
    return {"top": top[:-1].reshape(view.height, view.width), "counts": counts}


def _pixels(points: NDArray[Any], view: View) -> NDArray[np.intp]:
    """Number the pixel of each cell, row after row; a cell without a position is after the last."""
    (left, right), (bottom, top) = view.x_range, view.y_range
    with np.errstate(invalid="ignore"):
        columns = (points[:, 0] - np.float64(left)) * (view.width / (right - left))
        rows = (points[:, 1] - np.float64(bottom)) * (view.height / (top - bottom))
        pixels = rows.astype(np.intp) * view.width + columns.astype(np.intp)
        pixels[~np.isfinite(rows + columns)] = view.height * view.width
    return pixels


def _count(
    pixels: NDArray[np.intp], view: View, weights: NDArray[np.float64] | None = None
) -> NDArray[Any]:
    n_pixels = view.height * view.width
    counts = np.bincount(pixels, weights, minlength=n_pixels + 1)
    return counts[:n_pixels].reshape(view.height, view.width)


def _merge(layers: list[Layers]) -> Layers:
    return {key: reduce(_MERGE[key], [one[key] for one in layers]) for key in layers[0]}


def code_of(top: NDArray[Any]) -> NDArray[np.int64]:
    """Return the code in each pixel; -1 for a missing one, -2 for no cell."""
    return np.where(top == _EMPTY, -2, top.astype(np.int64) % _CODES - 1)


def dot_radius(n_cells: int) -> int:
    """Return the radius of the dots in pixels: smaller for more cells."""
    return int(np.clip(round(400 / np.sqrt(max(n_cells, 1))), 1, 12))


def add_dots(layer: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """Sum in each pixel the values of the dots that cover it."""
    weights = _disk(radius).astype(np.float64)
    added: NDArray[np.float64] = ndimage.convolve(
        layer.astype(np.float64), weights, mode="constant"
    )
    return added


def topmost(levels: NDArray[Any], radius: int) -> NDArray[np.int64]:
    """Find the topmost dot at each pixel: one of the highest level, chosen at random.

    Parameters
    ----------
    levels
        Level of the dot at each pixel, (height, width); 0 for no dot.
    radius
        Radius of the dots in pixels.

    Returns
    -------
    numpy.ndarray
        int64 (height, width): flat position of the pixel whose dot is topmost; -1 for no dot.
    """
    order = np.random.default_rng(0).permutation(levels.size)
    ranks = np.where(levels > 0, levels * levels.size + order.reshape(levels.shape), -1)
    found = ndimage.maximum_filter(ranks, footprint=_disk(radius), mode="constant", cval=-1)
    return np.where(found < 0, -1, np.argsort(order)[found % levels.size])


def _disk(radius: int) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk: NDArray[np.bool_] = rows**2 + columns**2 <= (radius + 0.3) ** 2
    return disk
