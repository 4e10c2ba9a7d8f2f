"""Genes: ``var/<gene>``, the expression of one gene in each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from cellucid_lazy.engine.gene_producer import GeneProducer
from cellucid_lazy.engine.matrix import gene_array, gene_ranges_array
from cellucid_lazy.engine.output import Build, Manifest, Output
from cellucid_lazy.engine.producer import Producer
from cellucid_lazy.errors import CellucidLazyError, MissingKeyError, missing_key
from cellucid_lazy.kinds.dataset import Dataset
from cellucid_lazy.kinds.kind import Row, values_schema
from cellucid_lazy.names import Name, file_extension, safe_name, values_dtype
from cellucid_lazy.transforms.quantize import Bits, finite_range, quantization_range, quantize

prefix = "var"

_RANGES = "var ranges"


def keys(dataset: Dataset) -> Sequence[str]:
    """List the chosen genes; their names are read.

    Raises MissingKeyError for one that is not there. Without expression there are none.
    """
    genes = dataset.options.genes
    if dataset.source.expression is None:
        if genes:
            _ = dataset.expression  # raises
        return ()
    positions = dataset.gene_positions
    for gene in genes or ():
        if gene not in positions:
            problem = missing_key("gene", gene, positions, where=dataset.source.name)
            raise MissingKeyError(f"{problem}{raw_hint(dataset, gene)}")
    return dataset.chosen(prefix, positions if genes is None else genes)


required = keys


def names(dataset: Dataset, keys: Sequence[str]) -> Iterable[Name]:
    """Name genes."""
    del dataset
    return (Name(prefix, key) for key in keys)


def build(dataset: Dataset, name: Name) -> Output:
    """Build a gene."""
    position = dataset.gene_positions[name.key]
    bits = dataset.options.var_quantization
    dtype = values_dtype(bits)
    plain = partial(gene_array, dataset.expression, position, dataset.sizes)
    return Output(
        str(name),
        prefix,
        _path(safe_name(name.key), dtype),
        (dataset.source.n_cells,),
        dtype,
        plain if bits is None else partial(_quantized, plain, bits),
        {"range": partial(_range, plain)},
        position=position,
    )


def producer(dataset: Dataset) -> Producer:
    """Return the producer of genes."""
    return GeneProducer(dataset.expression, dataset.options.var_quantization, dataset.sizes)


def rows(dataset: Dataset, names: Sequence[Name]) -> Iterable[Row]:
    """Describe all genes in one row."""
    if not names:
        return
    note = str(names[0])
    if len(names) > 1:
        note = f"{note} ... {names[-1]} ({len(names):,})"
    dtype = values_dtype(dataset.options.var_quantization)
    n_cells = dataset.source.n_cells
    path = _path("<gene>", dtype)
    yield Row(note, dtype.name, (n_cells,), n_cells * dtype.itemsize, path, each=True)


def manifests(dataset: Dataset) -> Mapping[str, Callable[[], Manifest]]:
    """Describe the genes, if any are chosen; their names are not read for that.

    The live shape has one even without genes, since the reference's server always answers.
    """
    chosen = dataset.choice.get(prefix, dataset.options.genes)  # None for all
    none = not dataset.source.n_genes or dataset.source.expression is None or chosen == ()
    live = dataset.options.manifest_shape == "live"
    return {} if none and not live else {prefix: partial(_manifest, dataset)}


def raw_hint(dataset: Dataset, gene: str) -> str:
    """Return a hint if raw has a gene that the expression matrix lacks, else ""."""
    read = dataset.source.read_raw_gene_ids
    with suppress(CellucidLazyError):  # raw may have other columns
        if read is not None and gene in read(dataset.options.gene_id_column):
            return "; raw has it: open with use_raw=True (--use-raw)"
    return ""


def _path(stem: str, dtype: np.dtype[Any]) -> str:
    return f"var/{stem}.values.{file_extension(dtype)}"


def _quantized(plain: Build, bits: Bits) -> da.Array:
    return quantize(plain(), bits=bits)


def _range(plain: Build) -> da.Array:
    return finite_range(plain())


def _manifest(dataset: Dataset) -> Manifest:
    options, genes = dataset.options, keys(dataset)
    bits = options.var_quantization
    live = options.manifest_shape == "live"
    document = {
        "_format": "compact_v1",
        "n_points": dataset.source.n_cells,
        "var_gene_id_column": options.gene_id_column,
        "compression": None if live else options.compression,
        "quantization": bits,
        "_varSchema": {
            "kind": "continuous",
            **values_schema("var/{key}.values", bits, dataset.suffix),
        },
    }
    if bits is None:
        return Manifest({}, partial(_render, document, genes, None))
    wanted = np.array([dataset.gene_positions[gene] for gene in genes], dtype=np.intp)
    # In the order of positions, as the producer of genes makes them.
    positions, order = np.unique(wanted, return_inverse=True)
    ranges = gene_ranges_array(dataset.expression, positions, dataset.sizes)
    return Manifest({_RANGES: ranges}, partial(_render, document, genes, order))


def _render(
    document: dict[str, Any],
    genes: Sequence[str],
    order: NDArray[np.intp] | None,
    values: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    if order is None:
        # Made here: dask takes long to hash a graph that holds a list per gene.
        return {**document, "fields": [[gene] for gene in genes]}
    low, high = values[_RANGES][:2, order].tolist()
    fields = [
        [gene, *quantization_range(*extremes)]
        for gene, *extremes in zip(genes, low, high, strict=True)
    ]
    return {**document, "fields": fields}
