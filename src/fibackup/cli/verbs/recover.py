"""``fibackup recover``: finish or clear away what a killed run has left."""

from __future__ import annotations

import argparse

import fibackup as fb
from fibackup.cli.each import each_domain
from fibackup.cli.options import domain_options, dry_run_option, store_option, strict_option
from fibackup.cli.recovering import plan_first, store_of_run
from fibackup.cli.runs import Done, run_plan, show_plan
from fibackup.cli.signals import Signals

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup recover web1                       the ledger knows the store
  fibackup recover --store /backup --all      also a store that was new to the run
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
    return each_domain(arguments, signals, _one)


def _one(arguments: argparse.Namespace, host: fb.LibvirtHost, name: str, signals: Signals) -> Done:
    domain = host.read_domain(name)
    with store_of_run(arguments.store, domain) as store:
        plan = plan_first(domain, store)
        if not plan.steps and not plan.warnings and not arguments.json:
            if not arguments.quiet:
                print(f"{fb.printable(domain.name)}: nothing to recover")
            return {}, False
        if arguments.dry_run or not plan.steps:
            return show_plan(arguments, plan)
        return run_plan(arguments, fb.Executor(host, store), plan, signals)
