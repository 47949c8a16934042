"""
The check with which every run begins: what a killed run has left is settled first.

::

    backup         in the store of the backup: an unfinished point is finished, then one is taken
    consolidate    in the store that the ledger names, if a point is unfinished
    recover        in the store that was given, else in the one that the ledger names
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

import fibackup as fb
from fibackup.cli.stores import existing_store

__all__ = ["plan_alone", "plan_first", "recover_first", "store_of_run", "store_of_unfinished"]


_T = TypeVar("_T")


@contextmanager
def store_of_run(path: str | None, domain: fb.Domain) -> Generator[fb.Store | None]:
    """
    Open the store that was asked for, or the one that the ledger names for the run, if any.

    Args:
        path: What was asked for, or None.
        domain: The domain, just read.

    Yields:
        The store, None when it is not at hand.

    Source:
        docs/recover.md.
    """
    run = domain.ledger.run
    places = [each.path for each in domain.ledger.stores if run and each.uuid == run.store]
    where = path or next(iter(places), None)
    if where is None:
        yield None
        return
    with existing_store(where) if path is None else fb.Store.open(where) as store:
        yield store


@contextmanager
def store_of_unfinished(domain: fb.Domain) -> Generator[fb.Store | None]:
    """
    Open the store that the ledger names, when a run has taken a snapshot and published no point.

    Args:
        domain: The domain, just read.

    Yields:
        The store, None when none is needed or it is not at hand.

    Source:
        docs/recover.md.
    """
    run = domain.ledger.run
    if run is None or run.phase is not fb.RunPhase.TAKEN:
        yield None
        return
    with store_of_run(None, domain) as store:
        yield store


def plan_first(domain: fb.Domain, store: fb.Store | None, *, finish: bool = True) -> fb.Plan:
    """
    Plan what is to be settled before a run; without steps nearly always.

    Args:
        domain: The domain, just read.
        store: Where an unfinished point is finished, or None.
        finish: False: an unfinished point stays as it is.

    Source:
        docs/recover.md.
    """
    history = store.read_history(domain.uuid) if store is not None else None
    return fb.plan_recovery(domain, history, now=datetime.now(UTC), finish=finish)


def plan_alone(
    host: fb.LibvirtHost, domain: fb.Domain, store: fb.Store | None, *, finish: bool = True
) -> tuple[fb.Domain, fb.Plan]:
    """
    Plan what is to be settled, and call nothing unfinished that a run works on right now.

    Args:
        host: The hypervisor.
        domain: The domain, just read.
        store: Where an unfinished point is finished, or None.
        finish: False: an unfinished point stays as it is.

    Returns:
        The domain that the plan is for, read again when that was needed, and the plan.

    Raises:
        LockedError: A run works on the domain.

    Source:
        docs/recover.md.
    """
    plan = plan_first(domain, store, finish=finish)
    if plan.steps or not plan.warnings:  # with steps, who runs them takes the lock
        return domain, plan
    with host.locked(domain.uuid):
        domain = host.read_domain(domain.uuid)
        return domain, plan_first(domain, store, finish=finish)


def recover_first(
    host: fb.LibvirtHost,
    store: fb.Store | None,
    domain: fb.Domain,
    *,
    run: Callable[[fb.Executor, fb.Plan], _T],
    warn: Callable[[str], None],
    finish: bool = True,
) -> tuple[fb.Domain, _T | None]:
    """
    Settle what a killed run has left of a domain.

    Args:
        host: The hypervisor.
        store: Where an unfinished point is finished, or None.
        domain: The domain, just read.
        run: Runs a plan, and tells of it.
        warn: Gets what is to be said when nothing can be done.
        finish: False: an unfinished point stays as it is.

    Returns:
        The domain, read again when something was done, and what *run* made of that, or None.

    Raises:
        StepError: It could not be settled. The rest must not begin.

    Source:
        docs/recover.md: each backup starts with this.
    """
    domain, plan = plan_alone(host, domain, store, finish=finish)
    if not plan.steps:
        for warning in plan.warnings:
            warn(warning)
        return domain, None
    done = run(fb.Executor(host, store if plan.store else None), plan)
    return host.read_domain(domain.uuid), done
