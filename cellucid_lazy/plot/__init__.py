"""Pictures of embeddings, of any number of cells, on matplotlib's axes: the extra ``plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellucid_lazy.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cellucid_lazy.catalogue import Catalogue

__all__ = ["embedding"]


def embedding(
    catalogue: Catalogue,
    color: str | None = None,
    dim: int = 2,
    ax: Axes | None = None,
    *,
    progress: bool | None = False,
) -> Axes:
    """Draw the cells of an embedding, as `Options.embeddings` chooses it.

    Positions are read twice, for their bounds and to draw them, and colours once. Memory holds an
    image and some blocks of cells, never all cells.

    Parameters
    ----------
    catalogue
        What `outputs` returns.
    color
        An obs column or a gene; the column if both have this name. ``"obs/<key>"``,
        ``"var/<gene>"`` and names of values or codes in the catalogue are exact. None shows how
        many cells there are.
    dim
        2, or 3 for the 3-D embedding from matplotlib's usual point of view.
    ax
        Axes to draw on. Default: new ones of pyplot.
    progress
        Show progress on standard error; None for on a terminal and in a notebook only.

    Returns
    -------
    matplotlib.axes.Axes
        ``ax.images[-1]`` holds the cells; where they have values, its ``set_clim`` and
        ``set_cmap`` change the colours.

    Raises
    ------
    MissingKeyError
        If `color` names no column and no gene.
    OptionError
        If `dim` is not 2 or 3, or `color` names another kind of output.
    DataError
        If there is no embedding of this dimension, or the data cannot be read.
    MissingPackageError
        If matplotlib or colorcet is not installed.

    Notes
    -----
    Where cells overlap, categories are drawn in a random order that is the same each time, and
    values are averaged. Cells without a category or a finite value are gray, and below the others.
    """
    try:
        # Deferred: matplotlib belongs to an extra and takes long to import.
        from cellucid_lazy.plot.picture import draw
    except ImportError as problem:
        raise MissingPackageError(
            f"pictures need matplotlib and colorcet ({problem}): pip install '.[plot]' in the "
            "clone of cellucid_lazy"
        ) from problem
    return draw(catalogue, color, dim, ax, progress)
