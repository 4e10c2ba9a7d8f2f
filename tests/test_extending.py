"""The examples of docs/extending.md run as they are, from the table to the files."""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import pickle
import re
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy import readers
from cellucid_lazy.codecs import CODECS
from cellucid_lazy.kinds import KINDS
from cellucid_lazy.sinks import SINKS
from tests import data

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
NAMES = ("kind", "sink", "codec", "storage")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Import an example as a module, and restore the tables afterwards."""
    for table in (KINDS, SINKS, CODECS):
        for key in table:
            monkeypatch.setitem(table, key, table[key])
    before = {id(table): set(table) for table in (KINDS, SINKS, CODECS)}
    monkeypatch.setattr(readers, "STORAGES", readers.STORAGES)
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(name):
        module = f"example_of_a_{name}"
        (tmp_path / f"{module}.py").write_text(EXAMPLES[NAMES.index(name)])
        monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.import_module(module)

    yield load
    for table in (KINDS, SINKS, CODECS):
        for key in set(table) - before[id(table)]:
            del table[key]


@pytest.fixture
def adata():
    return data.atlas(60, 8, slim=True)


@pytest.fixture
def path(adata, tmp_path):
    return data.write_h5ad(adata, tmp_path / "a.h5ad")


@pytest.mark.parametrize("code", EXAMPLES, ids=NAMES)
def test_an_example_is_short(code):
    assert sum(bool(line.strip()) for line in code.splitlines()) < 40


def test_a_kind_is_shown_selected_computed_and_exported(example, adata, path, tmp_path):
    example("kind")
    right = np.asarray((adata.X != 0).sum(axis=1)).ravel()
    catalogue = cl.outputs(path, cl.Options(compression=1))
    assert "cells/n_genes.bin" in repr(catalogue)
    assert list(catalogue.select("cells/*")) == ["cells/n_genes"]
    assert "cells (1)" in cl.explain(catalogue, details=True)
    files = cl.to_bytes(catalogue, ["cells/n_genes", "manifest/cells"])
    np.testing.assert_array_equal(np.frombuffer(files["cells/n_genes"], "<u4"), right)
    assert json.loads(files["manifest/cells"]) == {"fields": ["n_genes"]}
    cl.to_directory(catalogue.select("cells/*", "obs/score/*"), tmp_path / "out")
    written = gzip.decompress((tmp_path / "out/cells/n_genes.bin.gz").read_bytes())
    assert written == files["cells/n_genes"]
    assert json.loads((tmp_path / "out/cells_manifest.json").read_text())["fields"] == ["n_genes"]


def test_a_sink_receives_a_whole_export(example, path, tmp_path):
    example("sink")
    catalogue = cl.outputs(path, cl.Options(created_at="2026-01-02T03:04:05Z"))
    cl.to_directory(catalogue, tmp_path / "out")
    cl.to_directory(catalogue, f"zip://{tmp_path}/out.zip")
    folder = {
        file.relative_to(tmp_path / "out").as_posix(): file.read_bytes()
        for file in (tmp_path / "out").rglob("*.*")
    }
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == folder
    with pytest.raises(cl.ExportError, match="is there already"):
        cl.to_directory(catalogue, f"zip://{tmp_path}/out.zip")


def test_a_sink_is_aborted_when_the_work_fails(example, path, tmp_path, monkeypatch):
    module = example("sink")
    aborted = []
    monkeypatch.setattr(module.ZipSink, "abort", lambda sink: aborted.append(sink.path.name))
    whole = cl.outputs(path)
    assert "var/CD3E" in whole  # the names of genes are read before the file changes
    catalogue = whole.select("obs/score/*")
    with h5py.File(path, "r+") as root:
        root["obs/score"][0] = 1.0
    with pytest.raises(cl.DataError, match="changed since it was opened"):
        cl.to_sink(catalogue, module.ZipSink(f"zip://{tmp_path}/out.zip"))
    assert aborted == ["out.zip"]
    assert not (tmp_path / "out.zip").exists()


def test_a_codec_is_chosen_by_its_name(example, path, tmp_path):
    example("codec")
    catalogue = cl.outputs(path, cl.Options(compression="bzip2:9"))
    cl.to_directory(catalogue, tmp_path / "out")
    plain = cl.to_bytes(catalogue, ["points/2d", "var/CD3E"])
    for name, file in (("points/2d", "points_2d.bin"), ("var/CD3E", "var/CD3E.values.f32")):
        assert bz2.decompress((tmp_path / f"out/{file}.bz2").read_bytes()) == plain[name]
    identity = json.loads((tmp_path / "out/dataset_identity.json").read_text())
    assert identity["embeddings"]["files"]["2d"] == "points_2d.bin.bz2"


def test_a_storage_is_opened_and_exported(example, adata, path, tmp_path):
    example("storage")
    with h5py.File(path, "r") as one, h5py.File(tmp_path / "all.h5", "w") as root:
        one.copy(one["/"], root.create_group("mouse"), "lung")
    source = cl.open(f"hdf5://{tmp_path}/all.h5#mouse/lung")
    assert (source.storage, source.n_cells, source.n_genes) == ("hdf5-group", 60, 8)
    assert pickle.loads(pickle.dumps(source)).n_cells == 60
    names = ["points/2d", "obs/score/values", "var/CD3E"]
    assert cl.to_bytes(cl.outputs(source), names) == cl.to_bytes(cl.outputs(path), names)
