"""Dense matrices: what is read together, in which blocks, and which way is planned for it."""

from __future__ import annotations

import anndata
import dask.array as da
import numpy as np
import pytest
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy.gene_pass import plan_pass
from cellucid_lazy.readers.stored import EDGE_VALUES
from tests.data import writing
from tests.engine.test_same_bytes import in_memory, opened

MB = 2**20


def matrix(n_cells=300, n_genes=110):
    values = np.arange(1, n_cells * n_genes + 1, dtype=np.float32)
    return values.reshape(n_cells, n_genes)


@pytest.mark.parametrize("chunks", [(70, 4), (300, 1), (1000, 1000), (7, 110)])
@pytest.mark.parametrize("form", ["gzip", "v3 zstd"])
def test_chunks_are_read_whole_and_once(chunks, form, tmp_path):
    expression = opened(tmp_path / "a", matrix(), form, chunks=chunks).expression
    width = min(chunks[1], 110)
    assert expression.genes_together == (width if width < 110 else None)
    reads = expression.gene_reads(np.arange(110), block_values=300 * width, most_genes=1)
    if width < 110:
        # All cells are in one block, though they are no multiple of a chunk's rows.
        assert [len(group.blocks) for group in reads.groups] == [1] * -(-110 // width)
    low = expression.gene_reads(np.arange(110), block_values=1, most_genes=1)
    begins = [block.first_row for block in low.groups[0].blocks]
    assert begins == list(range(0, 300, min(chunks[0], 300)))


def test_genes_of_an_array_in_memory_share_cache_lines():
    expression = cl.open(in_memory(matrix())).expression
    assert expression.genes_together == 16
    reads = expression.gene_reads(np.array([109, 3, 3, 40]), block_values=1, most_genes=1)
    assert [group.wanted.tolist() for group in reads.groups] == [[1, 2], [3], [0]]
    (values,) = reads.graph.values()
    found = reads.groups[2].blocks[299].read(values)
    assert found[:, reads.groups[2].columns].tolist() == [[matrix()[299, 109]]]


@pytest.mark.parametrize(
    ("chunks", "together"), [((100, 10), None), ((300, 10), 10), ((100, 110), None)]
)
def test_lazy_blocks_are_read_by_gene_where_they_hold_all_cells(chunks, together):
    adata = in_memory(matrix())
    adata.X = da.from_array(matrix(), chunks=chunks)
    catalogue = cl.outputs(cl.open(adata))
    assert catalogue.source.expression.genes_together == together
    genes = (109, 3, 40, 41)
    found = cl.to_bytes(catalogue, [f"var/g{gene}" for gene in genes])
    assert list(found.values()) == [matrix()[:, gene].tobytes() for gene in genes]


@pytest.mark.parametrize("form", ["memory", "gzip", "v3 zstd"])
def test_a_dense_graph_is_cut_along_cells_only(form, tmp_path):
    n_cells = 2_000
    adata = anndata.AnnData(
        np.zeros((n_cells, 1), np.float32), obsm={"X_umap": np.ones((n_cells, 2))}
    )
    adata.obsp["connectivities"] = np.eye(n_cells, k=1, dtype=np.float32)
    if form == "memory":
        source = cl.open(adata)
    elif form == "gzip":
        adata.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
        source = cl.open(tmp_path / "a.h5ad")
    else:
        with writing():
            adata.write_zarr(tmp_path / "a.zarr")
        source = cl.open(tmp_path / "a.zarr")
    blocks = source.connectivities.blocks()
    assert blocks.chunks[1] == (n_cells,)
    assert len(blocks.chunks[0]) > 1
    assert max(blocks.chunks[0]) * n_cells <= 2 * EDGE_VALUES
    found = cl.to_bytes(cl.outputs(source), ["connectivity/src"])["connectivity/src"]
    assert len(found) == 2 * (n_cells - 1)


@pytest.mark.parametrize("layout", ["dense", "csr", "csc"])
def test_a_view_of_few_genes_is_planned_like_these_genes_of_the_whole(layout, tmp_path):
    kind = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[layout]
    with writing():
        in_memory(kind(matrix(2_000, 600))).write_h5ad(tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    plans = []
    for shown in (adata, adata[:, 100:120]):
        catalogue = cl.outputs(cl.open(shown))
        genes = {f"g{at}": catalogue[f"var/g{at}"].gene for at in range(100, 120)}
        plans.append(plan_pass(genes, budget=64 * MB, workers=2, threads=2))
    assert plans[0] == plans[1]
    assert plans[0].read_bytes <= 2_000 * 600 * 8
