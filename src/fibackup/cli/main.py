"""
``fibackup``: run a verb, print its result, return its exit code.

Data goes to stdout, everything else to stderr. Ctrl-C and SIGTERM ask the run to stop; it stops
between two steps or inside a copy, never between a freeze and its thaw.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import fibackup as fb
from fibackup.cli.exits import FAILED
from fibackup.cli.output import Failure, report_failure
from fibackup.cli.parser import build_parser, verb_module
from fibackup.cli.signals import Signals

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv: Arguments without the program's name; None: those of the process.

    Returns:
        The exit code.

    Source:
        docs/design.md, "Command line"; exit codes: docs/errors.md.
    """
    arguments = build_parser().parse_args(argv)
    _log(arguments.verbose)
    _accept_all_names(sys.stdout)
    signals = Signals()
    signals.install()
    try:
        code = verb_module(arguments.verb).run(arguments, signals)
        sys.stdout.flush()
    except fb.FibackupError as error:
        code = report_failure(Failure(error.domain or "", error), as_json=arguments.json)
    except OSError as error:  # the reader of stdout has gone, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"fibackup: error: {fb.printable(str(error))}", file=sys.stderr)
        return FAILED
    return 128 + signals.number if signals.number and code else code


def _accept_all_names(stream: TextIO) -> None:
    """Let names be printed in a locale that lacks their letters."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _log(verbose: int) -> None:
    if verbose:
        logging.basicConfig(
            stream=sys.stderr,
            level=logging.DEBUG if verbose > 1 else logging.INFO,
            format="%(levelname)s %(name)s: %(message)s",
        )
