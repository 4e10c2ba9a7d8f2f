"""``xr.open_dataset("atlas.h5ad", engine="cellucid_lazy")``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from xarray.backends import BackendEntrypoint

# Registers the accessor too, so that it is there wherever xarray has opened a file.
from cellucid_lazy.xarray import accessor as accessor

# The rest is imported when it is used: xarray imports this wherever it opens a file.
if TYPE_CHECKING:
    import xarray as xr

    from cellucid_lazy.options import Options


class CellucidBackend(BackendEntrypoint):
    """Opens AnnData as a Dataset of outputs, only where it is asked for by name."""

    description = "Open AnnData (h5ad, zarr) as lazy outputs"
    open_dataset_parameters = (
        "filename_or_obj",
        "drop_variables",
        "names",
        "options",
        "index",
        "edges",
        "layer",
        "use_raw",
        "neighbors_key",
        "modality",
        "table",
        "storage_options",
    )

    def open_dataset(  # type: ignore[override]  # each engine has settings of its own
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        names: Iterable[str] | None = None,
        options: Options | None = None,
        index: bool = False,
        edges: bool = False,
        layer: str | None = None,
        use_raw: bool = False,
        neighbors_key: str | None = None,
        modality: str | None = None,
        table: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open a path or a URL, as `cellucid_lazy.open` and `to_dataset` do."""
        from cellucid_lazy.catalogue import outputs
        from cellucid_lazy.readers import open as open_source
        from cellucid_lazy.xarray.to_dataset import to_dataset

        source = open_source(
            filename_or_obj,
            layer=layer,
            use_raw=use_raw,
            neighbors_key=neighbors_key,
            modality=modality,
            table=table,
            storage_options=storage_options,
        )
        ds = to_dataset(outputs(source, options), names, index=index, edges=edges)
        dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables or []
        return ds.drop_vars(list(dropped), errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Never take a file by itself: xarray's own engines read HDF5 and zarr."""
        del filename_or_obj
        return False
