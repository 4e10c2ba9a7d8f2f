"""Outputs as labelled arrays: average expression of some genes in every cell type.

Run it as ``python xarray_analysis.py [ATLAS]``; without an atlas it makes one. A given atlas needs
a column ``cell_type`` and the genes below.
"""

import sys
import tempfile
from pathlib import Path

import dask.array as da
import xarray

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo

GENES = ["CD3E", "MS4A1", "LYZ", "NKG7"]


def main(atlas: Path) -> None:
    """Group cells by type without holding the matrix."""
    cat = cl.outputs(atlas)
    genes = da.stack([cat[f"var/{gene}"].array for gene in GENES], axis=1)
    cell_type = cat["obs/cell_type/codes"]

    data = xarray.Dataset(
        {
            "expression": (("cell", "gene"), genes),
            "points": (("cell", "axis"), cat["points/2d"].array),
            "cell_type": ("cell", cell_type.array),
        },
        coords={"gene": GENES, "axis": ["x", "y"]},
    )
    print(dict(data.sizes))

    data = data.compute()  # one pass over the stored matrix for all four genes
    means = data["expression"].groupby(data["cell_type"]).mean()
    table = means.to_pandas()
    table.index = [cell_type.labels[code] for code in table.index]
    print(table.round(2))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        given = [Path(word) for word in sys.argv[1:]]
        main(given[0] if given else write_demo(Path(made) / "atlas.h5ad", n_cells=500))
