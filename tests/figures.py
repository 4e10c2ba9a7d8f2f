"""Figures that are no tests.

``python -m tests.figures estimate ATLAS | dataset ATLAS | columns | modules | picture | pictures``.
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import anndata
import numpy as np
import pandas as pd

import cellucid_lazy as cl
from cellucid_lazy.demo import write_demo
from tests.data import writing

LINE = re.compile(r"(\d+)/(\d+) tasks, ([\d:]+) left")


def estimate(folder: Path, atlas: str) -> None:
    """Export on a terminal; print the time left as told, and as it was, over the second half."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cellucid_lazy", "export", atlas, str(folder / "out")]
    began = time.monotonic()
    child = subprocess.Popen([*command, "--compression", "1"], stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = []
    with contextlib.suppress(OSError):  # a terminal that is gone reads as an error
        while part := os.read(ours, 4096):
            for *_, left in LINE.findall(part.decode(errors="replace")):
                seconds = sum(int(one) * 60**i for i, one in enumerate(left.split(":")[::-1]))
                told.append((time.monotonic() - began, seconds))
    child.wait()
    total, written = time.monotonic() - began, told[-1][0]
    print(f"{total:.1f} s in all, {written:.1f} s until the last file was written")
    for share in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8):
        at, left = min(told, key=lambda one: abs(one[0] - share * total))
        print(
            f"at {share:.0%}: {left} s left, in fact {written - at:.1f} s of writing, "
            f"{total - at:.1f} s in all"
        )


def dataset(folder: Path, atlas: str) -> None:
    """Print how long a Dataset of ten million cells takes, and genes through one against bytes."""
    from tests import giant

    large = cl.outputs(giant.write(folder / "giant.h5ad"))
    began = time.monotonic()
    cl.to_dataset(large)
    print(f"10 million x 60,000: {time.monotonic() - began:.2f} s")
    catalogue = cl.outputs(atlas)
    names = catalogue.names("var")
    ds = cl.to_dataset(catalogue, ["var/*", "obs/*"], index=True)
    key = next(one.attrs["key"] for one in ds.variables.values() if "flag_values" in one.attrs)
    for n_genes in (50, 100):
        chosen = np.random.default_rng(0).choice(names, n_genes, replace=False).tolist()
        genes = ds.expression.sel(gene_id=[name.removeprefix("var/") for name in chosen])
        calls = {
            "to_bytes": lambda chosen=chosen: cl.to_bytes(catalogue, chosen),
            "genes": genes.compute,
            "means": lambda genes=genes: genes.groupby(ds.cellucid.labels(key)).mean().compute(),
        }
        took = {}
        for name, call in [*calls.items()] * 2:
            began, used = time.monotonic(), time.process_time()
            call()
            took[name] = time.monotonic() - began, time.process_time() - used
        for name in ("genes", "means"):
            ratios = (
                ours / theirs for ours, theirs in zip(took[name], took["to_bytes"], strict=True)
            )
            print(f"{n_genes} {name}: {' in time, '.join(f'{one:.2f}' for one in ratios)} in CPU")


def columns(folder: Path) -> None:
    """Export 1,000 obs columns of 60 cells; print CPU seconds beside the reference's."""
    from cellucid.prepare_data import prepare

    rng = np.random.default_rng(0)
    makers: dict[str, Any] = {
        "categories": lambda: pd.Categorical.from_codes(rng.integers(0, 5, 60), list("abcde")),
        "numbers": lambda: rng.normal(size=60),
    }
    for name, make in makers.items():
        index = [f"cell{i}" for i in range(60)]
        obs = pd.DataFrame({f"c{i}": make() for i in range(1000)}, index=index)
        obsm = {"X_umap_2d": rng.normal(size=(60, 2)), "X_pca": rng.normal(size=(60, 10))}
        path = folder / f"{name}.h5ad"
        with writing():
            anndata.AnnData(rng.random((60, 5), dtype="f4"), obs=obs, obsm=obsm).write_h5ad(path)
        cl.to_directory(cl.outputs(path).select("points/*"), folder / f"{name}-warm")
        began = time.process_time()
        cl.to_directory(cl.outputs(path), folder / name)
        ours = time.process_time() - began
        began = time.process_time()
        adata = anndata.read_h5ad(path)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare(
                latent_space=adata.obsm["X_pca"],
                obs=adata.obs,
                var=adata.var,
                gene_expression=adata.X,
                X_umap_2d=adata.obsm["X_umap_2d"],
                out_dir=folder / f"{name}-reference",
                force=True,
            )
        theirs = time.process_time() - began
        print(f"{name}: {ours:.1f} s, the reference {theirs:.1f} s: {ours / theirs:.1f} times")


def modules(folder: Path) -> None:
    """Count the modules of which a function runs to get one gene, and one outlier column."""
    path, root = (
        write_demo(folder / "a.h5ad", n_cells=300, n_genes=100),
        str(Path(cl.__file__).parent),
    )
    gene = cl.outputs(path).names("var")[0]
    for name in (gene, "obs/cell_type/outliers"):
        cl.to_bytes(cl.outputs(path), [name])  # so that imports do not count
        seen: set[str] = set()

        def note(frame: FrameType, event: str, _: Any, seen: set[str] = seen) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(root):
                seen.add(frame.f_code.co_filename)

        threading.setprofile(note)
        sys.setprofile(note)
        cl.to_bytes(cl.outputs(cl.open(path)), [name])
        sys.setprofile(None)
        threading.setprofile(None)
        print(f"{name}: {len(seen)} modules")


def picture(folder: Path, n_cells: str = "10_000_000") -> None:
    """Draw so many cells, made as they are drawn; print seconds and the peak of memory for each."""
    from tests.plot.generated import catalogue, peak

    for color in ("kind", "value", None):
        began = time.monotonic()
        made = catalogue(int(n_cells))
        cl.plot.embedding(made, color).figure.savefig(folder / "a.png")
        print(f"{color}: {time.monotonic() - began:.1f} s, peak {peak() / 1e6:,.0f} MB")


def pictures(folder: Path) -> None:
    """Make the pictures of docs/pictures.md again, small."""
    from PIL import Image

    from tests.test_docs import ROOT, run_sessions

    write_demo(folder / "atlas.h5ad")
    os.chdir(folder)
    run_sessions(ROOT / "docs/pictures.md")
    for made in sorted(folder.glob("*.png")):
        palette = Image.open(made).convert("RGB").quantize(200)
        palette.save(ROOT / "docs/pictures" / made.name, optimize=True)
        print(made.name, (ROOT / "docs/pictures" / made.name).stat().st_size)


def main() -> None:
    """Print the figures asked for."""
    warnings.simplefilter("ignore")
    figure, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        {
            "estimate": estimate,
            "dataset": dataset,
            "columns": columns,
            "modules": modules,
            "picture": picture,
            "pictures": pictures,
        }[figure](Path(folder), *arguments)


if __name__ == "__main__":
    main()
