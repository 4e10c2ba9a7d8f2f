"""Stores over the network: S3 that checks signatures and rights, and plain HTTP."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import anndata
import dask
import fsspec
import numpy as np
import pytest
import zarr
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy.cli import main
from cellucid_lazy.readers.remote import StorageOptions
from tests import data
from tests.engine.stores import write as write_matrix
from tests.helpers import graph_bytes, raise_if_dask_computes
from tests.remote import allow, http_server, s3_server

OPTIONS = cl.Options(created_at="2026-01-02T03:04:05Z", dataset_id="a", dataset_name="a")
# Name: version of zarr, whether metadata are consolidated, how X is held.
FORMS = {
    "v2-csr": (2, True, "csr"),
    "v2-csc-plain": (2, False, "csc"),
    "v2-dense": (2, True, "dense"),
    "v3-csr-plain": (3, False, "csr"),
    "v3-csc": (3, True, "csc"),
    "v3-dense": (3, True, "dense"),
}
CONSOLIDATED = [name for name, (_, consolidated, _) in FORMS.items() if consolidated]
ROOT = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:1"


def write(folder, form, **size):
    """A store of small chunks, of one form."""
    zarr_format, consolidated, matrix = FORMS[form]
    adata = data.atlas(**{"n_cells": 90, "n_genes": 12, "slim": True} | size, matrix=matrix)
    for layer in ("counts", "half", "by_gene"):
        del adata.layers[layer]
    path = data.write_chunked(adata, folder / f"{form}.zarr", zarr_format=zarr_format)
    if consolidated:
        zarr.consolidate_metadata(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """Whatever this machine knows of clouds is not asked."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "FSSPEC_")):
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        empty = tmp_path_factory.mktemp("cloud")
        patch.setenv("AWS_CONFIG_FILE", str(empty / "config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "credentials"))
        yield


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """One local store of each form."""
    folder = tmp_path_factory.mktemp("stores")
    return {form: write(folder, form) for form in FORMS}


@pytest.fixture(scope="module")
def s3(stores):
    with s3_server() as server:
        for path in stores.values():
            server.put(path, path.name)
        yield server


def opened(s3, form, **more):
    options = s3.options(s3.reader) | more
    return cl.open(f"s3://bucket/{form}.zarr", storage_options=options)


def catalogue_of(s3, form, **more):
    return cl.outputs(opened(s3, form, **more), OPTIONS)


def without_source(found):
    """Bytes, but for the identity, which names the URL."""
    return {name: one for name, one in found.items() if name != "manifest/identity"}


def refused(url, error, *parts, **options):
    """One line that names the URL and says the parts."""
    with pytest.raises(error) as caught:
        cl.open(url, storage_options=options)
    message = str(caught.value)
    assert message.startswith(f"{url}: "), message
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


# S3


@pytest.mark.parametrize("form", FORMS)
def test_bytes_are_those_of_the_local_store(form, s3, stores):
    remote, local = catalogue_of(s3, form), cl.outputs(stores[form], OPTIONS)
    assert list(remote) == list(local)
    assert without_source(cl.to_bytes(remote, remote)) == without_source(cl.to_bytes(local, local))


def test_a_folder_is_that_of_the_local_store(s3, stores, tmp_path):
    cl.to_directory(catalogue_of(s3, "v3-csc"), tmp_path / "remote")
    cl.to_directory(cl.outputs(stores["v3-csc"], OPTIONS), tmp_path / "local")
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
    remote, local = (
        {one.relative_to(folder): one.read_bytes() for one in folder.rglob("*") if one.is_file()}
        for folder in (tmp_path / "remote", tmp_path / "local")
    )
    assert remote.keys() == local.keys()
    assert [str(name) for name in remote if remote[name] != local[name]] in (
        [],
        ["dataset_identity.json"],
    )


@pytest.mark.parametrize("form", FORMS)
def test_opening_and_listing_fetch_no_chunk_of_a_cell(form, s3):
    s3.asked.requests.clear()
    with raise_if_dask_computes():
        catalogue = catalogue_of(s3, form)
        assert "points/2d" in catalogue
        assert s3.asked.requests
        assert s3.asked.chunks() == []
        names = list(catalogue)
        repr(catalogue)
    assert "var/CD3E" in names
    listed = {path.split(".zarr/")[1] for path in s3.asked.chunks()}
    assert listed
    assert all(path.startswith("var/_index") for path in listed)


@pytest.mark.parametrize("form", CONSOLIDATED)
def test_opening_asks_a_few_times_where_metadata_are_consolidated(form, s3):
    opened(s3, form)  # the client of the service may ask where the bucket is
    s3.asked.requests.clear()
    opened(s3, form)
    assert len(s3.asked.requests) <= 8, s3.asked.requests


@pytest.mark.parametrize("form", ["v2-csr", "v3-dense"])
def test_a_pass_fetches_each_chunk_once(form, s3):
    catalogue = catalogue_of(s3, form)
    names = [*catalogue.names("points"), "obs/score/values", *catalogue.names("var")]
    s3.asked.requests.clear()
    cl.to_bytes(catalogue, names)
    fetched = Counter(s3.asked.chunks())
    part = "/X/data/" if form == "v2-csr" else "/X/c/"
    assert sum(part in path for path in fetched) > 2
    twice = {path for path, times in fetched.items() if times > 1 and "/X/indptr" not in path}
    assert twice == set()


_ELSEWHERE = """
import hashlib, os, pickle, sys
os.chdir("/")
import numpy as np
from dask.local import get_sync

def flat(part):
    return [one for inner in part for one in flat(inner)] if isinstance(part, list) else [part]

assert "cellucid_lazy" not in sys.modules
with open(sys.argv[1], "rb") as file:
    graphs = pickle.load(file)
for name, (graph, keys) in graphs.items():
    blocks = get_sync(pickle.loads(graph), flat(keys))
    octets = b"".join(np.ascontiguousarray(block).tobytes() for block in blocks)
    print(hashlib.sha256(octets).hexdigest(), name)
"""


def test_every_graph_computes_in_another_process(s3, tmp_path):
    catalogue = catalogue_of(s3, "v3-csr-plain")
    right = cl.to_bytes(catalogue, catalogue)
    graphs = {
        name: (graph_bytes(catalogue[name].array), catalogue[name].array.__dask_keys__())
        for name in catalogue
    }
    (tmp_path / "graphs").write_bytes(pickle.dumps(graphs))
    answer = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "graphs")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert answer.stderr == ""
    told = dict(line.split(" ", 1)[::-1] for line in answer.stdout.splitlines())
    assert told == {name: hashlib.sha256(right[name]).hexdigest() for name in catalogue}


def test_dask_processes_read_the_store(s3):
    """Each process opens its own connections."""
    array = catalogue_of(s3, "v3-csr-plain")["points/2d"].array
    with dask.config.set(scheduler="synchronous"):
        right = array.compute()
    assert (array.compute(scheduler="processes", num_workers=2) == right).all()


# What users give, and what is never shown


def test_credentials_are_never_shown(s3, tmp_path):
    catalogue = catalogue_of(s3, "v3-csr-plain")
    names = [name for name in catalogue if not name.startswith("manifest")]
    shown = [repr(catalogue.source), repr(catalogue), catalogue._repr_html_()]
    shown += [repr(catalogue.source.obs), repr(catalogue.source.obsm)]
    shown += [repr(catalogue.source.expression), repr(catalogue.source.connectivities)]
    for name in names:
        array = catalogue[name].array
        shown += [repr(catalogue[name]), repr(array), array._repr_html_()]
        shown += [repr(dict(array.__dask_graph__())), str(array.__dask_keys__())]
    shown += [one.decode() for one in cl.to_bytes(catalogue, catalogue.names("manifest")).values()]
    for secret in s3.reader.values():
        assert [text for text in shown if secret in text] == []


def test_names_of_tasks_do_not_depend_on_who_asks_but_on_where(s3):
    def name(**options):
        return catalogue_of(s3, "v3-csc", **options)["var/CD3E"].array.name

    assert name(**s3.writer) == name(**s3.reader)
    assert name(endpoint_url=s3.url.replace("127.0.0.1", "localhost")) != name()


def test_options_hide_and_scrub_secrets_however_deep():
    told = {
        "key": "AKIA1234",
        "anon": False,
        "client_kwargs": {"aws_session_token": "tok-en-1", "region_name": "eu-central-1"},
        "headers": {"Authorization": ["Bearer abcdef"]},
        "profile": "work",
    }
    options = StorageOptions(told)
    text = f"{options!r} {options.place} {options.__dask_tokenize__()}"
    for secret in ("AKIA1234", "tok-en-1", "Bearer abcdef"):
        assert secret not in text
        assert secret not in options.scrub(f"it said\n {secret}, twice: {secret}")
    assert options.scrub("eu-central-1\n is\tfar, work") == "eu-central-1 is far, work"
    assert options.scrub("http://me:mine@host/x") == "http://***@host/x"
    same = StorageOptions(dict(reversed(told.items())))
    assert (same, hash(same), same.place) == (options, hash(options), options.place)
    assert pickle.loads(pickle.dumps(options)) == options
    assert StorageOptions({"key": "other"}) != StorageOptions({"key": "another"})


def test_the_environment_and_fsspecs_configuration_are_enough(s3, monkeypatch):
    url = "s3://bucket/v3-csr-plain.zarr"
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3.reader["key"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3.reader["secret"])
        patch.setenv("AWS_ENDPOINT_URL", s3.url)
        done = run("inspect", url, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["n_cells"] == 90
    with monkeypatch.context() as patch:
        for name, value in s3.options(s3.reader).items():
            patch.setenv(f"FSSPEC_S3_{name.upper()}", value)
        done = run("bytes", url, "points/2d", text=False)
        assert (done.returncode, done.stderr) == (0, b"")
    monkeypatch.setitem(fsspec.config.conf, "s3", s3.options(s3.reader))
    assert cl.to_bytes(cl.outputs(url), ["points/2d"])["points/2d"] == done.stdout


def test_public_data_need_no_credentials(s3, stores):
    files = s3.files()
    files.mkdir("public", acl="public-read")
    files.put(str(stores["v3-csc"]), "public/a.zarr", recursive=True, ACL="public-read")
    options = {"anon": True, "endpoint_url": s3.url}
    name = ["var/CD3E"]
    with s3.trusting():
        refused("s3://bucket/v3-csc.zarr", cl.DataError, "access is refused", **options)
        catalogue = cl.outputs(cl.open("s3://public/a.zarr", storage_options=options))
        found = cl.to_bytes(catalogue, name)
    assert found == cl.to_bytes(cl.outputs(stores["v3-csc"]), name)


def test_a_store_that_is_written_anew_has_other_names_and_bytes(s3, tmp_path):
    def look():
        catalogue = catalogue_of(s3, "again/v3-csr-plain")
        arrays = [catalogue[name].array for name in ("points/2d", "var/CD3E", "obs/score/values")]
        return [(one.name, one.compute(scheduler="synchronous").tobytes()) for one in arrays]

    first, second = (tmp_path / name for name in ("first", "second"))
    first.mkdir()
    second.mkdir()
    s3.put(write(first, "v3-csr-plain"), "again/v3-csr-plain.zarr")
    before = look()
    assert look() == before
    time.sleep(1.1)  # the service tells whole seconds
    s3.put(write(second, "v3-csr-plain", seed=1), "again/v3-csr-plain.zarr")
    after = look()
    for (name, octets), (new_name, new_octets) in zip(before, after, strict=True):
        assert name != new_name
        assert octets != new_octets


# Refusals


def test_a_bucket_or_a_store_that_is_not_there(s3):
    for url in ("s3://nobucket/a.zarr", "s3://bucket/nothing.zarr", "s3://bucket"):
        refused(url, cl.MissingFileError, "no zarr store", **s3.options(s3.reader))


@pytest.mark.parametrize("who", ["stranger", "wrong secret", "wrong key", "nobody"])
def test_no_access(who, s3):
    options = {
        "stranger": s3.stranger,
        "wrong secret": s3.reader | {"secret": "not-the-secret"},
        "wrong key": s3.reader | {"key": "NOTTHEKEY"},
        "nobody": {},
    }[who]
    url = "s3://bucket/v3-csr-plain.zarr"
    says = ("access is refused", "give credentials in storage_options", "anon=True")
    message = refused(url, cl.DataError, *says, **s3.options(options))
    for secret in [one for one in options.values() if isinstance(one, str)]:
        assert secret not in message


def test_access_that_ends_while_reading(s3):
    iam = s3.iam()
    catalogue = catalogue_of(s3, "v3-csr-plain")
    iam.delete_user_policy(UserName="reader", PolicyName="rights")
    try:
        with pytest.raises(cl.DataError) as caught:
            cl.to_bytes(catalogue, ["points/2d"])
    finally:
        allow(iam, "reader", ["s3:GetObject", "s3:ListBucket"])
    message = str(caught.value)
    assert message.startswith("s3://bucket/v3-csr-plain.zarr: obsm/X_umap_2d: cannot be read: ")
    assert "\n" not in message
    assert cl.to_bytes(catalogue, ["points/2d"])


def test_a_server_that_is_not_there():
    """On the command line, since Python complains of requests that are left behind."""
    url = "s3://bucket/a.zarr"
    words = ["--storage-option", f"endpoint_url={NOWHERE}", "--storage-option", "anon=true"]
    done = run("inspect", url, *words)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {url}: cannot be reached ")
    assert "endpoint_url" in line


def test_options_that_do_not_fit(s3):
    url = "s3://bucket/v3-csc.zarr"
    refused(url, cl.OptionError, "storage_options", "kye", **s3.options(s3.reader), kye="secret-1")
    with pytest.raises(cl.OptionError, match="mapping"):
        cl.open(url, storage_options=[("anon", True)])


def test_options_are_for_urls(stores):
    for source in (stores["v3-csc"], str(stores["v3-csc"]), data.atlas(20, 5, slim=True)):
        with pytest.raises(cl.OptionError, match="storage_options are for URLs"):
            cl.open(source, storage_options={"anon": True})


def test_what_is_in_the_bucket_but_no_anndata_in_zarr(s3):
    options = s3.options(s3.reader)
    refused("s3://bucket/a.h5ad", cl.DataError, "copy the file", "write_zarr", **options)
    refused("s3://bucket/a.zarr.zip", cl.DataError, "copy it here, or unpack it", **options)
    refused("s3://bucket/v3-csc.zarr/obs", cl.DataError, "AnnData", **options)
    refused("s3://bucket/v3-csc.zarr/obs/score", cl.DataError, "zarr store", **options)
    refused("s3://", cl.DataError, "names no store")


def test_urls_with_secrets_are_refused_without_showing_them():
    for url in ("s3://me:mine@bucket/a.zarr", "http://host/a.zarr?signature=mine"):
        with pytest.raises(cl.OptionError) as caught:
            cl.open(url)
        assert "mine" not in str(caught.value)
        assert "storage_options" in str(caught.value)


@pytest.mark.parametrize("url", ["s3://bucket/a.zarr", "http://127.0.0.1:1/a.zarr"])
def test_packages_that_are_not_installed_are_named(url):
    """In a process to which the packages are not there."""
    code = (
        "import sys; sys.modules['s3fs'] = sys.modules['aiohttp'] = None\n"
        "from cellucid_lazy.cli import main\n"
        f"sys.exit(main(['inspect', {url!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {url}: ")
    assert line.endswith("pip install 'cellucid-lazy[remote]'")


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
    catalogue = cl.outputs(cl.open(f"{url}/{form}.zarr"), OPTIONS)
    assert asked.chunks() == []
    local = cl.outputs(stores[form], OPTIONS)
    assert list(catalogue) == list(local)
    names = ["points/2d", "obs/sample/codes", "connectivity/src", *local.names("var")]
    assert cl.to_bytes(catalogue, names) == cl.to_bytes(local, names)


def test_web_servers_refuse(http):
    url, _ = http
    refused(f"{url}/nothing.zarr", cl.MissingFileError, "no zarr store")
    refused(f"{url}/a.h5ad", cl.DataError, "copy the file")
    refused(f"{NOWHERE}/a.zarr", cl.DataError, "cannot be reached")
    refused(f"{url}/private/v3-csc.zarr", cl.DataError, "access is refused")


def test_headers_are_sent(http):
    url, _ = http
    headers = {"Authorization": "Bearer of-the-door"}
    source = cl.open(f"{url}/private/v3-csc.zarr", storage_options={"headers": headers})
    assert cl.to_bytes(cl.outputs(source), ["var/CD3E"])
    message = refused(
        f"{url}/private/v3-csc.zarr", cl.DataError, headers={"Authorization": "Bearer of-mine"}
    )
    assert "of-mine" not in message


@pytest.mark.parametrize("ranges", [True, False])
def test_shards_need_byte_ranges(ranges, tmp_path):
    matrix = sparse.random(60, 9, density=0.5, format="csr", dtype=np.float32, random_state=0)
    local = cl.outputs(write_matrix(tmp_path / "a.zarr", matrix, "v3 sharded"))
    with http_server(tmp_path, ranges=ranges) as (url, _):
        catalogue = cl.outputs(cl.open(f"{url}/a.zarr"))
        if ranges:
            assert cl.to_bytes(catalogue, ["var/g3"]) == cl.to_bytes(local, ["var/g3"])
        else:
            with pytest.raises(cl.DataError, match=r"X/.*: cannot be read: .*answer byte ranges"):
                cl.to_bytes(catalogue, ["var/g3"])


def test_the_url_of_a_local_file_is_its_path(stores, tmp_path):
    local = cl.open(stores["v3-csc"])
    assert cl.open(stores["v3-csc"].as_uri()).name == local.name
    blank = tmp_path / "with blank.h5ad"
    data.write_h5ad(data.atlas(20, 5, slim=True), blank)
    assert cl.open(blank.as_uri()).n_cells == 20


# The command line


def run(*words, **options):
    settings = {"capture_output": True, "text": True, "timeout": 120, "cwd": ROOT} | options
    return subprocess.run([sys.executable, "-m", "cellucid_lazy", *map(str, words)], **settings)


def as_words(options):
    return [
        word for key, value in options.items() for word in ("--storage-option", f"{key}={value}")
    ]


def test_commands_take_storage_options(s3, stores, tmp_path):
    url, options = "s3://bucket/v2-csr.zarr", as_words(s3.options(s3.reader))
    inspected = run("inspect", url, *options)
    assert (inspected.returncode, inspected.stderr) == (0, "")
    assert inspected.stdout.startswith(f"Catalogue of {url}: 90 cells x 12 genes")
    exported = run("export", url, tmp_path / "out", "--compression", 1, *options)
    assert (exported.returncode, exported.stdout, exported.stderr) == (0, "", "")
    written = run("bytes", url, "var/CD3E", *options, text=False)
    assert (written.returncode, written.stderr) == (0, b"")
    right = cl.to_bytes(cl.outputs(stores["v2-csr"]), ["var/CD3E"])["var/CD3E"]
    assert written.stdout == right
    assert gzip.decompress((tmp_path / "out/var/CD3E.values.f32.gz").read_bytes()) == right
    everything = [inspected.stdout, (tmp_path / "out/dataset_identity.json").read_text()]
    for secret in s3.reader.values():
        assert not any(secret in text for text in everything)


def test_storage_options_are_switches_json_or_text(s3, monkeypatch):
    given = {}
    monkeypatch.setattr("cellucid_lazy.readers.open", lambda data, **found: given.update(found))
    catalogue = cl.outputs(data.atlas(20, 3, slim=True))
    monkeypatch.setattr("cellucid_lazy.catalogue.outputs", lambda *_: catalogue)
    words = ["anon=True", "key=0123", "secret=a=b", 'client_kwargs={"region_name": "x"}', "token="]
    asked = [word for one in words for word in ("--storage-option", one)]
    assert main(["inspect", "s3://bucket/a.zarr", *asked]) == 0
    assert given["storage_options"] == {
        "anon": True,
        "key": "0123",
        "secret": "a=b",
        "client_kwargs": {"region_name": "x"},
        "token": "",
    }


@pytest.mark.parametrize("words", ["hush-hush", "=hush-hush", "key={hush-hush"])
def test_misspelt_storage_options_are_misuse_and_not_repeated(words):
    done = run("inspect", "s3://bucket/a.zarr", "--storage-option", words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--storage-option" in done.stderr
    assert "hush-hush" not in done.stderr


def test_errors_on_the_command_line_show_no_secret_even_when_debugging(s3):
    options = as_words(s3.options(s3.stranger))
    done = run("inspect", "s3://bucket/v3-csc.zarr", *options, "--debug")
    assert done.returncode == 1
    assert "access is refused" in done.stderr
    for secret in s3.stranger.values():
        assert secret not in done.stderr


def test_read_lazy_over_the_network_is_used_as_it_is(s3, stores):
    files = fsspec.filesystem("s3", **s3.options(s3.reader), asynchronous=True)
    store = zarr.storage.FsspecStore(files, read_only=True, path="bucket/v3-csc.zarr")
    with data.writing():
        adata = anndata.experimental.read_lazy(zarr.open_group(store, mode="r"))
        found = cl.to_bytes(cl.outputs(adata), ["points/2d", "var/CD3E"])
    assert found == cl.to_bytes(cl.outputs(stores["v3-csc"]), list(found))
