"""Files that are given by mistake: what each is, and what to do with it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# How a file begins, and what that says.
_BEGINNINGS = (
    (b"\x1f\x8b", "is compressed with gzip; decompress it first (gunzip)"),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file; fetch it (git lfs pull)"),
    (b"BZh", "is compressed with bzip2; decompress it first (bunzip2)"),
    (b"\xfd7zXZ", "is compressed with xz; decompress it first (unxz)"),
    (b"RDX", "is an R file; convert it to h5ad first, such as with zellkonverter"),
    (b"%%MatrixMarket", "is a matrix of text; read it with scanpy.read_mtx and write an h5ad"),
    (b"<!DOCTYPE", "is a web page, not the file; download it again"),
    (b"<html", "is a web page, not the file; download it again"),
)


def describe_file(path: str) -> str:
    """Say what a file is that no storage knows, and what to do."""
    file = Path(path)
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        begin = opened.read(64)
    if not begin:
        return "is empty (0 bytes); download or copy it again"
    return next((said for start, said in _BEGINNINGS if begin.startswith(start)), "")


def describe_tree(root: Any) -> str:
    """Say what an HDF5 file or zarr store is that holds no AnnData, and what to do."""
    checks: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("is a matrix of 10x Genomics; read it with scanpy.read_10x_h5 and write an h5ad", _is_10x),
        ("is a loom file; read it with anndata.io.read_loom and write an h5ad", _is_loom),
        ("is an h5Seurat file; convert it with SeuratDisk (Convert) to h5ad", _is_seurat),
    )
    return next((said for said, check in checks if check(root)), "")


def _is_10x(root: Any) -> bool:
    matrix = root.get("matrix")
    return hasattr(matrix, "keys") and ("barcodes" in matrix or "features" in matrix)


def _is_loom(root: Any) -> bool:
    return "matrix" in root and "row_attrs" in root


def _is_seurat(root: Any) -> bool:
    return "assays" in root and "cell.names" in root


def folder_in_zip(path: str) -> str | None:
    """Return the one folder at the top of a zip file, or None: the store may be one level down."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    return tops.pop() if len(tops) == 1 else None
