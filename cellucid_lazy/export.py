"""Exports of outputs: as bytes, to a folder, or to any sink, in one call each."""

from __future__ import annotations

import os
import sys
import time
import uuid
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
from dask.delayed import Delayed

from cellucid_lazy.catalogue import Catalogue, check_catalogue
from cellucid_lazy.codecs import Codec, codec_for
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.producer import Producer
from cellucid_lazy.engine.progress import is_shown
from cellucid_lazy.engine.resources import detect_resources, scheduler_kwargs, use_client
from cellucid_lazy.engine.run import aborting, run
from cellucid_lazy.engine.spill import check_scratch, remove_scratch_leftovers, scratch_prefix
from cellucid_lazy.errors import ChangedError, CollisionError, DataError, OptionError
from cellucid_lazy.kinds import KINDS, Dataset
from cellucid_lazy.kinds.obs import obs_frame
from cellucid_lazy.kinds.unreadable import without_unreadable
from cellucid_lazy.names import Name, kind_of, name_problems, names_by_case, split_name
from cellucid_lazy.options import compression_setting
from cellucid_lazy.show import folder_summary
from cellucid_lazy.sinks import sink_for
from cellucid_lazy.sinks.memory import MemorySink
from cellucid_lazy.sinks.sink import Sink


def to_bytes(
    catalogue: Catalogue,
    names: Iterable[str],
    compress: int | str | None = None,
    *,
    memory_budget: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    progress: bool | None = False,
    client: Any = None,
    retries: int | None = None,
) -> dict[str, bytes]:
    """Compute outputs as the bytes of their files, any number in one pass over their sources.

    Parameters
    ----------
    catalogue
        Outputs on offer.
    names
        Those wanted, of ``catalogue``.
    compress
        As `Options.compression`: a gzip level 1-9; None or 0 for none. Manifests are never
        compressed.
    memory_budget
        Bytes, or text such as ``"1GB"``, for the work beside the result. Default: dask's
        configuration ``cellucid_lazy.memory-budget``, else a quarter of the memory there is.
    scratch
        Folder for spilled blocks of large passes.
    progress
        Show progress on standard error; None for on a terminal and in a notebook only.
    client
        The ``distributed.Client`` of the cluster that does the work. Default: the current one, or
        threads where there is none.
    retries
        How often a cluster runs a failed task again.

    Returns
    -------
    dict
        Bytes by name, in the order asked for.

    Raises
    ------
    MissingKeyError
        For a name that is not on offer.
    DataError
        When the data cannot be read.
    OptionError
        For a compression or a budget out of range.
    ExportError
        When scratch cannot be used; it is checked first, whether or not it will be needed.
    ClusterError
        When the cluster has no workers, or goes away.
    """
    check_catalogue(catalogue)
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise OptionError(f"names={names!r}: give a list of names, such as ['points/2d']")
    codec = codec_for(compression_setting(compress))
    folder = check_scratch(scratch)
    wanted = {text: catalogue.find(text) for text in dict.fromkeys(names)}
    with use_client(client):
        resources = detect_resources(memory_budget, retries)
        dataset = catalogue.dataset.for_call(wanted.values())
        outputs = {text: KINDS[name.kind].build(dataset, name) for text, name in wanted.items()}
        files = run(
            _group(dataset, outputs),
            MemorySink(),
            codec,
            resources=resources,
            scratch=folder,
            progress=progress,
        )
    return {text: files[text] for text in wanted}


def to_directory(
    catalogue: Catalogue,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool | None = True,
    memory_budget: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    client: Any = None,
    retries: int | None = None,
    compute: bool = True,
) -> Delayed | None:
    """Write a folder that the viewer opens, in the format compact_v1.

    The folder appears as a whole when all is written. What was narrowed with ``select`` is
    completed to what the viewer needs: embeddings, manifests, outlier quantiles beside codes.

    Parameters
    ----------
    catalogue
        Outputs on offer.
    path
        The folder. Its parent must be writable.
    overwrite
        Replace an earlier export at this place, as a whole.
    progress
        Show progress and a closing line on standard error. True and None both mean: on a terminal
        and in a notebook only.
    memory_budget
        Bytes, or text such as ``"1GB"``. Default: dask's configuration
        ``cellucid_lazy.memory-budget``, else a quarter of the memory there is.
    scratch
        Folder for spilled blocks of large passes; on a cluster, one that all workers see.
    client, retries
        As `to_bytes` takes them.
    compute
        False to return a task that does the work later.

    Returns
    -------
    dask.delayed.Delayed or None
        With ``compute=False``, one task that does what the call would have done; it may be combined
        with other tasks, submitted to a cluster, and pickled. A relative path counts from where the
        call was made.

    Raises
    ------
    ExportError
        When the folder must not be replaced or cannot be written, another export is writing it, the
        source is in it, or scratch cannot be used; an earlier export stays.
    CollisionError
        When two keys would share a file.
    DataError
        When genes cannot be read, or nothing can; no file remains. Columns of obs, arrays of
        obsm and a neighbour graph that cannot be read are left out, with a warning each.
    OptionError
        For a budget out of range.
    ClusterError
        When the cluster has no workers, or goes away.
    """
    check_catalogue(catalogue)
    sink = sink_for(path, overwrite=overwrite)
    if not compute:
        if client is not None:
            raise OptionError("client= goes with compute=True; a Delayed is given to a client")
        job = partial(
            to_directory,
            catalogue,
            _absolute(path),
            overwrite=overwrite,
            progress=progress,
            memory_budget=memory_budget,
            scratch=None if scratch is None else _absolute(scratch),
            retries=retries,
        )
        delayed: Delayed = dask.delayed(job, name=f"to-directory-{uuid.uuid4().hex}", pure=False)()
        return delayed
    began = time.monotonic()
    written = to_sink(
        catalogue,
        sink,
        memory_budget=memory_budget,
        scratch=scratch,
        progress=progress,
        client=client,
        retries=retries,
    )
    if isinstance(written, Path) and is_shown(None if progress else False):
        summary = folder_summary(written, time.monotonic() - began)
        sys.stderr.write(f"{summary}; next: serve it as it is to a viewer of compact_v1\n")
    return None


def to_sink(
    catalogue: Catalogue,
    sink: Sink,
    *,
    codec: Codec | None = None,
    memory_budget: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    progress: bool | None = True,
    client: Any = None,
    retries: int | None = None,
) -> Any:
    """Write the files that the viewer needs to any sink.

    Parameters
    ----------
    catalogue
        Outputs on offer. What was narrowed with ``select`` is completed to what the viewer needs.
    sink
        Where files go.
    codec
        Encodes all files but manifests. Default: by `Options.compression`.
    memory_budget, scratch, progress, client, retries
        As `to_directory` takes them.

    Returns
    -------
    Any
        What the sink returns when all is written.

    Raises
    ------
    CollisionError
        When two keys would share a file.
    DataError
        When the data cannot be read.
    ExportError
        When scratch cannot be used, or the sink cannot be written.
    OptionError
        For a budget out of range.
    """
    check_catalogue(catalogue)
    folder = check_scratch(scratch)
    codec = codec or codec_for(catalogue.options.compression)

    def write(dataset: Dataset, *, again: bool = False) -> Any:
        with aborting(sink):
            # Scratch counts as an input: a target that holds it would remove it.
            sink.prepare([*_local_paths(catalogue), scratch_prefix(folder)])
            remove_scratch_leftovers(folder)
            resources = detect_resources(memory_budget, retries)
            groups = _viewer_files(dataset, codec)
        try:
            return run(
                groups,
                sink,
                codec,
                resources=resources,
                scratch=folder,
                progress=None if progress else False,
            )
        except ChangedError:
            raise
        except DataError:
            readable = None if again else without_unreadable(dataset)
            if readable is None:
                raise
        return write(readable, again=True)

    with use_client(client):
        return write(catalogue.dataset)


def _viewer_files(dataset: Dataset, codec: Codec) -> dict[Producer, dict[str, Output]]:
    """Build the outputs that the viewer needs, by producer and by the file that each becomes."""
    options = replace(dataset.options, manifest_shape="export")
    dataset = replace(dataset, options=options, suffix=codec.suffix).for_call()
    names: list[Name] = []
    for prefix, kind in KINDS.items():
        dataset = dataset.choose(prefix, kind.required(dataset))
        names += kind.names(dataset, kind.keys(dataset))
    for problem in name_problems(names):
        raise CollisionError(f"{dataset.source.name}: {problem}")
    for one, other in islice(names_by_case(names), 1):
        warnings.warn(
            f"{dataset.source.name}: {one!r} and {other!r} differ in case only; the folder "
            "cannot be copied to disks that ignore case, as of macOS and Windows. Rename one "
            "(--rename), or leave one out (--exclude)",
            UserWarning,
            stacklevel=4,
        )
    outputs: dict[str, Output] = {}
    for name in names:
        output = KINDS[name.kind].build(dataset, name)
        if output.path is not None:
            suffix = codec.suffix if output.manifest is None else ""
            outputs[output.path + suffix] = output
    return _group(dataset, outputs)


def to_frame(
    catalogue: Catalogue,
    names: Iterable[str],
    *,
    memory_budget: int | str | None = None,
    client: Any = None,
) -> pd.DataFrame:
    """Read columns of obs and genes into a pandas table.

    Parameters
    ----------
    catalogue
        Outputs on offer.
    names
        Such as ``["obs/cell_type", "var/CD3E"]``.
    memory_budget, client
        As `to_bytes` takes them.

    Returns
    -------
    pandas.DataFrame
        A row per cell, by the names of cells; a column per name, called by its key, or by the
        whole name where two share a key. Categories have their labels, other values are float32.

    Raises
    ------
    DataError
        When the data cannot be read.
    MissingKeyError
        When there is no such column or gene.
    OptionError
        For a name of another kind.
    """
    check_catalogue(catalogue)
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise OptionError(f"names={names!r}: give a list of names, such as ['obs/cell_type']")
    wanted = {name: split_name(name)[1] for name in names}
    others = [name for name in wanted if kind_of(name) not in ("obs", "var")]
    if others:
        raise OptionError(f"names={others!r}: a table is made of obs/<key> and var/<gene>")
    plain = catalogue.unquantized()
    genes = [name for name in wanted if kind_of(name) == "var"]
    columns = [key for name, key in wanted.items() if kind_of(name) == "obs"]
    found = to_bytes(plain, genes, memory_budget=memory_budget, client=client)
    with use_client(client):
        frame = obs_frame(plain.dataset, columns)
        index = pd.Index(plain.cell_names.compute(**scheduler_kwargs()), name="cell")
    keys = list(wanted.values())
    values = {
        key if keys.count(key) == 1 else name: (
            np.frombuffer(found[name], np.float32) if name in found else frame[key].array
        )
        for name, key in wanted.items()
    }
    return pd.DataFrame(values, index=index)


def explain(
    catalogue: Catalogue, *, memory_budget: int | str | None = None, details: bool = False
) -> str:
    """Describe how the outputs of a catalogue would be made: passes, bytes read, memory.

    Parameters
    ----------
    catalogue
        Outputs on offer.
    memory_budget
        As `to_directory` takes it.
    details
        Describe each pass in a line of its own, with the reasons and the sizes of blocks.

    Returns
    -------
    str
        A sentence, or the lines. Nothing is read but the names of genes.
    """
    check_catalogue(catalogue)
    resources = detect_resources(memory_budget)
    dataset = catalogue.dataset.for_call()
    counts: dict[Producer, dict[str, int]] = {}
    for prefix, kind in KINDS.items():
        n_outputs = len(catalogue.listed(prefix))
        if n_outputs:
            counts.setdefault(kind.producer(dataset), {})[prefix] = n_outputs
    if not counts:
        return "Nothing is selected."
    if details:
        return "\n".join(one.explain(kinds, resources) for one, kinds in counts.items())
    sentence = "; ".join(one.summarize(kinds, resources) for one, kinds in counts.items())
    return f"{sentence[0].upper()}{sentence[1:]}."


def _group(dataset: Dataset, outputs: Mapping[str, Output]) -> dict[Producer, dict[str, Output]]:
    """Group outputs, given by the files that they become, by their producers."""
    kinds = dict.fromkeys(output.kind for output in outputs.values())
    producers = {prefix: KINDS[prefix].producer(dataset) for prefix in kinds}
    groups: dict[Producer, dict[str, Output]] = {}
    for file, output in outputs.items():
        groups.setdefault(producers[output.kind], {})[file] = output
    return groups


def _local_paths(catalogue: Catalogue) -> list[str]:
    """List the files and folders that a catalogue's outputs are read from."""
    path = catalogue.source.path
    return [] if path is None or "://" in path else [path]


def _absolute(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111
