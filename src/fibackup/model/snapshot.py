"""
The snapshot: the moment at which every chosen disk gets a new overlay.

::

    before   disk.qcow2 <- disk.bimg-A (active)
    after    disk.qcow2 <- disk.bimg-A (frozen) <- disk.bimg-B (active)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from attrs import field, frozen
from attrs.validators import optional

from fibackup.errors import ModelError
from fibackup.model.checks import absolute, one_line

__all__ = ["NewOverlay", "Snapshot"]


@frozen
class NewOverlay:
    """
    The overlay that one disk gets.

    Attributes:
        target: The disk.
        source: The active layer that is frozen by it.
        path: The new overlay; it does not exist yet.
    """

    target: str = field(validator=one_line)
    source: PurePosixPath = field(validator=absolute)
    path: PurePosixPath = field(validator=absolute)


@frozen
class Snapshot:
    """
    One external snapshot, all disks or none; with the guest's memory when *memory* says where.

    Attributes:
        name: Name for libvirt's log; no snapshot object is kept.
        overlays: One for each chosen disk; 1 or more, no path twice.
        excluded: Targets that get none; libvirt would snapshot a disk that is not named.
        memory: File for the memory, of the same moment; None: disks only.

    Source:
        libvirt ``virDomainSnapshotCreateXML`` with ``DISK_ONLY`` (with memory
        ``LIVE`` in its place), ``ATOMIC`` and ``NO_METADATA``.
    """

    name: str = field(validator=one_line)
    overlays: tuple[NewOverlay, ...]
    excluded: tuple[str, ...] = ()
    memory: PurePosixPath | None = field(default=None, validator=optional(absolute))

    def __attrs_post_init__(self) -> None:
        """Refuse an empty snapshot and two overlays in one place."""
        paths = [overlay.path for overlay in self.overlays]
        if not paths:
            raise ModelError(reason="a snapshot of no disk")
        if self.memory is not None:
            paths.append(self.memory)
        if len(set(paths)) != len(paths):
            raise ModelError(
                reason="two disks, or disk and memory, would share an overlay", path=str(paths[0])
            )
        targets = [*(overlay.target for overlay in self.overlays), *self.excluded]
        if len(set(targets)) != len(targets):
            raise ModelError(reason=f"a disk is named twice: {', '.join(targets)}")

    def difference(self, targets: Iterable[str]) -> str | None:
        """
        Compare the disks that it names with those that the domain has.

        Args:
            targets: Every disk of the domain as it is now.

        Returns:
            Which disk came or went since the snapshot was planned, in words, or None.

        Source:
            libvirt ``virDomainSnapshotAlignDisks``: a disk that is not named gets an overlay too.
        """
        named, there = {*(new.target for new in self.overlays), *self.excluded}, set(targets)
        changes = [f"disk {target} was attached" for target in sorted(there - named)]
        changes.extend(f"disk {target} was detached" for target in sorted(named - there))
        return f"{', '.join(changes)} since the plan was made" if changes else None

    def __str__(self) -> str:
        """Return one line for each disk, and one for the memory."""
        lines = [f"{new.target}: {new.source} <- {new.path}" for new in self.overlays]
        if self.memory is not None:
            lines.append(f"memory: {self.memory}")
        return "\n".join(lines)
