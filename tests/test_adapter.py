"""The adapter in the reference's place: the same methods, answers, errors and routes."""

from __future__ import annotations

import gzip
import inspect
import json
import threading
import urllib.error
import urllib.request
from http.server import HTTPServer

import anndata
import numpy as np
import pytest
from cellucid import anndata_server
from cellucid.anndata_adapter import AnnDataAdapter as ReferenceAdapter

import cellucid_lazy as cl
from cellucid_lazy import adapter as adapter_module
from tests import data, oracle
from tests.helpers import Reads, raise_if_dask_computes
from tests.storm import storm

N_CELLS = 200
ARGUMENTS = {
    "latent_key": "T_fwd_umap",
    "gene_id_column": "ensembl",
    "normalize_embeddings": False,
    "centroid_outlier_quantile": 0.7,
    "centroid_min_points": 3,
    "dataset_name": "A name / with ß",
    "dataset_id": "id",
}


def unlayered(adata):
    # From anndata 0.13 on X is among the layers, under the name None.
    for key in [key for key in adata.layers if key is not None]:
        del adata.layers[key]
    adata.raw = None
    return adata


@pytest.fixture(scope="module")
def atlas():
    return unlayered(data.atlas(N_CELLS))


@pytest.fixture(scope="module")
def path(atlas, tmp_path_factory):
    return data.write_chunked(atlas, tmp_path_factory.mktemp("adapter") / "some atlas.h5ad")


@pytest.fixture(scope="module")
def other_forms(atlas, tmp_path_factory):
    """The atlas as the argument of an adapter, made anew each time."""
    folder = tmp_path_factory.mktemp("forms")
    # Of a backed object that is sparse the reference cannot take a gene.
    dense = unlayered(data.atlas(N_CELLS, matrix="dense"))
    h5ad = data.write_h5ad(dense, folder / "a.h5ad", compression="gzip")
    return {
        "in memory": lambda: atlas,
        "backed": lambda: anndata.read_h5ad(h5ad, backed="r"),
        "zarr": lambda: data.write_zarr(atlas, folder / "a.zarr", zarr_format=2),
    }


def both(source, **arguments):
    """The reference's adapter, and ours."""
    by_path = not isinstance(source, anndata.AnnData)
    with data.writing():
        return [
            (one.from_file if by_path else one)(source, **arguments)
            for one in (ReferenceAdapter, cl.AnnDataAdapter)
        ]


def public(adapter):
    return {name for name in dir(adapter) if not name.startswith("_")}


def close_outliers(found, expected):
    """The reference ranks distances in float32: some cells may change places."""
    for name in [name for name in expected if name.endswith("/outliers")]:
        ours, theirs = (np.frombuffer(one[name], np.float32) for one in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.11, err_msg=name)
        n_other = (~np.isclose(ours, theirs, equal_nan=True)).sum()
        assert n_other <= 0.05 * len(theirs), name


def assert_same(ours, theirs):
    found, expected = oracle.adapter_outputs(ours), oracle.adapter_outputs(theirs)
    oracle.assert_same_outputs(found, expected)
    oracle.assert_same_manifests(found, expected)
    close_outliers(found, expected)


def test_every_name_and_argument_of_the_reference_is_there(atlas):
    theirs, ours = both(atlas)
    assert public(theirs) <= public(ours)
    for name in ("__init__", *public(theirs)):
        known = getattr(ReferenceAdapter, name, None)
        if not callable(known):
            continue
        wanted = inspect.signature(known).parameters
        found = inspect.signature(getattr(cl.AnnDataAdapter, name)).parameters
        assert list(found)[: len(wanted)] == list(wanted), name
        for argument, spec in wanted.items():
            assert found[argument].default == spec.default, (name, argument)
    for name in ARGUMENTS:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.adata is theirs.adata


@pytest.mark.parametrize(
    ("form", "arguments"),
    [
        ("in memory", {}),
        ("in memory", ARGUMENTS),
        ("backed", {}),
        ("h5ad", {"dataset_name": "named"}),
        ("h5ad", {"backed": False}),
        ("zarr", {}),
    ],
    ids=["in memory", "arguments", "backed", "h5ad", "h5ad loaded", "zarr"],
)
def test_answers_are_those_of_the_reference(form, arguments, path, other_forms):
    source = path if form == "h5ad" else other_forms[form]()
    theirs, ours = both(source, **arguments)
    with ours:
        for name in ("n_cells", "n_genes", "is_backed", *ARGUMENTS):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert repr(ours) == repr(theirs)
        assert ours.get_obs_keys() == theirs.get_obs_keys()
        assert ours.get_gene_ids() == theirs.get_gene_ids()
        assert_same(ours, theirs)
        gene = theirs.get_gene_ids()[2]
        assert ours.get_gene_min_max(gene) == theirs.get_gene_min_max(gene)
        oracle.same_json(
            ours.get_centroids_for_field("cell type"), theirs.get_centroids_for_field("cell type")
        )
        for dim in (1, 2, 3):
            for get in ("get_embedding", "get_embedding_3d"):
                one, other = getattr(ours, get)(dim), getattr(theirs, get)(dim)
                assert (one.dtype, one.shape) == (other.dtype, other.shape)
                one[:] = 0  # what is kept is not changed
        assert ours.get_points_binary(2) == theirs.get_points_binary(2)
        assert_same_compressed(ours, theirs)
    theirs.close()


def assert_same_compressed(ours, theirs):
    calls = {
        "get_points_binary": (3,),
        "get_vector_field_binary": ("velocity_umap", 2),
        "get_obs_continuous_values": ("score",),
        "get_obs_categorical_codes": ("many",),
        "get_obs_outlier_quantiles": ("nothing",),
        "get_gene_expression": (theirs.get_gene_ids()[3],),
        "get_connectivity_edges": (),
    }
    for name, arguments in calls.items():
        found, expected = (getattr(one, name)(*arguments, compress=True) for one in (ours, theirs))
        if not isinstance(found, tuple):
            found, expected = (found,), (expected,)
        for one, other in zip(found, expected, strict=True):
            is_file = isinstance(one, bytes)
            assert (gzip.decompress(one) if is_file else one) == (
                gzip.decompress(other) if is_file else other
            ), name


MISTAKES = {
    "get_embedding": (4,),
    "get_embedding_3d": ("2",),
    "get_points_binary": (0,),
    "get_vector_field_binary": ("velocity_umap", 3),
    "get_obs_field_kind": ("absent",),
    "get_obs_continuous_values": ("absent",),
    "get_obs_categorical_codes": ("absent",),
    "get_obs_outlier_quantiles": ("absent",),
    "get_centroids_for_field": ("absent",),
    "get_gene_expression": ("absent",),
    "get_gene_min_max": ("absent",),
}


def test_mistakes_raise_what_they_raise_in_the_reference(atlas, path):
    theirs, ours = both(atlas)
    for name, arguments in [*MISTAKES.items(), ("get_vector_field_binary", ("absent", 2))]:
        with pytest.raises((KeyError, ValueError)) as expected:
            getattr(theirs, name)(*arguments)
        with pytest.raises(expected.type) as found:
            getattr(ours, name)(*arguments)
        assert isinstance(found.value, cl.CellucidLazyError)
        assert "AnnData in memory" in str(found.value) or "vector" in name
    with pytest.raises(KeyError, match=r"obs/cell type/values'; did you mean"):
        ours.get_obs_continuous_values("cell type")
    with pytest.raises(FileNotFoundError):
        cl.AnnDataAdapter.from_file(path.parent / "absent.h5ad")
    with pytest.raises(ValueError, match="neither an HDF5 file nor a zarr store"):
        cl.AnnDataAdapter.from_file(path.parent)
    with pytest.raises(TypeError, match="var_quantization"):
        cl.AnnDataAdapter(atlas, var_quantization=8)
    bare = data.atlas(60, 4, slim=True)
    bare.obsm = {"X_tsne": np.zeros((60, 2), np.float32) + np.arange(60)[:, None]}
    bare.obsp = {}
    with pytest.warns(cl.LeftOutWarning), pytest.raises(ValueError, match=r"choose with .*X_tsne"):
        cl.AnnDataAdapter(bare)
    chosen = cl.AnnDataAdapter(bare, embeddings={2: "X_tsne"})
    assert chosen.get_embedding(2).shape == (60, 2)
    assert chosen.get_connectivity_manifest() is None
    with pytest.raises(ValueError, match="no neighbour graph"):
        chosen.get_connectivity_edges()


def test_a_closed_adapter_answers_no_more(other_forms):
    adata = other_forms["backed"]()
    ours = cl.AnnDataAdapter(adata)
    ours.get_points_binary(2)
    ours.close()
    ours.close()
    assert not adata.file.is_open
    assert (repr(ours), ours.adata) == ("AnnDataAdapter(closed)", None)
    assert not ours.is_backed
    assert not ours.has_connectivity()
    assert ours.get_connectivity_manifest() is None
    for name, arguments in [*MISTAKES.items(), ("get_gene_ids", ()), ("get_obs_manifest", ())]:
        with pytest.raises(RuntimeError, match="closed"):
            getattr(ours, name)(*arguments)
    with pytest.raises(cl.ClosedError):
        _ = ours.n_cells


def test_without_a_matrix_no_gene_is_offered():
    """The reference shows zeros."""
    adata = unlayered(data.atlas(60, 4, slim=True))
    del adata.X
    with pytest.warns(cl.LeftOutWarning, match="there is no X"):
        ours = cl.AnnDataAdapter(adata)
    assert (ours.n_genes, ours.get_gene_ids(), ours.get_var_manifest()["fields"]) == (4, [], [])
    with pytest.raises(KeyError):
        ours.get_gene_expression("CD3E")


def test_two_keys_that_a_server_cannot_tell_apart_are_named():
    adata = unlayered(data.atlas(60, 6, slim=True))
    adata.obs["cell_type"] = 1.0
    adata.var_names = ["CD3/E", "CD3_E", *adata.var_names[2:]]
    ours = cl.AnnDataAdapter(adata)
    with pytest.warns(UserWarning, match=r"'cell type' and 'cell_type' share .*rename one"):
        ours.get_obs_manifest()
    with pytest.warns(UserWarning, match="'CD3/E' and 'CD3_E' share the file name"):
        ours.get_var_manifest()
    renamed = cl.AnnDataAdapter(adata, rename={"obs/cell_type": "one", "var/CD3/E": "CD3E 1"})
    renamed.get_obs_manifest()
    assert renamed.get_var_manifest()["fields"][:2] == [["CD3E 1"], ["CD3_E"]]


def test_opening_reads_metadata_and_an_answer_is_read_once(path, monkeypatch):
    with Reads(monkeypatch) as reads, raise_if_dask_computes():
        ours = cl.AnnDataAdapter.from_file(path)
        assert ours.get_obs_field_kind("sample") == "category"
        assert ours.has_connectivity()
    assert reads.touched() == set()
    with Reads(monkeypatch) as reads:
        for _ in range(3):
            ours.get_points_binary(2)
            ours.get_gene_expression("CD3E", compress=True)
            ours.get_gene_min_max("CD3E")
    assert {one for one in reads.touched() if one.startswith("obs")} == {"obsm/X_umap_2d"}
    reads.assert_each_once("X/indices")
    with Reads(monkeypatch) as reads:
        for _ in range(2):
            ours.get_dataset_identity()
            ours.get_connectivity_manifest()
            ours.get_connectivity_edges()
    # Once to count the edges, once for the edges.
    assert len(reads.of("obsp/connectivities/data")) == 2


class Passes:
    """The passes that an adapter makes; the first waits until it is let go."""

    def __init__(self, monkeypatch, fail=()):
        self.made = []
        self.began, self.go = threading.Event(), threading.Event()
        to_bytes = adapter_module.to_bytes

        def watched(catalogue, names, **options):
            self.made.append(sorted(names))
            self.began.set()
            assert self.go.wait(60)
            if set(names) & set(fail):
                raise cl.DataError("damaged")
            return to_bytes(catalogue, names, **options)

        monkeypatch.setattr(adapter_module, "to_bytes", watched)


def ask(ours, genes, found):
    def one(gene):
        try:
            found.append((gene, ours.get_gene_expression(gene)))
        except cl.CellucidLazyError as problem:
            found.append((gene, problem))

    threads = [threading.Thread(target=one, args=(gene,)) for gene in genes]
    for thread in threads:
        thread.start()
    return threads


def when_asked(ours, count):
    """Wait until so many genes are asked for."""
    for _ in range(2_000):
        if len(ours._genes._requested) == count:
            return
        threading.Event().wait(0.01)
    raise AssertionError("not asked")


def test_genes_that_are_asked_for_during_a_pass_share_the_next(atlas, path, monkeypatch):
    passes = Passes(monkeypatch, fail=["var/GENE9"])
    ours, found = cl.AnnDataAdapter.from_file(path), []
    threads = ask(ours, ["CD3E", "CD3E"], found)
    assert passes.began.wait(60)
    threads += ask(ours, [*["CD3D"] * 5, "GENE7", "GENE8", "CD3E"], found)
    when_asked(ours, 4)
    passes.go.set()
    for thread in threads:
        thread.join(60)
    assert passes.made == [["var/CD3E"], ["var/CD3D", "var/GENE7", "var/GENE8"]]
    assert len(found) == 10
    for gene, values in found:
        assert values == atlas[:, gene].X.toarray().astype(np.float32).tobytes()
    # One that cannot be made takes no other with it.
    passes.go.clear()
    passes.began.clear()
    threads = ask(ours, ["GENE5"], found)
    assert passes.began.wait(60)
    threads += ask(ours, ["GENE9", "GENE6"], found)
    when_asked(ours, 3)
    passes.go.set()
    for thread in threads:
        thread.join(60)
    results = dict(found)
    assert isinstance(results["GENE9"], cl.DataError)
    assert isinstance(results["GENE6"], bytes)


def test_what_is_kept_fits_the_budget(path, monkeypatch):
    monkeypatch.setattr("cellucid_lazy.engine.resources._MIN_BUDGET", 1)
    passes = Passes(monkeypatch)
    passes.go.set()
    # Three genes, or less than a 2-D embedding with another.
    ours = cl.AnnDataAdapter.from_file(path, memory_budget=4 * 3 * 4 * N_CELLS)
    for gene in ("GENE5", "GENE6", "GENE7", "GENE5", "GENE8", "GENE5", "GENE6"):
        ours.get_gene_expression(gene)
    read = [one for names in passes.made for one in names]
    assert read == [f"var/GENE{i}" for i in (5, 6, 7, 8, 6)]
    passes.made.clear()
    for dim in (2, 2, 3, 3, 2):
        ours.get_points_binary(dim)
    assert passes.made == [["points/2d"], ["points/3d"], ["points/2d"]]
    # No more are made at a time than are kept.
    passes.made.clear()
    passes.go.clear()
    passes.began.clear()
    threads = ask(ours, [f"GENE{i}" for i in range(10, 18)], [])
    when_asked(ours, 8)
    passes.go.set()
    for thread in threads:
        thread.join(60)
    assert max(map(len, passes.made)) <= 3
    assert sum(map(len, passes.made)) == 8


# The reference's server


def answer(url, method="GET", **headers):
    """What a client sees: status, headers that matter, and the body, decompressed."""
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as problem:
        response = problem
    with response:
        body = response.read()
    told = {key: response.headers[key] for key in ("Content-Type", "Content-Encoding")}
    if told["Content-Encoding"] == "gzip" and body:
        body = gzip.decompress(body)
    return response.status, told, body


@pytest.fixture
def serve(monkeypatch):
    servers = []

    def start(adapter, source, **arguments):
        monkeypatch.setattr(anndata_server, "AnnDataAdapter", adapter)
        # Port 0: the system chooses a free one.
        server = anndata_server.AnnDataServer(source, port=0, quiet=True, **arguments)
        servers.append(server)
        server.start_background()
        assert isinstance(server._server, HTTPServer)
        return f"http://127.0.0.1:{server._server.server_port}", server

    yield start
    for server in servers:
        server.stop()


def routes(adapter):
    """All that the manifests name, and what is not there."""
    identity, obs = adapter.get_dataset_identity(), adapter.get_obs_manifest()
    yield from ("dataset_identity.json", "obs_manifest.json", "var_manifest.json")
    yield from ("connectivity_manifest.json", "_cellucid/health", "_cellucid/info")
    yield from ("_cellucid/datasets", f"{identity['id']}/points_2d.bin", "absent")
    yield from ("connectivity/edges.src.bin", "connectivity/edges.dst.bin", "connectivity/absent")
    yield from ("points_4d.bin", "points_xd.bin", "points_2d.bin.gz")
    yield from identity["embeddings"]["files"].values()
    for field in identity["vector_fields"]["fields"].values():
        yield from (path for file in field["files"].values() for path in (file, f"{file}.gz"))
    yield from ("vectors/absent_2d.bin", "vectors/velocity_umap_3d.bin", "vectors/velocity_umap")
    for row in obs["_continuousFields"]:
        yield f"obs/{cl_safe(row[0])}.values.f32"
    for key, _, dtype, *_ in obs["_categoricalFields"]:
        yield f"obs/{cl_safe(key)}.codes.{'u8' if dtype == 'uint8' else 'u16'}"
        yield f"obs/{cl_safe(key)}.outliers.f32"
    yield from ("obs/absent.values.f32", "obs/score.absent.f32", "obs/score")
    for (gene,) in adapter.get_var_manifest()["fields"]:
        yield f"var/{cl_safe(gene)}.values.f32"
    yield from ("var/absent.values.f32", "var/CD3E.values.u8")


def cl_safe(key):
    return anndata_server._safe_filename_component(key)


@pytest.mark.parametrize("form", ["h5ad", "in memory"])
def test_every_route_answers_as_with_the_reference(form, path, other_forms, serve, capsys):
    source = path if form == "h5ad" else other_forms[form]()
    sides = [serve(one, source) for one in (cl.AnnDataAdapter, ReferenceAdapter)]
    assert type(sides[0][1].adapter) is cl.AnnDataAdapter
    n_found = 0
    for route in routes(sides[1][1].adapter):
        for method, headers in (
            ("GET", {}),
            ("GET", {"Accept-Encoding": "gzip"}),
            ("HEAD", {}),
        ):
            found, expected = (answer(f"{url}/{route}", method, **headers) for url, _ in sides)
            assert found[:2] == expected[:2], route
            n_found += found[0] == 200
            assert_same_body(route, found[2], expected[2])
    assert n_found > 3 * 60
    printed = []
    for _, server in sides:
        server._print_dataset_info()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


def assert_same_body(route, found, expected):
    if ".outliers." in route:
        close_outliers({"of/outliers": found}, {"of/outliers": expected})
    elif expected.startswith(b"{"):
        found, expected = json.loads(found), json.loads(expected)
        oracle.same_json(found, expected, but=("created_at", "port"))
    elif route.endswith(".gz") and route.startswith("vectors") and expected:
        assert gzip.decompress(found) == gzip.decompress(expected)
    else:
        assert found == expected, route


# Many at once


@pytest.mark.long
def test_a_storm_of_clients(tmp_path):
    """`python -m tests.storm` lasts longer, on 100,000 cells, and beside the reference."""
    atlas = data.write_h5ad(unlayered(data.atlas(20_000, 300, slim=True)), tmp_path / "a.h5ad")
    server = "cellucid_lazy, a thread per request"
    came = storm(atlas, server, n_clients=32, seconds=1, budget="64MB")
    assert came.problems == []
    assert came.answers >= 32
    assert came.peak_megabytes < 1200
