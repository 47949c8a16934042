"""
Plan a backup of a domain that is off: nothing of the domain is changed, nothing needless copied.

::

    live    disk.qcow2 <- disk.bimg-A            store   ... <- A
    off     disk.bimg-A has been written         store   ... <- A <- B      B: a copy of disk.bimg-A
    off     disk.bimg-A is as at B               store   C: as at B, no image
    on      snapshot, copy disk.bimg-A           store   ... <- A <- D      beside B, not on it

QEMU's image lock keeps the domain from starting while an image is copied; at the end every image
is compared once more with what it was when the plan was made.
"""

from __future__ import annotations

from datetime import datetime

from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Domain, DomainState
from fibackup.model.point import DiskKind, History, PointDisk, RestorePoint
from fibackup.plan.continuity import find_parent, losses
from fibackup.plan.layers import free_id, store_layers
from fibackup.plan.memory import left_memory
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.selection import chain_of, check_disk, choose_disks
from fibackup.plan.state import save_states
from fibackup.plan.steps import (
    ConfirmOff,
    CopyImage,
    Decision,
    Expectation,
    ExpectedDisk,
    InParallel,
    Plan,
    PlannedDisk,
    PublishPoint,
    SaveDomainConfig,
)

__all__ = ["plan_offline"]


def plan_offline(domain: Domain, history: History, *, now: datetime, policy: BackupPolicy) -> Plan:
    """
    Plan the next restore point of a domain that is off.

    Args:
        domain: The domain, just read; its state is `DomainState.SHUTOFF`.
        history: What the store holds of it, just read.
        now: The time, aware; it names the point and nothing else.
        policy: What the caller wants; quiesce and consolidate do not apply.

    Returns:
        A plan that copies, per disk, what was written since the newest proven point.

    Raises:
        UnsupportedDiskError: A chosen disk cannot be copied. Nothing was touched.
        ChainError: A chain contradicts the headers of its images. Nothing was touched.
        PolicyError: No disk is left. Nothing was touched.

    Source:
        docs/design.md, "Offline domains".
    """
    choice = choose_disks(domain, policy)
    for disk in choice.disks:
        check_disk(domain, disk)
    point = free_id(now, domain, history)
    parts = tuple(
        _plan_disk(domain, chain_of(disk), history, point, policy) for disk in choice.disks
    )
    expected = tuple(ExpectedDisk.of(chain_of(disk), frozen=True) for disk in choice.disks)
    lanes = tuple(copies for _, copies in parts if copies)
    latest = history.latest
    config = f"{point}.xml"
    return Plan(
        verb="backup",
        domain=domain.name,
        uuid=domain.uuid,
        store=history.store,
        point=point,
        expects=Expectation(
            disks=expected,
            ledger=domain.ledger,
            sequence=latest.sequence if latest else 0,
            receipts=tuple(
                f"{disk.target}/{image.name}" for disk, _ in parts for image in disk.adopted
            ),
            space_bytes=sum(copy.estimate_bytes for lane in lanes for copy in lane),
            states=(DomainState.SHUTOFF,),
        ),
        decisions=(
            *(Decision(disk.target, disk.kind, disk.reason, disk.parent) for disk, _ in parts),
            *(Decision(target, None, reason) for target, reason in choice.skipped),
        ),
        steps=(
            *left_memory(domain),
            *save_states(domain, point),
            SaveDomainConfig(config, policy.secrets),
            InParallel(lanes),
            ConfirmOff(expected),
            PublishPoint(
                point=point,
                sequence=history.next_sequence,
                parent=latest.id if latest else None,
                config=config,
                disks=tuple(disk for disk, _ in parts),
                skipped=choice.skipped,
                content_hash=policy.content_hash,
            ),
        ),
        warnings=(*choice.warnings, *losses(domain.ledger, history)),
    )


def _plan_disk(
    domain: Domain, chain: BackingChain, history: History, point: str, policy: BackupPolicy
) -> tuple[PlannedDisk, tuple[CopyImage, ...]]:
    target = chain.target
    parent = "a full was asked for" if policy.full else find_parent(chain, domain.ledger, history)
    if isinstance(parent, str):
        on, layers, under, reason = None, chain.images, None, parent
    else:
        on, layers = parent.point.id, parent.new_layers
        under = history.top(on, target).name
        reason = f"written since point {on}"
    same = None if policy.full else _unchanged_since(target, layers, on, history)
    if same is not None:
        why = f"nothing was written since point {same.id}"
        return PlannedDisk(target, DiskKind.INCREMENT, why, same.id, ()), ()
    names, copies, adopted = store_layers(
        target, layers, under, history, point, frozen=True, compress=policy.compresses(history)
    )
    kind = DiskKind.FULL if on is None else DiskKind.INCREMENT
    return PlannedDisk(target, kind, reason, on, names, adopted), copies


def _unchanged_since(
    target: str, layers: tuple[Image, ...], on: str | None, history: History
) -> RestorePoint | None:
    """
    Return the newest point whose images of the disk were copied from *layers* as they are now.

    What lies under the layers is proven already, or there is nothing under them. A point that a
    prune takes away is passed over.
    """
    for point in reversed(history.points):
        if point.id in history.going:
            continue
        for disk in point.disks:
            if disk.target == target and disk.parent == on and _copied_from(disk, layers):
                return None if history.damage(point.id, target) else point
    return None


def _copied_from(disk: PointDisk, layers: tuple[Image, ...]) -> bool:
    found = [(each.source.path, each.source.format, each.source.identity) for each in disk.images]
    wanted = [(str(image.path), image.format, image.identity) for image in layers]
    return found == wanted and all(image.identity is not None for image in layers)
