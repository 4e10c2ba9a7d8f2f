"""Bad input: a clear error that names file and key, and nothing written."""

from __future__ import annotations

import os

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

import cellucid_lazy as cl
from tests import data, oracle
from tests.helpers import raise_if_dask_computes


def refuse(call, error, *parts):
    """The error is of the type, is one of ours, and says all the parts in one line."""
    with pytest.raises(error) as refused:
        call()
    assert isinstance(refused.value, cl.CellucidLazyError)
    message = str(refused.value)
    for part in parts:
        assert str(part) in message, message
    assert "\n" not in message


@pytest.fixture
def written(tmp_path):
    """Write a small atlas after a change, as h5ad; the folder holds nothing else."""

    def write(change=lambda adata: None, **size):
        adata = data.atlas(**{"n_cells": 60, "n_genes": 5, "slim": True} | size)
        change(adata)
        return data.write_h5ad(adata, tmp_path / "a.h5ad")

    return write


def export_refused(source, folder, error, *parts, options=None, **how):
    """An export that is refused leaves the parent folder as it was."""
    before = sorted(folder.rglob("*"))
    refuse(
        lambda: cl.to_directory(cl.outputs(source, options), folder / "out", **how), error, *parts
    )
    assert sorted(folder.rglob("*")) == before


# Paths and files


def test_a_missing_path(tmp_path):
    refuse(lambda: cl.open(tmp_path / "no.h5ad"), cl.MissingFileError, tmp_path / "no.h5ad")
    refuse(lambda: cl.open(tmp_path / "no.zarr"), FileNotFoundError, "no such file or folder")
    export_refused(tmp_path / "no.h5ad", tmp_path, cl.MissingFileError)


def test_an_empty_name_is_not_the_current_folder():
    refuse(lambda: cl.open(""), cl.MissingFileError, "the name of the dataset is empty")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.h5ad", b""),
        ("a.h5ad", b"not HDF5 at all"),
        ("a.h5ad", b"\x89HDF\r\n\x1a\n and then nothing more"),
        ("a.txt", b"text"),
        ("a.zarr.zip", b"PK\x03\x04 and then nothing more"),
    ],
)
def test_a_file_that_cannot_be_read(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    export_refused(tmp_path / name, tmp_path, cl.DataError, tmp_path / name)


def test_a_name_in_other_case_or_without_its_kind_is_suggested(written):
    catalogue = cl.outputs(written())
    for wrong in (lambda: catalogue["var/cd3e"], lambda: catalogue.select("CD3E")):
        refuse(wrong, cl.MissingKeyError, "did you mean 'var/CD3E'?")
    hint = "did you mean 'obs/score/values'?"
    refuse(lambda: catalogue["obs/Score/values"], cl.MissingKeyError, hint)


def test_an_export_is_no_dataset(written, tmp_path):
    cl.to_directory(cl.outputs(written()).select("points/*"), tmp_path / "out")
    refuse(lambda: cl.open(tmp_path / "out"), cl.DataError, "an export for the viewer, not AnnData")


def test_a_file_cut_short(written, tmp_path):
    path = written()
    path.write_bytes(path.read_bytes()[:-5000])
    export_refused(path, tmp_path, cl.DataError, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(written, tmp_path):
    path = written()
    path.chmod(0)
    export_refused(path, tmp_path, cl.DataError, path)


def test_folders_that_are_no_store(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "named.zarr").mkdir()
    for name in ("plain", "named.zarr"):
        export_refused(tmp_path / name, tmp_path, cl.DataError, tmp_path / name, "zarr store")


def test_files_that_are_no_anndata(tmp_path):
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["numbers"] = np.arange(3)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    (tmp_path / "array").mkdir()
    zarr.create_array(tmp_path / "array" / "a.zarr", shape=(3,), dtype="f4")
    for name in ("other.h5ad", "other.zarr", "array/a.zarr"):
        export_refused(tmp_path / name, tmp_path, cl.DataError, tmp_path / name)


@pytest.mark.parametrize("thing", [None, 3, ["a.h5ad"], np.zeros(3), pd.DataFrame()])
def test_things_that_do_not_open(thing):
    refuse(lambda: cl.open(thing), cl.DataError, type(thing).__name__, "give a path")


def test_a_damaged_matrix(written, tmp_path):
    path = written()
    with h5py.File(path, "r+") as root:
        root["X/indices"][3] = 999
    export_refused(path, tmp_path, cl.DataError, path, "X", "999")
    with h5py.File(path, "r+") as root:
        root["X/indices"][3] = 0
        root["X/indptr"][5] = 10**9
    export_refused(path, tmp_path, cl.DataError, path, "X", "indptr")


# Embeddings and shapes


def test_no_valid_embedding_lists_the_obsm_keys(written, tmp_path):
    def change(adata):
        adata.obsm = {"X_pca": adata.obsm["X_pca"], "X_tsne": np.zeros((60, 2))}

    path = written(change)
    says = ("X_pca", "X_tsne (2 columns)", "--embedding 2=X_tsne")
    with pytest.warns(cl.LeftOutWarning, match="there is no UMAP"):
        export_refused(path, tmp_path, cl.DataError, path, "a viewer's folder needs", *says)


def resized(path, key, shape):
    """What anndata would not write: an array of another length."""
    with h5py.File(path, "r+") as root:
        attributes = dict(root[key].attrs)
        del root[key]
        root[key] = np.zeros(shape, np.float32)
        root[key].attrs.update(attributes)
    return path


def test_arrays_of_obsm_that_do_not_fit(written, tmp_path):
    path = written()
    keys = ["X_pca", "X_umap_2d", "velocity_umap_2d"]
    for key in keys:
        resized(path, f"obsm/{key}", (59, 2))
    with pytest.warns(cl.LeftOutWarning) as told:
        source = cl.open(path)
    for key in keys:
        says = f"obsm '{key}' is left out: obsm/{key}: has shape (59, 2), but there are 60 cells"
        assert any(says in str(one.message) for one in told)
    for options in (cl.Options(latent_key="X_pca"), cl.Options(embeddings={2: "X_umap_2d"})):
        export_refused(source, tmp_path, cl.DataError, path, "is left out", "59", options=options)


@pytest.mark.parametrize("shape", [(60, 4), (59, 5), (60,), (60, 5, 2)])
def test_an_expression_matrix_that_does_not_fit(shape, written, tmp_path):
    path = resized(written(matrix="dense"), "X", shape)
    export_refused(path, tmp_path, cl.DataError, path, shape)


def test_a_sparse_matrix_that_does_not_fit(written, tmp_path):
    path = written()
    with h5py.File(path, "r+") as root:
        root["X"].attrs["shape"] = [61, 5]
    export_refused(path, tmp_path, cl.DataError, path, "X", "61")
    with h5py.File(path, "r+") as root:
        root["X"].attrs["shape"] = [60, 5]
        del root["X/indptr"]
    export_refused(path, tmp_path, cl.DataError, path, "X", "indptr")


def test_connectivities_that_do_not_fit(written, tmp_path):
    path = resized(written(), "obsp/connectivities", (60, 59))
    with pytest.warns(cl.LeftOutWarning, match=r"connectivities, is left out: .*\(60, 59\)"):
        cl.to_directory(cl.outputs(path), tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "connectivity").exists()


@pytest.mark.parametrize("width", [2, 3, 5])
def test_an_explicit_embedding_of_another_width_is_told(width, written):
    path = written(lambda adata: adata.obsm.update({"X_umap_1d": np.zeros((60, width))}))
    with pytest.warns(cl.LeftOutWarning, match=r"'X_umap_1d' has shape \(60"):
        catalogue = cl.outputs(path)
    assert catalogue.names("points") == ("points/2d", "points/2d/padded")


# Names that are not there


def test_unknown_names_come_with_close_matches(written, tmp_path):
    path = written()

    def options(**chosen):
        return {"options": cl.Options(**chosen)}

    for chosen, hint in [
        ({"obs_keys": ["scor"]}, "did you mean 'score'?"),
        ({"latent_key": "X_pcs"}, "did you mean 'X_pca'?"),
        ({"genes": ["CD3F"]}, "did you mean 'CD3E' or 'CD3D'?"),
        ({"gene_id_column": "ensemb"}, "did you mean 'ensembl'?"),
    ]:
        named = str(next(iter(chosen.values()))).strip("[]'")
        export_refused(
            path, tmp_path, cl.MissingKeyError, path, f"'{named}'", hint, **options(**chosen)
        )
    for layer, hint in (("count", "did you mean 'counts'?"), (3, "no layer 3; available: ")):
        refuse(lambda layer=layer: cl.open(path, layer=layer), cl.MissingKeyError, path, hint)
    catalogue = cl.outputs(path)
    refuse(lambda: catalogue[3], cl.MissingKeyError, path, "no output '3'")
    for call in (
        lambda: catalogue["obs/scor/values"],
        lambda: cl.to_bytes(catalogue, ["points/2d", "obs/scor/values"]),
    ):
        refuse(call, cl.MissingKeyError, path, "did you mean 'obs/score/values'?")
    refuse(lambda: catalogue["var/CD3F"], cl.MissingKeyError, path, "var/CD3F", "var/CD3E")
    refuse(lambda: catalogue.select("obs/zzz*"), cl.MissingKeyError, path, "'obs/zzz*'")


def test_no_raw(written):
    def change(adata):
        adata.raw = None

    refuse(lambda: cl.open(written(change), use_raw=True), cl.MissingKeyError, "no raw matrix")
    adata = data.atlas(20, 3, slim=True)
    refuse(lambda: cl.open(adata, layer="nope"), cl.MissingKeyError, "'nope'", "'counts'")
    refuse(lambda: cl.open(adata, layer="counts", use_raw=True), cl.DataError, "exclude each other")


# Types


def test_text_in_a_numeric_place(written, tmp_path):
    path = written(matrix="dense")
    with h5py.File(path, "r+") as root:
        del root["X"]
        root["X"] = np.full((60, 5), "a", dtype=object)
    export_refused(path, tmp_path, cl.DataError, path, "X")
    path.unlink()
    path = written()
    with h5py.File(path, "r+") as root:
        del root["obsm/X_umap_2d"], root["obsm/X_umap"]
        root["obsm/X_umap_2d"] = np.full((60, 2), "a", dtype=object)
    with pytest.warns(cl.LeftOutWarning) as told:
        export_refused(path, tmp_path, cl.DataError, path, "a viewer's folder needs an embedding")
    assert any("'X_umap_2d' is left out: " in str(one.message) for one in told)


@pytest.mark.parametrize("values", [np.full((60, 5), 1j), np.full((60, 5), "NaT", "M8[s]")])
def test_a_matrix_of_other_numbers(values):
    adata = data.atlas(60, 5, slim=True)
    adata.layers["odd"] = values
    refuse(lambda: cl.open(adata, layer="odd"), cl.DataError, "layers/odd", values.dtype)


def test_complex_and_dates_in_obs_are_left_out(written, tmp_path):
    adata = data.atlas(60, 5, slim=True)
    adata.obs["when"] = pd.date_range("2020-01-01", periods=60)
    adata.obs["for_long"] = pd.to_timedelta(np.arange(60), unit="h")
    adata.obs["complex"] = np.arange(60) * 1j
    with pytest.warns(cl.LeftOutWarning) as told:
        source = cl.open(adata)
    messages = [str(one.message) for one in told]
    for key in ("when", "for_long", "complex"):
        assert any(f"obs column '{key}' is left out" in one for one in messages)
    cl.to_directory(cl.outputs(source), tmp_path / "out")
    told = oracle.strict_json((tmp_path / "out" / "dataset_identity.json").read_bytes())
    assert [one["key"] for one in told["obs_fields"]] == list(adata.obs.columns[:4])
    path = written()
    with h5py.File(path, "r+") as root:
        del root["obs/score"]
        root["obs/score"] = np.arange(60) * 1j
    with pytest.warns(cl.LeftOutWarning, match=r"a\.h5ad: obs column 'score' is left out.*complex"):
        cl.open(path)


@pytest.mark.parametrize("form", ["memory", "h5ad", "view", "backed view"])
def test_no_cells(form, tmp_path):
    adata = data.atlas(60, 5, slim=True)
    with data.writing():
        empty = adata[[]]
        source = empty
        if form == "h5ad":
            source = data.write_h5ad(empty.copy(), tmp_path / "a.h5ad")
        if form == "memory":
            source = empty.copy()
        if form == "backed view":
            path = data.write_h5ad(adata, tmp_path / "a.h5ad")
            source = anndata.read_h5ad(path, backed="r")[[]]
    export_refused(source, tmp_path, cl.DataError, "0 cells")


def test_no_genes(tmp_path):
    adata = data.atlas(60, 5, slim=True)
    adata.raw = None
    empty = adata[:, []].copy()
    path = data.write_h5ad(empty, tmp_path / "a.h5ad")
    cl.to_directory(cl.outputs(path), tmp_path / "out")
    assert not (tmp_path / "out" / "var").exists()
    assert not (tmp_path / "out" / "var_manifest.json").exists()


# Options

OUT_OF_RANGE = {
    "compression": [10, -1, 6.5, "6", True],
    "var_quantization": [4, 32, "8", 8.0, True],
    "obs_continuous_quantization": [0, 12],
    "obs_categorical_dtype": ["int8", None, 8],
    "manifest_shape": ["folder"],
    "normalize_embeddings": [1, "yes", None],
    "obs_keys": ["score", 3, [3]],
    "genes": ["CD3E", [None]],
    "dataset_name": [3],
    "gene_id_column": [None, 3],
    "centroid_min_points": ["10", None],
    "centroid_outlier_quantile": ["0.9", None, True],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_RANGE.items() for value in values]
)
def test_options_out_of_range(name, value):
    refuse(lambda: cl.Options(**{name: value}), cl.OptionError, name)


@pytest.mark.parametrize("quantile", [0.5, 1.0, -1, 2, np.nan])
def test_a_quantile_out_of_range_is_095_with_a_warning(quantile):
    with pytest.warns(UserWarning, match=r"centroid_outlier_quantile.*0\.95 is used"):
        assert cl.Options(centroid_outlier_quantile=quantile).centroid_outlier_quantile == 0.95
    with pytest.warns(UserWarning, match="centroid_min_points.*10 is used"):
        assert cl.Options(centroid_min_points=0).centroid_min_points == 10


def test_arguments_out_of_range(written, tmp_path):
    catalogue = cl.outputs(written())
    for level in (10, -1, "6"):
        refuse(lambda level=level: cl.to_bytes(catalogue, ["points/2d"], level), cl.OptionError)
    for names in ("points/2d", None, 3):
        refuse(lambda names=names: cl.to_bytes(catalogue, names), cl.OptionError, "list of names")
    for budget in ("much", -1, 10, "1 parsec"):
        refuse(
            lambda budget=budget: cl.to_bytes(catalogue, ["points/2d"], memory_budget=budget),
            cl.OptionError,
            "memory_budget",
        )
        export_refused(catalogue.source, tmp_path, cl.OptionError, memory_budget=budget)
    settings = {"compression": 6}
    refuse(lambda: cl.outputs(catalogue.source, settings), cl.OptionError, "Options(...)", "dict")


# Names of files

EVIL = ["../../evil", "/etc/evil", "..", ".", "a/b", "", "con\n\t", "%2e%2e%2fevil", "nul\0", "ä/ö"]


@pytest.mark.parametrize("place", ["obs", "genes", "vectors"])
def test_nothing_is_written_outside_the_folder(place, tmp_path):
    adata = data.atlas(60, len(EVIL), slim=True)
    if place == "genes":
        with data.writing():
            adata.var_names = EVIL
    if place == "obs":
        adata.obs = pd.concat(
            [adata.obs[[]], pd.DataFrame({key: np.arange(60.0) for key in EVIL}, adata.obs_names)],
            axis=1,
        )
    inside = tmp_path / "deep" / "deeper"
    inside.mkdir(parents=True)
    for number, key in enumerate(EVIL):
        if place == "vectors":
            adata.obsm[f"{key}_umap"] = adata.obsm["velocity_umap_2d"]
        # One at a time: some share a safe name.
        options = cl.Options(
            obs_keys=[key] if place == "obs" else [], genes=[key] if place == "genes" else []
        )
        cl.to_directory(cl.outputs(adata, options), inside / f"out{number}")
        if place == "vectors":
            del adata.obsm[f"{key}_umap"]
        files = [file for file in (inside / f"out{number}").rglob("*") if file.is_file()]
        assert all(file.resolve().is_relative_to(inside / f"out{number}") for file in files)
        kind = {"obs": "obs", "genes": "var", "vectors": "vectors"}[place]
        named = [file.name for file in files if file.parent.name == kind]
        assert len(named) == (2 if place == "vectors" else 1), key
    assert [one.name for one in (tmp_path / "deep").iterdir()] == ["deeper"]
    assert all(one.name.startswith("out") for one in inside.iterdir())


@pytest.mark.parametrize("place", ["obs", "genes", "vectors"])
def test_a_name_that_is_too_long(place, tmp_path):
    adata = data.atlas(60, 5, slim=True)
    name = "n" * 300
    if place == "obs":
        adata.obs[name] = 1.0
    if place == "genes":
        adata.var_names = [name, *adata.var_names[1:]]
    if place == "vectors":
        adata.obsm[f"{name}_umap"] = adata.obsm["velocity_umap_2d"]
    export_refused(adata, tmp_path, cl.CollisionError, "nnnnnn", "characters", "220 fit")


def test_names_with_one_safe_name(tmp_path):
    adata = data.atlas(60, 5, slim=True)
    adata.obs["cell/type"] = 1.0
    adata.obs["cell?type"] = 2.0
    says = ("obs 'cell type' and 'cell/type' share the file name 'cell_type'", "rename", "select")
    export_refused(adata, tmp_path, cl.CollisionError, *says)
    cl.to_directory(cl.outputs(adata).select("obs/cell/type/*"), tmp_path / "out")
    # In bytes there is no file to share.
    names = ["obs/cell/type/values", "obs/cell?type/values"]
    found = cl.to_bytes(cl.outputs(adata), names)
    assert [np.frombuffer(one, np.float32)[0] for one in found.values()] == [1, 2]


# The target folder


def snapshot(folder):
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_an_earlier_export_is_refused_or_replaced_whole(written, tmp_path):
    catalogue = cl.outputs(written())
    out = tmp_path / "out"
    cl.to_directory(catalogue, out)
    before = snapshot(out)
    refuse(lambda: cl.to_directory(catalogue, out), cl.ExportError, out, "overwrite=True")
    assert snapshot(out) == before
    (out / "notes.txt").write_text("mine")
    refuse(
        lambda: cl.to_directory(catalogue, out, overwrite=True), cl.ExportError, out, "notes.txt"
    )
    (out / "notes.txt").rename(out / "var" / "old.values.f32")  # as an earlier version may leave
    cl.to_directory(catalogue.select("points/2d"), out, overwrite=True)
    assert sorted(snapshot(out)) == ["dataset_identity.json", "obs_manifest.json", "points_2d.bin"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.h5ad", "out"]


def test_an_empty_folder_is_taken_and_parents_are_made(written, tmp_path):
    catalogue = cl.outputs(written()).select("points/2d")
    (tmp_path / "empty").mkdir()
    cl.to_directory(catalogue, tmp_path / "empty")
    cl.to_directory(catalogue, tmp_path / "a" / "b" / "c")
    assert snapshot(tmp_path / "empty").keys() == snapshot(tmp_path / "a" / "b" / "c").keys()


def test_an_earlier_export_survives_a_failed_one(written, tmp_path):
    path, out = written(), tmp_path / "out"
    cl.to_directory(cl.outputs(path), out)
    before = snapshot(out)
    with h5py.File(path, "r+") as root:
        root["X/indices"][3] = 999
    catalogue = cl.outputs(path)
    refuse(lambda: cl.to_directory(catalogue, out, overwrite=True), cl.DataError, path, "X")
    assert snapshot(out) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.h5ad", "out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_export_is_never_touched(overwrite, written, tmp_path):
    out = tmp_path / "out"
    (out / "precious").mkdir(parents=True)
    (out / "precious" / "data.txt").write_text("mine")
    path = written()
    export_refused(path, tmp_path, cl.ExportError, out, "no export", overwrite=overwrite)
    assert (out / "precious" / "data.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_where_the_folder_should_be(overwrite, written, tmp_path):
    (tmp_path / "out").write_text("mine")
    path = written()
    export_refused(path, tmp_path, cl.ExportError, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out").read_text() == "mine"


def test_an_empty_target_is_not_the_current_folder(written, tmp_path, monkeypatch):
    catalogue = cl.outputs(written())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refuse(lambda: cl.to_directory(catalogue, ""), cl.ExportError, "name of the target is empty")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_link_is_followed_not_replaced(written, tmp_path):
    catalogue = cl.outputs(written()).select("points/2d")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    cl.to_directory(catalogue, tmp_path / "link")
    cl.to_directory(catalogue, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "points_2d.bin").exists()


@pytest.mark.parametrize("kind", ["missing", "file", "forbidden"])
def test_scratch_that_cannot_be_used_is_refused_before_any_work(kind, written, tmp_path):
    """Also where little is asked for, that needs no scratch."""
    catalogue = cl.outputs(written())
    scratch = tmp_path / "scratch"
    if kind == "file":
        scratch.write_text("mine")
    if kind == "forbidden":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        scratch.mkdir(mode=0o500)
    says = {
        "missing": "scratch folder not found; make it",
        "file": "scratch needs a folder, this is a file",
        "forbidden": "scratch folder cannot be written",
    }[kind]
    with raise_if_dask_computes():
        export_refused(catalogue.source, tmp_path, cl.ExportError, scratch, says, scratch=scratch)
        refuse(
            lambda: cl.to_bytes(catalogue, ["points/2d"], scratch=scratch),
            cl.ExportError,
            scratch,
            says,
        )


def test_an_earlier_export_outlives_scratch_that_cannot_be_used(written, tmp_path):
    catalogue = cl.outputs(written())
    cl.to_directory(catalogue, tmp_path / "out")
    how = {"overwrite": True, "scratch": str(tmp_path / "nowhere")}
    export_refused(catalogue.source, tmp_path, cl.ExportError, "nowhere", **how)


def test_a_duplicated_cell_of_a_view_has_no_graph(tmp_path):
    """A cell that stands twice has no single place in a graph; the rest is there."""
    path = data.write_h5ad(data.atlas(60, 5, slim=True), tmp_path / "a.h5ad")
    with data.writing():
        view = anndata.read_h5ad(path, backed="r")[[3, 3, 5, 7]]
        catalogue = cl.outputs(view)
    assert catalogue.names("connectivity") == ()
    points = catalogue["points/2d"].compute()
    assert (points[0] == points[1]).all()


def test_a_sparse_graph_of_other_types_is_read(tmp_path):
    adata = data.atlas(60, 5, slim=True)
    right = oracle.reference_outputs(adata)
    graph = sparse.csr_matrix(adata.obsp["connectivities"] != 0)
    graph.eliminate_zeros()
    adata.obsp["connectivities"] = graph
    found = cl.to_bytes(cl.outputs(adata), ["connectivity/src", "connectivity/dst"])
    assert found == {name: right[name] for name in found}


@pytest.mark.parametrize(
    "call",
    [
        lambda path: cl.to_bytes(path, ["points/2d"]),
        lambda path: cl.to_directory(path, path.with_name("out")),
        lambda path: cl.explain(cl.outputs(path)["points/2d"]),
    ],
)
def test_something_else_than_a_catalogue(call, written, tmp_path):
    path = written()
    refuse(lambda: call(path), cl.OptionError, "a catalogue is needed", "cl.outputs(")
    assert list(tmp_path.iterdir()) == [path]


def test_kinds_and_patterns_that_are_none(written):
    catalogue = cl.outputs(written())
    refuse(lambda: catalogue.names("gene"), cl.MissingKeyError, "'gene'", "'points'", "'var'")
    refuse(lambda: catalogue.select(["var/*"]), cl.OptionError, "['var/*']", "one by one")


def test_a_column_of_gene_identifiers_is_looked_up_at_once(written):
    path = written(lambda adata: adata.var.insert(0, "symbol", list("abcde")))
    options = cl.Options(gene_id_column="symbl")
    refuse(lambda: cl.outputs(path, options), cl.MissingKeyError, path, "'symbl'", "'symbol'")
