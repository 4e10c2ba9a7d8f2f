"""Genes of the generated atlas, and their expression in each cell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from cellucid_lazy.demo.cells import CELL_TYPES

MITOCHONDRIAL = (
    *("MT-ND1", "MT-ND2", "MT-ND3", "MT-ND4", "MT-ND4L", "MT-ND5", "MT-ND6"),
    *("MT-CO1", "MT-CO2", "MT-CO3", "MT-ATP6", "MT-ATP8", "MT-CYB"),
)
HOUSEKEEPING = ("MALAT1", "B2M", "TMSB4X", "ACTB", "FTL", "FTH1", "EEF1A1", "GAPDH", "TPT1")
GENE_FAMILIES = ("ZNF", "SLC", "TMEM", "KIF", "RAB", "PSM", "NDUFA", "POLR2", "USP", "TRIM", "FBXO")
READS_PER_CELL = 2_500.0


def gene_symbols(n_genes: int) -> list[str]:
    """Return distinct gene symbols: markers, genes of every cell type, then plausible names."""
    symbols: dict[str, None] = {}
    for symbol in _endless_symbols():
        if len(symbols) == n_genes:
            break
        symbols[symbol] = None
    return list(symbols)


def gene_table(symbols: list[str]) -> pd.DataFrame:
    """Return var: symbols as index, and a column of stable identifiers."""
    identifiers = [f"ENSG{100_000 + 97 * number:011d}" for number in range(len(symbols))]
    return pd.DataFrame({"gene_ids": identifiers}, index=pd.Index(symbols))


def draw_counts(
    types: NDArray[np.int64], symbols: list[str], rng: np.random.Generator
) -> sparse.csr_matrix[np.float32]:
    """Return molecule counts, (n_cells, n_genes), Poisson around the profiles of cell types."""
    profiles = _type_profiles(symbols, rng)
    depth = READS_PER_CELL * rng.lognormal(0.0, 0.35, len(types))
    counts = rng.poisson(profiles[types] * depth[:, None]).astype(np.float32)
    return sparse.csr_matrix(counts)


def log_normalize(counts: sparse.csr_matrix[np.float32]) -> sparse.csr_matrix[np.float32]:
    """Scale every cell to 10,000 molecules and take log(1 + x), as scanpy's defaults do."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scale = 1e4 / np.maximum(totals, 1.0)
    result = counts.copy()
    result.data = np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr)))
    result.data = result.data.astype(np.float32)
    return result


def _endless_symbols() -> Iterator[str]:
    for cell_type in CELL_TYPES:
        yield from cell_type.markers
    yield from HOUSEKEEPING
    yield from MITOCHONDRIAL
    for number in range(3, 28):
        yield f"RPL{number}"
        yield f"RPS{number}"
    number = 1
    while True:
        for family in GENE_FAMILIES:
            yield f"{family}{number}"
        yield f"LINC{number:05d}"
        yield f"AC{11_000 + 37 * number:06d}.{number % 3 + 1}"
        number += 1


def _type_profiles(symbols: list[str], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the share of each gene in a type's molecules, (n_types, n_genes)."""
    columns = {symbol: number for number, symbol in enumerate(symbols)}
    abundance = rng.lognormal(0.0, 1.8, len(symbols))
    common = [number for symbol, number in columns.items() if _is_ubiquitous(symbol)]
    abundance[common] = rng.lognormal(5.2, 0.6, len(common))
    profiles = abundance * rng.lognormal(0.0, 0.4, (len(CELL_TYPES), len(symbols)))
    markers = {symbol for cell_type in CELL_TYPES for symbol in cell_type.markers}
    profiles[:, [columns[symbol] for symbol in markers if symbol in columns]] = 0.3
    for row, cell_type in enumerate(CELL_TYPES):
        own = [columns[symbol] for symbol in cell_type.markers if symbol in columns]
        profiles[row, own] = rng.lognormal(4.0, 0.5, len(own))
    shares: NDArray[np.float64] = profiles / profiles.sum(axis=1, keepdims=True)
    return shares


def _is_ubiquitous(symbol: str) -> bool:
    return symbol in HOUSEKEEPING or symbol.startswith(("MT-", "RPL", "RPS"))
