"""Catalogues as xarray Datasets and back. Importing this registers the accessor ``ds.cellucid``."""

from __future__ import annotations

from cellucid_lazy.xarray.accessor import CellucidAccessor
from cellucid_lazy.xarray.from_dataset import from_dataset
from cellucid_lazy.xarray.to_dataset import to_dataset

__all__ = ["CellucidAccessor", "from_dataset", "to_dataset"]
