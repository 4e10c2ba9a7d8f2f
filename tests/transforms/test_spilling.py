"""Every transform computes the same bytes from blocks that were spilled."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellucid_lazy import graph
from cellucid_lazy.graph import spillable
from cellucid_lazy.transforms import categories, edges, embeddings, genes, quantize
from cellucid_lazy.transforms.centroids import centroids
from cellucid_lazy.transforms.outlier_quantiles import outlier_quantiles
from tests.helpers import compute
from tests.transforms.stand_ins import compute_spilled

N_CELLS, N_CATEGORIES = 150, 4


def points():
    values = np.random.default_rng(0).normal(size=(N_CELLS, 3)).astype(np.float32)
    values[7, 1], values[9, 0] = np.nan, np.inf
    return da.from_array(values, chunks=(40, 2))


def codes(seed=1):
    found = np.random.default_rng(seed).integers(-1, N_CATEGORIES, N_CELLS).astype(np.int8)
    return da.from_array(found, chunks=33)


def neighbours():
    matrix = sparse.random(N_CELLS, N_CELLS, 0.05, random_state=2, dtype=np.float32)
    return da.from_array(matrix.toarray(), chunks=(31, -1))


def labels():
    texts = np.array(["b", None, "a", "b", "c"] * (N_CELLS // 5), dtype=object)
    return da.from_array(texts, chunks=40)


def edge_outputs(**options):
    found = edges.edges(neighbours(), n_cells=N_CELLS, **options)
    return [found, edges.edge_sources(found), edges.edge_destinations(found), counts(found)]


def counts(edge_list):
    return edges.edge_counts(edge_list)


def embedding_outputs(x):
    bounds = embeddings.finite_bounds(x)
    normalized = embeddings.normalize_embedding(x, bounds=bounds)
    vectors = embeddings.scale_vectors(x, scale=embeddings.scale_factor(bounds))
    return [bounds, embeddings.center(bounds), embeddings.pad_embedding(normalized), vectors]


def group_outputs(latent, groups, **again):
    options = {"n_categories": N_CATEGORIES}
    return [
        centroids(latent, groups, **options),
        outlier_quantiles(latent, groups, **options, **again),
    ]


def marked_points():
    return spillable(points().rechunk((40, -1)))


BUILDS = {
    "edges": edge_outputs,
    "edges of some cells": lambda: edge_outputs(row_to_cell=np.arange(N_CELLS)[::-1]),
    "groups": lambda: group_outputs(points(), codes()),
    "groups read twice": lambda: group_outputs(points(), codes(), latent_again=points() + 0),
    "groups of marked arrays": lambda: group_outputs(marked_points(), spillable(codes())),
    "groups of single marked blocks": lambda: group_outputs(
        spillable(points().rechunk(-1)), spillable(codes().rechunk(-1))
    ),
    "embeddings": lambda: embedding_outputs(points()),
    "embeddings of marked arrays": lambda: embedding_outputs(marked_points()),
    "columns": lambda: [
        quantize.finite_range(spillable(points()[:, 0])),
        quantize.quantize(spillable(points()[:, 0]), bits=8),
        categories.used_codes(spillable(codes())),
        categories.encode_codes(
            spillable(codes()), n_categories=N_CATEGORIES, dtype=np.dtype("u1")
        ),
    ],
    "text": lambda: [
        categories.unique_values(labels()),
        categories.encode_labels(labels(), categories=("a", "b", "c"), dtype=np.dtype("u1")),
    ],
    "genes": lambda: [genes.gene_columns(neighbours(), [5, 3]), genes.gene_ranges(neighbours())],
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_spilled_blocks_give_the_same_bytes(build):
    arrays = build()
    for array, found in zip(arrays, compute_spilled(arrays), strict=True):
        expected = np.asarray(compute(array))
        assert found.dtype == expected.dtype
        if expected.dtype == object:
            assert found.item() == expected.item()
        else:
            assert found.tobytes() == expected.tobytes()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_spilled_groups_of_any_chunks(rows, code_rows):
    latent, groups = points().rechunk((rows, 1)), codes().rechunk(code_rows)
    arrays = group_outputs(latent, groups)
    expected = group_outputs(points(), codes())
    for array, found in zip(expected, compute_spilled(arrays), strict=True):
        assert found.tobytes() == compute(array).tobytes()


def test_what_is_marked():
    def marked(*arrays):
        return graph.spillable_bytes(graph.merge_graphs(arrays))

    # Values and codes once for all, and distances for each.
    one, two = group_outputs(points(), codes())
    own = N_CELLS * (3 * 4 + 1)
    assert marked(one) == marked(two) == own + 8 * N_CELLS
    other = outlier_quantiles(points(), codes(seed=2), n_categories=N_CATEGORIES)
    assert marked(two, other) == own + N_CELLS * (1 + 2 * 8)
    assert marked(*edge_outputs(n_stored=1000)) == 16_000
    assert marked(*edge_outputs()) == 0
