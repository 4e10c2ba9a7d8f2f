"""A storage of one's own: AnnData kept as a pickled tree of dictionaries and arrays."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from cellucid_lazy import readers
from cellucid_lazy.readers.matrix import MemoryArray
from cellucid_lazy.readers.storage import Tree
from tests import data


class Group(dict):
    """A group: a mapping with a name and attributes."""

    name = ""
    attrs: dict


@dataclass
class Array:
    """An array: values with a name and attributes."""

    values: np.ndarray
    name: str = ""
    attrs: dict = field(default_factory=dict)

    @property
    def shape(self):
        return self.values.shape


class Pickled:
    """AnnData in ``.pickle`` files."""

    name = "pickle"

    def sniff(self, path):
        return path.endswith(".pickle")

    @contextmanager
    def open(self, path, storage_options):
        tree = pickle.loads(Path(path).read_bytes())
        token = f"{path}-{Path(path).stat().st_mtime_ns}"
        yield Tree(path, tree, partial(read, token))


def read(token, node):
    return MemoryArray(node.values, f"{token}-{node.name}")


def group(name, parts, **attrs):
    made = Group(parts)
    made.name, made.attrs = name, attrs
    for key, node in parts.items():
        node.name = f"{name}/{key}"
    return made


def write(adata, path):
    matrix, attrs = adata.X, {"encoding-type": "csr_matrix", "shape": list(adata.shape)}
    parts = {part: Array(getattr(matrix, part)) for part in ("data", "indices", "indptr")}
    frames = {
        "obs": {
            "_index": np.array(adata.obs_names, object),
            "score": adata.obs["score"].to_numpy(),
        },
        "var": {"_index": np.array(adata.var_names, object)},
    }
    tree = {"X": group("X", parts, **attrs)}
    for key, columns in frames.items():
        order = [one for one in columns if one != "_index"]
        nodes = {one: Array(values) for one, values in columns.items()}
        tree[key] = group(key, nodes, **{"_index": "_index", "column-order": order})
    umap = {"X_umap_2d": Array(adata.obsm["X_umap_2d"])}
    tree["obsm"] = group("obsm", umap)
    path.write_bytes(pickle.dumps(group("", tree)))


def test_a_new_storage_is_a_class_and_a_line_of_the_table(tmp_path, monkeypatch):
    adata = data.atlas(60, 5, slim=True)
    path = tmp_path / "a.pickle"
    write(adata, path)
    monkeypatch.setattr(readers, "STORAGES", (*readers.STORAGES, Pickled()))
    source = readers.open(path)
    assert (source.storage, source.path, source.left_out) == ("pickle", str(path), ())
    assert list(source.obs) == ["score"]
    assert source.read_gene_ids("index") == adata.var_names.tolist()
    matrix = source.expression.matrix
    blocks = [matrix.read_block(block) for block in matrix.whole_blocks(50)]
    assert len(blocks) > 1
    np.testing.assert_array_equal(sparse.vstack(blocks).toarray(), adata.X.toarray())
    found = source.obsm["X_umap_2d"].array().compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, adata.obsm["X_umap_2d"])
    assert pickle.loads(pickle.dumps(source)).n_cells == 60


def test_tried_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "STORAGES", ())
    (tmp_path / "a.h5ad").write_bytes(b"anything")
    with pytest.raises(readers.DataError, match="neither an HDF5 file nor a zarr store"):
        readers.open(tmp_path / "a.h5ad")
