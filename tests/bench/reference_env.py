"""An environment of its own for the reference.

It has the versions of the shared libraries that this interpreter has, so that only the
implementation differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = "cellucid==0.0.9"
SHARED_LIBRARIES = ("anndata", "h5py", "numpy", "pandas", "scipy", "zarr")


def pinned_requirements() -> list[str]:
    """Return the reference and the shared libraries at the versions installed here."""
    return [REFERENCE, *(f"{name}=={metadata.version(name)}" for name in SHARED_LIBRARIES)]


def reference_python(cache: Path) -> Path:
    """Return the interpreter of the reference's environment, made in ``cache`` if not there."""
    requirements = pinned_requirements()
    folder = cache / "reference-environment"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    installed = folder / "installed.txt"
    if python.exists() and installed.exists() and installed.read_text().split() == requirements:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    installed.write_text("\n".join(requirements))
    return python
