"""The reference's folder server serves our export; it is read the way the web client reads it."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cellucid.server import CellucidServer

import cellucid_lazy as cl
from tests import data, oracle

DTYPES = {"float32": np.float32, "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32}


@dataclass
class Client:
    """What the client knows: the address of a folder."""

    url: str

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/{urllib.parse.quote(path)}", timeout=20) as answer:
            octets: bytes = answer.read()
        return octets

    def json(self, path: str) -> Any:
        return oracle.strict_json(self.get(path))

    def array(self, path: str, dtype: Any) -> np.ndarray:
        """One gzip member and nothing behind it, as browsers' DecompressionStream wants."""
        octets = self.get(path)
        if path.endswith(".gz"):
            stream = zlib.decompressobj(wbits=31)
            octets = stream.decompress(octets)
            assert stream.eof, path
            assert stream.unused_data == b"", path
        return np.frombuffer(octets, np.dtype(dtype).newbyteorder("<"))

    def missing(self, path: str) -> bool:
        try:
            self.get(path)
        except urllib.error.HTTPError as problem:
            return problem.code == 404
        return False


@pytest.fixture
def serve():
    servers = []

    def start(folder):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        server = CellucidServer(folder, port, "127.0.0.1", open_browser=False, quiet=True)
        servers.append(server)
        server.start_background()
        return Client(server.url)

    yield start
    for server in servers:
        server.stop()


def safe(key: str) -> str:
    """The client's rule for the file of a key."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", key).strip("._") or "field"


def dequantize(codes: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    """The client's arithmetic; NaN for the code that means missing."""
    most = {8: 254, 16: 65534}[bits]
    values = low + codes * ((high - low) / most)
    return np.where(codes > most, np.nan, values)


def close(values: np.ndarray, right: np.ndarray, row: list[Any], bits: int) -> None:
    """Within a step of the quantization; what is not finite is missing."""
    finite = np.isfinite(right)
    assert (np.isnan(values) == ~finite).all(), row[0]
    low, high = row[1:3]
    assert low < high, row[0]
    step = (high - low) / {8: 254, 16: 65534}[bits]
    assert np.abs(values - right)[finite].max(initial=0) <= step * (1 + 1e-3), row[0]


@pytest.mark.parametrize(("compression", "bits"), [(None, None), (6, 8), (1, 16)])
def test_every_url_of_the_manifests(compression, bits, serve, tmp_path):
    adata = data.atlas()
    path = data.write_h5ad(adata, tmp_path / "a.h5ad")
    options = {"var_quantization": bits, "obs_continuous_quantization": bits}
    catalogue = cl.outputs(path, cl.Options(compression=compression, **options))
    cl.to_directory(catalogue, tmp_path / "folder")
    right = cl.to_bytes(cl.outputs(path), cl.outputs(path))
    client = serve(tmp_path / "folder")
    read = {"dataset_identity.json", "obs_manifest.json", "var_manifest.json"}
    read |= {"connectivity_manifest.json"}

    def fetch(file: str, dtype: Any, length: int) -> np.ndarray:
        read.add(file)
        assert file.endswith(".gz") == (compression is not None)
        values = client.array(file, dtype)
        assert len(values) == length, file
        return values

    identity = client.json("dataset_identity.json")
    n_cells = identity["stats"]["n_cells"]
    assert (identity["version"], n_cells) == (2, adata.n_obs)
    for kind in ("embeddings", "vector_fields"):
        _points_and_vectors(identity[kind], kind, fetch, n_cells, right)
    _obs(client.json("obs_manifest.json"), fetch, n_cells, bits, right)
    _var(client.json("var_manifest.json"), fetch, n_cells, bits, right)
    _edges(client.json("connectivity_manifest.json"), fetch, identity, right)
    # The manifests name every file, and the client asks for nothing that is not there.
    folder = tmp_path / "folder"
    assert read == {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def _points_and_vectors(told, kind, fetch, n_cells, right):
    entries = told["fields"] if kind == "vector_fields" else {"": told}
    for field, entry in entries.items():
        assert entry["default_dimension"] in entry["available_dimensions"]
        for d in entry["available_dimensions"]:
            values = fetch(entry["files"][f"{d}d"], np.float32, n_cells * d)
            name = f"vectors/{field}/{d}d" if field else f"points/{d}d"
            assert values.tobytes() == right[name]
    if kind == "vector_fields":
        assert told["default_field"] in entries


def _obs(manifest, fetch, n_cells, bits, right):
    schemas = manifest["_obsSchemas"]
    assert manifest["_format"] == "compact_v1"
    for row in manifest["_continuousFields"]:
        schema = schemas["continuous"]
        assert len(row) == (1 if bits is None else 3)
        file = schema["pathPattern"].replace("{key}", safe(row[0]))
        values = fetch(file, DTYPES[schema["dtype"]], n_cells)
        plain = np.frombuffer(right[f"obs/{row[0]}/values"], np.float32)
        assert schema["quantized"] == (bits is not None)
        if bits is None:
            assert values.tobytes() == plain.tobytes()
        else:
            close(dequantize(values, *row[1:], schema["quantizationBits"]), plain, row, bits)
    for row in manifest["_categoricalFields"]:
        _category(schemas["categorical"], row, fetch, n_cells, bits, right)


def _category(schema, row, fetch, n_cells, bits, right):
    key, labels, dtype, missing, centroids = row[:5]
    assert len(row) == (5 if bits is None else 7)
    file = schema["codesPathPattern"].replace("{key}", safe(key))
    ending = {"uint8": "u8", "uint16": "u16"}[dtype]
    codes = fetch(file.replace("{ext}", ending), DTYPES[dtype], n_cells)
    assert codes.tobytes() == right[f"obs/{key}/codes"]
    assert ((codes < len(labels)) | (codes == missing)).all()
    assert set(centroids) == {"1", "2", "3"}
    for d, rows in centroids.items():
        assert all(np.isfinite(one["position"]).all() for one in rows)
        assert all(len(one["position"]) == int(d) for one in rows)
        assert all(one["category"] in labels for one in rows)
    file = schema["outlierPathPattern"].replace("{key}", safe(key))
    outliers = fetch(file, DTYPES[schema["outlierDtype"]], n_cells)
    plain = np.frombuffer(right[f"obs/{key}/outliers"], np.float32)
    assert schema["outlierQuantized"] == (bits is not None)
    if bits is None:
        assert outliers.tobytes() == plain.tobytes()
    else:
        close(dequantize(outliers, *row[5:], bits), plain, [key, *row[5:]], bits)


def _var(manifest, fetch, n_cells, bits, right):
    schema = manifest["_varSchema"]
    assert len(manifest["fields"]) == 30
    for row in manifest["fields"]:
        file = schema["pathPattern"].replace("{key}", safe(row[0]))
        values = fetch(file, DTYPES[schema["dtype"]], n_cells)
        plain = np.frombuffer(right[f"var/{row[0]}"], np.float32)
        if bits is None:
            assert values.tobytes() == plain.tobytes()
        else:
            close(dequantize(values, *row[1:], schema["quantizationBits"]), plain, row, bits)


def _edges(manifest, fetch, identity, right):
    dtype, n_edges = np.dtype(manifest["index_dtype"]), manifest["n_edges"]
    assert manifest["index_bytes"] == dtype.itemsize
    assert n_edges == identity["stats"]["n_edges"]
    sources = fetch(manifest["sourcesPath"], dtype, n_edges)
    destinations = fetch(manifest["destinationsPath"], dtype, n_edges)
    assert sources.tobytes() == right["connectivity/src"]
    assert destinations.tobytes() == right["connectivity/dst"]
    assert (sources < destinations).all()
    pairs = sources.astype(np.int64) * identity["stats"]["n_cells"] + destinations
    assert (np.diff(pairs) > 0).all()
    neighbours = np.bincount(np.concatenate([sources, destinations]))
    assert manifest["max_neighbors"] == neighbours.max()


def test_the_server_lists_the_folder_as_a_dataset(serve, pbmc_path, tmp_path):
    cl.to_directory(cl.outputs(pbmc_path, cl.Options(compression=1)), tmp_path / "exports" / "pbmc")
    client = serve(tmp_path / "exports")
    listed = json.loads(client.get("_cellucid/datasets"))["datasets"]
    name = "pbmc68k_reduced-scanpy-1.12.4"
    assert listed == [{"id": name, "path": "/pbmc/", "name": name}]
    points = client.array("pbmc/points_2d.bin.gz", np.float32)
    assert len(points) == 1400
    assert client.missing("pbmc/points_2d.bin")


def test_a_part_of_a_catalogue_is_a_whole_dataset(serve, pbmc_path, tmp_path):
    catalogue = cl.outputs(pbmc_path).select("obs/louvain/codes", "var/CD3D")
    cl.to_directory(catalogue, tmp_path / "part")
    client = serve(tmp_path / "part")
    identity, obs = client.json("dataset_identity.json"), client.json("obs_manifest.json")
    assert [field["key"] for field in identity["obs_fields"]] == ["louvain"]
    assert identity["stats"]["has_connectivity"] is False
    assert client.missing("connectivity_manifest.json")
    assert "continuous" not in obs["_obsSchemas"]
    assert client.json("var_manifest.json")["fields"] == [["CD3D"]]
    for file in ("points_2d.bin", "obs/louvain.codes.u8", "obs/louvain.outliers.f32"):
        assert len(client.get(file)) % 700 == 0
    assert len(client.array("var/CD3D.values.f32", np.float32)) == 700
