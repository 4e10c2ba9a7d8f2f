"""Writing outputs to a target: one pass for what shares its reads, one for the genes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from cellucid_lazy.gene import Gene
from cellucid_lazy.gene_pass import GenePass, plan_pass
from cellucid_lazy.gene_writer import Encoded
from cellucid_lazy.manifest import GeneRanges
from cellucid_lazy.output import Output
from cellucid_lazy.plan import Plan
from cellucid_lazy.progress import Progress
from cellucid_lazy.sinks.encode import Target, ToFolder, encode_block, put_blocks
from cellucid_lazy.sinks.scratch import scratch_folder
from cellucid_lazy.surroundings import Surroundings, look_around, release_memory, running

if TYPE_CHECKING:
    import dask.array as da

Facts = dict[int, NDArray[Any]]

# Files that take less than this share of the budget are put together in memory.
_SMALL_SHARE = 32


class Writing:
    """Writes outputs to one target.

    Parameters
    ----------
    target
        Where files go.
    budget
        Memory budget, as `budget.memory_budget` takes it.
    scratch
        Folder for scratch.
    progress
        Whether progress is shown; None for on a terminal only.
    """

    def __init__(
        self,
        target: Target,
        *,
        budget: int | str | None,
        scratch: str | None,
        progress: bool | None,
    ) -> None:
        self._target = target
        self._surroundings: Surroundings = look_around(budget)
        self._scratch = scratch
        self._progress = progress
        self.files: dict[str, Any] = {}
        self._ranges: dict[str, NDArray[np.float64]] = {}

    @property
    def budget(self) -> int:
        """Bytes of memory per process."""
        return self._surroundings.budget

    def write(self, outputs: Sequence[Output]) -> None:
        """Write outputs; manifests come last, from facts found on the way."""
        genes = [output for output in outputs if output.gene is not None]
        manifests = [output for output in outputs if output.manifest is not None]
        plain = [output for output in outputs if output.gene is None and output.manifest is None]
        passed = {output.name.removeprefix("var/") for output in genes}
        facts = self._write_plain(plain, _facts_to_compute(manifests, passed))
        for group in gene_groups(genes):
            self._write_genes(group)
        for output in manifests:
            self._write_manifest(output, facts)

    def _compute(self, label: str, tasks: Sequence[Any]) -> tuple[Any, ...]:
        if not tasks:
            return ()
        with (
            running(self._surroundings.workers) as options,
            Progress(label, shown=self._progress),
        ):
            computed: tuple[Any, ...] = dask.compute(*tasks, **options)
        release_memory()
        return computed

    def _write_plain(self, outputs: Sequence[Output], facts: Sequence[da.Array]) -> Facts:
        arrays = [output.array for output in outputs]
        graph = _optimized_together([*arrays, *facts])
        keys = []
        with ExitStack() as stack:
            folder = stack.enter_context(self._parts_folder(outputs))
            for output, array in zip(outputs, arrays, strict=True):
                waits = folder if self._is_large(output) else None
                keys.append(self._add_file(graph, output, _block_keys(array), waits))
            keys += [key for fact in facts for key in _block_keys(fact)]
            layers = HighLevelGraph({"cells": graph}, {"cells": set()})
            done = self._compute("cells", [Delayed(key, layers, layer="cells") for key in keys])
        self.files |= {output.name: one for output, one in zip(outputs, done, strict=False)}
        found = done[len(outputs) :]
        return {id(fact): np.asarray(value) for fact, value in zip(facts, found, strict=True)}

    def _is_large(self, output: Output) -> bool:
        """Whether the parts of a file shall not wait in memory until the last one is done."""
        small = output.nbytes <= self.budget / _SMALL_SHARE  # no file of unknown length is small
        return isinstance(self._target, ToFolder) and not small

    @contextmanager
    def _parts_folder(self, outputs: Sequence[Output]) -> Iterator[str | None]:
        large = [output.nbytes for output in outputs if self._is_large(output)]
        if not large:
            yield None
            return
        with scratch_folder(self._scratch, int(np.nansum(large))) as folder:
            yield folder

    def _add_file(
        self, graph: dict[Any, Any], output: Output, blocks: Sequence[Any], folder: str | None
    ) -> str:
        """Add the tasks that write a file, and return the key of the last one."""
        path = output.path or output.name
        # Writing is no pure function: on a cluster no other call may take this one's result.
        token = uuid.uuid4().hex
        encode = partial(encode_block, self._target, folder=folder)
        parts = [(f"encode-{token}", i) for i in range(len(blocks))]
        graph |= {part: (encode, block) for part, block in zip(parts, blocks, strict=True)}
        graph[f"write-{token}"] = (partial(put_blocks, self._target, path), parts)
        return f"write-{token}"

    def _write_genes(self, outputs: Sequence[Output]) -> None:
        genes = {output.name: _gene(output) for output in outputs}
        paths = {output.name: output.path or output.name for output in outputs}
        plan = self.plan(genes)
        with ExitStack() as stack:
            stored = folder = None
            if plan.way == "external":
                folder = stack.enter_context(scratch_folder(self._scratch, plan.scratch_bytes))
            gene_pass = GenePass(genes, paths, plan=plan, target=self._target)
            if folder is not None:
                stored = self._compute("reading genes", gene_pass.store_tasks(folder))
            for encoded in self._compute("writing genes", gene_pass.write_tasks(stored)):
                self._take(encoded)

    def plan(self, genes: Mapping[str, Gene]) -> Plan:
        """Plan the pass over genes of one matrix."""
        around = self._surroundings
        return plan_pass(
            genes, budget=around.budget, workers=around.workers, threads=around.threads
        )

    def _take(self, encoded: Encoded) -> None:
        for place, name in enumerate(encoded.names):
            self.files[name] = encoded.files[place]
            self._ranges[name.removeprefix("var/")] = encoded.facts[:, place]

    def _write_manifest(self, output: Output, facts: Facts) -> None:
        manifest = output.manifest
        if manifest is None:
            return
        known = [
            self._ranges_of(fact) if _is_passed(fact, self._ranges) else facts[id(_lazy(fact))]
            for fact in manifest.facts
        ]
        text = manifest.encode(known)
        self.files[output.name] = self._target.put_plain(output.path or output.name, text)

    def _ranges_of(self, fact: Any) -> NDArray[np.float64]:
        columns = [self._ranges[name] for name in fact.genes]
        return np.stack(columns, axis=1) if columns else np.zeros((3, 0))


def _optimized_together(arrays: Sequence[da.Array]) -> dict[Any, Any]:
    """Optimize the graphs of arrays as one, and never again.

    Apart, as ``dask.optimize`` does it, each would fuse what it needs into tasks of its own: what
    two of them need would be made twice.
    """
    if not arrays:
        return {}
    import dask.array as da

    merged = HighLevelGraph.merge(*(array.__dask_graph__() for array in arrays))
    keys = [array.__dask_keys__() for array in arrays]
    return dict(da.Array.__dask_optimize__(merged, keys))


def _block_keys(array: da.Array) -> list[Any]:
    return list(flatten(array.__dask_keys__()))


def _is_passed(fact: Any, passed: Iterable[str]) -> bool:
    return isinstance(fact, GeneRanges) and set(fact.genes) <= set(passed)


def _lazy(fact: da.Array | GeneRanges) -> da.Array:
    return fact.array if isinstance(fact, GeneRanges) else fact


def _facts_to_compute(manifests: Sequence[Output], passed: set[str]) -> list[da.Array]:
    """Facts of the manifests, each once; those that the gene pass will tell are left to it."""
    facts: dict[int, da.Array] = {}
    for output in manifests:
        for fact in output.manifest.facts if output.manifest else ():
            if not _is_passed(fact, passed):
                lazy = _lazy(fact)
                facts[id(lazy)] = lazy
    return list(facts.values())


def gene_groups(outputs: Sequence[Output]) -> list[list[Output]]:
    """Group genes that share a matrix and an encoding."""
    groups: dict[tuple[int, Any], list[Output]] = {}
    for output in outputs:
        gene = _gene(output)
        groups.setdefault((id(gene.expression), gene.bits), []).append(output)
    return list(groups.values())


def _gene(output: Output) -> Gene:
    if output.gene is None:
        raise ValueError(f"{output.name} is no gene")
    return output.gene
