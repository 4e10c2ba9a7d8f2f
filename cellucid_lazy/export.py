"""Exports: outputs to bytes, to a folder, or to any sink; each source block is read once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from cellucid_lazy.catalogue import Catalogue
from cellucid_lazy.codecs import Codec, codec_for
from cellucid_lazy.engine.output import Output
from cellucid_lazy.engine.producer import Producer
from cellucid_lazy.engine.resources import detect_resources
from cellucid_lazy.engine.run import run
from cellucid_lazy.engine.spill import check_scratch
from cellucid_lazy.errors import CollisionError, OptionError
from cellucid_lazy.kinds import KINDS, Dataset
from cellucid_lazy.names import Name, name_problems
from cellucid_lazy.options import compression_setting
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
        Show progress on standard error; None for on a terminal only.

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
    """
    _check_catalogue(catalogue)
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise OptionError(f"names={names!r}: give a list of names, such as ['points/2d']")
    codec = codec_for(compression_setting(compress))
    folder = check_scratch(scratch)
    resources = detect_resources(memory_budget)
    wanted = {text: catalogue.find(text) for text in dict.fromkeys(names)}
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
) -> None:
    """Write the folder that the viewer opens (compact_v1, the export shape of the manifests).

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
        Show progress on standard error; True and None show it on a terminal only.
    memory_budget
        Bytes, or text such as ``"1GB"``. Default: dask's configuration
        ``cellucid_lazy.memory-budget``, else a quarter of the memory there is.
    scratch
        Folder for spilled blocks of large passes; on a cluster, one that all workers see.

    Raises
    ------
    ExportError
        When the folder must not be replaced or cannot be written, or scratch cannot be used; an
        earlier export stays.
    CollisionError
        When two keys would share a file.
    DataError
        When the data cannot be read; nothing is left behind.
    OptionError
        For a budget out of range.
    """
    _check_catalogue(catalogue)
    to_sink(
        catalogue,
        sink_for(path, overwrite=overwrite),
        memory_budget=memory_budget,
        scratch=scratch,
        progress=progress,
    )


def to_sink(
    catalogue: Catalogue,
    sink: Sink,
    *,
    codec: Codec | None = None,
    memory_budget: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    progress: bool | None = True,
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
    memory_budget, scratch, progress
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
    _check_catalogue(catalogue)
    folder = check_scratch(scratch)
    resources = detect_resources(memory_budget)
    codec = codec or codec_for(catalogue.options.compression)
    options = replace(catalogue.options, manifest_shape="export")
    dataset = replace(catalogue.dataset, options=options, suffix=codec.suffix)
    dataset = dataset.for_call()
    names: list[Name] = []
    for prefix, kind in KINDS.items():
        dataset = dataset.choose(prefix, kind.required(dataset))
        names += kind.names(dataset, kind.keys(dataset))
    for problem in name_problems(names):
        raise CollisionError(f"{catalogue.source.name}: {problem}")
    outputs: dict[str, Output] = {}
    for name in names:
        output = KINDS[name.kind].build(dataset, name)
        if output.path is not None:
            suffix = codec.suffix if output.manifest is None else ""
            outputs[output.path + suffix] = output
    return run(
        _group(dataset, outputs),
        sink,
        codec,
        resources=resources,
        scratch=folder,
        progress=None if progress else False,
    )


def explain(catalogue: Catalogue, *, memory_budget: int | str | None = None) -> str:
    """Describe how the outputs of a catalogue would be made.

    Parameters
    ----------
    catalogue
        Outputs on offer.
    memory_budget
        As `to_directory` takes it.

    Returns
    -------
    str
        A line for each pass. Nothing is read but the names of genes.
    """
    _check_catalogue(catalogue)
    resources = detect_resources(memory_budget)
    dataset = catalogue.dataset.for_call()
    counts: dict[Producer, dict[str, int]] = {}
    for prefix, kind in KINDS.items():
        n_outputs = len(catalogue.listed(prefix))
        if n_outputs:
            counts.setdefault(kind.producer(dataset), {})[prefix] = n_outputs
    lines = [producer.explain(kinds, resources) for producer, kinds in counts.items()]
    return "\n".join(lines) or "nothing is selected"


def _group(dataset: Dataset, outputs: Mapping[str, Output]) -> dict[Producer, dict[str, Output]]:
    """Group outputs, given by the files that they become, by their producers."""
    kinds = dict.fromkeys(output.kind for output in outputs.values())
    producers = {prefix: KINDS[prefix].producer(dataset) for prefix in kinds}
    groups: dict[Producer, dict[str, Output]] = {}
    for file, output in outputs.items():
        groups.setdefault(producers[output.kind], {})[file] = output
    return groups


def _check_catalogue(given: object) -> None:
    if not isinstance(given, Catalogue):
        raise OptionError(
            f"a catalogue is needed, not {type(given).__name__}: pass what cl.outputs(...) returns"
        )
