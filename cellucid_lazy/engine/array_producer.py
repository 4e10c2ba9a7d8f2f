"""The producer of arrays: it makes them, and what manifests need, in one pass."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cellucid_lazy.codecs import Part
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.producer import Encoder, Job, Produced, Stage
from cellucid_lazy.engine.resources import Resources
from cellucid_lazy.engine.spill import Save
from cellucid_lazy.errors import format_count, format_size
from cellucid_lazy.graph import (
    block_keys,
    merge_graphs,
    needed_tasks,
    rechunk,
    rename_keys,
    spillable_bytes,
    with_spilling,
)

# Files below this share of the budget are joined in memory.
_SMALL_PART = 1 / 32


class ArrayProducer:
    """Makes outputs from their arrays: a file is the encoded blocks of its array, in order.

    Intermediate blocks and parts of large files go to scratch if they would exceed a quarter of the
    budget.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArrayProducer)

    def __hash__(self) -> int:
        return hash(ArrayProducer)

    def provides(self, outputs: Sequence[Output]) -> frozenset[str]:
        """Return the empty set: outputs are computed block by block, so none is ever whole."""
        del outputs
        return frozenset()

    def run(self, job: Job) -> Generator[Stage, Sequence[Any], Produced]:
        """Compute all outputs and needs in one stage."""
        arrays = {file: output.array for file, output in job.outputs.items()}
        needs = {name: rechunk(array, -1) for name, array in job.needs.items()}
        if not arrays and not needs:
            return Produced({}, {})
        graph = merge_graphs([*arrays.values(), *needs.values()])
        blocks = {file: block_keys(array) for file, array in arrays.items()}
        need_keys = [block_keys(array)[0] for array in needs.values()]
        large = _large_files(job.outputs, job.resources.budget)
        held = spillable_bytes(graph) + int(np.nansum([job.outputs[f].nbytes for f in large]))
        save: Save | None = None
        if held > job.resources.budget // 4:
            job.spiller.reserve(held)
            save = job.spiller.save
            # Otherwise a cluster may see one key with two definitions: with and without spilling.
            graph, rename = rename_keys(with_spilling(graph, save), uuid.uuid4().hex)
            blocks = {file: [rename(key) for key in keys] for file, keys in blocks.items()}
            need_keys = [rename(key) for key in need_keys]
        wanted = [key for keys in blocks.values() for key in keys]
        graph = needed_tasks(graph, [*wanted, *need_keys])
        file_keys = [
            _add_file(graph, job.encoder, file, keys, save if file in large else None)
            for file, keys in blocks.items()
        ]
        done = yield Stage("cells", graph, [*file_keys, *need_keys])
        receipts = dict(zip(arrays, done, strict=False))
        values = dict(zip(needs, map(np.asarray, done[len(arrays) :]), strict=True))
        return Produced(receipts, values)

    def summarize(self, kinds: Mapping[str, int], resources: Resources) -> str:
        """Describe the pass in a clause."""
        budget = format_size(resources.budget)
        n_outputs = format_count(sum(kinds.values()), "output")
        return f"one pass for {n_outputs} of the cells, within the budget of {budget}"

    def explain(self, kinds: Mapping[str, int], resources: Resources) -> str:
        """Describe the pass in detail."""
        del resources
        counts = ", ".join(f"{kind} ({count:,})" for kind, count in kinds.items())
        total = format_count(sum(kinds.values()), "output")
        return f"cells, one pass: {total}: {counts}"


ARRAYS = ArrayProducer()


def _large_files(outputs: Mapping[str, Output], budget: int) -> set[str]:
    # A file of unknown length counts as large.
    return {file for file, output in outputs.items() if not output.nbytes <= budget * _SMALL_PART}


def _add_file(
    graph: dict[Any, Any], encoder: Encoder, file: str, blocks: Sequence[Any], save: Save | None
) -> str:
    """Add the tasks that write a file, and return the key of the last one."""
    # A random name: writing has side effects, so a cluster must not reuse its result.
    token = uuid.uuid4().hex
    encode = partial(_encode, encoder, save)
    parts = [(f"encode-{token}", i) for i in range(len(blocks))]
    graph |= {part: (encode, block) for part, block in zip(parts, blocks, strict=True)}
    graph[f"write-{token}"] = (partial(encoder.write_parts, file), parts)
    return f"write-{token}"


def _encode(encoder: Encoder, save: Save | None, block: Any) -> Part:
    part = encoder.encode(block)
    if save is None:
        return part
    return part._replace(data=save(np.frombuffer(part.data, np.uint8)))
