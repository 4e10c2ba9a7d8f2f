"""The protocol of a kind of output, and functions that several kinds share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from cellucid_lazy.engine.array_producer import ARRAYS
from cellucid_lazy.engine.output import Manifest, Output
from cellucid_lazy.engine.producer import Producer
from cellucid_lazy.errors import format_size
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.names import Name, file_extension, values_dtype
from cellucid_lazy.show import format_shape


class Row(NamedTuple):
    """A row of a catalogue's table: an output, or a note on several.

    Attributes
    ----------
    name
        Of the output, or the note.
    dtype
        Empty for a note; ``uint8|uint16`` where only reading can tell.
    shape
        NaN for an unknown length; empty for a note.
    nbytes
        Size of the file before compression, NaN if unknown; None where none is shown.
    file
        Path in an exported folder, empty if there is none.
    each
        Whether the row describes several outputs, each of this size.
    """

    name: str
    dtype: str = ""
    shape: tuple[float, ...] = ()
    nbytes: float | None = None
    file: str = ""
    each: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts that are shown: name, dtype, shape, size and file."""
        size = "" if self.nbytes is None else format_size(self.nbytes)
        each = " each" if self.each else ""
        return self.name, self.dtype, format_shape(self.shape), size + each, self.file


class Kind(Protocol):
    """A kind of output; a module with these functions is one.

    A kind offers keys, its units of choice, such as obs columns or genes. Each key has one output,
    or a few, which differ in the last part of their names.
    """

    @property
    def prefix(self) -> str:
        """First part of the names of its outputs."""

    def keys(self, dataset: Dataset, /) -> Sequence[str]:
        """List the chosen keys (see `Dataset.chosen`), in order; nothing but gene names is read."""

    def required(self, dataset: Dataset, /) -> Sequence[str]:
        """List the keys that a viewer's folder needs, given what is chosen. May read labels."""

    def names(self, dataset: Dataset, keys: Sequence[str], /) -> Iterable[Name]:
        """Name the outputs of some keys, in order; from metadata only."""

    def build(self, dataset: Dataset, name: Name, /) -> Output:
        """Build one output. Raises FieldError when it cannot be shown."""

    def producer(self, dataset: Dataset, /) -> Producer:
        """Return what makes the outputs; those of equal producers share a pass."""

    def rows(self, dataset: Dataset, names: Sequence[Name], /) -> Iterable[Row]:
        """Describe outputs for a table; from metadata only."""

    def manifests(self, dataset: Dataset, /) -> Mapping[str, Callable[[], Manifest]]:
        """Return what makes the kind's parts of manifests, by the key of the manifest.

        A kind has a manifest of its own under its prefix, and adds to ``"identity"``, which
        describes the dataset. The parts of one manifest are merged in the order of kinds: objects
        by their entries; of anything else the last one stays.
        """


def values_schema(stem: str, bits: int | None, suffix: str) -> dict[str, Any]:
    """Describe for a manifest how continuous values are stored, in 8 or 16 bits or as float32.

    `stem` is the path of their files without extension, with ``{key}`` for the safe name of a key;
    the codec appends `suffix`.
    """
    dtype = values_dtype(bits)
    extension = file_extension(dtype)
    schema: dict[str, Any] = {
        "pathPattern": f"{stem}.{extension}{suffix}",
        "ext": extension,
        "dtype": dtype.name,
        "quantized": bits is not None,
    }
    if bits is not None:
        schema["quantizationBits"] = bits
    return schema


def array_producer(dataset: Dataset, /) -> Producer:
    """Return the producer of arrays, for kinds whose outputs are made from their arrays."""
    del dataset
    return ARRAYS


def output_row(output: Output, /) -> Row:
    """Describe an output in a row of a table."""
    return Row(output.name, output.dtype.name, output.shape, output.nbytes, file=output.path or "")


def constant_manifest(document: dict[str, Any], /) -> Manifest:
    """Make a manifest that depends on no lazy array."""
    return Manifest({}, partial(_constant, document))


def _constant(document: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    del values
    return document
