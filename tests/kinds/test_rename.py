"""Other names for obs columns and genes, where theirs share a file or have no ASCII letter."""

from __future__ import annotations

import json
import pickle

import anndata
import numpy as np
import pandas as pd
import pytest

import cellucid_lazy as cl
from cellucid_lazy.cli import main
from tests.data import writing
from tests.helpers import files_of

RNG = np.random.default_rng(0)
RENAME = {"obs/细胞类型": "cell type", "obs/样本": "sample", "var/CD3 (UCHT1)": "CD3 protein"}


def atlas(genes=("CD3 (UCHT1)", "CD3_UCHT1", "B")):
    obs = pd.DataFrame(
        {"细胞类型": ["T", "B"] * 15, "样本": ["one", "two", "one"] * 10, "score": RNG.random(30)},
        index=[str(i) for i in range(30)],
    )
    matrix, umap = RNG.random((30, 3), dtype=np.float32), RNG.random((30, 2), dtype=np.float32)
    with writing():
        adata = anndata.AnnData(matrix, obs=obs, obsm={"X_umap": umap})
    adata.var_names = list(genes)
    return adata


@pytest.mark.parametrize("form", ["object", "h5ad"])
def test_new_names(form, tmp_path):
    adata = atlas()
    source = adata
    if form == "h5ad":
        source = tmp_path / "a.h5ad"
        with writing():
            adata.write_h5ad(source)
    with pytest.raises(cl.CollisionError, match=r"'field'.*rename one: Options\(rename="):
        cl.to_directory(cl.outputs(source), tmp_path / "out", progress=False)
    catalogue = cl.outputs(source, cl.Options(rename=RENAME))
    assert catalogue.names("var") == ("var/CD3 protein", "var/CD3_UCHT1", "var/B")
    assert "obs/cell type/codes" in catalogue
    assert catalogue["obs/sample/codes"].labels == ("one", "two")
    cl.to_directory(catalogue, tmp_path / "out", progress=False)
    found = files_of(tmp_path / "out")
    assert found["var/CD3_protein.values.f32"] == adata.X[:, 0].tobytes()
    manifest = json.loads(found["obs_manifest.json"])
    assert [row[0] for row in manifest["_categoricalFields"]] == ["cell type", "sample"]
    again = pickle.loads(pickle.dumps(catalogue))
    assert list(again) == list(catalogue)
    assert hash(again.options) == hash(catalogue.options)
    chosen = cl.outputs(
        source, cl.Options(rename=RENAME, obs_keys=["sample"], genes=["CD3 protein"])
    )
    assert chosen.names("obs") == ("obs/sample/codes", "obs/sample/outliers")
    assert chosen.names("var") == ("var/CD3 protein",)


def test_names_that_are_not_there_or_taken():
    adata = atlas()
    with pytest.raises(cl.MissingKeyError, match="no obs column 'scor'"):
        cl.outputs(adata, cl.Options(rename={"obs/scor": "a"}))
    with pytest.raises(cl.MissingKeyError, match="no gene 'C'"):
        cl.outputs(adata, cl.Options(rename={"var/C": "a"})).names("var")
    with pytest.raises(cl.CollisionError, match="two obs columns would be 'score'"):
        cl.outputs(adata, cl.Options(rename={"obs/样本": "score"}))
    for given in ({"points/2d": "a"}, {"score": "a"}, {"obs/": "a"}, {"obs/score": ""}, 3, "obs/a"):
        with pytest.raises(cl.OptionError, match="rename"):
            cl.Options(rename=given)


def test_names_that_differ_in_case_only_are_told(tmp_path):
    adata = atlas(genes=("Dl", "dl", "B"))
    adata.obs.columns = ["a", "b", "c"]
    with pytest.warns(UserWarning, match="'var/Dl' and 'var/dl' differ in case only"):
        cl.to_directory(cl.outputs(adata), tmp_path / "out", progress=False)
    renamed = cl.outputs(adata, cl.Options(rename={"var/dl": "dl lower"}))
    cl.to_directory(renamed, tmp_path / "out", overwrite=True, progress=False)


def test_on_the_command_line(tmp_path):
    with writing():
        atlas().write_h5ad(tmp_path / "a.h5ad")
    words = [word for old, new in RENAME.items() for word in ("--rename", f"{old}={new}")]
    assert main(["export", str(tmp_path / "a.h5ad"), str(tmp_path / "out"), *words]) == 0
    assert "obs/cell_type.codes.u8" in files_of(tmp_path / "out")
