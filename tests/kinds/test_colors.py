"""Colours of labels, as scanpy keeps them in uns: read with the labels, in every storage form."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest

import cellucid_lazy as cl
from cellucid_lazy.cli.main import main
from tests import data

COLORS = ["#1f77b4", "red", "#00ff00ff", "k"]


def atlas(column, colors):
    adata = data.atlas(60, 4, slim=True)
    adata.obs["kind"] = column
    adata.uns["kind_colors"] = colors
    return adata


def kinds(n_used=4):
    return pd.Categorical.from_codes(np.arange(60) % n_used, ["d", "c", "b", "a"])


def test_colors_are_in_the_order_of_the_labels(stored):
    codes = cl.outputs(stored(atlas(kinds(), np.array(COLORS, object))))["obs/kind/codes"]
    assert codes.labels == ("d", "c", "b", "a")
    assert codes.colors == tuple(COLORS)
    assert cl.outputs(stored(atlas(kinds(), COLORS)))["obs/cell type/codes"].colors is None


def test_inspect_tells_which_labels_have_colors(tmp_path, capsys):
    path = data.write_h5ad(atlas(kinds(), np.array(COLORS, object)), tmp_path / "a.h5ad")
    assert repr(cl.outputs(path)).splitlines()[-1] == "  colours of: kind"
    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["colors"] == ["kind"]


def test_colors_of_a_column_of_text(tmp_path):
    adata = atlas(np.array(["d", "c", "b", "a"] * 15), np.array(COLORS, object))
    with anndata.settings.override(allow_write_nullable_strings=True), data.writing():
        path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    codes = cl.outputs(path)["obs/kind/codes"]
    assert dict(zip(codes.labels, codes.colors, strict=True)) == dict(
        zip("abcd", COLORS, strict=True)
    )


def test_a_view_drops_the_colors_of_unused_labels(tmp_path):
    adata = atlas(kinds(n_used=3), np.array(COLORS, object))
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    with data.writing():
        backed = anndata.read_h5ad(path, backed="r")
        codes = cl.outputs(backed[1::3])["obs/kind/codes"]
        assert (codes.labels, codes.colors) == (("c",), ("red",))
        lazy = anndata.experimental.read_lazy(path)
    with pytest.warns(cl.FallbackWarning):
        assert cl.outputs(lazy)["obs/kind/codes"].colors == tuple(COLORS)


def test_labels_that_are_equal_as_text_have_one_color():
    column = pd.Categorical.from_codes(np.arange(60) % 3, [1, "1", "b"])
    codes = cl.outputs(atlas(column, COLORS[:3]))["obs/kind/codes"]
    assert (codes.labels, codes.colors) == (("1", "b"), ("#1f77b4", "#00ff00ff"))


@pytest.mark.parametrize("colors", [COLORS[:3], [COLORS]])
def test_colors_that_do_not_fit_are_left_out(colors, tmp_path):
    adata = atlas(kinds(), np.array(colors, object))
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    with pytest.warns(cl.LeftOutWarning, match="kind.*left out"):
        assert cl.outputs(path)["obs/kind/codes"].colors is None
