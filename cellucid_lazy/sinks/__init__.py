"""Sinks: where named files are written, whatever their bytes mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cellucid_lazy.errors import ExportError
from cellucid_lazy.sinks.folder import FolderSink
from cellucid_lazy.sinks.memory import MemorySink
from cellucid_lazy.sinks.sink import Sink, Writer

__all__ = ["SINKS", "FolderSink", "MemorySink", "Sink", "Writer", "sink_for"]

# By URL scheme, a function of the target and of whether an earlier export may be replaced. A new
# sink is a module and a line here.
SINKS: dict[str, Callable[[str, bool], Sink]] = {
    "file": FolderSink,
}

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def sink_for(target: str | os.PathLike[str], overwrite: bool = False) -> Sink:
    """Make the sink of a target.

    Parameters
    ----------
    target
        Path of a folder, or a URL whose scheme is in `SINKS`.
    overwrite
        Whether an earlier export may be replaced.

    Returns
    -------
    Sink
        Its target has been checked.

    Raises
    ------
    ExportError
        When no sink has the scheme, or the target must not be replaced or cannot be written.
    """
    if not isinstance(target, (str, os.PathLike)):
        raise ExportError(f"{target!r}: is no path; give the path of a folder, or a URL")
    text = os.fsdecode(target)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    url = _URL.match(text)
    scheme = url[1].lower() if url else "file"
    if scheme not in SINKS:
        known = ", ".join(f"{name}://" for name in SINKS)
        raise ExportError(
            f"{text}: there is no way to write to {scheme}://; give the path of a folder, or a URL "
            f"that begins with {known}"
        )
    return SINKS[scheme](text, overwrite)
