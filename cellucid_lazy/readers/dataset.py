"""A stored AnnData as a Source: what it has, what cannot be used, and what must fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from cellucid_lazy.errors import DataError, missing_key, no_raw
from cellucid_lazy.readers.elements import (
    attribute,
    encoding,
    is_array,
    neighbour_graph,
    stored_matrix,
    stored_obsm,
)
from cellucid_lazy.readers.frames import frame_keys, frame_length, gene_id_reader, obs_column
from cellucid_lazy.readers.graphs import Found, find_graph
from cellucid_lazy.readers.mistaken import describe_tree
from cellucid_lazy.readers.storage import Tree
from cellucid_lazy.source import ExpressionMatrix, Matrix, NeighbourGraph, ObsColumn, Source

T = TypeVar("T")

# What reading the metadata of a damaged or odd element may raise.
PROBLEMS = (DataError, KeyError, TypeError, ValueError, OSError)


def describe(
    tree: Tree, storage: str, *, layer: str | None, use_raw: bool, neighbors_key: str | None
) -> Source:
    """Describe a stored AnnData; reads metadata only.

    Parameters
    ----------
    tree
        The opened dataset.
    storage
        Name of its storage.
    layer
        Layer that serves as expression; X by default.
    use_raw
        Whether raw.X serves as expression.
    neighbors_key
        Which neighbour graph is shown; None for the usual one.

    Returns
    -------
    Source
        It outlives the opened dataset.

    Raises
    ------
    DataError
        When it is no AnnData, or shapes do not fit.
    MissingKeyError
        When the layer, raw or the neighbour graph asked for is not there.
    """
    root, path = tree.root, tree.path
    for part in ("obs", "var"):
        if part not in root or is_array(root[part]):
            what = describe_tree(root) or f"no group {part!r}; is this an AnnData file?"
            raise DataError(f"{path}: {what}")
    left_out: list[str] = list(tree.notes)
    obs, obsm = root["obs"], root.get("obsm", {})
    n_cells = frame_length(tree, obs)
    node, var = _expression_nodes(tree, layer=layer, use_raw=use_raw)
    n_genes = frame_length(tree, var)
    matrix = None if node is None else stored_matrix(tree, node)

    def column(key: str) -> ObsColumn:
        return obs_column(tree, obs, key, n_cells)

    return Source(
        name=path,
        storage=storage,
        path=path,
        is_backed=tree.is_backed,
        n_cells=n_cells,
        n_genes=n_genes,
        obs=usable("obs column", frame_keys(obs), column, left_out, path),
        obsm=usable("obsm", sorted(obsm), lambda key: stored_obsm(tree, obsm[key]), left_out, path),
        expression=check_expression(matrix, n_cells, n_genes, path),
        connectivities=_graph(tree, n_cells, neighbors_key, left_out),
        var_keys=frame_keys(var),
        read_gene_ids=gene_id_reader(tree, var, "raw/var" if use_raw else "var"),
        left_out=tuple(left_out),
        matrices=_matrices(root),
        read_raw_gene_ids=None if use_raw else _raw_gene_ids(tree),
        checksum=None if node is None else _checksum(tree, node),
    )


def _checksum(tree: Tree, node: Any) -> str | None:
    """Name what notices damage in a stored matrix; "" if some of it has no checksum."""
    if tree.checksum is None:
        return None
    parts = [node] if is_array(node) else [node[key] for key in ("data", "indices", "indptr")]
    found = [tree.checksum(part) for part in parts]
    return found[0] if all(found) else ""


def usable(
    noun: str,
    keys: Iterable[str],
    describe_key: Callable[[str], T],
    left_out: list[str],
    path: str = "",
) -> dict[str, T]:
    """Describe elements by key; those that cannot be used are left out.

    Parameters
    ----------
    noun
        What an element is, for messages.
    keys
        Of the elements, in order.
    describe_key
        Describes one, or raises.
    left_out
        Receives a sentence for each element that cannot be used.
    path
        Of the dataset: the warning begins with it, so it is cut from the sentences.

    Returns
    -------
    dict
        Elements by key.
    """
    found: dict[str, T] = {}
    for key in keys:
        try:
            if key in found:
                raise DataError("another one has the same name")
            found[key] = describe_key(key)
        except PROBLEMS as problem:
            reason = str(problem).removeprefix(f"{path}: ")
            left_out.append(f"{noun} {key!r} is left out: {reason}")
    return found


def _expression_nodes(tree: Tree, *, layer: str | None, use_raw: bool) -> tuple[Any, Any]:
    """Return the matrix that serves as expression, or None, and its var."""
    root = tree.root
    check_choice(layer, use_raw=use_raw, name=tree.path)
    if use_raw:
        if "raw" not in root or "X" not in root["raw"]:
            raise no_raw(tree.path)
        return root["raw"]["X"], root["raw"]["var"]
    if layer is not None:
        layers = root.get("layers", {})
        if layer not in list(layers):
            raise missing_key("layer", layer, layers, where=tree.path)
        return layers[layer], root["var"]
    has_matrix = "X" in root and encoding(root["X"]) != "null"
    return root["X"] if has_matrix else None, root["var"]


def _matrices(root: Any) -> dict[str, tuple[int, ...]]:
    """Find the shapes of all matrices that could serve as expression."""
    layers = root.get("layers", {})
    nodes = {"X": root.get("X"), **{f"layers/{key}": layers[key] for key in layers}}
    raw = root.get("raw")
    if raw is not None and not is_array(raw):
        nodes["raw/X"] = raw.get("X")
    return {
        key: tuple(node.shape) if is_array(node) else tuple(attribute(node, "shape") or ())
        for key, node in nodes.items()
        if node is not None and encoding(node) != "null"
    }


def _raw_gene_ids(tree: Tree) -> Callable[[str], list[str]] | None:
    raw = tree.root.get("raw")
    if raw is None or is_array(raw) or "var" not in raw:
        return None
    return gene_id_reader(tree, raw["var"], "raw/var")


def check_choice(layer: str | None, *, use_raw: bool, name: str) -> None:
    """Refuse a layer and raw together, with a DataError."""
    if use_raw and layer is not None:
        raise DataError(f"{name}: layer={layer!r} and use_raw=True exclude each other; give one")


def check_expression(
    matrix: Matrix | None, n_cells: int, n_genes: int, name: str
) -> ExpressionMatrix | None:
    """Refuse a matrix that does not fit obs and var, and a dataset without cells.

    Raises
    ------
    DataError
        Names the shapes.
    """
    if n_cells == 0:
        raise DataError(f"{name}: the dataset has 0 cells; there is nothing to show")
    if matrix is None:
        return None
    if matrix.shape != (n_cells, n_genes):
        raise DataError(
            f"{name}: the expression matrix has shape {matrix.shape}, but there are {n_cells:,} "
            f"cells and {n_genes:,} genes"
        )
    return ExpressionMatrix(matrix)


def check_graph(
    found: Found, describe_graph: Callable[[Any, str], NeighbourGraph], left_out: list[str]
) -> NeighbourGraph | None:
    """Describe the neighbour graph that was found; one that cannot be used is left out."""
    if found.said:
        left_out.append(found.said)
    if found.matrix is None:
        return None
    try:
        return describe_graph(found.matrix, found.name)
    except PROBLEMS as problem:
        left_out.append(f"the neighbour graph, {found.name}, is left out: {problem}")
        return None


def _graph(
    tree: Tree, n_cells: int, neighbors_key: str | None, left_out: list[str]
) -> NeighbourGraph | None:
    obsp, uns = (tree.root.get(key, {}) for key in ("obsp", "uns"))
    found = find_graph(obsp, uns, neighbors_key, tree.path)

    def described(node: Any, name: str) -> NeighbourGraph:
        return neighbour_graph(stored_matrix(tree, node), n_cells, name)

    return check_graph(found, described, left_out)
