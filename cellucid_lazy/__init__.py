"""Viewer-ready outputs of single-cell AnnData atlases, as lazy Dask arrays."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # importing typing would take longer than the rest of this module
if TYPE_CHECKING:
    from typing import Any

    from cellucid_lazy import plot
    from cellucid_lazy.adapter import AnnDataAdapter
    from cellucid_lazy.catalogue import Catalogue, outputs
    from cellucid_lazy.engine.output import Output
    from cellucid_lazy.errors import (
        CellucidLazyError,
        ChangedError,
        ClosedError,
        ClusterError,
        CollisionError,
        DataError,
        ExportError,
        FallbackWarning,
        FieldError,
        LeftOutWarning,
        MissingFileError,
        MissingKeyError,
        MissingPackageError,
        OptionError,
    )
    from cellucid_lazy.export import explain, to_bytes, to_directory, to_frame, to_sink
    from cellucid_lazy.options import Options
    from cellucid_lazy.readers import open  # noqa: A004
    from cellucid_lazy.source import Source
    from cellucid_lazy.xarray.from_dataset import from_dataset
    from cellucid_lazy.xarray.to_dataset import to_dataset

__version__ = "0.1.0"

__all__ = [
    "AnnDataAdapter",
    "Catalogue",
    "CellucidLazyError",
    "ChangedError",
    "ClosedError",
    "ClusterError",
    "CollisionError",
    "DataError",
    "ExportError",
    "FallbackWarning",
    "FieldError",
    "LeftOutWarning",
    "MissingFileError",
    "MissingKeyError",
    "MissingPackageError",
    "OptionError",
    "Options",
    "Output",
    "Source",
    "explain",
    "from_dataset",
    "open",
    "outputs",
    "plot",
    "to_bytes",
    "to_dataset",
    "to_directory",
    "to_frame",
    "to_sink",
]

# Imported on first use, so that the command line prints its help without dask, and can be
# interrupted at once.
_MODULES = {
    "adapter": ("AnnDataAdapter",),
    "catalogue": ("Catalogue", "outputs"),
    "engine.output": ("Output",),
    "errors": tuple(name for name in __all__ if name.endswith(("Error", "Warning"))),
    "export": ("explain", "to_bytes", "to_directory", "to_frame", "to_sink"),
    "options": ("Options",),
    "readers": ("open",),
    "xarray.from_dataset": ("from_dataset",),
    "xarray.to_dataset": ("to_dataset",),
    "source": ("Source",),
}


def __getattr__(name: str) -> Any:
    if name == "plot":
        return import_module(f"{__name__}.{name}")
    for module, names in _MODULES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
