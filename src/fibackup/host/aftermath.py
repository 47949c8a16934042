"""
What a run that failed has left: where the guest writes now, what must stay, what to run next.

Nothing is guessed. What cannot be found out is said to be unknown, and then no image may be
deleted.
"""

from __future__ import annotations

import shlex

from fibackup.errors import (
    AgentError,
    FibackupError,
    HostError,
    ManifestError,
    QemuImgError,
    StoreError,
    VerifyError,
)
from fibackup.host.api import Host
from fibackup.model.snapshot import NewOverlay, Snapshot
from fibackup.plan.steps import Plan
from fibackup.plan.verify_steps import VerifyContents

__all__ = ["command_after", "state_after"]

_OF_WHAT_IS_STORED = (HostError, ManifestError, QemuImgError, VerifyError)
_KEEP = "delete neither these nor their backing files"


def state_after(
    plan: Plan, error: FibackupError, *, host: Host | None, snapshot: Snapshot | None, point: str
) -> str:
    """
    Say where the guest writes now, and what must not be deleted.

    Args:
        plan: The plan that was run.
        error: Why a step failed.
        host: Asked for the chains as they are; None: no domain took part.
        snapshot: The snapshot that was taken or attempted; None: it had not come to that.
        point: The point that is published, or nothing.

    Source:
        docs/errors.md.
    """
    if plan.verb == "verify":
        return "the store is unchanged; what was verified before the failure is remembered"
    if plan.verb == "prune":
        if isinstance(error, VerifyError):
            return "what was kept so far is as it was; points that need the wrong file are spoiled"
        return "the points that the store lists read as before; the next run finishes what is left"
    if host is None:
        return "the store is unchanged; files that were finished before the failure stand"
    parts = [
        "the guest may be frozen still"
        if isinstance(error, AgentError) and error.maybe_frozen
        else "",
        f"point {point} is published and complete" if point else "",
        _chains_now(host, plan)
        if plan.verb in {"consolidate", "recover"}
        else _overlays_now(host, plan, snapshot),
    ]
    return "; ".join(part for part in parts if part)


def _chains_now(host: Host, plan: Plan) -> str:
    """Say what each disk's active layer is now; every chain is whole, whatever failed."""
    try:
        disks = host.read_domain(plan.uuid).disks
    except FibackupError:
        return "libvirt does not answer; delete no image of this domain"
    places = ", ".join(f"{disk.target}: {disk.chain.active.path}" for disk in disks if disk.chain)
    return f"the active layers are {places}; {_KEEP}"


def _overlays_now(host: Host, plan: Plan, snapshot: Snapshot | None) -> str:
    taken = _taken(host, plan, snapshot)
    if taken is None:
        return (
            "it is not known whether the snapshot was taken: libvirt does not answer; "
            "delete no image of this domain"
        )
    if not taken:
        return "no snapshot was taken; the guest writes where it wrote before"
    places = ", ".join(f"{new.target} to {new.path}" for new in taken)
    return f"the guest writes {places}; {_KEEP}"


def _taken(host: Host, plan: Plan, snapshot: Snapshot | None) -> tuple[NewOverlay, ...] | None:
    """Return the overlays that are in use now; None when that cannot be found out."""
    if snapshot is None:
        return ()
    try:
        domain = host.read_domain(plan.uuid)
    except FibackupError:
        return None
    in_use = {path for disk in domain.disks if disk.chain for path in disk.chain.paths}
    return tuple(new for new in snapshot.overlays if new.path in in_use)


def command_after(plan: Plan, error: FibackupError, store_path: str) -> str:
    """
    Return what to run next, fit for a shell.

    Args:
        plan: The plan that was run.
        error: Why a step failed.
        store_path: Where the store is, or nothing.

    Source:
        docs/errors.md.
    """
    store = shlex.quote(store_path)
    if isinstance(error, AgentError) and error.maybe_frozen:
        return f"virsh domfsthaw {plan.uuid}"
    if plan.verb == "recover" and plan.store:
        return f"fibackup recover --store {store} {plan.uuid}"
    if plan.verb in {"recover", "consolidate"}:
        return f"fibackup {plan.verb} {plan.uuid}"
    if plan.verb == "verify":
        deep = any(isinstance(step, VerifyContents) for step in plan.steps)
        return f"fibackup verify --store {store} {plan.uuid}{' --deep' * deep} --skip-since 1d"
    if isinstance(error, VerifyError) and plan.verb == "prune":
        return f"fibackup verify --store {store} {plan.uuid}"
    if plan.verb == "restore" and isinstance(error, _OF_WHAT_IS_STORED):
        return f"fibackup verify --store {store} {plan.uuid}"
    if plan.verb in {"restore", "prune"} or isinstance(error, StoreError):
        return f"fibackup list --store {store}"
    return f"fibackup backup --store {store} {plan.uuid}"
