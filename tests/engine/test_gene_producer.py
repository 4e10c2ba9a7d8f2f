"""The producer of genes: any plan on any storage makes the bytes that plain NumPy makes."""

from __future__ import annotations

import gzip
import json
import tempfile
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import cellucid_lazy as cl
from cellucid_lazy.codecs import codec_for
from cellucid_lazy.engine import gene_producer
from cellucid_lazy.engine.array_producer import ARRAYS
from cellucid_lazy.engine.gene_producer import GeneProducer
from cellucid_lazy.engine.matrix import gene_array, gene_ranges_array
from cellucid_lazy.engine.output import Manifest, Output, manifest_output
from cellucid_lazy.engine.plan import Plan
from cellucid_lazy.engine.producer import Encoder, Job
from cellucid_lazy.engine.resources import Resources
from cellucid_lazy.engine.run import run
from cellucid_lazy.engine.spill import Spiller
from cellucid_lazy.readers.matrix import DenseMatrix, MemoryArray
from cellucid_lazy.sinks.memory import MemorySink, MemoryWriter
from cellucid_lazy.source import BlockSizes, DaskMatrix, ExpressionMatrix
from cellucid_lazy.transforms.quantize import quantization_range, quantize_block
from tests.engine.matrices import awkward, dense32, in_memory, matrices, numbers
from tests.engine.stores import HDF5, ZARR, write
from tests.helpers import SMALL

RESOURCES = Resources(2**30, workers=2, threads=2)


def made_plan(strategy, block_values=500, genes_per_block=4, joined_values=10**6):
    return Plan(strategy, block_values, genes_per_block, joined_values, 0, 0, 0, "the test says so")


def gene_outputs(expression, positions, bits=None):
    """The outputs of genes, by the names of their files; a gene may have several."""
    dtype = np.dtype(np.float32 if bits is None else f"u{bits // 8}")
    build = partial(gene_array, expression, sizes=SMALL)
    return {
        f"{place}:{gene}": Output(
            f"{place}:{gene}", "var", None, expression.shape[:1], dtype, build, position=int(gene)
        )
        for place, gene in enumerate(positions)
    }


def shown(values):
    """JSON has no NaN."""
    return {"ranges": [[str(one) for one in row] for row in values["ranges"].tolist()]}


def ranges_output(expression, positions):
    """A manifest that shows the ranges of genes, one after the other."""
    ranges = gene_ranges_array(expression, np.unique(positions), SMALL)
    return manifest_output("manifest/ranges", "ranges", Manifest({"ranges": ranges}, shown))


def made(expression, positions, *, plan=None, bits=None, level=None, ranges=False, scratch=None):
    """Run a pass; returns files by name, and the ranges (3, unique genes) if asked for."""
    groups = {GeneProducer(expression, bits, SMALL): gene_outputs(expression, positions, bits)}
    if ranges:
        groups[ARRAYS] = {"ranges": ranges_output(expression, positions)}
    with pytest.MonkeyPatch.context() as patch:
        if plan is not None:
            patch.setattr(gene_producer, "plan_genes", lambda **_: plan)
        files = run(
            groups,
            MemorySink(),
            codec_for(level),
            resources=RESOURCES,
            scratch=scratch,
            progress=False,
        )
    if not ranges:
        return files
    return files, np.array(json.loads(files.pop("ranges"))["ranges"], dtype=float)


def expected_bytes(column, bits=None):
    """Bytes of a gene by plain NumPy, from its dense float32 column."""
    if bits is None:
        return column.tobytes()
    finite = column[np.isfinite(column)]
    ends = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    return quantize_block(column, *quantization_range(*ends), bits=bits).tobytes()


def expected_ranges(column):
    finite = column[np.isfinite(column)]
    ends = [finite.min(), finite.max()] if len(finite) else [np.nan, np.nan]
    return [*ends, len(finite)]


def in_blocks(matrix, chunks):
    """A lazy matrix with blocks of a chunk shape, sparse as the matrix is."""
    meta = matrix[:0, :0] if sparse.issparse(matrix) else np.empty((0, 0), matrix.dtype)
    return DaskMatrix(da.from_array(matrix, chunks=chunks, asarray=False, meta=meta))


@st.composite
def cases(draw):
    """A matrix, how it is stored and in which chunks, and the cells and genes of a view."""
    matrix = draw(matrices())
    form = draw(st.sampled_from(["memory", "dask", *HDF5, *ZARR]))
    n_cells, n_genes = matrix.shape
    chunks = draw(st.sampled_from([(7, 5), (n_cells, 2), (3, n_genes), (1, 1), (n_cells, n_genes)]))
    cells = draw(st.none() | st.lists(st.integers(0, n_cells - 1), min_size=1, max_size=50))
    genes = draw(st.none() | st.lists(st.integers(0, n_genes - 1), min_size=1, max_size=9))
    return matrix, form, chunks, cells, genes


def opened(case, folder):
    """Return the expression matrix of a case and its dense float32 values."""
    matrix, form, chunks, *chosen = case
    if form == "dask":
        stored = in_blocks(matrix, chunks)
    elif form == "memory":
        stored = cl.open(in_memory(matrix)).expression.matrix
    else:
        path = write(Path(folder) / "a", matrix, form, chunks=chunks)
        stored = cl.open(path).expression.matrix
    cells, genes = (None if one is None else np.array(one, dtype=np.intp) for one in chosen)
    expected = dense32(matrix)
    expected = expected if cells is None else expected[cells]
    return ExpressionMatrix(stored, cells, genes), expected if genes is None else expected[:, genes]


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(
    case=cases(),
    strategy=st.sampled_from(["external", "in memory"]),
    sizes=st.tuples(st.integers(1, 300), st.integers(1, 15), st.integers(1, 300)),
    bits=st.sampled_from([None, 8, 16]),
    level=st.sampled_from([None, 1, 6]),
    data=st.data(),
)
def test_any_plan_on_any_storage(case, strategy, sizes, bits, level, data):
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        expression, expected = opened(case, folder)
        wanted = st.lists(st.integers(0, expression.shape[1] - 1), min_size=1, max_size=9)
        positions = data.draw(st.just(range(expression.shape[1])) | wanted)
        # Stored by gene, blocks are runs of genes.
        plan = made_plan("by gene" if expression.layout == "csc" else strategy, *sizes)
        options = {"bits": bits, "level": level, "ranges": True, "scratch": folder}
        files, ranges = made(expression, positions, plan=plan, **options)
        lazy = gene_array(expression, positions[0], SMALL).compute()
    for place, gene in enumerate(positions):
        found = files[f"{place}:{gene}"]
        found = gzip.decompress(found) if level else found
        assert found == expected_bytes(expected[:, gene], bits)
    columns = [expected_ranges(expected[:, gene]) for gene in np.unique(positions)]
    np.testing.assert_array_equal(ranges.T, columns)
    assert lazy.tobytes() == expected[:, positions[0]].tobytes()


@pytest.mark.parametrize("chunks", [(400, 1), (400, 7), (13, 30)])
def test_manifests_of_ranges_alone(chunks, tmp_path):
    """Without genes to make, other tasks find the ranges; the values are the same."""
    matrix = numbers(np.random.default_rng(4), 400 * 30, "f4", odd=True).reshape(400, 30)
    expression = cl.open(write(tmp_path / "a", matrix, "gzip", chunks=chunks)).expression
    positions = [3, 7, 8, 29]
    _, together = made(expression, positions, ranges=True)
    alone = {ARRAYS: {"ranges": ranges_output(expression, positions)}}
    options = {"resources": RESOURCES, "scratch": None, "progress": False}
    found = json.loads(run(alone, MemorySink(), codec_for(None), **options)["ranges"])["ranges"]
    np.testing.assert_array_equal(np.array(found, dtype=float), together)


def zeros(n_cells, n_genes):
    """A matrix without stored values."""
    values = np.zeros((n_cells, n_genes), np.float32)
    return DenseMatrix(MemoryArray(values, f"zeros-{n_cells}-{n_genes}"))


def test_genes_without_values_are_zeros():
    expression = ExpressionMatrix(zeros(5, 3))
    for bits, size in ((None, 20), (8, 5)):
        assert made(expression, [2, 0], bits=bits) == {"0:2": bytes(size), "1:0": bytes(size)}


def test_a_matrix_is_left_as_it_was():
    """Blocks of a matrix in memory are views of it."""
    for layout in ("csr", "csc"):
        matrix = awkward(np.random.default_rng(5), 60, 9, layout=layout, fill=2.0)
        parts = [getattr(matrix, part) for part in ("data", "indices", "indptr")]
        before = [part.tobytes() for part in parts]
        made(cl.open(in_memory(matrix)).expression, range(9), ranges=True)
        assert [part.tobytes() for part in parts] == before


# Tasks


def stages(expression, n_genes, strategy, tmp_path):
    """Run a pass stage by stage; returns their labels, and the numbers of tasks."""
    producer = GeneProducer(expression)
    encoder = Encoder(codec_for(None), MemoryWriter())
    found = []
    with Spiller(str(tmp_path)) as spiller, pytest.MonkeyPatch.context() as patch:
        plan = made_plan(strategy, 200_000, 25)
        patch.setattr(gene_producer, "plan_genes", lambda **_: plan)
        outputs = gene_outputs(expression, range(n_genes))
        running = producer.run(Job(outputs, {}, encoder, spiller, RESOURCES))
        stage = next(running)
        while True:
            found.append((stage.label, len(stage.graph)))
            done = dask.get(dict(stage.graph), list(stage.keys))
            try:
                stage = running.send(done)
            except StopIteration as finished:
                assert finished.value.receipts.keys() == outputs.keys()
                return found


def test_there_is_no_task_per_gene(tmp_path):
    matrix = sparse.random(2_000, 500, 0.8, format="csr", dtype=np.float32, random_state=0)
    expression = cl.open(in_memory(matrix)).expression
    external = stages(expression, 500, "external", tmp_path)
    assert [label for label, _ in external] == ["reading genes", "writing genes"]
    assert all(n_tasks < 40 for _, n_tasks in external)
    in_one_go = stages(expression, 500, "in memory", tmp_path)
    assert [label for label, _ in in_one_go] == ["writing genes"]
    assert in_one_go[0][1] < 60
    assert list(tmp_path.iterdir()) == []


# What makes passes


def test_producers_of_one_matrix_share_a_pass():
    matrix = zeros(5, 3)
    one, same = GeneProducer(ExpressionMatrix(matrix)), GeneProducer(ExpressionMatrix(matrix))
    assert (one == same, hash(one) == hash(same)) == (True, True)
    cells = np.array([0, 2])
    others = [
        GeneProducer(ExpressionMatrix(matrix), 8),
        GeneProducer(ExpressionMatrix(matrix, cells)),
        GeneProducer(ExpressionMatrix(zeros(5, 4))),
        GeneProducer(ExpressionMatrix(matrix), sizes=BlockSizes(1, 1, 1, 1)),
    ]
    assert len({one, *others}) == 5
    assert one != matrix
    assert GeneProducer(ExpressionMatrix(matrix, cells)) == GeneProducer(
        ExpressionMatrix(matrix, cells.copy())
    )


def test_what_is_provided_is_what_manifests_need():
    expression = ExpressionMatrix(zeros(5, 3))
    producer = GeneProducer(expression, sizes=SMALL)
    outputs = list(gene_outputs(expression, [2, 0, 2]).values())
    needed = ranges_output(expression, [0, 2]).manifest.needs["ranges"].name
    assert producer.provides(outputs) == {needed}
    assert producer.provides(outputs[:1]) != {needed}
    assert producer.provides([]) == frozenset()


def test_explain_describes_the_plan():
    text = GeneProducer(ExpressionMatrix(zeros(5, 3))).explain({"var": 2}, RESOURCES)
    assert text.startswith("genes, in memory: ")
