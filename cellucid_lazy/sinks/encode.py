"""How arrays become file bytes, and where the bytes go: in memory, or a file of a folder.

A file is its array's blocks in order. Blocks are compressed apart, in their own tasks, and joined
to the one gzip member that browsers accept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.errors import ExportError
from cellucid_lazy.sinks.gzip import GzipPart, compress, compress_part, join_parts
from cellucid_lazy.sinks.scratch import StoredArray, store_arrays
from cellucid_lazy.sinks.sight import Sight


@dataclass(frozen=True)
class ToMemory:
    """Files become bytes.

    Attributes
    ----------
    level
        gzip level, or None.
    """

    level: int | None

    def put(self, path: str, parts: Iterable[bytes | memoryview]) -> bytes:
        """Join the parts."""
        del path
        return b"".join(parts)

    def put_plain(self, path: str, text: bytes) -> bytes:
        """Keep a file that is never compressed."""
        return self.put(path, [text])


@dataclass(frozen=True)
class ToFolder:
    """Files go into a folder, compressed ones with the ending ``.gz``.

    Attributes
    ----------
    level
        gzip level, or None.
    folder
        Absolute path of a folder that is not shown to anyone yet.
    """

    level: int | None
    folder: str

    def put(self, path: str, parts: Iterable[bytes | memoryview]) -> int:
        """Write one file; gives its size.

        Raises
        ------
        ExportError
            When it cannot be written.
        """
        target = f"{self.folder}/{path}{'.gz' if self.level else ''}"
        try:
            return _write(target, parts)
        except OSError as problem:
            raise ExportError(f"{target}: cannot be written: {problem}") from problem

    def put_plain(self, path: str, text: bytes) -> int:
        """Write a file that is never compressed."""
        return ToFolder(None, self.folder).put(path, [text])


Target = ToMemory | ToFolder


def _write(target: str, parts: Iterable[bytes | memoryview]) -> int:
    size = 0
    descriptor = _new_file(target)
    try:
        for part in parts:
            view = memoryview(part)
            size += view.nbytes
            while view.nbytes:
                view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    return size


def _new_file(target: str) -> int:
    """Open a file that is not there yet, or is from a worker that died and whose task runs again.

    A file whose name differs in case only, where the file system does not tell them apart, is
    another output's and stays.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(target, flags, 0o666)
    except FileExistsError:
        folder, name = os.path.split(target)
        if name not in os.listdir(folder):  # noqa: PTH208
            raise
        # Removed, not emptied: whoever has it open still writes to a file of its own.
        os.unlink(target)  # noqa: PTH108
        return os.open(target, flags, 0o666)


def raw_bytes(values: NDArray[Any]) -> memoryview:
    """View an array's bytes, C-ordered and little-endian; copies only where it has to."""
    ordered = np.ascontiguousarray(values)
    little = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False)
    return memoryview(little.reshape(-1).data).cast("B")


def put_whole(target: Target, path: str, values: NDArray[Any], sight: Sight | None = None) -> Any:
    """Encode one array as one file; ``sight`` is what the file looks like, if that is known."""
    view = raw_bytes(values)
    return target.put(path, [compress(view, target.level, sight) if target.level else view])


class Part(NamedTuple):
    """One encoded block of a file.

    Attributes
    ----------
    content
        Its bytes, or a `StoredArray` of them.
    crc32, size
        Of the block before it was compressed; 0 where it is not.
    """

    content: Any
    crc32: int = 0
    size: int = 0


def encode_block(target: Target, values: NDArray[Any], *, folder: str | None = None) -> Part:
    """Encode one block of a file: the part that needs no other block.

    Parameters
    ----------
    target
        Where the file will go.
    values
        The block.
    folder
        Scratch folder in which the part waits for the others; in memory without one.
    """
    view = raw_bytes(np.asarray(values))
    part = Part(*compress_part(view, target.level)) if target.level else Part(view)
    if folder is None:
        return part
    (stored,) = store_arrays([np.frombuffer(part.content, np.uint8)], folder=folder)
    return part._replace(content=stored)


def put_blocks(target: Target, path: str, parts: Sequence[Part]) -> Any:
    """Join the encoded blocks of a file, one at a time."""
    loaded = (part._replace(content=_loaded(part.content)) for part in parts)
    if target.level:
        return target.put(path, join_parts(GzipPart(*part) for part in loaded))
    return target.put(path, (part.content for part in loaded))


def _loaded(content: Any) -> Any:
    return content[:].data if isinstance(content, StoredArray) else content


def make_folders(folder: str, paths: Iterable[str]) -> None:
    """Make the folders that files go into.

    Raises
    ------
    ExportError
        When a path would leave the folder.
    """
    for parent in {os.path.dirname(path) for path in paths}:  # noqa: PTH120 - tens of thousands
        inside = Path(folder, parent).resolve()
        if not inside.is_relative_to(Path(folder).resolve()):
            raise ExportError(f"{parent}: an output would leave the target folder")
        inside.mkdir(parents=True, exist_ok=True)
