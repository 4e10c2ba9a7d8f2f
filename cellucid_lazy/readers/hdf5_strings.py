"""HDF5 datasets of text, read by path and key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellucid_lazy.errors import DataError
from cellucid_lazy.readers.hdf5_array import Hdf5Array

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

    from cellucid_lazy.readers.hdf5_index import Identity


@dataclass(frozen=True)
class Hdf5Strings:
    """A dataset of UTF-8 text, of variable or fixed length, that reads as Python strings.

    Attributes
    ----------
    stored
        The same dataset, read as bytes.
    """

    stored: Hdf5Array

    @classmethod
    def of(cls, dataset: h5py.Dataset, identity: Identity) -> Hdf5Strings:
        """Describe an open dataset; reads metadata only.

        Parameters
        ----------
        dataset
            A dataset of strings, of variable or fixed length.
        identity
            ``identity_of`` its file, taken before the file was opened.

        Raises
        ------
        DataError
            For a dataset that holds no text.
        """
        stored = Hdf5Array.of(dataset, identity)
        if stored.dtype.kind not in "OS":
            raise DataError(
                f"{stored.path}: {stored.key} holds {stored.dtype}; expected strings: "
                "write the column again as text, or read it as numbers"
            )
        return cls(stored)

    @property
    def path(self) -> str:
        """Absolute path of the file."""
        return self.stored.path

    @property
    def key(self) -> str:
        """Full name of the dataset in the file."""
        return self.stored.key

    @property
    def identity(self) -> Identity:
        """Size and modification time (ns) the file had when opened."""
        return self.stored.identity

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always ``object``."""
        return np.dtype(object)

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Stored chunk shape, or None where the storage has none."""
        return self.stored.chunks

    @property
    def token(self) -> str:
        """A name for the content, other than that of the bytes it is decoded from."""
        return f"text-{self.stored.token}"

    def __dask_tokenize__(self) -> str:
        return self.token

    def read(self, *selection: slice) -> NDArray[np.object_]:
        """Read a contiguous box, as ``Hdf5Array.read`` does.

        Returns
        -------
        numpy.ndarray
            Of dtype object, each element a ``str``.

        Raises
        ------
        DataError
            If the file changed, cannot be read, or holds text that is not UTF-8.
        IndexError
            For a selection that is not one slice of step 1 per dimension.
        """
        values = self.stored.read(*selection)
        out = np.empty(values.size, object)
        try:
            # One pass over a list: half the time of h5py's asstr, and of a string dtype between.
            out[:] = [value.decode() for value in values.ravel().tolist()]
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}: {self.key} is not UTF-8 text ({error}); write it again as UTF-8"
            ) from error
        return out.reshape(values.shape)
