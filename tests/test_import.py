"""What importing the library costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from tests.data import atlas, write_h5ad

BARE = "import anndata, dask.array"
OURS = "import cellucid_lazy"
# A child tells its own CPU time, which a busy machine stretches less than the wall's.
_TOLD = "; import time; print(time.process_time())"


def child(code: str) -> str:
    run = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout


def seconds(code: str) -> float:
    return float(child(code + _TOLD))


HEAVY = (
    "IPython",
    "anndata",
    "dask.array",
    "distributed",
    "fsspec.implementations",
    "matplotlib",
    "numba",
    "pandas",
    "xarray",
    "zarr",
)


def loaded_by(code: str) -> list[str]:
    return child(
        f"{code}; import sys; print(*(one for one in {HEAVY} if one in sys.modules))"
    ).split()


def test_importing_costs_less_than_half_of_anndata_and_dask():
    child(OURS)  # leaves compiled files behind
    ratios = []
    for _ in range(3):
        # In turns, so that whatever else the machine does falls on both.
        pairs = [(seconds(BARE), seconds(OURS)) for _ in range(3)]
        bare, ours = (statistics.median(one) for one in zip(*pairs, strict=True))
        ratios.append(ours / bare)
        if ratios[-1] <= 1 / 2:
            return
    raise AssertionError(f"importing costs {min(ratios):.2f} times what anndata and dask do")


def test_importing_leaves_out_what_is_not_always_needed():
    assert loaded_by(OURS) == []


def test_genes_of_a_file_need_no_lazy_array(tmp_path: Path):
    path = write_h5ad(atlas(), tmp_path / "atlas.h5ad")
    code = f'{OURS} as cl; files = cl.to_bytes(cl.outputs({str(path)!r}), ["var/CD3E", "var/CD3D"])'
    assert loaded_by(f"{code}; assert len(files) == 2") == []


def test_an_array_is_made_when_it_is_asked_for(tmp_path: Path):
    path = write_h5ad(atlas(), tmp_path / "atlas.h5ad")
    code = f'{OURS} as cl; cl.outputs({str(path)!r})["points/2d"].array'
    assert "dask.array" in loaded_by(code)


def test_importing_says_and_starts_nothing():
    code = "import threading; n = threading.active_count(); import cellucid_lazy; "
    code += "print(threading.active_count() - n)"
    run = [sys.executable, "-W", "error", "-c", "import anndata, dask.array, zarr; " + code]
    answer = subprocess.run(run, check=True, capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("0\n", "")
