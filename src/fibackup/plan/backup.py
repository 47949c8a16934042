"""
Plan a forward-incremental backup: full or increment, under which names, in which steps.

::

    observed   disk.qcow2 <- disk.bimg-A (active)       store: ... <- A
    snapshot   disk.qcow2 <- disk.bimg-A <- disk.bimg-B (active)
    copy       disk.bimg-A                              store: ... <- A <- B
    publish    the manifest of B
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath

from attrs import evolve, frozen

from fibackup.errors import DomainStateError
from fibackup.model.chain import MAX_DEPTH, BackingChain, Image
from fibackup.model.domain import Disk, Domain, DomainState
from fibackup.model.ledger import FrozenImage, KnownStore, Ledger, Overlay, Run, RunPhase
from fibackup.model.point import DiskKind, History
from fibackup.model.snapshot import NewOverlay, Snapshot
from fibackup.plan.consolidate import rolling
from fibackup.plan.continuity import find_parent, losses
from fibackup.plan.layers import free_id, left_by_run, overlay_paths, store_layers
from fibackup.plan.memory import MEMORY_SUFFIX, check_memory, left_memory, memory_path
from fibackup.plan.offline import plan_offline
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.selection import chain_of, check_disk, check_state, choose_disks, live_states
from fibackup.plan.state import save_states
from fibackup.plan.steps import (
    CopyImage,
    CopyMemory,
    Decision,
    EachDisk,
    Expectation,
    ExpectedDisk,
    InParallel,
    Plan,
    PlannedDisk,
    PublishPoint,
    SaveDomainConfig,
    Step,
    TakeSnapshot,
    ThawGuest,
    WhileFrozen,
    WriteLedger,
)
from fibackup.units import counted

__all__ = ["DEEP_CHAIN", "DEEP_STORED_CHAIN", "plan_backup"]

DEEP_CHAIN = 20
"""Depth above which a plan warns; libvirt 10.8 to 11.10 cannot start a domain with about 25."""

DEEP_STORED_CHAIN = 150
"""Images of a disk in the store above which a plan warns; libvirt runs no domain on 200."""


@frozen
class _Freeze:
    """Whether the guest is frozen for the snapshot, and what is to be said when it is not."""

    wanted: bool
    required: bool = False
    timeout_seconds: float = 60.0
    detail: str = ""


@frozen
class _DiskPlan:
    """What one chosen disk will get."""

    chain: BackingChain
    overlay: PurePosixPath
    kind: DiskKind
    reason: str
    parent: str | None
    copies: tuple[CopyImage, ...]
    planned: PlannedDisk

    @property
    def decision(self) -> Decision:
        """The decision for the user."""
        return Decision(self.chain.target, self.kind, self.reason, self.parent)


def plan_backup(
    domain: Domain, history: History, *, now: datetime, policy: BackupPolicy | None = None
) -> Plan:
    """
    Plan the next restore point of a domain, running or off.

    Args:
        domain: The domain, just read.
        history: What the store holds of it, just read.
        now: The time, aware; it names the point and nothing else.
        policy: What the caller wants; the default is every disk, increments, freeze if possible.

    Returns:
        For a running domain, a plan with one atomic snapshot over all chosen disks; running it
        copies, per disk, only the images that the store does not have. For one that is off, see
        docs/backup.md: nothing of the domain is changed.

    Raises:
        StoreError: The store has several directories of the domain. Nothing was touched.
        DomainStateError: The domain is off, paused, crashed, or busy. Nothing was touched.
        UnsupportedDiskError: A chosen disk cannot be snapshotted or copied. Nothing was touched.
        ChainError: A chain contradicts the headers of its images. Nothing was touched.
        PolicyError: No disk is left, or a wish names no disk. Nothing was touched.
        ModelError: *now* is naive. Nothing was touched.

    Source:
        libvirt ``virDomainSnapshotCreateXML``; docs/design.md, "Live side".
    """
    wishes = policy if policy is not None else BackupPolicy()
    history.refuse_copies()
    if history.found_wrong:
        history = evolve(history, damaged=history.distrusted)
    check_state(domain, wishes)
    if domain.state is DomainState.SHUTOFF:
        return plan_offline(domain, history, now=now, policy=wishes)
    choice = choose_disks(domain, wishes)
    if wishes.memory:
        check_memory(domain, choice)
    for disk in choice.disks:
        check_disk(domain, disk)
    point = free_id(now, domain, history)
    disks = _plan_disks(choice.disks, domain.ledger, history, point, wishes)
    freeze = _plan_freeze(domain, wishes)
    memory = memory_path(disks[0].overlay) if wishes.memory else None
    said = (freeze.detail,) if freeze.detail else ()
    return Plan(
        verb="backup",
        domain=domain.name,
        uuid=domain.uuid,
        store=history.store,
        point=point,
        expects=_expects(domain, history, disks, wishes, memory),
        decisions=(
            *(disk.decision for disk in disks),
            *(Decision(target, None, reason) for target, reason in choice.skipped),
        ),
        steps=(
            *_steps(domain, history, point, disks, choice.skipped, freeze, memory, wishes),
            *(_rolling(domain, disks) if wishes.consolidate else ()),
        ),
        warnings=(
            *choice.warnings,
            *_warnings(domain, history, disks),
            *(_not_consolidated(domain) if wishes.consolidate else ()),
            *said,
        ),
    )


# --- full or increment --------------------------------------------------------------------------


def _plan_disks(
    disks: tuple[Disk, ...], ledger: Ledger, history: History, point: str, policy: BackupPolicy
) -> tuple[_DiskPlan, ...]:
    overlays = overlay_paths(map(chain_of, disks), point)
    return tuple(
        _plan_disk(chain_of(disk), overlays[disk.target], ledger, history, point, policy)
        for disk in disks
    )


def _plan_disk(
    chain: BackingChain,
    overlay: PurePosixPath,
    ledger: Ledger,
    history: History,
    point: str,
    policy: BackupPolicy,
) -> _DiskPlan:
    parent = "a full was asked for" if policy.full else find_parent(chain, ledger, history)
    if isinstance(parent, str):
        kind, reason, on, under, layers = DiskKind.FULL, parent, None, None, chain.images
    else:
        kind, on, layers = DiskKind.INCREMENT, parent.point.id, parent.new_layers
        under = history.top(parent.point.id, chain.target).name
        passed = f" (not on a newer one: {parent.doubt})" if parent.doubt else ""
        reason = f"ledger, chain and store agree on point {on}{passed}"
    names, copies, adopted = store_layers(
        chain.target, layers, under, history, point, compress=policy.compresses(history)
    )
    planned = PlannedDisk(chain.target, kind, reason, on, names, adopted)
    return _DiskPlan(chain, overlay, kind, reason, on, copies, planned)


# --- the steps ----------------------------------------------------------------------------------


def _plan_freeze(domain: Domain, policy: BackupPolicy) -> _Freeze:
    if policy.quiesce is Quiesce.OFF or policy.memory:
        return _Freeze(wanted=False)
    obstacle = ""
    if domain.state is DomainState.PAUSED:
        obstacle = "the domain is paused, the guest agent cannot answer"
    elif not domain.agent_connected:
        obstacle = "the guest agent is not connected"
    required = policy.quiesce is Quiesce.REQUIRE
    if obstacle and required:
        raise DomainStateError(
            domain=domain.name,
            reason=f"the guest cannot be quiesced: {obstacle}",
            remedy="start qemu-guest-agent in the guest, or --quiesce try (fi-backup: no -q)",
        )
    if obstacle:
        return _Freeze(wanted=False, detail=f"crash-consistent: {obstacle}")
    return _Freeze(wanted=True, required=required, timeout_seconds=policy.freeze_timeout_seconds)


def _warnings(domain: Domain, history: History, disks: tuple[_DiskPlan, ...]) -> tuple[str, ...]:
    out = list(losses(domain.ledger, history))
    for disk in disks:
        target, active = disk.chain.target, str(disk.chain.active.path)
        depth = disk.chain.depth + 1
        if depth > DEEP_CHAIN:
            out.append(f"disk {target} will be {depth} images deep: consolidate soon")
        stored = _stored_depth(history, disk)
        if stored > DEEP_STORED_CHAIN:
            out.append(
                f"disk {target} will lie on {counted(stored - 1, 'image')} in the store: prune "
                "points of it, or begin a new chain with a full (--full)"
            )
        config = domain.disk(target).config_source
        if domain.persistent and config is None:
            out.append(
                f"disk {target} is not in the persistent definition, nor in the XML of the point: "
                "restore --define refuses it (virsh attach-disk --config makes it permanent)"
            )
        if domain.persistent and config is not None and config != active:
            out.append(f"disk {target}: the persistent definition names {config}, not {active}")
    return tuple(out)


def _stored_depth(history: History, disk: _DiskPlan) -> int:
    """Return of how many images a disk of the point will consist; 0 for a full."""
    if disk.parent is None:
        return 0
    under = history.images(disk.parent, disk.chain.target)
    return len(disk.planned.images) + len(under)


def _expects(
    domain: Domain,
    history: History,
    disks: tuple[_DiskPlan, ...],
    policy: BackupPolicy,
    memory: PurePosixPath | None,
) -> Expectation:
    latest = history.latest
    return Expectation(
        disks=tuple(ExpectedDisk.of(disk.chain) for disk in disks),
        ledger=domain.ledger,
        sequence=latest.sequence if latest else 0,
        receipts=tuple(
            f"{disk.chain.target}/{image.name}" for disk in disks for image in disk.planned.adopted
        ),
        absent=(*(disk.overlay for disk in disks), *((memory,) if memory else ())),
        states=live_states(policy),
        space_bytes=sum(copy.estimate_bytes for disk in disks for copy in disk.copies)
        + (domain.memory_bytes if memory else 0),
    )


def _steps(
    domain: Domain,
    history: History,
    point: str,
    disks: tuple[_DiskPlan, ...],
    skipped: tuple[tuple[str, str], ...],
    freeze: _Freeze,
    memory: PurePosixPath | None,
    policy: BackupPolicy,
) -> tuple[Step, ...]:
    snapshot = TakeSnapshot(
        Snapshot(
            name=f"fibackup-{point}",
            overlays=tuple(
                NewOverlay(d.chain.target, d.chain.active.path, d.overlay) for d in disks
            ),
            excluded=tuple(target for target, _ in skipped),
            memory=memory,
        )
    )
    moment: Step = snapshot
    if freeze.wanted:
        moment = WhileFrozen((snapshot,), freeze.required, freeze.timeout_seconds)
    latest = history.latest
    intent, taken, result = _ledgers(
        domain, history, point, disks, freezes=freeze.wanted, memory=memory
    )
    config = f"{point}.xml"
    lanes = tuple(disk.copies for disk in disks if disk.copies)
    run = domain.ledger.run
    left_frozen = run is not None and run.frozen and domain.agent_connected
    thaw = (ThawGuest(freeze.timeout_seconds),) if left_frozen else ()
    stored = f"{point}{MEMORY_SUFFIX}"
    saved = (CopyMemory(memory, stored, domain.memory_bytes),) if memory else ()
    return (
        *thaw,
        *left_memory(domain),
        WriteLedger("the intent, before the snapshot", intent),
        moment,
        WriteLedger("what was taken", taken),
        *save_states(domain, point),
        SaveDomainConfig(config, policy.secrets),
        InParallel(lanes),
        *saved,
        PublishPoint(
            point=point,
            sequence=history.next_sequence,
            parent=latest.id if latest else None,
            config=config,
            disks=tuple(disk.planned for disk in disks),
            skipped=skipped,
            consistency_detail=freeze.detail,
            content_hash=policy.content_hash,
        ),
        WriteLedger(
            "the result",
            result,
            tuple((disk.chain.target, disk.planned.images[0]) for disk in disks),
        ),
    )


def _rolling(domain: Domain, disks: tuple[_DiskPlan, ...]) -> tuple[EachDisk, ...]:
    """Return the step that commits the frozen overlays, for the chains as they are by then."""
    if domain.snapshots:
        return ()
    parts = tuple(
        part for disk in disks if (part := rolling(domain.ledger, _chain_after(disk))) is not None
    )
    return (EachDisk(parts, spare_shared=True),) if parts else ()


def _not_consolidated(domain: Domain) -> tuple[str, ...]:
    if not domain.snapshots:
        return ()
    names = ", ".join(domain.snapshots)
    return (f"not consolidated: libvirt keeps snapshots that need the chain: {names}",)


def _ledgers(
    domain: Domain,
    history: History,
    point: str,
    disks: tuple[_DiskPlan, ...],
    *,
    freezes: bool,
    memory: PurePosixPath | None,
) -> tuple[Ledger, Ledger, Ledger]:
    """Return the ledger before the snapshot, after it, and at the end."""
    chains = tuple(disk.chain for disk in domain.disks if disk.chain is not None)
    before = domain.ledger.after_lost_job(chains)
    run = Run(point=point, store=history.store, phase=RunPhase.INTENT, frozen=freezes)
    taken = _with_overlays(before, history.store, point, disks).without_unused(
        _chains_after(domain, disks)
    )
    other_stores = tuple(store for store in before.stores if store.uuid != history.store)
    known = KnownStore(history.store, str(history.path), point)
    return (
        evolve(before, run=run, memory=memory),
        evolve(taken, run=evolve(run, phase=RunPhase.TAKEN, frozen=False), memory=memory),
        evolve(taken, run=None, memory=None, stores=(*other_stores, known)),
    )


def _with_overlays(ledger: Ledger, store: str, point: str, disks: tuple[_DiskPlan, ...]) -> Ledger:
    """
    Add the new overlays, and every image under them.

    An image that was frozen before keeps the identity that it had then, so that a change between
    two points cannot slip in; the newly frozen one is measured after the snapshot. An older
    overlay, of any store, is marked stale when an image under it is written down otherwise than
    before: its proof is gone, and the new identity must not stand in for it. An overlay whose
    run ended before it was written down is adopted: its name is the one of the intent.
    """
    before = {entry.path: entry for entry in ledger.images}
    after = dict(before)
    new: list[Overlay] = []
    for disk in disks:
        active = disk.chain.active
        new.append(Overlay(disk.chain.target, disk.overlay, active.path, point, store))
        for image, under in zip(disk.chain.images, (*disk.chain.images[1:], None), strict=True):
            identity = None if image is active else image.identity
            backing = under.path if under is not None else None
            after[image.path] = FrozenImage(image.path, image.format, backing, identity)
    old = tuple(
        entry if _keeps_its_proof(entry, before, after) else evolve(entry, stale=True)
        for entry in ledger.overlays
    )
    adopted = left_by_run(ledger, tuple(disk.chain for disk in disks))
    return evolve(ledger, overlays=(*old, *adopted, *new), images=tuple(after.values()))


def _keeps_its_proof(
    overlay: Overlay,
    before: Mapping[PurePosixPath, FrozenImage],
    after: Mapping[PurePosixPath, FrozenImage],
) -> bool:
    """Tell whether every image under *overlay* is written down as it was."""
    path: PurePosixPath | None = overlay.below
    for _ in range(MAX_DEPTH):
        entry = after.get(path) if path is not None else None
        if path is None or entry is None:
            return path is None
        if before.get(path) != entry:
            return False
        path = entry.backing
    return False


def _chains_after(domain: Domain, disks: tuple[_DiskPlan, ...]) -> tuple[BackingChain, ...]:
    """Return every chain of the domain as it is after the snapshot."""
    new = {disk.chain.target: disk for disk in disks}
    out: list[BackingChain] = []
    for disk in domain.disks:
        if disk.chain is None:
            continue
        plan = new.get(disk.target)
        out.append(disk.chain if plan is None else _chain_after(plan))
    return tuple(out)


def _chain_after(disk: _DiskPlan) -> BackingChain:
    return BackingChain(disk.chain.target, (Image(disk.overlay, "qcow2"), *disk.chain.images))
