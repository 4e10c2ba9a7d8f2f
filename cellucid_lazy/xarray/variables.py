"""Names, dimensions and attributes of the variables of outputs."""

from __future__ import annotations

import re
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from cellucid_lazy.names import STORED_DTYPE

if TYPE_CHECKING:
    from cellucid_lazy.engine.output import Output

CELL, GENE, EDGE = "cell", "gene", "edge"
CELL_ID, GENE_ID = "cell_id", "gene_id"
EXPRESSION = "expression"
AXES = "xyz"
# The ends of edges, by key; and the numbers of cells that they refer to.
ENDS = {"src": "edge_src", "dst": "edge_dst"}
CELL_NUMBER = "cell_number"

# Attributes of variables: the name of the output, its key, and its file.
OUTPUT, KEY, FILE = "output", "key", "file"
# The name given to the variable. What is computed from it keeps this attribute, not the name.
VARIABLE = "variable"
# Of embeddings and vector fields: the obsm key. Of codes: the variable with their labels, and the
# colours of these, as JSON.
OBSM_KEY, LABELS, COLORS = "obsm_key", "labels", "colors"
# Of the numbers of cells: how many cells there were.
N_CELLS = "n_cells"

# What netCDF or zarr refuse in the name of a variable.
_UNSAFE = re.compile(r"[^\w.+-]+")


def axis(dimension: str) -> str:
    """Name the axis of an embedding of a dimension, such as ``"axis_2d"``."""
    return f"axis_{dimension}"


def vector_name(field: str, dimension: str, taken: Container[Hashable]) -> str:
    """Name the variable of a vector field; with a number added if the name is taken."""
    name = f"vector_{_UNSAFE.sub('_', field)}_{dimension}"
    return next(stem for stem in _stems(name) if stem not in taken)


def column_stems(keys: Iterable[str], dimensions: Iterable[str]) -> dict[str, str]:
    """Name the variables of obs columns; two never share one, whatever their keys.

    Parameters
    ----------
    keys
        Keys of the columns.
    dimensions
        Dimensions of the embeddings that have centroids.

    Returns
    -------
    dict
        By key, the name of the values or codes; those of the variables with them begin with it.
    """
    endings = ["", "_label", "_outliers", "_category", "_centroid", "_centroid_n"]
    endings += [f"_centroid_{dimension}" for dimension in dimensions]
    taken: set[str] = set()
    found = {}
    for key in keys:
        for stem in _stems(f"obs_{_UNSAFE.sub('_', key)}"):
            names = {stem + ending for ending in endings}
            if not names & taken:
                break
        taken |= names
        found[key] = stem
    return found


def _stems(name: str) -> Iterator[str]:
    return chain([name], (f"{name}_{number}" for number in count(2)))


def meanings(labels: Iterable[str]) -> str:
    """Join labels with blanks, as the CF conventions do: blanks within a label become ``_``."""
    return " ".join(re.sub(r"\s+", "_", label) or "_" for label in labels)


def attributes(output: Output, key: str, variable: str) -> dict[str, Any]:
    """Make the attributes of a variable: its output, key, name, file and the dtype in that."""
    found = {OUTPUT: output.name, KEY: key, VARIABLE: variable, STORED_DTYPE: output.dtype.name}
    return {**found, FILE: output.path} if output.path else found


def is_own(name: Hashable, attributes: Mapping[Any, Any]) -> bool:
    """Return whether `to_dataset` made a variable, and it still has its name."""
    return VARIABLE in attributes and bool(attributes[VARIABLE] == name)
