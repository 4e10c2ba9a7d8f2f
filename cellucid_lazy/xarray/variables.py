"""Names, dimensions and attributes of the variables that stand for outputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cellucid_lazy.names import STORED_DTYPE

if TYPE_CHECKING:
    from cellucid_lazy.engine.output import Output

CELL, GENE, EDGE = "cell", "gene", "edge"
CELL_ID, GENE_ID = "cell_id", "gene_id"
EXPRESSION = "expression"
AXES = "xyz"
# By the end of an edge; and how these number the cells.
ENDS = {"src": "edge_src", "dst": "edge_dst"}
CELL_NUMBER = "cell_number"

# Attributes of variables: the output, the key it is of, its file and the type in it.
OUTPUT, KEY, FILE = "output", "key", "file"
# The variable itself: what is computed from it keeps its attributes, and has another name.
VARIABLE = "variable"
# Of embeddings and vector fields: the key in obsm. Of codes: the variable with their labels, and
# the colours of these, as JSON.
OBSM_KEY, LABELS, COLORS = "obsm_key", "labels", "colors"
# Of the numbers of cells: how many cells they number.
N_CELLS = "n_cells"

# What netCDF and zarr take in the name of a variable.
_ODD = re.compile(r"[^\w.+-]+")


class ColumnNames(NamedTuple):
    """Names of the variables of an obs column; those of a category end with what they hold."""

    values: str
    label: str
    outliers: str
    centroid: str
    centroid_n: str
    category: str

    def centroid_of(self, dimension: str) -> str:
        """Name the centroids in an embedding."""
        return f"{self.centroid}_{dimension}"


def axis(dimension: str) -> str:
    """Name the axis of an embedding of a dimension, such as ``"axis_2d"``."""
    return f"axis_{dimension}"


def points_name(dimension: str) -> str:
    """Name the variable of an embedding."""
    return f"points_{dimension}"


def vector_name(field: str, dimension: str) -> str:
    """Name the variable of a vector field."""
    return f"vector_{_ODD.sub('_', field)}_{dimension}"


def column_names(keys: Iterable[str], dimensions: Iterable[str]) -> dict[str, ColumnNames]:
    """Name the variables of obs columns; two never share one, whatever their keys.

    Parameters
    ----------
    keys
        Of the columns.
    dimensions
        Of the embeddings that have centroids.

    Returns
    -------
    dict
        Names by key.
    """
    dimensions = list(dimensions)
    taken: set[str] = set()
    found = {}
    for key in keys:
        for stem in _stems(f"obs_{_ODD.sub('_', key)}"):
            names = ColumnNames(
                stem,
                f"{stem}_label",
                f"{stem}_outliers",
                f"{stem}_centroid",
                f"{stem}_centroid_n",
                f"{stem}_category",
            )
            every = {*names, *map(names.centroid_of, dimensions)}
            if not every & taken:
                break
        taken |= every
        found[key] = names
    return found


def distinct(name: str, taken: Callable[[str], bool]) -> str:
    """Return the name given, with a number added if it is taken."""
    return next(stem for stem in _stems(name) if not taken(stem))


def _stems(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def meanings(labels: Iterable[str]) -> str:
    """Join labels into one text, as CF has them: blanks within a label become ``_``."""
    return " ".join(re.sub(r"\s+", "_", label) or "_" for label in labels)


def attributes(output: Output, key: str, variable: str) -> dict[str, Any]:
    """Name the output that a variable stands for, its file and the type in it."""
    found = {OUTPUT: output.name, KEY: key, VARIABLE: variable, STORED_DTYPE: output.dtype.name}
    return {**found, FILE: output.path} if output.path else found


def is_own(name: Hashable, attributes: Mapping[Any, Any]) -> bool:
    """Tell whether a variable is one that `to_dataset` made, still under its name."""
    return VARIABLE in attributes and bool(attributes[VARIABLE] == name)
