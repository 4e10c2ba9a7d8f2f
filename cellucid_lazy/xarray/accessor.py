"""``ds.cellucid``: what this library does with a Dataset."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from cellucid_lazy.errors import missing_key
from cellucid_lazy.names import FLAG_MEANINGS, FLAG_VALUES, are_codes
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
        """Return the label of each cell in a category, text; NaN for a missing one.

        They are read when they are used, as by ``ds.groupby(ds.cellucid.labels("louvain"))``,
        which leaves cells without a label out.

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
        variables = self._ds.variables.items()
        known = {_key(name, one): name for name, one in variables if _is_coded(one)}
        if key not in known:
            raise missing_key("category", key, known, where="the Dataset")
        codes = self._ds.variables[known[key]]
        label = self._ds.variables.get(codes.attrs.get(v.LABELS, f"{known[key]}_label"))
        meanings = str(codes.attrs.get(FLAG_MEANINGS, "")).split()
        labels = _Labels(codes, xr.Variable("label", meanings) if label is None else label)
        return xr.DataArray(xr.Variable(v.CELL, indexing.LazilyIndexedArray(labels)), name=key)


def _is_coded(variable: xr.Variable) -> bool:
    return variable.dims == (v.CELL,) and are_codes(variable.dtype, variable.attrs)


def _key(name: Hashable, codes: xr.Variable) -> str:
    own = v.is_own(name, codes.attrs)
    return str(codes.attrs[v.KEY] if own else str(name).removeprefix("obs_"))


class _Labels(BackendArray):
    """The labels of a category's cells, decoded when they are read."""

    def __init__(self, codes: xr.Variable, labels: xr.Variable) -> None:
        self._codes, self._labels = codes, labels
        self.shape = codes.shape
        self.dtype = np.dtype(object)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> Any:
        codes = np.asarray(self._codes[key].to_numpy())
        flags = np.atleast_1d(self._codes.attrs[FLAG_VALUES])
        labels = np.asarray(self._labels.to_numpy(), dtype=object)
        found = np.full(np.shape(codes), np.nan, dtype=object)
        for flag, label in zip(flags.tolist(), labels.tolist(), strict=True):
            found[codes == flag] = label
        return found
