"""Codecs of zarr: which have a checksum, and decoding that stops at the size of a chunk.

zarr's own codecs decode chunks to any size.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

from isal import isal_zlib

from cellucid_lazy.engine.resources import memory_budget

# By codec, isal's argument wbits: size of the window and kind of header.
_WBITS = {"zlib": 15, "gzip": 31}
# Where zarr's own codecs keep what decodes.
_DECODERS = ("_gzip_codec", "_zstd_codec", "_blosc_codec", "_codec")
_CHECKSUMS = ("gzip", "zlib", "crc32c", "crc32", "adler32", "fletcher32")
# A checksum, or the header of a filter, may come on top of a chunk.
_OVERHEAD = 2**16


def checksum_of(array: Any) -> str:
    """Name the codec of an array that has a checksum, or ""."""
    metadata = array.metadata
    is_v2 = metadata.zarr_format == 2
    for codec in [metadata.compressor, *(metadata.filters or ())] if is_v2 else _codecs(metadata):
        name = _name(codec)
        if name in _CHECKSUMS or (name == "zstd" and getattr(codec, "checksum", False)):
            return name
    return ""


def _name(codec: Any) -> str:
    """Return what the metadata of either version call a codec."""
    config = codec.to_dict() if hasattr(codec, "to_dict") else {}
    name = config.get("name") or getattr(codec, "codec_id", "")
    return str(name).removeprefix("numcodecs.")


def bound_codecs(array: Any) -> None:
    """Make an open array of zarr refuse chunks that decode to more bytes than a chunk has.

    Texts, and what version 2 filters, have no such size; they must fit the memory budget.
    """
    metadata, dtype = array.metadata, array.dtype
    filters = getattr(metadata, "filters", None)
    is_sized = dtype.kind in "biufcSU" and not filters
    max_bytes = prod(array.chunks) * dtype.itemsize + _OVERHEAD if is_sized else memory_budget()
    for codec in _decoders(metadata):
        name = str(getattr(codec, "codec_id", ""))
        # On the instance: the array was opened for reading here, and has codecs of its own.
        if name in _WBITS:
            codec.decode = partial(_inflate, _WBITS[name], max_bytes)
        elif name in _SIZE_READERS:
            codec.decode = partial(_decode, codec.decode, name, max_bytes)


def _codecs(metadata: Any) -> list[Any]:
    """List the codecs of an array of version 3, and those within its shards."""
    codecs = list(metadata.codecs)
    for codec in codecs:
        codecs += getattr(codec, "codecs", ())
    return codecs


def _decoders(metadata: Any) -> list[Any]:
    """List the codecs that decompress, of both versions of zarr."""
    if metadata.zarr_format == 2:
        return [metadata.compressor]
    every = _codecs(metadata)
    return [getattr(one, name) for one in every for name in _DECODERS if hasattr(one, name)]


def _inflate(wbits: int, max_bytes: int, data: Any, out: Any = None) -> bytes:
    """Decompress gzip or zlib."""
    del out  # zarr gives none
    stream = isal_zlib.decompressobj(wbits)
    found: bytes = stream.decompress(data, max_bytes + 1)
    _check_size(len(found), max_bytes)
    if not stream.eof:
        raise ValueError("its deflate stream is cut short")
    if stream.unused_data:
        raise ValueError("its deflate stream is followed by something else")
    return found


def _decode(decode: Any, name: str, max_bytes: int, data: Any, out: Any = None) -> Any:
    """Decompress data whose header states the decoded size."""
    _check_size(_SIZE_READERS[name](bytes(memoryview(data).cast("B")[:18])), max_bytes)
    return decode(data, out)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(f"a chunk decodes to more than {max_bytes:,} bytes")


def _blosc_size(head: bytes) -> int:
    return int.from_bytes(head[4:8], "little")


def _lz4_size(head: bytes) -> int:
    return int.from_bytes(head[:4], "little")


def _zstd_size(head: bytes) -> int:
    """Read the size in the header of a zstd frame; 0 if it has none (RFC 8878, 3.1.1.1)."""
    descriptor = head[4] if len(head) > 4 else 0
    is_single = descriptor >> 5 & 1
    length = (is_single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(head[start : start + length], "little")
    return size + 256 if length == 2 else size


_SIZE_READERS = {"blosc": _blosc_size, "lz4": _lz4_size, "zstd": _zstd_size}
