"""The command line, end to end: what it prints, what it writes, how it ends."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy import cli_options
from cellucid_lazy.cli import build_parser, main
from cellucid_lazy.cli_demo import _next_steps
from cellucid_lazy.demo import write_demo

# anndata 0.13 sets an option that pandas 3 wants gone, whenever it writes a file.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")

PROGRAM = [sys.executable, "-m", "cellucid_lazy"]
EVERY_SETTING = (
    *("--name", "N", "--id", "I", "--description", "D"),
    *("--source-name", "S", "--source-url", "U", "--source-citation", "C"),
    *("--latent-key", "X_pca", "--gene-id-column", "gene_ids", "--no-normalize"),
    *("--quantize-genes", "8", "--quantize-obs", "16", "--categorical-dtype", "uint16"),
    *("--obs-keys", "leiden", "score", "--genes", "ENSG00000100000"),
    *("--centroid-quantile", "0.9", "--centroid-min-points", "5"),
    *("--memory-budget", "256MB", "--threads", "2"),
)


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run one command with both streams piped."""
    settings = {"capture_output": True, "text": True, "timeout": 120} | options
    return subprocess.run([*PROGRAM, *map(str, words)], **settings)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("cli") / "atlas.h5ad", n_cells=300, n_genes=60)


@pytest.fixture(scope="module")
def odd_atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with a vector field that cannot be shown."""
    points = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    adata = anndata.AnnData(
        sparse.csr_matrix(np.eye(20, 3, dtype=np.float32)),
        obs=pd.DataFrame({"size": np.arange(20.0)}, index=[f"c{number}" for number in range(20)]),
        obsm={"X_umap": points, "X_pca": points, "drift_umap_2d": np.zeros((20, 3), np.float32)},
    )
    path = tmp_path_factory.mktemp("odd") / "odd.h5ad"
    adata.write_h5ad(path)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def without_time(found: dict[str, bytes]) -> dict[str, object]:
    identity = json.loads(found["dataset_identity.json"])
    del identity["created_at"]
    return {**found, "dataset_identity.json": identity}


class TestInspect:
    def test_shows_the_catalogue(self, atlas: Path) -> None:
        done = run("inspect", atlas)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{cl.outputs(atlas)!r}\n"

    @pytest.mark.parametrize(("cells", "genes"), [(1, 3), (3, 1)])
    def test_knows_one_from_many(self, cells: int, genes: int, tmp_path: Path) -> None:
        adata = anndata.AnnData(
            np.ones((cells, genes), np.float32),
            obs=pd.DataFrame({"size": np.ones(cells)}, index=[f"c{n}" for n in range(cells)]),
            obsm={"X_umap": np.ones((cells, 2), np.float32)},
        )
        adata.write_h5ad(tmp_path / "a.h5ad")
        says = "1 cell x 3 genes" if cells == 1 else "3 cells x 1 gene"
        title = run("inspect", tmp_path / "a.h5ad").stdout.splitlines()[0]
        assert title == f"Catalogue of {tmp_path / 'a.h5ad'}: {says}"
        assert f": {says}, expression dense, 1 obs column, " in repr(cl.open(tmp_path / "a.h5ad"))

    def test_tells_the_latent_space(self, atlas: Path, tmp_path: Path) -> None:
        shown = run("inspect", atlas).stdout.splitlines()
        rows = [line.split() for line in shown]
        place = next(number for number, row in enumerate(rows) if row[:2] == ["(latent", "space)"])
        assert rows[place - 1][0] == "points/3d/padded"
        assert rows[place][2:] == ["float32", "(300,", "20)", "from", "obsm/X_pca"]
        chosen = run("inspect", atlas, "--latent-key", "X_umap_3d").stdout
        assert "from obsm/X_umap_3d" in chosen
        assert json.loads(run("inspect", atlas, "--json").stdout)["latent_key"] == "X_pca"

    def test_tells_that_there_is_no_latent_space(self, tmp_path: Path) -> None:
        adata = anndata.AnnData(
            obs=pd.DataFrame({"kind": pd.Categorical(["a", "b"])}, index=["c0", "c1"]),
            obsm={"X_umap": np.ones((2, 2), np.float32)},
        )
        adata.write_h5ad(tmp_path / "a.h5ad")
        shown = run("inspect", tmp_path / "a.h5ad").stdout
        assert "(latent space: none found, outlier quantiles are 0)\n" in shown
        told = json.loads(run("inspect", tmp_path / "a.h5ad", "--json").stdout)
        assert told["latent_key"] is None
        assert "latent" not in repr(cl.outputs(adata).select("points/*"))

    def test_tells_what_export_refuses(self, atlas: Path, tmp_path: Path) -> None:
        adata = anndata.read_h5ad(atlas)
        adata.var_names = ["HLA-DRB1/2", "HLA-DRB1_2", *adata.var_names[2:]]
        adata.obs["cell type"] = 1.0
        adata.write_h5ad(tmp_path / "a.h5ad")
        inspected = run("inspect", tmp_path / "a.h5ad")
        assert inspected.returncode == 0
        _, notes = inspected.stdout.split("Left out, or worth knowing:\n")
        columns, genes = notes.splitlines()
        assert "obs columns 'cell_type' and 'cell type' share the file name" in columns
        assert "genes 'HLA-DRB1/2' and 'HLA-DRB1_2' share the file name" in genes
        told = json.loads(run("inspect", tmp_path / "a.h5ad", "--json").stdout)
        assert told["left_out"] == [columns.strip(), genes.strip()]
        # It is what export says, and what it says helps.
        refused = run("export", tmp_path / "a.h5ad", tmp_path / "out")
        assert columns.strip() == f"export would refuse this: {refused.stderr[7:].strip()}"
        assert "--select" in refused.stderr
        chosen = ["--select", "obs/cell_type/*", "var/HLA-DRB1/2"]
        assert main(["export", str(tmp_path / "a.h5ad"), str(tmp_path / "out"), *chosen]) == 0
        assert (tmp_path / "out/var/HLA-DRB1_2.values.f32").exists()

    def test_tells_what_is_left_out(self, odd_atlas: Path) -> None:
        done = run("inspect", odd_atlas)
        assert (done.returncode, done.stderr) == (0, "")
        _, notes = done.stdout.split("Left out, or worth knowing:\n")
        assert "'drift_umap_2d' is left out" in notes

    def test_describes_for_machines(self, atlas: Path) -> None:
        done = run("inspect", atlas, "--json")
        told = json.loads(done.stdout)
        cat = cl.outputs(atlas)
        assert (told["n_cells"], told["n_genes"], told["expression"]) == (300, 60, "csr")
        assert told["left_out"] == []
        outputs = {row.pop("name"): row for row in told["outputs"]}
        assert [*outputs] == [name for name in cat if not name.startswith("var/")]
        assert [f"var/{gene}" for gene in told["genes"]] == list(cat.names("var"))
        assert outputs["obs/cell_type/codes"] == {
            "dtype": "uint8",
            "shape": [300],
            "file": "obs/cell_type.codes.u8",
        }
        # Only reading tells how many labels a text column has, and the number of edges.
        assert outputs["obs/sample/codes"]["dtype"] is None
        assert outputs["connectivity/src"]["shape"] == [None]

    def test_machines_are_told_what_is_left_out(self, odd_atlas: Path) -> None:
        told = json.loads(run("inspect", odd_atlas, "--json").stdout)
        assert any("drift_umap_2d" in note for note in told["left_out"])

    def test_offers_genes_by_another_column(
        self, atlas: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["inspect", str(atlas), "--gene-id-column", "gene_ids"]) == 0
        assert "ENSG00000100000 ... " in capsys.readouterr().out

    def test_a_reader_may_stop_early(self, atlas: Path) -> None:
        command = f"'{sys.executable}' -m cellucid_lazy inspect '{atlas}' --json | head -c 10"
        done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
        assert done.stderr == b""

    def test_a_closed_pipe_is_no_crash(self, atlas: Path) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = run("inspect", atlas, capture_output=False, stdout=writing, stderr=-1)
        finally:
            os.close(writing)
        assert (done.returncode, done.stderr) == (1, "")


class TestExport:
    def test_writes_what_the_library_writes_and_says_nothing(
        self, atlas: Path, tmp_path: Path
    ) -> None:
        done = run("export", atlas, tmp_path / "by_command", "--compression", 6, "--threads", 1)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        cl.to_directory(cl.outputs(atlas, cl.Options(compression=6)), tmp_path / "by_library")
        assert without_time(files(tmp_path / "by_command")) == without_time(
            files(tmp_path / "by_library")
        )

    def test_writes_a_choice(self, atlas: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        patterns = ["--select", "var/CD3*", "obs/n_*", "--select", "obs/donor/codes"]
        assert main(["export", str(atlas), str(out), *patterns]) == 0
        assert sorted(files(out)) == [
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

    def test_every_setting_arrives(self, atlas: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        words = [*EVERY_SETTING, "--scratch", str(tmp_path)]
        assert main(["export", str(atlas), str(out), *words]) == 0
        identity = json.loads((out / "dataset_identity.json").read_text())
        assert [identity[key] for key in ("name", "id", "description")] == ["N", "I", "D"]
        assert identity["source"] == {"name": "S", "url": "U", "citation": "C"}
        assert identity["export_settings"] == {
            "compression": None,
            "var_quantization": 8,
            "obs_continuous_quantization": 16,
            "obs_categorical_dtype": "uint16",
        }
        assert json.loads((out / "obs_manifest.json").read_text())[
            "centroid_outlier_quantile"
        ] == pytest.approx(0.9)
        found = files(out)
        assert {"obs/leiden.codes.u16", "obs/score.values.u16"} <= set(found)
        assert [name for name in found if name.startswith("var/")] == [
            "var/ENSG00000100000.values.u8"
        ]
        stored = anndata.read_h5ad(atlas).obsm["X_umap_2d"]
        assert found["points_2d.bin"] == np.asarray(stored, "<f4").tobytes()

    def test_every_option_is_a_setting(self) -> None:
        options = set(cl.Options.__dataclass_fields__)
        named = {flag.setting for flag in cli_options.SETTINGS}
        assert named == options - {"manifest_shape", "created_at"}

    def test_keeps_an_earlier_export_unless_told(self, atlas: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert main(["export", str(atlas), str(out)]) == 0
        before = files(out)
        refused = run("export", atlas, out, "--select", "var/CD3E")
        assert refused.returncode == 1
        assert "--overwrite" in refused.stderr
        assert files(out) == before
        replacing = ["--overwrite", "--select", "var/CD3E"]
        assert main(["export", str(atlas), str(out), *replacing]) == 0
        assert "var/CD3D.values.f32" not in files(out)

    def test_explains_and_writes_nothing(self, atlas: Path, tmp_path: Path) -> None:
        done = run("export", atlas, tmp_path / "out", "--explain")
        assert done.returncode == 0
        assert done.stdout == cl.explain(cl.outputs(atlas)) + "\n"
        assert list(tmp_path.iterdir()) == []

    def test_shows_warnings_in_one_line(self, odd_atlas: Path, tmp_path: Path) -> None:
        done = run("export", odd_atlas, tmp_path / "out")
        assert done.returncode == 0
        lines = done.stderr.splitlines()
        assert lines
        assert all(line.startswith(f"warning: {odd_atlas}: ") for line in lines)


class TestBytes:
    def test_writes_nothing_but_the_bytes(self, atlas: Path) -> None:
        done = run("bytes", atlas, "points/2d", text=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == cl.to_bytes(cl.outputs(atlas), ["points/2d"])["points/2d"]

    def test_compresses(self, atlas: Path) -> None:
        done = run("bytes", atlas, "var/CD3E", "--compression", 6, text=False)
        plain = cl.to_bytes(cl.outputs(atlas), ["var/CD3E"])["var/CD3E"]
        assert gzip.decompress(done.stdout) == plain

    def test_refuses_a_terminal(self, atlas: Path) -> None:
        with terminal() as (far, _):
            done = run(
                "bytes",
                atlas,
                "points/2d",
                capture_output=False,
                stdout=far,
                stderr=subprocess.PIPE,
            )
        assert done.returncode == 2
        assert "> FILE" in done.stderr


class TestDemo:
    def test_exports_and_tells_what_to_look_at(self, tmp_path: Path) -> None:
        done = run("demo", "demo_out", "--cells", 400, "--genes", 50, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        found = files(tmp_path / "demo_out")
        assert f"{len(found)} files" in done.stdout
        assert "cellucid serve demo_out" in done.stdout
        assert "400 cells x 50 genes" in done.stdout
        assert "A CD4 T cells" in done.stdout
        assert "\x1b" not in done.stdout
        shown, _ = done.stdout.split("Look at it\n")  # below, paths may be long
        assert max(map(len, shown.splitlines())) <= 100
        assert list(tmp_path.iterdir()) == [tmp_path / "demo_out"]

    def test_keeps_an_earlier_export_unless_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["demo", str(tmp_path / "out"), "--cells", "100", "--genes", "40"]
        assert main(words) == 0
        assert main(words) == 1
        assert main([*words, "--overwrite"]) == 0

    def test_what_to_type_next_works_as_printed(self, tmp_path: Path) -> None:
        """Also where the environment is not activated, so that its programs need their paths."""
        away = {**os.environ, "PATH": str(tmp_path)}
        done = run("demo", "my out", "--cells", 100, "--genes", 40, cwd=tmp_path, env=away)
        printed = done.stdout.split("Look at it\n")[1].splitlines()
        words = [line[20:] for line in printed]
        write_demo(tmp_path / "atlas.h5ad", n_cells=100, n_genes=40)
        asked = [line for line in words if "cellucid" in line and " atlas.h5ad" in line]
        assert len(asked) == 2
        for line in asked:
            again = subprocess.run(line, shell=True, cwd=tmp_path, env=away, capture_output=True)
            assert (again.returncode, again.stderr) == (0, b"")
        assert (tmp_path / "atlas/points_2d.bin.gz").exists()
        assert words[0] == f"{shlex.quote(sys.executable)} -m pip install cellucid==0.0.9"
        viewer, *rest = shlex.split(words[1])
        assert Path(viewer) == Path(sys.executable).with_name("cellucid")
        assert rest == ["serve", "my out"]
        start = words.index(shlex.quote(sys.executable))
        session = "\n".join(words[start + 1 :])
        subprocess.run([words[start], "-c", session], cwd=tmp_path, env=away, check=True)

    def test_what_to_type_next_is_short_where_programs_are_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.which", lambda name: f"{Path(sys.executable).parent}/{name}")
        shown = _next_steps(tmp_path)
        assert "  python -m pip install cellucid==0.0.9\n" in shown
        assert f"  cellucid serve {tmp_path}\n" in shown
        assert "  cellucid-lazy inspect atlas.h5ad\n" in shown

    def test_needs_a_few_cells(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", str(tmp_path / "out"), "--cells", "3"]) == 2
        assert "more than 15 cells" in capsys.readouterr().err


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "code", "says"),
        [
            (["inspect", "nowhere.h5ad"], 1, "nowhere.h5ad: no such file or folder"),
            (["inspect", ""], 1, "the name of the dataset is empty"),
            (["inspect", "ATLAS", "--layer", "counts"], 1, "no layer 'counts'"),
            (["inspect", "ATLAS", "--use-raw"], 1, "there is no raw matrix"),
            (["export", "ATLAS", "out", "--scratch", "ATLAS"], 1, "this is a file"),
            (["export", "ATLAS", "out", "--select", "obs/cell_typ/*"], 1, "did you mean"),
            (["export", "ATLAS", "out", "--obs-keys", "leidn"], 1, "'leiden'"),
            (["export", "ATLAS", "out", "--compression", "12"], 2, "from 1 to 9, or None"),
            (["export", "ATLAS", "out", "--memory-budget", "1kB"], 2, "at least 64 MB"),
            (["bytes", "ATLAS", "var/CD3F"], 1, "'var/CD3E'"),
        ],
    )
    def test_are_one_line_and_leave_nothing(
        self, words: list[str], code: int, says: str, atlas: Path, tmp_path: Path
    ) -> None:
        done = run(*(str(atlas) if word == "ATLAS" else word for word in words), cwd=tmp_path)
        assert done.returncode == code
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert says in done.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "words",
        [[], ["fly"], ["export", "a.h5ad"], ["export", "a", "b", "--threads", "0"]],
    )
    def test_misuse_is_told_with_the_usage(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert "(usage: cellucid-lazy " in said

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
        self, words: list[str], says: tuple[str, ...], atlas: Path, tmp_path: Path
    ) -> None:
        done = run(*(str(atlas) if word == "ATLAS" else word for word in words), cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith("error: the following arguments are required: ")
        assert "takes all words that follow (usage: cellucid-lazy " in done.stderr
        for part in says:
            assert part in done.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("words", [["--debug", "inspect", "x"], ["inspect", "x", "--debug"]])
    def test_debug_shows_the_traceback(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words) == 1
        shown = capsys.readouterr().err
        assert "Traceback (most recent call last)" in shown
        assert shown.splitlines()[-1].startswith("error: ")

    def test_the_unexpected_is_one_line_too(
        self, atlas: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("two\nlines")

        monkeypatch.setattr("cellucid_lazy.catalogue.outputs", fail)
        assert main(["inspect", str(atlas)]) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("error: ZeroDivisionError: two lines (--debug ")
        assert shown.count("\n") == 1

    @pytest.mark.parametrize(
        ("command", "words"),
        [("inspect", "DATA"), ("export", "DATA OUT"), ("bytes", "DATA NAME"), ("demo", "OUT")],
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


class TestTerminal:
    def test_progress_is_shown_on_a_terminal(self, atlas: Path, tmp_path: Path) -> None:
        with terminal() as (far, near):
            done = run(
                "export", atlas, tmp_path / "out", capture_output=False, stdout=-1, stderr=far
            )
            shown = os.read(near, 100_000).decode()
        assert (done.returncode, done.stdout) == (0, "")
        assert "tasks" in shown
        assert f"{tmp_path / 'out'}: {len(files(tmp_path / 'out'))} files" in shown


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
        ([signal.SIGINT], 130, "interrupted\n"),
        ([signal.SIGTERM], 143, "terminated\n"),
        ([signal.SIGINT] * 9, 130, "interrupted\n"),
        ([signal.SIGTERM, signal.SIGINT, signal.SIGTERM], 143, "terminated\n"),
    ],
    ids=["interrupted", "terminated", "impatient", "both"],
)
def test_an_interrupted_export_leaves_nothing(
    numbers: list[int], code: int, says: str, slow_atlas: Path, atlas: Path, tmp_path: Path
) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    assert main(["export", str(atlas), str(out)]) == 0
    before = files(out)
    settings = ["--compression", "9", "--memory-budget", "64MiB", "--scratch", str(scratch)]
    command = [*PROGRAM, "export", str(slow_atlas), str(out), "--overwrite", *settings]
    # Interruptions reach it even where this run was started in the background.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        wait_for(lambda: any(scratch.rglob("*.piece")) and any(tmp_path.glob(".out.*/var/*.gz")))
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.02)
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (code, says)
    assert sorted(tmp_path.iterdir()) == [out, scratch]
    assert list(scratch.iterdir()) == []
    assert files(out) == before


def wait_for(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.01)


class terminal:
    """A pair of ends: what is written to the far one, a terminal, is read from the near one."""

    def __enter__(self) -> tuple[int, int]:
        import pty

        self.near, self.far = pty.openpty()
        return self.far, self.near

    def __exit__(self, *_: object) -> None:
        os.close(self.far)
        os.close(self.near)
