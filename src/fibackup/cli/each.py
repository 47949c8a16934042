"""The same for each of several domains; one that fails never hides another's result."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import fibackup as fb
from fibackup.cli.exits import OK, SOME_FAILED, USAGE, WARNINGS
from fibackup.cli.output import Failure, complain, print_items, print_line
from fibackup.cli.progress import aside
from fibackup.cli.runs import Done
from fibackup.cli.say import ERROR, say, warn
from fibackup.cli.signals import Signals

__all__ = ["One", "each_domain"]

_T = TypeVar("_T")

if TYPE_CHECKING:
    One: TypeAlias = Callable[[argparse.Namespace, fb.LibvirtHost, str, Signals], Done]
    """What is done with one domain."""


def each_domain(arguments: argparse.Namespace, signals: Signals, one: One) -> int:
    """
    Do the same with each domain that was asked for.

    Args:
        arguments: Parsed, with those of `fibackup.cli.options.domain_options`.
        signals: Whose token ends the run early.
        one: What is done.

    Returns:
        The exit code.

    Raises:
        FibackupError: libvirt cannot be reached, or a requirement is not met.

    Source:
        docs/design.md, "Command line".
    """
    if bool(arguments.domains) == bool(arguments.all or arguments.running):
        words = "name domains, or say --all or --running"
        say(f"fibackup {arguments.verb}: {words}", ERROR)
        return USAGE
    with fb.LibvirtHost.open(arguments.connect) as host:
        warned = _check_versions(arguments, host)
        names = arguments.domains or host.list_domains(running=arguments.running)
        outcomes = _side_by_side(
            lambda name: _attempt(arguments, host, name, signals, one), names, arguments.jobs
        )
    if not arguments.json_lines:  # else each one has told already
        print_items(arguments, "results", [document for document, _, _ in outcomes])
    failed = [code for _, _, code in outcomes if code != OK]
    if failed:
        return failed[0] if len(failed) == len(outcomes) else SOME_FAILED
    warned = warned or any(each for _, each, _ in outcomes)
    return WARNINGS if warned and arguments.strict else OK


def _attempt(
    arguments: argparse.Namespace, host: fb.LibvirtHost, asked: str, signals: Signals, one: One
) -> tuple[dict[str, object], bool, int]:
    """Return the result of one domain, whether there was a warning, and the exit code."""
    name, uuid, warned, code = asked, "", False, OK
    try:
        signals.token.check()
        with suppress(fb.FibackupError):  # the work itself says what is wrong
            name, uuid = host.identify(asked)
        done, warned = one(arguments, host, asked, signals)
        document = {"domain": name, "uuid": uuid, "ok": True, **done}
    except fb.FibackupError as error:
        failure = Failure(error, arguments, name, uuid)
        with aside(arguments):
            complain(failure)
        document, code = failure.document(), failure.code
    if arguments.json_lines:
        print_line("result", document)
    return document, warned, code


def _side_by_side(work: Callable[[str], _T], names: Sequence[str], jobs: int) -> list[_T]:
    """Return what *work* makes of each name, in their order; *jobs* of them at a time."""
    if jobs == 1:
        return [work(name) for name in names]
    with ThreadPoolExecutor(jobs, "fibackup-domain") as pool:
        return list(pool.map(work, names))


def _check_versions(arguments: argparse.Namespace, host: fb.LibvirtHost) -> bool:
    """Refuse what is too old; tell of what is odd, and return whether there was such."""
    consolidates = arguments.verb == "consolidate" or getattr(arguments, "consolidate", False)
    warnings = host.check_requirements(consolidates=consolidates)
    for warning in warnings:
        warn(warning)
    return bool(warnings)
