"""Chosen cells and genes of a source, in the order chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.expression import SubsetExpression
from cellucid_lazy.source import Column, Connectivities, Element, Source


def positions(index: Any, length: int) -> NDArray[np.intp] | None:
    """Turn a slice, mask or list of positions into positions; None when it takes all in order."""
    every = np.arange(length, dtype=np.intp)
    chosen = every[index if isinstance(index, slice) else np.asarray(index)]
    if len(chosen) == length and (chosen == every).all():
        return None
    return np.atleast_1d(chosen)


def subset(
    source: Source,
    cells: NDArray[np.intp] | None,
    genes: NDArray[np.intp] | None,
    *,
    prune: bool = True,
) -> Source:
    """Restrict a source to chosen cells and genes.

    Parameters
    ----------
    source
        The whole dataset.
    cells, genes
        Positions, in the order wanted; None for all.
    prune
        Whether categories without a chosen cell go, as in anndata's views.

    Returns
    -------
    Source
        Lazy, like the whole.

    Raises
    ------
    DataError
        When no cell is chosen.
    """
    if cells is not None and len(cells) == 0:
        raise DataError(f"{source.name}: the view has 0 cells; there is nothing to show")
    expression = source.expression
    if expression is not None:
        expression = SubsetExpression(expression, cells, genes)
    return replace(
        source,
        n_cells=source.n_cells if cells is None else len(cells),
        n_genes=source.n_genes if genes is None else len(genes),
        obs={
            key: replace(take_cells(column, cells), only_used=prune)
            for key, column in source.obs.items()
        },
        obsm={key: _element(element, cells) for key, element in source.obsm.items()},
        expression=expression,
        connectivities=_graph(source.connectivities, source.n_cells, cells),
        read_gene_ids=partial(_gene_ids, source.read_gene_ids, genes),
    )


def take_cells(column: Column, cells: NDArray[np.intp] | None) -> Column:
    """Restrict a column to chosen cells; None for all."""
    return column if cells is None else replace(column, values=partial(_take, column.values, cells))


def _element(element: Element, cells: NDArray[np.intp] | None) -> Element:
    if cells is None:
        return element
    shape = (len(cells), *element.shape[1:])
    return Element(shape, element.dtype, partial(_take, element.array, cells))


def _take(build: Callable[..., da.Array], cells: NDArray[np.intp], **options: bool) -> da.Array:
    return build(**options)[cells]


def _graph(
    graph: Connectivities | None, n_cells: int, cells: NDArray[np.intp] | None
) -> Connectivities | None:
    if graph is None or cells is None:
        return graph
    if len(np.unique(cells)) != len(cells):
        return None  # a cell that stands twice has no single place in a graph
    position = np.full(n_cells, -1, dtype=np.int64)
    position[cells] = np.arange(len(cells))
    return replace(graph, position=position)


def _gene_ids(
    read: Callable[[str], list[str]], genes: NDArray[np.intp] | None, column: str
) -> list[str]:
    names = read(column)
    return names if genes is None else [names[gene] for gene in genes]
