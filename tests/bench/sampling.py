"""Sampling of single-cell expression: skewed gene popularity, cell types, lognormal depth.

A gene is detected in a cell where a random 16-bit number lies below a threshold looked up for the
cell's type and depth, so a block costs one comparison per entry and little per nonzero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from tests.bench.recipe import Recipe

DEPTH_LEVELS = 16
ABUNDANCE_LEVELS = 32
COUNTS_PER_CELL = 3_000.0


@dataclass(frozen=True)
class CellTable:
    """What is drawn per cell before expression: groups and sequencing depth."""

    groups: dict[str, np.ndarray]
    depth_level: np.ndarray
    size_factor: np.ndarray

    def cell_type(self) -> np.ndarray:
        """Return the codes of the first grouping."""
        return next(iter(self.groups.values()))


@dataclass(frozen=True)
class ExpressionModel:
    """Lookup tables that turn random bits into expression.

    ``threshold`` is (cell types x depth levels, genes) uint16: a gene is detected where a random
    uint16 lies below. ``counts`` is (abundance levels, 256): the count for a random byte.
    """

    threshold: np.ndarray
    abundance_level: np.ndarray
    counts: np.ndarray


def generator(recipe: Recipe, *stream: int) -> np.random.Generator:
    """Return the random numbers of one named part of the atlas."""
    return np.random.Generator(np.random.SFC64([recipe.seed, *stream]))


def draw_cells(recipe: Recipe) -> CellTable:
    """Draw group codes (sizes fall off like real clusters) and lognormal depth for all cells."""
    rng = generator(recipe, 1)
    groups = {}
    for name, n_categories in recipe.categories:
        weights = 1.0 / np.arange(1, n_categories + 1) ** 0.7
        edges = np.cumsum(weights / weights.sum())
        codes = np.searchsorted(edges, rng.random(recipe.n_cells), side="right")
        groups[name] = np.minimum(codes, n_categories - 1).astype(np.int32)
    depth_level = rng.integers(0, DEPTH_LEVELS, recipe.n_cells)
    jitter = rng.lognormal(0.0, 0.1, recipe.n_cells)
    total = COUNTS_PER_CELL * depth_factors()[depth_level] * jitter
    return CellTable(groups, depth_level, (1e4 / total).astype(np.float32))


def depth_factors() -> np.ndarray:
    """Return the depth levels: equally likely steps of a lognormal distribution."""
    quantiles = (np.arange(DEPTH_LEVELS) + 0.5) / DEPTH_LEVELS
    return np.exp(0.5 * stats.norm.ppf(quantiles))


def build_model(recipe: Recipe) -> ExpressionModel:
    """Draw gene popularity: few genes almost everywhere, most in a few per cent of the cells."""
    rng = generator(recipe, 2)
    n_types = min(recipe.categories[0][1], 64)
    base = rng.lognormal(0.0, 2.0, recipe.n_genes)
    marker = np.where(rng.random((n_types, recipe.n_genes)) < 0.02, 8.0, 1.0)
    rates = base * marker / marker.mean(axis=0)
    rates *= _scale_to(rates[:4], recipe.nonzeros_per_cell / recipe.n_genes)
    expected = rates[:, None, :] * depth_factors()[None, :, None]
    detected = -np.expm1(-expected.reshape(-1, recipe.n_genes))
    threshold = np.clip(np.rint(detected * 65_536), 1, 65_535).astype(np.uint16)
    mean_count = rates.mean(axis=0) / -np.expm1(-rates.mean(axis=0))
    order = np.argsort(np.argsort(mean_count))
    level = (order * ABUNDANCE_LEVELS // recipe.n_genes).astype(np.uint8)
    return ExpressionModel(threshold, level, _count_table(mean_count, level))


def _scale_to(rates: np.ndarray, density: float) -> float:
    """Return the factor on ``rates`` at which genes are detected with mean probability density."""
    scale = 1.0
    for _ in range(40):
        detected = np.mean([-np.expm1(-scale * rates * f).mean() for f in depth_factors()])
        scale *= density / detected
    return float(scale)


def _count_table(mean_count: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Tabulate one plus a geometric count for each abundance level and random byte."""
    chance = (np.arange(256) + 0.5) / 256
    table = np.ones((ABUNDANCE_LEVELS, 256), dtype=np.float32)
    for number in range(ABUNDANCE_LEVELS):
        members = mean_count[level == number]
        mean = float(members.mean()) if members.size else 1.0
        more = 1.0 - 1.0 / (1.4 * mean + 0.1)  # transcripts come in bursts
        table[number] = 1.0 + np.floor(np.log1p(-chance) / np.log(more))
    return table


def sample_block(
    recipe: Recipe, model: ExpressionModel, cells: CellTable, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample rows ``start:stop``: nonzeros per row, int32 columns, float32 values."""
    rng = generator(recipe, 3, start)
    n_rows, n_genes = stop - start, recipe.n_genes
    words = rng.integers(0, 2**64, -(-n_rows * n_genes // 4), dtype=np.uint64, endpoint=False)
    random = words.view(np.uint16)[: n_rows * n_genes].reshape(n_rows, n_genes)
    cell_type = cells.cell_type()[start:stop] % (len(model.threshold) // DEPTH_LEVELS)
    state = cell_type * DEPTH_LEVELS + cells.depth_level[start:stop]
    detected = random < np.take(model.threshold, state, axis=0)
    per_row = np.count_nonzero(detected, axis=1)
    flat = np.flatnonzero(detected)
    columns = (flat - np.repeat(np.arange(n_rows) * n_genes, per_row)).astype(np.int32)
    byte = rng.integers(0, 256, len(columns), dtype=np.uint8)
    values = model.counts[model.abundance_level[columns], byte]
    values *= np.repeat(cells.size_factor[start:stop], per_row)
    return per_row, columns, np.log1p(values, out=values)
