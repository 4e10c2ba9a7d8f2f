"""Some outputs of an atlas: as bytes, with their statistics, and as a folder for the viewer.

Run it as ``python selected_outputs.py [ATLAS] [FOLDER]``; without an atlas it makes one.
"""

import sys
import tempfile
from pathlib import Path

import dask

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo

MARKERS = ["var/CD3E", "var/MS4A1", "var/LYZ"]


def main(atlas: Path, folder: Path) -> None:
    """Take three marker genes in one pass over the matrix, then export them."""
    cat = cl.outputs(atlas, cl.Options(compression=1, var_quantization=8))

    files = cl.to_bytes(cat, ["points/2d", *MARKERS], compress=6)
    for name, content in files.items():
        print(f"{name:<12}{len(content):>8,} bytes of gzip")

    # Minimum and maximum are lazy too; computed together, they share their reads.
    ranges = dask.compute(*(cat[name].statistics["range"] for name in MARKERS))
    for name, (low, high) in zip(MARKERS, ranges, strict=True):
        print(f"{name:<12}{low:.2f} to {high:.2f}")

    cl.to_directory(cat.select("obs/*", *MARKERS), folder, overwrite=True)
    print(f"{folder.name}: {sum(path.is_file() for path in folder.rglob('*'))} files")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        given = [Path(word) for word in sys.argv[1:]]
        data = given[0] if given else write_demo(Path(made) / "atlas.h5ad", n_cells=500)
        main(data, given[1] if len(given) > 1 else Path(made) / "markers")
