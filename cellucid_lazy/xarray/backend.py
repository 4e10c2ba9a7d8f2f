"""The engine ``xr.open_dataset("atlas.h5ad", engine="cellucid_lazy")``, and ``ds.cellucid``.

xarray imports this module whenever it opens a file, so it must be cheap to import: what it needs of
this library comes from the package, which imports it on first use.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

import cellucid_lazy as cl
from cellucid_lazy.errors import missing_key
from cellucid_lazy.names import FLAG_MEANINGS, FLAG_VALUES, are_codes
from cellucid_lazy.xarray import variables as v

if TYPE_CHECKING:
    from dask.delayed import Delayed


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
        options: cl.Options | None = None,
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
        source = cl.open(
            filename_or_obj,
            layer=layer,
            use_raw=use_raw,
            neighbors_key=neighbors_key,
            modality=modality,
            table=table,
            storage_options=storage_options,
        )
        ds = cl.to_dataset(cl.outputs(source, options), names, index=index, edges=edges)
        dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables or []
        return ds.drop_vars(list(dropped), errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return False: xarray's own engines read HDF5 and zarr."""
        del filename_or_obj
        return False


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
        self, options: cl.Options | None = None, *, base: cl.Catalogue | None = None
    ) -> cl.Catalogue:
        """Make a catalogue of the variables, as `cellucid_lazy.from_dataset` does."""
        return cl.from_dataset(self._ds, options, base=base)

    def to_bytes(self, names: Iterable[str], *args: Any, **settings: Any) -> dict[str, bytes]:
        """Compute outputs as the bytes of their files, as `cellucid_lazy.to_bytes` does."""
        return cl.to_bytes(self.catalogue(), names, *args, **settings)

    def to_directory(self, path: str | os.PathLike[str], **settings: Any) -> Delayed | None:
        """Write a viewer's folder, as `cellucid_lazy.to_directory` does."""
        return cl.to_directory(self.catalogue(), path, **settings)

    def labels(self, key: str) -> xr.DataArray:
        """Return the label of each cell in a category, text; NaN for a missing one.

        They are read when they are used, as by ``ds.groupby(ds.cellucid.labels("louvain"))``,
        which leaves cells without a label out.

        Parameters
        ----------
        key
            Key of the obs column.

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
            _key(name, one): name
            for name, one in self._ds.variables.items()
            if one.dims == (v.CELL,) and are_codes(one.dtype, one.attrs)
        }
        if key not in known:
            raise missing_key("category", key, known, where="the Dataset")
        codes = self._ds.variables[known[key]]
        label = self._ds.variables.get(codes.attrs.get(v.LABELS, f"{known[key]}_label"))
        meanings = str(codes.attrs.get(FLAG_MEANINGS, "")).split()
        labels = _Labels(codes, xr.Variable("label", meanings) if label is None else label)
        return xr.DataArray(xr.Variable(v.CELL, indexing.LazilyIndexedArray(labels)), name=key)


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
