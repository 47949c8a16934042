"""``fibackup consolidate``: shorten live chains."""

from __future__ import annotations

import argparse

import fibackup as fb
from fibackup.cli.each import each_domain
from fibackup.cli.options import (
    byte_count,
    disk_option,
    domain_options,
    dry_run_option,
    strict_option,
)
from fibackup.cli.recovering import plan_first, store_of_unfinished
from fibackup.cli.runs import Done, run_plan, settle, show_first, show_plan, with_recovery
from fibackup.cli.signals import Signals

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup consolidate web1                               commit every overlay of ours, pivot
  fibackup consolidate --keep-overlay web1                what `backup --consolidate` does
  fibackup consolidate --timeout 600 --suspend 10 db1     a guest that writes without end
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``consolidate``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "-m",
        "--method",
        choices=[str(each) for each in fb.Method],
        default=str(fb.Method.BLOCKCOMMIT),
        help="down into the disk's own image, or up into the active layer (default: blockcommit)",
    )
    parser.add_argument(
        "--keep-overlay", action="store_true", help="leave the active layer: depth 2, not 1"
    )
    disk_option(parser)
    parser.add_argument(
        "--bandwidth",
        metavar="BYTES",
        type=byte_count,
        default=0,
        help="bytes in a second at most, such as 50M (default: 0, no limit)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=3600.0,
        help="time limit for each disk; then the job is aborted (default: 3600)",
    )
    parser.add_argument(
        "--suspend",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="let the guest stand still for as long at most before that (default: 0, never)",
    )
    parser.add_argument("--allow-paused", action="store_true", help="also a paused domain")
    strict_option(parser)
    dry_run_option(parser)
    domain_options(parser)


def run(arguments: argparse.Namespace, signals: Signals) -> int:
    """
    Shorten the chains of each domain that was asked for.

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
    policy = fb.ConsolidationPolicy(
        method=fb.Method(arguments.method),
        keep_overlay=arguments.keep_overlay,
        disks=tuple(arguments.disk),
        bandwidth_bytes=arguments.bandwidth,
        timeout_seconds=arguments.timeout,
        suspend_seconds=arguments.suspend,
        allow_paused=arguments.allow_paused,
    )
    domain = host.read_domain(name)
    with store_of_unfinished(domain) as store:
        if arguments.dry_run and (first := plan_first(domain, store)).steps:
            return show_first(arguments, first)
        domain, recovery = settle(arguments, host, store, domain, signals)
    paths = tuple(path for disk in domain.disks if disk.chain for path in disk.chain.paths)
    uses = host.image_uses(domain.uuid, paths)
    plan = fb.plan_consolidation(domain, uses=uses, policy=policy)
    if arguments.dry_run:
        return show_plan(arguments, plan)
    return with_recovery(run_plan(arguments, fb.Executor(host, None), plan, signals), recovery)
