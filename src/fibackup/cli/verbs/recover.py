"""``fibackup recover``: finish or clear away what a killed run has left."""

from __future__ import annotations

import argparse

import fibackup as fb
from fibackup.cli.each import each_domain
from fibackup.cli.exits import OK, WARNINGS
from fibackup.cli.options import domain_options, dry_run_option, store_option, strict_option
from fibackup.cli.recovering import plan_alone, plan_first, store_of_run
from fibackup.cli.runs import Done, run_plan, show_plan
from fibackup.cli.signals import Signals

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup recover web1                       the ledger knows the store
  fibackup recover --store /backup --all      also a store that was new to the run

Exit code 4: a run of a domain is not finished still, as its store is not at hand or its guest does
not answer.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``recover``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.epilog = _EXAMPLES
    store_option(parser, required=False)
    strict_option(parser)
    dry_run_option(parser)
    domain_options(parser)


def run(arguments: argparse.Namespace, signals: Signals) -> int:
    """
    Bring each domain that was asked for into order.

    Args:
        arguments: Parsed.
        signals: Whose token ends a run early.

    Returns:
        The exit code.

    Raises:
        FibackupError: libvirt cannot be reached, or a requirement is not met.

    Source:
        docs/design.md, "Command line".
    """
    unfinished: list[str] = []

    def one(
        arguments: argparse.Namespace, host: fb.LibvirtHost, name: str, signals: Signals
    ) -> Done:
        domain = host.read_domain(name)
        done = _one(arguments, host, domain, signals)
        if domain.ledger.run is not None and not arguments.dry_run:
            left = host.read_domain(domain.uuid).ledger.run
            if left is not None and left.point == domain.ledger.run.point:
                unfinished.append(domain.uuid)
        return done

    code = each_domain(arguments, signals, one)
    return WARNINGS if code == OK and unfinished else code


def _one(
    arguments: argparse.Namespace, host: fb.LibvirtHost, domain: fb.Domain, signals: Signals
) -> Done:
    with store_of_run(arguments.store, domain) as store:
        if arguments.dry_run:
            plan = plan_first(domain, store)
        else:
            domain, plan = plan_alone(host, domain, store)
        if not plan.steps and not plan.warnings and not arguments.json:
            if not arguments.quiet:
                print(f"{fb.printable(domain.name)}: nothing to recover")
            return {}, False
        if arguments.dry_run or not plan.steps:
            return show_plan(arguments, plan)
        return run_plan(arguments, fb.Executor(host, store), plan, signals)
