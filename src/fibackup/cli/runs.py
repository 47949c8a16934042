"""Running the plan of one domain: shown before, while and after."""

from __future__ import annotations

import argparse
from typing import Protocol, TypeAlias

import fibackup as fb
from fibackup.cli.progress import aside, progress
from fibackup.cli.say import say
from fibackup.cli.signals import Signals

__all__ = ["Done", "Watcher", "run_plan", "show_plan"]

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
    if not arguments.json and not arguments.quiet:
        with aside(arguments):
            print(report)
    return {"report": fb.encode(report)}, bool(report.warnings)


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
