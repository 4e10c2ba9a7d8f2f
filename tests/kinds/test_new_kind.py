"""A kind that is added to the table is offered, shown, computed and exported like the others."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.kinds import KINDS
from tests import data
from tests.kinds import genes_detected


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, genes_detected.prefix, genes_detected)
    return data.write_h5ad(data.atlas(60, 8, slim=True), tmp_path / "a.h5ad")


@pytest.fixture
def right():
    return (data.atlas(60, 8, slim=True).X != 0).sum(axis=1).A1.astype(np.uint32)


def test_it_is_offered_and_shown(path):
    catalogue = cl.outputs(path)
    assert list(catalogue)[-1] == "cells/n_genes"
    assert catalogue.names("cells") == ("cells/n_genes",)
    assert "cells/n_genes  " in repr(catalogue)
    assert "cells/n_genes.bin" in repr(catalogue)
    assert list(catalogue.select("cells/*")) == ["cells/n_genes"]
    assert "manifest/cells" in catalogue
    assert "manifest/cells" not in catalogue.select("points/*", "manifest/*")
    assert "cells (1)" in cl.explain(catalogue, details=True)


def test_it_becomes_bytes(path, right):
    found = cl.to_bytes(cl.outputs(path), ["cells/n_genes", "manifest/cells"])
    np.testing.assert_array_equal(np.frombuffer(found["cells/n_genes"], np.uint32), right)
    assert json.loads(found["manifest/cells"])["fields"] == ["n_genes"]


def test_it_is_exported(path, right, tmp_path):
    catalogue = cl.outputs(path, cl.Options(compression=1)).select("cells/*", "points/2d")
    cl.to_directory(catalogue, tmp_path / "out")
    octets = (tmp_path / "out/cells/n_genes.bin.gz").read_bytes()
    np.testing.assert_array_equal(np.frombuffer(gzip.decompress(octets), np.uint32), right)
    manifest = json.loads((tmp_path / "out/cells_manifest.json").read_text())
    assert manifest == {"fields": ["n_genes"], "pathPattern": "cells/{key}.bin.gz"}
    cl.to_directory(catalogue.select("points/*"), tmp_path / "other")
    assert not (tmp_path / "other/cells_manifest.json").exists()


def test_it_is_right_for_a_view(path):
    with data.writing():
        view = data.atlas(60, 8, slim=True)[::-2, [3, 1]]
    counts = cl.outputs(view)["cells/n_genes"].compute()
    np.testing.assert_array_equal(counts, (view.X != 0).sum(axis=1).A1)
