"""``ds.cellucid``: what this library does with a Dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from cellucid_lazy.errors import missing_key
from cellucid_lazy.xarray import variables as v

# The rest is imported when it is used: xarray imports this wherever it opens a file.
if TYPE_CHECKING:
    from dask.delayed import Delayed

    from cellucid_lazy.catalogue import Catalogue
    from cellucid_lazy.options import Options


@xr.register_dataset_accessor("cellucid")  # type: ignore[no-untyped-call]
class CellucidAccessor:
    """Outputs, files and labels of a Dataset, such as `to_dataset` makes.

    Parameters
    ----------
    ds
        With a dimension ``cell``.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def catalogue(
        self, options: Options | None = None, *, base: Catalogue | None = None
    ) -> Catalogue:
        """Make a catalogue of the variables, as `cellucid_lazy.from_dataset` does."""
        from cellucid_lazy.xarray.from_dataset import from_dataset

        return from_dataset(self._ds, options, base=base)

    def to_bytes(self, names: Iterable[str], *args: Any, **settings: Any) -> dict[str, bytes]:
        """Compute outputs as the bytes of their files, as `cellucid_lazy.to_bytes` does."""
        from cellucid_lazy.export import to_bytes

        return to_bytes(self.catalogue(), names, *args, **settings)

    def to_directory(self, path: str | os.PathLike[str], **settings: Any) -> Delayed | None:
        """Write a viewer's folder, as `cellucid_lazy.to_directory` does."""
        from cellucid_lazy.export import to_directory

        return to_directory(self.catalogue(), path, **settings)

    def labels(self, key: str) -> xr.DataArray:
        """Return the label of each cell in a category column, text; "" for a missing one.

        They are read when they are used, as by ``ds.groupby(ds.cellucid.labels("louvain"))``.

        Parameters
        ----------
        key
            Of the obs column.

        Returns
        -------
        xarray.DataArray
            Dtype object, dimension ``cell``, named by the key.

        Raises
        ------
        MissingKeyError
            When there is no such category.
        """
        known = {
            str(variable.attrs.get(v.KEY, name)): str(name)
            for name, variable in self._ds.variables.items()
            if "flag_values" in variable.attrs
        }
        if key not in known:
            raise missing_key("category", key, known, where="the Dataset")
        name = known[key]
        lazy = indexing.LazilyIndexedArray(_Labels(self._ds, name))
        return xr.DataArray(xr.Variable(v.CELL, lazy), name=key)


class _Labels(BackendArray):
    """The labels of a category's cells, decoded when they are read."""

    def __init__(self, ds: xr.Dataset, name: str) -> None:
        self._codes, self._label = ds.variables[name], ds.variables[f"{name}_label"]
        self.shape = self._codes.shape
        self.dtype = np.dtype(object)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> Any:
        codes = np.asarray(self._codes[key].to_numpy())
        flags = np.atleast_1d(self._codes.attrs["flag_values"])
        labels = np.asarray(self._label.to_numpy(), dtype=object)
        found = np.full(np.shape(codes), "", dtype=object)
        for flag, label in zip(flags.tolist(), labels.tolist(), strict=True):
            found[codes == flag] = label
        return found
