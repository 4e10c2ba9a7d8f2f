"""A kind of output: how many genes are detected in each cell, ``cells/n_genes``."""

from functools import partial

import numpy as np

from cellucid_lazy.engine.matrix import matrix_array
from cellucid_lazy.engine.output import Output
from cellucid_lazy.graph import map_indexed, whole_rows
from cellucid_lazy.kinds.kind import array_producer, constant_manifest, output_row
from cellucid_lazy.names import Name

prefix = "cells"
producer = array_producer


def keys(dataset):
    return dataset.chosen(prefix, ["n_genes"])


required = keys


def names(dataset, keys):
    return [Name(prefix, key) for key in keys]


def build(dataset, name):
    path, shape = f"cells/{name.key}.bin", (dataset.source.n_cells,)
    return Output(str(name), prefix, path, shape, np.dtype("u4"), partial(_n_genes, dataset))


def rows(dataset, names):
    return [output_row(build(dataset, name)) for name in names]


def manifests(dataset):
    document = {"fields": list(keys(dataset)), "pathPattern": f"cells/{{key}}.bin{dataset.suffix}"}
    return {prefix: partial(constant_manifest, document)} if keys(dataset) else {}


def _n_genes(dataset):
    expression = dataset.expression
    matrix = whole_rows(matrix_array(expression.matrix, dataset.sizes.matrix_values))
    count = partial(_count, expression.genes)
    counts = map_indexed(count, "i", matrix, "ij", dtype="u4")
    return counts if expression.cells is None else counts[expression.cells]


def _count(genes, block):
    chosen = block if genes is None else block[:, genes]
    return np.asarray((chosen != 0).sum(axis=1), dtype="u4").ravel()
