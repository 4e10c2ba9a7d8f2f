"""With dask's next array implementation an export is the same, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import data

CODE = """
import sys
import dask.array as da
import cellucid_lazy as cl

path, out, planned = sys.argv[1:]
assert hasattr(da.Array, "expr") == (planned == "True")
options = cl.Options(var_quantization=8, created_at="2026-01-02T03:04:05Z")
catalogue = cl.outputs(path, options)
cl.to_directory(catalogue, out, progress=False)
assert catalogue["obs/score/values"].statistics["range"].compute().shape == (2,)
"""


@pytest.mark.long
def test_an_export_is_the_same(tmp_path):
    path = data.write_chunked(data.atlas(400, 30), tmp_path / "a.h5ad")
    written = []
    for planned in ("False", "True"):
        out = tmp_path / planned
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CODE, str(path), str(out), planned],
            check=True,
            env={**os.environ, "DASK_ARRAY__QUERY_PLANNING": planned},
        )
        files = (file for file in out.rglob("*") if file.is_file())
        written.append({file.relative_to(out): file.read_bytes() for file in files})
    assert len(written[0]) > 30
    assert written[0] == written[1]
