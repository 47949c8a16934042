"""
A domain as it was observed, with its disks; values only, nothing here touches libvirt.

::

    Domain "web1" (running)
      vda  file   disk    chain of 2 images     backed up
      vdb  block  disk    -                     not supported: block
      sda  file   cdrom   -                     skipped: cdrom
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath

from attrs import field, frozen

from fibackup.errors import ModelError
from fibackup.model.chain import BackingChain
from fibackup.model.checks import UUID_PATTERN, matches, not_empty, one_line
from fibackup.model.ledger import Ledger
from fibackup.render.drawable import Drawable
from fibackup.units import printable

__all__ = ["Disk", "Domain", "DomainState", "ImageUse"]


class DomainState(StrEnum):
    """
    What the domain does, in libvirt's words.

    Source:
        libvirt ``virDomainState``, and ``virDomainPausedReason`` for `PAUSED_IO_ERROR`.
    """

    UNKNOWN = "unknown"
    RUNNING = "running"
    BLOCKED = "blocked"
    PAUSED = "paused"
    PAUSED_IO_ERROR = "paused by an I/O error"
    SHUTDOWN = "in shutdown"
    SHUTOFF = "shut off"
    CRASHED = "crashed"
    PMSUSPENDED = "suspended by power management"

    @property
    def runs(self) -> bool:
        """True while the guest's processors may run; blocked is waiting for input or output."""
        return self in {DomainState.RUNNING, DomainState.BLOCKED}


@frozen
class Disk:
    """
    One ``<disk>`` of a domain.

    Attributes:
        target: ``<target dev>``, such as ``"vda"``.
        device: ``"disk"``, ``"cdrom"``, ``"floppy"`` or ``"lun"``.
        source_type: ``"file"``, ``"block"``, ``"network"``, ...; ``"volume"`` when it is no file.
        bus: ``"virtio"``, ``"sata"``, ...; None when the XML has none.
        chain: The backing chain, or None when there is no image (an empty drive) or no file.
        readonly: ``<readonly/>``.
        shareable: ``<shareable/>``.
        transient: ``<transient/>``.
        snapshot: The ``snapshot=`` attribute, or None.
        encrypted: True when an image of the chain has ``<encryption>``.
        block_job: Kind of the block job that runs on the disk, or None.
        mirror_ready: ``ready=`` of the disk's ``<mirror>``, ``""`` while it is not ready, None
            without a mirror.
        config_source: Top image in the persistent definition, None when that has no such disk.
        chain_ends: True when the XML ends the chain (``<backingStore/>``): QEMU opens nothing below
            it, whatever the header of its last image names.
    """

    target: str = field(validator=one_line)
    device: str = "disk"
    source_type: str = "file"
    bus: str | None = None
    chain: BackingChain | None = None
    readonly: bool = False
    shareable: bool = False
    transient: bool = False
    snapshot: str | None = None
    encrypted: bool = False
    block_job: str | None = None
    mirror_ready: str | None = None
    config_source: str | None = None
    chain_ends: bool = False

    @property
    def skip_reason(self) -> str | None:
        """Why the disk holds nothing that a backup would miss, or None."""
        if self.device in {"cdrom", "floppy"}:
            return self.device
        if self.readonly:
            return "read-only"
        if self.source_type == "file" and self.chain is None:
            return "empty"
        return None

    @property
    def unsupported_reason(self) -> str | None:
        """Why the disk cannot be backed up by an external snapshot, or None."""
        if self.device == "lun":
            return "lun: SCSI passthrough takes no external snapshot"
        if self.source_type.endswith("volume"):
            return f"{self.source_type}: libvirt finds no file for it in a storage pool"
        if self.source_type != "file":
            return f"{self.source_type}: only disks that are files have a backing chain to copy"
        if self.transient:
            return "transient: its changes are dropped at shutdown, and libvirt refuses block jobs"
        if self.shareable:
            return "shareable: other domains may write it at the same time"
        if self.encrypted:
            return "encrypted: its images need a secret to be read"
        return None

    def __str__(self) -> str:
        """Return the disk on one line, its chain below when there is one."""
        if self.chain is not None and self.unsupported_reason is None and self.skip_reason is None:
            return str(self.chain)
        return f"{self.target} ({self.skip_reason or self.unsupported_reason})"


@frozen
class ImageUse:
    """
    An image of one domain that is used elsewhere too, live or in a persistent definition.

    Attributes:
        domain: Name of the domain that uses it.
        path: The image, as the first domain names it.
        disk: Target of the disk that uses it, when that is one of the first domain itself.
        doubt: Why it cannot be told whether the image is used; empty: it is.
    """

    domain: str = field(validator=not_empty)
    path: PurePosixPath
    disk: str = ""
    doubt: str = ""

    def __str__(self) -> str:
        """Return who uses it, and what is not known of that."""
        user = f"disk {self.disk} of {self.domain}" if self.disk else self.domain
        return f"{user} perhaps: {self.doubt}" if self.doubt else user


@frozen
class Domain(Drawable):
    """
    A libvirt domain as it was when it was read.

    Attributes:
        name: libvirt's name; any text but ``/`` and newline.
        uuid: libvirt's UUID, lower case.
        state: What it does.
        disks: All disks, in the order of the XML.
        persistent: True when the definition outlives a shutdown.
        ledger: What fibackup keeps with the domain.
        managed_save: True when a managed-save image exists.
        job: Kind of the domain job that runs (migration, save, dump, backup), or None.
        agent_connected: True when the guest agent's channel is connected.
        snapshots: Names of libvirt's snapshots with metadata.
        memory_blockers: What keeps libvirt from saving the memory, such as ``"hostdev (pci)"``.
        memory_bytes: Size of its memory, 0 when the XML does not say.
        has_nvram: True when its firmware keeps variables.
        has_tpm: True when it has a TPM.
    """

    name: str = field(validator=not_empty)
    uuid: str = field(validator=matches(UUID_PATTERN, "is not a UUID"))
    state: DomainState = DomainState.UNKNOWN
    disks: tuple[Disk, ...] = ()
    persistent: bool = True
    ledger: Ledger = field(factory=Ledger)
    managed_save: bool = False
    job: str | None = None
    agent_connected: bool = False
    snapshots: tuple[str, ...] = ()
    memory_blockers: tuple[str, ...] = ()
    memory_bytes: int = 0
    has_nvram: bool = False
    has_tpm: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse two disks with one target."""
        targets = [disk.target for disk in self.disks]
        if len(set(targets)) != len(targets):
            raise ModelError(
                reason=f"two disks share a target: {', '.join(targets)}", domain=self.name
            )

    def disk(self, target: str) -> Disk:
        """
        Return the disk with this target.

        Args:
            target: ``<target dev>``, such as ``"vda"``.

        Returns:
            The disk.

        Raises:
            ModelError: The domain has no such disk. Nothing was touched.

        Source:
            libvirt domain XML, ``<target dev>``: unique within a domain.
        """
        for disk in self.disks:
            if disk.target == target:
                return disk
        known = ", ".join(disk.target for disk in self.disks) or "none"
        raise ModelError(
            reason=f"no such disk; the domain has: {known}", domain=self.name, target=target
        )

    def __str__(self) -> str:
        """Return name, state and every disk with its chain."""
        lines = [f"{printable(self.name)} ({self.state}) {self.uuid}"]
        for disk in self.disks:
            lines.extend(f"  {line}" for line in str(disk).splitlines())
        return "\n".join(lines)
