"""
Domains in memory: what each has, what its disks, its block jobs and its agent do.

::

    Guest   state, agent, memory, ledger
      `- disks  vda -> active layer --> Images
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath

from attrs import define, evolve, field, frozen

from fibackup.errors import AgentError, BlockJobError, LibvirtError, StalePlanError
from fibackup.model.chain import BackingChain
from fibackup.model.domain import Disk, Domain, DomainState
from fibackup.model.ledger import Ledger
from fibackup.model.point import FileRole
from fibackup.model.snapshot import Snapshot
from fibackup.plan.steps import CommitImages, PullImages
from fibackup.testing.images import CLUSTER_BYTES, Content, Images
from fibackup.testing.law import law

__all__ = ["EMULATOR", "AgentState", "Guest", "Moment", "domain_xml"]

EMULATOR = "/usr/bin/qemu-system-x86_64"
"""The emulator of the fake host's domains."""


class AgentState(StrEnum):
    """
    How the guest agent behaves.

    `HANGS`: the freeze happens, its answer does not come in time; a thaw is answered.
    """

    CONNECTED = "connected"
    ABSENT = "absent"
    HANGS = "hangs"
    REFUSES = "refuses"


@frozen
class Moment:
    """
    What a guest had at a snapshot: the oracle for a restore.

    Attributes:
        uuid: The domain.
        name: Name of the snapshot, ``"fibackup-<point>"`` for one of ours.
        disks: Content of every disk that has an image.
        frozen: True when the guest's file systems were frozen.
    """

    uuid: str
    name: str
    disks: Mapping[str, Content]
    frozen: bool


@define
class Guest:
    """A domain of the fake host."""

    name: str
    uuid: str
    directory: PurePosixPath
    agent: AgentState
    disks: dict[str, Disk] = field(factory=dict[str, Disk])
    active: dict[str, PurePosixPath] = field(factory=dict[str, PurePosixPath])
    state: DomainState = DomainState.RUNNING
    frozen: bool = False
    persistent: bool = True
    managed_save: bool = False
    job: str | None = None
    snapshots: tuple[str, ...] = ()
    left_jobs: dict[str, CommitImages | PullImages] = field(
        factory=dict[str, CommitImages | PullImages]
    )
    ledger: Ledger = field(factory=Ledger)
    ledgers: list[Ledger] = field(factory=list[Ledger])
    memory: int = 0
    memory_blockers: tuple[str, ...] = ()
    autostart: bool = False
    config: str | None = None
    states: dict[FileRole, bytes | None] = field(factory=dict[FileRole, bytes | None])

    def set_state(self, state: DomainState) -> None:
        """Go on in another state; a guest that is off has no memory."""
        self.state = state
        if state is DomainState.SHUTOFF:
            self.frozen, self.memory = False, 0

    def observed(self, images: Images) -> Domain:
        """Return what libvirt and the images' headers say of the domain."""
        return Domain(
            name=self.name,
            uuid=self.uuid,
            state=self.state,
            disks=tuple(self._observed_disk(disk, images) for disk in self.disks.values()),
            persistent=self.persistent,
            ledger=self.ledger,
            managed_save=self.managed_save,
            job=self.job,
            agent_connected=self.agent is not AgentState.ABSENT,
            memory_blockers=self.memory_blockers,
            memory_bytes=CLUSTER_BYTES,
            has_nvram=FileRole.NVRAM in self.states,
            has_tpm=FileRole.TPM_STATE in self.states,
            snapshots=self.snapshots,
        )

    def _observed_disk(self, disk: Disk, images: Images) -> Disk:
        active = self.active.get(disk.target)
        if active is None or disk.source_type != "file":
            return disk
        chain = BackingChain(disk.target, tuple(file.observed() for file in images.chain(active)))
        return evolve(disk, chain=chain, config_source=str(active))

    def check_snapshot(self, snapshot: Snapshot, images: Images) -> None:
        """Refuse a snapshot that libvirt would refuse, or that would do more than it says."""
        difference = snapshot.difference(self.disks)
        if difference is not None:
            raise StalePlanError(reason=f"{difference}; plan again", domain=self.name)
        if self.state is DomainState.SHUTOFF:
            raise LibvirtError(reason="the domain is not running", domain=self.name, code=55)
        if snapshot.memory is not None:
            law(not self.frozen, "memory of a frozen guest")
            law(not self.memory_blockers, f"{self.memory_blockers} are found while planning")
        for new in snapshot.overlays:
            if self.active.get(new.target) != new.source:
                raise LibvirtError(
                    reason=f"{new.source} is not active", domain=self.name, target=new.target
                )
            if new.path in images:
                raise LibvirtError(reason="the file exists", domain=self.name, path=str(new.path))

    # --- block jobs -----------------------------------------------------------------------------

    def run(self, job: CommitImages | PullImages, images: Images) -> None:
        """Do what a block job does, to its end."""
        if isinstance(job, CommitImages):
            self._commit(job, images)
        else:
            self._pull(job, images)

    def _commit(self, job: CommitImages, images: Images) -> None:
        files = images.chain(self.active[job.target])
        paths = [file.path for file in files]
        if job.top not in paths or job.base not in paths[paths.index(job.top) + 1 :]:
            raise BlockJobError(reason="not in the chain", domain=self.name, target=job.target)
        top, base = paths.index(job.top), paths.index(job.base)
        law(job.pivot == (top == 0), "a commit of the active layer ends with a pivot, no other")
        images.commit(files[top : base + 1])
        if job.pivot:
            self.active[job.target] = job.base
        else:
            images.rebase(files[top - 1], job.base)

    def _pull(self, job: PullImages, images: Images) -> None:
        files = images.chain(self.active[job.target])
        paths = [file.path for file in files]
        if job.base is not None and job.base not in paths[1:]:
            raise BlockJobError(reason="not in the chain", domain=self.name, target=job.target)
        end = len(files) if job.base is None else paths.index(job.base)
        images.pull(files[:end], job.base)

    # --- the agent ------------------------------------------------------------------------------

    def freeze(self) -> int:
        """Return how many file systems the agent has frozen."""
        if self.frozen:
            raise AgentError(
                reason="the guest is frozen already, by somebody else", domain=self.name
            )
        if self.agent in {AgentState.ABSENT, AgentState.REFUSES}:
            raise AgentError(reason=f"the guest agent is: {self.agent}", domain=self.name)
        self.frozen = True
        if self.agent is AgentState.HANGS:
            raise AgentError(
                reason="the guest agent does not answer", domain=self.name, maybe_frozen=True
            )
        return 2

    def thaw(self) -> int:
        """Return how many file systems the agent has thawed."""
        if self.agent is AgentState.ABSENT:
            raise AgentError(
                reason="the guest may be frozen still: the guest agent is not connected",
                domain=self.name,
                maybe_frozen=True,
            )
        was, self.frozen = self.frozen, False
        return 2 if was else 0


def domain_xml(guest: Guest, *, secrets: bool) -> str:
    """Return the XML of a domain: the one that it was defined with, or a small one."""
    if guest.config is not None:
        return guest.config
    root = ET.Element("domain", type="kvm")
    ET.SubElement(root, "name").text = guest.name
    ET.SubElement(root, "uuid").text = guest.uuid
    os = ET.SubElement(root, "os")
    ET.SubElement(os, "type", arch="x86_64", machine="pc-q35-7.2").text = "hvm"
    if FileRole.NVRAM in guest.states:
        ET.SubElement(os, "nvram").text = f"/nvram/{guest.name}_VARS.fd"
    devices = ET.SubElement(root, "devices")
    ET.SubElement(devices, "emulator").text = EMULATOR
    for disk in guest.disks.values():
        node = ET.SubElement(devices, "disk", type=disk.source_type, device=disk.device)
        path = guest.active.get(disk.target)
        if path is not None and disk.source_type == "file":
            ET.SubElement(node, "driver", name="qemu", type="qcow2")
            ET.SubElement(node, "source", file=str(path))
        ET.SubElement(node, "target", dev=disk.target, bus=disk.bus or "virtio")
    if FileRole.TPM_STATE in guest.states:
        tpm = ET.SubElement(devices, "tpm", model="tpm-crb")
        ET.SubElement(tpm, "backend", type="emulator", version="2.0")
    if secrets:
        ET.SubElement(devices, "graphics", type="vnc", passwd="secret")  # noqa: S106 - a fake one
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
