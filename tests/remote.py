"""Servers on this machine: S3 that checks who asks, and plain HTTP; both note what is asked."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import urllib.request
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import fsspec
import zarr
from anndata import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from tests import data

if TYPE_CHECKING:
    from collections.abc import Iterator

# Name: version of zarr, whether metadata are consolidated, how X is held.
FORMS = {
    "v2-csr": (2, True, "csr"),
    "v2-csc-plain": (2, False, "csc"),
    "v3-csr": (3, True, "csr"),
    "v3-csc": (3, True, "csc"),
    "v3-dense-plain": (3, False, "dense"),
}

_REQUEST = re.compile(r"\b(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK = re.compile(r"/(c(/\d+)*|\d+(\.\d+)*)$")


def write_store(folder: Path, form: str, *, seed: int = 0) -> Path:
    """Write a zarr store of small chunks, of one form."""
    zarr_format, consolidated, matrix = FORMS[form]
    adata = data.atlas(90, 12, seed=seed, slim=True, matrix=matrix)
    # From anndata 0.13 on X is among the layers, under the name None.
    for key in [key for key in adata.layers if key is not None]:
        del adata.layers[key]
    adata.raw = None
    # A shard is fetched a range at a time, which would hide what is fetched twice.
    unsharded = {"auto_shard_zarr_v3": False} if hasattr(settings, "auto_shard_zarr_v3") else {}
    with settings.override(**unsharded):
        path = data.write_chunked(adata, folder / f"{form}.zarr", zarr_format=zarr_format)
    if consolidated:
        zarr.consolidate_metadata(path)
    return path


class Asked:
    """Requests that a server answered, as pairs of method and path."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

    def note(self, line: str) -> None:
        found = _REQUEST.search(line)
        if found:
            self.requests.append((found[1], found[2]))

    def chunks(self) -> list[str]:
        """Paths of the stored chunks that were fetched, in order, as often as they were."""
        paths = [path for method, path in self.requests if method == "GET" and "?" not in path]
        return [path for path in paths if _CHUNK.search(path)]


class S3(NamedTuple):
    """A running server of S3.

    Attributes
    ----------
    url
        Its address.
    asked
        What it is asked.
    writer, reader, stranger
        Credentials that may do everything, only read, and nothing.
    """

    url: str
    asked: Asked
    writer: dict[str, str]
    reader: dict[str, str]
    stranger: dict[str, str]

    def options(self, who: dict[str, str]) -> dict[str, str]:
        """Storage options, as users give them."""
        return {**who, "endpoint_url": self.url}

    def files(self) -> Any:
        """The file system of who may write."""
        return fsspec.filesystem("s3", **self.options(self.writer))

    def put(self, folder: Path, name: str) -> str:
        """Copy a store into the bucket, by hand: over the network it takes long. Gives its URL."""
        (service,) = s3_backends[DEFAULT_ACCOUNT_ID].values()
        for file in folder.rglob("*"):
            if file.is_file():
                key = f"{name}/{file.relative_to(folder).as_posix()}"
                service.put_object("bucket", key, file.read_bytes())
        return f"s3://bucket/{name}"

    @contextmanager
    def trusting(self) -> Iterator[None]:
        """Check nobody's rights for a while: this server knows unsigned requests only so."""
        _check_rights(self.url, False)
        try:
            yield
        finally:
            _check_rights(self.url, True)

    def iam(self) -> Any:
        """The service that knows who may do what."""
        return boto3.client(
            "iam",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.writer["key"],
            aws_secret_access_key=self.writer["secret"],
        )


class _Notes(logging.Handler):
    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self._asked = asked

    def emit(self, record: logging.LogRecord) -> None:
        self._asked.note(record.getMessage())


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run S3 on a free port; signatures and rights are checked as the service does."""
    log = logging.getLogger("werkzeug")
    before = log.level, log.propagate
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    asked = Asked()
    notes = _Notes(asked)
    log.addHandler(notes)
    log.setLevel(logging.INFO)
    log.propagate = False
    server.start()
    try:
        host, port = server.get_host_and_port()
        free = {"key": "any", "secret": "any"}
        running = S3(f"http://{host}:{port}", asked, free, free, free)
        running = running._replace(
            writer=_user(running, "writer", ["s3:*", "iam:*"]),
            reader=_user(running, "reader", ["s3:GetObject", "s3:ListBucket"]),
            stranger=_user(running, "stranger", []),
        )
        _check_rights(running.url, True)
        running.files().mkdir("bucket")
        yield running
    finally:
        _check_rights(running.url, False)
        server.stop()
        log.removeHandler(notes)
        log.level, log.propagate = before


def _user(server: S3, name: str, actions: list[str]) -> dict[str, str]:
    iam = server.iam()
    iam.create_user(UserName=name)
    allow(iam, name, actions)
    made = iam.create_access_key(UserName=name)["AccessKey"]
    return {"key": made["AccessKeyId"], "secret": made["SecretAccessKey"]}


def allow(iam: Any, name: str, actions: list[str]) -> None:
    """Let a user do some things, and nothing else."""
    if not actions:
        return
    rule = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=policy)


def _check_rights(url: str, checked: bool) -> None:
    count = b"0" if checked else b"inf"
    request = urllib.request.Request(
        f"{url}/moto-api/reset-auth", count, {"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(request).close()


class _Quiet(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any, asked: Asked, ranges: bool, **options: Any) -> None:
        self.asked = asked
        self.ranges = ranges
        super().__init__(*arguments, **options)

    def log_message(self, text: str, *arguments: Any) -> None:
        self.asked.note(text % arguments)

    def send_head(self) -> Any:
        wanted = "Bearer of-the-door"
        if self.path.startswith("/private/") and self.headers.get("Authorization") != wanted:
            self.send_error(403)
            return None
        span = _RANGE.fullmatch(self.headers.get("Range", "")) if self.ranges else None
        path = Path(self.translate_path(self.path))
        return self._part(path, *span.groups()) if span and path.is_file() else super().send_head()

    def _part(self, path: Path, first: str, last: str) -> Any:
        whole = path.read_bytes()
        start = int(first) if first else max(0, len(whole) - int(last))
        stop = min(len(whole), int(last) + 1) if first and last else len(whole)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(whole)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        return io.BytesIO(whole[start:stop])


@contextmanager
def http_server(folder: Path, *, ranges: bool = True) -> Iterator[tuple[str, Asked]]:
    """Serve a folder on a free port, parts of files too; ``private`` below it needs a token."""
    asked = Asked()
    handler = partial(_Quiet, asked=asked, ranges=ranges, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
