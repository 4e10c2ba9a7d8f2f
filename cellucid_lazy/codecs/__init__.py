"""Codecs: how the bytes of a file are encoded, whatever they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from cellucid_lazy.codecs.codec import Codec, Part
from cellucid_lazy.codecs.gzip import Gzip
from cellucid_lazy.errors import OptionError

__all__ = ["CODECS", "Codec", "Part", "Plain", "codec_for"]

# By name, a function of the level. A new codec is a module and a line here, and is chosen by
# ``compression="name:level"``.
CODECS: dict[str, Callable[[int], Codec]] = {
    "gzip": Gzip,
}


@dataclass(frozen=True)
class Plain:
    """Leaves bytes as they are."""

    suffix: ClassVar[str] = ""

    def encode(self, data: memoryview) -> memoryview:
        """Return the bytes of a whole file."""
        return data

    def encode_part(self, data: memoryview) -> Part:
        """Return a part of a file."""
        return Part(data)

    def join(self, parts: Iterable[Part]) -> Iterator[Any]:
        """Yield the bytes of each part."""
        return (part.data for part in parts)


def codec_for(compression: int | str | None) -> Codec:
    """Make the codec of a compression setting.

    Parameters
    ----------
    compression
        As `Options.compression` holds it: a gzip level, ``"name:level"``, or None for none.

    Returns
    -------
    Codec
        Pickles.

    Raises
    ------
    OptionError
        When no codec has the name.
    """
    if compression is None:
        return Plain()
    name, level = compression.split(":") if isinstance(compression, str) else ("gzip", compression)
    if name not in CODECS:
        known = ", ".join(f"{one}:<level>" for one in CODECS)
        raise OptionError(f"compression={compression!r}: no codec {name!r}; available: {known}")
    return CODECS[name](int(level))
