"""The same for each of several domains; one that fails never hides another's result."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import fibackup as fb
from fibackup.cli.exits import OK, SOME_FAILED, USAGE, WARNINGS
from fibackup.cli.output import Failure, complain, print_json
from fibackup.cli.signals import Signals

__all__ = ["Done", "One", "each_domain"]

_T = TypeVar("_T")

Done: TypeAlias = tuple[dict[str, object], bool]
"""A domain's part of the result, and whether there was a warning."""

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
        print(f"fibackup {arguments.verb}: {words}", file=sys.stderr)
        return USAGE
    with fb.LibvirtHost.open(arguments.connect) as host:
        warned = _check_versions(arguments, host)
        names = arguments.domains or host.list_domains(running=arguments.running)

        def attempt(name: str) -> Done | Failure:
            try:
                signals.token.check()
                return one(arguments, host, name, signals)
            except fb.FibackupError as error:
                failure = Failure(name, error)
                complain(failure)
                return failure

        outcomes = _side_by_side(attempt, names, arguments.jobs)
    failures = [each for each in outcomes if isinstance(each, Failure)]
    results: list[dict[str, object]] = []
    for name, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, Failure):
            results.append(outcome.document())
        else:
            results.append({"domain": name, "ok": True, **outcome[0]})
            warned = warned or outcome[1]
    if arguments.json:
        print_json({"results": results})
    if failures:
        return failures[0].code if len(failures) == len(results) else SOME_FAILED
    return WARNINGS if warned and arguments.strict else OK


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
        print(f"fibackup: warning: {warning}", file=sys.stderr)
    return bool(warnings)
