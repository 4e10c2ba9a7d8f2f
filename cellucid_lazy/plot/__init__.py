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

    The cells are read in blocks, once, after the bounds of the embedding; what is held is the
    canvas and some blocks, never all cells.

    Parameters
    ----------
    catalogue
        What `outputs` returns.
    color
        An obs column or a gene; of two with one name the column. ``"obs/<key>"`` and
        ``"var/<gene>"`` are exact, and so is any name of values or codes in the catalogue. None
        shows how many cells there are.
    dim
        2; or 3 for the 3-D embedding as seen from matplotlib's usual point of view.
    ax
        Where to draw. Default: new axes of pyplot.
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
        For a colour that is not on offer.
    OptionError
        For another `dim`, or an output that is neither values nor codes.
    DataError
        When there is no embedding of this dimension, or the data cannot be read.
    MissingPackageError
        When datashader or matplotlib is not installed.

    Notes
    -----
    Where cells overlap, categories are drawn in a random order that is the same each time, and
    values are averaged. Cells without a category or a finite value are gray, and below the others.
    """
    try:
        # Deferred: an extra, which takes seconds to import.
        from cellucid_lazy.plot.picture import draw
    except ImportError as problem:
        raise MissingPackageError(
            f"pictures need datashader and matplotlib ({problem}): pip install '.[plot]' in the "
            "clone of cellucid_lazy"
        ) from problem
    return draw(catalogue, color, dim, ax, progress)
