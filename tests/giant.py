"""Ten million cells and sixty thousand genes that take no space: chunked arrays never filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from tests import data

if TYPE_CHECKING:
    from pathlib import Path

N_CELLS = 10_000_000
N_GENES = 60_000
N_STORED = 20_000_000_000
N_NEIGHBOURS = 150_000_000


def _small() -> anndata.AnnData:
    """What the giant looks like, with all of its genes and three of its cells."""
    names = pd.Index([f"GENE{i}" for i in range(N_GENES)])
    obs = pd.DataFrame(
        {
            "cell type": pd.Categorical(["a", "b", "c"]),
            "sample": pd.Categorical(["x", "y", "x"]),
            "n_counts": np.zeros(3, np.int64),
            "score": np.zeros(3, np.float32),
            "text": ["p", "q", "r"],
        },
        index=["c0", "c1", "c2"],
    )
    obsm = {
        key: np.zeros((3, width), np.float32)
        for key, width in {"X_umap": 2, "X_umap_3d": 3, "X_pca": 50, "velocity_umap": 2}.items()
    }
    small = anndata.AnnData(
        sparse.csr_matrix((3, N_GENES), dtype=np.float32),
        obs=obs,
        var=pd.DataFrame(index=names),
        obsm=obsm,
        obsp={"connectivities": sparse.csr_matrix((3, 3), dtype=np.float32)},
    )
    small.obs["maybe"] = pd.array([1, None, 3], dtype="Int64")
    return small


def _arrays(*, text: bool) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of all that has a row per cell; type None is text."""
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        "obs/_index": ((N_CELLS,), None),
        "obs/cell type/codes": ((N_CELLS,), np.int8),
        "obs/sample/codes": ((N_CELLS,), np.int8),
        "obs/n_counts": ((N_CELLS,), np.int64),
        "obs/score": ((N_CELLS,), np.float32),
        "obs/maybe/values": ((N_CELLS,), np.int64),
        "obs/maybe/mask": ((N_CELLS,), np.bool_),
        "obsm/X_umap": ((N_CELLS, 2), np.float32),
        "obsm/X_umap_3d": ((N_CELLS, 3), np.float32),
        "obsm/X_pca": ((N_CELLS, 50), np.float32),
        "obsm/velocity_umap": ((N_CELLS, 2), np.float32),
    }
    for group, stored in {"X": N_STORED, "obsp/connectivities": N_NEIGHBOURS}.items():
        arrays[f"{group}/data"] = ((stored,), np.float32)
        arrays[f"{group}/indices"] = ((stored,), np.int32)
        arrays[f"{group}/indptr"] = ((N_CELLS + 1,), np.int64)
    if text:
        arrays["obs/text"] = ((N_CELLS,), None)
    return arrays


def write(path: Path, *, text: bool = False) -> Path:
    """Write it as h5ad, or as zarr, by the ending of the path."""
    small = _small()
    if not text:
        del small.obs["text"]
    is_zarr = path.suffix == ".zarr"
    if is_zarr:
        data.write_zarr(small, path, zarr_format=3)
        root = zarr.open_group(path, mode="r+", use_consolidated=False)
        _enlarge(root, _zarr_array, text=text)
        with data.writing():
            zarr.consolidate_metadata(path)
    else:
        data.write_h5ad(small, path)
        with h5py.File(path, "r+") as root:
            _enlarge(root, _h5_array, text=text)
    return path


def _enlarge(root: Any, make: Any, *, text: bool) -> None:
    for key, (shape, dtype) in _arrays(text=text).items():
        attributes = dict(root[key].attrs)
        del root[key]
        make(root, key, shape, dtype).attrs.update(attributes)
    root["X"].attrs["shape"] = [N_CELLS, N_GENES]
    root["obsp/connectivities"].attrs["shape"] = [N_CELLS, N_CELLS]


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (min(shape[0], 100_000), *shape[1:])


def _h5_array(root: Any, key: str, shape: tuple[int, ...], dtype: Any) -> Any:
    return root.create_dataset(
        key,
        shape,
        dtype=h5py.string_dtype() if dtype is None else dtype,
        chunks=_chunks(shape),
        compression="gzip",
    )


def _zarr_array(root: Any, key: str, shape: tuple[int, ...], dtype: Any) -> Any:
    return root.create_array(
        key, shape=shape, dtype=str if dtype is None else dtype, chunks=_chunks(shape)
    )
