"""Describe a stored AnnData as a Source, with checks that AnnData in memory shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from cellucid_lazy.errors import (
    CellucidLazyError,
    DataError,
    MissingKeyError,
    missing_key,
    no_raw,
)
from cellucid_lazy.readers.elements import (
    attribute,
    encoding,
    is_array,
    stored_matrix,
    stored_obsm,
)
from cellucid_lazy.readers.frames import (
    color_reader,
    frame_keys,
    frame_length,
    gene_id_reader,
    index_array,
    obs_column,
)
from cellucid_lazy.readers.matrix import SparseMatrix
from cellucid_lazy.readers.mistaken import describe_tree
from cellucid_lazy.readers.storage import Tree
from cellucid_lazy.source import (
    ExpressionMatrix,
    Matrix,
    NeighbourGraph,
    ObsColumn,
    ObsmArray,
    Source,
)

T = TypeVar("T")

# Suffix of the key of uns in which scanpy keeps the colours of an obs column.
COLORS = "_colors"
_GRAPH = "connectivities"


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
        It can be used after the dataset is closed.

    Raises
    ------
    DataError
        When it is no AnnData, or shapes do not fit.
    MissingKeyError
        When the layer, raw or the neighbour graph asked for is not there.
    """
    path, obs = tree.path, _node(tree, "obs")
    if obs is None or is_array(obs):
        what = describe_tree(tree.root) or "no group 'obs'; is this an AnnData file?"
        raise DataError(f"{path}: {what}")
    left_out = list(tree.notes)
    n_cells = frame_length(tree, obs)
    obsm, uns = (_members(tree, key, left_out) for key in ("obsm", "uns"))
    node, var = _expression_nodes(tree, layer=layer, use_raw=use_raw)
    n_genes, var_name = frame_length(tree, var), "raw/var" if use_raw else "var"
    matrices = _matrices(tree, left_out)
    matrix = None if node is None else _expression(tree, node, matrices)

    keys = frame_keys(obs)
    colors = usable(
        "uns",
        [name for name in uns if name.removesuffix(COLORS) in set(keys) - {name}],
        lambda name: color_reader(tree, uns[name]),
        left_out,
        path,
    )

    def column(key: str) -> ObsColumn:
        found = obs_column(tree, obs, key, n_cells)
        return replace(found, read_colors=colors.get(f"{key}{COLORS}"))

    def array(key: str) -> ObsmArray:
        return stored_obsm(tree, obsm[key], n_cells)

    return Source(
        name=path,
        storage=storage,
        path=path,
        is_backed=tree.is_backed,
        n_cells=n_cells,
        n_genes=n_genes,
        obs=usable("obs column", keys, column, left_out, path),
        obsm=usable("obsm", sorted(obsm), array, left_out, path),
        expression=check_expression(matrix, n_cells, n_genes, path),
        connectivities=neighbour_graph(
            _members(tree, "obsp", left_out),
            uns,
            neighbors_key,
            lambda found, _: stored_matrix(tree, found),
            n_cells,
            left_out,
            path,
        ),
        var_keys=frame_keys(var),
        cell_names=index_array(tree, obs),
        var_name=var_name,
        read_gene_ids=gene_id_reader(tree, var, var_name),
        matrices=matrices,
        read_raw_gene_ids=None if use_raw else _raw_gene_ids(tree, left_out),
        # Last, since the calls above append to it.
        left_out=tuple(left_out),
        checksum=None if node is None else _checksum(tree, node),
    )


def _checksum(tree: Tree, node: Any) -> str | None:
    """Name the checksum of a stored matrix; "" if some of its arrays have none."""
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
        Of the dataset; warnings begin with it, so it is removed from the sentences.

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
        except Exception as problem:
            left_out.append(f"{noun} {key!r} is left out: {why_unusable(problem, path)}")
    return found


def why_unusable(problem: Exception, path: str = "") -> str:
    """Return one line on why something cannot be used, without the file's name.

    A damaged or odd element makes HDF5, zarr and Python raise errors of any type.
    """
    if isinstance(problem, CellucidLazyError):
        return str(problem).removeprefix(f"{path}: ")
    return f"it cannot be read ({type(problem).__name__}: {' '.join(str(problem).split())})"


class _Members(Mapping[str, Any]):
    """The members of a stored group, listed once; a damaged one raises on access."""

    def __init__(self, group: Any, keys: Iterable[str]) -> None:
        self._group, self._keys = group, tuple(keys)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return self._group[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _members(tree: Tree, key: str, left_out: list[str]) -> Mapping[str, Any]:
    """Return a group that may be missing, or null; one that cannot be read is left out."""
    try:
        group = tree.root.get(key)
        if group is None or (is_array(group) and encoding(group) in ("", "null")):
            return {}
        return _Members(group, tree.keys(group))
    except Exception as problem:
        left_out.append(f"{key} is left out: {why_unusable(problem)}")
        return {}


def _node(tree: Tree, *keys: str) -> Any:
    """Return a group or an array, or None; DataError when it cannot be read."""
    node, name = tree.root, "/".join(keys)
    try:
        for key in keys:
            if key not in node:
                return None
            node = node[key]
    except Exception as problem:
        raise DataError(f"{tree.path}: {name}: {why_unusable(problem)}") from problem
    return node


def _expression_nodes(tree: Tree, *, layer: str | None, use_raw: bool) -> tuple[Any, Any]:
    """Return the matrix that serves as expression, or None, and its var."""
    check_choice(layer, use_raw=use_raw, name=tree.path)
    if layer is not None and layer not in (layers := _members(tree, "layers", [])):
        raise missing_key("layer", layer, layers, where=tree.path)
    keys = ("raw", "X") if use_raw else ("X",) if layer is None else ("layers", layer)
    node, var = _node(tree, *keys), _node(tree, *(("raw", "var") if use_raw else ("var",)))
    if use_raw and (node is None or var is None):
        raise no_raw(tree.path)
    if var is None or is_array(var):
        raise DataError(f"{tree.path}: no group 'var'; is this an AnnData file?")
    return None if node is None or encoding(node) == "null" else node, var


def _expression(tree: Tree, node: Any, matrices: Mapping[str, tuple[int, ...]]) -> Matrix:
    """Describe the matrix that serves as expression; an error names the others."""
    try:
        return stored_matrix(tree, node)
    except DataError as problem:
        others = [f"--layer {key[7:]}" for key in matrices if key.startswith("layers/")]
        others += ["--use-raw"] if "raw/X" in matrices else []
        way = f"; or open with {', '.join(others)}" if others else ""
        raise DataError(f"{problem}{way}") from problem


def _matrices(tree: Tree, left_out: list[str]) -> dict[str, tuple[int, ...]]:
    """Find the shapes of all matrices that could serve as expression."""
    layers, raw = (_members(tree, key, left_out) for key in ("layers", "raw"))
    keys = {"X": ("X",), **{f"layers/{key}": ("layers", key) for key in layers}}
    if "X" in raw:
        keys["raw/X"] = ("raw", "X")
    shapes = usable(
        "matrix", keys, lambda name: _matrix_shape(_node(tree, *keys[name])), left_out, tree.path
    )
    return {key: shape for key, shape in shapes.items() if shape is not None}


def _matrix_shape(node: Any) -> tuple[int, ...] | None:
    if node is None or encoding(node) == "null":
        return None
    shape = node.shape if is_array(node) else attribute(node, "shape")
    return tuple(int(length) for length in shape or ())


def _raw_gene_ids(tree: Tree, left_out: list[str]) -> Callable[[str], list[str]] | None:
    raw = _members(tree, "raw", [])  # `_matrices` reports what is wrong with it
    if "var" not in raw:
        return None
    read = usable("raw", ["var"], lambda key: gene_id_reader(tree, raw[key], "raw/var"), left_out)
    return read.get("var")


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


def neighbour_graph(
    obsp: Mapping[str, Any],
    uns: Mapping[str, Any],
    neighbors_key: str | None,
    describe_matrix: Callable[[Any, str], Matrix],
    n_cells: int,
    left_out: list[str],
    path: str,
) -> NeighbourGraph | None:
    """Find and describe the neighbour graph of the cells; one that cannot be used is left out.

    Parameters
    ----------
    obsp, uns
        Of the dataset, stored or in memory.
    neighbors_key
        Key of uns that scanpy wrote with ``key_added``, or key of obsp; None for the usual places.
    describe_matrix
        Describes a matrix of obsp or uns, given its place, such as ``"obsp/connectivities"``.
    n_cells
        Rows and columns that it must have.
    left_out
        Receives a sentence where it is not at its usual place, or cannot be used.
    path
        What messages call the dataset.

    Raises
    ------
    MissingKeyError
        When neither obsp nor uns has the key.
    """
    place = ""
    try:
        place, found = _find_graph(obsp, uns, neighbors_key, left_out, path)
        if found is None:
            return None
        matrix = describe_matrix(found, place)
        if matrix.shape != (n_cells, n_cells):
            raise DataError(f"{place}: has shape {matrix.shape}, but there are {n_cells:,} cells")
    except MissingKeyError:
        raise
    except Exception as problem:
        which = place and f", {place},"
        left_out.append(f"the neighbour graph{which} is left out: {why_unusable(problem, path)}")
        return None
    if isinstance(matrix, SparseMatrix) and matrix.layout == "csc":
        matrix = matrix.transpose()  # it has the same edges
    return NeighbourGraph(matrix)


def _find_graph(
    obsp: Mapping[str, Any],
    uns: Mapping[str, Any],
    neighbors_key: str | None,
    left_out: list[str],
    path: str,
) -> tuple[str, Any]:
    """Return the place and the matrix of the neighbour graph, as scanpy leaves it; or None."""
    if neighbors_key is not None:
        named = _key_in_uns(uns, neighbors_key) or f"{neighbors_key}_{_GRAPH}"
        for key in (named, neighbors_key):
            if key in obsp:
                return f"obsp/{key}", obsp[key]
        offered = [key.removesuffix(f"_{_GRAPH}") for key in obsp]
        raise missing_key("neighbors_key", neighbors_key, offered, where=path)
    if _GRAPH in obsp:
        return f"obsp/{_GRAPH}", obsp[_GRAPH]
    named = _key_in_uns(uns, "neighbors")
    if named and named in obsp:
        left_out.append(f"obsp {named!r} is taken for the neighbour graph, as uns/neighbors says")
        return f"obsp/{named}", obsp[named]
    neighbors: Any = uns.get("neighbors")
    if hasattr(neighbors, "keys") and _GRAPH in neighbors:
        return f"uns/neighbors/{_GRAPH}", neighbors[_GRAPH]
    others = sorted(key for key in obsp if key.endswith(_GRAPH))
    if others:
        key = others[0].removesuffix(f"_{_GRAPH}")
        left_out.append(
            f"obsp {', '.join(map(repr, others))} is not shown; open with neighbors_key={key!r} "
            f"(--neighbors-key {key})"
        )
    return "", None


def _key_in_uns(uns: Mapping[str, Any], key: str) -> str:
    """Return the key of obsp that scanpy noted in uns, or ""."""
    entry: Any = uns.get(key)
    if not hasattr(entry, "keys") or f"{_GRAPH}_key" not in entry:
        return ""
    value = entry[f"{_GRAPH}_key"]
    if not isinstance(value, (str, bytes)):
        value = np.asarray(value[()]).item()
    return value.decode() if isinstance(value, bytes) else str(value)
