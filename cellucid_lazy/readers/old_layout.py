"""h5ad files from before AnnData 0.7: loaded whole, with a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

from cellucid_lazy.errors import DataError, FallbackWarning
from cellucid_lazy.readers.in_memory import open_anndata
from cellucid_lazy.source import Source


def open_old_layout(path: Path, *, layer: str | None, use_raw: bool) -> Source:
    """Load an h5ad file whose obs is one compound dataset.

    Parameters
    ----------
    path
        The file.
    layer, use_raw
        What serves as expression.

    Returns
    -------
    Source
        Of the AnnData in memory.

    Raises
    ------
    DataError
        When anndata cannot read it.
    """
    import anndata

    warnings.warn(
        f"{path}: this h5ad has the layout from before AnnData 0.7, which must be loaded whole; "
        "write it again with a current anndata to read it lazily",
        FallbackWarning,
        stacklevel=5,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata = anndata.read_h5ad(path)
    except Exception as problem:
        raise DataError(f"{path}: cannot be read as an old h5ad: {problem}") from problem
    return open_anndata(adata, layer=layer, use_raw=use_raw, path=str(path))
