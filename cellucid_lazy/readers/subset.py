"""A part of a source: chosen cells and genes, in the order chosen, as in a view of AnnData."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import DataError
from cellucid_lazy.source import BlockSizes, ExpressionMatrix, NeighbourGraph, ObsColumn, Source


def subset(source: Source, cell_index: Any, gene_index: Any, *, drop_unused: bool) -> Source:
    """Restrict a source to chosen cells and genes.

    Parameters
    ----------
    source
        The whole dataset.
    cell_index, gene_index
        Slices, masks or positions, in the order wanted; None for all.
    drop_unused
        Drop categories without a chosen cell.

    Returns
    -------
    Source
        Lazy, like the whole.

    Raises
    ------
    DataError
        When no cell is chosen.
    """
    cells, genes = _positions(cell_index, source.n_cells), _positions(gene_index, source.n_genes)
    n_cells = source.n_cells if cells is None else len(cells)
    if n_cells == 0:
        raise DataError(f"{source.name}: the view has 0 cells; there is nothing to show")
    graph, problem = _graph_subset(source.connectivities, source.n_cells, cells)
    whole = source.expression
    return replace(
        source,
        n_cells=n_cells,
        n_genes=source.n_genes if genes is None else len(genes),
        obs={key: _column_subset(column, cells, drop_unused) for key, column in source.obs.items()},
        obsm={
            key: replace(
                array, shape=(n_cells, *array.shape[1:]), build=partial(_take, array.build, cells)
            )
            for key, array in source.obsm.items()
        },
        expression=whole
        and ExpressionMatrix(
            whole.matrix, _chosen_of(whole.cells, cells), _chosen_of(whole.genes, genes)
        ),
        connectivities=graph,
        left_out=(*source.left_out, *problem),
        cell_names=partial(_take, source.cell_names, cells),
        read_gene_ids=partial(_read_gene_ids, source.read_gene_ids, genes),
    )


def _positions(index: Any, length: int) -> NDArray[np.intp] | None:
    """Turn a slice, mask or list of positions into positions; None when it takes all in order."""
    every = np.arange(length, dtype=np.intp)
    if index is None:
        return None
    chosen = np.atleast_1d(every[index if isinstance(index, slice) else np.asarray(index)])
    return None if np.array_equal(chosen, every) else chosen


def _take(
    build: Callable[..., da.Array],
    cells: NDArray[np.intp] | None,
    sizes: BlockSizes,
    **options: bool,
) -> da.Array:
    array = build(sizes, **options)
    return array if cells is None else array[cells]


def _column_subset(
    column: ObsColumn, cells: NDArray[np.intp] | None, drop_unused: bool
) -> ObsColumn:
    return replace(
        column,
        build=partial(_take, column.build, cells),
        drop_unused=drop_unused,
        outliers=column.outliers and partial(_take, column.outliers, cells),
    )


def _chosen_of(
    positions: NDArray[np.intp] | None, chosen: NDArray[np.intp] | None
) -> NDArray[np.intp] | None:
    """Index positions by others; None stands for all of them, in order."""
    if positions is None or chosen is None:
        return positions if chosen is None else chosen
    return positions[chosen]


def _graph_subset(
    graph: NeighbourGraph | None, n_cells: int, cells: NDArray[np.intp] | None
) -> tuple[NeighbourGraph | None, list[str]]:
    """Restrict a neighbour graph; with a sentence where it is left out."""
    if graph is None or cells is None:
        return graph, []
    if len(np.unique(cells)) != len(cells):
        return None, [
            "the neighbour graph is left out: a cell that is chosen twice has no single row"
        ]
    new = np.full(n_cells, -1, dtype=np.int64)
    new[cells] = np.arange(len(cells))
    if graph.row_to_cell is not None:
        new = np.where(graph.row_to_cell < 0, -1, new[graph.row_to_cell])
    return replace(graph, row_to_cell=new), []


def _read_gene_ids(
    read: Callable[[str], list[str]], genes: NDArray[np.intp] | None, column: str
) -> list[str]:
    names = read(column)
    return names if genes is None else [names[gene] for gene in genes]
