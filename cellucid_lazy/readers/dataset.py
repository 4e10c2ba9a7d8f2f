"""A stored AnnData as a Source: which elements it has, which cannot be used, what must fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

from cellucid_lazy.errors import DataError, missing_key, no_raw
from cellucid_lazy.readers import stored, stored_frame
from cellucid_lazy.readers.stored import Storage
from cellucid_lazy.source import Column, Connectivities, Element, Expression, Source


def stored_source(
    storage: Storage,
    root: Any,
    *,
    kind: Literal["h5ad", "zarr"],
    path: str,
    layer: str | None,
    use_raw: bool,
) -> Source:
    """Describe a stored AnnData; reads metadata only.

    Parameters
    ----------
    storage
        The file format.
    root
        The AnnData's group.
    kind
        Name of the format.
    path
        Absolute path or URL.
    layer
        Layer that serves as expression, or None for X.
    use_raw
        Whether raw.X serves as expression.

    Returns
    -------
    Source
        The lazy view.

    Raises
    ------
    DataError
        When the group holds no AnnData, or shapes do not fit.
    MissingKeyError
        When the layer or raw is not there.
    """
    for part in ("obs", "var"):
        if part not in root or storage.is_array(root[part]):
            raise DataError(f"{path}: no group {part!r}; is this an AnnData file?")
    left_out: list[str] = []
    n_cells = stored_frame.frame_length(storage, root["obs"])
    matrix_node, var = expression_nodes(root, layer=layer, use_raw=use_raw, name=path)
    n_genes = stored_frame.frame_length(storage, var)
    matrix = None if matrix_node is None else stored.expression(storage, matrix_node)
    check_expression(matrix, n_cells, n_genes, path)
    return Source(
        name=path,
        storage=kind,
        path=path,
        is_backed=kind == "h5ad",
        n_cells=n_cells,
        n_genes=n_genes,
        obs=_columns(storage, root["obs"], n_cells, left_out),
        obsm=_elements(storage, root, left_out),
        expression=matrix,
        connectivities=_graph(storage, root, n_cells, left_out),
        var_keys=stored_frame.frame_keys(var),
        read_gene_ids=gene_id_reader(storage, var, path),
        left_out=tuple(left_out),
    )


def expression_nodes(root: Any, *, layer: str | None, use_raw: bool, name: str) -> tuple[Any, Any]:
    """Find the matrix that serves as expression, and its var.

    Returns
    -------
    tuple
        The matrix's node or None, and the group of var.

    Raises
    ------
    DataError
        When both a layer and raw are asked for.
    MissingKeyError
        When it is not there.
    """
    check_choice(layer, use_raw=use_raw, name=name)
    if use_raw:
        if "raw" not in root or "X" not in root["raw"]:
            raise no_raw(name)
        return root["raw"]["X"], root["raw"]["var"]
    if layer is not None:
        layers = list(root["layers"]) if "layers" in root else []
        if layer not in layers:
            raise missing_key("layer", layer, layers, where=name)
        return root["layers"][layer], root["var"]
    matrix = root.get("X")
    if matrix is not None and stored.encoding(matrix) == "null":
        matrix = None
    return matrix, root["var"]


def check_choice(layer: str | None, *, use_raw: bool, name: str) -> None:
    """Refuse a layer and raw together.

    Raises
    ------
    DataError
        When both are asked for.
    """
    if use_raw and layer is not None:
        raise DataError(f"{name}: layer={layer!r} and use_raw=True exclude each other; give one")


def check_expression(matrix: Expression | None, n_cells: int, n_genes: int, name: str) -> None:
    """Refuse an expression matrix that does not fit obs and var, and a dataset without cells.

    Raises
    ------
    DataError
        Names the shapes.
    """
    if n_cells == 0:
        raise DataError(f"{name}: the dataset has 0 cells; there is nothing to show")
    if matrix is not None and matrix.shape != (n_cells, n_genes):
        raise DataError(
            f"{name}: the expression matrix has shape {matrix.shape}, but there are {n_cells:,} "
            f"cells and {n_genes:,} genes"
        )


def _columns(storage: Storage, obs: Any, n_cells: int, left_out: list[str]) -> dict[str, Column]:
    columns = {}
    for key in stored_frame.frame_keys(obs):
        try:
            column = stored_frame.column(storage, obs, key)
            length = stored_frame.column_length(storage, obs[key])
        except (DataError, KeyError, TypeError, ValueError, OSError) as problem:
            left_out.append(f"obs column {key!r} is left out: {_reason(problem, storage)}")
            continue
        if length != n_cells:
            left_out.append(
                f"obs column {key!r} is left out: it has {length:,} values for {n_cells:,} cells"
            )
            continue
        columns[key] = column
    return columns


def _reason(problem: Exception, storage: Storage) -> str:
    """Tell a problem without the file's name, which the warning begins with."""
    return str(problem).removeprefix(f"{storage.name}: ")


def _elements(storage: Storage, root: Any, left_out: list[str]) -> dict[str, Element]:
    elements: dict[str, Element] = {}
    for key in sorted(root["obsm"]) if "obsm" in root else ():
        try:
            elements[key] = stored.element(storage, root["obsm"][key])
        except (DataError, KeyError, TypeError, ValueError, OSError) as problem:
            left_out.append(f"obsm {key!r} is left out: {_reason(problem, storage)}")
    return elements


def _graph(storage: Storage, root: Any, n_cells: int, left_out: list[str]) -> Connectivities | None:
    if "obsp" not in root or "connectivities" not in root["obsp"]:
        return None
    graph = stored.connectivities(storage, root["obsp"]["connectivities"])
    check_connectivities(graph, n_cells, storage.name)
    del left_out
    return graph


def check_connectivities(graph: Connectivities, n_cells: int, name: str) -> None:
    """Refuse a neighbour graph that does not fit the cells.

    Raises
    ------
    DataError
        Names the shapes.
    """
    if graph.shape != (n_cells, n_cells):
        raise DataError(
            f"{name}: obsp/connectivities has shape {graph.shape}, but there are {n_cells:,} cells"
        )


def gene_id_reader(storage: Storage, var: Any, name: str) -> Callable[[str], list[str]]:
    """Prepare to read gene identifiers from the index or a column of var.

    Returns
    -------
    Callable
        ``read("index")`` or ``read(column)`` gives n_genes strings; remembers them.
    """
    keys = stored_frame.frame_keys(var)
    index = str(stored.attribute(var, "_index") or "_index")
    readers: dict[str, Callable[[], Sequence[object]]] = {}
    for key in (index, *keys):
        try:
            readers[key] = _strings(storage, var, key)
        except (DataError, KeyError, TypeError, ValueError):
            continue  # an odd column of var matters only to who asks for it
    return cache(partial(_read_gene_ids, readers, index, keys, name))


def _strings(storage: Storage, var: Any, key: str) -> Callable[[], Sequence[object]]:
    node = var[key]
    if storage.is_array(node) or "values" in node:
        return stored_frame.labels_reader(storage, node)
    return partial(
        _by_code,
        storage.reader(node["codes"]),
        stored_frame.labels_reader(storage, node["categories"]),
    )


def _by_code(codes: Any, labels: Callable[[], Sequence[object]]) -> list[object]:
    names = labels()
    return [names[code] if code >= 0 else None for code in codes.read().tolist()]


def _read_gene_ids(
    readers: dict[str, Callable[[], Sequence[object]]],
    index: str,
    keys: tuple[str, ...],
    name: str,
    column: str,
) -> list[str]:
    if column != "index" and column not in keys:
        raise missing_key("var column", column, keys, where=name)
    wanted = index if column == "index" else column
    if wanted not in readers:
        raise DataError(f"{name}: var column {column!r} cannot be read as gene identifiers")
    return ["nan" if one is None else str(one) for one in readers[wanted]()]
