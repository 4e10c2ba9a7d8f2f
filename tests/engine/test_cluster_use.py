"""What users do with a cluster: objects travel, calls nest, one key means one thing."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import time
from pathlib import Path
from threading import Thread, Timer

import anndata
import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo
from cellucid_lazy.engine.resources import Resources, detect_resources
from tests.data import writing
from tests.engine.test_clean_up import atlas, entries
from tests.helpers import files_of

OPTIONS = cl.Options(dataset_name="a", created_at="2026-01-01T00:00:00Z", var_quantization=8)
pytestmark = pytest.mark.long

# Threads of this process stand for workers where it does not matter.
QUIET = {"dashboard_address": ":0", "silence_logs": logging.CRITICAL}


@pytest.fixture(scope="module")
def client():
    """Two worker processes; what the scheduler says is logged in this one."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return cl.outputs(write_demo(folder / "a.h5ad", n_cells=400, n_genes=60), OPTIONS)


@pytest.fixture(scope="module")
def folder_of_threads(catalogue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("threads") / "out"
    with dask.config.set(scheduler="threads"):
        cl.to_directory(catalogue, folder, progress=False)
    return files_of(folder)


def test_one_key_has_one_definition(client, catalogue, tmp_path, caplog):
    """Persisted, computed, asked for as statistics and exported, in any order and with each other.

    The scheduler says "Detected different `run_spec`" where it is not so.
    """
    names = [name for name in catalogue if not name.startswith("var/")] + ["var/CD3E", "var/CD8A"]
    with caplog.at_level(logging.WARNING, "distributed.scheduler"):
        held = [catalogue["points/2d"].array.persist(), *client.persist([catalogue["var/CD3E"]])]
        catalogue["var/CD3E"].statistics["range"].compute()
        cl.to_directory(catalogue, tmp_path / "out", progress=False)
        held += [dask.persist(catalogue[name])[0] for name in names]
        dask.compute(*(catalogue[name] for name in names))
        for name in names:
            catalogue[name].array.compute()
            dask.compute(*catalogue[name].statistics.values())
        cl.to_bytes(catalogue, names)
        # Scratch for all that is marked as spillable.
        cl.to_directory(catalogue, tmp_path / "b", memory_budget="64MB", progress=False)
    assert "run_spec" not in caplog.text
    assert len(held) == len(names) + 2


def export_inside(catalogue, folder):
    cl.to_directory(catalogue, folder, progress=False)
    return cl.to_bytes(catalogue, ["var/CD3E"])["var/CD3E"]


def test_a_catalogue_and_its_outputs_are_submitted(client, catalogue, tmp_path, folder_of_threads):
    """Calls inside a task use the cluster, and do not block it."""
    expected = catalogue["var/CD3E"].compute()
    futures = [
        client.submit(export_inside, catalogue, tmp_path / str(i), pure=False) for i in range(4)
    ]
    assert {future.result(60) for future in futures} == {expected.tobytes()}
    for i in range(4):
        assert files_of(tmp_path / str(i)) == folder_of_threads
    assert client.submit(lambda output: output.shape, catalogue["points/2d"]).result() == (400, 2)
    assert client.compute(catalogue["var/CD3E"]).result().tobytes() == expected.tobytes()


def test_a_task_shows_no_progress(client, catalogue):
    """Nobody sees it; and waiting for futures one by one would block the worker."""
    futures = [
        client.submit(cl.to_bytes, catalogue, ["points/2d"], progress=True, pure=False)
        for _ in range(3)
    ]
    assert {len(future.result(30)["points/2d"]) for future in futures} == {8 * 400}


def test_an_export_as_one_task(client, catalogue, tmp_path, folder_of_threads, monkeypatch):
    monkeypatch.chdir(tmp_path)
    delayed = {
        name: cl.to_directory(catalogue, name, progress=False, compute=False)
        for name in ("computed", "submitted", "persisted", "pickled", "combined")
    }
    assert entries(tmp_path) == []
    monkeypatch.chdir("/")
    with dask.config.set(scheduler="threads"):
        assert delayed["computed"].compute() is None
    client.compute(delayed["submitted"]).result()
    client.gather(client.compute(delayed["persisted"].persist()))
    pickle.loads(pickle.dumps(delayed["pickled"])).compute()
    count = dask.delayed(lambda _, path: len(files_of(path)))
    assert count(delayed["combined"], tmp_path / "combined").compute() == len(folder_of_threads)
    assert entries(tmp_path) == sorted(delayed)
    for name in delayed:
        assert files_of(tmp_path / name) == folder_of_threads
    with pytest.raises(cl.ExportError, match="holds an earlier export"):
        cl.to_directory(catalogue, tmp_path / "pickled", compute=False)
    with pytest.raises(cl.OptionError, match="client= goes with compute=True"):
        cl.to_directory(catalogue, tmp_path / "other", compute=False, client=client)


def noting_process(block, folder):
    """Leave a file that names the process."""
    Path(folder, str(os.getpid())).touch()
    return block


def failing_once(block, folder):
    """Fail for the first block that is made, wherever that is."""
    try:
        Path(folder, "flag").touch(exist_ok=False)
    except FileExistsError:
        return block
    raise RuntimeError("the first time")


def made_by(function, folder):
    """A catalogue of a lazy matrix whose blocks are made by a function."""
    empty = da.zeros((400, 10), chunks=(100, 10), dtype=np.float32)
    matrix = empty.map_blocks(function, str(folder), dtype=np.float32, meta=empty._meta)
    with writing():
        adata = anndata.AnnData(matrix)
    adata.obsm["X_umap"] = np.random.default_rng(0).random((400, 2), dtype=np.float32)
    return cl.outputs(adata)


def test_a_client_can_be_named(client, tmp_path):
    workers = {str(pid) for pid in client.run(os.getpid).values()}
    catalogue = made_by(noting_process, tmp_path)
    with dask.config.set(scheduler="threads"):
        config = dict(dask.config.config)
        here = cl.to_bytes(catalogue, ["var/0"])
        assert entries(tmp_path) == [str(os.getpid())]
        assert cl.to_bytes(catalogue, ["var/0"], client=client) == here
        assert set(entries(tmp_path)) & workers
        with pytest.raises(
            cl.OptionError, match=r"client='tcp://.*a distributed\.Client is needed"
        ):
            cl.to_bytes(catalogue, ["var/0"], client="tcp://127.0.0.1:1")
        assert dask.config.config == config


def test_a_client_that_cannot_be_used_is_refused(client, catalogue):
    closed = Client(client.scheduler.address, set_as_default=False)
    closed.close()
    with pytest.raises(cl.ClusterError, match="is closed; connect again"):
        cl.to_bytes(catalogue, ["points/2d"], client=closed)

    async def in_async_code():
        async with Client(client.scheduler.address, asynchronous=True) as waiting:
            with pytest.raises(cl.OptionError, match="is asynchronous"):
                cl.to_bytes(catalogue, ["points/2d"])
            cl.to_bytes(catalogue, ["points/2d"], client=waiting)

    with pytest.raises(cl.OptionError, match="is asynchronous"):
        asyncio.run(in_async_code())


@pytest.mark.usefixtures("client")
def test_failed_tasks_are_run_again_where_retries_are_given(tmp_path):
    with pytest.raises(RuntimeError, match="the first time"):
        cl.to_bytes(made_by(failing_once, tmp_path), ["var/0"])
    (tmp_path / "flag").unlink()
    cl.to_directory(made_by(failing_once, tmp_path), tmp_path / "out", retries=2, progress=False)
    assert entries(tmp_path) == ["flag", "out"]
    with pytest.raises(cl.OptionError, match="retries='2': a whole number is needed"):
        cl.to_bytes(made_by(failing_once, tmp_path), ["var/0"], retries="2")


def test_a_plan_counts_all_workers():
    """More than the five that some versions list."""
    limit = "100MB"
    with (
        LocalCluster(
            n_workers=8, threads_per_worker=2, processes=False, memory_limit=limit, **QUIET
        ) as cluster,
        Client(cluster),
    ):
        cluster.scale(8)
        assert detect_resources() == Resources(2**26, workers=2, threads=16)


def test_workers_are_waited_for():
    """Jobs of a batch system begin one by one, after the client."""
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=False, **QUIET) as cluster,
        Client(cluster),
    ):
        with (
            dask.config.set({"cellucid_lazy.worker-timeout": "200ms"}),
            pytest.raises(cl.ClusterError, match=r"the cluster at .* has no worker after 0\.2 s"),
        ):
            detect_resources()
        begin = Timer(0.5, cluster.scale, [1])
        begin.start()
        try:
            assert detect_resources("1GB") == Resources(10**9, workers=1, threads=1)
        finally:
            begin.join()


@pytest.mark.parametrize("gone", ["cluster", "client"])
def test_a_cluster_that_goes_away_is_named(gone, tmp_path):
    out, failures = tmp_path / "out", []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **QUIET) as cluster,
        Client(cluster) as client,
    ):
        slow = atlas()

        def export():
            try:
                cl.to_directory(slow, out, progress=False, client=client)
            except BaseException as problem:
                failures.append(problem)

        exporting = Thread(target=export)
        exporting.start()
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".out.*.partial/var/*")):
            assert time.monotonic() < deadline
            assert exporting.is_alive()
            time.sleep(0.002)
        (cluster if gone == "cluster" else client).close()
        exporting.join(60)
    (problem,) = failures
    assert isinstance(problem, cl.ClusterError)
    assert "went away" in str(problem)
    assert "an earlier export stays" in str(problem)
    assert entries(tmp_path) == []
