"""A Dataset with variables of one's own as a catalogue."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import cellucid_lazy as cl
from tests import data

N = 60
CREATED = "2020-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def adata():
    return data.atlas(N, 8, slim=True)


@pytest.fixture(scope="module")
def catalogue(adata):
    return cl.outputs(adata, cl.Options(created_at=CREATED))


@pytest.fixture(scope="module")
def ds(catalogue):
    return cl.to_dataset(catalogue)


def frame_of(catalogue, *keys):
    return cl.to_frame(catalogue, [f"obs/{key}" for key in keys])


def test_what_is_computed_of_a_variable_is_a_column_of_its_own(ds, catalogue):
    """Although xarray keeps its attributes."""
    new = ds.assign(
        half=ds.obs_score / 2,
        obs_log=np.log1p(abs(ds.obs_score)),
        is_nk=ds.obs_sample == 1,
        nk=(ds.obs_sample == 1).astype(int),
        kept=ds.obs_cell_type.where(ds.obs_sample == 1),
        cd3=ds.expression.isel(gene=2).drop_vars("gene_id"),
    )
    assert "output" in new.half.attrs
    found = cl.from_dataset(new)
    table = frame_of(found, "half", "log", "is_nk", "nk", "kept", "cd3", "score", "sample")
    score = table["score"].to_numpy()
    np.testing.assert_array_equal(table["half"], score / 2)
    np.testing.assert_array_equal(table["log"], np.log1p(abs(score)))
    is_nk = (table["sample"] == "NK").to_numpy()
    assert table["is_nk"].tolist() == [str(one) for one in is_nk]
    assert table["nk"].tolist() == is_nk.astype(float).tolist()
    plain = frame_of(catalogue, "cell type")["cell type"]
    pd.testing.assert_series_equal(
        table["kept"].astype(object), plain.astype(object).where(is_nk), check_names=False
    )
    np.testing.assert_array_equal(table["cd3"], cl.to_frame(catalogue, ["var/CD3E"])["CD3E"])


def test_columns_of_any_type(ds):
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, N)
    new = ds.assign(
        number=("cell", np.arange(N)),
        text=("cell", np.array(list("ab") * (N // 2))),
        truth=("cell", np.arange(N) > 30),
        flags=("cell", codes, {"flag_values": [-1, 0, 1], "flag_meanings": "down same up"}),
    ).assign_coords(batch=("cell", np.arange(N) % 3))
    found = cl.from_dataset(new)
    table = frame_of(found, "number", "text", "truth", "flags", "batch")
    assert table["number"].tolist() == list(range(N))
    assert table["text"].tolist() == list("ab") * (N // 2)
    assert table["truth"].cat.categories.tolist() == ["False", "True"]
    assert table["flags"].tolist() == [["down", "same", "up"][code + 1] for code in codes]
    assert table["batch"].tolist() == (np.arange(N) % 3).tolist()


def test_embeddings_and_vector_fields(catalogue):
    points = np.random.default_rng(0).normal(5, 3, (N, 2))
    # Transposed, and with a space that serves as latent space.
    ds = xr.Dataset(
        {
            "mine": (("axis_2d", "cell"), points.T),
            "vector_flow_2d": (("cell", "axis_2d"), points / 9),
            "X_pca": (("cell", "pc"), points),
        }
    )
    found = cl.from_dataset(ds)
    assert found.names("points") == ("points/2d", "points/2d/padded")
    assert found.names("vectors") == ("vectors/flow_mine/2d",)
    assert found.latent_key == "X_pca"
    names = ["points/2d", "vectors/flow_mine/2d"]
    with pytest.warns(cl.LeftOutWarning):
        plain = catalogue.assign(embeddings={"mine": points}, vectors={"flow": points / 9})
    assert cl.to_bytes(found, names) == cl.to_bytes(plain, names)


def test_points_without_attributes_are_scaled(ds, catalogue):
    points = ds.points_2d * 3 + 1
    kept = cl.to_bytes(cl.from_dataset(ds.assign(points_2d=points)), ["points/2d"])
    assert np.frombuffer(kept["points/2d"], np.float32).max() > 1
    bare = cl.from_dataset(ds.assign(points_2d=points.drop_attrs()))
    scaled = np.frombuffer(cl.to_bytes(bare, ["points/2d"])["points/2d"], np.float32)
    assert abs(scaled).max() == pytest.approx(1)


def test_what_fits_nothing_is_named(ds):
    new = ds.assign(
        when=("cell", pd.date_range("2020", periods=N)),
        mean=ds.expression.mean("cell"),
        logs=np.log1p(ds.expression),
        other=(("cell", "axis_2d"), np.zeros((N, 2))),
        vector_flow_1d=(("cell", "axis_1d"), np.zeros((N, 1))),
    )
    with pytest.warns(cl.LeftOutWarning) as said:
        found = cl.from_dataset(new)
    text = "\n".join(str(one.message) for one in said)
    for part in (
        "variable 'when' is left out: obs 'when': it holds datetime64",
        "variable 'mean' is left out: it has the dimensions ('gene',)",
        "variable 'logs' is left out: it has the dimensions ('cell', 'gene')",
        "embedding 'other' is not shown; choose it with Options(embeddings={2: 'other'})",
        "vector field 'flow' is left out: vectors: 'flow' has shape (60, 1), but",
    ):
        assert part in text
    assert len(said) == 5
    assert found.names("obs") == cl.from_dataset(ds).names("obs")
    other = ds.assign(other=new.other).drop_vars("vector_velocity_umap_2d")
    chosen = cl.from_dataset(other, cl.Options(embeddings={2: "other"}))
    assert not np.frombuffer(cl.to_bytes(chosen, ["points/2d"])["points/2d"], np.float32).any()


def test_two_variables_of_one_key(ds):
    with pytest.warns(cl.LeftOutWarning, match="another variable stands for obs 'score'"):
        cl.from_dataset(ds.assign(score=ds.obs_score * 2))


def test_a_part_of_the_cells_keeps_values_and_loses_edges(adata, catalogue):
    with pytest.warns(UserWarning, match="edges are counted"):
        ds = cl.to_dataset(catalogue, edges=True)
    order = np.r_[40:10:-2, 50:60]
    found = cl.from_dataset(ds.isel(cell=order))
    whole = np.frombuffer(cl.to_bytes(catalogue, ["points/2d"])["points/2d"], np.float32)
    points = np.frombuffer(cl.to_bytes(found, ["points/2d"])["points/2d"], np.float32)
    np.testing.assert_array_equal(points.reshape(-1, 2), whole.reshape(-1, 2)[order])
    expected = cl.outputs(adata[order].copy())
    names = ["connectivity/src", "connectivity/dst", "manifest/connectivity"]
    assert cl.to_bytes(found, names) == cl.to_bytes(expected, names)
    # Once more.
    again, expected = found.isel(cell=[5, 1, 2, 9]), cl.outputs(adata[order[[5, 1, 2, 9]]].copy())
    assert cl.to_bytes(again, names) == cl.to_bytes(expected, names)
    with pytest.warns(cl.LeftOutWarning, match="neighbour graph is left out: a cell that is"):
        assert not cl.from_dataset(ds.isel(cell=[1, 1, 2])).names("connectivity")


def test_edges_of_ones_own():
    ends = {"edge_src": ("edge", [3, 1, 0, 1]), "edge_dst": ("edge", [1, 3, 2, 1])}
    ds = xr.Dataset({"a": ("cell", np.arange(4)), **ends})
    with pytest.warns(cl.LeftOutWarning, match="no UMAP"):
        found = cl.from_dataset(ds)
    assert found["connectivity/src"].compute().tolist() == [0, 1]
    assert found["connectivity/dst"].compute().tolist() == [2, 3]
    with pytest.warns(cl.LeftOutWarning, match="no UMAP"):
        beyond = cl.from_dataset(ds.assign(edge_dst=("edge", [1, 3, 4, 1])))
    with pytest.raises(cl.DataError, match="edges between cells 0 and 4, but there are 4 cells"):
        beyond["connectivity/src"].compute()


def test_a_base_supplies_what_is_lacking(catalogue, ds):
    new = ds[["obs_score"]].assign(obs_score=ds.obs_score * 2)
    found = cl.from_dataset(new, base=catalogue)
    assert found.names() == catalogue.names()
    assert found.options == catalogue.options
    doubled = frame_of(found, "score")["score"]
    np.testing.assert_array_equal(doubled, frame_of(catalogue, "score")["score"] * 2)
    others = [name for name in catalogue if "score" not in name and name != "manifest/obs"]
    assert cl.to_bytes(found, others) == cl.to_bytes(catalogue, others)


def test_a_base_with_choices(adata):
    options = cl.Options(
        rename={"obs/sample": "donor"}, obs_keys=["donor"], genes=["CD3E"], embeddings={2: "X_umap"}
    )
    base = cl.outputs(adata, options)
    ds = cl.to_dataset(base)
    found = cl.from_dataset(ds[["expression"]].assign(new=ds.expression.sum("gene")), base=base)
    assert found.names("obs") == ("obs/donor/codes", "obs/donor/outliers", "obs/new/values")
    assert found.names("var") == ("var/CD3E",)


def test_names_of_cells_come_from_either_coordinate(ds):
    by_index = ds.drop_vars("cell_id").assign_coords(cell=ds.cell_id.values)
    found = cl.from_dataset(by_index)
    assert found.cell_names.compute().tolist() == ds.cell_id.values.tolist()
    none = cl.from_dataset(ds.drop_vars("cell_id"))
    assert none.cell_names.compute()[:2].tolist() == ["0", "1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ds: ds.rename(cell="obs"), "no dimension 'cell', only"),
        (lambda ds: ds.isel(cell=slice(5)), r"the Dataset has shape \(5,\), but there are 60"),
        (
            lambda ds: ds.isel(cell=slice(None, None, -1)),
            r"names the cells in another order \(60 of 60 are the same\)",
        ),
        (
            lambda ds: ds.assign_coords(cell_id=("cell", [f"x{i}" for i in range(N)])),
            r"names other cells \(0 of 60 are the same\); bring it into the order",
        ),
    ],
    ids=["no cells", "few", "reversed", "others"],
)
def test_cells_that_are_not_those_of_the_base(ds, catalogue, change, said):
    with pytest.raises(cl.DataError, match=said):
        cl.from_dataset(change(ds), base=catalogue)


def test_labels_have_to_fit(ds):
    label = ds.obs_sample_label.isel(obs_sample_category=slice(2)).values
    cut = ds.drop_vars("obs_sample_label").assign(obs_sample_label=("some", label))
    with pytest.warns(cl.LeftOutWarning, match="'obs_sample' is left out: it has 4 flag_values"):
        cl.from_dataset(cut)
    unknown = ds.assign(obs_sample=ds.obs_sample.copy(data=np.full(N, 77, np.uint8)))
    with pytest.raises(cl.DataError, match="sample"):
        cl.to_bytes(cl.from_dataset(unknown), ["obs/sample/codes"])


def test_the_table_says_where_outlier_quantiles_come_from(ds, catalogue):
    assert "(latent space: obsm/X_pca)" in repr(catalogue)
    assert "latent space" not in repr(cl.from_dataset(ds))
    new = ds.assign(text=("cell", np.array(["a"] * N)))
    assert "outlier quantiles are 0" in repr(cl.from_dataset(new))
