"""A cluster of worker processes makes the bytes that threads make, also when workers die."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import Counter
from threading import Thread

import dask
import h5py
import pytest
from distributed import Client, LocalCluster

import cellucid_lazy as cl
from cellucid_lazy.engine import resources
from cellucid_lazy.engine.resources import detect_resources
from cellucid_lazy.source import BlockSizes
from tests import data
from tests.engine.test_clean_up import N_GENES, STRATEGIES, atlas, entries, made_gene
from tests.helpers import decoded, files_of, small_grid, with_sizes

OPTIONS = cl.Options(
    compression=6, var_quantization=16, dataset_name="a", created_at="2026-01-02T03:04:05Z"
)
FORMS = ("h5ad", "in memory")
# A few blocks of everything: the scheduler takes a while for each task.
FEW = BlockSizes(array_bytes=2_000, matrix_values=1_500, min_gene_values=100, max_gene_values=1_500)


@pytest.fixture(scope="module")
def client():
    """Two worker processes of two threads, started anew when they die."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ports and of the event loop: not ours
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def in_few_blocks(source):
    return with_sizes(cl.outputs(source, OPTIONS), FEW)


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory):
    """The same atlas in each form, in small blocks; sums run over several ranges."""
    folder = tmp_path_factory.mktemp("sources")
    adata = data.atlas(slim=True)
    sources = {
        "h5ad": data.write_chunked(adata, folder / "a.h5ad"),
        "in memory": adata,
    }
    with pytest.MonkeyPatch.context() as patch:
        small_grid(patch, 150)
        yield {form: in_few_blocks(source) for form, source in sources.items()}


@pytest.fixture(scope="module")
def expected(catalogues):
    """What threads make."""
    catalogue = catalogues["h5ad"]
    with dask.config.set(scheduler="threads"):
        return cl.to_bytes(catalogue, catalogue)


def test_a_plan_is_for_the_cluster(client):
    assert detect_resources("300MB") == resources.Resources(300_000_000, workers=2, threads=4)
    workers = client.scheduler_info()["workers"].values()
    limit = min(worker["memory_limit"] for worker in workers)
    assert detect_resources().budget == max(limit // 4, 2**26)


@pytest.mark.parametrize("form", FORMS)
def test_workers_make_the_same_bytes(form, client, catalogues, expected):
    found = cl.to_bytes(catalogues[form], catalogues[form])
    assert [name for name in expected if found[name] != expected[name]] == []


def test_arrays_compute_on_the_workers(client, catalogues, expected):
    catalogue = catalogues["h5ad"]
    names = [*catalogue.names("points"), *catalogue.names("obs"), "var/CD3E", "connectivity/src"]
    arrays = [catalogue[name].array for name in names]
    futures = client.compute(arrays)
    persisted = client.persist(arrays)
    for name, future, array in zip(names, futures, persisted, strict=True):
        assert future.result().tobytes() == array.compute().tobytes() == expected[name]


@pytest.mark.parametrize("budget", ["1GB", "20kB"])
def test_workers_write_the_same_folder(budget, client, catalogues, tmp_path, monkeypatch):
    """In memory, and by way of scratch that both workers see."""
    monkeypatch.setattr(resources, "_MIN_BUDGET", 1)
    catalogue = catalogues["h5ad"]
    strategy = "external" if budget == "20kB" else "in memory"
    assert f"genes, {strategy}: " in cl.explain(catalogue, memory_budget=budget, details=True)
    files = {}
    for scheduler in ("threads", "dask.distributed"):
        out = tmp_path / scheduler
        with dask.config.set(scheduler=scheduler):
            cl.to_directory(catalogue, out, memory_budget=budget, scratch=tmp_path, progress=False)
        files[scheduler] = decoded(files_of(out))
    assert files["threads"] == files["dask.distributed"]
    assert entries(tmp_path) == ["dask.distributed", "threads"]


def _watch_text():
    """Note the reads of text in this worker."""
    from cellucid_lazy.readers.hdf5 import Hdf5Array

    def watched(reader, *selection):
        Hdf5Array.watched.append((reader.key, str(selection)))
        return Hdf5Array.unwatched(reader, *selection)

    Hdf5Array.watched, Hdf5Array.unwatched = [], Hdf5Array.read
    Hdf5Array.read = watched


def _unwatch_text():
    from cellucid_lazy.readers.hdf5 import Hdf5Array

    Hdf5Array.read = Hdf5Array.unwatched
    return Hdf5Array.watched


def test_workers_read_each_block_once_per_pass(client, catalogues, expected):
    catalogue = in_few_blocks(catalogues["h5ad"].source)
    names = ["obs/sample/codes", "obs/sample/outliers", "var/CD3E", "manifest/obs"]
    client.run(_watch_text)
    try:
        found = cl.to_bytes(catalogue, names)
    finally:
        reads = [one for of_worker in client.run(_unwatch_text).values() for one in of_worker]
    assert found == {name: expected[name] for name in names}
    text = Counter(one for one in reads if one[0].startswith("/obs/sample"))
    assert len(text) > 1
    assert set(text.values()) == {2}  # its labels, then its codes
    others = Counter(one for one in reads if one[0] in ("/X/data", "/obsm/X_pca"))
    assert len(others) > 2
    assert set(others.values()) == {1}


def test_an_error_of_a_worker_leaves_nothing(client, tmp_path):
    path = data.write_chunked(data.atlas(slim=True), tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as root:
        root["X/indices"][3] = 999
    catalogue = in_few_blocks(path)
    with pytest.raises(cl.DataError, match=r"a\.h5ad: X: .*999"):
        cl.to_directory(catalogue, tmp_path / "out", progress=False)
    assert entries(tmp_path) == ["a.h5ad"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_export_survives_the_death_of_a_worker(tmp_path, client, strategy):
    """Its results are lost, so its tasks run again and meet the files they wrote before."""
    scratch, failures = tmp_path / "scratch", []
    scratch.mkdir()
    options = {"memory_budget": STRATEGIES[strategy], "scratch": scratch, "progress": False}

    def export():
        try:
            cl.to_directory(atlas(), tmp_path / "out", **options)
        except BaseException as problem:
            failures.append(problem)

    exporting = Thread(target=export)
    exporting.start()
    victim = next(iter(client.run(os.getpid).values()))
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(".out.*.partial/var/*.gz"))) < 60 and exporting.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(victim, signal.SIGKILL)
    exporting.join(60)
    assert not exporting.is_alive()
    assert failures == []
    assert entries(scratch) == []
    assert entries(tmp_path) == ["out", "scratch"]
    found = decoded(files_of(tmp_path / "out" / "var"))
    assert len(found) == N_GENES
    for gene in range(0, N_GENES, 37):
        assert found[f"{gene}.values.f32.gz"] == made_gene(gene).tobytes()
