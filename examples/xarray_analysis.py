"""Labelled, lazy arrays: average expression by cell type, and a score that goes to the viewer.

Run it as ``python xarray_analysis.py [ATLAS]``; without an atlas it makes one. A given atlas needs
a column ``cell_type`` and the genes below.
"""

import sys
import tempfile
from pathlib import Path

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo

GENES = ["CD3E", "MS4A1", "LYZ", "NKG7"]


def main(atlas: Path) -> None:
    """Group cells by type without holding the matrix, and export what was computed."""
    ds = cl.to_dataset(cl.outputs(atlas), index=True)
    print(dict(ds.sizes))

    markers = ds.expression.sel(gene_id=GENES)
    means = markers.groupby(ds.cellucid.labels("cell_type")).mean()
    print(means.transpose("cell_type", "gene").to_pandas().set_axis(GENES, axis=1).round(2))

    # A new column of obs; what is not computed here is read when it is exported.
    scored = cl.from_dataset(ds.assign(t_cell_score=markers.isel(gene=0) - markers.isel(gene=1)))
    print(cl.to_frame(scored, ["obs/cell_type", "obs/t_cell_score"]).head(3))
    with tempfile.TemporaryDirectory() as folder:
        cl.to_directory(scored.select("obs/*"), Path(folder) / "scored")
        print(sorted(path.name for path in Path(folder).rglob("t_cell_score.*")))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        given = [Path(word) for word in sys.argv[1:]]
        main(given[0] if given else write_demo(Path(made) / "atlas.h5ad", n_cells=500))
