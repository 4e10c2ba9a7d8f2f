"""Catalogues as xarray Datasets and back. Importing this registers the accessor ``ds.cellucid``."""

from __future__ import annotations

from cellucid_lazy.xarray.backend import CellucidAccessor

__all__ = ["CellucidAccessor"]
