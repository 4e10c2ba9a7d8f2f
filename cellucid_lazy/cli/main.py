"""Parse a command line, run the command, and report errors.

Results go to standard output; progress, warnings and errors, a line each, to standard error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from cellucid_lazy import __version__
from cellucid_lazy.cli.flags import (
    CELLS,
    ENCODING,
    IDENTITY,
    OFFER,
    OPENING,
    PICTURE,
    REPLACE,
    SCHEDULING,
    WORK,
    add_flags,
    in_flags,
    positive,
)
from cellucid_lazy.errors import CellucidLazyError, OptionError, did_you_mean, printable

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
# By signal: the message, and the exit code that shells expect.
_STOPPED = {signal.SIGHUP: ("hung up", 129), signal.SIGTERM: ("terminated", 143)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words after the program's name. Default: those of this process.

    Returns
    -------
    int
        0 when done, 1 on an error, 2 on misuse, 130 when interrupted, 143 when terminated, 129 when
        the terminal is gone.
    """
    parser = build_parser()
    words = sys.argv[1:] if arguments is None else arguments
    if not words:
        parser.print_help()
        return DONE
    try:
        parsed = parser.parse_args(words)
    except OptionError as problem:
        return _report(problem)
    try:
        with _one_line_warnings(parsed.debug), _signals_clean_up():
            # Deferred: dask takes long to import, and help and misuse do without.
            from cellucid_lazy.cli.commands import run

            run(parsed)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe; Python would print an error when it flushes at exit.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Exception, KeyboardInterrupt) as problem:
        if parsed.debug:
            sys.stderr.write(printable(traceback.format_exc()))
        return _report(problem)
    return DONE


def _report(problem: BaseException) -> int:
    """Print an error in one line, and return the exit code."""
    if isinstance(problem, KeyboardInterrupt):
        number = next(iter(problem.args), signal.SIGINT)
        message, code = _STOPPED.get(number, ("interrupted", INTERRUPTED))
        _print_line(message)
        return code
    if isinstance(problem, CellucidLazyError):
        _print_line(f"error: {in_flags(str(problem))}")
        return MISUSED if isinstance(problem, OptionError) else FAILED
    _print_line(f"error: {type(problem).__name__}: {problem} (--debug shows where it comes from)")
    return FAILED


def _print_line(sentence: str) -> None:
    erase = "\r\x1b[K" if sys.stderr.isatty() else ""  # there may be a line of progress
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"{erase}{printable(' '.join(sentence.split()))}\n")


@contextmanager
def _one_line_warnings(debug: bool) -> Iterator[None]:
    """Print each warning in one line; those for developers only with --debug."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if debug or not issubclass(category, (DeprecationWarning, FutureWarning)):
            _print_line(f"warning: {in_flags(str(message))}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _signals_clean_up() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP too; later signals are ignored.

    Batch systems end jobs with SIGTERM, closed terminals with SIGHUP, and users press Ctrl-C twice.
    """

    def stop(number: int, _: Any) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, *_STOPPED):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class _Parser(argparse.ArgumentParser):
    """Raises misuse as an OptionError, to be reported in one line as all other errors are."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            typed = [word.partition("=")[0] for word in unknown if word.startswith("--")]
            hint = did_you_mean(typed[0], flags) if typed else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint and f'; {hint}'}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        hint = self._order_hint() if "arguments are required" in message else ""
        raise OptionError(f"{message}{hint} ({self.format_usage().strip()}; see --help)")

    def _order_hint(self) -> str:
        """Name the list options, which may have taken the missing positionals."""
        options = [action for action in self._actions if action.option_strings]
        lists = [action.option_strings[0] for action in options if action.nargs == "+"]
        if not lists:
            return ""
        first = [str(action.metavar) for action in self._actions if not action.option_strings]
        return (
            f"; put {' and '.join(first)} first: a list option ({', '.join(lists)}) takes all "
            "words that follow"
        )


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = _Parser(
        prog="cellucid-lazy",
        description="Viewer-ready outputs of single-cell AnnData atlases, out of core.",
        epilog="DATA is an .h5ad file, a zarr store, or the URL of one.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(debug=False)
    _add_debug(parser)
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for add in (_add_inspect, _add_export, _add_bytes, _add_plot, _add_demo):
        add(commands)
    return parser


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error, and every warning",
    )


_INPUT = {"input": (*OPENING, *OFFER), "cells": CELLS}
_RESOURCES = {"memory and threads": (*WORK, *SCHEDULING)}


def _add_command(
    commands: Any, name: str, positionals: str, purpose: str
) -> argparse.ArgumentParser:
    # argparse would print the list options first, which would then take the positionals as well.
    parser: argparse.ArgumentParser = commands.add_parser(
        name, usage=f"%(prog)s {positionals} [options]", help=purpose, description=purpose
    )
    if positionals.startswith("DATA"):
        parser.add_argument("data", metavar="DATA", help="file, store or URL")
    _add_debug(parser)
    return parser


def _add_inspect(commands: Any) -> None:
    parser = _add_command(
        commands, "inspect", "DATA", "show what a dataset offers; reads metadata only"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    add_flags(parser, _INPUT)


def _add_export(commands: Any) -> None:
    parser = _add_command(commands, "export", "DATA OUT", "write the folder that the viewer opens")
    parser.add_argument("out", metavar="OUT", help="folder; it appears when the export is complete")
    for flag, purpose in (
        ("--select", "names to export, such as 'obs/*' 'var/CD3*' (default: all)"),
        ("--exclude", "names to leave out, such as 'var/MT-*'"),
    ):
        parser.add_argument(
            flag, nargs="+", action="extend", default=[], metavar="PATTERN", help=purpose
        )
    parser.add_argument(
        "--explain", action="store_true", help="show how the work would be done; write nothing"
    )
    parser.add_argument("--details", action="store_true", help="with --explain: a line per pass")
    encoding = {"encoding": ENCODING, "identity": IDENTITY}
    add_flags(parser, {"output": REPLACE, **_INPUT, **encoding, **_RESOURCES})


def _add_bytes(commands: Any) -> None:
    parser = _add_command(
        commands, "bytes", "DATA NAME ...", "write outputs as the bytes of their files"
    )
    parser.add_argument(
        "outputs", metavar="NAME", nargs="+", help="as inspect lists it: points/2d, var/CD3E"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="file of one output (default: standard output); folder of several, for files named as "
        "in an export. Files that are there are replaced",
    )
    add_flags(parser, {**_INPUT, "encoding": ENCODING, **_RESOURCES})


def _add_plot(commands: Any) -> None:
    parser = _add_command(
        commands, "plot", "DATA OUT", "draw an embedding (needs pip install '.[plot]')"
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="picture, such as umap.png or umap.pdf; one that is there is replaced",
    )
    parser.add_argument(
        "--dpi", type=positive, default=200, metavar="N", help="dots per inch (default: 200)"
    )
    add_flags(parser, {"picture": PICTURE, **_INPUT, "threads": SCHEDULING})


def _add_demo(commands: Any) -> None:
    parser = _add_command(commands, "demo", "OUT", "generate a small atlas, export it, and draw it")
    parser.add_argument("out", metavar="OUT", help="folder for the export")
    for what, size in (("cells", 3000), ("genes", 2000)):
        parser.add_argument(
            f"--n-{what}",
            type=positive,
            default=size,
            metavar="N",
            help=f"number of {what} (default: {size})",
        )
    add_flags(parser, {"output": REPLACE})
