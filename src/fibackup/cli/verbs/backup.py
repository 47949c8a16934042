"""``fibackup backup``: take a restore point of each domain."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import fibackup as fb
from fibackup.cli.each import each_domain
from fibackup.cli.hooks import Hooks, hook_options
from fibackup.cli.metrics import metrics_option, note_failure, note_success
from fibackup.cli.options import (
    disk_option,
    domain_options,
    dry_run_option,
    store_option,
    strict_option,
)
from fibackup.cli.runs import Done, run_plan, settle, show_first, show_plan, with_recovery
from fibackup.cli.say import warn
from fibackup.cli.signals import Signals
from fibackup.cli.stores import existing_store, no_history, open_store, refuse_another

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  fibackup backup --store /backup web1
  fibackup backup --store /backup --quiesce require --exclude vdb web1 db1
  fibackup backup --store /backup --memory web1           with what is in its memory
  fibackup backup --store /backup --dry-run web1          print the plan, change nothing
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options of ``backup``.

    Args:
        parser: Of the verb.

    Source:
        docs/design.md, "Command line".
    """
    parser.epilog = _EXAMPLES
    store_option(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--existing-store",
        action="store_true",
        help="refuse an empty directory, which becomes a store otherwise: for timers, whose store "
        "may be a mount point without its mount",
    )
    which.add_argument(
        "--new-store",
        action="store_true",
        help="go on where the domain had another store at this path: a disk was replaced, and is "
        "not merely not mounted",
    )
    disk_option(parser)
    parser.add_argument(
        "--exclude", metavar="T", action="append", default=[], help="all disks but this one"
    )
    parser.add_argument(
        "--quiesce",
        choices=[str(each) for each in fb.Quiesce],
        default=str(fb.Quiesce.TRY),
        help="freeze the guest's file systems by the guest agent (default: try)",
    )
    parser.add_argument(
        "--freeze-timeout",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="time limit of the freeze (default: 60)",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="the guest's memory too, of the same moment; it runs on meanwhile",
    )
    parser.add_argument(
        "--with-secrets",
        action="store_true",
        help="store the passwords in the domain's XML too, which libvirt leaves out otherwise",
    )
    parser.add_argument(
        "--compress",
        action="store_true",
        default=None,
        help="compress what is stored (zstd): less space, and more processor time "
        "(default: if the store has a file 'compress')",
    )
    parser.add_argument(
        "--content-hash",
        action="store_true",
        help="read each disk of the point once, as a guest does, and record the sha256",
    )
    parser.add_argument(
        "--full", action="store_true", help="a full, even where an increment is proven"
    )
    parser.add_argument(
        "--skip-unsupported", action="store_true", help="leave out disks that cannot be backed up"
    )
    parser.add_argument(
        "--consolidate",
        action="store_true",
        help="then commit the older overlays into the disk's own image",
    )
    parser.add_argument(
        "--allow-paused", action="store_true", help="take a paused domain as it stands"
    )
    strict_option(parser)
    dry_run_option(parser)
    hook_options(parser)
    metrics_option(parser)
    domain_options(parser)


def run(arguments: argparse.Namespace, signals: Signals) -> int:
    """
    Take a point of each domain that was asked for.

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
    try:
        with Hooks(arguments, "").watching():
            return each_domain(arguments, signals, _one)
    except fb.FibackupError:  # not of one domain: libvirt cannot be reached, or is too old
        for name in arguments.domains:
            note_failure(arguments, name)
        raise


def _one(arguments: argparse.Namespace, host: fb.LibvirtHost, asked: str, signals: Signals) -> Done:
    hooks = Hooks(arguments, asked)
    name = asked
    try:
        with hooks.watching():
            name, uuid = host.identify(asked)
            hooks.found(name, uuid)
            done, warned = _back_up(arguments, host, uuid, signals, hooks)
    except fb.FibackupError:
        note_failure(arguments, name)
        raise
    problems = hooks.warnings
    if hooks.report is not None:
        problem = note_success(arguments, host, hooks.report)
        problems += [problem] if problem else []
    return {**done, **({"problems": problems} if problems else {})}, warned or bool(problems)


def _back_up(
    arguments: argparse.Namespace, host: fb.LibvirtHost, uuid: str, signals: Signals, hooks: Hooks
) -> Done:
    policy = fb.BackupPolicy(
        disks=tuple(arguments.disk),
        exclude=tuple(arguments.exclude),
        quiesce=fb.Quiesce(arguments.quiesce),
        freeze_timeout_seconds=arguments.freeze_timeout,
        full=arguments.full,
        skip_unsupported=arguments.skip_unsupported,
        memory=arguments.memory,
        allow_paused=arguments.allow_paused,
        consolidate=arguments.consolidate,
        secrets=arguments.with_secrets,
        compress=arguments.compress,
        content_hash=arguments.content_hash,
    )
    domain = host.read_domain(uuid)
    whole = not (arguments.disk or arguments.exclude)
    if arguments.dry_run:
        history, now = _history_for_dry_run(arguments, domain), datetime.now(UTC)
        first = fb.plan_recovery(domain, history, now=now, finish=whole)
        if first.steps:
            return show_first(arguments, first)
        return show_plan(arguments, fb.plan_backup(domain, history, now=now, policy=policy))
    with existing_store(arguments.store) as found:
        domain, recovery = settle(arguments, host, found, domain, signals, finish=whole)
    now = datetime.now(UTC)
    with open_store(
        arguments.store,
        domain,
        policy,
        now=now,
        on_new=(lambda _: None) if arguments.quiet else warn,
        existing=arguments.existing_store,
        another=arguments.new_store,
    ) as store:
        plan = fb.plan_backup(domain, store.read_history(domain.uuid), now=now, policy=policy)
        done = run_plan(arguments, fb.Executor(host, store), plan, signals, hooks)
        return with_recovery(done, recovery)


def _history_for_dry_run(arguments: argparse.Namespace, domain: fb.Domain) -> fb.History:
    path: str = arguments.store
    with existing_store(path) as store:
        if store is not None:
            refuse_another(path, domain, store.uuid, allowed=arguments.new_store)
            fb.Store.require_writable(path, domain.uuid)
            return store.read_history(domain.uuid)
    if arguments.existing_store:
        fb.Store.open(path).close()
    refuse_another(path, domain, None, allowed=arguments.new_store)
    fb.Store.require_empty(path)
    fb.Store.require_writable(path)
    if not arguments.quiet:
        warn(f"{path} is empty, and would be a new store then")
    return no_history(path, domain)
