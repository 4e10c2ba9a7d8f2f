"""What one task of a gene pass does: turn a block of cells, store it, join and write genes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.gene_writer import Encoded, Writer
from cellucid_lazy.sinks.scratch import StoredPiece, store_piece
from cellucid_lazy.transforms.gene_major import GeneBlock, Piece, join_pieces, piece_of

# Takes a range of genes from the pieces, or from what names them.
Load = Callable[[Sequence[Any], int, int], list[Piece]]


class Stored(NamedTuple):
    """Pieces that wait in scratch.

    Attributes
    ----------
    pieces
        In the order of their cells.
    values_per_gene
        int64 (n_genes,): values that the pieces hold of each gene.
    """

    pieces: tuple[StoredPiece, ...]
    values_per_gene: NDArray[np.int64]


def turn_block(
    read: Callable[..., Any], first_row: int, columns: NDArray[np.intp] | None, *inputs: Any
) -> Piece:
    """Read a block of cells and order its values gene after gene."""
    return piece_of(read(*inputs), first_row=first_row, columns=columns)


def store_block(
    scratch: str,
    read: Callable[..., Any],
    first_row: int,
    columns: NDArray[np.intp] | None,
    *inputs: Any,
) -> Stored:
    """Turn a block of cells and put its piece into a scratch folder."""
    piece = turn_block(read, first_row, columns, *inputs)
    return Stored((store_piece(piece, scratch),), np.diff(piece.indptr))


def merge_stored(parts: Sequence[Stored]) -> Stored:
    """Put together what was stored of successive blocks."""
    counts = sum((part.values_per_gene for part in parts[1:]), start=parts[0].values_per_gene)
    return Stored(tuple(piece for part in parts for piece in part.pieces), counts)


def slice_pieces(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """Take a range of genes from pieces in memory; `read_genes` does from stored ones."""
    return [piece.genes(start, stop) for piece in pieces]


def join_and_write(
    load: Load,
    start: int,
    stop: int,
    files: Sequence[tuple[str, str]],
    writer: Writer,
    pieces: Sequence[Any],
) -> Encoded:
    """Join a range of genes of all pieces, and write each to its file."""
    return writer.write(join_pieces(load(pieces, start, stop)), files)


def write_zeros(n_cells: int, writer: Writer, files: Sequence[tuple[str, str]]) -> Encoded:
    """Write genes of a dataset that has no matrix."""
    nothing = np.zeros(0, dtype=np.float32)
    indptr = np.zeros(len(files) + 1, dtype=np.int64)
    return writer.write(GeneBlock(nothing, np.zeros(0, np.int32), indptr, n_cells), files)
