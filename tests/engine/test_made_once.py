"""What several outputs of a call share is made once, in memory or where it waits."""

from __future__ import annotations

from collections import Counter

import pytest

import cellucid_lazy as cl
from cellucid_lazy.transforms import edges, embeddings
from tests import data
from tests.helpers import Reads, small_blocks


@pytest.fixture
def counted(monkeypatch):
    """Count calls, from graphs that are built from here on; blocks are small."""
    small_blocks(monkeypatch, 300)
    counts = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counting(*args, **options):
            counts[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(module, name, counting)

    count(edges, "block_pairs")
    count(edges, "merge_pairs")
    count(embeddings, "_normalize_block")
    return counts


@pytest.fixture
def source(counted, tmp_path):
    adata = data.atlas(300, 20)
    return cl.open(data.write_chunked(adata, tmp_path / "atlas.h5ad"))


@pytest.mark.parametrize("waits", [False, True], ids=["in memory", "on disk"])
def test_each_block_is_made_once(waits, source, counted, tmp_path, monkeypatch):
    if waits:
        monkeypatch.setattr("cellucid_lazy.catalogue.waiting_bytes", lambda *_: 2**40)
        monkeypatch.setattr("cellucid_lazy.sinks.scratch.shutil.disk_usage", lambda _: NoEnd())
    catalogue = cl.outputs(source)
    with Reads(monkeypatch) as reads:
        cl.to_directory(catalogue, tmp_path / "out", progress=False)
    reads.assert_each_once("obsm/X_pca", source.obsm["X_pca"].shape)
    n_blocks = source.connectivities.blocks().numblocks[0]
    assert n_blocks > 1
    assert counted["block_pairs"] == n_blocks
    assert counted["merge_pairs"] == n_blocks * (2 if waits else 1)
    shown = [catalogue[f"points/{d}d"].array for d in (1, 2, 3) if f"points/{d}d" in catalogue]
    assert len(shown) > 1
    assert counted["_normalize_block"] == sum(array.numblocks[0] for array in shown)


class NoEnd:
    free = 2**62


def test_waiting_on_disk_changes_no_byte(source, counted, tmp_path, monkeypatch):
    assert counted.total() == 0
    folders = tmp_path / "memory", tmp_path / "disk"
    options = cl.Options(created_at="2026-01-01T00:00:00Z")
    cl.to_directory(cl.outputs(source, options), folders[0], progress=False)
    monkeypatch.setattr("cellucid_lazy.catalogue.waiting_bytes", lambda *_: 2**40)
    monkeypatch.setattr("cellucid_lazy.sinks.scratch.shutil.disk_usage", lambda _: NoEnd())
    cl.to_directory(cl.outputs(source, options), folders[1], progress=False)
    one, other = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in folders
    )
    assert len(one) > 10
    assert one == other
