"""What is opened of a dataset that has it elsewhere: layers, raw, graphs, modalities, tables."""

from __future__ import annotations

import warnings

import anndata
import h5py
import numpy as np
import pytest
import zarr
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy.cli import main
from tests.data import writing

N_CELLS = 40
RNG = np.random.default_rng(0)
UMAP = RNG.random((N_CELLS, 2), dtype=np.float32)
COUNTS = RNG.integers(0, 9, (N_CELLS, 4)).astype(np.float32)
HALF = sparse.random(N_CELLS, N_CELLS, 0.2, "csr", random_state=0)
GRAPH = (HALF + HALF.T).tocsr()


def atlas(**parts):
    with writing():
        return anndata.AnnData(obsm={"X_umap": UMAP}, **parts)


def told(function, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    return [str(one.message).partition(": ")[2] for one in caught], result


def test_other_matrices_are_named_where_there_is_no_x(stored):
    adata = atlas(X=COUNTS, layers={"counts": COUNTS, "scaled": COUNTS * 2})
    adata.raw = adata.copy()
    adata.X = None
    source = stored(adata)
    said, catalogue = told(cl.outputs, source)
    ways = (
        "open with layer='counts' (--layer counts) or layer='scaled' (--layer scaled) or "
        "use_raw=True (--use-raw)"
    )
    assert said == [f"there is no X, so genes are not offered; {ways}"]
    assert catalogue.names("var") == ()
    shapes = dict.fromkeys(["layers/counts", "layers/scaled", "raw/X"], (N_CELLS, 4))
    assert dict(catalogue.source.matrices) == shapes
    for options, expected in (({"layer": "scaled"}, COUNTS * 2), ({"use_raw": True}, COUNTS)):
        opened = cl.outputs(cl.open(source, **options))
        assert cl.to_bytes(opened, ["var/1"])["var/1"] == expected[:, 1].tobytes()


def test_genes_that_raw_alone_has_are_hinted_at(stored):
    adata = atlas(X=COUNTS)
    adata.var_names = ["A", "B", "C", "D"]
    adata.raw = adata.copy()
    adata = adata[:, :2].copy()
    adata.var["symbol"] = ["a", "b"]
    source = stored(adata)
    with pytest.raises(cl.MissingKeyError, match=r"no gene 'D'.*; raw has it: open with use_raw"):
        cl.outputs(source, cl.Options(genes=["D"])).names("var")
    with pytest.raises(cl.MissingKeyError) as missing:
        cl.outputs(source, cl.Options(genes=["E"])).names("var")
    assert "raw has it" not in str(missing.value)


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "int", "float16"])
def test_the_graph_of_old_files_is_in_uns(form, stored):
    expected = cl.outputs(atlas(X=COUNTS, obsp={"connectivities": GRAPH}))
    names = ["connectivity/src", "connectivity/dst"]
    matrix = {
        "csr": GRAPH,
        "csc": GRAPH.tocsc(),
        "dense": GRAPH.toarray(),
        "int": (GRAPH > 0).astype(np.int8),
        "float16": (GRAPH > 0).toarray().astype(np.float16),
    }[form]
    adata = atlas(X=COUNTS, uns={"neighbors": {"connectivities": matrix, "params": {"n": 5}}})
    said, catalogue = told(cl.outputs, stored(adata))
    assert said == []
    assert cl.to_bytes(catalogue, names) == cl.to_bytes(expected, names)


def test_a_graph_under_another_key(stored):
    other = (GRAPH > 0.5).astype(np.float32)
    adata = atlas(X=COUNTS, obsp={"bbknn_connectivities": GRAPH, "mine": other})
    adata.uns["bbknn"] = {"connectivities_key": "bbknn_connectivities"}
    source = stored(adata)
    said, catalogue = told(cl.outputs, source)
    line = "open with neighbors_key='bbknn' (--neighbors-key bbknn)"
    assert said == [f"obsp 'bbknn_connectivities' is not shown; {line}"]
    assert catalogue.names("connectivity") == ()
    expected = {}
    for key, graph in (("bbknn", GRAPH), ("bbknn_connectivities", GRAPH), ("mine", other)):
        found = cl.outputs(cl.open(source, neighbors_key=key))
        expected[key] = cl.to_bytes(
            cl.outputs(atlas(X=COUNTS, obsp={"connectivities": graph})), ["connectivity/src"]
        )
        assert cl.to_bytes(found, ["connectivity/src"]) == expected[key]
    assert expected["bbknn"] != expected["mine"]
    with pytest.raises(cl.MissingKeyError, match=r"neighbors_key 'bbkn'.*bbknn"):
        cl.open(source, neighbors_key="bbkn")


def test_uns_says_which_graph_it_is(stored):
    adata = atlas(X=COUNTS, obsp={"x_connectivities": GRAPH})
    adata.uns["neighbors"] = {"connectivities_key": "x_connectivities"}
    said, catalogue = told(cl.outputs, stored(adata))
    taken = "obsp 'x_connectivities' is taken for the neighbour graph, as uns/neighbors says"
    assert said == [taken]
    assert len(catalogue.names("connectivity")) == 2


def test_a_graph_that_cannot_be_used_takes_nothing_with_it(tmp_path):
    with writing():
        atlas(X=COUNTS, obsp={"connectivities": GRAPH}).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as root:
        del root["obsp/connectivities/indices"]
    said, catalogue = told(cl.outputs, tmp_path / "a.h5ad")
    assert said[0].startswith("the neighbour graph, obsp/connectivities, is left out: ")
    assert "missing: ['indices']" in said[0]
    assert catalogue["points/2d"].shape == (N_CELLS, 2)


def several(path, group, form):
    """Write two AnnData into one file or store, as MuData and SpatialData do."""
    opened = h5py.File(path, "w") if form == "h5" else zarr.open_group(path, mode="w")
    with writing():
        held = opened.create_group(group)
        for name, factor in (("rna", 1), ("prot", 2)):
            anndata.io.write_elem(held, name, atlas(X=COUNTS * factor))
        if group == "mod":
            anndata.io.write_elem(opened, "obs", atlas(X=COUNTS).obs)
            anndata.io.write_elem(opened, "var", atlas(X=COUNTS).var)
    if form == "h5":
        opened.close()
    return path


@pytest.mark.parametrize("form", ["h5", "zarr"])
@pytest.mark.parametrize(
    ("group", "kind", "argument"),
    [
        ("mod", "MuData", "modality"),
        ("tables", "SpatialData", "table"),
        ("table", "SpatialData", "table"),
    ],
)
def test_one_of_several_is_opened(group, kind, argument, form, tmp_path, capsys):
    path = several(tmp_path / f"a.{form}", group, form)
    said = rf"is a {kind} of prot, rna; open one with {argument}='prot' \(--{argument} prot\)"
    with pytest.raises(cl.DataError, match=said):
        cl.open(path)
    catalogue = cl.outputs(cl.open(path, **{argument: "prot"}))
    assert cl.to_bytes(catalogue, ["var/0"])["var/0"] == (COUNTS[:, 0] * 2).tobytes()
    with pytest.raises(cl.MissingKeyError, match=f"{argument} 'rn'.*rna"):
        cl.open(path, **{argument: "rn"})
    assert main(["inspect", str(path), f"--{argument}", "rna"]) == 0
    assert "40 cells" in capsys.readouterr().out


def test_what_a_mudata_has_of_no_single_modality_is_named(tmp_path):
    path = several(tmp_path / "a.h5mu", "mod", "h5")
    frame = atlas(X=COUNTS).obs.assign(**{"rna:score": 1.0, "joint": 2.0})
    with h5py.File(path, "r+") as root, writing():
        del root["obs"]
        anndata.io.write_elem(root, "obs", frame)
        anndata.io.write_elem(root, "obsm", {"X_joint": UMAP, "rna": np.ones(N_CELLS, bool)})
    said, source = told(cl.open, path, modality="rna")
    named = "left out, as a MuData has it for no single modality: obs/joint, obsm/X_joint"
    assert said == list(source.left_out) == [named]


def test_a_part_of_what_has_none(tmp_path):
    with writing():
        atlas(X=COUNTS).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(cl.DataError, match="is no MuData, so there is no modality"):
        cl.open(tmp_path / "a.h5ad", modality="rna")
    with pytest.raises(cl.OptionError, match="for files and stores that hold several"):
        cl.open(atlas(X=COUNTS), table="table")
