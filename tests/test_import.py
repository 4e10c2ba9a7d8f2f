"""What importing the library costs."""

from __future__ import annotations

import statistics
import subprocess
import sys

BARE = "import anndata, dask.array"
OURS = "import cellucid_lazy"
# A child tells its own CPU time, which a busy machine stretches less than the wall's.
_TOLD = "; import time; print(time.process_time())"


def child(code: str) -> str:
    run = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout


def seconds(code: str) -> float:
    return float(child(code + _TOLD))


def test_importing_costs_at_most_a_third_more_than_anndata_and_dask():
    child(OURS)  # leaves compiled files behind
    ratios = []
    for _ in range(3):
        # In turns, so that whatever else the machine does falls on both.
        pairs = [(seconds(BARE), seconds(OURS)) for _ in range(3)]
        bare, ours = (statistics.median(one) for one in zip(*pairs, strict=True))
        ratios.append(ours / bare)
        if ratios[-1] <= 4 / 3:
            return
    raise AssertionError(f"importing costs {min(ratios):.2f} times what anndata and dask do")


def test_importing_leaves_out_what_is_not_always_needed():
    heavy = ("distributed", "xarray", "matplotlib", "numba", "fsspec.implementations", "IPython")
    found = child(f"{OURS}; import sys; print([one for one in {heavy} if one in sys.modules])")
    bare = child(f"{BARE}; import sys; print([one for one in {heavy} if one in sys.modules])")
    assert found == bare
    assert "distributed" not in found


def test_importing_says_and_starts_nothing():
    code = "import threading; n = threading.active_count(); import cellucid_lazy; "
    code += "print(threading.active_count() - n)"
    run = [sys.executable, "-W", "error", "-c", "import anndata, dask.array, zarr; " + code]
    answer = subprocess.run(run, check=True, capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("0\n", "")
