"""Draw cells as images on matplotlib's axes, with a legend or a colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cellucid_lazy.catalogue import Catalogue, check_catalogue
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.producer import Stage
from cellucid_lazy.engine.resources import detect_resources
from cellucid_lazy.engine.run import compute
from cellucid_lazy.errors import DataError, OptionError, format_count, printable
from cellucid_lazy.graph import block_keys, map_indexed, merge_graphs, needed_tasks, whole_rows
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.embeddings import Embedding, way_to_choose
from cellucid_lazy.plot.canvas import (
    Layers,
    View,
    add_dots,
    canvas_array,
    code_of,
    dot_radius,
    topmost,
    view_of,
)
from cellucid_lazy.plot.colors import MISSING, find_output, label_colors
from cellucid_lazy.transforms.embeddings import finite_bounds

# matplotlib's usual point of view: 30 degrees above the plane, turned by -60.
_AZIMUTH, _ELEVATION = np.deg2rad(-60.0), np.deg2rad(30.0)
_PROJECTION = np.array(
    [
        [-np.sin(_AZIMUTH), -np.sin(_ELEVATION) * np.cos(_AZIMUTH)],
        [np.cos(_AZIMUTH), -np.sin(_ELEVATION) * np.sin(_AZIMUTH)],
        [0.0, np.cos(_ELEVATION)],
    ]
)
# Inches: longer side of the axes, least width and height of a figure, width of a colour bar.
_SIZE, _MIN_SIZE, _BAR_WIDTH = 4.8, (2.4, 3.6), 0.7
_LEGEND_ROWS = 20
_MAX_LABELS = 58
_MAX_LABEL_LENGTH = 32
# Length in points of the arrows that replace the axes.
_ARROW_LENGTH = 28.0
_AXIS_NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PC"}


def draw(
    catalogue: Catalogue, color: str | None, dim: int, ax: Axes | None, progress: bool | None
) -> Axes:
    """Draw an embedding; see `cellucid_lazy.plot.embedding`."""
    check_catalogue(catalogue)
    if ax is not None and not hasattr(ax, "imshow"):
        raise OptionError(f"ax must be one matplotlib Axes, not {type(ax).__name__}")
    dataset = catalogue.dataset
    shown = _shown(dataset, dim)
    title, output = format_count(dataset.source.n_cells, "cell"), None
    if color is not None:
        title, output = find_output(catalogue, color)
    points = _points(dataset, dim)
    view = view_of(_computed(finite_bounds(points), "bounds", progress))
    values = None if output is None else output.array
    n_labels = None if output is None or output.labels is None else len(output.labels)
    canvas = canvas_array(points, values, n_labels, view)
    layers: Layers = _computed(canvas, "cells", progress).item()
    radius = dot_radius(dataset.source.n_cells)
    figure = None
    if ax is None:
        sides = np.array([view.width, view.height])
        size = np.maximum(_SIZE * sides / sides.max(), _MIN_SIZE)
        figure, ax = pyplot.subplots(figsize=size, layout="constrained")
    if output is None:
        _draw_counts(ax, view, layers, radius)
    elif output.labels is None:
        _draw_values(ax, view, layers, radius)
    else:
        _draw_labels(ax, view, layers, radius, output)
    ax.set_title(_text(title), parse_math=False)
    _draw_arrows(ax, shown, dim)
    if figure is not None:
        legend = ax.get_legend()
        beside = 0.0 if legend is None else legend.get_window_extent().width / figure.dpi
        figure.set_figwidth(size[0] + max(beside, _BAR_WIDTH if figure.axes[1:] else 0.0) + 0.2)
    return ax


def _shown(dataset: Dataset, dim: int) -> Embedding:
    if dim not in (2, 3):
        raise OptionError(f"dim={dim!r}: 2 or 3 dimensions can be drawn")
    shown = dataset.shown.embeddings
    if f"{dim}d" not in shown:
        there = "".join(
            f"; {one[0]} dimensions are shown: dim={one[0]}" for one in shown if one > "2"
        )
        raise DataError(
            f"{dataset.source.name}: no embedding of {dim} dimensions is shown{there}; "
            f"{way_to_choose(dataset.source)}"
        )
    return shown[f"{dim}d"]


def _points(dataset: Dataset, dim: int) -> da.Array:
    """Return lazy positions in the plane of the picture, (n_cells, 2)."""
    points = whole_rows(dataset.for_call().embedding(f"{dim}d")[0])
    if dim == 2:
        return points
    return map_indexed(_project, "ij", points, "ij", adjust_chunks={"j": 2}, dtype=np.float64)


def _project(points: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        projected: NDArray[np.float64] = points.astype(np.float64) @ _PROJECTION
    return projected


def _computed(array: da.Array, label: str, progress: bool | None) -> NDArray[Any]:
    """Compute an array of one block."""
    keys = block_keys(array)
    stage = Stage(label, needed_tasks(merge_graphs([array]), keys), keys)
    (found,) = compute(stage, detect_resources(), None if progress else False)
    return np.asarray(found)


def _image(ax: Axes, view: View, pixels: NDArray[Any], **options: Any) -> Any:
    extent = (*view.x_range, *view.y_range)
    return ax.imshow(pixels, extent=extent, origin="lower", aspect="equal", **options)


def _draw_counts(ax: Axes, view: View, layers: Layers, radius: int) -> None:
    """Show the number of cells in each pixel, darker for more."""
    cells = add_dots(layers["cells"], radius)
    norm = LogNorm(0.3, max(float(cells.max()), 2.0))
    _image(ax, view, np.ma.masked_less(cells, 0.5), cmap="Greys", norm=norm)


def _draw_values(ax: Axes, view: View, layers: Layers, radius: int) -> None:
    """Show the mean value in each pixel, and a colour bar over the range of all values."""
    finite, total = layers["finite"], layers["total"]
    levels = np.where(finite > 0, 2, np.where(layers["cells"] > 0, 1, 0))
    top = topmost(levels, radius)
    found = np.where(top < 0, 0, levels.ravel()[top])
    means = np.divide(total, finite, where=finite > 0, out=np.zeros_like(total)).ravel()[top]
    low, high = float(layers["low"]), float(layers["high"])
    if not np.isfinite(low):
        low, high = 0.0, 1.0
    missing = np.array([(0, 0, 0, 0), to_rgba(MISSING), (0, 0, 0, 0)])
    _image(ax, view, missing[found])
    image = _image(ax, view, np.ma.array(means, mask=found < 2), vmin=low, vmax=high)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.5, aspect=14, pad=0.02)
    bar.outline.set_visible(False)
    if (levels == 1).any():
        _draw_legend(bar.ax, [("missing", MISSING)], loc="upper left", bbox_to_anchor=(-0.7, -0.02))


def _draw_labels(ax: Axes, view: View, layers: Layers, radius: int, output: Output) -> None:
    """Show the label of one cell of each pixel, and a legend."""
    labels = output.labels or ()
    colors = label_colors(output.name, labels, output.colors)
    codes = code_of(layers["top"])
    top = topmost(np.minimum(codes, 0) + 2, radius)
    # Codes -2, no cell, and -1, a missing label, index the last two rows.
    table = np.array([*map(to_rgba, colors), (0, 0, 0, 0), to_rgba(MISSING)])
    _image(ax, view, table[np.where(top < 0, -2, codes.ravel()[top])])
    entries = _entries(labels, colors, layers["counts"])
    _draw_legend(ax, entries, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _entries(
    labels: Sequence[str], colors: Sequence[Any], counts: NDArray[np.int64]
) -> list[tuple[str, Any]]:
    """Return the labels of the legend, those with the most cells, and their colours."""
    used = [code for code in range(len(labels)) if counts[code]]
    named = set(sorted(used, key=lambda code: -int(counts[code]))[:_MAX_LABELS])
    entries = [(labels[code], colors[code]) for code in used if code in named]
    if len(used) > len(named):
        entries.append((f"and {len(used) - len(named):,} smaller ones", "none"))
    if counts[-1]:
        entries.append(("missing", MISSING))
    return entries


def _draw_legend(ax: Axes, entries: Sequence[tuple[str, Any]], **place: Any) -> None:
    texts = [_text(label) for label, _ in entries]
    n_columns = -(-len(entries) // _LEGEND_ROWS)
    legend = ax.legend(
        [Line2D([], [], linestyle="", marker="o", color=color) for _, color in entries],
        texts,
        ncols=n_columns,
        frameon=False,
        fontsize="small" if n_columns == 1 else "x-small",
        handletextpad=0.2,
        columnspacing=1.0,
        **place,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _text(label: str) -> str:
    """Make any text one short, printable line."""
    line = printable(" ".join(label.split()))
    return line if len(line) <= _MAX_LABEL_LENGTH else f"{line[: _MAX_LABEL_LENGTH - 1]}…"


def _draw_arrows(ax: Axes, shown: Embedding, dim: int) -> None:
    """Replace the axes by small, named arrows in the corner."""
    ax.set_axis_off()
    basis = _AXIS_NAMES.get(shown.basis, shown.basis)
    first = 1 if shown.columns is None else (shown.columns.start or 0) + 1
    ends = np.eye(2) if dim == 2 else _PROJECTION
    corner = -_ARROW_LENGTH * np.minimum(ends.min(axis=0), 0.0)
    for number, (right, up) in enumerate(ends.tolist()):
        end = corner + _ARROW_LENGTH * np.array([right, up])
        ax.annotate(
            "",
            xy=end,
            xytext=corner,
            xycoords="axes points",
            textcoords="axes points",
            arrowprops={"arrowstyle": "-|>", "lw": 0.8, "fc": "black", "shrinkA": 0, "shrinkB": 0},
        )
        ax.annotate(
            f"{basis} {first + number}",
            xy=end + 2 * np.array([right, up]),
            xycoords="axes points",
            fontsize=7,
            ha="left" if right > 0.3 else "right" if right < -0.3 else "center",
            va="bottom" if up > 0.3 else "top" if up < -0.3 else "center",
        )
