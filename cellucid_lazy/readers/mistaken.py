"""Recognise files that are not AnnData, and say what to do with each."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_GZIP = b"\x1f\x8b"
_COMPRESSED = "is compressed with gzip; decompress it first (gunzip)"
_R = "is an R file; convert it to h5ad first, such as with zellkonverter"

# First bytes of a file, and the message about it.
_SIGNATURES = (
    (_GZIP, _COMPRESSED),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file; fetch it (git lfs pull)"),
    (b"BZh", "is compressed with bzip2; decompress it first (bunzip2)"),
    (b"\xfd7zXZ", "is compressed with xz; decompress it first (unxz)"),
    (b"RDX", _R),
    (b"X\n\0\0", _R),
    (b"%%MatrixMarket", "is a matrix of text; read it with scanpy.read_mtx and write an h5ad"),
    (b"<!DOCTYPE", "is a web page, not the file; download it again"),
    (b"<html", "is a web page, not the file; download it again"),
)
# Enough to recognise a file, also when it is compressed.
_HEAD_BYTES = 4096


def describe_file(path: str) -> str:
    """Describe a file that no storage opens, and what to do with it; "" if nothing is known."""
    file = Path(path)
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        begin = opened.read(_HEAD_BYTES)
    if not begin:
        return "is empty (0 bytes); download or copy it again"
    return _describe_bytes(begin)


def _describe_bytes(begin: bytes) -> str:
    if begin[257:262] == b"ustar":
        return "is a tar archive; unpack it (tar xf), and give what is in it"
    if begin.startswith(_GZIP):
        # R files, tar archives and 10x matrices are compressed as a rule.
        with suppress(zlib.error):
            inner = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(begin, _HEAD_BYTES)
            return _describe_bytes(inner) or _COMPRESSED
    return next((text for start, text in _SIGNATURES if begin.startswith(start)), "")


def describe_no_store(path: str) -> str:
    """Describe a zip file or folder that holds no zarr store, and what to do with it."""
    if Path(path).is_file():
        return "is an archive that holds no zarr store; unpack it, and give what is in it"
    if any((Path(path) / name).exists() for name in (".zarray", "zarr.json")):
        return "is a single zarr array, not AnnData"
    return (
        "has no .zgroup or zarr.json at its top, so it is no zarr store; copy it again as a whole, "
        "with hidden files"
    )


def describe_tree(root: Any) -> str:
    """Describe an HDF5 file or zarr store without an AnnData; "" if nothing is known."""
    checks: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("is a SpatialData store without tables; a table is what can be shown", _is_spatial),
        ("is a matrix of 10x Genomics; read it with scanpy.read_10x_h5 and write an h5ad", _is_10x),
        ("is a loom file; read it with anndata.io.read_loom and write an h5ad", _is_loom),
        ("is an h5Seurat file; convert it with SeuratDisk (Convert) to h5ad", _is_seurat),
    )
    return next((text for text, check in checks if check(root)), "")


def _is_10x(root: Any) -> bool:
    # Before Cell Ranger 3 there was a group for each genome, now there is one, "matrix".
    groups = [root.get(key) for key in root]
    return any(hasattr(one, "keys") and ("barcodes" in one or "features" in one) for one in groups)


def _is_loom(root: Any) -> bool:
    return "matrix" in root and "row_attrs" in root


def _is_seurat(root: Any) -> bool:
    return "assays" in root and "cell.names" in root


def _is_spatial(root: Any) -> bool:
    return "spatialdata_attrs" in root.attrs
