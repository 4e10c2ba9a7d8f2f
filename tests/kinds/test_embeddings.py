"""Embeddings: UMAP without being asked, any array of obsm by choice, none where there is none."""

from __future__ import annotations

import json
import pickle
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest

import cellucid_lazy as cl
from cellucid_lazy.cli import main
from tests.data import writing
from tests.helpers import files_of

N_CELLS = 80
RNG = np.random.default_rng(0)
TSNE = RNG.normal(3, 5, (N_CELLS, 2)).astype(np.float32)
PCA = RNG.normal(size=(N_CELLS, 7)).astype(np.float32)
SETTINGS = {"dataset_name": "a", "created_at": "2026-01-01T00:00:00Z"}


def atlas(**obsm):
    labels = pd.Categorical.from_codes(np.arange(N_CELLS) % 3, list("abc"))
    obs = pd.DataFrame({"type": labels}, index=[str(i) for i in range(N_CELLS)])
    with writing():
        return anndata.AnnData(np.ones((N_CELLS, 3), np.float32), obs=obs, obsm=obsm)


def told(function, *arguments, **options):
    """The warnings of a call, and what it returns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    return [str(one.message) for one in caught], result


def test_any_array_of_obsm_is_shown_as_if_it_were_umap(stored, tmp_path):
    expected = cl.outputs(atlas(X_umap_2d=TSNE, X_umap_3d=PCA[:, 2:5]), cl.Options(**SETTINGS))
    chosen = {2: "X_tsne", "3d": "X_pca[2:5]"}
    catalogue = cl.outputs(
        stored(atlas(X_tsne=TSNE, X_pca=PCA)), cl.Options(embeddings=chosen, **SETTINGS)
    )
    names = [*catalogue.names("points"), "obs/type/codes"]
    assert names[:2] == ["points/2d", "points/3d"]
    assert cl.to_bytes(catalogue, names) == cl.to_bytes(expected, names)
    assert (
        np.asarray(catalogue["points/3d"]).tobytes() == np.asarray(expected["points/3d"]).tobytes()
    )
    cl.to_directory(catalogue, tmp_path / "out", progress=False)
    identity = json.loads((tmp_path / "out" / "dataset_identity.json").read_text())
    assert identity["embeddings"]["available_dimensions"] == [2, 3]
    again = pickle.loads(pickle.dumps(catalogue))
    assert again.options == catalogue.options
    assert hash(again.options) == hash(catalogue.options)
    assert cl.to_bytes(again, names) == cl.to_bytes(catalogue, names)


def test_without_an_embedding_all_else_is_offered(stored, tmp_path):
    source = stored(atlas(X_tsne=TSNE, X_pca=PCA))
    said, catalogue = told(cl.outputs, source)
    (message,) = said
    assert "there is no UMAP, so no embedding is offered" in message
    line = "choose with Options(embeddings={2: 'X_tsne'}) (--embedding 2=X_tsne)"
    assert "X_pca (7 columns)" in message
    assert message.endswith(line)
    assert catalogue.names("points") == ()
    names = list(catalogue)
    found = cl.to_bytes(catalogue, names)
    assert len(found["obs/type/codes"]) == N_CELLS
    assert json.loads(found["manifest/obs"])["_categoricalFields"][0][4] == {}
    with pytest.raises(cl.DataError) as refused:
        cl.to_directory(catalogue, tmp_path / "out", progress=False)
    assert "a viewer's folder needs an embedding" in str(refused.value)
    assert line in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_where_obsm_has_nothing_to_show():
    said, _ = told(cl.outputs, atlas(X_one=PCA[:, :1]))
    assert said[0].endswith("obsm has no array that could be one; store it there, such as X_umap")
    said, _ = told(cl.outputs, atlas(X_pca=PCA))
    assert said[0].endswith("(--embedding 2=X_pca[:2])")


@pytest.mark.parametrize("key", ["UMAP", "umap", "X_UMAP"])
def test_other_spellings_are_taken_for_umap(key):
    said, catalogue = told(cl.outputs, atlas(**{key: TSNE, "velocity_umap": TSNE}))
    assert said == [f"AnnData in memory: obsm '{key}' is taken for X_umap"]
    assert catalogue.names("points") == ("points/2d", "points/2d/padded")
    assert catalogue.names("vectors") == ("vectors/velocity_umap/2d",)


def test_vector_fields_follow_the_embedding(tmp_path):
    adata = atlas(
        X_tsne=TSNE,
        X_umap=TSNE,
        velocity_tsne=TSNE,
        drift_tsne_2d=TSNE,
        velocity_umap=TSNE,
        velocity_pca=PCA,
        velocity_tsne_3d=TSNE,
    )
    options = cl.Options(embeddings={2: "X_tsne"}, **SETTINGS)
    said, catalogue = told(cl.outputs, adata, options)
    assert catalogue.names("vectors") == ("vectors/drift_tsne/2d", "vectors/velocity_tsne/2d")
    reasons = {
        "velocity_umap": "it is of umap, but X_tsne is shown",
        "velocity_pca": "no embedding of 7 dimensions is shown",
        "velocity_tsne_3d": r"shape (80, 2) does not fit 3 dimensions",
    }
    begin = "AnnData in memory: vector field"
    assert set(said) == {f"{begin} '{key}' is left out: {why}" for key, why in reasons.items()}
    cl.to_directory(catalogue, tmp_path / "out", progress=False)
    assert "vectors/velocity_tsne_2d.bin" in files_of(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "dataset_identity.json").read_text())["vector_fields"]
    assert found["default_field"] == "velocity_tsne"
    assert found["fields"]["velocity_tsne"]["basis"] == "tsne"
    assert found["fields"]["velocity_tsne"]["label"] == "Velocity (TSNE)"


def test_choices_that_do_not_fit():
    adata = atlas(X_tsne=TSNE, X_pca=PCA)
    with pytest.raises(cl.DataError, match=r"2=X_pca takes 7 columns .* such as 2=X_pca\[:2\]"):
        cl.outputs(adata, cl.Options(embeddings={2: "X_pca"}))
    with pytest.raises(cl.DataError, match=r"3=X_pca\[5:\] takes 2 columns"):
        cl.outputs(adata, cl.Options(embeddings={3: "X_pca[5:]"}))
    with pytest.raises(cl.MissingKeyError, match=r"X_tsn.*X_tsne"):
        cl.outputs(adata, cl.Options(embeddings={2: "X_tsn"}))
    for given in ({4: "X_pca"}, {"two": "X_pca"}, {2: 3}, {}, "X_tsne", 5):
        with pytest.raises(cl.OptionError, match="embeddings"):
            cl.Options(embeddings=given)


def test_a_key_may_look_like_columns():
    catalogue = cl.outputs(atlas(**{"X_odd[:2]": TSNE}), cl.Options(embeddings={2: "X_odd[:2]"}))
    assert catalogue["points/2d"].shape == (N_CELLS, 2)


def test_on_the_command_line(tmp_path, capsys):
    with writing():
        atlas(X_tsne=TSNE, X_pca=PCA).write_h5ad(tmp_path / "a.h5ad")
    command = ["export", str(tmp_path / "a.h5ad"), str(tmp_path / "out")]
    assert main(command) == 1
    assert "(--embedding 2=X_tsne)" in capsys.readouterr().err
    assert main([*command, "--embedding", "2=X_tsne", "--embedding", "3=X_pca[:3]"]) == 0
    assert {"points_2d.bin", "points_3d.bin"} <= set(files_of(tmp_path / "out"))
