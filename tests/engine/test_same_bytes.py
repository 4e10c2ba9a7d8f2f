"""Storage, blocks, schedulers, workers, budgets and scratch never change a byte of a result."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cellucid_lazy as cl
from cellucid_lazy.engine import resources
from cellucid_lazy.sinks import MemorySink
from cellucid_lazy.source import BlockSizes
from tests import data
from tests.helpers import decoded, small_grid, with_sizes

OPTIONS = cl.Options(
    compression=6,
    var_quantization=8,
    obs_continuous_quantization=16,
    dataset_name="a",
    created_at="2026-01-01T00:00:00Z",
)
MATRICES = {"csr.h5ad": "csr", "csc.zarr": "csc", "dense.h5ad": "dense", "csr in memory": "csr"}


@pytest.fixture(scope="module", autouse=True)
def _several_ranges():
    """Sums run over several ranges of cells."""
    with pytest.MonkeyPatch.context() as patch:
        small_grid(patch)
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same atlas, stored in several ways."""
    folder, found = tmp_path_factory.mktemp("sources"), {}
    for form, matrix in MATRICES.items():
        adata = data.atlas(300, 20, matrix=matrix, slim=True)
        if "memory" not in form:
            zarr_format = 3 if form.endswith(".zarr") else None
            adata = data.write_chunked(adata, folder / form, zarr_format=zarr_format)
        found[form] = cl.open(adata)
    return found


def exported(catalogue, **options):
    return decoded(cl.to_sink(catalogue, MemorySink(), progress=False, **options))


@pytest.fixture(scope="module")
def expected(sources):
    """Files that one thread makes of one block of everything."""
    with dask.config.set(scheduler="synchronous"):
        files = exported(cl.outputs(sources["csr in memory"], OPTIONS))
    assert len(files) > 30
    return files


blocks = st.builds(
    BlockSizes,
    array_bytes=st.integers(200, 20_000),
    matrix_values=st.integers(100, 10_000),
    min_gene_values=st.integers(1, 300),
    max_gene_values=st.integers(300, 10_000),
)


@pytest.mark.long
@settings(max_examples=15, deadline=None)
@given(
    form=st.sampled_from(list(MATRICES)),
    sizes=blocks,
    scheduler=st.sampled_from(["synchronous", "threads"]),
    workers=st.integers(1, 4),
    # With the small ones nearly everything is spilled, and genes go by way of scratch.
    budget=st.sampled_from(["5kB", "50kB", "1GB"]),
)
def test_nothing_but_the_data_decides_bytes(
    sources, expected, form, sizes, scheduler, workers, budget
):
    catalogue = with_sizes(cl.outputs(sources[form], OPTIONS), sizes)
    with (
        tempfile.TemporaryDirectory() as scratch,
        pytest.MonkeyPatch.context() as patch,
        dask.config.set(scheduler=scheduler, num_workers=workers),
    ):
        patch.setattr(resources, "_MIN_BUDGET", 1)
        found = exported(catalogue, memory_budget=budget, scratch=scratch)
        assert list(Path(scratch).iterdir()) == []
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.long
def test_processes_write_the_same_bytes(sources, expected):
    # Started anew, processes have the usual grid: without codes there are no sums.
    catalogue = with_sizes(cl.outputs(sources["csr.h5ad"], OPTIONS)).select("points/*", "var/*")
    with dask.config.set(scheduler="processes", num_workers=2):
        found = exported(catalogue)
    names = [name for name in found if not name.endswith(".json")]
    assert len(names) > 20
    assert [name for name in names if found[name] != expected[name]] == []
