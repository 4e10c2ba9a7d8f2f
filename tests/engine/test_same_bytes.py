"""Every plan, filter, storage form, block size, worker count and scheduler: the same bytes."""

from __future__ import annotations

import gzip
import importlib
import tempfile
from functools import partial
from pathlib import Path

import anndata
import dask
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy.gene import Gene
from cellucid_lazy.gene_pass import GenePass, plan_pass
from cellucid_lazy.plan import Plan
from cellucid_lazy.sinks.encode import ToMemory
from cellucid_lazy.sinks.scratch import scratch_folder
from cellucid_lazy.transforms.quantize import quantization_range, quantize_block
from tests.data import writing
from tests.engine.matrices import awkward, dense32, matrices, numbers
from tests.engine.stores import HDF5, ZARR, write

BUDGETS = {"external": "68MB", "in memory": "8GB"}


def expected_bytes(column, bits=None):
    """Bytes of a gene by plain NumPy, from its dense float32 column."""
    if bits is None:
        return column.tobytes()
    finite = column[np.isfinite(column)]
    ends = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    return quantize_block(column, *quantization_range(*ends), bits=bits).tobytes()


def opened(path, matrix, form, **options):
    write(path, matrix, form, **options)
    return cl.open(path)


def in_memory(matrix):
    var = pd.DataFrame(index=[f"g{i}" for i in range(matrix.shape[1])])
    obs = pd.DataFrame(index=[f"c{i}" for i in range(matrix.shape[0])])
    umap = np.random.default_rng(0).random((len(obs), 2), dtype=np.float32)
    with writing():
        return anndata.AnnData(matrix, obs=obs, var=var, obsm={"X_umap": umap})


def run(expression, plan, *, positions, bits=None, level=None, scheduler="synchronous", **options):
    """Run the pass with a plan of the test's own; gives bytes by name and facts by name."""
    n_cells = expression.shape[0]
    genes = {
        f"{place}:{gene}": Gene(expression, int(gene), bits, n_cells)
        for place, gene in enumerate(positions)
    }
    paths = {name: f"var/{name}" for name in genes}
    files, facts = {}, {}
    with scratch_folder(None, 0) as folder:
        whole = GenePass(genes, paths, plan=plan, target=ToMemory(level))
        stored = None
        if plan.way == "external":
            stored = dask.compute(*whole.store_tasks(folder), scheduler=scheduler, **options)
        for encoded in dask.compute(*whole.write_tasks(stored), scheduler=scheduler, **options):
            files |= dict(zip(encoded.names, encoded.files, strict=True))
            facts |= dict(zip(encoded.names, encoded.facts.T, strict=True))
    assert list(genes) == sorted(files, key=list(genes).index)
    return files, facts


def made_plan(way, block_values, genes_per_block, joined_values=10**6):
    return Plan(way, block_values, genes_per_block, joined_values, 0, 0, 0, "the test says so")


@st.composite
def stored(draw):
    """A matrix, how it is stored, and which cells a view of it keeps."""
    matrix = draw(matrices())
    form = draw(st.sampled_from(["memory", *HDF5, *ZARR]))
    n_cells, n_genes = matrix.shape
    chunks = draw(st.sampled_from([(7, 5), (n_cells, 2), (3, n_genes), (1, 1), (n_cells, n_genes)]))
    cells = draw(st.none() | st.lists(st.integers(0, n_cells - 1), min_size=1, max_size=50))
    return matrix, form, chunks, cells


@settings(max_examples=60, deadline=None)
@given(
    case=stored(),
    way=st.sampled_from(["external", "in memory", "by gene"]),
    sizes=st.tuples(st.integers(1, 300), st.integers(1, 15), st.integers(1, 300)),
    bits=st.sampled_from([None, 8, 16]),
    level=st.sampled_from([None, 1, 6, 9]),
    data=st.data(),
)
def test_any_plan_on_any_storage(case, way, sizes, bits, level, data):
    matrix, form, chunks, cells = case
    expected = dense32(matrix)
    with tempfile.TemporaryDirectory() as folder:
        if form == "memory":
            source = cl.open(in_memory(matrix))
        else:
            source = opened(Path(folder) / "a", matrix, form, chunks=chunks)
        expression = source.expression
        if cells is not None:
            from cellucid_lazy.readers.expression import SubsetExpression

            cells = np.array(cells, dtype=np.intp)
            expression, expected = SubsetExpression(expression, cells, None), expected[cells]
        positions = data.draw(st.lists(st.integers(0, matrix.shape[1] - 1), min_size=1, max_size=9))
        if data.draw(st.booleans()):
            positions = list(range(matrix.shape[1]))
        by_gene = expression.layout == "csc"
        plan = made_plan("by gene" if by_gene else way, *sizes)
        files, facts = run(expression, plan, positions=positions, bits=bits, level=level)
    for name, found in files.items():
        column = expected[:, int(name.split(":")[1])]
        assert (gzip.decompress(found) if level else found) == expected_bytes(column, bits)
        finite = column[np.isfinite(column)]
        assert facts[name][2] == len(finite)
        if len(finite):
            assert facts[name][:2].tolist() == [finite.min(), finite.max()]


@pytest.fixture(scope="module", params=["csr", "csc", "dense"])
def fixed(request):
    """A matrix of a few hundred blocks, and its dense columns."""
    rng = np.random.default_rng(3)
    if request.param == "dense":
        values = numbers(rng, 400 * 30, "f2", odd=True)
        values[rng.random(len(values)) < 0.6] = 0
        matrix = values.reshape(400, 30)
    else:
        matrix = awkward(rng, 400, 30, layout=request.param, dtype="f8", index_dtype="i8", odd=True)
    return matrix, dense32(matrix)


@pytest.mark.parametrize("form", ["memory", *HDF5, *ZARR])
def test_every_storage_form_through_the_catalogue(fixed, form, tmp_path):
    matrix, expected = fixed
    data = in_memory(matrix) if form == "memory" else write(tmp_path / "a", matrix, form)
    catalogue = cl.outputs(cl.open(data))
    names = catalogue.names("var")
    for level in (None, 1, 6, 9):
        for found, column in zip(
            cl.to_bytes(catalogue, names, compress=level).values(), expected.T, strict=True
        ):
            assert (gzip.decompress(found) if level else found) == column.tobytes()
    for bits in (8, 16):
        quantized = cl.outputs(cl.open(data), cl.Options(var_quantization=bits))
        for found, column in zip(cl.to_bytes(quantized, names).values(), expected.T, strict=True):
            assert found == expected_bytes(column, bits)


@pytest.mark.parametrize("chunks", [(400, 1), (400, 7), (1, 30), (13, 30), (17, 4), (400, 30)])
@pytest.mark.parametrize("form", ["gzip", "v3 zstd"])
def test_dense_chunks_of_any_shape(chunks, form, tmp_path):
    matrix = numbers(np.random.default_rng(4), 400 * 30, "f4", odd=True).reshape(400, 30)
    source = opened(tmp_path / "a", matrix, form, chunks=chunks)
    for way in (*BUDGETS, "by gene"):
        for block_values in (1, 500, 10**6):
            plan = made_plan(way, block_values, 4)
            for positions in (range(30), [29, 3, 3, 17, 18]):
                files, _ = run(source.expression, plan, positions=positions)
                for place, gene in enumerate(positions):
                    assert files[f"{place}:{gene}"] == matrix[:, gene].tobytes()


def test_half_floats_in_a_sparse_matrix(tmp_path):
    # SciPy has no sparse float16, but files may hold it.
    matrix = awkward(np.random.default_rng(5), 60, 9)
    matrix.sum_duplicates()
    matrix.data = (matrix.data % 9).astype(np.float16).astype(np.float32)
    path = write(tmp_path / "a", matrix, "gzip")
    with h5py.File(path, "r+") as root:
        del root["X/data"]
        root["X/data"] = matrix.data.astype(np.float16)
    catalogue = cl.outputs(cl.open(path))
    found = cl.to_bytes(catalogue, catalogue.names("var"))
    assert list(found.values()) == [column.tobytes() for column in dense32(matrix).T]
    assert cl.to_bytes(catalogue, ["var/g3"])["var/g3"] == found["var/g3"]
    lazy = catalogue["var/g3"].array.compute(scheduler="synchronous")
    assert lazy.tobytes() == found["var/g3"]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Large enough for the least budget to send its pieces to scratch: 4 million values."""
    rng = np.random.default_rng(6)
    n_cells, n_genes = 20_000, 500
    counts = rng.poisson(200, n_cells)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = rng.integers(0, n_genes, indptr[-1]).astype(np.int32)
    values = rng.integers(1, 50, indptr[-1]).astype(np.float32)
    matrix = sparse.csr_matrix((values, indices, indptr), shape=(n_cells, n_genes))
    path = tmp_path_factory.mktemp("large") / "a.h5ad"
    return write(path, matrix, "one chunk"), dense32(matrix)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_budgets_and_worker_counts(large, workers):
    path, expected = large
    catalogue = cl.outputs(cl.open(path))
    names = catalogue.names("var")
    with dask.config.set(num_workers=workers):
        for way, budget in BUDGETS.items():
            assert cl.explain(catalogue, memory_budget=budget).startswith(way)
            found = cl.to_bytes(catalogue, names, compress=1, memory_budget=budget)
            # Inflated: one file in 50,000 is a byte longer or shorter each time, because ISA-L
            # reads memory that it has not written.
            wrong = [
                name
                for name, column in zip(names, expected.T, strict=True)
                if gzip.decompress(found[name]) != column.tobytes()
            ]
            assert wrong == []


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def exported(source, folder, **options):
    settings = cl.Options(
        compression=6, var_quantization=8, created_at="2026-01-01T00:00:00Z", dataset_name="a"
    )
    cl.to_directory(cl.outputs(source, settings), folder, progress=False, **options)
    return {
        name: gzip.decompress(data) if name.endswith(".gz") else data
        for name, data in files_of(folder).items()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The same matrix in three files, and the export that one thread makes of it."""
    folder = tmp_path_factory.mktemp("small")
    matrix = awkward(np.random.default_rng(7), 900, 40, dtype="f4", fill=0.3, odd=True)
    forms = {
        "csr": write(folder / "csr.h5ad", matrix, "gzip"),
        "csc": write(folder / "csc.zarr", matrix.tocsc(), "v3 sharded"),
        "dense": write(folder / "dense.h5ad", matrix.toarray(), "shuffle+gzip", chunks=(100, 9)),
    }
    with dask.config.set(scheduler="synchronous"):
        return forms, exported(cl.open(forms["csr"]), folder / "expected")


def differences(found, expected):
    """Files that differ; the identity tells where the data came from, so it is left out."""
    assert found.keys() == expected.keys()
    return [
        name
        for name in expected
        if found[name] != expected[name] and name != "dataset_identity.json"
    ]


@pytest.mark.parametrize(
    ("scheduler", "form"),
    [
        *(("threads", form) for form in ("csr", "csc", "dense")),
        *(("synchronous", form) for form in ("csc", "dense")),
        ("processes", "csr"),
    ],
)
def test_schedulers_write_the_same_folder(small, tmp_path, form, scheduler):
    forms, expected = small
    with dask.config.set(scheduler=scheduler, num_workers=2):
        assert differences(exported(cl.open(forms[form]), tmp_path / "out"), expected) == []


@pytest.mark.parametrize("compression", [None, 1])
def test_parts_of_large_files_wait_on_disk(tmp_path, monkeypatch, compression):
    """A file's parts are put together one at a time, and nothing of them stays behind."""
    from tests import data
    from tests.helpers import small_blocks

    small_blocks(monkeypatch)
    source = cl.open(data.write_h5ad(data.atlas(), tmp_path / "a.h5ad"))
    catalogue = cl.outputs(source, cl.Options(compression=compression, created_at="2026-01-01"))
    (tmp_path / "scratch").mkdir()
    export = partial(cl.to_directory, catalogue, progress=False, scratch=tmp_path / "scratch")
    export(tmp_path / "memory")
    writing = importlib.import_module("cellucid_lazy.writing")
    kept, store = [], writing.encode_block

    def watched(target, values, *, folder):
        kept.append(folder)
        return store(target, values, folder=folder)

    monkeypatch.setattr(writing, "_SMALL_SHARE", 2**40)
    monkeypatch.setattr(writing, "encode_block", watched)
    export(tmp_path / "disk")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert len(kept) > 40
    assert all(folder.startswith(str(tmp_path / "scratch")) for folder in kept)
    assert files_of(tmp_path / "memory") == files_of(tmp_path / "disk")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes of two threads."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as made,
        Client(made) as client,
    ):
        yield client


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_a_cluster_writes_the_same_folder(small, tmp_path, form, cluster):
    forms, expected = small
    assert differences(exported(cl.open(forms[form]), tmp_path / "out"), expected) == []


@pytest.mark.parametrize("way", BUDGETS)
def test_a_cluster_gives_the_same_bytes_either_way(large, cluster, way, tmp_path):
    path, expected = large
    catalogue = cl.outputs(cl.open(path))
    names = catalogue.names("var")
    budget = BUDGETS[way]
    assert cl.explain(catalogue, memory_budget=budget).startswith(way)
    found = cl.to_bytes(catalogue, names, memory_budget=budget, scratch=tmp_path)
    for gene in range(0, 500, 50):
        assert found[f"var/g{gene}"] == expected[:, gene].tobytes()
    assert list(tmp_path.iterdir()) == []


def test_the_planner_sees_the_cluster(small, cluster):
    from cellucid_lazy.surroundings import look_around

    around = look_around("300MB")
    assert (around.budget, around.workers, around.threads) == (300_000_000, 2, 4)
    limits = [worker["memory_limit"] for worker in cluster.scheduler_info()["workers"].values()]
    assert look_around(None).budget == max(min(limits) // 4, 2**26)


def test_a_pass_in_one_process_has_no_task_per_gene(large):
    source = cl.open(large[0])
    genes = {f"g{i}": Gene(source.expression, i, None, 20_000) for i in range(500)}
    for budget, way in ((2**26, "external"), (2**33, "in memory")):
        plan = plan_pass(genes, budget=budget, workers=2, threads=2)
        assert plan.way == way
        paths = {name: name for name in genes}
        whole = GenePass(genes, paths, plan=plan, target=ToMemory(None))
        with scratch_folder(None, 0) as folder:
            stored = None
            if plan.way == "external":
                with pytest.raises(ValueError, match="a pass external was given None"):
                    whole.write_tasks()
                (store,) = whole.store_tasks(folder)
                assert len(dict(store.dask)) <= 100
                stored = dask.compute(store)
            tasks = whole.write_tasks(stored)
        assert len(tasks) <= 40


def damage(path, form):
    """Overwrite the chunk of genes 20 and 21 with zeros."""
    if form == "v3 zstd":
        (path / "X" / "c" / "0" / "10").write_bytes(bytes(20))
        return
    with h5py.File(path, "r") as root:
        info = root["X"].id.get_chunk_info_by_coord((0, 20))
    with path.open("r+b") as file:
        file.seek(info.byte_offset)
        file.write(bytes(info.size))


@pytest.mark.parametrize("form", ["gzip", "v3 zstd"])
@pytest.mark.parametrize("way", BUDGETS)
def test_dense_chunks_of_whole_genes_are_not_joined_to_the_whole(tmp_path, form, way):
    """Blocks stay near the size asked for; a chunk that holds none of the genes is not read."""
    matrix = numbers(np.random.default_rng(8), 3000 * 40, "f4").reshape(3000, 40)
    write(tmp_path / "a", matrix, form, chunks=(3000, 2))
    damage(tmp_path / "a", form)
    source = cl.open(tmp_path / "a")
    for most, width in ((3000, 2), (13_000, 4), (200_000, 40)):
        assert source.expression.blocks(most).blocks.chunks[1][0] == width
    plan = made_plan(way, 6_000, 3)
    files, _ = run(source.expression, plan, positions=[5, 0, 4])
    assert [files[name] for name in ("0:5", "1:0", "2:4")] == [
        matrix[:, gene].tobytes() for gene in (5, 0, 4)
    ]
    with pytest.raises(cl.DataError, match="X"):
        run(source.expression, plan, positions=[20])
