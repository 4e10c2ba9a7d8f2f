"""Data for the tests: scanpy's PBMC file, a generated atlas with everything, ways to store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

# The file in scanpy's wheel: 1.11 ships the layout from before AnnData 0.7, 1.12 the present one.
OLD_SCANPY = "1.11.5"
NEW_SCANPY = "1.12.4"
PBMC = "scanpy/datasets/10x_pbmc68k_reduced.h5ad"


def pbmc_file(version: str) -> Path:
    """Path of scanpy's file; its wheel is downloaded once, into a cache folder."""
    default = Path.home() / ".cache" / "cellucid-lazy-tests"
    cache = Path(os.environ.get("CELLUCID_LAZY_TEST_CACHE", default))
    kept = cache / f"pbmc68k_reduced-scanpy-{version}.h5ad"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            wheel = ["--only-binary=:all:", "--ignore-requires-python", f"scanpy=={version}"]
            subprocess.run([*download, *wheel, "--dest", folder], check=True)
            (archive,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(archive) as opened:
                # Workers of one test run may race for it: only a whole file gets the name.
                Path(opened.extract(PBMC, folder)).replace(kept)
    return kept


def atlas(
    n_cells: int = 400,
    n_genes: int = 30,
    *,
    seed: int = 0,
    matrix: str = "csr",
    dtype: Any = np.float32,
    embedding_dtype: Any = np.float32,
    slim: bool = False,
) -> AnnData:
    """An atlas with every kind of thing that the outputs know, or when slim a few of them.

    Storable in every format. Equal seeds give equal values, however the matrix is held.
    """
    rng = np.random.default_rng(seed)
    names = [f"cell{i}" for i in range(n_cells)]
    genes = [f"GENE{i}" for i in range(n_genes)]
    genes[:4] = ["HLA-DRB1/2", "gene with blank", "CD3E", "CD3D"][:n_genes]
    var = pd.DataFrame(
        {"ensembl": [f"ENSG{i:05}" for i in range(n_genes)], "length": np.arange(n_genes)},
        index=genes,
    )
    obsm = {
        "X_pca": rng.normal(size=(n_cells, 6)).astype(np.float32),
        "X_umap": rng.normal(size=(n_cells, 2)).astype(np.float32),
        "T_fwd_umap": rng.normal(size=(n_cells, 3)).astype(np.float32),
        "velocity_umap_2d": rng.normal(size=(n_cells, 2)).astype(np.float32),
        **{
            f"X_umap_{d}d": rng.normal(3, 5, size=(n_cells, d)).astype(embedding_dtype)
            for d in (1, 2, 3)
        },
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adata = anndata.AnnData(
            expression(rng, n_cells, n_genes, matrix=matrix, dtype=dtype),
            obs=cell_metadata(rng, n_cells).set_axis(names),
            var=var,
            obsm=obsm,
            obsp={"connectivities": neighbours(rng, n_cells)},
            layers={
                "counts": expression(rng, n_cells, n_genes, matrix="csr", dtype=np.int32),
                "half": expression(rng, n_cells, n_genes, matrix="dense", dtype=np.float16),
                "by_gene": expression(rng, n_cells, n_genes, matrix="csc", dtype=np.float64),
            },
        )
        more = pd.DataFrame(index=[*genes, "RAW1", "RAW2"])
        whole = expression(rng, n_cells, n_genes + 2, matrix="csr", dtype=np.float32)
        adata.raw = anndata.AnnData(whole, obs=pd.DataFrame(index=names), var=more)
    if slim:
        adata.obs = adata.obs[["cell type", "sample", "score", "maybe_flag"]]
        for key in ("X_umap_1d", "X_umap_3d", "T_fwd_umap"):
            del adata.obsm[key]
    return adata


def expression(
    rng: np.random.Generator, n_cells: int, n_genes: int, *, matrix: str, dtype: Any
) -> Any:
    """Counts, one in five of them not 0; ``dense``, ``csr``, ``csc`` or ``csr_array``."""
    values = rng.poisson(0.25, size=(n_cells, n_genes)) * rng.integers(1, 9, (n_cells, n_genes))
    values = values.astype(dtype)
    if np.dtype(dtype).kind == "f":
        values = (values * dtype(1.1)).astype(dtype)
    if matrix == "dense":
        return values
    return getattr(sparse, matrix if "_" in matrix else f"{matrix}_matrix")(values)


def cell_metadata(rng: np.random.Generator, n_cells: int) -> pd.DataFrame:
    """One column of each kind."""
    codes = rng.choice([-1, 0, 1, 3, 3, 3], n_cells)
    codes[:5] = 4  # too few for a centroid
    labels = np.array(["T cells", "B/naïve", "NK", "unknown"], dtype=object)
    score = rng.normal(size=n_cells).astype(np.float32)
    score[:3] = [np.nan, np.inf, -np.inf]
    gone = rng.random(n_cells) < 0.1
    many = pd.Categorical.from_codes(
        rng.integers(-1, 300, n_cells), [f"type {i}" for i in range(300)]
    )
    numbers = pd.Categorical.from_codes(rng.integers(0, 3, n_cells), [10, 9, 2], ordered=True)
    return pd.DataFrame(
        {
            "cell type": pd.Categorical.from_codes(codes, ["a", "b", "unused", "B", "rare"]),
            "sample": labels[rng.integers(0, 4, n_cells)],
            "many": many,
            "nothing": pd.Categorical.from_codes(np.full(n_cells, -1), pd.Index([], dtype=object)),
            "resolution": numbers,
            "doublet": rng.random(n_cells) < 0.2,
            "n_counts": rng.integers(0, 10**12, n_cells),
            "small": rng.integers(-100, 100, n_cells).astype(np.int8),
            "score": score,
            "score64": rng.normal(size=n_cells),
            "all_nan": np.full(n_cells, np.nan),
            "constant": np.full(n_cells, 2.5),
            "maybe_flag": pd.array(rng.random(n_cells) < 0.5, dtype="boolean").copy(),
            "maybe_count": pd.array(rng.integers(0, 99, n_cells), dtype="Int64"),
            "maybe_text": pd.array(labels[rng.integers(0, 4, n_cells)], dtype="string"),
        }
    ).assign(
        maybe_flag=lambda frame: frame["maybe_flag"].mask(gone),
        maybe_count=lambda frame: frame["maybe_count"].mask(gone),
        maybe_text=lambda frame: frame["maybe_text"].mask(gone),
    )


def neighbours(rng: np.random.Generator, n_cells: int) -> sparse.csr_matrix:
    """A neighbour graph: not symmetric, no diagonal, some stored zeros."""
    rows = np.repeat(np.arange(n_cells), 5)
    columns = (rows + rng.integers(1, max(2, n_cells), len(rows))) % n_cells
    keep = rows != columns
    weights = rng.random(keep.sum()).astype(np.float32) + np.float32(0.1)
    graph = sparse.csr_matrix(
        (weights, (rows[keep], columns[keep])), shape=(n_cells, n_cells), dtype=np.float32
    )
    graph.data[:: max(1, len(graph.data) // 7)] = 0
    return graph


@contextmanager
def writing(**settings: Any) -> Iterator[None]:
    """anndata's warnings about its own formats silenced, and its settings set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with anndata.settings.override(**settings):
            yield


def write_h5ad(adata: AnnData, path: Path, **options: Any) -> Path:
    """Write h5ad; text stays text, and the object is left as it was."""
    with writing(allow_write_nullable_strings=True):
        adata.copy().write_h5ad(path, convert_strings_to_categoricals=False, **options)
    return path


def write_zarr(adata: AnnData, path: Path, *, zarr_format: int) -> Path:
    """Write a zarr store; with the ending ``.zip`` as one file."""
    folder = path.with_name(f"{path.name}.folder") if path.suffix == ".zip" else path
    with writing(allow_write_nullable_strings=True, zarr_write_format=zarr_format):
        adata.copy().write_zarr(folder, convert_strings_to_categoricals=False)
    if folder != path:
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, str(file.relative_to(folder)))
        shutil.rmtree(folder)
    return path


def write_chunked(adata: AnnData, path: Path, *, zarr_format: int | None = None) -> Path:
    """Write h5ad, or zarr of a format, in small stored chunks, so that blocks cross them."""

    def write(func: Any, store: Any, key: str, elem: Any, dataset_kwargs: Any, iospec: Any) -> None:
        shape = np.shape(elem.data if sparse.issparse(elem) else elem)
        chunked = iospec.encoding_type in ("array", "string-array", "csr_matrix", "csc_matrix")
        options = dict(dataset_kwargs)
        if chunked and shape and 0 not in shape:
            options["chunks"] = tuple(min(n, size) for n, size in zip(shape, (37, 7), strict=False))
            if zarr_format is None and iospec.encoding_type != "string-array":
                options |= {"compression": "gzip", "shuffle": True}
        func(store, key, elem, dataset_kwargs=options)

    with writing(allow_write_nullable_strings=True):
        if zarr_format is None:
            with h5py.File(path, "w") as root:
                anndata.experimental.write_dispatched(root, "/", adata, callback=write)
        else:
            root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
            anndata.experimental.write_dispatched(root, "/", adata, callback=write)
    return path


def write_dataframe_010(adata: AnnData, path: Path) -> Path:
    """Write h5ad with the dataframes of encoding 0.1.0, as AnnData 0.7 did."""
    plain = adata.copy()
    plain.obs = plain.obs.drop(columns=[key for key in plain.obs if key.startswith("maybe")])
    write_h5ad(plain, path)
    with h5py.File(path, "r+") as root:
        for key, column in plain.obs.items():
            if isinstance(column.dtype, pd.CategoricalDtype):
                legacy_categorical(root["obs"], key)
        for frame in ("obs", "var"):
            root[frame].attrs["encoding-version"] = "0.1.0"
    return path


def legacy_categorical(frame: h5py.Group, key: str) -> None:
    """Store a category column of a dataframe as encoding 0.1.0 did."""
    group = frame[key]
    codes, ordered = group["codes"][...], bool(group.attrs["ordered"])
    frame.require_group("__categories")
    frame.move(f"{key}/categories", f"__categories/{key}")
    del frame[key]
    categories = frame["__categories"][key]
    categories.attrs["ordered"] = ordered
    written = frame.create_dataset(key, data=codes)
    written.attrs["categories"] = categories.ref


def as_expression(adata: AnnData, *, layer: str | None = None, use_raw: bool = False) -> AnnData:
    """The AnnData whose X is what was asked for: what the reference has to be given."""
    raw = adata.raw
    with writing():
        return anndata.AnnData(
            raw.X if use_raw else adata.layers[layer] if layer else adata.X,
            obs=adata.obs.copy(),
            var=(raw.var if use_raw else adata.var).copy(),
            obsm=dict(adata.obsm),
            obsp=dict(adata.obsp),
        )
