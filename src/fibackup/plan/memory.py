"""
Points with the guest's memory: whether they can be had, and where the file goes.

::

    disk.bimg-A (active)  ->  disk.bimg-B        overlay of point B
                              disk.bimg-B.mem    the memory, of the same moment

Disks and memory belong together: a disk that is not in the point would not fit what the guest
remembers of it.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from fibackup.errors import PolicyError, UnsupportedDiskError
from fibackup.model.domain import Disk, Domain
from fibackup.model.point import FileRole, RestorePoint, StoredFile
from fibackup.plan.selection import Choice
from fibackup.plan.steps import (
    DeleteMemory,
    DiskRestore,
    RestoredDisk,
    RestoreMemory,
    ResumeDomain,
)

__all__ = [
    "MEMORY_SUFFIX",
    "check_memory",
    "check_memory_restore",
    "left_memory",
    "memory_path",
    "memory_steps",
]

MEMORY_SUFFIX = ".mem"
"""What the file with the memory has after the name of the first disk's overlay."""


def check_memory(domain: Domain, choice: Choice) -> None:
    """
    Refuse a domain whose memory cannot be saved, or would not fit its disks.

    Args:
        domain: The domain.
        choice: The disks that take part, and those that do not.

    Raises:
        PolicyError: Something is known to keep libvirt from saving the memory.
        UnsupportedDiskError: A disk that the guest may write does not take part.

    Source:
        libvirt ``virDomainSnapshotCreateXML`` with ``memory``; ``qemuMigrationSrcIsAllowed``.
    """
    if domain.memory_blockers:
        raise PolicyError(
            domain=domain.name,
            reason=f"the memory cannot be saved: {', '.join(domain.memory_blockers)}; "
            "detach that, or back up without memory",
        )
    for target, reason in choice.skipped:
        disk = domain.disk(target)
        if _may_be_written(disk):
            raise UnsupportedDiskError(
                domain=domain.name,
                target=target,
                reason=f"with memory every disk that the guest may write takes part: {reason}",
            )
        if disk.block_job is not None:
            raise UnsupportedDiskError(
                domain=domain.name,
                target=target,
                reason=f"with memory no block job may run on any disk: {disk.block_job}",
            )


def _may_be_written(disk: Disk) -> bool:
    empty = disk.source_type == "file" and disk.chain is None
    return not (disk.readonly or empty or disk.device == "cdrom")


def memory_path(overlay: PurePosixPath) -> PurePosixPath:
    """
    Return where the memory goes: beside the overlay of the first disk.

    Args:
        overlay: The overlay.

    Source:
        docs/backup.md, "Memory".
    """
    return overlay.with_name(overlay.name + MEMORY_SUFFIX)


def left_memory(domain: Domain) -> tuple[DeleteMemory, ...]:
    """
    Return the step that removes what an earlier run has left behind, if any.

    Args:
        domain: The domain.

    Source:
        docs/store-format.md, "Ledger".
    """
    path = domain.ledger.memory
    return () if path is None else (DeleteMemory(path),)


def check_memory_restore(point: RestorePoint, targets: tuple[str, ...], *, memory: bool) -> None:
    """
    Refuse to bring a guest back from a point that has not what it needs.

    Args:
        point: The point.
        targets: The disks that are restored.
        memory: True: with its memory.

    Raises:
        PolicyError: The point has no memory, not all of its disks are wanted, or the guest is to be
            paused without being started.

    Source:
        docs/restore.md, "Memory".
    """
    if not memory:
        raise PolicyError(domain=point.domain, reason="only a guest that is resumed can be paused")
    if _file(point, FileRole.MEMORY) is None:
        raise PolicyError(
            domain=point.domain,
            reason=f"point {point.id} has no memory, its consistency is: {point.consistency}",
        )
    left = sorted({disk.target for disk in point.disks} - set(targets))
    if left:
        raise PolicyError(
            domain=point.domain,
            reason=f"the memory fits all disks of the point together: {', '.join(left)} left out",
        )


def memory_steps(
    point: RestorePoint,
    images: tuple[DiskRestore, ...],
    into: PurePosixPath,
    *,
    paused: bool,
    keep_foreign: bool,
) -> tuple[RestoreMemory, ResumeDomain] | tuple[()]:
    """
    Return the steps that bring a guest back once its disks are restored.

    Args:
        point: The point.
        images: The steps that restore its disks.
        into: The directory of the restored files.
        paused: True: the guest is left paused.
        keep_foreign: True: its XML may reach out of the guest.

    Source:
        libvirt ``virDomainRestoreFlags``.
    """
    memory, config = _file(point, FileRole.MEMORY), _file(point, FileRole.DOMAIN_XML)
    if memory is None or config is None:
        return ()
    destination = into / memory.name
    disks = tuple(RestoredDisk(step.target, step.destination, step.format) for step in images)
    return (
        RestoreMemory(memory, destination),
        ResumeDomain(destination, config, disks, paused, keep_foreign),
    )


def _file(point: RestorePoint, role: FileRole) -> StoredFile | None:
    return next((file for file in point.files if file.role is role), None)
