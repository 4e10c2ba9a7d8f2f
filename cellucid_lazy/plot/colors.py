"""Find the output that colours cells, and choose colours for its labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import colorcet
from matplotlib.colors import is_color_like

from cellucid_lazy.catalogue import Catalogue
from cellucid_lazy.engine.output import Output
from cellucid_lazy.errors import DataError, LeftOutWarning, OptionError, missing_key
from cellucid_lazy.kinds.genes import raw_hint
from cellucid_lazy.names import Name

MISSING = "#d3d3d3"
# Distinct colours, beginning with matplotlib's ten; without those that are hard to tell from white
# paper or from missing cells.
PALETTE = tuple(
    (red, green, blue)
    for red, green, blue in colorcet.glasbey_category10
    if max(red, green, blue) - min(red, green, blue) > 0.05
    and 0.3 * red + 0.6 * green + 0.1 * blue < 0.85
)


def find_output(catalogue: Catalogue, color: str) -> tuple[str, Output]:
    """Find the output that `color` names: an exact name, else an obs column, else a gene.

    Parameters
    ----------
    catalogue
        Outputs to choose from.
    color
        As in `plot.embedding`.

    Returns
    -------
    tuple
        Title of the picture, and the output, whose values are not quantized.

    Raises
    ------
    MissingKeyError
        If there is none.
    DataError
        If the column was left out.
    OptionError
        If it is an output of another kind.
    """
    if not isinstance(color, str):
        raise OptionError(f"color={color!r}: give the name of an obs column or a gene, or None")
    name = _find_name(catalogue, color)
    plain = Catalogue(catalogue.unquantized().dataset.for_call())
    title = f"{name.key} outliers" if name.part == "outliers" else name.key
    return title, plain[str(name)]


def _find_name(catalogue: Catalogue, color: str) -> Name:
    columns = {
        name.key: name for name in catalogue.listed("obs").values() if name.part != "outliers"
    }
    if color in catalogue:
        name = catalogue.find(color)
        if name.kind not in ("obs", "var"):
            raise OptionError(f"color={color!r}: cells are coloured by an obs column or a gene")
        return name
    for key in (color.removeprefix("obs/"), color):
        if key in columns:
            return columns[key]
    genes = {name.key: name for name in catalogue.listed("var").values()}
    if color in genes:
        return genes[color]
    source = catalogue.source
    problem = source.missing("obs column", color.removeprefix("obs/"), ())
    if isinstance(problem, DataError):
        raise problem
    hint = raw_hint(catalogue.dataset, color.removeprefix("var/"))
    offered = [f"obs/{key}" for key in columns] + [f"var/{gene}" for gene in genes]
    if "/" not in color:
        offered = [*columns, *genes]
    raise type(problem)(
        f"{missing_key('obs column or gene', color, offered, where=source.name)}{hint}"
    )


def label_colors(name: str, labels: Sequence[str], stored: Sequence[str] | None) -> list[Any]:
    """Return a colour for each label: the stored ones, or the palette if any of them is unknown.

    Warns of a colour that matplotlib does not know.
    """
    unknown = [color for color in stored or () if not is_color_like(color)]
    if unknown:
        warnings.warn(
            f"the colours of {name} are left out: {unknown[0]!r} is none",
            LeftOutWarning,
            stacklevel=5,
        )
    if stored is None or unknown:
        return [PALETTE[code % len(PALETTE)] for code in range(len(labels))]
    return list(stored)
