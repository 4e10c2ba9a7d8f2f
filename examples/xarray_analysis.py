"""Outputs as labelled arrays: average expression of some genes in every cell type.

Run it as ``python xarray_analysis.py [ATLAS]``; without an atlas it makes one. A given atlas needs
a column ``cell_type`` and the genes below.
"""

import json
import sys
import tempfile
from pathlib import Path

import dask.array as da
import xarray

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo

GENES = ["CD3E", "MS4A1", "LYZ", "NKG7"]


def labels_of(cat: cl.Catalogue, key: str) -> list[str]:
    """Names of a column's codes, from the manifest of that column alone."""
    chosen = cat.select(f"obs/{key}/*", "manifest/obs")
    manifest = json.loads(cl.to_bytes(chosen, ["manifest/obs"])["manifest/obs"])
    names: list[str] = manifest["_categoricalFields"][0][1]
    return names


def main(atlas: Path) -> None:
    """Group cells by type without holding the matrix."""
    cat = cl.outputs(atlas)
    genes = da.stack([cat[f"var/{gene}"].array for gene in GENES], axis=1)
    labels = labels_of(cat, "cell_type")

    data = xarray.Dataset(
        {
            "expression": (("cell", "gene"), genes),
            "points": (("cell", "axis"), cat["points/2d"].array),
            "cell_type": ("cell", cat["obs/cell_type/codes"].array),
        },
        coords={"gene": GENES, "axis": ["x", "y"]},
    )
    print(dict(data.sizes))

    data = data.compute()  # one pass over the stored matrix for all four genes
    means = data["expression"].groupby(data["cell_type"]).mean()
    table = means.to_pandas()
    table.index = [labels[code] for code in table.index]
    print(table.round(2))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        given = [Path(word) for word in sys.argv[1:]]
        main(given[0] if given else write_demo(Path(made) / "atlas.h5ad", n_cells=500))
