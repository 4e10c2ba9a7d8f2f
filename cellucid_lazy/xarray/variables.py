"""Names, dimensions and attributes of the variables that stand for outputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

CELL, GENE, EDGE = "cell", "gene", "edge"
CELL_ID, GENE_ID = "cell_id", "gene_id"
EXPRESSION = "expression"
AXES = "xyz"
# By the end of an edge.
ENDS = {"src": "edge_src", "dst": "edge_dst"}

# Attributes of variables: the output, the key it is of, its file and the type in it.
OUTPUT, KEY, FILE, STORED = "output", "key", "file", "stored_dtype"
# Of embeddings and vector fields: the key in obsm. Of labels: their colours, as JSON.
OBSM_KEY, COLORS = "obsm_key", "colors"
# Of codes. CF's own attributes for codes are flag_values and flag_meanings.
MISSING = "missing_code"

# What netCDF and zarr take in the name of a variable.
_ODD = re.compile(r"[^\w.+-]+")


class Fields(NamedTuple):
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


def fields(keys: Iterable[str], dimensions: Iterable[str]) -> dict[str, Fields]:
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
            names = Fields(
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
    """Find a name that is not taken: the one given, or with a number behind it."""
    return next(stem for stem in _stems(name) if not taken(stem))


def _stems(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def meanings(labels: Iterable[str]) -> str:
    """Write labels as CF does: in one text, so blanks within them are replaced."""
    return " ".join(re.sub(r"\s+", "_", label) or "_" for label in labels)


def attributes(output: Any, key: str) -> dict[str, Any]:
    """Name the output that a variable stands for, its file and the type in it."""
    found = {OUTPUT: output.name, KEY: key, STORED: output.dtype.name}
    return {**found, FILE: output.path} if output.path else found
