"""The protocol of producers, which yield stages of tasks that write the files of outputs."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.codecs import Codec, Part
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.resources import Resources
from cellucid_lazy.engine.spill import SpilledBlock, Spiller
from cellucid_lazy.sinks.sink import Writer


class Stage(NamedTuple):
    """One dask computation.

    Attributes
    ----------
    label
        What progress calls it.
    graph
        Tasks by key.
    keys
        Keys that are computed, in this order.
    """

    label: str
    graph: Mapping[Any, Any]
    keys: Sequence[Any]


class Produced(NamedTuple):
    """What a producer made.

    Attributes
    ----------
    receipts
        What the sink returned for each file, by the file's name.
    values
        Computed arrays by their dask names.
    """

    receipts: Mapping[str, Any]
    values: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """What a producer is asked for, and what it may use.

    Attributes
    ----------
    outputs
        By the name of the file that each becomes.
    needs
        Arrays that manifests need, by their dask names.
    encoder
        Encodes and writes files.
    spiller
        Puts blocks on disk.
    resources
        Memory and threads.
    """

    outputs: Mapping[str, Output]
    needs: Mapping[str, da.Array]
    encoder: Encoder
    spiller: Spiller
    resources: Resources


class Producer(Protocol):
    """Makes outputs in one pass. Producers that compare equal share a pass."""

    def provides(self, outputs: Sequence[Output], /) -> frozenset[str]:
        """Name the arrays (by dask name) that making the outputs computes anyway."""

    def run(self, job: Job, /) -> Generator[Stage, Sequence[Any], Produced]:
        """Yield stages; each is sent back the values of its keys."""

    def summarize(self, kinds: Mapping[str, int], resources: Resources, /) -> str:
        """Describe the pass in a clause, given how many outputs of each kind there are."""

    def explain(self, kinds: Mapping[str, int], resources: Resources, /) -> str:
        """Describe the pass in detail, given the same numbers."""


@dataclass(frozen=True)
class Encoder:
    """Encodes arrays and writes them as files, inside tasks. It pickles.

    Attributes
    ----------
    codec
        Encodes bytes.
    writer
        Where files go.
    """

    codec: Codec
    writer: Writer

    def write(self, name: str, values: NDArray[Any]) -> Any:
        """Write an array as a file; returns the sink's receipt."""
        return self.writer.put(name, [self.codec.encode(array_bytes(values))])

    def encode(self, block: Any) -> Part:
        """Encode a block of a file."""
        return self.codec.encode_part(array_bytes(np.asarray(block)))

    def write_parts(self, name: str, parts: Sequence[Part]) -> Any:
        """Join the encoded blocks of a file, reading spilled ones one at a time."""
        return self.writer.put(name, self.codec.join(map(_loaded, parts)))


def _loaded(part: Part) -> Part:
    if isinstance(part.data, SpilledBlock):
        return part._replace(data=array_bytes(part.data[:]))
    return part


def array_bytes(values: NDArray[Any]) -> memoryview:
    """View an array's bytes, C-ordered and little-endian; copies only if needed."""
    ordered = np.ascontiguousarray(values)
    little = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False)
    return memoryview(little.reshape(-1).data).cast("B")
