"""
What a child of `forks` does: run a command of ours, or a run that ends in the middle.

::

    commands          fi-backup or fibackup with arguments
    run_of            an act of ours; before its n-th call of a seam a process is killed
    job               a consolidation that waits for ever once its block job runs
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from attrs import evolve

import fibackup as fb
from fibackup.cli import fi_backup
from fibackup.cli import main as fibackup_main

__all__ = ["ACTS", "CHILDREN"]

READERS = {
    "autostart",
    "domain_config",
    "free_bytes",
    "image_uses",
    "occupied",
    "read_config",
    "read_domain",
    "read_history",
    "read_state",
    "versions",
}
"""Calls that change nothing: killed before one is as killed before the next that does."""


PLAIN = fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True)


def say(*words: str) -> None:
    """Print a line at once: the process may be killed right after it."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


class Calls:
    """Counts the calls of host and store; before the n-th it kills a process, or fails."""

    def __init__(self, at: int, victim: int | None) -> None:
        """Count to *at*; a victim of 0 is this process, and without one the call fails."""
        self.count, self.at, self.last = 0, at, ""
        self.victim = os.getpid() if victim == 0 else victim

    def seam(self, inner: object) -> Any:  # noqa: ANN401 - it stands in for a host and for a store
        """Return *inner* with its calls counted."""
        return _Seam(inner, self)

    def one(self, name: str) -> None:
        """Count a call; the look at the chain right after a job counts too."""
        looks, self.last = self.last == "run_block_job", name
        if name in READERS and not looks:
            return
        self.count += 1
        if self.count == self.at:
            say("call", name)
            if self.victim is None:
                raise fb.HostError(reason=f"{name} fails, as the test wishes")
            os.kill(self.victim, signal.SIGKILL)


class _Seam:
    """A host or a store whose calls are counted."""

    def __init__(self, inner: object, calls: Calls) -> None:
        self.inner, self.calls = inner, calls

    def __getattr__(self, name: str) -> object:
        value = getattr(self.inner, name)
        if not callable(value) or name == "locked":
            return value

        def call(*words: object, **options: object) -> object:
            self.calls.one(name)
            return value(*words, **options)

        return call


def run_of(uri: str, path: str, uuid: str, act: str, at: str, victim: str, whose: str) -> int:
    """Run an act; say the point that it is to make, the call that was its last, and its error."""
    ours = whose in {"client", "error"}
    calls = Calls(int(at), None if whose == "error" else int(victim))
    real_host, real_store = fb.LibvirtHost.open(uri), fb.Store.open(path)
    try:
        plan = ACTS[act](real_host, real_store, uuid)
    except fb.FibackupError as error:  # refused, as a consolidation in the middle of a backup is
        say("point", "-")
        return _failed(error)
    say("point", plan.point or "-")
    store = calls.seam(real_store) if ours else real_store
    try:
        fb.Executor(calls.seam(real_host), store if plan.store else None, threads=1).run(plan)
    except fb.FibackupError as error:
        return _failed(error)
    return 0


def _failed(error: fb.FibackupError) -> int:
    say("error", type(error).__name__, str(error).replace("\n", "; "))
    return 1


def _backup(
    policy: fb.BackupPolicy,
) -> Callable[[fb.LibvirtHost, fb.Store, str], fb.Plan]:
    def plan(host: fb.LibvirtHost, store: fb.Store, uuid: str) -> fb.Plan:
        found, history = host.read_domain(uuid), store.read_history(uuid)
        return fb.plan_backup(found, history, now=datetime.now(UTC), policy=policy)

    return plan


def _consolidation(**wishes: Any) -> Callable[[fb.LibvirtHost, fb.Store, str], fb.Plan]:  # noqa: ANN401
    def plan(host: fb.LibvirtHost, _: fb.Store, uuid: str) -> fb.Plan:
        policy = fb.ConsolidationPolicy(allow_paused=True, **wishes)
        return fb.plan_consolidation(host.read_domain(uuid), policy=policy)

    return plan


ACTS: dict[str, Callable[[fb.LibvirtHost, fb.Store, str], fb.Plan]] = {
    "backup": _backup(PLAIN),
    "rolling": _backup(evolve(PLAIN, consolidate=True)),
    "memory": _backup(evolve(PLAIN, memory=True)),
    "commit": _consolidation(),
    "keep": _consolidation(keep_overlay=True),
    "pull": _consolidation(method=fb.Method.BLOCKPULL),
    "off": _consolidation(),
}


def job(uri: str, uuid: str, method: str, keep: str, bandwidth: str) -> int:
    """Start a slow consolidation; say when its block job runs, and wait to be killed."""

    def listen(event: fb.Event) -> None:
        if isinstance(event, fb.CopyProgress):
            say("running")
            threading.Event().wait()

    host = fb.LibvirtHost.open(uri)
    policy = fb.ConsolidationPolicy(
        method=fb.Method(method),
        keep_overlay=keep == "1",
        bandwidth_bytes=int(bandwidth),
        allow_paused=True,
    )
    plan = fb.plan_consolidation(host.read_domain(uuid), policy=policy)
    fb.Executor(host, None).run(plan, on_event=listen)
    return 0


CHILDREN: dict[str, Callable[..., int]] = {
    "fi-backup": lambda *words: fi_backup.main(words),
    "fibackup": lambda *words: fibackup_main(words),
    "run": run_of,
    "job": job,
}
"""What a child can be, by name; called with words."""
