"""
``fibackup``: run a verb, print its result, return its exit code.

Data goes to stdout, everything else to stderr. Signals ask the run to stop, see `signals`.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import fibackup as fb
from fibackup.cli.config import ConfigError
from fibackup.cli.exits import FAILED, USAGE
from fibackup.cli.limits import allow_open_files
from fibackup.cli.output import print_line, report_failure
from fibackup.cli.parser import build_parser, verb_module
from fibackup.cli.progress import Display
from fibackup.cli.say import ERROR, log_to_stderr, say
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
    if "_ARGCOMPLETE" in os.environ:
        from fibackup.cli.completion import complete

        complete(build_parser(filled=True))
    try:
        return _main(argv)
    except OSError as error:  # the reader of stdout has gone, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            say(f"fibackup: error: {error}", ERROR)
        return FAILED


def _main(argv: Sequence[str] | None) -> int:
    """Understand the arguments, and do it; what is printed has left when this returns."""
    try:
        arguments = build_parser().parse_args(argv)
    except ConfigError as error:
        say(f"fibackup: error: {error}", ERROR)
        return USAGE
    finally:
        sys.stdout.flush()  # help, version and completion end the process from here
    arguments.json = arguments.json or arguments.json_lines
    arguments.display = Display(arguments)
    log_to_stderr(arguments.verbose)
    _accept_all_names(sys.stdout)
    signals = Signals()
    signals.install()
    allow_open_files()
    code = _run(arguments, signals)
    sys.stdout.flush()
    return code


def _run(arguments: argparse.Namespace, signals: Signals) -> int:
    """Do what was asked for, and tell how it ended."""
    try:
        code = verb_module(arguments.verb).run(arguments, signals)
    except fb.FibackupError as error:
        code = report_failure(arguments, error)
    if signals.number and code:
        code = 128 + signals.number
    if arguments.json_lines:
        print_line("end", {"exit_code": code})
    return code


def _accept_all_names(stream: TextIO) -> None:
    """Let names be printed in a locale that lacks their letters."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
