"""Fixtures shared by the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import pytest

from tests import data

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData


@pytest.fixture(scope="session")
def pbmc_path() -> Path:
    """scanpy's PBMC file, in the present layout."""
    return data.pbmc_file(data.NEW_SCANPY)


@pytest.fixture(scope="session")
def old_pbmc_path() -> Path:
    """scanpy's PBMC file, in the layout from before AnnData 0.7."""
    return data.pbmc_file(data.OLD_SCANPY)


@pytest.fixture(scope="session")
def pbmc(pbmc_path: Path) -> AnnData:
    """scanpy's PBMC file in memory; not to be changed."""
    with data.writing():
        return anndata.read_h5ad(pbmc_path)


@pytest.fixture(scope="session")
def old_pbmc(old_pbmc_path: Path) -> AnnData:
    """scanpy's old PBMC file in memory; not to be changed."""
    with data.writing():
        return anndata.read_h5ad(old_pbmc_path)
