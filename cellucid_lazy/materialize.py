"""Outputs to bytes and to a folder: each source block read once, memory bounded by a budget."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from cellucid_lazy.catalogue import Catalogue
from cellucid_lazy.errors import CollisionError, OptionError
from cellucid_lazy.naming import name_problems
from cellucid_lazy.options import compression_level
from cellucid_lazy.output import Output
from cellucid_lazy.plan import Plan
from cellucid_lazy.sinks.directory import check_target, staged
from cellucid_lazy.sinks.encode import ToFolder, ToMemory, make_folders
from cellucid_lazy.sinks.scratch import check_scratch, scratch_folder, store_arrays
from cellucid_lazy.writing import Writing, gene_groups


def to_bytes(
    catalogue: Catalogue,
    names: Iterable[str],
    compress: int | None = None,
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
        gzip level 1-9; None or 0 for none. Manifests are never compressed.
    memory_budget
        Bytes, or text such as ``"1GB"``, for the work beside the result. Default: dask's
        configuration ``cellucid_lazy.memory-budget``, else a quarter of the memory there is.
    scratch
        Folder for intermediate pieces of large passes.
    progress
        Whether to show progress on standard error; None for on a terminal only.

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
        For a level or a budget out of range.
    ExportError
        When scratch cannot be used; it is looked at first, whether or not it will be needed.
    """
    _check_catalogue(catalogue)
    if isinstance(names, str):
        raise OptionError(f"names={names!r}: give a list of names, such as [{names!r}]")
    target = ToMemory(compression_level(compress))
    folder = check_scratch(scratch)
    writing = Writing(target, budget=memory_budget, scratch=folder, progress=progress)
    wanted = tuple(dict.fromkeys(names))
    with _room_to_wait(catalogue, wanted, writing.budget, folder) as roomy:
        outputs = [roomy[name] for name in wanted]
        writing.write(outputs)
    return {output.name: writing.files[output.name] for output in outputs}


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
        Whether an earlier export at this place is replaced, as a whole.
    progress
        Whether to show progress on standard error; True and None show it on a terminal only.
    memory_budget
        Bytes, or text such as ``"1GB"``. Default: dask's configuration
        ``cellucid_lazy.memory-budget``, else a quarter of the memory there is.
    scratch
        Folder for intermediate pieces of large passes; on a cluster, one that all workers see.

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
    target = check_target(path, overwrite=overwrite)
    folder = check_scratch(scratch)
    complete = catalogue.for_viewer()
    with staged(target) as staging:
        writing = Writing(
            ToFolder(catalogue.options.compression, str(staging)),
            budget=memory_budget,
            scratch=folder,
            progress=None if progress else False,
        )
        with _room_to_wait(complete, complete.names(), writing.budget, folder) as roomy:
            outputs = _viewer_outputs(roomy)
            make_folders(str(staging), (output.path or "" for output in outputs))
            writing.write(outputs)


@contextmanager
def _room_to_wait(
    catalogue: Catalogue, names: Collection[str], budget: int, scratch: str | None
) -> Iterator[Catalogue]:
    """Let what waits for its last part use scratch where it would take too much of the budget."""
    needed = catalogue.waiting_bytes(names)
    if needed <= budget // 4:
        yield catalogue.within(budget)
        return
    with scratch_folder(scratch, needed) as folder:
        yield catalogue.within(budget, keep=partial(store_arrays, folder=folder))


def explain(catalogue: Catalogue, *, memory_budget: int | str | None = None) -> str:
    """Tell how the genes of a catalogue would be read: which way, and why.

    Parameters
    ----------
    catalogue
        Outputs on offer.
    memory_budget
        As `to_directory` takes it.

    Returns
    -------
    str
        The plan: bytes to read, scratch to write, peak memory expected. Nothing is read but the
        genes' identifiers.
    """
    _check_catalogue(catalogue)
    plans = gene_plans(catalogue, memory_budget=memory_budget)
    return "\n".join(plan.explain() for plan in plans) or "no genes are asked for"


def gene_plans(catalogue: Catalogue, *, memory_budget: int | str | None = None) -> list[Plan]:
    """Plan the pass over the genes of a catalogue, as `explain` tells it."""
    writing = Writing(ToMemory(None), budget=memory_budget, scratch=None, progress=False)
    outputs = [catalogue[name] for name in catalogue.names("var")]
    return [
        writing.plan({output.name: output.gene for output in group if output.gene})
        for group in gene_groups(outputs)
    ]


def _viewer_outputs(complete: Catalogue) -> list[Output]:
    """All outputs of a folder, manifests last; unusable fields are left out with a warning."""
    usable = set(complete.usable_obs())
    outputs = []
    for name in complete:
        if name.startswith("obs/") and name.removeprefix("obs/").rsplit("/", 1)[0] not in usable:
            continue
        output = complete[name]
        if output.path is not None:
            outputs.append(output)
    for problem in name_problems(complete.source.name, (output.name for output in outputs)):
        raise CollisionError(problem)
    return outputs


def _check_catalogue(given: object) -> None:
    if not isinstance(given, Catalogue):
        raise OptionError(
            f"a catalogue is needed, not {type(given).__name__}: pass what cl.outputs(...) gives"
        )
