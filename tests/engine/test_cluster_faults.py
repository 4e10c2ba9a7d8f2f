"""A cluster that loses a worker, or fails, in the middle of an export."""

from __future__ import annotations

import gzip
import os
import signal
import time
from threading import Thread

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import cellucid_lazy as cl
from tests.engine.test_clean_up import LEAST, TaskError, atlas
from tests.engine.test_same_bytes import files_of


@pytest.fixture(scope="module")
def client():
    """Two workers that are started anew when they die."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as made,
    ):
        yield made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("memory_budget", [LEAST, "8GB"])
def test_an_export_survives_the_death_of_a_worker(tmp_path, client, memory_budget):
    """Its results are lost, so its tasks run again and meet the files they wrote before."""
    failures = []
    (tmp_path / "scratch").mkdir()

    def export():
        try:
            cl.to_directory(
                atlas(),
                tmp_path / "out",
                memory_budget=memory_budget,
                scratch=tmp_path / "scratch",
                progress=False,
            )
        except BaseException as problem:
            failures.append(problem)

    worker = Thread(target=export)
    worker.start()
    victim = client.run(os.getpid)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(".out.*.partial/var/*.gz"))) < 60 and worker.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(next(iter(victim.values())), signal.SIGKILL)
    worker.join(60)
    assert not worker.is_alive()
    assert failures == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "scratch"]
    found = files_of(tmp_path / "out" / "var")
    names = [f"{gene}.values.f32.gz" for gene in range(1000)]
    assert set(found) == set(names)
    rows = np.arange(12_000) * 7
    for gene in range(0, 1000, 37):
        expected = ((rows + gene) % 11).astype(np.float32)
        assert gzip.decompress(found[names[gene]]) == expected.tobytes()


@pytest.mark.filterwarnings("ignore")
def test_a_failing_task_leaves_nothing_behind(tmp_path, client):
    (tmp_path / "scratch").mkdir()
    with pytest.raises(TaskError, match="told to fail"):
        cl.to_directory(
            atlas(TaskError),
            tmp_path / "out",
            memory_budget=LEAST,
            scratch=tmp_path / "scratch",
            progress=False,
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["scratch"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert da.ones(3).sum().compute() == 3
