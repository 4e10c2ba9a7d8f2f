"""Stores over the network: S3 that checks signatures and rights, and plain HTTP."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
from scipy import sparse

from cellucid_lazy import readers
from cellucid_lazy.errors import DataError, MissingFileError, OptionError
from cellucid_lazy.readers.zarr.store import StorageOptions
from tests import data
from tests.engine.stores import write as write_matrix
from tests.helpers import compute, graph_bytes, raise_if_dask_computes
from tests.remote import FORMS, allow, http_server, write_store

pytestmark = pytest.mark.usefixtures("no_clouds")

CONSOLIDATED = [name for name, (_, consolidated, _) in FORMS.items() if consolidated]
ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:1"


def opened(s3, form, **more):
    options = s3.options(s3.reader) | more
    return readers.open(f"s3://bucket/{form}.zarr", storage_options=options)


def read_matrix(source):
    """The expression matrix, dense, read at borders of chunks."""
    matrix = source.expression.matrix
    found = np.zeros(matrix.shape, np.float64)
    for block in matrix.chunk_blocks(200, np.arange(matrix.shape[1])):
        part = matrix.read_block(block)
        part = part.toarray() if sparse.issparse(part) else part
        found[slice(*block.cells), slice(*block.genes)] += part
    return found


def everything(source):
    """All that a source holds, but for the names of its tasks."""
    columns = {key: compute(column.array()).tolist() for key, column in source.obs.items()}
    obsm = {key: compute(array.array()).tobytes() for key, array in source.obsm.items()}
    return repr(columns), obsm, read_matrix(source).tobytes(), source.read_gene_ids("index")


def refused(url, error, *parts, **options):
    """One line that names the URL and says the parts."""
    with pytest.raises(error) as caught:
        readers.open(url, storage_options=options)
    message = str(caught.value)
    assert message.startswith(f"{url}: "), message
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


# S3


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_it_holds_what_the_local_store_holds(form, s3, stores):
    assert everything(opened(s3, form)) == everything(readers.open(stores[form]))


@pytest.mark.parametrize("form", FORMS)
def test_opening_and_building_fetch_no_chunk(form, s3):
    s3.asked.requests.clear()
    with raise_if_dask_computes():
        source = opened(s3, form)
        for part in (source.obs, source.obsm):
            for one in part.values():
                one.array()
    assert s3.asked.requests
    assert s3.asked.chunks() == []
    source.read_gene_ids("index")
    read = {path.split(".zarr/")[1] for path in s3.asked.chunks()}
    assert read
    assert all(path.startswith("var/_index") for path in read)


@pytest.mark.parametrize("form", CONSOLIDATED)
def test_opening_asks_a_few_times_where_metadata_are_consolidated(form, s3):
    opened(s3, form)  # the client of the service may ask where the bucket is
    s3.asked.requests.clear()
    opened(s3, form)
    assert len(s3.asked.requests) <= 8, s3.asked.requests


@pytest.mark.parametrize("form", ["v2-csr", "v3-csc", "v3-dense-plain"])
def test_each_chunk_is_fetched_once(form, s3):
    source = opened(s3, form)
    s3.asked.requests.clear()
    read_matrix(source)
    fetched = Counter(s3.asked.chunks())
    assert len(fetched) > 2
    assert {path: times for path, times in fetched.items() if times > 1} == {}


_ELSEWHERE = """
import os, pickle, sys
os.chdir("/")
from dask.local import get_sync

with open(sys.argv[1], "rb") as file:
    graph, key = pickle.load(file)
print(get_sync(pickle.loads(graph), [key])[0].tobytes().hex())
"""


def test_a_graph_computes_in_another_process(s3, tmp_path):
    """And says nothing: Python complains of requests that are left behind."""
    array = opened(s3, "v3-csr").obsm["X_umap_2d"].array()
    (tmp_path / "graph").write_bytes(pickle.dumps((graph_bytes(array), (array.name, 0, 0))))
    answer = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "graph")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert answer.stderr == ""
    assert bytes.fromhex(answer.stdout) == compute(array).tobytes()


# What users give, and what is never shown


def test_credentials_are_never_shown(s3):
    source = opened(s3, "v3-csr")
    shown = [repr(source), repr(source.obs), repr(source.obsm), repr(source.connectivities)]
    shown += [repr(source.expression), source.expression.token, repr(source.read_gene_ids)]
    for one in (*source.obs.values(), *source.obsm.values()):
        array = one.array()
        shown += [repr(array), array._repr_html_(), repr(dict(array.__dask_graph__()))]
    for secret in s3.reader.values():
        assert [text for text in shown if secret in text] == []


def test_names_of_tasks_do_not_depend_on_who_asks_but_on_where(s3):
    def name(**options):
        source = opened(s3, "v3-csc", **options)
        return source.obsm["X_umap_2d"].array().name, source.expression.token

    assert name(**s3.writer) == name(**s3.reader)
    assert name(endpoint_url=s3.url.replace("127.0.0.1", "localhost"))[0] != name()[0]


def test_options_hide_and_scrub_secrets_however_deep():
    told = {
        "key": "AKIA1234",
        "anon": False,
        "client_kwargs": {"aws_session_token": "tok-en-1", "region_name": "eu-central-1"},
        "headers": {"Authorization": ["Bearer abcdef"]},
        "profile": "work",
    }
    options = StorageOptions(told)
    text = f"{options!r} {options.shown} {options.__dask_tokenize__()}"
    for secret in ("AKIA1234", "tok-en-1", "Bearer abcdef"):
        assert secret not in text
        assert secret not in options.scrub(f"it said\n {secret}, twice: {secret}")
    assert options.scrub("eu-central-1\n is\tfar, work") == "eu-central-1 is far, work"
    assert options.scrub("http://me:mine@host/x") == "http://***@host/x"
    same = StorageOptions(dict(reversed(told.items())))
    assert (same, hash(same), same.shown) == (options, hash(options), options.shown)
    assert pickle.loads(pickle.dumps(options)) == options
    assert StorageOptions({"key": "other"}) != StorageOptions({"key": "another"})


def test_the_environment_and_fsspecs_configuration_are_enough(s3, monkeypatch):
    url = "s3://bucket/v3-csr.zarr"
    monkeypatch.setitem(fsspec.config.conf, "s3", s3.options(s3.reader))
    assert readers.open(url).n_cells == 90


def test_public_data_need_no_credentials(s3, stores):
    files = s3.files()
    files.mkdir("public", acl="public-read")
    files.put(str(stores["v3-csc"]), "public/a.zarr", recursive=True, ACL="public-read")
    options = {"anon": True, "endpoint_url": s3.url}
    with s3.trusting():
        refused("s3://bucket/v3-csc.zarr", DataError, "Forbidden", **options)
        source = readers.open("s3://public/a.zarr", storage_options=options)
        found = everything(source)
    assert found == everything(readers.open(stores["v3-csc"]))


def test_a_store_that_is_written_anew_has_other_names_and_bytes(s3, tmp_path):
    def state():
        source = opened(s3, "again/v3-csr")
        array = source.obsm["X_umap_2d"].array()
        values = read_matrix(source).tobytes()
        return array.name, source.expression.token, compute(array).tobytes(), values

    first, second = (tmp_path / name for name in ("first", "second"))
    first.mkdir()
    second.mkdir()
    s3.put(write_store(first, "v3-csr"), "again/v3-csr.zarr")
    before = state()
    assert state() == before
    time.sleep(1.1)  # the service tells whole seconds
    s3.put(write_store(second, "v3-csr", seed=1), "again/v3-csr.zarr")
    after = state()
    assert all(old != new for old, new in zip(before, after, strict=True))


# Refusals


def test_a_bucket_or_a_store_that_is_not_there(s3):
    for url in ("s3://nobucket/a.zarr", "s3://bucket/nothing.zarr", "s3://bucket"):
        refused(url, MissingFileError, "no zarr store", **s3.options(s3.reader))


@pytest.mark.parametrize("who", ["stranger", "wrong secret", "wrong key", "nobody"])
def test_no_access(who, s3):
    options = {
        "stranger": s3.stranger,
        "wrong secret": s3.reader | {"secret": "not-the-secret"},
        "wrong key": s3.reader | {"key": "NOTTHEKEY"},
        "nobody": {},
    }[who]
    url = "s3://bucket/v3-csr.zarr"
    says = ("give credentials in storage_options", "anon=True")
    message = refused(url, DataError, *says, **s3.options(options))
    for secret in [one for one in options.values() if isinstance(one, str)]:
        assert secret not in message


def test_access_that_ends_while_reading(s3):
    iam = s3.iam()
    array = opened(s3, "v3-csr").obsm["X_umap_2d"].array()
    iam.delete_user_policy(UserName="reader", PolicyName="rights")
    try:
        with pytest.raises(DataError) as caught:
            compute(array)
    finally:
        allow(iam, "reader", ["s3:GetObject", "s3:ListBucket"])
    message = str(caught.value)
    assert message.startswith("s3://bucket/v3-csr.zarr: obsm/X_umap_2d: cannot be read: ")
    assert "\n" not in message
    assert compute(array).shape == (90, 2)


_OPEN = """
import sys
from cellucid_lazy import readers
for name in sys.argv[2:]:
    sys.modules[name] = None  # as if it were not installed
try:
    readers.open(sys.argv[1], storage_options={"endpoint_url": "http://127.0.0.1:1", "anon": True})
except readers.DataError as error:
    print(error)
"""


def open_elsewhere(url, *missing):
    """The message of an error, in a process that says nothing else."""
    call = [sys.executable, "-c", _OPEN, url, *missing]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{url}: ")
    return line


@pytest.mark.long
def test_a_server_that_is_not_there():
    """In another process, since Python complains of requests that are left behind."""
    line = open_elsewhere("s3://bucket/a.zarr")
    assert "cannot be opened" in line
    assert "endpoint_url" in line


def test_options_that_do_not_fit(s3):
    url = "s3://bucket/v3-csc.zarr"
    refused(url, OptionError, "storage_options", "kye", **s3.options(s3.reader), kye="secret-1")
    with pytest.raises(OptionError, match="mapping"):
        readers.open(url, storage_options=[("anon", True)])


def test_options_are_for_urls(stores):
    for source in (stores["v3-csc"], str(stores["v3-csc"]), data.atlas(20, 5, slim=True)):
        with pytest.raises(OptionError, match="storage_options are for URLs"):
            readers.open(source, storage_options={"anon": True})


def test_what_is_in_the_bucket_but_no_anndata_in_zarr(s3):
    options = s3.options(s3.reader)
    refused("s3://bucket/a.h5ad", DataError, "copy the file", "write_zarr", **options)
    refused("s3://bucket/a.zarr.zip", DataError, "unpack it", **options)
    refused("s3://bucket/v3-csc.zarr/obs", DataError, "AnnData", **options)
    refused("s3://bucket/v3-csc.zarr/obs/score", DataError, "cannot be opened", **options)
    refused("s3://", DataError, "names no store")


def test_urls_with_secrets_are_refused_without_showing_them():
    for url in ("s3://me:mine@bucket/a.zarr", "http://host/a.zarr?signature=mine"):
        with pytest.raises(OptionError) as caught:
            readers.open(url)
        assert "mine" not in str(caught.value)
        assert "storage_options" in str(caught.value)


@pytest.mark.parametrize("url", ["s3://bucket/a.zarr", "http://127.0.0.1:1/a.zarr"])
def test_packages_that_are_not_installed_are_named(url):
    """In a process to which the packages are not there."""
    line = open_elsewhere(url, "s3fs", "aiohttp")
    assert line.endswith("pip install '.[remote]' in the clone of cellucid_lazy")


# HTTP and local URLs


@pytest.fixture(scope="module")
def http(stores):
    (folder,) = {path.parent for path in stores.values()}
    (folder / "private").symlink_to(folder)
    with http_server(folder) as served:
        yield served


@pytest.mark.parametrize("form", FORMS)
def test_a_web_server_is_enough(form, http, stores):
    """Without consolidated metadata it has to list folders, as this one does."""
    url, asked = http
    asked.requests.clear()
    source = readers.open(f"{url}/{form}.zarr")
    assert asked.chunks() == []
    assert everything(source) == everything(readers.open(stores[form]))


def test_web_servers_refuse(http):
    url, _ = http
    refused(f"{url}/nothing.zarr", MissingFileError, "no zarr store")
    refused(f"{url}/a.h5ad", DataError, "copy the file")
    refused(f"{NOWHERE}/a.zarr", DataError, "cannot be opened")
    refused(f"{url}/private/v3-csc.zarr", DataError, "403")


def test_headers_are_sent(http):
    url, _ = http
    headers = {"Authorization": "Bearer of-the-door"}
    source = readers.open(f"{url}/private/v3-csc.zarr", storage_options={"headers": headers})
    assert read_matrix(source).any()
    message = refused(
        f"{url}/private/v3-csc.zarr", DataError, headers={"Authorization": "Bearer of-mine"}
    )
    assert "of-mine" not in message


@pytest.mark.parametrize("ranges", [True, False])
def test_shards_need_byte_ranges(ranges, tmp_path):
    matrix = sparse.random(60, 9, density=0.5, format="csr", dtype=np.float32, random_state=0)
    local = readers.open(write_matrix(tmp_path / "a.zarr", matrix, "v3 sharded"))
    with http_server(tmp_path, ranges=ranges) as (url, _):
        source = readers.open(f"{url}/a.zarr")
        if ranges:
            np.testing.assert_array_equal(read_matrix(source), read_matrix(local))
        else:
            with pytest.raises(DataError, match=r"X/.*: cannot be read: .*answer byte ranges"):
                read_matrix(source)


def test_the_url_of_a_local_file_is_its_path(stores, tmp_path):
    local = readers.open(stores["v3-csc"])
    assert readers.open(stores["v3-csc"].as_uri()).name == local.name
    blank = tmp_path / "with blank.h5ad"
    data.write_h5ad(data.atlas(20, 5, slim=True), blank)
    assert readers.open(blank.as_uri()).n_cells == 20
