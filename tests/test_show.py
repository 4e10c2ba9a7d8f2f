"""What a catalogue shows of itself, as text and as HTML, is what it offers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import dask
import numpy as np
import pytest

import cellucid_lazy as cl
from cellucid_lazy.errors import format_size
from tests import data


class Table(HTMLParser):
    """Rows of the one table there is, as lists of texts."""

    def __init__(self):
        super().__init__()
        self.rows = []
        self.heading = ""
        self._tag = ""

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, text):
        if self._tag in ("td", "th"):
            self.rows[-1][-1] += text
        elif self._tag == "b":
            self.heading += text


@pytest.fixture(params=[None, 8], ids=["plain", "8 bit"])
def catalogue(request, tmp_path):
    adata = data.atlas(slim=True)
    adata.obs["<b> & co"] = np.arange(adata.n_obs)
    bits = {"var_quantization": request.param, "obs_continuous_quantization": request.param}
    return cl.outputs(data.write_h5ad(adata, tmp_path / "a.h5ad"), cl.Options(**bits))


def shown(catalogue):
    table = Table()
    table.feed(catalogue._repr_html_())
    return table


def test_html_says_what_text_says(catalogue):
    table = shown(catalogue)
    *lines, matrices = repr(catalogue).splitlines()
    assert matrices.startswith("  matrices: X (400, 30), layers/by_gene (400, 30), ")
    assert f"</table>{matrices}</div>" in catalogue._repr_html_()
    assert table.heading == lines[0]
    assert table.rows[0] == ["name", "dtype", "shape", "size", "file"]
    assert [" ".join(" ".join(row).split()) for row in table.rows[1:]] == [
        " ".join(line.split()) for line in lines[1:]
    ]


def test_rows_are_the_outputs(catalogue):
    rows = {row[0]: row[1:] for row in shown(catalogue).rows[1:]}
    for name in catalogue:
        if name.startswith("var/"):
            continue
        output = catalogue[name]
        dtype, shape, size, file = rows[name]
        if "|" in file:  # only reading tells whether codes take one byte or two
            stem = file.removesuffix("u8|u16")
            assert output.path in (f"{stem}u8", f"{stem}u16")
        else:
            assert file == (output.path or ""), name
        if name.startswith("manifest/"):
            assert dtype == "json"
            continue
        assert output.dtype.name in dtype.split("|"), name
        assert shape == str(output.shape).replace("nan", "?"), name
        assert size == format_size(output.nbytes) or dtype == "uint8|uint16", name
    genes = [name for name in rows if name.startswith("var/")]
    assert genes == ["var/HLA-DRB1/2 ... var/GENE29 (30)"]
    one = catalogue["var/CD3E"]
    size = f"{format_size(one.nbytes)} each"
    extension = one.path.rsplit(".", 1)[1]
    assert rows[genes[0]] == [one.dtype.name, "(400,)", size, f"var/<gene>.values.{extension}"]


def test_long_lists_are_cut_and_a_selection_shows_itself(catalogue):
    adata = data.atlas(20, 3, slim=True)
    adata.obs = adata.obs.assign(**{f"n{number}": 1.0 for number in range(30)})
    lines = [line.strip() for line in repr(cl.outputs(adata)).splitlines()]
    n_values = sum(line.startswith("obs/n") for line in lines)
    (rest,) = [line for line in lines if line.endswith("more of obs/*")]
    assert n_values + int(rest.split()[2]) == 30
    title, *rows, _ = repr(catalogue.select("var/CD3*", "points/2d")).splitlines()
    assert title == repr(catalogue).splitlines()[0]
    assert [" ".join(row.split("  ")[1:2]) for row in rows] == [
        "points/2d",
        "var/CD3E ... var/CD3D (2)",
    ]


@pytest.mark.parametrize(
    ("width", "rest"),
    [
        (120, r" +uint8 +\(400,\) +400 B +obs/maybe_flag.codes.u8"),
        (80, r" +uint8 +\(400,\) +400 B"),
        (60, r"\n    uint8  \(400,\)  400 B  obs/maybe_flag.codes.u8"),
    ],
)
def test_a_catalogue_fits_the_terminal(width, rest, tmp_path):
    path = data.write_h5ad(data.atlas(slim=True), tmp_path / "a.h5ad")
    catalogue = cl.outputs(path)
    lines = catalogue.as_text(width).splitlines()
    assert re.search(rf"^  obs/maybe_flag/codes{rest}$", "\n".join(lines), re.MULTILINE)
    names = {line.strip().split("  ")[0] for line in lines}
    assert {name for name in catalogue if not name.startswith("var/")} <= names
    # Nothing is wider but a word that is.
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


def test_outputs_sources_and_options_show_themselves_in_notebooks(catalogue):
    def fields(value):
        table = Table()
        table.feed(value._repr_html_())
        return table.heading, dict(table.rows)

    heading, rows = fields(catalogue["obs/sample/codes"])
    assert heading == "Output obs/sample/codes"
    assert rows["file"] == "obs/sample.codes.u8"
    assert rows["shape"] == "(400,)"
    assert rows["4 labels"] == "B/naïve, NK, T cells, unknown"
    assert "centroids/2d" in rows["statistics"]
    heading, rows = fields(catalogue.source)
    assert heading == f"Source {catalogue.source.name}"
    assert (rows["storage"], rows["cells"], rows["genes"]) == ("h5ad", "400", "30")
    assert "X_umap (400, 2)" in rows["obsm"]
    assert any("<b> & co" in text for text in rows.values())
    heading, rows = fields(cl.Options(compression=6))
    assert heading == "Options"
    assert list(rows) == list(cl.Options.__dataclass_fields__)
    assert rows["compression"] == "6"


def test_names_never_steer_a_terminal(tmp_path):
    adata = data.atlas(20, 3, slim=True)
    adata.obs["\x1b[31mred\x07\n\u202e"] = 1.0
    adata.obsm["\x1b]0;title\x07_umap_2d"] = np.zeros((20, 3), np.float32)
    path = data.write_h5ad(adata, tmp_path / "\x1b[2Ja.h5ad")
    with pytest.warns(cl.LeftOutWarning) as caught:
        catalogue = cl.outputs(path)
    with pytest.raises(cl.MissingKeyError) as missing:
        catalogue["obs/\x1b[31mred"]
    said = [repr(catalogue), catalogue.as_text(40), catalogue._repr_html_(), repr(catalogue.source)]
    said += [catalogue.source._repr_html_(), str(missing.value)]
    said += [str(one.message) for one in caught]
    said += [repr(one) for one in catalogue.values()]
    said += [one._repr_html_() for one in catalogue.values()]
    for text in said:
        assert text.replace("\n", "").isprintable(), text
    assert "\\x1b[31mred\\x07\\n\\u202e" in repr(catalogue)


def test_a_persisted_output_is_the_same_array(catalogue):
    array = catalogue["points/2d"].array
    (kept,) = dask.persist(array)
    assert (kept.name, kept.chunks, kept.dtype) == (array.name, array.chunks, array.dtype)
    np.testing.assert_array_equal(kept.compute(), array.compute())
