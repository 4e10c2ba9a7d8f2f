"""Where the neighbour graph of the cells is: its key in obsp or uns, as scanpy leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cellucid_lazy.errors import missing_key

_KEY = "connectivities"


class Found(NamedTuple):
    """The neighbour graph of a dataset.

    Attributes
    ----------
    matrix
        Whatever obsp or uns holds; None where there is none.
    name
        Its place, such as ``"obsp/connectivities"``.
    said
        A sentence for users where it is not at its usual place; or "".
    """

    matrix: Any
    name: str
    said: str = ""


def find_graph(
    obsp: Mapping[str, Any], uns: Mapping[str, Any], neighbors_key: str | None, where: str
) -> Found:
    """Find the neighbour graph.

    Parameters
    ----------
    obsp, uns
        Of the dataset, stored or in memory.
    neighbors_key
        Key of uns that scanpy wrote with ``key_added``, or key of obsp; None for the usual places.
    where
        What messages call the dataset.

    Raises
    ------
    MissingKeyError
        When neither has the key.
    """
    if neighbors_key is not None:
        named = _named_by(uns, neighbors_key) or f"{neighbors_key}_{_KEY}"
        for key in (named, neighbors_key):
            if key in obsp:
                return Found(obsp[key], f"obsp/{key}")
        offered = [key.removesuffix(f"_{_KEY}") for key in obsp]
        raise missing_key("neighbors_key", neighbors_key, offered, where=where)
    if _KEY in obsp:
        return Found(obsp[_KEY], f"obsp/{_KEY}")
    named = _named_by(uns, "neighbors")
    if named and named in obsp:
        said = f"obsp {named!r} is taken for the neighbour graph, as uns/neighbors says"
        return Found(obsp[named], f"obsp/{named}", said)
    neighbors = uns.get("neighbors")
    if neighbors is not None and hasattr(neighbors, "keys") and _KEY in neighbors:
        return Found(neighbors[_KEY], f"uns/neighbors/{_KEY}")
    others = sorted(key for key in obsp if key.endswith(_KEY))
    if not others:
        return Found(None, "")
    key = others[0].removesuffix(f"_{_KEY}")
    return Found(
        None,
        "",
        f"obsp {', '.join(map(repr, others))} is not shown; open with neighbors_key={key!r} "
        f"(--neighbors-key {key})",
    )


def _named_by(uns: Mapping[str, Any], key: str) -> str:
    """Return the key of obsp that scanpy noted in uns, or ""."""
    entry = uns.get(key)
    if entry is None or not hasattr(entry, "keys") or f"{_KEY}_key" not in entry:
        return ""
    value = entry[f"{_KEY}_key"]
    if not isinstance(value, (str, bytes)):
        value = np.asarray(value[()]).item()
    return value.decode() if isinstance(value, bytes) else str(value)
