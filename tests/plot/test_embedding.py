"""Pictures: colours where the cells are, legends and colour bars that say what they mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgba

import cellucid_lazy as cl
from cellucid_lazy.plot import canvas
from cellucid_lazy.plot.colors import MISSING, PALETTE
from tests import data
from tests.helpers import Reads, with_sizes

mpl.use("agg")
ROOT = Path(__file__).parents[2]
CORNERS = np.array([[0, 0], [4, 0], [0, 2], [4, 2]], np.float32)
COLORS = ["#ff0000", "#00ff00", "#0000ff"]


@pytest.fixture(autouse=True)
def _small_and_closed(monkeypatch):
    monkeypatch.setattr(canvas, "PIXELS", 250)
    yield
    pyplot.close("all")


def atlas(points=CORNERS, **columns):
    """One gene besides: CD3E, its values are 1, 2 and so on."""
    n = len(points)
    return anndata.AnnData(
        np.arange(1, n + 1, dtype=np.float32)[:, None],
        obs=pd.DataFrame(columns, index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=["CD3E"]),
        obsm={"X_umap": np.asarray(points, np.float32)},
    )


def kinds(codes, labels=("a", "b", "c")):
    return pd.Categorical.from_codes(codes, list(labels))


def at(image, x, y):
    """What an image holds at a place."""
    left, right, bottom, top = image.get_extent()
    pixels = image.get_array()
    height, width = pixels.shape[:2]
    row, column = (
        int((y - bottom) / (top - bottom) * height),
        int((x - left) / (right - left) * width),
    )
    return pixels[row, column]


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_categories_have_their_stored_colors():
    adata = atlas(kind=kinds([2, 0, -1, 2]))
    adata.uns["kind_colors"] = np.array(COLORS, object)
    ax = cl.plot.embedding(cl.outputs(adata), "kind")
    (image,) = ax.images
    wanted = [COLORS[2], COLORS[0], MISSING, COLORS[2]]
    assert [tuple(at(image, *place)) for place in CORNERS] == [to_rgba(one) for one in wanted]
    assert at(image, 2, 1)[3] == 0
    # A label that no cell has is in no legend.
    assert texts(ax.get_legend()) == ["a", "c", "missing"]
    shown = [handle.get_color() for handle in ax.get_legend().legend_handles]
    assert shown == [COLORS[0], COLORS[2], MISSING]
    assert (ax.get_title(), ax.get_aspect(), ax.axison) == ("kind", 1, False)
    assert {text.get_text() for text in ax.texts} == {
        "",
        "UMAP 1",
        "UMAP 2",
    }


def test_colors_that_are_none_give_way_to_the_palette():
    adata = atlas(kind=kinds([0, 1, 2, 0]))
    adata.uns["kind_colors"] = np.array(["red", "no color", "blue"], object)
    with pytest.warns(cl.LeftOutWarning, match=r"obs/kind/codes .*'no color' is none"):
        ax = cl.plot.embedding(cl.outputs(adata), "kind")
    assert tuple(at(ax.images[0], 4, 0))[:3] == PALETTE[1]
    assert len(set(PALETTE)) > 100


def test_missing_cells_are_below_the_others():
    # Missing ones in the pixel of one that is not, and in those beside it.
    points = np.repeat(CORNERS[:2], 50, axis=0)
    points[:10, 0] += np.arange(10) / 50
    value = np.full(100, np.nan)
    value[[17, 60, 61]] = [3, 5, 7]
    codes = np.where(np.isnan(value), -1, 0)
    catalogue = cl.outputs(atlas(points, kind=kinds(codes), value=value))
    labels = cl.plot.embedding(catalogue, "kind").images[-1]
    values = cl.plot.embedding(catalogue, "value").images[-1]
    for x in (0, 0.06, 0.12, 0.18):
        assert tuple(at(labels, x, 0))[:3] == PALETTE[0]
        assert at(values, x, 0) == 3
    assert tuple(at(labels, 0.3, 0)) == to_rgba(MISSING)
    assert at(values, 4, 0) == 6


@pytest.mark.parametrize("bits", [None, 8])
def test_values_have_a_color_bar_over_their_range(bits, monkeypatch):
    monkeypatch.setattr(canvas, "ROWS", 3)
    value = np.array([-2.5, np.nan, np.inf, 10.25])
    options = cl.Options(obs_continuous_quantization=bits, var_quantization=bits)
    catalogue = cl.outputs(atlas(value=value), options)
    ax = cl.plot.embedding(catalogue, "value")
    missing, image = ax.images
    assert image.get_clim() == (-2.5, 10.25)
    assert (image.colorbar.vmin, image.colorbar.vmax) == (-2.5, 10.25)
    assert [at(image, 0, 0), at(image, 4, 2)] == [-2.5, 10.25]
    assert at(image, 4, 0) is np.ma.masked
    assert tuple(at(missing, 4, 0)) == tuple(at(missing, 0, 2)) == to_rgba(MISSING)
    assert at(missing, 0, 0)[3] == 0
    assert texts(image.colorbar.ax.get_legend()) == ["missing"]
    gene = cl.plot.embedding(catalogue, "CD3E").images[-1]
    assert [at(gene, *place) for place in CORNERS] == [1, 2, 3, 4]
    assert gene.colorbar.ax.get_legend() is None


def test_without_a_color_cells_are_counted():
    _, ax = pyplot.subplots()
    points = np.repeat(CORNERS, [1, 5, 1, 1], axis=0)
    assert cl.plot.embedding(cl.outputs(atlas(points)), ax=ax) is ax
    (image,) = ax.images
    assert [at(image, 0, 0), at(image, 4, 0)] == [1, 5]
    assert ax.get_title() == "8 cells"


def test_many_labels_are_the_largest_and_a_count():
    labels = [f"_type $x$ {i}" for i in range(300)]
    codes = np.r_[np.arange(300), np.repeat(np.arange(250, 300), 2)]
    points = np.random.default_rng(0).normal(size=(400, 2))
    ax = cl.plot.embedding(cl.outputs(atlas(points, kind=kinds(codes, labels))), "kind")
    shown = texts(ax.get_legend())
    assert shown[-1] == "and 242 smaller ones"
    assert shown[8:-1] == labels[250:]
    assert len(shown) == 59


def test_blocks_do_not_change_the_picture(monkeypatch):
    whole, small = (cl.outputs(data.atlas(400, 30)) for _ in range(2))
    for color, dim in [("many", 2), ("CD3E", 3), (None, 2)]:
        expected = cl.plot.embedding(whole, color, dim).images[-1].get_array()
        with monkeypatch.context() as patch:
            patch.setattr(canvas, "ROWS", 37)
            found = cl.plot.embedding(with_sizes(small), color, dim).images[-1].get_array()
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_each_chunk_is_read_once_and_positions_twice(tmp_path, monkeypatch):
    catalogue = with_sizes(cl.outputs(data.write_chunked(data.atlas(300, 20), tmp_path / "a.h5ad")))
    with Reads(monkeypatch) as reads:
        cl.plot.embedding(catalogue, "CD3E")
    assert {key for key in reads.touched() if "var" not in key} == {
        *("X/data", "X/indices", "X/indptr", "obsm/X_umap_2d")
    }
    for key in ("X/data", "X/indices"):
        reads.assert_each_once(key)
    assert len(reads.of("obsm/X_umap_2d")) == 2 * len(set(reads.of("obsm/X_umap_2d")))


def test_of_two_with_one_name_the_column_wins():
    catalogue = cl.outputs(atlas(CD3E=kinds([0, 0, 1, 1])))
    assert texts(cl.plot.embedding(catalogue, "CD3E").get_legend()) == ["a", "b"]
    for name in ("obs/CD3E", "obs/CD3E/codes"):
        assert cl.plot.embedding(catalogue, name).get_title() == "CD3E"
    assert cl.plot.embedding(catalogue, "var/CD3E").images[-1].get_clim() == (1, 4)


@pytest.mark.parametrize(
    ("color", "error", "says"),
    [
        ("CD3F", cl.MissingKeyError, r"no obs column or gene 'CD3F'; did you mean 'CD3E'\?"),
        ("var/CD3F", cl.MissingKeyError, r"did you mean 'var/CD3E'\?"),
        ("kimd", cl.MissingKeyError, r"did you mean 'kind'\?"),
        ("RAW1", cl.MissingKeyError, "raw has it"),
        ("points/2d", cl.OptionError, "coloured by an obs column or a gene"),
        (3, cl.OptionError, "color=3: give the name"),
    ],
)
def test_an_unknown_color_is_told(color, error, says):
    adata = atlas(kind=kinds([0, 0, 1, 1]))
    adata.raw = anndata.AnnData(np.ones((4, 1), "f4"), var=pd.DataFrame(index=["RAW1"]))
    with pytest.raises(error, match=says):
        cl.plot.embedding(cl.outputs(adata), color)


def test_a_dimension_that_cannot_be_drawn_is_told():
    catalogue = cl.outputs(atlas())
    with pytest.raises(cl.OptionError, match="dim=4: 2 or 3 dimensions"):
        cl.plot.embedding(catalogue, dim=4)
    with pytest.raises(cl.DataError, match="no embedding of 3 dimensions is shown"):
        cl.plot.embedding(catalogue, dim=3)
    adata = atlas()
    adata.obsm = {"X_umap": np.ones((4, 3), "f4")}
    with pytest.raises(cl.DataError, match=r"dim=3; .*\{2: 'X_umap\[:2\]'\}"):
        cl.plot.embedding(cl.outputs(adata))
    with pytest.raises(cl.OptionError, match="a catalogue is needed, not str"):
        cl.plot.embedding("a.h5ad")


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("cellucid_lazy.plot.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "colorcet", None)
    with pytest.raises(cl.MissingPackageError, match=r"pip install '\.\[plot\]' in the clone"):
        cl.plot.embedding(cl.outputs(atlas()))


_CHILD = """
import cellucid_lazy as cl
from tests.plot.generated import catalogue, peak
cl.plot.embedding(catalogue(20_000), COLOR)
before = peak()
cl.plot.embedding(catalogue(2_000_000), COLOR).figure.savefig("/dev/null", format="png")
print((peak() - before) / 1e6)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("color", ["kind", "value"])
def test_two_million_cells_take_a_canvas_and_a_range_of_them(color):
    code = _CHILD.replace("COLOR", repr(color))
    run = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(run, check=True, capture_output=True, text=True, cwd=ROOT)
    assert float(done.stdout) < 300
