"""Cells on a grid of pixels: what each range of cells leaves there adds up.

A layer is an array, or a number, by name; a table says how two of a name are merged. So the canvas
is all that is held of the cells that were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple, TypeAlias

import dask.array as da
import datashader
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from cellucid_lazy.graph import map_row_ranges, merge_tree

Layers: TypeAlias = dict[str, Any]

# Along the longer side: print at 200 dots per inch, and twice what a notebook shows.
PIXELS = 1000
# One canvas for each so many cells is held until it is merged with others.
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
_EMPTY = -1.0


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
    """Choose what is drawn: all cells and a margin, a unit of both axes as long.

    Parameters
    ----------
    bounds
        (2, 2): minimum and maximum of each axis.

    Returns
    -------
    View
        Of `PIXELS` along the longer side.
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
    """Make the lazy canvas.

    Parameters
    ----------
    points
        (n_cells, 2).
    values
        (n_cells,) numbers, or codes; None to count cells only.
    n_labels
        Number of labels that codes stand for, above which they are missing; None for numbers.
    view
        What is drawn.

    Returns
    -------
    dask.array.Array
        0-d object array that holds `Layers`. ``"cells"``: how many there are in each pixel. Of
        numbers ``"total"`` and ``"finite"``, their sum and how many are finite, ``"low"`` and
        ``"high"``, their range. Of codes ``"top"``, the code of one cell of the pixel, see
        `code_of`, and ``"counts"``, the number of cells of each label and at last of none.
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
    return merge_tree(ranges, _merge, _finish, shape=(), dtype=object)


def _draw_cells(points: NDArray[Any], view: View) -> NDArray[Any]:
    return _boxed({"cells": _aggregate(points, None, datashader.count(), view).values}, (1,))


def _draw_values(points: NDArray[Any], values: NDArray[Any], view: View) -> NDArray[Any]:
    found = values.astype(np.float64)
    found[~np.isfinite(found)] = np.nan
    reduction = datashader.summary(
        cells=datashader.count(), finite=datashader.count("value"), total=datashader.sum("value")
    )
    drawn = _aggregate(points, found, reduction, view)
    layers: Layers = {key: np.nan_to_num(drawn[key].values) for key in ("cells", "finite", "total")}
    layers["low"] = np.fmin.reduce(found, initial=np.nan)
    layers["high"] = np.fmax.reduce(found, initial=np.nan)
    return _boxed(layers, (1,))


def _draw_codes(
    points: NDArray[Any], codes: NDArray[Any], cells: NDArray[Any], view: View, n_labels: int
) -> NDArray[Any]:
    """Leave the code of the cell that is first in a random order, in each pixel.

    In one number below 2**53, so that float64 is exact: the place in the order, then the code + 1.
    It is 0 of cells without a label.
    """
    places = (pd.util.hash_array(cells) >> np.uint64(27)).astype(np.float64)
    known = codes < n_labels
    top = np.where(known, places * _CODES + codes + 1, 0.0)
    drawn = _aggregate(points, top, datashader.max("value"), view)
    counts = np.bincount(np.where(known, codes, n_labels), minlength=n_labels + 1)
    return _boxed({"top": np.nan_to_num(drawn.values, nan=_EMPTY), "counts": counts}, (1,))


def _aggregate(
    points: NDArray[Any], values: NDArray[Any] | None, reduction: Any, view: View
) -> Any:
    """Aggregate the values of cells in each pixel; cells without a position are left out."""
    columns = {"x": points[:, 0], "y": points[:, 1]}
    frame = pd.DataFrame(columns if values is None else {**columns, "value": values})
    canvas = datashader.Canvas(view.width, view.height, view.x_range, view.y_range)
    return canvas.points(frame, "x", "y", reduction)


def _join(boxes: list[NDArray[Any]]) -> Layers:
    layers = [box.item() for box in boxes]
    return {key: reduce(_MERGE[key], [one[key] for one in layers]) for key in layers[0]}


def _merge(boxes: list[NDArray[Any]]) -> NDArray[Any]:
    return _boxed(_join(boxes), (1,))


def _finish(boxes: list[NDArray[Any]]) -> NDArray[Any]:
    return _boxed(_join(boxes), ())


def _boxed(layers: Layers, shape: tuple[int, ...]) -> NDArray[Any]:
    box = np.empty(shape, dtype=object)
    box[...] = [layers] if shape else layers
    return box


def code_of(top: NDArray[Any]) -> NDArray[np.int64]:
    """Return the code in each pixel; -1 for a missing one, -2 for no cell."""
    return np.where(top == _EMPTY, -2, top.astype(np.int64) % _CODES - 1)


def dot_radius(n_cells: int) -> int:
    """Choose the radius of a cell in pixels: many cells are small dots, a few are large."""
    return int(np.clip(round(400 / np.sqrt(max(n_cells, 1))), 1, 12))


def add_dots(layer: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """Add up a layer over the dots that cover each pixel."""
    weights = _disk(radius).astype(np.float64)
    added: NDArray[np.float64] = ndimage.convolve(
        layer.astype(np.float64), weights, mode="constant"
    )
    return added


def topmost(levels: NDArray[Any], radius: int) -> NDArray[np.int64]:
    """Find the dot on top at each pixel: of the highest level, and of these in a random order.

    Parameters
    ----------
    levels
        What is at each pixel, (height, width); 0 for nothing.
    radius
        Of the dots, in pixels.

    Returns
    -------
    numpy.ndarray
        int64 (height, width): the flat position of the dot's pixel; -1 where there is none.
    """
    order = np.random.default_rng(0).permutation(levels.size)
    ranks = np.where(levels > 0, levels * levels.size + order.reshape(levels.shape), -1)
    found = ndimage.maximum_filter(ranks, footprint=_disk(radius), mode="constant", cval=-1)
    return np.where(found < 0, -1, np.argsort(order)[found % levels.size])


def _disk(radius: int) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk: NDArray[np.bool_] = rows**2 + columns**2 <= (radius + 0.3) ** 2
    return disk
