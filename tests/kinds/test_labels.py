"""Labels that only reading tells are read once; columns that cannot be shown are left out."""

from __future__ import annotations

import json
import pickle

import anndata
import dask
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.kinds import categories
from tests import data
from tests.helpers import Reads

TEXT = ("sample", "doublet", "maybe_flag", "maybe_text")


@pytest.fixture
def computations(monkeypatch):
    """Count the dask computations that find labels."""
    found = []

    def compute(*arrays, **options):
        found.append(len(arrays))
        return dask.compute(*arrays, **options)

    monkeypatch.setattr(categories, "dask", type("counted", (), {"compute": compute}))
    return found


@pytest.fixture
def path(tmp_path):
    return data.write_h5ad(data.atlas(60, 4), tmp_path / "a.h5ad")


def test_an_access_reads_one_column(path, monkeypatch):
    catalogue = cl.outputs(path)
    with Reads(monkeypatch) as reads:
        assert catalogue["obs/sample/codes"].labels == ("B/naïve", "NK", "T cells", "unknown")
    assert reads.touched() <= {"obs/sample", "obs/sample/values", "obs/sample/mask"}
    with Reads(monkeypatch) as reads:
        assert catalogue["obs/sample/outliers"].array.shape == (60,)
        assert catalogue.select("obs/*")["obs/sample/codes"].labels[1] == "NK"
    assert reads.boxes == []


@pytest.mark.parametrize("call", ["to_bytes", "to_directory"])
def test_a_call_finds_all_labels_in_one_computation(call, path, computations, tmp_path):
    catalogue = cl.outputs(path)
    names = [f"obs/{key}/codes" for key in TEXT[:2]]
    for expected in ([2 if call == "to_bytes" else 4], []):
        if call == "to_bytes":
            cl.to_bytes(catalogue, names)
        else:
            cl.to_directory(catalogue, tmp_path / "out", overwrite=True, progress=False)
        assert computations == expected
        computations.clear()


def test_a_call_finds_used_codes_of_a_view_in_one_computation(path, computations):
    with data.writing():
        view = anndata.read_h5ad(path, backed="r")[::3]
    columns = cl.open(view).obs.values()
    names = [f"obs/{one.name}/codes" for one in columns if one.kind == "category"]
    cl.to_bytes(cl.outputs(view), names)
    assert len(computations) == 1


def test_labels_travel(path, computations):
    catalogue = cl.outputs(path)
    labels = catalogue["obs/sample/codes"].labels
    copy = pickle.loads(pickle.dumps(catalogue.select("obs/sample/*")))
    computations.clear()
    assert copy["obs/sample/codes"].labels == labels
    assert computations == []


def test_a_column_that_cannot_be_shown_is_named_once_and_left_out(tmp_path):
    adata = data.atlas(60, 4, slim=True)
    adata.obs["lists"] = [[i] for i in range(60)]
    catalogue = cl.outputs(adata)
    with pytest.raises(cl.FieldError, match="obs column 'lists': its values cannot be categories"):
        catalogue["obs/lists/codes"]
    with pytest.warns(cl.LeftOutWarning, match="'lists'") as given:
        cl.to_directory(catalogue, tmp_path / "out", progress=False)
    assert len(given) == 1
    files = {file.name for file in (tmp_path / "out" / "obs").iterdir()}
    assert not any("lists" in name for name in files)
    rows = json.loads((tmp_path / "out/obs_manifest.json").read_text())["_categoricalFields"]
    fields = json.loads((tmp_path / "out/dataset_identity.json").read_text())["obs_fields"]
    categories_of = [field["key"] for field in fields if field["kind"] == "category"]
    assert [row[0] for row in rows] == categories_of == ["cell type", "sample", "maybe_flag"]


def test_too_many_categories_for_8_bits(tmp_path):
    options = cl.Options(obs_categorical_dtype="uint8")
    catalogue = cl.outputs(data.atlas(400, 4), options)
    with pytest.raises(cl.FieldError, match=r"obs column 'many': 300 categories, .*'auto'"):
        catalogue["obs/many/codes"]


def test_obsm_arrays_are_read_twice_outside_of_a_call_only(monkeypatch):
    catalogue = cl.outputs(data.atlas(60, 4, slim=True))
    monkeypatch.setattr("cellucid_lazy.kinds.dataset._TWO_PASSES_ABOVE", 100)
    first, again = catalogue.dataset.two_passes("X_pca")
    assert first.name != again.name
    np.testing.assert_array_equal(first.compute(), again.compute())
    called = catalogue.dataset.for_call()
    first, again = called.two_passes("X_pca")
    assert first is again
    points = cl.to_bytes(catalogue, ["points/2d"])["points/2d"]
    assert points == catalogue["points/2d"].compute().tobytes()
