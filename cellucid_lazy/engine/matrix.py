"""Lazy arrays of matrices, and tasks that read their blocks with `read_block`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.graph import (
    block_keys,
    from_graph,
    grid_array,
    map_indexed,
    merge_graphs,
    optimize_graph,
    rechunk,
)
from cellucid_lazy.source import Block, BlockSizes, DaskMatrix, ExpressionMatrix, Matrix
from cellucid_lazy.transforms.genes import (
    dense_genes,
    gene_column,
    gene_columns,
    gene_ranges,
    to_dense,
)
from cellucid_lazy.transforms.values import to_float32

# Blocks of a lazy matrix, at most.
_MAX_BLOCKS = 2**17


def matrix_array(matrix: Matrix, values: int) -> da.Array:
    """Make the lazy array of a matrix; reads nothing.

    Parameters
    ----------
    matrix
        Cells by genes.
    values
        Stored values of a block.

    Returns
    -------
    dask.array.Array
        Blocks are SciPy CSR or CSC, or NumPy, as the matrix is stored.
    """
    if isinstance(matrix, DaskMatrix):
        return matrix.array
    # However large a damaged file says that its matrix is.
    values = max(values, matrix.n_stored // _MAX_BLOCKS)
    blocks = matrix.whole_blocks(values)
    name = f"matrix-{matrix.token}-{values}"
    graph, reads = block_reads(matrix, blocks)
    cells = sorted({block.cells for block in blocks})
    genes = sorted({block.genes for block in blocks})
    row = {span: i for i, span in enumerate(cells)}
    column = {span: i for i, span in enumerate(genes)}
    for block, read in zip(blocks, reads, strict=True):
        graph[name, row[block.cells], column[block.genes]] = read
    chunks = tuple(tuple(stop - start for start, stop in spans) for spans in (cells, genes))
    return from_graph(name, graph, chunks=chunks, dtype=matrix.dtype, meta=_meta(matrix))


def _meta(matrix: Matrix) -> Any:
    kinds = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.empty}
    return kinds[matrix.layout]((0, 0), dtype=matrix.dtype)


def block_reads(
    matrix: Matrix, blocks: Sequence[Block], genes: str | None = None
) -> tuple[dict[Any, Any], list[Any]]:
    """Make the tasks that read blocks.

    Parameters
    ----------
    matrix
        Cells by genes.
    blocks
        As the matrix cuts them.
    genes
        Key of the positions of the genes wanted; values of other genes may be left out. None for
        all genes.

    Returns
    -------
    tuple
        A graph, and for each block the key or task that computes to its values.
    """
    if isinstance(matrix, DaskMatrix):
        array = matrix.array
        keys = dict(zip(matrix.whole_blocks(0), block_keys(array), strict=True))
        chosen = [keys[block] for block in blocks]
        return optimize_graph(merge_graphs([array]), chosen), chosen
    # As a value of the graph, a matrix in memory is sent to a worker once.
    name = f"stored-{matrix.token}"
    # In a partial: dask would search the block's tuples for keys and tasks.
    return {name: matrix}, [(partial(_read, block), name, genes) for block in blocks]


def _read(block: Block, matrix: Matrix, genes: NDArray[np.intp] | None) -> Any:
    return matrix.read_block(block, genes)


def gene_array(expression: ExpressionMatrix, position: int, sizes: BlockSizes) -> da.Array:
    """Make the lazy values of one gene; reads nothing.

    Parameters
    ----------
    expression
        The expression matrix.
    position
        The gene's position among the dataset's genes.
    sizes
        Block sizes.

    Returns
    -------
    dask.array.Array
        float32 (n_cells,).
    """
    matrix = expression.matrix
    column = position if expression.genes is None else int(expression.genes[position])
    if matrix.layout == "csc" and not isinstance(matrix, DaskMatrix):
        values = _stored_gene(matrix, column)
    else:
        values = gene_column(gene_columns(matrix_array(matrix, sizes.matrix_values), [column]))
    return values if expression.cells is None else values[expression.cells]


def _stored_gene(matrix: Matrix, column: int) -> da.Array:
    """Make the lazy values of one gene of a matrix that is stored by gene."""
    n_cells = matrix.shape[0]
    graph, reads = block_reads(matrix, [Block((0, n_cells), (column, column + 1))])
    name = f"gene-{matrix.token}-{column}"
    graph[name, 0] = (_dense_column, reads[0])
    return from_graph(name, graph, chunks=((n_cells,),), dtype=np.float32)


def _dense_column(block: Any) -> NDArray[np.float32]:
    return to_float32(block.toarray()[:, 0])


# Genes per chunk of the dense array of a matrix that is stored by cell: a few genes then need few
# chunks.
_CHUNK_GENES = 16
# Chunks of that array, at most: dask makes an entry for each when genes are selected.
_MAX_CHUNKS = 2**20


def dense_array(
    expression: ExpressionMatrix, genes: Sequence[int] | None, sizes: BlockSizes
) -> da.Array:
    """Make the lazy dense matrix of all genes, or of some; reads nothing.

    Parameters
    ----------
    expression
        The expression matrix.
    genes
        Positions of genes among the dataset's, in the order wanted; None for all.
    sizes
        Block sizes.

    Returns
    -------
    dask.array.Array
        float32 (n_cells, n_genes), in chunks of a few genes each where all are wanted.
    """
    matrix, columns = expression.matrix, expression.genes
    if genes is not None:
        columns = np.asarray(genes, np.intp) if columns is None else columns[np.asarray(genes)]
    if isinstance(matrix, DaskMatrix) or matrix.layout == "dense":
        values = dense_genes(matrix_array(matrix, sizes.matrix_values))
        values = values if columns is None else values[:, columns]
    elif matrix.layout == "csc":
        values = dense_genes(_gene_blocks(matrix, columns, sizes))
    elif columns is None:
        values = _gene_chunks(matrix, sizes)
    else:
        values = gene_columns(matrix_array(matrix, sizes.matrix_values), columns.tolist())
    return values if expression.cells is None else values[expression.cells]


def _gene_chunks(matrix: Matrix, sizes: BlockSizes) -> da.Array:
    """Make the lazy dense array of a matrix that is stored by cell, in chunks of few genes."""
    n_genes = matrix.shape[1]
    # Larger blocks than elsewhere, since each makes many chunks.
    blocks = matrix.whole_blocks(4 * sizes.matrix_values)
    width = max(_CHUNK_GENES, len(blocks) * n_genes // _MAX_CHUNKS)
    bounds = [*range(0, max(1, n_genes), width), n_genes]
    return grid_array(
        f"by-gene-{matrix.token}-{sizes.matrix_values}",
        _read_by_gene,
        _take_genes,
        source=matrix,
        rows=blocks,
        row_lengths=[block.cells[1] - block.cells[0] for block in blocks],
        widths=[stop - start for start, stop in pairwise(bounds)],
        dtype=np.float32,
    )


def _read_by_gene(block: Block, matrix: Matrix, genes: NDArray[np.intp]) -> Any:
    chosen = None if len(genes) == matrix.shape[1] else genes
    return matrix.read_block(block, chosen).tocsc()


def _take_genes(block: Any, start: int, stop: int) -> NDArray[np.float32]:
    return to_dense(block[:, start:stop])


def _gene_blocks(matrix: Matrix, columns: NDArray[np.intp] | None, sizes: BlockSizes) -> da.Array:
    """Make the lazy array of a matrix that is stored by gene, or of some of its genes."""
    n_cells, n_genes = matrix.shape
    if columns is None:
        # Few genes per chunk, since reading one gene reads its chunk.
        width = max(1, sizes.matrix_values // max(1, n_cells))
        spans = list(pairwise([*range(0, max(1, n_genes), width), n_genes]))
    else:
        spans = [(column, column + 1) for column in columns.tolist()]
    name = f"genes-{tokenize(matrix.token, spans)}"
    graph, reads = block_reads(matrix, [Block((0, n_cells), span) for span in spans])
    graph |= {(name, 0, j): read for j, read in enumerate(reads)}
    chunks = ((n_cells,), tuple(stop - start for start, stop in spans))
    return from_graph(name, graph, chunks=chunks, dtype=matrix.dtype, meta=_meta(matrix))


def gene_ranges_array(
    expression: ExpressionMatrix, positions: NDArray[np.intp], sizes: BlockSizes
) -> da.Array:
    """Make the lazy minimum, maximum and finite count of genes; reads nothing.

    Parameters
    ----------
    expression
        The expression matrix.
    positions
        Positions of the genes among the dataset's genes.
    sizes
        Block sizes.

    Returns
    -------
    dask.array.Array
        float64 (3, len(positions)), NaN for the minimum and maximum of a gene without finite
        values. Its name depends on the matrix and the positions alone.
    """
    blocks = matrix_array(expression.matrix, sizes.matrix_values)
    rows = None
    if expression.cells is not None:
        chosen = np.zeros(blocks.shape[0], dtype=bool)
        chosen[expression.cells] = True
        rows = da.from_array(chosen, chunks=(blocks.chunks[0],))
    ranges = rechunk(gene_ranges(blocks, rows=rows), -1)
    columns = positions if expression.genes is None else expression.genes[positions]
    # dask's next array implementation cannot index by some lists.
    take = partial(np.take, indices=columns, axis=1)
    size = {"j": len(columns)}
    return map_indexed(take, "kj", ranges, "kj", adjust_chunks=size, dtype=ranges.dtype)
