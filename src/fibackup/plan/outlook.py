"""
What the chains will be once a plan has been run: computed from its steps alone.

::

    now        disk.qcow2 <- disk.bimg-A
    TakeSnapshot, then a commit of what lies under the new overlay
    after      disk.qcow2 <- disk.bimg-B         disk.qcow2 is written, disk.bimg-A is deleted

A step that changes no live chain has no place here, and neither has one whose end is not known
while planning, such as `FinishBlockJob`.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from attrs import define, field, frozen

from fibackup.plan.steps import (
    ConsolidateDisk,
    EachDisk,
    Plan,
    PullImages,
    Step,
    TakeSnapshot,
    WhileFrozen,
)

__all__ = ["DiskOutlook", "foresee"]


@frozen
class DiskOutlook:
    """
    One disk's chain before and after a plan.

    Attributes:
        target: The disk.
        before: Paths of its images as the plan expects them, active layer first.
        after: Paths of its images when every step has succeeded.
        written: Images that a block job writes into; they stay.
        deleted: Images whose files are deleted.
    """

    target: str
    before: tuple[PurePosixPath, ...]
    after: tuple[PurePosixPath, ...]
    written: frozenset[PurePosixPath] = frozenset()
    deleted: frozenset[PurePosixPath] = frozenset()

    @property
    def rows(self) -> tuple[PurePosixPath, ...]:
        """Every image that is there before or after, the uppermost first."""
        return (*(path for path in self.after if path not in self.before), *self.before)

    @property
    def changes(self) -> bool:
        """True when the plan changes anything of the chain."""
        return self.before != self.after or bool(self.written)


@define
class _Disk:
    """A chain while the steps go by."""

    chain: tuple[PurePosixPath, ...]
    written: set[PurePosixPath] = field(factory=set[PurePosixPath])
    deleted: set[PurePosixPath] = field(factory=set[PurePosixPath])


def foresee(plan: Plan) -> tuple[DiskOutlook, ...]:
    """
    Return the chains before a plan and after it.

    Args:
        plan: Any plan; it is not run.

    Returns:
        One outlook for each disk that the plan expects to find, in its order.

    Source:
        libvirt ``virDomainSnapshotCreateXML``, ``virDomainBlockCommit``, ``virDomainBlockRebase``.
    """
    before = {
        each.target: tuple(image.path for image in each.images) for each in plan.expects.disks
    }
    disks = {target: _Disk(chain) for target, chain in before.items()}
    for step in plan.steps:
        _follow(step, disks)
    return tuple(
        DiskOutlook(
            target,
            before[target],
            disk.chain,
            frozenset(disk.written & set(disk.chain)),
            frozenset(disk.deleted),
        )
        for target, disk in disks.items()
    )


def _follow(step: Step, disks: dict[str, _Disk]) -> None:
    """Let a step happen; one of a kind that is not named here leaves every chain as it is."""
    if isinstance(step, WhileFrozen):
        for each in step.steps:
            _follow(each, disks)
    elif isinstance(step, TakeSnapshot):
        for new in step.snapshot.overlays:
            if new.target in disks:
                disks[new.target].chain = (new.path, *disks[new.target].chain)
    elif isinstance(step, EachDisk):
        for part in step.disks:
            if part.job.target in disks:
                _consolidate(part, disks[part.job.target])


def _consolidate(part: ConsolidateDisk, disk: _Disk) -> None:
    job = part.job
    disk.chain = job.leaves
    disk.deleted.update(part.overlays)
    disk.written.add(job.leaves[0] if isinstance(job, PullImages) else job.base)
