"""Planning: integers in, integers out; the budget holds, and what is planned is what is done."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cellucid_lazy.engine.plan import plan_genes
from cellucid_lazy.errors import format_size
from cellucid_lazy.source import DEFAULT_SIZES, BlockSizes

MB, GB = 2**20, 2**30
ATLAS = {"n_cells": 200_000, "n_genes": 20_000, "n_stored": 196_000_000}
CSR = {"item_bytes": 4, "index_bytes": 4, "genes_per_chunk": None, "stored_by_gene": False}
CSC = {"genes_per_chunk": 1, "stored_by_gene": True}


def planned(**changes):
    sizes = {
        **ATLAS,
        **CSR,
        "wanted": 20_000,
        "budget": 512 * MB,
        "workers": 2,
        "threads": 2,
        **changes,
    }
    return plan_genes(**sizes)


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        ({}, "external"),
        ({"wanted": 100}, "in memory"),
        ({"wanted": 1}, "in memory"),
        ({"budget": 8 * GB}, "in memory"),
        ({"budget": 64 * MB, "wanted": 2_000}, "external"),
        ({"item_bytes": 1, "budget": 4 * GB}, "in memory"),
        ({"genes_per_chunk": 1}, "by gene"),
        ({**CSC, "wanted": 1}, "by gene"),
        ({**CSC, "n_stored": 10**12}, "by gene"),
        ({"genes_per_chunk": 1, "n_stored": 10**12}, "external"),
        ({"genes_per_chunk": 1, "wanted": 1}, "in memory"),
        ({"genes_per_chunk": 500}, "by gene"),
        ({"genes_per_chunk": 2_000}, "external"),
        ({"genes_per_chunk": 2_000, "wanted": 1}, "in memory"),
        ({"genes_per_chunk": 2_000, "budget": 4 * GB}, "by gene"),
        # There would be ten tasks for 32 threads.
        ({"genes_per_chunk": 2_000, "budget": 4 * GB, "threads": 32}, "in memory"),
        ({"n_stored": 0}, "in memory"),
    ],
)
def test_the_strategy_follows_from_the_sizes(changes, strategy):
    assert planned(**changes).strategy == strategy


def test_scratch_is_announced_when_it_is_used_and_only_then():
    assert planned().scratch_bytes == 196_000_000 * 6
    assert planned(wanted=10_000).scratch_bytes == 98_000_000 * 6
    assert planned(item_bytes=8).scratch_bytes == 196_000_000 * 10
    assert planned(wanted=1).scratch_bytes == 0
    assert planned(genes_per_chunk=1).scratch_bytes == 0
    assert planned(genes_per_chunk=500).scratch_bytes == 0


def test_bytes_read_are_the_matrix_or_the_genes_asked_for():
    assert planned(wanted=1).read_bytes == 196_000_000 * 8
    assert planned(wanted=1, index_bytes=0).read_bytes == 196_000_000 * 4
    assert planned(genes_per_chunk=1, wanted=200).read_bytes == 1_960_000 * 8
    # A gene brings the others of its chunk along.
    assert planned(genes_per_chunk=500, wanted=1).read_bytes == 4_900_000 * 8
    assert planned(genes_per_chunk=500, wanted=200).read_bytes == 196_000_000 * 8
    assert planned(genes_per_chunk=2_000, wanted=1).read_bytes == 19_600_000 * 8


def test_blocks_are_whole_chunks_of_genes():
    plan = planned(genes_per_chunk=30)
    assert plan.strategy == "by gene"
    assert plan.block_values % (30 * 9_800) == 0
    assert 0 < plan.block_values <= plan.joined_values
    # One chunk exceeds the usual size of a block, and fits the budget.
    wide = planned(genes_per_chunk=500)
    assert wide.block_values == wide.joined_values == 4_900_000 > DEFAULT_SIZES.max_gene_values
    # Few genes are still written by several tasks.
    assert planned(genes_per_chunk=30, wanted=600).genes_per_block == 38


def test_sizes_of_blocks_are_given():
    few = BlockSizes(min_gene_values=10, max_gene_values=5_000)
    assert planned(sizes=few, n_stored=20_000).block_values == 5_000
    assert planned(sizes=few, **CSC, n_stored=20_000).joined_values == 5_000


SIZES = st.fixed_dictionaries(
    {
        "n_cells": st.integers(1, 10_000_000),
        "n_genes": st.integers(1, 60_000),
        "item_bytes": st.sampled_from([1, 2, 4, 8]),
        "index_bytes": st.sampled_from([0, 4]),
        "workers": st.integers(1, 32),
    }
)


@st.composite
def cases(draw):
    sizes = draw(SIZES)
    most = sizes["n_cells"] * sizes["n_genes"]
    chunk = draw(st.none() | st.just(1) | st.integers(1, sizes["n_genes"]))
    return sizes | {
        "genes_per_chunk": chunk,
        "stored_by_gene": chunk == 1 and draw(st.booleans()),
        "n_stored": draw(st.integers(0, most)),
        "wanted": draw(st.integers(1, sizes["n_genes"])),
        "threads": sizes["workers"] * draw(st.integers(1, 8)),
    }


def column_bytes(sizes):
    """What no plan can do without: a dense column, its compressed form and a spare per worker,
    and 2 kB per gene for its name and its file."""
    return 3 * 4 * sizes["n_cells"] * sizes["workers"] + 2_000 * sizes["wanted"]


@settings(max_examples=300, deadline=None)
@given(sizes=cases(), budget=st.integers(64 * MB, 64 * GB))
def test_the_budget_holds_where_columns_and_smallest_blocks_leave_room(sizes, budget):
    plan = plan_genes(**sizes, budget=budget)
    # Bytes that a value takes at most: transposed, and kept until its genes are joined.
    per_value = (3 * sizes["item_bytes"] + 14) * 3 // 2 + sizes["item_bytes"] + 4
    smallest = sizes["workers"] * DEFAULT_SIZES.min_gene_values * per_value
    assert plan.peak_bytes <= max(budget, column_bytes(sizes) + budget // 4 + smallest)
    assert 1 <= plan.genes_per_block <= sizes["wanted"]
    assert plan.block_values >= 1
    assert min(plan.read_bytes, plan.scratch_bytes, plan.peak_bytes) >= 0
    largest = max(DEFAULT_SIZES.max_gene_values, sizes["n_stored"] // 2_000)
    if plan.strategy == "by gene":
        assert plan.block_values <= plan.joined_values or plan.genes_per_block == 1
        chunk = sizes["genes_per_chunk"] * max(1, sizes["n_stored"] / sizes["n_genes"])
        largest = max(largest, chunk)
    assert DEFAULT_SIZES.min_gene_values <= plan.joined_values <= largest
    # A block of genes, at their mean size, is no more than what was planned for.
    joined = plan.genes_per_block * sizes["n_stored"] / sizes["n_genes"]
    cut_by_values = plan.strategy == "external"
    assert cut_by_values or plan.genes_per_block == 1 or int(joined) <= plan.joined_values


@settings(max_examples=200, deadline=None)
@given(sizes=cases(), small=st.integers(64 * MB, 8 * GB), more=st.integers(0, 64 * GB))
def test_more_budget_is_never_more_scratch(sizes, small, more):
    tight, wide = (plan_genes(**sizes, budget=budget) for budget in (small, small + more))
    assert wide.scratch_bytes <= tight.scratch_bytes
    if tight.strategy == wide.strategy:
        assert wide.joined_values >= tight.joined_values or wide.strategy == "in memory"
        assert wide.strategy != "external" or wide.block_values >= tight.block_values


@settings(max_examples=200, deadline=None)
@given(sizes=cases(), budget=st.integers(64 * MB, 64 * GB))
def test_there_are_tasks_for_every_thread(sizes, budget):
    plan = plan_genes(**sizes, budget=budget)
    assume(sizes["wanted"] >= 8 * sizes["threads"])
    tasks = -(-sizes["wanted"] // plan.genes_per_block)
    assert tasks >= 4 * sizes["threads"]


def test_the_largest_atlases_are_cut_into_few_blocks_where_the_budget_allows():
    atlas = {"n_cells": 10**7, "n_genes": 60_000, "n_stored": 2 * 10**10, "wanted": 60_000}
    for budget, most in ((4 * GB, 2_000), (GB, 8_000)):
        plan = planned(**atlas, budget=budget)
        assert plan.strategy == "external"
        assert atlas["n_stored"] / plan.block_values <= most
        assert plan.peak_bytes <= budget
    # Stored by gene, blocks are independent of each other.
    by_gene = planned(**atlas, budget=16 * GB, **CSC)
    assert by_gene.joined_values == DEFAULT_SIZES.max_gene_values


def test_no_task_per_gene_in_an_atlas():
    for wanted in (1_000, 20_000):
        assert wanted / planned(wanted=wanted).genes_per_block <= 250


def test_a_summary_has_the_passes_and_the_sizes():
    plan = planned()
    assert plan.summarize(20_000, 512 * MB) == (
        "two passes, by way of scratch, for 20,000 genes: reads 1.6 GB, writes 1.2 GB of scratch, "
        f"peak about {format_size(plan.peak_bytes)} of the budget of 536.9 MB"
    )
    assert planned(**CSC).summarize(1, 512 * MB).startswith("one pass by gene for 1 gene: reads ")


def test_explain_names_the_strategy_the_reason_and_the_sizes():
    text = planned().explain()
    assert text.startswith("external: ")
    assert "do not fit the budget of 536.9 MB" in text
    assert "Reads 1.6 GB decoded" in text
    assert "writes 1.2 GB of scratch" in text
    assert "of memory" in text
    assert "; up to 1,250 genes or " in text
    assert " values per task; " in text
    assert planned(wanted=1).explain().startswith("in memory: ")
    assert "; 1 gene per task; " in planned(wanted=1).explain()
    by_gene = planned(**CSC, n_stored=1, wanted=1).explain()
    assert by_gene.startswith("by gene: the matrix is stored by gene")
    assert "in blocks of 1 value; " in by_gene
    chunked = planned(genes_per_chunk=500).explain()
    assert chunked.startswith("by gene: 500 genes at a time can be read for all cells within")
