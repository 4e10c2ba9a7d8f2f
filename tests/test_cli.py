"""The command line, end to end: what it prints, what it writes, how it ends."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy.cli import main
from cellucid_lazy.cli.flags import SETTINGS, in_flags
from cellucid_lazy.cli.guide import _next_steps
from cellucid_lazy.cli.main import build_parser
from cellucid_lazy.demo import write_demo
from tests.helpers import files_of

# Warnings are printed, as outside of tests; anndata 0.13 and pandas 3 have some when they write.
pytestmark = [
    pytest.mark.filterwarnings("default::cellucid_lazy.LeftOutWarning"),
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option"),
]

PROGRAM = [sys.executable, "-m", "cellucid_lazy"]
PNG = b"\x89PNG\r\n"
ROOT = Path(__file__).parents[1]
EVERY_SETTING = (
    *("--name", "N", "--id", "I", "--description", "D"),
    *("--source-name", "S", "--source-url", "U", "--source-citation", "C"),
    *("--latent-key", "X_pca", "--gene-id-column", "gene_ids", "--no-normalize"),
    *("--quantize-genes", "8", "--quantize-obs", "16", "--categorical-dtype", "uint16"),
    *("--obs-keys", "leiden", "score", "--genes", "ENSG00000100000"),
    *("--centroid-quantile", "0.9", "--centroid-min-points", "5"),
    *("--memory-budget", "256MB", "--threads", "2"),
)


class Done(NamedTuple):
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process."""

    def run(*words: object) -> Done:
        code = main([*map(str, words)])
        return Done(code, *capsys.readouterr())

    return run


def spawn(*words: object, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command as users do, in a process of its own."""
    settings = {"capture_output": True, "text": True, "timeout": 120, "cwd": ROOT} | options
    return subprocess.run([*PROGRAM, *map(str, words)], **settings)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("cli") / "atlas.h5ad", n_cells=300, n_genes=60)


@pytest.fixture(scope="module")
def odd_atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas without a latent space, and with a vector field that cannot be shown."""
    points = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    adata = anndata.AnnData(
        sparse.csr_matrix(np.eye(20, 3, dtype=np.float32)),
        obs=pd.DataFrame(
            {"size": np.arange(20.0), "kind": pd.Categorical(["a", "b"] * 10)},
            index=[f"c{number}" for number in range(20)],
        ),
        obsm={"X_umap": points, "drift_umap_2d": np.zeros((20, 3), np.float32)},
    )
    path = tmp_path_factory.mktemp("odd") / "odd.h5ad"
    adata.write_h5ad(path)
    return path


def without_time(found: dict[str, bytes]) -> dict[str, object]:
    identity = json.loads(found["dataset_identity.json"])
    del identity["created_at"]
    return {**found, "dataset_identity.json": identity}


class TestInspect:
    def test_shows_the_catalogue(self, atlas: Path) -> None:
        done = spawn("inspect", atlas)
        assert (done.returncode, done.stderr) == (0, "")
        damage = "  damage in the expression matrix is noticed: gzip has a checksum"
        assert done.stdout == f"{cl.outputs(atlas)!r}\n{damage}\n"

    @pytest.mark.parametrize(("cells", "genes"), [(1, 3), (3, 1)])
    def test_knows_one_from_many(
        self, cells: int, genes: int, run: Callable[..., Done], tmp_path: Path
    ) -> None:
        adata = anndata.AnnData(
            np.ones((cells, genes), np.float32),
            obs=pd.DataFrame({"size": np.ones(cells)}, index=[f"c{n}" for n in range(cells)]),
            obsm={"X_umap": np.ones((cells, 2), np.float32)},
        )
        adata.write_h5ad(tmp_path / "a.h5ad")
        says = "1 cell x 3 genes" if cells == 1 else "3 cells x 1 gene"
        title = run("inspect", tmp_path / "a.h5ad").out.splitlines()[0]
        assert title == f"Catalogue of {tmp_path / 'a.h5ad'}: {says}"
        assert f": {says}, expression dense, 1 obs column, " in repr(cl.open(tmp_path / "a.h5ad"))

    def test_names_the_latent_space(self, run: Callable[..., Done], atlas: Path) -> None:
        rows = [line.split() for line in run("inspect", atlas).out.splitlines()]
        (place,) = [number for number, row in enumerate(rows) if row[:2] == ["(latent", "space:"]]
        assert rows[place - 1][0] == "points/3d/padded"
        assert rows[place][2:] == ["obsm/X_pca)", "float32", "(300,", "20)"]
        assert (
            "(latent space: obsm/X_umap_3d)"
            in run("inspect", atlas, "--latent-key", "X_umap_3d").out
        )
        assert json.loads(run("inspect", atlas, "--json").out)["latent_key"] == "X_pca"

    def test_names_what_is_missing_or_left_out(
        self, run: Callable[..., Done], odd_atlas: Path
    ) -> None:
        done = run("inspect", odd_atlas)
        assert (done.code, done.err) == (0, "")
        assert "(latent space: none found, outlier quantiles are 0)\n" in done.out
        _, notes = done.out.split("Left out, or worth knowing:\n")
        assert "'drift_umap_2d' is left out" in notes
        told = json.loads(run("inspect", odd_atlas, "--json").out)
        assert told["latent_key"] is None
        assert told["left_out"] == [line.strip() for line in notes.splitlines()]
        with pytest.warns(cl.LeftOutWarning):
            assert "latent" not in repr(cl.outputs(odd_atlas).select("points/*"))

    def test_names_what_export_refuses(
        self, run: Callable[..., Done], atlas: Path, tmp_path: Path
    ) -> None:
        adata = anndata.read_h5ad(atlas)
        adata.var_names = ["HLA-DRB1/2", "HLA-DRB1_2", *adata.var_names[2:]]
        adata.obs["cell type"] = 1.0
        path, out = tmp_path / "a.h5ad", tmp_path / "out"
        adata.write_h5ad(path)
        inspected = run("inspect", path)
        assert inspected.code == 0
        _, notes = inspected.out.split("Left out, or worth knowing:\n")
        columns, genes = (line.strip() for line in notes.splitlines())
        assert "obs 'cell_type' and 'cell type' share the file name 'cell_type'" in columns
        assert "var 'HLA-DRB1/2' and 'HLA-DRB1_2' share the file name 'HLA-DRB1_2'" in genes
        assert json.loads(run("inspect", path, "--json").out)["left_out"] == [columns, genes]
        # It is what export says, and what it says helps.
        refused = run("export", path, out)
        sentence = columns.removeprefix("export would refuse this: ")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err == f"error: {path}: {sentence}\n"
        assert "--select" in sentence
        chosen = ["--select", "obs/cell_type/*", "var/HLA-DRB1/2"]
        assert run("export", path, out, *chosen) == (0, "", "")
        assert (out / "var/HLA-DRB1_2.values.f32").exists()

    def test_describes_for_machines(self, run: Callable[..., Done], atlas: Path) -> None:
        told = json.loads(run("inspect", atlas, "--json").out)
        catalogue = cl.outputs(atlas)
        assert (told["n_cells"], told["n_genes"], told["expression"]) == (300, 60, "csr")
        assert told["checksum"] == "gzip"
        assert (told["dataset"], told["storage"], told["left_out"]) == (str(atlas), "h5ad", [])
        outputs = {row.pop("name"): row for row in told["outputs"]}
        assert [*outputs] == [name for name in catalogue if not name.startswith("var/")]
        assert [f"var/{gene}" for gene in told["genes"]] == list(catalogue.names("var"))
        assert outputs["obs/cell_type/codes"] == {
            "dtype": "uint8",
            "shape": [300],
            "file": "obs/cell_type.codes.u8",
        }
        # Only reading tells how many labels a text column has, and the number of edges.
        assert outputs["obs/sample/codes"]["dtype"] is None
        assert outputs["connectivity/src"]["shape"] == [None]

    def test_offers_genes_by_another_column(self, run: Callable[..., Done], atlas: Path) -> None:
        assert "ENSG00000100000 ... " in run("inspect", atlas, "--gene-id-column", "gene_ids").out

    def test_a_closed_pipe_is_no_crash(self, atlas: Path) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = spawn("inspect", atlas, capture_output=False, stdout=writing, stderr=-1)
        finally:
            os.close(writing)
        assert (done.returncode, done.stderr) == (1, "")


class TestExport:
    def test_writes_what_the_library_writes_and_says_nothing(
        self, atlas: Path, tmp_path: Path
    ) -> None:
        done = spawn("export", atlas, tmp_path / "by_command", "--compression", 6, "--threads", 1)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        cl.to_directory(cl.outputs(atlas, cl.Options(compression=6)), tmp_path / "by_library")
        assert without_time(files_of(tmp_path / "by_command")) == without_time(
            files_of(tmp_path / "by_library")
        )

    def test_takes_some_cells(self, run: Callable[..., Done], atlas: Path, tmp_path: Path) -> None:
        chosen = cl.outputs(atlas).query("donor == 'donor_1' and n_counts > 2000")
        cells = np.random.default_rng(7).choice(chosen.source.n_cells, 20, replace=False)
        cl.to_directory(chosen.isel(cell=np.sort(cells)), tmp_path / "by_library")
        where = ("--where", "donor == 'donor_1' and n_counts > 2000")
        taken = (*where, "--sample", 20, "--seed", 7)
        assert run("export", atlas, tmp_path / "out", *taken) == (0, "", "")
        assert without_time(files_of(tmp_path / "out")) == without_time(
            files_of(tmp_path / "by_library")
        )
        # More cells than there are: all of them.
        assert "300 cells" in run("inspect", atlas, "--sample", 10**6).out
        for wrong, said in (
            (("--seed", 1), "--seed goes with --sample"),
            (("--where", "doner == 'a'"), "name 'doner' is not defined"),
            (("--where", "n_counts < 0"), "no cell has n_counts < 0"),
        ):
            done = run("inspect", atlas, *wrong)
            assert done.code
            assert said in done.err

    def test_writes_a_choice(self, run: Callable[..., Done], atlas: Path, tmp_path: Path) -> None:
        patterns = ["--select", "var/CD3*", "obs/n_*", "--select", "obs/donor/codes"]
        assert run("export", atlas, tmp_path / "out", *patterns) == (0, "", "")
        assert [*files_of(tmp_path / "out")] == [
            "dataset_identity.json",
            "obs/donor.codes.u8",
            "obs/donor.outliers.f32",
            "obs/n_counts.values.f32",
            "obs/n_genes.values.f32",
            "obs_manifest.json",
            "points_2d.bin",
            "points_3d.bin",
            "var/CD3D.values.f32",
            "var/CD3E.values.f32",
            "var_manifest.json",
        ]

    def test_every_setting_arrives(
        self, run: Callable[..., Done], atlas: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        assert run("export", atlas, out, *EVERY_SETTING, "--scratch", tmp_path).code == 0
        identity = json.loads((out / "dataset_identity.json").read_text())
        assert [identity[key] for key in ("name", "id", "description")] == ["N", "I", "D"]
        assert identity["source"] == {"name": "S", "url": "U", "citation": "C"}
        assert identity["export_settings"] == {
            "compression": None,
            "var_quantization": 8,
            "obs_continuous_quantization": 16,
            "obs_categorical_dtype": "uint16",
        }
        manifest = json.loads((out / "obs_manifest.json").read_text())
        assert manifest["centroid_outlier_quantile"] == pytest.approx(0.9)
        found = files_of(out)
        assert {"obs/leiden.codes.u16", "obs/score.values.u16"} <= set(found)
        genes = [name for name in found if name.startswith("var/")]
        assert genes == ["var/ENSG00000100000.values.u8"]
        stored = anndata.read_h5ad(atlas).obsm["X_umap_2d"]
        assert found["points_2d.bin"] == np.asarray(stored, "<f4").tobytes()

    def test_every_option_is_a_setting(self) -> None:
        named = {flag.setting for flag in SETTINGS}
        assert named == set(cl.Options.__dataclass_fields__) - {"manifest_shape", "created_at"}

    def test_keeps_an_earlier_export_unless_told(
        self, run: Callable[..., Done], atlas: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        assert run("export", atlas, out).code == 0
        before = files_of(out)
        refused = run("export", atlas, out, "--select", "var/CD3E")
        assert refused.code == 1
        assert "--overwrite" in refused.err
        assert files_of(out) == before
        assert run("export", atlas, out, "--overwrite", "--select", "var/CD3E").code == 0
        assert "var/CD3D.values.f32" not in files_of(out)

    def test_explains_and_writes_nothing(
        self, run: Callable[..., Done], atlas: Path, tmp_path: Path
    ) -> None:
        words = ["export", atlas, tmp_path / "out", "--explain", "--memory-budget", "128MB"]
        plan = cl.explain(cl.outputs(atlas), memory_budget="128MB")
        assert plan.endswith(" of the budget of 128.0 MB.")
        assert run(*words) == (0, f"{plan}\n", "")
        details = cl.explain(cl.outputs(atlas), memory_budget="128MB", details=True)
        assert run(*words, "--details") == (0, f"{details}\n", "")
        assert run("export", atlas, tmp_path / "out", "--details").code == 2
        assert list(tmp_path.iterdir()) == []

    def test_shows_warnings_in_one_line(
        self, run: Callable[..., Done], odd_atlas: Path, tmp_path: Path
    ) -> None:
        done = run("export", odd_atlas, tmp_path / "out")
        assert (done.code, done.out) == (0, "")
        (line,) = done.err.splitlines()
        assert line.startswith(f"warning: {odd_atlas}: vector field 'drift_umap_2d' is left out")


class TestBytes:
    def test_writes_nothing_but_the_bytes(self, atlas: Path) -> None:
        done = spawn("bytes", atlas, "points/2d", text=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == cl.to_bytes(cl.outputs(atlas), ["points/2d"])["points/2d"]

    def test_compresses(self, atlas: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        assert main(["bytes", str(atlas), "var/CD3E", "--compression", "6"]) == 0
        plain = cl.to_bytes(cl.outputs(atlas), ["var/CD3E"])["var/CD3E"]
        assert gzip.decompress(capfdbinary.readouterr().out) == plain

    def test_writes_a_file(self, run: Callable[..., Done], atlas: Path, tmp_path: Path) -> None:
        assert run("bytes", atlas, "points/2d/padded", "-o", tmp_path / "a.bin") == (0, "", "")
        padded = cl.to_bytes(cl.outputs(atlas), ["points/2d/padded"])["points/2d/padded"]
        assert (tmp_path / "a.bin").read_bytes() == padded

    @pytest.mark.parametrize("is_there", [True, False])
    def test_writes_several_to_a_folder_as_an_export_has_them(
        self, is_there: bool, run: Callable[..., Done], atlas: Path, tmp_path: Path
    ) -> None:
        some, whole = tmp_path / "some", tmp_path / "whole"
        names = ["points/2d", "obs/donor/codes", "var/CD3E", "manifest/obs"]
        if is_there:
            (some / "var").mkdir(parents=True)
            (some / "var/CD3E.values.f32.gz").write_text("replaced")
        words = ["bytes", atlas, *names, "--output", some, "--compression", 1]
        assert run(*words) == (0, "", "")
        cl.to_directory(cl.outputs(atlas, cl.Options(compression=1)), whole, progress=False)
        found, expected = files_of(some), files_of(whole)
        assert len(found) == 4
        assert found == {name: expected[name] for name in found}
        assert run("bytes", atlas, names[0], "-o", some).code == 0
        assert (some / "points_2d.bin").exists()

    def test_never_replaces_what_it_reads(
        self, run: Callable[..., Done], atlas: Path, tmp_path: Path
    ) -> None:
        before = atlas.read_bytes()
        link = tmp_path / "link"
        link.symlink_to(atlas)
        done = run("bytes", atlas, "points/2d", "-o", link)
        assert (done.code, done.err) == (1, f"error: {link}: is what is read; give another place\n")
        assert atlas.read_bytes() == before

    def test_refuses_a_terminal(self, atlas: Path) -> None:
        with terminal() as (far, _):
            done = spawn("bytes", atlas, "points/2d", capture_output=False, stdout=far, stderr=-1)
        assert done.returncode == 2
        assert "-o FILE" in done.stderr


class TestPlot:
    def test_writes_a_picture(self, run: Callable[..., Done], atlas: Path, tmp_path: Path) -> None:
        out = tmp_path / "a.png"
        flags = ["--color", "CD3E", "--embedding", "2=X_umap_3d[:2]", "--dpi", 50]
        assert run("plot", atlas, out, *flags) == (0, "", "")
        small = out.read_bytes()
        assert small.startswith(PNG)
        assert run("plot", atlas, out, "--color", "cell_type", "--dim", 3).code == 0
        assert len(out.read_bytes()) > 2 * len(small)


class TestDemo:
    OUT = "my 'out'"

    @pytest.fixture
    def printed(
        self, run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> str:
        """What the demo prints where no program is found by its name alone."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path))
        done = run("demo", self.OUT, "--n-cells", 400, "--n-genes", 50)
        assert (done.code, done.err) == (0, "")
        return done.out

    def test_exports_and_describes_the_export(self, printed: str, tmp_path: Path) -> None:
        assert f"{len(files_of(tmp_path / self.OUT))} files" in printed
        assert "400 cells x 50 genes" in printed
        assert f"The cells by cell type: {self.OUT}.png\n" in printed
        shown, _ = printed.split("Read a file back\n")  # below, paths may be long
        assert max(map(len, shown.splitlines())) <= 100
        assert {path.name for path in tmp_path.iterdir()} == {self.OUT, f"{self.OUT}.png"}
        assert (tmp_path / f"{self.OUT}.png").read_bytes().startswith(PNG)

    def test_what_it_says_to_type_works(self, printed: str, tmp_path: Path) -> None:
        reading, own = (
            [line[20:] for line in part.splitlines() if line[:2] == "  "]
            for part in printed.split("Read a file back\n")[1].split("With your own data")
        )
        octets = gzip.decompress((tmp_path / self.OUT / "points_2d.bin.gz").read_bytes())
        assert typed(reading) == f"{np.frombuffer(octets, '<f4').reshape(-1, 2)}\n"
        write_demo(tmp_path / "atlas.h5ad", n_cells=100, n_genes=40)
        inspect, export, plot, *lines = own
        assert plot == f"{export.split(' export ')[0]} plot atlas.h5ad atlas.png --color CD3E"
        assert inspect == f"{export.split(' export ')[0]} inspect atlas.h5ad"
        done = subprocess.run(export, shell=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (tmp_path / "atlas/points_2d.bin.gz").exists()
        assert typed(lines).startswith("dask.array<")

    def test_what_it_says_is_short_where_programs_are_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.which", lambda name: f"{Path(sys.executable).parent}/{name}")
        shown = _next_steps(tmp_path)
        assert "  in Python         python\n" in shown
        assert "  cellucid-lazy inspect atlas.h5ad\n" in shown

    def test_keeps_an_earlier_export_unless_told(
        self, run: Callable[..., Done], tmp_path: Path
    ) -> None:
        words = ["demo", tmp_path / "out", "--n-cells", "100", "--n-genes", "40"]
        assert run(*words).code == 0
        assert run(*words).code == 1
        shutil.rmtree(tmp_path / "out")
        refused = run(*words)
        assert (refused.code, "out.png: is there; replace it with --over" in refused.err) == (
            1,
            True,
        )
        assert list(tmp_path.iterdir()) == [tmp_path / "out.png"]
        assert run(*words, "--overwrite").code == 0

    def test_without_the_extra_a_line_says_how_to_get_a_picture(
        self, run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "cellucid_lazy.plot.picture", raising=False)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        done = run("demo", tmp_path / "out", "--n-cells", 100, "--n-genes", 10)
        assert (done.code, done.err) == (0, "")
        assert "\nNo picture: " in done.out
        assert "pip install '.[plot]'" in done.out
        assert list(tmp_path.iterdir()) == [tmp_path / "out"]

    def test_needs_a_few_cells(self, run: Callable[..., Done], tmp_path: Path) -> None:
        done = run("demo", tmp_path / "out", "--n-cells", "3")
        assert done.code == 2
        assert "more than 15 cells" in done.err
        assert list(tmp_path.iterdir()) == []


def typed(lines: list[str]) -> str:
    """Start the Python that the first line names, and type the others."""
    command = f'{lines[0]} -c "$LINES_TYPED"'
    environment = {**os.environ, "LINES_TYPED": "\n".join(lines[1:])}
    done = subprocess.run(
        command, shell=True, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


# What is typed, the exit code, and what the error says; ATLAS and HERE stand for paths.
REFUSED = [
    (["inspect", "nowhere.h5ad"], 1, ["HERE/nowhere.h5ad: no such file or folder"]),
    (["inspect", "HERE"], 1, ["HERE: ", "zarr store"]),
    (["inspect", ""], 1, ["the name of the dataset is empty"]),
    (["inspect", "ATLAS", "--layer", "counts"], 1, ["ATLAS: no layer 'counts'"]),
    (["inspect", "ATLAS", "--use-raw"], 1, ["ATLAS: there is no raw matrix", "without --use-raw"]),
    (["inspect", "ATLAS", "--layer", "a b", "--use-raw"], 1, ["--layer 'a b' and --use-raw excl"]),
    (["inspect", "ATLAS", "--modality", "rna"], 1, ["is no MuData"]),
    (["export", "ATLAS", "out", "--embedding", "4=X"], 2, ["error: --embedding 4=X: dimension"]),
    (["export", "ATLAS", "out", "--rename", "a=b c"], 2, ["error: --rename 'a=b c': 'a' is none"]),
    (["export", "ATLAS", "/proc/out"], 1, ["error: /proc/out: no file can be made in /proc; give"]),
    (["bytes", "ATLAS", "points/2d", "-o", "/proc/a"], 1, ["/proc/a: cannot be written: No such"]),
    (["bytes", "ATLAS", "points/2d", "points/3d"], 2, ["give one with -o FOLDER"]),
    (["bytes", "ATLAS", "points/2d", "points/3d", "-o", "ATLAS"], 1, ["ATLAS: is what is read"]),
    (
        ["bytes", "ATLAS", "points/2d/padded", "points/2d", "-o", "out"],
        2,
        ["has no file in"],
    ),
    (["export", "ATLAS", "ATLAS"], 1, ["ATLAS: is a file; give the name of a folder"]),
    (["export", "ATLAS", ""], 1, ["the name of the target is empty"]),
    (["export", "ATLAS", "out", "--scratch", "ATLAS"], 1, ["ATLAS: ", "this is a file"]),
    (["export", "ATLAS", "out", "--scratch", "no"], 1, ["HERE/no: ", "not found"]),
    (["export", "ATLAS", "out", "--select", "obs/cell_typ/*"], 1, ["did you mean"]),
    (["export", "ATLAS", "out", "--obs-keys", "leidn"], 1, ["ATLAS: ", "'leiden'"]),
    (["export", "ATLAS", "out", "--genes", "CD3F"], 1, ["ATLAS: ", "'CD3F'", "'CD3E'"]),
    (
        ["export", "ATLAS", "out", "--compression", "12"],
        2,
        ["--compression 12: ", "9; 0 is none"],
    ),
    (["export", "ATLAS", "out", "--compression", "zip:3"], 2, ["--compression zip:3: ", "gzip"]),
    (["export", "ATLAS", "out", "--memory-budget", "1kB"], 2, ["at least 64 MB"]),
    (["plot", "ATLAS", "a.png", "--color", "CD3F"], 1, ["ATLAS: no obs column", "'CD3E'"]),
    (["plot", "ATLAS", "a.jpeg"], 2, ["a.jpeg: a picture's name ends in .pdf, .png, .svg"]),
    (["plot", "ATLAS", "no/a.png"], 1, ["no/a.png: cannot be written: No such file"]),
    (["bytes", "ATLAS", "var/CD3F"], 1, ["ATLAS: ", "'var/CD3E'"]),
]


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "code", "says"), REFUSED, ids=[" ".join(words) for words, _, _ in REFUSED]
    )
    def test_are_one_line_and_leave_nothing(
        self,
        words: list[str],
        code: int,
        says: list[str],
        run: Callable[..., Done],
        atlas: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        paths = {"ATLAS": str(atlas), "HERE": str(tmp_path)}
        done = run(*(paths.get(word, word) for word in words))
        assert (done.code, done.out) == (code, "")
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        for part in says:
            assert part.replace("ATLAS", str(atlas)).replace("HERE", str(tmp_path)) in done.err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "words",
        [
            ["fly"],
            ["export", "a.h5ad"],
            ["export", "a", "b", "--threads", "0"],
            ["export", "a", "b", "--nothing-like-it", "6"],
            ["export", "a", "b", "--quantize-genes", "12"],
            ["export", "a", "b", "--select"],
        ],
        ids=" ".join,
    )
    def test_misuse_is_told_with_the_usage(
        self, words: list[str], run: Callable[..., Done]
    ) -> None:
        done = run(*words)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        assert "(usage: cellucid-lazy " in done.err

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (
                ["export", "--select", "obs/*", "ATLAS", "out"],
                ("DATA, OUT; put DATA and OUT first",),
            ),
            (["export", "ATLAS", "--select", "obs/*", "out"], ("required: OUT; put DATA and OUT",)),
            (["inspect", "--genes", "A", "B", "ATLAS"], ("DATA; put DATA first", "--genes")),
            (["bytes", "--genes", "A", "ATLAS", "var/A"], ("NAME; put DATA and NAME first",)),
        ],
    )
    def test_lists_before_the_data_are_told_what_to_do(
        self, words: list[str], says: tuple[str, ...], run: Callable[..., Done]
    ) -> None:
        done = run(*words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert done.err.startswith("error: the following arguments are required: ")
        assert "takes all words that follow (usage: cellucid-lazy " in done.err
        for part in says:
            assert part in done.err

    def test_flags_are_suggested(self, run: Callable[..., Done]) -> None:
        done = run("export", "a", "b", "--compresion", "6")
        said = (
            "error: unrecognized arguments: --compresion 6; did you mean '--compression'? (usage: "
        )
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"{said}cellucid-lazy export DATA OUT [options]")

    def test_no_help_speaks_python(self, capsys: pytest.CaptureFixture[str]) -> None:
        for command in ("inspect", "export", "bytes", "plot", "demo"):
            with pytest.raises(SystemExit):
                build_parser().parse_args([command, "--help"])
        assert not re.search("None|True|False", capsys.readouterr().out)

    @pytest.mark.parametrize(
        ("python", "typed"),
        [
            (
                "layer='counts' and use_raw=True exclude each other",
                "--layer counts and --use-raw e",
            ),
            ("rename one: Options(rename={...}) (--rename), or", "rename one: --rename, or"),
            ("give scratch= or use_raw", "give --scratch or --use-raw"),
            ("obs_categorical_dtype='auto'", "--categorical-dtype auto"),
            ("centroid_outlier_quantile=0.2 is", "--centroid-quantile 0.2 is"),
            ("use Options(embeddings={2: 'X_t'}) (--embedding 2=X_t)", "use --embedding 2=X_t"),
            # Names of files and keys stay as they are.
            ("/d/table=3/a.h5ad: 'use_raw' of latent_key/x", None),
        ],
    )
    def test_messages_name_flags(self, python: str, typed: str | None) -> None:
        shown = in_flags(python)
        assert shown.startswith(typed) if typed else shown == python

    def test_control_characters_are_not_printed(
        self, run: Callable[..., Done], tmp_path: Path
    ) -> None:
        adata = anndata.AnnData(np.ones((3, 2), np.float32), obsm={"X_umap": np.ones((3, 2))})
        adata.obs["\x1b[2Jsize"] = 1.0
        adata.obsm["\x1b[2Jdrift_umap_2d"] = np.ones((3, 3))
        adata.write_h5ad(tmp_path / "a.h5ad")
        shown = run("inspect", tmp_path / "a.h5ad")
        assert "\\x1b[2Jsize" in shown.out
        assert "\\x1b[2Jdrift_umap_2d' is left out" in shown.out
        done = run("export", tmp_path / "a.h5ad", tmp_path / "out", "--obs-keys", "\x1b[2Jsice")
        assert done.code == 1
        assert "\\x1b[2J" in done.err
        assert "\x1b" not in shown.out + shown.err + done.out + done.err

    @pytest.mark.parametrize("words", [["--debug", "inspect", "x"], ["inspect", "x", "--debug"]])
    def test_debug_shows_the_traceback(self, words: list[str], run: Callable[..., Done]) -> None:
        done = run(*words)
        assert done.code == 1
        assert "Traceback (most recent call last)" in done.err
        assert done.err.splitlines()[-1].startswith("error: ")

    def test_the_unexpected_is_one_line_too(
        self, run: Callable[..., Done], atlas: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("two\nlines")

        monkeypatch.setattr("cellucid_lazy.outputs", fail)
        done = run("inspect", atlas)
        assert done.code == 1
        assert done.err.startswith("error: ZeroDivisionError: two lines (--debug ")
        assert done.err.count("\n") == 1

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("inspect", "DATA"),
            ("export", "DATA OUT"),
            ("bytes", "DATA NAME ..."),
            ("plot", "DATA OUT"),
            ("demo", "OUT"),
        ],
    )
    def test_every_command_explains_itself(
        self, command: str, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([command, "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: cellucid-lazy {command} {words} [options]\n")
        assert "--debug" in shown


def test_without_a_command_the_help_is_shown(run: Callable[..., Done]) -> None:
    done = run()
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: cellucid-lazy ")
    assert "commands:" in done.out


def test_inspect_fits_a_narrow_terminal(atlas: Path) -> None:
    with terminal() as (far, near):
        termios.tcsetwinsize(far, (24, 60))
        done = spawn(
            "inspect",
            atlas.name,
            capture_output=False,
            stdout=far,
            cwd=atlas.parent,
            env={**os.environ, "COLUMNS": "", "PYTHONPATH": str(ROOT)},
        )
        shown = os.read(near, 100_000).decode().replace("\r\n", "\n")
    assert done.returncode == 0
    assert max(map(len, shown.splitlines()[1:])) <= 60
    assert "  obs/cell_type/codes\n    uint8  (300,)  300 B  obs/cell_type.codes.u8\n" in shown


def test_an_interruption_of_the_imports_is_no_traceback() -> None:
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-X", "importtime", "-m", "cellucid_lazy", "inspect", "x"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=heed, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:  # a module each, as it has been imported
            if line.split()[-1] == "argparse":
                break
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert [line for line in said.splitlines() if "import time:" not in line] == ["interrupted"]


def test_progress_is_shown_on_a_terminal(atlas: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with terminal() as (far, near):
        done = spawn("export", atlas, out, capture_output=False, stdout=-1, stderr=far)
        shown = os.read(near, 100_000).decode()
    assert (done.returncode, done.stdout) == (0, "")
    assert "tasks" in shown
    assert f"{out}: {len(files_of(out))} files" in shown


@pytest.fixture(scope="module")
def slow_atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas whose genes take seconds to compress, and do not fit the smallest budget."""
    rng = np.random.default_rng(0)
    matrix = sparse.random_array((4000, 2500), density=0.5, format="csr", rng=rng, dtype=np.float32)
    adata = anndata.AnnData(sparse.csr_matrix(matrix))
    adata.obs_names = [f"c{number}" for number in range(4000)]
    adata.var_names = [f"g{number}" for number in range(2500)]
    adata.obsm["X_umap"] = rng.normal(size=(4000, 2)).astype(np.float32)
    path = tmp_path_factory.mktemp("slow") / "slow.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.mark.parametrize(
    ("numbers", "code", "says"),
    [
        ([signal.SIGINT] * 9, 130, "interrupted\n"),
        ([signal.SIGTERM, signal.SIGINT, signal.SIGTERM], 143, "terminated\n"),
        ([signal.SIGHUP], 129, "hung up\n"),
    ],
    ids=["impatient user", "batch system", "closed terminal"],
)
def test_an_interrupted_export_leaves_nothing(
    numbers: list[int], code: int, says: str, slow_atlas: Path, tmp_path: Path
) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    cl.to_directory(cl.outputs(slow_atlas).select("points/*"), out, progress=False)
    before = files_of(out)
    settings = ["--compression", "9", "--memory-budget", "64MiB", "--scratch", str(scratch)]
    command = [*PROGRAM, "export", str(slow_atlas), str(out), "--overwrite", *settings]
    # Interruptions reach it even where this run was started in the background.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=heed, cwd=ROOT
    ) as process:
        wait_for(lambda: any(scratch.rglob("*.spill")) and any(tmp_path.glob(".out.*/var/*.gz")))
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.02)
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (code, says)
    assert sorted(tmp_path.iterdir()) == [out, scratch]
    assert list(scratch.iterdir()) == []
    assert files_of(out) == before


def wait_for(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.01)


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Open a terminal and its other end, where what is written to it is read."""
    near, far = pty.openpty()
    try:
        yield far, near
    finally:
        os.close(far)
        os.close(near)
