"""The server of cellucid 0.0.9 with the adapter of this library, over an atlas of any size.

Run it as ``python live_server.py [ATLAS]``; without an atlas it makes one. It needs
``pip install cellucid==0.0.9``. A viewer opens the address that a server prints without ``quiet``.
"""

import sys
import tempfile
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path

from cellucid import anndata_server

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo


def main(atlas: Path) -> None:
    """Serve an atlas, and ask for its points and a gene as a viewer does."""
    anndata_server.AnnDataAdapter = cl.AnnDataAdapter
    # A thread per request: what is asked for at once then shares a pass over the file.
    anndata_server.HTTPServer = ThreadingHTTPServer
    server = anndata_server.AnnDataServer(atlas, quiet=True, memory_budget="1GB")
    server.start_background()
    try:
        for file in ("points_2d.bin", "var/CD3E.values.f32"):
            with urllib.request.urlopen(f"{server.url}/{file}") as answer:
                print(f"{file}: {len(answer.read()):,} bytes")
    finally:
        server.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        given = [Path(word) for word in sys.argv[1:]]
        main(given[0] if given else write_demo(Path(made) / "atlas.h5ad", n_cells=500))
