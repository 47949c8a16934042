"""Running the plan of one domain: shown before, while and after."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import fibackup as fb
from fibackup.cli.progress import aside, progress
from fibackup.cli.recovering import recover_first
from fibackup.cli.say import say, warn
from fibackup.cli.signals import Signals

__all__ = [
    "Done",
    "Watcher",
    "run_plan",
    "settle",
    "show_first",
    "show_plan",
    "warn_if_strict",
    "with_recovery",
]

Done: TypeAlias = tuple[dict[str, object], bool]
"""A domain's part of the result, and whether there was a warning."""


class Watcher(Protocol):
    """What is told of a run, and may keep a step from beginning."""

    def planned(self, plan: fb.Plan) -> None:
        """Hear of the plan, before it is run."""
        ...

    def gate(self, step: fb.Step) -> None:
        """Hear of a step before it begins; a `FibackupError` keeps it from beginning."""
        ...

    def event(self, event: fb.Event) -> None:
        """Hear of an event."""
        ...

    def reported(self, report: fb.Report) -> None:
        """Hear of what was done."""
        ...


def show_plan(arguments: argparse.Namespace, plan: fb.Plan) -> Done:
    """
    Print a plan, and run nothing.

    Args:
        arguments: Parsed.
        plan: For one domain.

    Returns:
        The result, with the plan.

    Source:
        docs/design.md, "Plan and executor".
    """
    if not arguments.json:
        with aside(arguments):
            print(plan)
    return {"plan": fb.encode(plan)}, bool(plan.warnings)


def run_plan(
    arguments: argparse.Namespace,
    executor: fb.Executor,
    plan: fb.Plan,
    signals: Signals,
    watcher: Watcher | None = None,
) -> Done:
    """
    Run a plan, show its progress, print its report.

    Args:
        arguments: Parsed.
        executor: With the host and the store that the plan is for.
        plan: For one domain.
        signals: Whose token ends the run early.
        watcher: What else is told of the run.

    Returns:
        The result, with the report.

    Raises:
        FibackupError: As `Executor.run` does.

    Source:
        docs/design.md, "Plan and executor".
    """
    if arguments.verbose:
        say(str(plan))
    with progress(arguments, plan.domain, plan.uuid) as listener:
        if watcher is None:
            report = executor.run(plan, on_event=listener, cancel=signals.token)
        else:
            report = _watched(executor, plan, signals, listener, watcher)
            watcher.reported(report)
    if not arguments.json:
        with aside(arguments):
            if not arguments.quiet:
                print(report)
            warn_if_strict(arguments, plan.domain, report.warnings)
    return {"report": fb.encode(report)}, bool(report.warnings)


def warn_if_strict(arguments: argparse.Namespace, domain: str, warnings: Sequence[str]) -> None:
    """
    Print the warnings of a quiet run that they make fail.

    Args:
        arguments: Parsed; not every verb has ``--strict``.
        domain: Its name.
        warnings: What its report has, which is not printed.

    Source:
        docs/cli.md.
    """
    if arguments.quiet and getattr(arguments, "strict", False):
        for warning in warnings:
            warn(f"{domain}: {warning}")


def _watched(
    executor: fb.Executor,
    plan: fb.Plan,
    signals: Signals,
    listener: fb.OnEvent,
    watcher: Watcher,
) -> fb.Report:
    def both(event: fb.Event) -> None:
        listener(event)
        watcher.event(event)

    watcher.planned(plan)
    return executor.run(plan, on_event=both, cancel=signals.token, gate=watcher.gate)


def settle(
    arguments: argparse.Namespace,
    host: fb.LibvirtHost,
    store: fb.Store | None,
    domain: fb.Domain,
    signals: Signals,
    *,
    finish: bool = True,
) -> tuple[fb.Domain, Done | None]:
    """
    Settle what a killed run has left of a domain, before another run.

    Args:
        arguments: Parsed.
        host: The hypervisor.
        store: Where an unfinished point is finished, or None.
        domain: The domain, just read.
        signals: Whose token ends the run early.
        finish: False: an unfinished point stays as it is.

    Returns:
        The domain as it is then, and the result of the recovery, None when there was nothing to do.

    Raises:
        FibackupError: As `Executor.run` does. The other run must not begin.

    Source:
        docs/recover.md.
    """
    return recover_first(
        host,
        store,
        domain,
        run=lambda executor, plan: run_plan(arguments, executor, plan, signals),
        warn=warn,
        finish=finish,
    )


def with_recovery(done: Done, recovery: Done | None) -> Done:
    """
    Return the result of a run, with that of the recovery before it.

    Args:
        done: Of the run.
        recovery: Of the recovery, or None.

    Source:
        docs/cli.md, "For scripts".
    """
    if recovery is None:
        return done
    return done[0] | {"recovery": recovery[0]["report"]}, done[1] or recovery[1]


def show_first(arguments: argparse.Namespace, plan: fb.Plan) -> Done:
    """
    Print what would be settled first; what comes then depends on what is found by then.

    Args:
        arguments: Parsed.
        plan: Of the recovery.

    Source:
        docs/recover.md.
    """
    shown = show_plan(arguments, plan)
    if not arguments.json:
        with aside(arguments):
            print(f"then a {arguments.verb}, planned from what is found after that")
    return shown
