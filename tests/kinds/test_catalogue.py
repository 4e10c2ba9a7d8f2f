"""Catalogues, genes and options: what is chosen, compared and refused."""

from __future__ import annotations

import json
import pickle
import re

import anndata
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.codecs import CODECS
from cellucid_lazy.codecs.gzip import Gzip
from cellucid_lazy.sinks.memory import MemorySink
from tests import data


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogue") / "a.h5ad"
    return cl.outputs(data.write_h5ad(data.atlas(60, 8), path))


def test_a_selection_keeps_the_order_of_the_catalogue(catalogue):
    selected = catalogue.select("var/GENE5", "var/CD3*", "obs/score/*", "points/2d")
    names = ["points/2d", "obs/score/values", "var/CD3E", "var/CD3D", "var/GENE5"]
    assert list(selected) == names
    assert selected.names("connectivity") == ()


def test_a_selection_of_a_selection_is_narrower(catalogue):
    selected = catalogue.select("obs/*", "manifest/*").select("obs/s*")
    assert all(name.startswith("obs/s") for name in selected)
    with pytest.raises(cl.MissingKeyError):
        selected["manifest/obs"]


def test_equality_counts_what_was_chosen(catalogue):
    one, same = catalogue.select("obs/*"), catalogue.select("obs/[!x]*")
    assert (one == same, hash(one) == hash(same)) == (True, True)
    assert one != catalogue
    codes = catalogue.select("obs/sample/codes")
    assert codes != catalogue.select("obs/sample/*")
    assert codes != "a catalogue"


def test_a_catalogue_pickles(catalogue):
    copy = pickle.loads(pickle.dumps(catalogue))
    assert list(copy) == list(catalogue)
    name = "obs/sample/codes"
    assert copy[name].array.name == catalogue[name].array.name


def test_a_manifest_of_manifests_alone_describes_what_a_viewer_needs(catalogue):
    identity = json.loads(
        cl.to_bytes(catalogue.select("manifest/*"), ["manifest/identity"])["manifest/identity"]
    )
    assert identity["embeddings"]["available_dimensions"] == [1, 2, 3]


def test_vectors_follow_the_points(catalogue):
    files = cl.to_sink(catalogue.select("points/2d", "vectors/*"), MemorySink(), progress=False)
    assert {file for file in files if file.startswith("vectors")} == {
        "vectors/velocity_umap_2d.bin"
    }
    assert [file for file in files if file.startswith("points")] == ["points_2d.bin"]


def test_any_sink_and_codec_take_an_export(catalogue):
    files = cl.to_sink(catalogue.select("points/2d"), MemorySink(), codec=Gzip(1), progress=False)
    assert set(files) == {"points_2d.bin.gz", "dataset_identity.json", "obs_manifest.json"}
    identity = json.loads(files["dataset_identity.json"])
    assert identity["embeddings"]["files"] == {"2d": "points_2d.bin.gz"}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("var", "one of 'var/*', such as 'var/HLA-DRB1/2'"),
        ("sample", "'obs/sample/codes' or 'obs/sample/outliers'"),
        ("SAMPLE", "'obs/sample/codes' or 'obs/sample/outliers'"),
        ("sampel", "'obs/sample/codes' or 'obs/sample/outliers'"),
        ("obs/sampel/codes", "'obs/sample/codes' or "),
        ("cd3e", "'var/CD3E'"),
    ],
)
def test_names_and_patterns_are_suggested_in_one_way(asked, meant, catalogue):
    for look_up in (catalogue.__getitem__, catalogue.select):
        with pytest.raises(cl.MissingKeyError, match=f"; did you mean {re.escape(meant)}"):
            look_up(asked)


def test_patterns_kinds_layers_and_settings_are_suggested(catalogue, tmp_path):
    with pytest.raises(cl.MissingKeyError, match=r"'CD3\*'; did you mean 'var/CD3E' or 'var/CD3D'"):
        catalogue.select("CD3*")
    with pytest.raises(cl.MissingKeyError, match="no kind of output 'vra'; did you mean 'var'"):
        catalogue.names("vra")
    path = data.write_h5ad(data.atlas(60, 4), tmp_path / "a.h5ad")
    with pytest.raises(cl.MissingKeyError, match="no layer 'count'; did you mean 'counts'"):
        cl.open(path, layer="count")
    with pytest.raises(cl.OptionError, match="no setting 'latentkey'; did you mean 'latent_key'"):
        cl.Options(latentkey="X_pca")


def test_explain_is_a_sentence(catalogue):
    genes = catalogue.select("var/*")
    amount = r"[\d.]+ [kM]?B"
    said = rf"reads {amount}, no scratch, peak about {amount} of the budget of 128.0 MB\."
    assert re.fullmatch(
        rf"One pass in memory for 8 genes: {said}", cl.explain(genes, memory_budget="128MB")
    )
    everything = cl.explain(catalogue, memory_budget="128MB")
    assert re.fullmatch(
        rf"One pass for \d+ outputs of the cells, .*; one pass .*: {said}", everything
    )
    assert cl.explain(catalogue.select()) == "Nothing is selected."


def test_explain_has_a_line_for_each_pass(catalogue):
    lines = cl.explain(catalogue, details=True).splitlines()
    assert len(lines) == 2
    assert len(cl.explain(catalogue.select("var/*"), details=True).splitlines()) == 1


@pytest.mark.parametrize("shape", ["export", "live"])
def test_a_manifest_of_quantized_genes_in_chunks_of_few(shape, tmp_path):
    adata = data.atlas(60, 30, matrix="dense")
    path = data.write_chunked(adata, tmp_path / "a.h5ad")
    options = cl.Options(var_quantization=8, manifest_shape=shape)
    catalogue = cl.outputs(path, options)
    alone = cl.to_bytes(catalogue, ["manifest/var"])["manifest/var"]
    together = cl.to_bytes(catalogue, [*catalogue.names("var"), "manifest/var"])
    assert alone == together["manifest/var"]
    fields = json.loads(alone)["fields"]
    assert [row[0] for row in fields] == list(adata.var_names)
    column = adata.X[:, 7]
    assert fields[7][1:] == [float(column.min()), float(column.max())]
    some = catalogue.select("var/GENE9", "var/CD3E", "manifest/var")
    rows = json.loads(cl.to_bytes(some, ["manifest/var"])["manifest/var"])["fields"]
    assert rows == [row for row in fields if row[0] in ("CD3E", "GENE9")]


def test_without_expression_no_gene_is_offered(tmp_path):
    """Expression that is not there is never zeros."""
    full = data.atlas(60, 4, slim=True)
    adata = anndata.AnnData(obs=full.obs, var=full.var, obsm=dict(full.obsm))
    with pytest.warns(cl.LeftOutWarning, match="there is no X, .*; no other matrix is stored"):
        catalogue = cl.outputs(adata)
    assert catalogue.names("var") == ()
    assert "manifest/var" not in catalogue
    assert "genes, " not in cl.explain(catalogue, details=True)
    cl.to_directory(catalogue, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "var").exists()
    with (
        pytest.warns(cl.LeftOutWarning, match="there is no X"),
        pytest.raises(cl.DataError, match="there is no X; no other matrix is stored"),
    ):
        cl.outputs(adata, cl.Options(genes=["CD3E"])).names("var")


def test_an_embedding_of_too_many_columns():
    adata = data.atlas(60, 4, slim=True)
    adata.obsm["X_umap"] = np.zeros((60, 4), dtype=np.float32)
    with pytest.warns(cl.LeftOutWarning, match="it has 4 columns; 1, 2 or 3 are supported"):
        cl.outputs(adata)


# Options


@pytest.mark.parametrize("given", [{"compression": 6}, "compression=6", 6])
def test_options_of_a_wrong_type(given, catalogue):
    with pytest.raises(cl.OptionError, match="options must be Options"):
        cl.outputs(catalogue.source, given)


@pytest.mark.parametrize(
    ("given", "kept"), [(None, None), (0, None), (3, 3), ("gzip:6", 6), ("zstd:19", "zstd:19")]
)
def test_compression_is_normalized(given, kept):
    assert cl.Options(compression=given).compression == kept


@pytest.mark.parametrize("given", ["6", "gzip", "gzip:0", "gzip:12", "zstd:x", "a:b:1", True, 10])
def test_compression_out_of_range(given):
    with pytest.raises(cl.OptionError, match="compression="):
        cl.Options(compression=given)


def test_an_unknown_codec_is_refused_with_those_there_are(catalogue):
    with pytest.raises(cl.OptionError, match="no codec 'zstd'; available: gzip:<level>"):
        cl.outputs(catalogue.source, cl.Options(compression="zstd:3"))
    with pytest.raises(cl.OptionError, match="no codec 'zstd'"):
        cl.to_bytes(catalogue, ["points/2d"], "zstd:3")


def test_a_codec_of_the_table_is_chosen_by_name(catalogue, monkeypatch):
    monkeypatch.setitem(CODECS, "fast", lambda level: Gzip(level))
    other = cl.outputs(catalogue.source, cl.Options(compression="fast:1")).select("points/2d")
    files = cl.to_sink(other, MemorySink(), progress=False)
    settings = json.loads(files["dataset_identity.json"])["export_settings"]
    assert settings["compression"] == "fast:1"
    assert "points_2d.bin.gz" in files
