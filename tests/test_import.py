"""What importing the library, and asking for help, loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cellucid_lazy as cl

ROOT = Path(__file__).parents[1]
HEAVY = (
    "IPython",
    "anndata",
    "dask",
    "distributed",
    "fsspec",
    "h5py",
    "matplotlib",
    "numba",
    "numpy",
    "pandas",
    "scipy",
    "xarray",
    "zarr",
)


def answer(code: str, *flags: str) -> str:
    """Run code in a process of its own, which must succeed and say nothing but its answer."""
    run = [sys.executable, *flags, "-c", code]
    done = subprocess.run(run, check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import cellucid_lazy as cl; dir(cl); cl.__version__",
        "import cellucid_lazy as cl; cl.Options(compression=6); cl.DataError",
        "from cellucid_lazy.cli import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit as ended: assert ended.code == 0",
    ],
    ids=["library", "options", "help"],
)
def test_what_is_not_needed_yet_is_not_loaded(code: str):
    code = f"{code}\nimport sys; print('loaded', [one for one in {HEAVY} if one in sys.modules])"
    assert answer(code).splitlines()[-1] == "loaded []"


def test_reading_a_file_does_without_anndata(pbmc_path: Path):
    """It takes longer to import than a small export."""
    code = f"import cellucid_lazy as cl, sys; cl.to_bytes(cl.outputs({str(pbmc_path)!r}), "
    code += "['points/2d', 'obs/louvain/codes', 'var/CD3D']); print('anndata' in sys.modules)"
    assert answer(code, "-W", "ignore") == "False"


def test_every_public_name_is_there():
    assert {name for name in cl.__all__ if getattr(cl, name, None) is None} == set()
    assert dir(cl) == cl.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cl.nothing  # noqa: B018


def test_importing_starts_and_warns_of_nothing():
    code = "import threading, warnings; warnings.simplefilter('ignore'); "
    code += "import anndata, dask.array, zarr; n = threading.active_count(); "
    code += "warnings.simplefilter('error'); "
    code += "import cellucid_lazy as cl; [getattr(cl, one) for one in cl.__all__]; "
    code += "print(threading.active_count() - n)"
    assert answer(code) == "0"
