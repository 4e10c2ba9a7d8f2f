"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anndata
import pytest

from tests import data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData

    from tests.remote import S3


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


@pytest.fixture(scope="session")
def no_clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody asks what this machine knows of clouds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "FSSPEC_")):
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        empty = tmp_path_factory.mktemp("cloud")
        patch.setenv("AWS_CONFIG_FILE", str(empty / "config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "credentials"))
        yield


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One local zarr store of each form; not to be changed."""
    from tests.remote import FORMS, write_store

    folder = tmp_path_factory.mktemp("stores")
    return {form: write_store(folder, form) for form in FORMS}


@pytest.fixture(scope="session")
def s3(no_clouds: None, stores: dict[str, Path]) -> Iterator[S3]:
    """S3 with these stores in its bucket."""
    from tests.remote import s3_server

    with s3_server() as server:
        for path in stores.values():
            server.put(path, path.name)
        yield server


@pytest.fixture(params=["object", "h5ad", "zarr"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[AnnData], AnnData | Path]:
    """Store an AnnData in each form: as it is, or as a path."""

    def store(adata: AnnData) -> AnnData | Path:
        if request.param == "object":
            return adata
        path = tmp_path / f"a.{request.param}"
        with data.writing():
            adata.write_h5ad(path) if request.param == "h5ad" else adata.write_zarr(path)
        return path

    return store
