"""An output is a Dask collection: whatever takes one, or an array, takes an output."""

from __future__ import annotations

import pickle

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.base import tokenize

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo

NAMES = [
    "points/2d",
    "obs/cell_type/codes",
    "obs/cell_type/outliers",
    "obs/score/values",
    "var/CD3E",
    "connectivity/src",
    "manifest/obs",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "a.h5ad", n_cells=300, n_genes=50)


@pytest.fixture(scope="module")
def catalogue(path):
    return cl.outputs(path, cl.Options(dataset_name="a", created_at="2026-01-01T00:00:00Z"))


@pytest.fixture(scope="module")
def expected(catalogue):
    return cl.to_bytes(catalogue, NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_output_is_a_collection(name, catalogue, expected):
    output = catalogue[name]
    assert dask.is_dask_collection(output)
    (computed,) = dask.compute(output)
    (persisted,) = dask.persist(output)
    assert type(computed) is np.ndarray
    assert isinstance(persisted, da.Array)
    found = (computed, np.asarray(output), persisted.compute(), da.asarray(output).compute())
    assert {one.tobytes() for one in found} == {expected[name]}
    assert {one.dtype for one in found} == {output.dtype}


def test_outputs_compute_together_and_inside_containers(catalogue, expected):
    outputs = {name: catalogue[name] for name in NAMES}
    (computed,) = dask.compute({"nested": [outputs]})
    assert {name: one.tobytes() for name, one in computed["nested"][0].items()} == expected
    score = catalogue["obs/score/values"]
    assert dask.delayed(np.nanmax)(score).compute() == np.nanmax(score)


def test_an_output_has_what_an_array_has(catalogue):
    output, array = catalogue["points/2d"], catalogue["points/2d"].array
    assert (output.shape, output.ndim) == (array.shape, array.ndim)
    assert (output.dtype, output.chunks) == (array.dtype, array.chunks)
    assert da.asarray(output).name == array.name
    assert np.asarray(output, dtype=np.float64).dtype == np.float64
    assert tokenize(output) == tokenize(pickle.loads(pickle.dumps(output)))
    assert tokenize(output) != tokenize(catalogue["obs/score/values"])
    with pytest.raises(ValueError, match="computed, which makes a new array"):
        np.asarray(output, copy=False)


def test_xarray_takes_an_output(catalogue, expected):
    held = xr.DataArray(catalogue["points/2d"], dims=("cell", "axis"))
    assert held.values.tobytes() == expected["points/2d"]
    lazy = xr.DataArray(catalogue["points/2d"].array, dims=("cell", "axis"))
    assert lazy.chunks is not None
    # Together with what was made of it.
    both = xr.Dataset({"points": lazy, "distance": (lazy**2).sum("axis")}).compute()
    assert both["points"].values.tobytes() == expected["points/2d"]


@pytest.mark.parametrize("dump", [pickle.dumps, cloudpickle.dumps])
def test_outputs_and_their_arrays_pickle(dump, catalogue, expected):
    for name in NAMES:
        output = pickle.loads(dump(catalogue[name]))
        assert output.array.name == catalogue[name].array.name
        assert np.asarray(output).tobytes() == expected[name]
        array = pickle.loads(dump(catalogue[name].array))
        assert array.compute().tobytes() == expected[name]


def test_a_pickle_does_not_grow_with_what_was_built(path):
    catalogue = cl.outputs(path)
    before = len(pickle.dumps(catalogue))
    built = [catalogue[name].array for name in catalogue if not name.startswith("manifest/")]
    assert len(built) > 50
    # What was read meanwhile, labels and names of genes, travels.
    assert len(pickle.dumps(catalogue)) < before + 20_000


def test_tasks_keep_their_definition_whatever_is_computed_with_them(catalogue):
    """Fused tasks would differ, and a cluster takes each key for one thing."""
    found = {}
    for names in (NAMES[:1], NAMES[:3], NAMES):
        for statistics in (False, True):
            collections = [catalogue[name] for name in names]
            if statistics:
                collections += [one for c in collections for one in c.statistics.values()]
            for one in collections:
                tasks = one.__dask_optimize__(one.__dask_graph__(), one.__dask_keys__())
                for key, task in tasks.items():
                    assert found.setdefault(key, repr(task)) == repr(task)
    assert len(found) > 20


def test_outputs_and_other_arrays_are_computed_together_in_their_order(catalogue):
    names = catalogue.names("var")[:2]
    own = [da.arange(60, chunks=20) + i for i in range(3)]
    mixed = [own[0], catalogue[names[0]].array, own[1], catalogue[names[1]], own[2]]
    expected = [np.asarray(one) for one in mixed]
    for found, right in zip(dask.compute(*mixed), expected, strict=True):
        np.testing.assert_array_equal(found, right)
