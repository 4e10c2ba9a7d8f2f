"""Outputs of stores over the network, and the command line's options for them.

Opening, reading and what is refused are tested beside the readers.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anndata
import fsspec
import pytest
import zarr

import cellucid_lazy as cl
from cellucid_lazy.cli import main
from tests import data
from tests.helpers import files_of, graph_bytes, raise_if_dask_computes
from tests.remote import allow, http_server

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_clouds")]

OPTIONS = cl.Options(created_at="2026-01-02T03:04:05Z", dataset_id="a", dataset_name="a")
ROOT = Path(__file__).parents[1]


def catalogue_of(s3, form, **more):
    options = s3.options(s3.reader) | more
    return cl.outputs(cl.open(f"s3://bucket/{form}.zarr", storage_options=options), OPTIONS)


def without_source(found):
    """Bytes, but for the identity, which names the URL."""
    return {name: one for name, one in found.items() if "identity" not in name}


# Outputs


@pytest.mark.parametrize("form", ["v2-csr", "v3-dense-plain"])
def test_bytes_are_those_of_the_local_store(form, s3, stores):
    remote, local = catalogue_of(s3, form), cl.outputs(stores[form], OPTIONS)
    assert list(remote) == list(local)
    assert without_source(cl.to_bytes(remote, remote)) == without_source(cl.to_bytes(local, local))


def test_a_web_server_is_enough(stores):
    """Without consolidated metadata it has to list folders, as this one does."""
    local = cl.outputs(stores["v2-csc-plain"], OPTIONS)
    with http_server(stores["v2-csc-plain"].parent) as (url, asked):
        remote = cl.outputs(cl.open(f"{url}/v2-csc-plain.zarr"), OPTIONS)
        assert asked.chunks() == []
        found = cl.to_bytes(remote, local)
    assert without_source(found) == without_source(cl.to_bytes(local, local))


def test_a_folder_is_that_of_the_local_store(s3, stores, tmp_path):
    cl.to_directory(catalogue_of(s3, "v3-csr"), tmp_path / "remote")
    cl.to_directory(cl.outputs(stores["v3-csr"], OPTIONS), tmp_path / "local")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["local", "remote"]
    remote, local = files_of(tmp_path / "remote"), files_of(tmp_path / "local")
    assert without_source(remote) == without_source(local)
    assert remote.keys() == local.keys()


def test_listing_fetches_names_of_genes_and_nothing_else(s3):
    s3.asked.requests.clear()
    with raise_if_dask_computes():
        catalogue = catalogue_of(s3, "v2-csr")
        assert "points/2d" in catalogue
        assert s3.asked.chunks() == []
        assert "var/CD3E" in list(catalogue)
        repr(catalogue)
    listed = {path.split(".zarr/")[1] for path in s3.asked.chunks()}
    assert listed
    assert all(path.startswith("var/_index") for path in listed)


@pytest.mark.parametrize("form", ["v2-csr", "v3-dense-plain"])
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


def test_graphs_compute_in_another_process(s3, tmp_path):
    catalogue = catalogue_of(s3, "v3-csr").select(
        "points/2d", "var/CD3E", "connectivity/src", "manifest/var"
    )
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


def test_credentials_are_never_shown(s3, tmp_path):
    catalogue = catalogue_of(s3, "v3-csr")
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


@pytest.mark.filterwarnings("ignore:.*cannot be read:UserWarning")
def test_access_that_ends_while_reading(s3, tmp_path):
    iam = s3.iam()
    catalogue = catalogue_of(s3, "v3-csr")
    iam.delete_user_policy(UserName="reader", PolicyName="rights")
    try:
        with pytest.raises(cl.DataError) as caught:
            cl.to_directory(catalogue, tmp_path / "out")
    finally:
        allow(iam, "reader", ["s3:GetObject", "s3:ListBucket"])
    message = str(caught.value)
    assert message.startswith("s3://bucket/v3-csr.zarr: ")
    assert ": cannot be read: " in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
    assert cl.to_bytes(catalogue, ["points/2d"])


# The command line


def run(*words, **options):
    settings = {"capture_output": True, "text": True, "timeout": 120, "cwd": ROOT} | options
    return subprocess.run([sys.executable, "-m", "cellucid_lazy", *map(str, words)], **settings)


def as_words(options):
    return [
        word for key, value in options.items() for word in ("--storage-option", f"{key}={value}")
    ]


def test_commands_take_storage_options(s3, stores, tmp_path, capsys):
    url, options = "s3://bucket/v2-csr.zarr", as_words(s3.options(s3.reader))
    assert main(["inspect", url, *options]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Catalogue of {url}: 90 cells x 12 genes")
    out, chosen = tmp_path / "out", ["--select", "var/CD3E", "--compression", "1"]
    assert main(["export", url, str(out), *options, *chosen]) == 0
    # In a process of its own, since Python complains of requests that are left behind.
    written = run("bytes", url, "var/CD3E", *options, text=False)
    assert (written.returncode, written.stderr) == (0, b"")
    right = cl.to_bytes(cl.outputs(stores["v2-csr"]), ["var/CD3E"])["var/CD3E"]
    assert written.stdout == right
    assert gzip.decompress((out / "var/CD3E.values.f32.gz").read_bytes()) == right
    everything = [shown, (out / "dataset_identity.json").read_text()]
    for secret in s3.reader.values():
        assert not any(secret in text for text in everything)


def test_storage_options_are_switches_json_or_text(s3, monkeypatch):
    given = {}
    monkeypatch.setattr("cellucid_lazy.open", lambda data, **found: given.update(found))
    catalogue = cl.outputs(data.atlas(20, 3, slim=True))
    monkeypatch.setattr("cellucid_lazy.outputs", lambda *_: catalogue)
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
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: s3://bucket/v3-csc.zarr: cannot be ")
    for secret in s3.stranger.values():
        assert secret not in done.stderr


def test_read_lazy_over_the_network_is_used_as_it_is(s3, stores):
    files = fsspec.filesystem("s3", **s3.options(s3.reader), asynchronous=True)
    store = zarr.storage.FsspecStore(files, read_only=True, path="bucket/v3-csc.zarr")
    with data.writing():
        adata = anndata.experimental.read_lazy(zarr.open_group(store, mode="r"))
        found = cl.to_bytes(cl.outputs(adata), ["points/2d", "var/CD3E"])
    assert found == cl.to_bytes(cl.outputs(stores["v3-csc"]), list(found))
