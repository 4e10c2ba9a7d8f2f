"""What every kind promises: keys, names, outputs, rows and manifests agree and pickle."""

from __future__ import annotations

import json
import pickle

import dask
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.kinds import KINDS
from cellucid_lazy.names import kind_of
from tests import data
from tests.helpers import raise_if_dask_computes
from tests.kinds import genes_detected

ALL = {**KINDS, genes_detected.prefix: genes_detected}
CREATED = {"created_at": "2026-01-02T03:04:05Z"}
QUANTIZED = {"var_quantization": 8, "obs_continuous_quantization": 8}
FEW = ("points/2d", "vectors/*", "obs/score/*", "obs/sample/codes", "var/CD3*", "manifest/*")
CASES = {
    "everything": (cl.Options(compression=6, **CREATED), ()),
    "few, 8 bit": (cl.Options(**QUANTIZED, **CREATED), FEW),
    "few, live": (cl.Options(manifest_shape="live", normalize_embeddings=False, **CREATED), FEW),
    "edges": (cl.Options(**CREATED), ("connectivity/src",)),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    adata = data.atlas(80, 8)
    return data.write_h5ad(adata, tmp_path_factory.mktemp("contract") / "a.h5ad")


@pytest.fixture(params=CASES)
def dataset(request, path, monkeypatch):
    monkeypatch.setitem(KINDS, genes_detected.prefix, genes_detected)
    options, patterns = CASES[request.param]
    catalogue = cl.outputs(path, options)
    return (catalogue.select(*patterns) if patterns else catalogue).dataset


@pytest.fixture(params=ALL)
def kind(request):
    return ALL[request.param]


def names_of(kind, dataset):
    return list(kind.names(dataset, kind.keys(dataset)))


def test_names_are_unique_and_made_of_the_keys(kind, dataset):
    keys = list(kind.keys(dataset))
    assert len(set(keys)) == len(keys)
    names = names_of(kind, dataset)
    texts = [str(name) for name in names]
    assert len(set(texts)) == len(texts)
    assert {kind_of(text) for text in texts} <= {kind.prefix}
    assert {name.key for name in names} == set(keys)


def test_a_choice_is_what_keys_return(kind, dataset):
    for keys in ((), tuple(kind.keys(dataset))[-1:]):
        assert tuple(kind.keys(dataset.choose(kind.prefix, keys))) == keys


def test_what_a_viewer_requires_is_offered_and_stays(kind, dataset):
    required = tuple(kind.required(dataset))
    assert set(required) <= set(kind.keys(dataset.choose(kind.prefix, required)))
    completed = dataset.choose(kind.prefix, required)
    assert tuple(kind.required(completed)) == required


def test_outputs_are_what_their_names_and_arrays_say(kind, dataset):
    for name in names_of(kind, dataset):
        output = kind.build(dataset, name)
        assert (output.name, output.kind) == (str(name), kind.prefix)
        array = output.array
        assert array.dtype == output.dtype
        assert np.array_equal(array.shape, output.shape, equal_nan=True)
        assert all(len(chunks) == 1 for chunks in array.chunks[1:])
        assert (output.manifest is not None) == (kind.prefix == "manifest")
        for statistic in output.statistics.values():
            assert isinstance(statistic, dask.array.Array)


def test_rows_compute_nothing_and_agree_with_the_outputs(kind, dataset):
    names = names_of(kind, dataset)
    with raise_if_dask_computes():
        rows = {row.name: row for row in kind.rows(dataset, names)}
    for name in names:
        output, row = kind.build(dataset, name), rows.get(str(name))
        if row is None:
            assert any(row.each for row in rows.values())
            continue
        if output.manifest is None:
            assert output.dtype.name in row.dtype.split("|")
            assert np.array_equal(row.shape, output.shape, equal_nan=True)
        # ``codes.u8|u16`` where only reading can tell which.
        assert (output.path or "") in (row.file.removesuffix("|u16"), row.file.replace("u8|", ""))


def test_outputs_and_manifests_pickle(kind, dataset):
    """With the standard library alone, as other processes need it."""
    for name in names_of(kind, dataset):
        output = kind.build(dataset, name)
        copy = pickle.loads(pickle.dumps(output))
        assert copy.array.name == output.array.name
    for build in kind.manifests(dataset).values():
        manifest = build()
        needs = list(manifest.needs)
        values = dict(zip(needs, dask.compute(*manifest.needs.values()), strict=True))
        octets = manifest.encode(values)
        assert pickle.loads(pickle.dumps(manifest)).encode(values) == octets
        assert isinstance(json.loads(octets), dict)


def test_an_output_computes_what_its_bytes_are(kind, dataset):
    names = [str(name) for name in names_of(kind, dataset)]
    found = cl.to_bytes(cl.Catalogue(dataset), names)
    for name in names_of(kind, dataset):
        assert kind.build(dataset, name).compute().tobytes() == found[str(name)], name
