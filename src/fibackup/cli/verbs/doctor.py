"""``fibackup doctor``: what is wrong, or will be, and what helps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

from attrs import evolve

import fibackup as fb
from fibackup.cli.advice import next_command, reaching
from fibackup.cli.completion import complete_domains, completed_by
from fibackup.cli.config import ConfigError
from fibackup.cli.exits import FAILED, OK, WARNINGS
from fibackup.cli.options import store_option
from fibackup.cli.output import print_items
from fibackup.cli.parser import check_settings
from fibackup.cli.signals import Signals

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup doctor                             the hypervisor and every domain
  fibackup doctor --store /backup             the store too, and what the next points would be
  fibackup doctor --store /backup web1 -q     warnings and problems only

Nothing is changed. Exit codes: 0 all is well, 4 there are warnings, 1 there are problems.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``doctor``.

    Args:
        parser: Of the verb.

    Source:
        docs/operate.md, "Doctor".
    """
    parser.epilog = _EXAMPLES
    store_option(parser, required=False)
    domains = parser.add_argument(
        "domains", metavar="DOMAIN", nargs="*", help="name or UUID (default: every domain)"
    )
    completed_by(domains, complete_domains)


def run(arguments: argparse.Namespace, signals: Signals) -> int:
    """
    Print what is found out.

    Args:
        arguments: Parsed.
        signals: Whose token ends the examination early.

    Returns:
        The exit code.

    Raises:
        CancelledError: A signal came.

    Source:
        docs/operate.md, "Doctor".
    """
    found: list[fb.Finding] = []
    for each in _examine(arguments, signals):
        finding = evolve(each, remedy=reaching(each.remedy, arguments))
        found.append(finding)
        _print(arguments, finding)
    if not arguments.json_lines:
        print_items(arguments, "findings", [_document(each) for each in found])
    levels = {each.level for each in found}
    if fb.Level.PROBLEM in levels:
        return FAILED
    return WARNINGS if fb.Level.WARNING in levels else OK


def _print(arguments: argparse.Namespace, finding: fb.Finding) -> None:
    if arguments.json_lines:
        print_items(arguments, "findings", [_document(finding)])
        return
    bad = finding.level in {fb.Level.WARNING, fb.Level.PROBLEM}
    if arguments.json or (arguments.quiet and not bad):
        return
    print(f"{finding.level:<8} {fb.printable(f'{finding.subject}: {finding.text}')}")
    if finding.remedy:
        print(f"{'':<8} -> {fb.printable(finding.remedy)}")


def _document(finding: fb.Finding) -> dict[str, object]:
    return {
        "level": str(finding.level),
        "subject": finding.subject,
        "text": finding.text,
        "remedy": finding.remedy,
    }


def _examine(arguments: argparse.Namespace, signals: Signals) -> Iterator[fb.Finding]:
    """Yield findings as they come; what cannot be examined is a problem, and the rest goes on."""
    try:
        check_settings()
    except ConfigError as error:
        yield fb.Finding(
            fb.Level.PROBLEM, "configuration", str(error), "correct it: docs/cli.md, Configuration"
        )
    with ExitStack() as opened:
        store = None
        if arguments.store is not None:
            try:
                yield from fb.diagnose_store(fb.read_store_facts(arguments.store))
                store = opened.enter_context(fb.Store.open(arguments.store))
            except fb.FibackupError as error:
                yield _failed("store", error, arguments)
        try:
            host = opened.enter_context(fb.LibvirtHost.open(arguments.connect))
            yield from fb.diagnose_hypervisor(fb.read_hypervisor_facts(host))
            names = arguments.domains or host.list_domains()
        except fb.FibackupError as error:
            yield _failed("host", error, arguments)
            return
        for name in names:
            signals.token.check()
            yield from _examine_domain(arguments, host, name, store)


def _failed(subject: str, error: fb.FibackupError, arguments: argparse.Namespace) -> fb.Finding:
    """Return what keeps something from being examined."""
    return fb.Finding(fb.Level.PROBLEM, subject, str(error), next_command(error, arguments))


def _examine_domain(
    arguments: argparse.Namespace, host: fb.LibvirtHost, name: str, store: fb.Store | None
) -> tuple[fb.Finding, ...]:
    try:
        facts = fb.read_domain_facts(host, name, store)
        return fb.diagnose_domain(facts, now=datetime.now(UTC))
    except fb.FibackupError as error:
        return (_failed(f"domain {error.domain or name}", error, arguments),)
