"""Viewer-ready outputs of single-cell AnnData atlases, as lazy Dask arrays."""

from cellucid_lazy.catalogue import Catalogue, outputs
from cellucid_lazy.errors import (
    CellucidLazyError,
    CollisionError,
    DataError,
    ExportError,
    FallbackWarning,
    FieldError,
    LeftOutWarning,
    MissingFileError,
    MissingKeyError,
    OptionError,
)
from cellucid_lazy.materialize import explain, to_bytes, to_directory
from cellucid_lazy.options import Options
from cellucid_lazy.output import Output
from cellucid_lazy.readers import open  # noqa: A004
from cellucid_lazy.source import Source

__version__ = "0.1.0"

__all__ = [
    "Catalogue",
    "CellucidLazyError",
    "CollisionError",
    "DataError",
    "ExportError",
    "FallbackWarning",
    "FieldError",
    "LeftOutWarning",
    "MissingFileError",
    "MissingKeyError",
    "OptionError",
    "Options",
    "Output",
    "Source",
    "explain",
    "open",
    "outputs",
    "to_bytes",
    "to_directory",
]
