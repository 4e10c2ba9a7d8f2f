"""Run producers' stages one after the other, then write manifests, all into one sink."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import dask.threaded
from dask.base import get_scheduler
from numpy.typing import NDArray

from cellucid_lazy.codecs import Codec
from cellucid_lazy.engine.array_producer import ARRAYS
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.producer import Encoder, Job, Produced, Producer, Stage
from cellucid_lazy.engine.progress import LocalProgress, gather_with_bar, is_shown, task_bar
from cellucid_lazy.engine.resources import (
    Resources,
    current_client,
    explain_lost_cluster,
    is_in_task,
    local_pool,
)
from cellucid_lazy.engine.spill import Spiller
from cellucid_lazy.sinks.sink import Sink, Writer

Groups = Mapping[Producer, Mapping[str, Output]]


def run(
    groups: Groups,
    sink: Sink,
    codec: Codec,
    *,
    resources: Resources,
    scratch: str | None,
    progress: bool | None,
) -> Any:
    """Make outputs and write them to a sink.

    Parameters
    ----------
    groups
        For each producer its outputs, by the name of the file that each becomes.
    sink
        Where files go, prepared. It gets all of them, or is aborted.
    codec
        Encodes files, but for manifests.
    resources
        Memory and threads.
    scratch
        Folder for spilled blocks; None for the default.
    progress
        Show progress; None for on a terminal and in a notebook only.

    Returns
    -------
    Any
        What the sink returns when all is written.

    Raises
    ------
    ClusterError
        When the cluster goes away.
    DataError
        When the data cannot be read.
    ExportError
        When scratch or the sink cannot be written.
    """
    files = {file: output for group in groups.values() for file, output in group.items()}
    with aborting(sink):
        writer = sink.begin(list(files))
        with Spiller(scratch) as spiller:
            receipts = _produce(groups, Encoder(codec, writer), spiller, resources, progress)
        # Without an estimate: how long the disk takes is unknown.
        with task_bar("putting it in place") if _is_bar_shown(progress) else nullcontext():
            return sink.commit(receipts)


@contextmanager
def aborting(sink: Sink) -> Iterator[None]:
    """Abort a sink on any error; if that fails too, add a note to the error."""
    try:
        yield
    except BaseException as problem:
        try:
            sink.abort()
        except Exception as another:
            problem.add_note(f"what was begun could not be removed: {another}")
        raise


def _produce(
    groups: Groups,
    encoder: Encoder,
    spiller: Spiller,
    resources: Resources,
    progress: bool | None,
) -> dict[str, Any]:
    manifests = {
        file: output
        for group in groups.values()
        for file, output in group.items()
        if output.manifest is not None
    }
    needs = {
        array.name: array
        for output in manifests.values()
        if output.manifest is not None
        for array in output.manifest.needs.values()
    }
    receipts: dict[str, Any] = {}
    values: dict[str, NDArray[Any]] = {}
    jobs = _assign(groups, needs)
    for producer, (outputs, own) in jobs.items():
        job = Job(outputs, {name: needs[name] for name in own}, encoder, spiller, resources)
        produced = _run_stages(producer, job, resources, progress)
        receipts |= produced.receipts
        values |= produced.values
    for file, output in manifests.items():
        receipts[file] = _write_manifest(output, file, encoder.writer, values)
    return receipts


def _assign(
    groups: Groups, needs: Mapping[str, Any]
) -> dict[Producer, tuple[Mapping[str, Output], set[str]]]:
    """Assign outputs and needs to producers; needs that none provides go to `ARRAYS`."""
    jobs: dict[Producer, tuple[Mapping[str, Output], set[str]]] = {}
    left = set(needs)
    for producer, group in groups.items():
        outputs: Mapping[str, Output] = {
            file: output for file, output in group.items() if output.manifest is None
        }
        provided = left & producer.provides(list(outputs.values())) if left else set()
        left -= provided
        jobs[producer] = (outputs, provided)
    if left:
        outputs, provided = jobs.get(ARRAYS, ({}, set()))
        jobs[ARRAYS] = (outputs, provided | left)
    return jobs


def _run_stages(
    producer: Producer, job: Job, resources: Resources, progress: bool | None
) -> Produced:
    stages = producer.run(job)
    done: Any = None
    while True:
        try:
            stage = stages.send(done)
        except StopIteration as finished:
            produced: Produced = finished.value
            return produced
        done = compute(stage, resources, progress)


def compute(stage: Stage, resources: Resources, progress: bool | None) -> tuple[Any, ...]:
    """Run one computation on the current client or scheduler, with a progress bar if shown."""
    if not stage.keys:
        return ()
    graph, keys = dict(stage.graph), list(stage.keys)
    client, shown = current_client(), _is_bar_shown(progress)
    with explain_lost_cluster(stage.label), ExitStack() as stack:
        bar = stack.enter_context(task_bar(stage.label)) if shown else None
        if client is None:
            if bar is not None:
                stack.enter_context(LocalProgress(bar))
            options = stack.enter_context(local_pool(resources.workers))
            # dask.compute would make an object of each of thousands of keys, a fifth of the time.
            get = get_scheduler(scheduler=options.pop("scheduler", None)) or dask.threaded.get
            return tuple(get(graph, keys, **options))
        if bar is None:
            return tuple(client.get(graph, keys, retries=resources.retries))
        futures = client.get(graph, keys, retries=resources.retries, sync=False)
        return tuple(gather_with_bar(client, futures, bar))


def _is_bar_shown(progress: bool | None) -> bool:
    # Standard error of a cluster's task is a log.
    return progress is not False and is_shown(progress) and not is_in_task()


def _write_manifest(
    output: Output, file: str, writer: Writer, values: Mapping[str, NDArray[Any]]
) -> Any:
    manifest = output.manifest
    assert manifest is not None
    found = {name: values[array.name] for name, array in manifest.needs.items()}
    return writer.put(file, [manifest.encode(found)])
