"""The cases, declared as data: what each side runs, and the ratio that is aimed at.

A command is a tuple of arguments for a script of this package. Placeholders: ``{path}`` the
dataset, ``{out}`` a folder that is new, ``{genes:K}`` K gene names spread over all genes,
``{n_genes}`` how many genes, ``{float32_column}`` and ``{uint8_column}`` the bytes of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.bench.recipe import Recipe, gene_name

EXPORT = ("export", "{path}", "--out", "{out}")
QUANTIZED = ("--var-quantization", "8", "--obs-continuous-quantization", "8")
LEVEL_1, LEVEL_6 = ("--compression", "1"), ("--compression", "6")
RAW_WRITE = ("raw-write", "--out", "{out}", "--files", "{n_genes}", "--bytes-each")
BUDGET = "512MB"
FRUGAL = "256MB"
REFERENCE, BARE = "reference_runs.py", "bare_loops.py"


@dataclass(frozen=True)
class Dataset:
    """A file to run on: a recipe, and whether it is stored by gene and as zarr."""

    recipe: Recipe
    suffix: str = ".h5ad"

    @property
    def by_gene(self) -> bool:
        """Whether X is CSC."""
        return ".csc" in self.suffix

    def shrunk(self) -> Dataset:
        """Return the small stand-in of a quick run."""
        quick = replace(
            self.recipe,
            n_cells=self.recipe.n_cells // 10,
            n_genes=min(self.recipe.n_genes, 5_000),
            nonzeros_per_cell=min(self.recipe.nonzeros_per_cell, 300.0),
        )
        return replace(self, recipe=quick)


@dataclass(frozen=True)
class Case:
    """One row of the table.

    ``time_target`` and ``memory_target`` are ratios, ours to theirs; ``value_target`` is in the
    metric's unit and ``peak_target`` in megabytes, both of ours alone. ``metric`` is ``"seconds"``
    or the ``"milliseconds"`` that both sides report. Without ``theirs`` nothing else is run.
    """

    name: str
    title: str
    dataset: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    their_script: str = REFERENCE
    time_target: float | None = None
    memory_target: float | None = None
    value_target: float | None = None
    peak_target: float | None = None
    metric: str = "seconds"
    heavy: bool = False
    note: str = ""


ATLAS = Recipe(n_cells=200_000, n_genes=20_000)
BY_GENE = replace(ATLAS, n_cells=50_000)
GROUPS = Recipe(
    n_cells=1_000_000,
    n_genes=50,
    nonzeros_per_cell=5.0,
    categories=(("groups_10", 10), ("groups_1000", 1_000), ("groups_10000", 10_000)),
    neighbours=1,
)
DATASETS = {
    "atlas": Dataset(ATLAS),
    "by-gene-h5ad": Dataset(BY_GENE, ".csc.h5ad"),
    "by-gene-zarr": Dataset(BY_GENE, ".csc.zarr"),
    "groups": Dataset(GROUPS),
    "large": Dataset(replace(ATLAS, n_cells=800_000)),
}
GROWTH_CELLS = (50_000, 100_000, 200_000, 400_000, 800_000)
# Seconds per nonzero and peak memory, largest atlas to smallest.
GROWTH_TIME, GROWTH_MEMORY = 1.3, 1.25


def _export(
    name: str, title: str, ours: tuple[str, ...], theirs: tuple[str, ...], *, time: float
) -> Case:
    """Declare an export; an eighth of the reference's memory is asked for in all of them."""
    return Case(
        name,
        title,
        "atlas",
        ours=(*EXPORT, *ours, "--memory-budget", FRUGAL),
        theirs=(*EXPORT, *theirs),
        time_target=time,
        memory_target=1 / 8,
        heavy=True,
    )


def _against_writing(
    name: str, title: str, ours: tuple[str, ...], column: str, *, time: float | None, note: str
) -> Case:
    """Declare an export that is not compressed, beside what its files alone take.

    Three runs: what the system takes for a page depends on what the run before left it.
    """
    return Case(
        name,
        title,
        "atlas",
        ours=(*EXPORT, *ours, "--memory-budget", FRUGAL),
        theirs=(*RAW_WRITE, column),
        their_script=BARE,
        time_target=time,
        note=note,
    )


def _groups(n_categories: int, time: float) -> Case:
    """Declare the work of one categorical column."""
    command = ("groups", "{path}", f"groups_{n_categories}")
    return Case(
        f"groups-{n_categories}",
        f"codes, outliers, centroids: {n_categories:,} categories",
        "groups",
        ours=command,
        theirs=command,
        time_target=time,
    )


def _one_gene_by_gene(kind: str) -> Case:
    command = ("gene-median", "{path}", "{genes:41}")
    note = "the reference loads the store whole to open it" if kind == "zarr" else ""
    return Case(
        f"gene-csc-{kind}",
        f"one gene from CSC {kind}, dataset open (median of 40)",
        f"by-gene-{kind}",
        ours=command,
        theirs=command,
        value_target=20.0,
        metric="milliseconds",
        note=note,
    )


CASES = (
    _export("export-1", "export, gzip 1 against gzip 6", LEVEL_1, LEVEL_6, time=1 / 10),
    _export("export-6", "export, gzip 6 against gzip 6", LEVEL_6, LEVEL_6, time=1 / 5),
    _export("export-8bit", "export, 8-bit, not compressed", QUANTIZED, QUANTIZED, time=1 / 8),
    _export(
        "export-8bit-1",
        "export, 8-bit, gzip 1 against gzip 6",
        (*QUANTIZED, *LEVEL_1),
        (*QUANTIZED, *LEVEL_6),
        time=1 / 8,
    ),
    Case(
        "budget",
        f"export, gzip 1, memory budget {BUDGET}, X of 6.3 GB decoded",
        "large",
        ours=(*EXPORT, *LEVEL_1, "--memory-budget", BUDGET, "--check", "{genes:12}"),
        theirs=(),
        peak_target=1.3 * 512 + 130,
        heavy=True,
        note="peak target: 1.3 times the budget, and 130 MB that the imported libraries take; "
        "seconds include reading 12 genes straight from the file, to compare with what was written",
    ),
    _against_writing(
        "raw-write",
        "export, float32, not compressed",
        (),
        "{float32_column}",
        time=1.5,
        note="against writing as many bytes and files on two threads, nothing else",
    ),
    _against_writing(
        "raw-write-8bit",
        "export, 8-bit, not compressed",
        QUANTIZED,
        "{uint8_column}",
        time=None,
        note="the same; no target, but what the disk leaves of the one above",
    ),
    Case(
        "bare-loops",
        "export, gzip 1",
        "atlas",
        ours=(*EXPORT, *LEVEL_1, "--memory-budget", FRUGAL),
        theirs=("export", "{path}", "--out", "{out}"),
        their_script=BARE,
        time_target=1.6,
        note="against the bare loops over X on two threads; ours writes the other outputs as well",
    ),
    Case(
        "gene",
        "one gene",
        "atlas",
        ours=("genes", "{path}", "{genes:1}"),
        theirs=("genes", "{path}", "{genes:1}"),
        time_target=1 / 5,
        memory_target=1 / 8,
    ),
    Case(
        "genes-100",
        "100 genes in one call",
        "atlas",
        ours=("genes", "{path}", "{genes:100}"),
        theirs=("genes", "{path}", "{genes:3}", "--scale-to", "100"),
        time_target=1 / 300,
        heavy=True,
        note="reference timed on 3 genes, scaled to 100",
    ),
    _one_gene_by_gene("h5ad"),
    _one_gene_by_gene("zarr"),
    Case(
        "edges",
        "edges",
        "atlas",
        ours=("edges", "{path}"),
        theirs=("edges", "{path}"),
        time_target=1 / 3,
    ),
    _groups(10, time=1.0),
    _groups(1_000, time=1 / 2),
    _groups(10_000, time=1 / 10),
)


def spread_genes(n_genes: int, wanted: int) -> list[str]:
    """Return distinct gene names spread evenly over all of them."""
    return [gene_name((2 * at + 1) * n_genes // (2 * wanted)) for at in range(wanted)]


def fill_in(command: tuple[str, ...], recipe: Recipe, path: str, out: str) -> list[str]:
    """Replace the placeholders of a command."""
    single = {
        "{path}": path,
        "{out}": out,
        "{n_genes}": str(recipe.n_genes),
        "{float32_column}": str(4 * recipe.n_cells),
        "{uint8_column}": str(recipe.n_cells),
    }
    filled: list[str] = []
    for argument in command:
        if argument.startswith("{genes:"):
            filled += spread_genes(recipe.n_genes, int(argument[len("{genes:") : -1]))
        else:
            filled.append(single.get(argument, argument))
    return filled


def growth_recipes(*, quick: bool) -> list[Recipe]:
    """Return the atlases of the growth series, smallest first."""
    recipes = [replace(ATLAS, n_cells=n_cells) for n_cells in GROWTH_CELLS]
    return [Dataset(recipe).shrunk().recipe for recipe in recipes] if quick else recipes
