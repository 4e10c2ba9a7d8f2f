"""An export on a Dask cluster: the same calls, run by whatever client is there.

Run it as ``python cluster.py [ATLAS] [FOLDER]``; without an atlas it makes one. On a cluster of
several machines the atlas, the folder and ``scratch`` must be where all workers see them. It needs
the extra ``cluster``: ``pip install '.[cluster]'``.
"""

import sys
import tempfile
from pathlib import Path

import dask
from distributed import Client, LocalCluster

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo


def main(atlas: Path, folder: Path) -> None:
    """Compute one array on the workers, then let them write the whole export."""
    cat = cl.outputs(atlas, cl.Options(compression=1))
    (points,) = dask.persist(cat["points/2d"])
    print(f"points: {points.shape[0]:,} cells, in the memory of the workers")
    print(cl.explain(cat))
    # One task of a larger workflow; `cl.to_directory(cat, folder)` alone does it at once.
    options = {"overwrite": True, "scratch": folder.parent, "retries": 2}
    cl.to_directory(cat, folder, compute=False, **options).compute()
    print(f"{folder.name}: {sum(path.is_file() for path in folder.rglob('*')):,} files")


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as made,
        # For real machines: Client("tcp://scheduler:8786"), or dask-jobqueue's clusters.
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        given = [Path(word) for word in sys.argv[1:]]
        data = given[0] if given else write_demo(Path(made) / "atlas.h5ad", n_cells=500)
        main(data, given[1] if len(given) > 1 else Path(made) / "out")
