"""Cells chosen of chosen cells: the outputs are those of the AnnData that is cut so."""

from __future__ import annotations

import numpy as np
import pytest

import cellucid_lazy as cl
from tests import data

OPTIONS = cl.Options(created_at="2020-01-01T00:00:00Z", dataset_name="a")


@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
def test_cells_are_chosen_again_and_again(matrix, stored):
    adata = data.atlas(90, 6, slim=True, matrix=matrix)
    rng = np.random.default_rng(0)
    first = rng.choice(90, 60, replace=False)
    mask = rng.random(60) < 0.7
    chosen = cl.outputs(stored(adata), OPTIONS).isel(cell=first).isel(cell=mask)
    chosen = chosen.isel(cell=slice(None, None, -2))
    cut = cl.outputs(adata[first][mask][::-2].copy(), OPTIONS)
    found, expected = (cl.to_bytes(one, one.names()) for one in (chosen, cut))
    assert [name for name in expected if found[name] != expected[name]] == []
    assert set(found) == set(expected)
