"""A real cluster of two worker processes gives the bytes that threads give."""

from __future__ import annotations

import warnings

import dask
import pytest
from distributed import Client, LocalCluster

import cellucid_lazy as cl
from tests import data
from tests.helpers import small_blocks

CREATED = "2026-01-02T03:04:05Z"
OPTIONS = cl.Options(compression=6, var_quantization=16, created_at=CREATED)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("workers"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ports and of the event loop: not ours
        with (
            dask.config.set({"distributed.worker.memory.spill": False}),
            LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                local_directory=folder,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    small_blocks(monkeypatch)


def by_threads(call):
    with dask.config.set(scheduler="threads"):
        return call()


@pytest.fixture
def sources(tmp_path):
    adata = data.atlas(slim=True)
    return {
        "h5ad": data.write_chunked(adata, tmp_path / "a.h5ad"),
        "zarr": data.write_zarr(adata, tmp_path / "a.zarr", zarr_format=3),
        "in memory": adata,
    }


FORMS = ("h5ad", "zarr", "in memory")


@pytest.mark.parametrize("form", FORMS)
def test_to_bytes(form, client, sources):
    catalogue = cl.outputs(sources[form], OPTIONS)
    expected = by_threads(lambda: cl.to_bytes(catalogue, catalogue, 1))
    workers = client.run(lambda: __import__("os").getpid())
    assert len(set(workers.values())) == 2
    assert cl.to_bytes(catalogue, catalogue, 1) == expected


def _watch_text():
    """Count the reads of text in this worker."""
    from cellucid_lazy.readers.hdf5_strings import Hdf5Strings

    read = Hdf5Strings.read

    def watched(reader, *selection):
        Hdf5Strings.watched.append((reader.key, str(selection)))
        return read(reader, *selection)

    Hdf5Strings.watched = []
    Hdf5Strings.unwatched = read
    Hdf5Strings.read = watched


def _unwatch_text():
    from cellucid_lazy.readers.hdf5_strings import Hdf5Strings

    Hdf5Strings.read = Hdf5Strings.unwatched
    return Hdf5Strings.watched


def test_text_is_read_once_by_the_workers(client, sources):
    names = ["obs/sample/codes", "obs/sample/outliers", "obs/maybe_flag/codes", "manifest/obs"]
    client.run(_watch_text)
    try:
        found = cl.to_bytes(cl.outputs(sources["h5ad"], OPTIONS), names)
    finally:
        reads = [one for told in client.run(_unwatch_text).values() for one in told]
    reads = [one for one in reads if one[0].startswith("/obs/sample")]
    assert len(reads) > 1
    assert len(set(reads)) == len(reads)
    assert found == by_threads(lambda: cl.to_bytes(cl.outputs(sources["h5ad"], OPTIONS), names))


@pytest.mark.parametrize("form", FORMS)
def test_arrays(form, client, sources):
    catalogue = cl.outputs(sources[form], OPTIONS)
    names = [*catalogue.names("points"), *catalogue.names("obs"), "var/CD3E", "connectivity/src"]
    arrays = [catalogue[name].array for name in names]
    expected = by_threads(lambda: dask.compute(*arrays))
    futures = client.compute(arrays)
    persisted = [array.compute() for array in client.persist(arrays)]
    for future, kept, right in zip(futures, persisted, expected, strict=True):
        assert future.result().tobytes() == kept.tobytes() == right.tobytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("budget", ["1GB", "20kB"])
def test_to_directory(budget, form, client, sources, tmp_path, monkeypatch):
    """In memory, and by way of scratch that both workers see."""
    monkeypatch.setattr("cellucid_lazy.budget._LEAST_BUDGET", 1)
    catalogue = cl.outputs(sources[form], OPTIONS)
    assert cl.explain(catalogue, memory_budget=budget).startswith(
        "external" if budget == "20kB" else "in memory"
    )
    for name in ("threads", "cluster"):
        with dask.config.set(scheduler="threads" if name == "threads" else None):
            cl.to_directory(catalogue, tmp_path / name, memory_budget=budget, scratch=tmp_path)
    found, expected = (
        {
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("cluster", "threads")
    )
    assert found == expected
    assert "obs_manifest.json" in found
    left = {one.name for one in tmp_path.iterdir()} - {"a.h5ad", "a.zarr"}
    assert left == {"threads", "cluster"}


def test_an_error_of_a_worker_is_told_and_leaves_nothing(client, sources, tmp_path):
    path = sources["h5ad"]
    with data.h5py.File(path, "r+") as root:
        root["X/indices"][3] = 999
    catalogue = cl.outputs(path, OPTIONS)
    with pytest.raises(cl.DataError, match=r"a\.h5ad: X: .*999"):
        cl.to_directory(catalogue, tmp_path / "out")
    assert {one.name for one in tmp_path.iterdir()} == {"a.h5ad", "a.zarr"}
