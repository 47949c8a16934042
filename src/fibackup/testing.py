"""
A hypervisor and a store in memory: what code that uses fibackup is tested with.

Images hold real content, cluster by cluster, and lie on each other as qcow2 images do; inodes and
times move exactly when a file is written. So a test can ask what matters: does the store give back
what the guest had?

    host = FakeHost()                        store = FakeStore(host)
    host.add_domain("web1", {"vda": {0: 7}})
    plan = plan_backup(host.read_domain("web1"), store.read_history(uuid), now=...)
    Executor(host, store).run(plan)
    host.write("web1", "vda", 0, 8)
    store.restore(uuid, plan.point, "vda")   == {0: 7}

`FakeHost.fail_at` breaks the n-th call that follows, before or after its effect; host and store
count together. A cluster holds one number; 0 reads as zeros and is left out of what is returned.
"""

from __future__ import annotations

import hashlib
import json
import uuid as _uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from threading import RLock
from types import MappingProxyType
from typing import TypeAlias

from attrs import define, evolve, field, frozen

from fibackup.errors import (
    AgentError,
    BlockJobError,
    DestinationExistsError,
    DomainBusyError,
    DomainExistsError,
    HostError,
    LibvirtError,
    LockedError,
    ManifestError,
    NoSuchDomainError,
    RequirementError,
    StalePlanError,
    StoreError,
    VerifyError,
)
from fibackup.host.events import CancelToken, CopyProgress, FileVerified, ImageCopied, OnEvent
from fibackup.model.chain import BackingChain, FileIdentity, Image
from fibackup.model.domain import Disk, Domain, DomainState, ImageUse
from fibackup.model.host_facts import HostFacts
from fibackup.model.journal import Merge, Removal, as_merged
from fibackup.model.ledger import Ledger
from fibackup.model.point import (
    FileRole,
    History,
    Receipt,
    RestorePoint,
    SourceImage,
    StoredFile,
    StoredImage,
    Versions,
)
from fibackup.model.snapshot import Snapshot
from fibackup.model.verification import (
    CheckedContent,
    CheckedFile,
    ContentCheck,
    FaultKind,
    FileCheck,
    FoundFile,
    Survey,
    VerificationRecord,
)
from fibackup.parse.domain_xml import domain_root, parse_domain_xml
from fibackup.parse.foreign import resumed_foreign
from fibackup.parse.ledger_xml import parse_ledger, render_ledger
from fibackup.parse.machine_state import find_nvram
from fibackup.parse.manifest import parse_manifest, render_manifest
from fibackup.plan.prune_steps import DropPoints, MergeImages, misfit
from fibackup.plan.report import RestoredImage
from fibackup.plan.steps import (
    CommitImages,
    CommitOffline,
    CopyImage,
    CopyMemory,
    CopyStored,
    CreateLinked,
    DefineDomain,
    DiskRestore,
    FinishBlockJob,
    FlattenImage,
    PullImages,
    RestoreMemory,
    RestoreNvram,
    ResumeDomain,
    SaveState,
)
from fibackup.plan.verify_steps import FileToVerify, VerifyContents, VerifyFiles
from fibackup.render.drawable import Drawable, Picture

__all__ = ["CLUSTER_BYTES", "AgentState", "Content", "FakeHost", "FakeStore", "Moment"]

Content: TypeAlias = Mapping[int, int]
"""What a disk holds: cluster number to a number that stands for the cluster's bytes."""

EMULATOR = "/usr/bin/qemu-system-x86_64"
"""The emulator of the fake host's domains."""

CLUSTER_BYTES = 65536
"""Size of a cluster, the default of qcow2."""

_START = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)
_LOST = "the connection was lost"


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
class _File:
    """An image on the fake host."""

    path: PurePosixPath
    format: str
    clusters_in_size: int
    clusters: dict[int, int]
    backing: PurePosixPath | None
    inode: int
    mtime_ns: int

    @property
    def allocated_bytes(self) -> int:
        return (len(self.clusters) + 1) * CLUSTER_BYTES

    @property
    def virtual_size_bytes(self) -> int:
        return self.clusters_in_size * CLUSTER_BYTES

    @property
    def identity(self) -> FileIdentity:
        raw = self.format == "raw"
        size = self.virtual_size_bytes if raw else self.allocated_bytes
        return FileIdentity(self.inode, size, self.mtime_ns)

    def observed(self) -> Image:
        backing = str(self.backing) if self.backing is not None else ""
        return Image(
            path=self.path,
            format=self.format,
            virtual_size_bytes=self.virtual_size_bytes,
            allocated_bytes=self.allocated_bytes,
            identity=self.identity,
            header_backing=None if self.format == "raw" else backing,
        )


@define
class _Guest:
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


@frozen
class _Fault:
    """A call that will fail."""

    at: int
    error: BaseException | None
    after: bool
    lasting: bool


def _read(layers: Iterable[tuple[int, Mapping[int, int]]]) -> dict[int, int]:
    """Return what a chain reads as, top first: size in clusters and clusters of each image."""
    stack = tuple(layers)
    found: dict[int, int] = {}
    for number in range(stack[0][0]):
        value = _read_cluster(stack, number)
        if value:
            found[number] = value
    return found


def _read_cluster(stack: tuple[tuple[int, Mapping[int, int]], ...], number: int) -> int:
    for size, clusters in stack:
        if number >= size:
            return 0
        if number in clusters:
            return clusters[number]
    return 0


class FakeHost:
    """
    Domains in memory; satisfies `Host`.

    Args:
        start: What the clock shows at first; it goes on by one second with each snapshot.
    """

    def __init__(self, *, start: datetime = _START) -> None:
        """Make a host without domains."""
        self.calls: list[str] = []
        self.moments: list[Moment] = []
        self.now: datetime = start
        self._guests: dict[str, _Guest] = {}
        self._files: dict[PurePosixPath, _File] = {}
        self._inode = 100
        self._ticks = 0
        self.memory_files: dict[PurePosixPath, int] = {}
        self.restored: dict[PurePosixPath, tuple[int, Content]] = {}
        self.state_files: dict[PurePosixPath, bytes] = {}
        self.smoke_started: list[str] = []
        self._left_tpms: set[str] = set()
        self._fault: _Fault | None = None
        self._lock = RLock()
        self._held: set[str] = set()

    # --- faults ---------------------------------------------------------------------------------

    def fail_at(
        self,
        number: int,
        error: BaseException | None = None,
        *,
        after: bool = False,
        lasting: bool = False,
    ) -> None:
        """
        Let the *number*-th following call of this host or one of its stores fail.

        Args:
            number: 1 for the next call.
            error: What it raises. Default: `AgentError` for freeze and thaw, else `LibvirtError`.
            after: True: the call has its effect, and only its answer is lost.
            lasting: True: all later calls fail too, as after a power cut, until `heal`.

        Source:
            docs/embed.md, "In your tests".
        """
        self._fault = _Fault(len(self.calls) + number, error, after, lasting)

    def heal(self) -> None:
        """
        Forget the fault that `fail_at` set.

        Source:
            docs/embed.md, "In your tests".
        """
        self._fault = None

    @contextmanager
    def call(self, name: str) -> Generator[None]:
        """
        Count a call, and let it fail when its time has come; the stores use it too.

        Args:
            name: Name of the method.

        Yields:
            While the call has its effect.

        Raises:
            HostError: It was told to fail.

        Source:
            docs/embed.md, "In your tests".
        """
        with self._lock:
            self.calls.append(name)
            before, after = self._due(name)
            if before is not None:
                raise before
            yield
            if after is not None:
                raise after

    def _due(self, name: str) -> tuple[BaseException | None, BaseException | None]:
        fault, number = self._fault, len(self.calls)
        if fault is None or number < fault.at or (number > fault.at and not fault.lasting):
            return None, None
        first = number == fault.at
        late = fault.after and first
        error = fault.error or _default_error(name, maybe_frozen=late)
        return (None, error) if late else (error, None)

    # --- the test's side: domains and disks -----------------------------------------------------

    def add_domain(
        self,
        name: str,
        disks: Mapping[str, Content] = MappingProxyType({"vda": MappingProxyType({})}),
        *,
        size_clusters: int = 16,
        image_format: str = "qcow2",
        template: PurePosixPath | str | None = None,
        directory: PurePosixPath | str = "/images",
        agent: AgentState = AgentState.CONNECTED,
    ) -> str:
        """
        Add a running domain.

        Args:
            name: Its name; its UUID is derived from it.
            disks: Targets and what they hold.
            size_clusters: Virtual size of each disk.
            image_format: ``"qcow2"`` or ``"raw"``.
            template: Image under each disk's own one; made, empty, when there is none.
            directory: Where its images are.
            agent: How its guest agent behaves.

        Returns:
            The UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        uuid = str(_uuid.uuid5(_uuid.NAMESPACE_DNS, name))
        guest = _Guest(name, uuid, PurePosixPath(directory), AgentState(agent))
        self._guests[uuid] = guest
        for target, content in disks.items():
            self.attach_disk(
                name,
                target,
                content,
                size_clusters=size_clusters,
                image_format=image_format,
                template=template,
            )
        return uuid

    def add_image(
        self,
        path: PurePosixPath | str,
        content: Content = MappingProxyType({}),
        *,
        size_clusters: int = 16,
        image_format: str = "qcow2",
        backing: PurePosixPath | None = None,
    ) -> PurePosixPath:
        """
        Write a new image; one that is there is replaced, with another inode.

        Args:
            path: Its path.
            content: Its clusters.
            size_clusters: Its virtual size.
            image_format: ``"qcow2"`` or ``"raw"``.
            backing: The image under it.

        Returns:
            The path.

        Source:
            docs/embed.md, "In your tests".
        """
        place = PurePosixPath(path)
        self._inode += 1
        self._files[place] = _File(
            place, image_format, size_clusters, dict(content), backing, self._inode, self._tick()
        )
        return place

    def attach_disk(
        self,
        domain: str,
        target: str,
        content: Content = MappingProxyType({}),
        *,
        size_clusters: int = 16,
        image_format: str = "qcow2",
        template: PurePosixPath | str | None = None,
        path: PurePosixPath | str | None = None,
    ) -> PurePosixPath:
        """
        Give a domain a disk with a new image, or with the image that is at *path*.

        Args:
            domain: Name or UUID.
            target: The disk.
            content: What a new image holds.
            size_clusters: Its virtual size.
            image_format: ``"qcow2"`` or ``"raw"``.
            template: Image under it; made, empty, when there is none.
            path: Where it is; a name from domain and target by default.

        Returns:
            Path of the active layer.

        Source:
            docs/embed.md, "In your tests".
        """
        guest = self._guest(domain)
        under = PurePosixPath(template) if template is not None else None
        if under is not None and under not in self._files:
            self.add_image(under, size_clusters=size_clusters)
        default = guest.directory / f"{guest.name}-{target}.{image_format}"
        place = PurePosixPath(path) if path is not None else default
        if path is None or place not in self._files:
            self.add_image(
                place,
                content,
                size_clusters=size_clusters,
                image_format=image_format,
                backing=under,
            )
        guest.disks[target] = Disk(target, bus="virtio")
        guest.active[target] = place
        return place

    def detach_disk(self, domain: str, target: str) -> PurePosixPath:
        """
        Take a disk away from a domain; its images stay.

        Args:
            domain: Name or UUID.
            target: The disk.

        Returns:
            Path of what was its active layer.

        Source:
            docs/embed.md, "In your tests".
        """
        guest = self._guest(domain)
        del guest.disks[target]
        return guest.active.pop(target)

    def set_disk(self, domain: str, disk: Disk) -> None:
        """
        Declare a disk as something else: a cdrom, a network disk, one with a block job, ...

        Args:
            domain: Name or UUID.
            disk: What `read_domain` shows; the chain is filled in where the disk has an image.

        Source:
            docs/embed.md, "In your tests".
        """
        self._guest(domain).disks[disk.target] = disk

    def leave_job(self, domain: str, job: CommitImages | PullImages) -> None:
        """
        Let a block job run on a disk, as one does whose starter was killed.

        Args:
            domain: Name or UUID.
            job: What `finish_block_job` will do.

        Source:
            libvirt: a job goes on when the client that started it is gone.
        """
        guest = self._guest(domain)
        kind = "pull" if isinstance(job, PullImages) else "commit"
        active = isinstance(job, CommitImages) and job.pivot
        guest.left_jobs[job.target] = job
        guest.disks[job.target] = evolve(
            guest.disks[job.target], block_job="active commit" if active else kind
        )

    def set_agent(self, domain: str, agent: AgentState) -> None:
        """
        Let the guest agent behave otherwise from now on.

        Args:
            domain: Name or UUID.
            agent: How.

        Source:
            docs/embed.md, "In your tests".
        """
        self._guest(domain).agent = AgentState(agent)

    # --- the test's side: the guest and its owner -----------------------------------------------

    def write(self, domain: str, target: str, cluster: int, value: int) -> None:
        """
        Write a cluster as the guest does.

        Args:
            domain: Name or UUID.
            target: The disk.
            cluster: Which.
            value: What; 0 writes zeros.

        Raises:
            AssertionError: The domain is not running, its guest is frozen, or the disk ends before.

        Source:
            docs/embed.md, "In your tests".
        """
        guest = self._guest(domain)
        _law(
            guest.state is DomainState.RUNNING, f"{guest.name} is {guest.state}, it writes nothing"
        )
        _law(not guest.frozen, f"{guest.name} is frozen, it writes nothing")
        self.foreign_write(guest.active[target], cluster, value)

    def foreign_write(self, path: PurePosixPath | str, cluster: int, value: int) -> None:
        """
        Write a cluster of an image from outside, wherever it is in a chain.

        Args:
            path: The image.
            cluster: Which.
            value: What; 0 writes zeros.

        Source:
            docs/embed.md, "In your tests".
        """
        file = self._files[PurePosixPath(path)]
        _law(0 <= cluster < file.clusters_in_size, f"{path} has no cluster {cluster}")
        file.clusters[cluster] = value
        file.mtime_ns = self._tick()

    def touch(self, path: PurePosixPath | str) -> None:
        """
        Move the time of an image, and change nothing else.

        Args:
            path: The image.

        Source:
            docs/embed.md, "In your tests".
        """
        self._files[PurePosixPath(path)].mtime_ns = self._tick()

    def guest_sees(self, domain: str, target: str) -> dict[int, int]:
        """
        Return what the guest reads from a disk.

        Args:
            domain: Name or UUID.
            target: The disk.

        Returns:
            The clusters that are not zeros.

        Source:
            docs/embed.md, "In your tests".
        """
        files = self._chain(self._guest(domain).active[target])
        return _read((file.clusters_in_size, file.clusters) for file in files)

    def resize(self, domain: str, target: str, clusters: int) -> None:
        """
        Give a disk another size, as ``virsh blockresize`` does; what it grows by reads as zeros.

        Args:
            domain: Name or UUID.
            target: The disk.
            clusters: Its new size.

        Source:
            QEMU ``block_resize``.
        """
        top = self._files[self._guest(domain).active[target]]
        if clusters > top.clusters_in_size and top.backing is not None:
            top.clusters |= dict.fromkeys(range(top.clusters_in_size, clusters), 0)
        top.clusters_in_size = clusters
        top.clusters = {
            number: value for number, value in top.clusters.items() if number < clusters
        }
        top.mtime_ns = self._tick()

    def restart(self, domain: str) -> None:
        """
        Shut a domain off and start it again; its images stay as they are.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        self.shut_off(domain)
        self.start(domain)

    def shut_off(self, domain: str) -> None:
        """
        Shut a domain off.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        self._set_state(domain, DomainState.SHUTOFF)

    def start(self, domain: str) -> None:
        """
        Start or resume a domain.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        self._set_state(domain, DomainState.RUNNING)

    def pause(self, domain: str) -> None:
        """
        Pause a domain.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        self._set_state(domain, DomainState.PAUSED)

    def set_state(
        self, domain: str, state: DomainState, *, managed_save: bool = False, job: str | None = None
    ) -> None:
        """
        Put a domain in any state.

        Args:
            domain: Name or UUID.
            state: The state.
            managed_save: True when it has a managed-save image.
            job: Kind of the domain job that runs.

        Source:
            docs/embed.md, "In your tests".
        """
        self._set_state(domain, state)
        guest = self._guest(domain)
        guest.managed_save, guest.job = managed_save, job

    def set_memory(self, domain: str, value: int, *, blockers: tuple[str, ...] = ()) -> None:
        """
        Let the guest keep a number in its memory, and nowhere else.

        Args:
            domain: Name or UUID.
            value: The number.
            blockers: What keeps its memory from being saved.

        Source:
            docs/embed.md, "In your tests".
        """
        guest = self._guest(domain)
        guest.memory, guest.memory_blockers = value, blockers

    def set_state_file(self, domain: str, role: FileRole, data: bytes | None) -> None:
        """
        Let a domain keep something outside of its disks.

        Args:
            domain: Name or UUID.
            role: The firmware's variables, or the state of the TPM.
            data: What is kept; None: the file is missing.

        Source:
            docs/embed.md, "In your tests".
        """
        self._guest(domain).states[role] = data

    def set_autostart(self, domain: str, *, autostart: bool) -> None:
        """
        Let the host start a domain when it boots.

        Args:
            domain: Name or UUID.
            autostart: Whether it does.

        Source:
            libvirt ``virDomainSetAutostart``.
        """
        self._guest(domain).autostart = autostart

    def memory(self, domain: str) -> int:
        """
        Return the number that the guest has in its memory.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        return self._guest(domain).memory

    def rename(self, domain: str, name: str) -> None:
        """
        Give a domain another name.

        Args:
            domain: Name or UUID.
            name: The new name.

        Source:
            libvirt ``virDomainRename``.
        """
        self._guest(domain).name = name

    def undefine(self, domain: str) -> None:
        """
        Forget a domain; its images stay.

        Args:
            domain: Name or UUID.

        Source:
            libvirt ``virDomainUndefine``.
        """
        del self._guests[self._guest(domain).uuid]

    def is_frozen(self, domain: str) -> bool:
        """
        Tell whether the guest's file systems are frozen.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        return self._guest(domain).frozen

    def _set_state(self, domain: str, state: DomainState) -> None:
        guest = self._guest(domain)
        guest.state = state
        if state is DomainState.SHUTOFF:
            guest.frozen, guest.memory = False, 0

    # --- the test's side: what other people do --------------------------------------------------

    def foreign_snapshot(self, domain: str, target: str) -> PurePosixPath:
        """
        Put an overlay that is not ours on a disk.

        Args:
            domain: Name or UUID.
            target: The disk.

        Returns:
            Path of the overlay.

        Source:
            docs/embed.md, "In your tests".
        """
        guest = self._guest(domain)
        active = self._files[guest.active[target]]
        path = active.path.with_name(f"{guest.name}-{target}.admin-{self._inode + 1}")
        self.add_image(path, size_clusters=active.clusters_in_size, backing=active.path)
        guest.active[target] = path
        return path

    def set_snapshots(self, domain: str, names: tuple[str, ...]) -> None:
        """
        Let libvirt keep snapshots of a domain, with metadata.

        Args:
            domain: Name or UUID.
            names: Their names.

        Source:
            libvirt ``virDomainListAllSnapshots``.
        """
        self._guest(domain).snapshots = names

    def foreign_commit(
        self, domain: str, target: str, *, layers: int | None = None
    ) -> PurePosixPath:
        """
        Commit the active layer down and pivot, as an administrator does; the overlays' files stay.

        Args:
            domain: Name or UUID.
            target: The disk.
            layers: How many images go down; all but the base by default.

        Returns:
            Path of the image that is active now.

        Source:
            libvirt ``virDomainBlockCommit`` with ``ACTIVE``.
        """
        guest = self._guest(domain)
        files = self._chain(guest.active[target])
        count = len(files) - 1 if layers is None else min(layers, len(files) - 1)
        into = files[count]
        size = files[0].clusters_in_size
        if count:
            content = self._merged(files[: count + 1], size)
            into.clusters, into.clusters_in_size, into.mtime_ns = content, size, self._tick()
        guest.active[target] = into.path
        return into.path

    def foreign_pull(self, domain: str, target: str) -> None:
        """
        Pull everything into the active layer, which then lies on nothing.

        Args:
            domain: Name or UUID.
            target: The disk.

        Source:
            libvirt ``virDomainBlockPull``.
        """
        active = self._files[self._guest(domain).active[target]]
        active.clusters = self.guest_sees(domain, target)
        active.backing = None
        active.mtime_ns = self._tick()

    def replace_disk(
        self,
        domain: str,
        target: str,
        content: Content = MappingProxyType({}),
        *,
        same_path: bool = False,
    ) -> PurePosixPath:
        """
        Put another image in the place of a disk's chain, as a restore by hand does.

        Args:
            domain: Name or UUID.
            target: The disk.
            content: What the new image holds.
            same_path: True: it has the path of the active layer before.

        Returns:
            Path of the new image.

        Source:
            docs/embed.md, "In your tests".
        """
        guest = self._guest(domain)
        old = self._files[guest.active[target]]
        new = guest.directory / f"{guest.name}-{target}-{self._inode + 1}.qcow2"
        path = old.path if same_path else new
        self.add_image(path, content, size_clusters=old.clusters_in_size)
        guest.active[target] = path
        return path

    def _merged(self, files: list[_File], size: int) -> dict[int, int]:
        content: dict[int, int] = {}
        for number in range(size):
            for file in files:
                if number >= file.clusters_in_size:
                    content[number] = 0
                    break
                if number in file.clusters:
                    content[number] = file.clusters[number]
                    break
        return content

    # --- the test's side: looking ---------------------------------------------------------------

    def moment(self, uuid: str, point: str) -> Moment:
        """
        Return what the guest had when the snapshot of a point was taken.

        Args:
            uuid: The domain.
            point: Id of the point.

        Raises:
            KeyError: No such snapshot was taken.

        Source:
            docs/embed.md, "In your tests".
        """
        for moment in self.moments:
            if moment.uuid == uuid and moment.name == f"fibackup-{point}":
                return moment
        raise KeyError(point)

    def images(self) -> dict[PurePosixPath, tuple[FileIdentity, dict[int, int]]]:
        """
        Return identity and clusters of every image, copied: to compare before and after.

        Source:
            docs/embed.md, "In your tests".
        """
        return {path: (file.identity, dict(file.clusters)) for path, file in self._files.items()}

    def active_layers(self) -> frozenset[PurePosixPath]:
        """
        Return the images that guests of domains that are not off write.

        Source:
            docs/embed.md, "In your tests".
        """
        off = {DomainState.SHUTOFF}
        guests = [guest for guest in self._guests.values() if guest.state not in off]
        return frozenset(path for guest in guests for path in guest.active.values())

    def ledgers(self, domain: str) -> tuple[Ledger, ...]:
        """
        Return every ledger that was written to a domain, oldest first.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        return tuple(self._guest(domain).ledgers)

    def leave_tpm_state(self, uuid: str) -> None:
        """
        Let the host have the state of a TPM, as a domain that is gone may leave it.

        Args:
            uuid: The domain's UUID.

        Source:
            libvirt ``VIR_DOMAIN_UNDEFINE_KEEP_TPM``.
        """
        self._left_tpms.add(uuid)

    def forget_image(self, path: PurePosixPath) -> None:
        """
        Remove a restored file, and the image that a domain has of it.

        Args:
            path: The file; a missing one is fine.

        Raises:
            DomainBusyError: A guest that is not off writes it.

        Source:
            docs/embed.md, "In your tests".
        """
        if path in self.active_layers():
            raise DomainBusyError(reason="a process has the image open", path=str(path))
        self.restored.pop(path, None)
        self.memory_files.pop(path, None)
        self.state_files.pop(path, None)
        self._files.pop(path, None)

    def image(self, path: PurePosixPath | str) -> tuple[Image, PurePosixPath | None, Content]:
        """
        Return an image, the path of the one under it, and its own clusters.

        Args:
            path: Its path.

        Raises:
            HostError: There is none.

        Source:
            docs/embed.md, "In your tests".
        """
        file = self._files.get(PurePosixPath(path))
        if file is None:
            raise HostError(reason="no such file", path=str(path))
        return file.observed(), file.backing, MappingProxyType(dict(file.clusters))

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def _guest(self, domain: str) -> _Guest:
        for guest in self._guests.values():
            if domain in {guest.name, guest.uuid}:
                return guest
        raise NoSuchDomainError(reason="no domain has this name or UUID", domain=domain, code=42)

    def _chain(self, path: PurePosixPath | None) -> list[_File]:
        files: list[_File] = []
        while path is not None:
            files.append(self._files[path])
            path = files[-1].backing
        return files

    def _observed(self, guest: _Guest, disk: Disk) -> Disk:
        active = guest.active.get(disk.target)
        if active is None or disk.source_type != "file":
            return disk
        images = tuple(file.observed() for file in self._chain(active))
        return evolve(disk, chain=BackingChain(disk.target, images), config_source=str(active))

    # --- the protocol ---------------------------------------------------------------------------

    @contextmanager
    def _locked(self, uuid: str) -> Generator[None]:
        with self.call("host.locked"):
            if uuid in self._held:
                raise LockedError(reason="another run holds the lock", owner="pid 1", path=uuid)
        self._held.add(uuid)
        try:
            yield
        finally:
            self._held.discard(uuid)

    def locked(self, uuid: str) -> AbstractContextManager[None]:
        """See `Host.locked`."""
        return self._locked(uuid)

    def read_domain(self, name: str) -> Domain:
        """See `Host.read_domain`."""
        with self.call("read_domain"):
            guest = self._guest(name)
            return Domain(
                name=guest.name,
                uuid=guest.uuid,
                state=guest.state,
                disks=tuple(self._observed(guest, disk) for disk in guest.disks.values()),
                persistent=guest.persistent,
                ledger=guest.ledger,
                managed_save=guest.managed_save,
                job=guest.job,
                agent_connected=guest.agent is not AgentState.ABSENT,
                memory_blockers=guest.memory_blockers,
                memory_bytes=CLUSTER_BYTES,
                has_nvram=FileRole.NVRAM in guest.states,
                has_tpm=FileRole.TPM_STATE in guest.states,
                snapshots=guest.snapshots,
            )

    def versions(self) -> Versions:
        """See `Host.versions`."""
        with self.call("versions"):
            return Versions(fibackup="fake", libvirt="0.0.0", qemu="0.0.0")

    def domain_config(self, uuid: str, *, secrets: bool = False) -> str:
        """See `Host.domain_config`."""
        with self.call("domain_config"):
            guest = self._guest(uuid)
            return _config(guest, secrets=secrets)

    def autostart(self, uuid: str) -> bool:
        """See `Host.autostart`."""
        with self.call("autostart"):
            return self._guest(uuid).autostart

    def read_state(self, uuid: str, role: FileRole) -> bytes:
        """See `Host.read_state`."""
        with self.call("read_state"):
            guest = self._guest(uuid)
            found = guest.states.get(role)
            if found is None:
                raise HostError(reason="No such file or directory", path=f"/nvram/{guest.name}")
            return found

    def write_ledger(self, uuid: str, ledger: Ledger) -> None:
        """See `Host.write_ledger`."""
        with self.call("write_ledger"):
            guest = self._guest(uuid)
            guest.ledger = parse_ledger(render_ledger(ledger))
            guest.ledgers.append(guest.ledger)

    def occupied(self, paths: tuple[PurePosixPath, ...]) -> tuple[PurePosixPath, ...]:
        """See `Host.occupied`."""
        with self.call("occupied"):
            return tuple(p for p in paths if p in self._files or p in self.memory_files)

    def take_snapshot(self, uuid: str, snapshot: Snapshot) -> datetime:
        """See `Host.take_snapshot`."""
        with self.call("take_snapshot"):
            guest = self._guest(uuid)
            self._check_snapshot(guest, snapshot)
            seen = {target: self.guest_sees(uuid, target) for target in guest.active}
            self.moments.append(Moment(uuid, snapshot.name, MappingProxyType(seen), guest.frozen))
            for new in snapshot.overlays:
                size = self._files[new.source].clusters_in_size
                self.add_image(new.path, size_clusters=size, backing=new.source)
                guest.active[new.target] = new.path
            if snapshot.memory is not None:
                self.memory_files[snapshot.memory] = guest.memory
            self.now += timedelta(seconds=1)
            return self.now

    def _check_snapshot(self, guest: _Guest, snapshot: Snapshot) -> None:
        named = {*(new.target for new in snapshot.overlays), *snapshot.excluded}
        _law(
            named == set(guest.disks),
            f"libvirt snapshots what is not named: {set(guest.disks) - named}",
        )
        if guest.state is DomainState.SHUTOFF:
            raise LibvirtError(reason="the domain is not running", domain=guest.name, code=55)
        if snapshot.memory is not None:
            _law(not guest.frozen, "memory of a frozen guest")
            _law(not guest.memory_blockers, f"{guest.memory_blockers} are found while planning")
        for new in snapshot.overlays:
            if guest.active.get(new.target) != new.source:
                raise LibvirtError(
                    reason=f"{new.source} is not active", domain=guest.name, target=new.target
                )
            if new.path in self._files:
                raise LibvirtError(reason="the file exists", domain=guest.name, path=str(new.path))

    def image_uses(self, uuid: str, paths: tuple[PurePosixPath, ...]) -> tuple[ImageUse, ...]:
        """See `Host.image_uses`."""
        with self.call("image_uses"):
            return tuple(
                ImageUse(guest.name, file.path)
                for guest in self._guests.values()
                if guest.uuid != uuid
                for active in guest.active.values()
                for file in self._chain(active)
                if file.path in paths
            )

    def run_block_job(
        self, uuid: str, job: CommitImages | PullImages, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `Host.run_block_job`."""
        with self.call("run_block_job"):
            cancel.check()
            guest = self._guest(uuid)
            on_event(CopyProgress(job.target, guest.active[job.target].name, 0, CLUSTER_BYTES))
            if isinstance(job, CommitImages):
                self._commit(guest, job)
            else:
                self._pull(guest, job)
            paths = tuple(file.path for file in self._chain(guest.active[job.target]))
            _law(paths == job.leaves, f"the job leaves {paths}, the plan says {job.leaves}")

    def finish_block_job(
        self, uuid: str, step: FinishBlockJob, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `Host.finish_block_job`."""
        with self.call("finish_block_job"):
            cancel.check()
            guest = self._guest(uuid)
            on_event(CopyProgress(step.target, step.kind, 0, CLUSTER_BYTES))
            job = guest.left_jobs.pop(step.target)
            guest.disks[step.target] = evolve(guest.disks[step.target], block_job=None)
            if isinstance(job, CommitImages):
                self._commit(guest, job)
            else:
                self._pull(guest, job)

    def _commit(self, guest: _Guest, job: CommitImages) -> None:
        files = self._chain(guest.active[job.target])
        paths = [file.path for file in files]
        if job.top not in paths or job.base not in paths[paths.index(job.top) + 1 :]:
            raise BlockJobError(reason="not in the chain", domain=guest.name, target=job.target)
        top, base = paths.index(job.top), paths.index(job.base)
        _law(job.pivot == (top == 0), "a commit of the active layer ends with a pivot, no other")
        into, size = files[base], files[top].clusters_in_size
        into.clusters = self._merged(files[top : base + 1], size)
        into.clusters_in_size, into.mtime_ns = size, self._tick()
        if job.pivot:
            guest.active[job.target] = into.path
        else:
            files[top - 1].backing, files[top - 1].mtime_ns = into.path, self._tick()

    def commit_offline(
        self, uuid: str, job: CommitOffline, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `Host.commit_offline`."""
        with self.call("commit_offline"):
            cancel.check()
            guest = self._guest(uuid)
            files = self._chain(guest.active[job.target])
            if guest.state is not DomainState.SHUTOFF or files[0].identity != job.identity:
                raise DomainBusyError(reason="it was started", domain=guest.name, target=job.target)
            on_event(CopyProgress(job.target, "commit", 0, CLUSTER_BYTES))
            paths = tuple(file.path for file in files)
            self._commit(
                guest, CommitImages(job.target, job.base, job.top, pivot=True, leaves=job.leaves)
            )
            _law(paths[paths.index(job.base) :] == job.leaves, f"{job.leaves} is no end of {paths}")

    def _pull(self, guest: _Guest, job: PullImages) -> None:
        files = self._chain(guest.active[job.target])
        paths = [file.path for file in files]
        if job.base is not None and job.base not in paths[1:]:
            raise BlockJobError(reason="not in the chain", domain=guest.name, target=job.target)
        end = len(files) if job.base is None else paths.index(job.base)
        active = files[0]
        active.clusters = self._merged(files[:end], active.clusters_in_size)
        active.backing, active.mtime_ns = job.base, self._tick()

    def delete_image(self, uuid: str, path: PurePosixPath) -> None:
        """See `Host.delete_image`."""
        with self.call("delete_image"):
            ours = self._guest(uuid).ledgers
            known = any(ledger.overlay(path) is not None for ledger in ours)
            _law(known, f"{path} was never an overlay of ours")
            used = {
                file.path
                for guest in self._guests.values()
                for active in guest.active.values()
                for file in self._chain(active)
            }
            if path in used:
                raise DomainBusyError(reason="a chain has the image", path=str(path))
            self._files.pop(path, None)

    def delete_memory(self, uuid: str, path: PurePosixPath) -> None:
        """See `Host.delete_memory`."""
        with self.call("delete_memory"):
            ours = self._guest(uuid).ledgers
            _law(any(ledger.memory == path for ledger in ours), f"{path} was never ours")
            self.memory_files.pop(path, None)

    def resume_domain(self, uuid: str, step: ResumeDomain, config: str) -> None:
        """See `Host.resume_domain`."""
        with self.call("resume_domain"):
            name = parse_domain_xml(config).name
            guest = self._guests.get(uuid) or _Guest(
                name, uuid, step.memory.parent, AgentState.CONNECTED, state=DomainState.SHUTOFF
            )
            if guest.state is not DomainState.SHUTOFF:
                raise DomainBusyError(reason="the domain runs", domain=name)
            if step.memory not in self.memory_files:
                raise LibvirtError(reason="there is no such file", path=str(step.memory))
            self._guests[uuid] = guest
            for disk in step.disks:
                size, content = self.restored[disk.path]
                self.add_image(disk.path, content, size_clusters=size, image_format=disk.format)
                guest.disks[disk.target] = Disk(disk.target, bus="virtio")
                guest.active[disk.target] = disk.path
            guest.memory, guest.ledger = self.memory_files.pop(step.memory), Ledger()
            guest.state = DomainState.PAUSED if step.paused else DomainState.RUNNING

    def foreign_parts(self, config: str, held: tuple[str, ...]) -> tuple[str, ...]:
        """See `Host.foreign_parts`."""
        with self.call("foreign_parts"):
            nvrams = PurePosixPath("/var/lib/libvirt/qemu/nvram")
            root = domain_root(config)
            return resumed_foreign(root, held=held, emulators=(EMULATOR,), nvrams=nvrams)

    def read_host(self) -> HostFacts:
        """See `Host.read_host`."""
        with self.call("read_host"):
            domains = tuple(sorted((guest.name, guest.uuid) for guest in self._guests.values()))
            return HostFacts(domains, (EMULATOR,))

    def define_domain(self, step: DefineDomain) -> None:
        """See `Host.define_domain`."""
        with self.call("define_domain"):
            guests = self._guests.values()
            if any(guest.name == step.name or guest.uuid == step.uuid for guest in guests):
                raise DomainExistsError(reason="the domain is defined", domain=step.name)
            found = parse_domain_xml(step.xml)
            _law((found.name, found.uuid) == (step.name, step.uuid), "the XML is another's")
            directory = PurePosixPath("/images")
            guest = _Guest(
                step.name, step.uuid, directory, AgentState.CONNECTED, state=DomainState.SHUTOFF
            )
            for disk in found.disks:
                self._attach_restored(guest, disk)
            nvram = find_nvram(step.xml)
            if nvram is not None:
                guest.states[FileRole.NVRAM] = self.state_files.get(nvram)
            if found.has_tpm:
                guest.states[FileRole.TPM_STATE] = None
            guest.config, guest.autostart = step.xml, step.autostart
            self._guests[step.uuid] = guest

    def _attach_restored(self, guest: _Guest, disk: Disk) -> None:
        guest.disks[disk.target] = evolve(disk, chain=None)
        if disk.chain is None:
            return
        active = disk.chain.active
        if active.path in self.restored:
            size, content = self.restored[active.path]
            self.add_image(active.path, content, size_clusters=size, image_format=active.format)
        _law(active.path in self._files, f"{active.path} is no image")
        guest.active[disk.target] = active.path

    def undefine_domain(self, step: DefineDomain) -> None:
        """See `Host.undefine_domain`."""
        with self.call("undefine_domain"):
            guest = self._guests.get(step.uuid)
            if guest is not None and guest.config != step.xml:
                raise DomainBusyError(reason="the domain is another one", domain=guest.name)
            self._guests.pop(step.uuid, None)

    def smoke_start(self, uuid: str) -> None:
        """See `Host.smoke_start`."""
        with self.call("smoke_start"):
            guest = self._guest(uuid)
            if guest.state is not DomainState.SHUTOFF:
                raise LibvirtError(reason="the domain is running", domain=guest.name, code=55)
            self.smoke_started.append(uuid)

    def start_domain(self, uuid: str) -> None:
        """See `Host.start_domain`."""
        with self.call("start_domain"):
            _law(uuid in self.smoke_started, "a domain is started before it was tried")
            self._guest(uuid).state = DomainState.RUNNING

    def find_tpm_state(self, uuid: str) -> PurePosixPath | None:
        """See `Host.find_tpm_state`."""
        with self.call("find_tpm_state"):
            guest = self._guests.get(uuid)
            has_one = guest is not None and guest.states.get(FileRole.TPM_STATE) is not None
            there = has_one or uuid in self._left_tpms
            return PurePosixPath("/swtpm", uuid) if there else None

    def write_tpm(self, uuid: str, data: bytes) -> None:
        """See `Host.write_tpm`."""
        with self.call("write_tpm"):
            guest = self._guest(uuid)
            _law(uuid not in self._left_tpms, "a state of a TPM that somebody left")
            _law(guest.state is DomainState.SHUTOFF, "the TPM of a domain that runs")
            if guest.states.get(FileRole.TPM_STATE) is not None:
                raise DestinationExistsError(reason="there is a state already", path=uuid)
            guest.states[FileRole.TPM_STATE] = data

    def freeze(self, uuid: str, timeout_seconds: float) -> int:
        """See `Host.freeze`."""
        with self.call("freeze"):
            guest = self._guest(uuid)
            _law(timeout_seconds > 0, "a freeze without a time limit")
            if guest.frozen:
                raise AgentError(
                    reason="the guest is frozen already, by somebody else", domain=guest.name
                )
            if guest.agent in {AgentState.ABSENT, AgentState.REFUSES}:
                raise AgentError(reason=f"the guest agent is: {guest.agent}", domain=guest.name)
            guest.frozen = True
            if guest.agent is AgentState.HANGS:
                raise AgentError(
                    reason="the guest agent does not answer", domain=guest.name, maybe_frozen=True
                )
            return 2

    def thaw(self, uuid: str, timeout_seconds: float) -> int:
        """See `Host.thaw`."""
        with self.call("thaw"):
            guest = self._guest(uuid)
            _law(timeout_seconds > 0, "a thaw without a time limit")
            if guest.agent is AgentState.ABSENT:
                raise AgentError(
                    reason="the guest agent is not connected",
                    domain=guest.name,
                    maybe_frozen=guest.frozen,
                )
            was, guest.frozen = guest.frozen, False
            return 2 if was else 0


def _config(guest: _Guest, *, secrets: bool) -> str:
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


def _default_error(name: str, *, maybe_frozen: bool) -> BaseException:
    if name in {"freeze", "thaw"}:
        return AgentError(
            reason="the guest agent does not answer", maybe_frozen=maybe_frozen or name == "thaw"
        )
    return LibvirtError(reason=_LOST, code=38)


def _law(holds: bool, text: str) -> None:  # noqa: FBT001 - it reads like assert
    if not holds:
        raise AssertionError(text)


@define
class _Kept:
    """An image of the fake store."""

    record: StoredImage
    clusters_in_size: int
    clusters: dict[int, int]


@define
class _Shelf:
    """A domain's part of the fake store."""

    images: dict[tuple[str, str], _Kept] = field(factory=dict[tuple[str, str], _Kept])
    receipts: dict[tuple[str, str], Receipt] = field(factory=dict[tuple[str, str], Receipt])
    files: dict[str, str] = field(factory=dict[str, str])
    unnamed: dict[str, str] = field(factory=dict[str, str])
    manifests: dict[str, str] = field(factory=dict[str, str])
    seals: dict[str, str] = field(factory=dict[str, str])
    record: VerificationRecord = field(factory=VerificationRecord)
    removal: Removal | None = None
    merge: tuple[Merge, _Kept] | None = None
    written: bool = False


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _content_sha256(size_bytes: int, clusters: Mapping[int, int]) -> str:
    return _sha256(json.dumps([size_bytes, sorted(clusters.items())]))


def _fingerprint(size: int, backing: str | None, clusters: Mapping[int, int]) -> str:
    return _sha256(json.dumps([size, backing, sorted(clusters.items())]))


class FakeStore(Drawable):
    """
    A store in memory; satisfies `PointStore`.

    Args:
        host: Whose images it copies, and whose calls it counts with.
        uuid: UUID of the store.
        path: Where it says that it is.
        free_bytes: Free space it says that it has.
    """

    def __init__(
        self,
        host: FakeHost,
        *,
        uuid: str = "5702e000-0000-4000-8000-000000000001",
        path: PurePosixPath | str = "/backup",
        free_bytes: int = 1 << 40,
    ) -> None:
        """Make an empty store."""
        self.path: PurePosixPath = PurePosixPath(path)
        self.space_bytes = free_bytes
        self.can_compress = True
        self.compress = False
        self.while_copying: Callable[[CopyImage], object] | None = None
        self.restored: dict[PurePosixPath, dict[int, int]] = {}
        self._host = host
        self._uuid = uuid
        self._shelves: dict[str, _Shelf] = {}

    def __repr__(self) -> str:
        """Return path and UUID."""
        return f"<FakeStore {str(self.path)!r} {self._uuid}>"

    def picture(self) -> Picture:
        """
        Return what is known without reading, as a `Store` does.

        Source:
            docs/explore.md.
        """
        return Picture(title=f"store {self.path}", facts=("in memory", self._uuid))

    @property
    def uuid(self) -> str:
        """The store's UUID."""
        return self._uuid

    # --- the test's side ------------------------------------------------------------------------

    def restore(self, uuid: str, point: str, target: str) -> dict[int, int]:
        """
        Return what a disk of a point holds, by the backing names in the stored images alone.

        Args:
            uuid: The domain.
            point: Id of a published point.
            target: The disk.

        Returns:
            The clusters that are not zeros.

        Raises:
            AssertionError: A backing file is not in the store.

        Source:
            qcow2: a cluster that an image does not have is read from its backing file.
        """
        shelf = self._shelf(uuid)
        disk = parse_manifest(shelf.manifests[point]).disk(target)
        while not disk.images:  # as at its parent
            disk = parse_manifest(shelf.manifests[disk.parent or ""]).disk(target)
        return _read(self._resolve(shelf, target, disk.images[0].name))

    def image_names(self, uuid: str) -> tuple[tuple[str, str], ...]:
        """
        Return target and name of every stored image of a domain.

        Args:
            uuid: The domain.

        Source:
            docs/embed.md, "In your tests".
        """
        return tuple(self._shelf(uuid).images)

    def stored(self, uuid: str, target: str, name: str) -> StoredImage:
        """
        Return the record of a stored image.

        Args:
            uuid: The domain.
            target: The disk.
            name: The image.

        Raises:
            KeyError: There is none.

        Source:
            docs/embed.md, "In your tests".
        """
        return self._shelf(uuid).images[target, name].record

    def damage(self, uuid: str, target: str, name: str) -> None:
        """
        Flip bits in a stored image; its record stays.

        Args:
            uuid: The domain.
            target: The disk.
            name: The image.

        Source:
            docs/embed.md, "In your tests".
        """
        kept = self._shelf(uuid).images[target, name]
        kept.clusters[0] = kept.clusters.get(0, 0) + 1_000_003

    def lose(self, uuid: str, target: str, name: str) -> None:
        """
        Lose a stored image; the manifests that name it stay.

        Args:
            uuid: The domain.
            target: The disk.
            name: The image.

        Source:
            docs/embed.md, "In your tests".
        """
        del self._shelf(uuid).images[target, name]
        self._shelf(uuid).receipts.pop((target, name), None)

    def forget(self, uuid: str, point: str) -> None:
        """
        Lose the manifest of a point, as a store that came back from an older copy has.

        Args:
            uuid: The domain.
            point: Id of the point.

        Source:
            docs/embed.md, "In your tests".
        """
        del self._shelf(uuid).manifests[point]
        del self._shelf(uuid).seals[point]

    def lose_manifest(self, uuid: str, point: str) -> None:
        """
        Lose the manifest of a point; the store knows that it was published.

        Args:
            uuid: The domain.
            point: Id of the point.

        Source:
            docs/embed.md, "In your tests".
        """
        del self._shelf(uuid).manifests[point]

    def change_manifest(self, uuid: str, point: str, change: Callable[[str], str]) -> None:
        """
        Change the manifest of a point; its seal stays.

        Args:
            uuid: The domain.
            point: Id of the point.
            change: Makes the new text of the old one.

        Source:
            docs/embed.md, "In your tests".
        """
        manifests = self._shelf(uuid).manifests
        manifests[point] = change(manifests[point])

    def _shelf(self, uuid: str) -> _Shelf:
        return self._shelves.setdefault(uuid, _Shelf())

    def _resolve(
        self, shelf: _Shelf, target: str, name: str | None
    ) -> Generator[tuple[int, Mapping[int, int]]]:
        while name is not None:
            kept = shelf.images.get((target, name))
            if kept is None:
                raise AssertionError(f"{name} of {target} is not in the store")
            yield kept.clusters_in_size, kept.clusters
            name = kept.record.backing

    # --- the protocol ---------------------------------------------------------------------------

    @contextmanager
    def _locked(self, uuid: str, *, exclusive: bool) -> Generator[None]:
        shelf = self._shelf(uuid)
        with self._host.call("locked"):
            if exclusive and shelf.written:
                raise LockedError(
                    reason="another run holds the lock", owner="pid 1", path=str(self.path)
                )
        if not exclusive:  # restores share, and do not wait for a backup
            yield
            return
        shelf.written = True
        shelf.unnamed.clear()
        try:
            self._finish_merge(shelf)
            self._finish_removal(shelf)
            yield
        finally:
            shelf.written = False

    def locked(self, uuid: str, name: str, *, exclusive: bool) -> AbstractContextManager[None]:
        """See `PointStore.locked`."""
        _law(bool(name), "a domain without a name")
        return self._locked(uuid, exclusive=exclusive)

    def read_history(self, uuid: str) -> History:
        """See `PointStore.read_history`."""
        with self._host.call("read_history"):
            shelf = self._shelf(uuid)
            points, unreadable = _read_manifests(shelf)
            if shelf.merge is not None:
                merge, new = shelf.merge
                placed = shelf.images.get((merge.target, merge.name)) is new
                sizes = {merge.name: new.record.size_bytes} if placed else {merge.file: 0}
                points = as_merged(tuple(points), merge, sizes)
            names = [*(name for _, name in shelf.images), *shelf.files, *shelf.manifests]
            return History(
                store=self._uuid,
                path=self.path,
                uuid=uuid,
                directory=uuid if points else "",
                points=tuple(points),
                receipts=tuple(shelf.receipts.values()),
                taken_ids=frozenset(name[:16] for name in names),
                unclaimed=frozenset(f"{target}/{name}" for target, name in shelf.images)
                - {
                    f"{disk.target}/{image.name}"
                    for point in points
                    for disk in point.disks
                    for image in disk.images
                },
                damaged=frozenset(
                    f"{disk.target}/{image.name}"
                    for point in points
                    for disk in point.disks
                    for image in disk.images
                    if (disk.target, image.name) not in shelf.images
                ),
                unreadable=unreadable,
                lost=tuple(sorted(shelf.seals.keys() - shelf.manifests.keys())),
                compress=self.compress,
            )

    def read_record(self, uuid: str) -> VerificationRecord:
        """See `PointStore.read_record`."""
        with self._host.call("read_record"):
            return self._shelf(uuid).record

    def survey(self, uuid: str) -> Survey:
        """See `PointStore.survey`."""
        history = self.read_history(uuid)
        with self._host.call("survey"):
            shelf = self._shelf(uuid)
            sizes = {f"{name}.json": len(text) for name, text in shelf.manifests.items()}
            sizes |= {name: len(text.encode()) for name, text in shelf.files.items()}
            for (target, name), kept in shelf.images.items():
                sizes[f"{target}/{name}"] = kept.record.size_bytes
            sizes |= {f"{target}/{name}.receipt": 1 for target, name in shelf.receipts}
            digests = {name: _sha256(text) for name, text in shelf.manifests.items()}
            return Survey(
                history=history,
                files=tuple(FoundFile(name, sizes[name]) for name in sorted(sizes)),
                record=shelf.record,
                digests=tuple(sorted(digests.items())),
                unsealed=tuple(sorted(shelf.manifests.keys() - shelf.seals.keys())),
                busy=shelf.written,
            )

    def verify_files(
        self,
        uuid: str,
        step: VerifyFiles,
        on_event: OnEvent,
        cancel: CancelToken,
        *,
        threads: int = 4,
    ) -> tuple[FileCheck, ...]:
        """See `PointStore.verify_files`."""
        with self._host.call("verify_files"):
            _law(threads > 0, "a verification without threads")
            checks: list[FileCheck] = []
            for file in step.files:
                cancel.check()
                check = self._check_file(self._shelf(uuid), file)
                self._remember(uuid, check.entry(step.run))
                checks.append(check)
                if check.read_bytes is not None or check.kind is not None:
                    on_event(FileVerified(file.file, file.size_bytes, check.reason))
            return tuple(checks)

    def _check_file(self, shelf: _Shelf, file: FileToVerify) -> FileCheck:
        target, _, name = file.file.rpartition("/")
        kept = shelf.images.get((target, name))
        text = shelf.files.get(name) if not target else None
        found = _digest_of(kept) if kept is not None else text and _sha256(text)
        kind, reason = None, ""
        if found is None:
            kind, reason = FaultKind.MISSING, "the file is missing"
        elif kept and file.header and kept.record.backing != file.header.backing:
            kind, reason = FaultKind.HEADER, "its header names another backing file"
        if kind is None and file.read and found != file.sha256:
            kind, reason = FaultKind.SHA256, f"sha256 is {found}; {file.sha256} recorded"
        read = file.size_bytes if kind is None and file.read else None
        return FileCheck(file.file, file.sha256, self._host.now, kind, reason, read)

    def verify_contents(
        self,
        uuid: str,
        step: VerifyContents,
        on_event: OnEvent,
        cancel: CancelToken,
        *,
        threads: int = 4,
    ) -> tuple[ContentCheck, ...]:
        """See `PointStore.verify_contents`."""
        with self._host.call("verify_contents"):
            _law(threads > 0, "a verification without threads")
            checks: list[ContentCheck] = []
            for content in step.contents:
                cancel.check()
                shelf = self._shelf(uuid)
                clusters = _read(self._resolve(shelf, content.target, content.images[0]))
                found = _content_sha256(content.virtual_size_bytes, clusters)
                reason = content.judged(found)
                check = ContentCheck(
                    file=content.file,
                    chain=content.chain,
                    time=self._host.now,
                    sha256=found,
                    kind=FaultKind.DISK if reason else None,
                    reason=reason,
                    read_bytes=len(clusters) * CLUSTER_BYTES,
                )
                self._remember(uuid, check.entry(step.run))
                checks.append(check)
                on_event(FileVerified(content.file, check.read_bytes, reason))
            return tuple(checks)

    def _remember(self, uuid: str, entry: CheckedFile | CheckedContent | None) -> None:
        shelf = self._shelf(uuid)
        files = (entry,) if isinstance(entry, CheckedFile) else ()
        contents = (entry,) if isinstance(entry, CheckedContent) else ()
        there = {*shelf.files, *(f"{target}/{name}" for target, name in shelf.images)}
        if entry is not None:
            there.add(entry.file)
        shelf.record = shelf.record.with_entries(files, contents, keep=there)

    def occupied(self, paths: tuple[PurePosixPath, ...]) -> tuple[PurePosixPath, ...]:
        """See `PointStore.occupied`."""
        with self._host.call("store.occupied"):
            there = {*self.restored, *self._host.memory_files, *self._host.state_files}
            return tuple(path for path in paths if path in there)

    def free_bytes(self) -> int:
        """See `PointStore.free_bytes`."""
        with self._host.call("free_bytes"):
            return self.space_bytes

    def require_compression(self) -> None:
        """See `PointStore.require_compression`."""
        with self._host.call("require_compression"):
            if not self.can_compress:
                raise RequirementError(reason="compression needs a qemu-img with zstd")

    def copy_image(
        self, uuid: str, step: CopyImage, on_event: OnEvent, cancel: CancelToken
    ) -> StoredImage:
        """See `PointStore.copy_image`."""
        with self._host.call("copy_image"):
            shelf = self._shelf(uuid)
            self._check_copy(shelf, step)
            image, _, clusters = self._host.image(step.source)
            self._check_source(step, image)
            on_event(CopyProgress(step.target, step.name, 0, image.allocated_bytes or 0))
            if self.while_copying is not None:
                self.while_copying(step)
            cancel.check()
            self._check_source(
                evolve(step, identity=image.identity), self._host.image(step.source)[0]
            )
            kept = _copied(step, image, clusters)
            shelf.images[step.target, step.name] = kept
            shelf.receipts[step.target, step.name] = Receipt(step.target, kept.record)
            record = kept.record
            on_event(CopyProgress(step.target, step.name, record.size_bytes, record.size_bytes))
            on_event(ImageCopied(step.target, step.name, record.size_bytes, record.sha256))
            return record

    def _check_copy(self, shelf: _Shelf, step: CopyImage) -> None:
        if (step.target, step.name) in shelf.images:
            raise DestinationExistsError(
                reason="the image exists", target=step.target, path=step.name
            )
        stored = step.backing is None or (step.target, step.backing) in shelf.images
        _law(stored, f"{step.name} would lie on {step.backing}, which is not in the store")

    def _check_source(self, step: CopyImage, found: Image) -> None:
        if step.source in self._host.active_layers():
            raise DomainBusyError(
                reason="a domain writes the image", target=step.target, path=str(step.source)
            )
        if step.identity is not None and step.identity != found.identity:
            raise DomainBusyError(
                reason="the image changed", target=step.target, path=str(step.source)
            )

    def hash_content(
        self,
        uuid: str,
        target: str,
        image: StoredImage,
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> str:
        """See `PointStore.hash_content`."""
        with self._host.call("hash_content"):
            cancel.check()
            size = image.virtual_size_bytes
            on_event(CopyProgress(target, image.name, size, size))
            clusters = _read(self._resolve(self._shelf(uuid), target, image.name))
            return _content_sha256(size, clusters)

    def save_config(self, uuid: str, name: str, text: str) -> StoredFile:
        """See `PointStore.save_config`."""
        with self._host.call("save_config"):
            shelf = self._shelf(uuid)
            if name in shelf.files or name in shelf.unnamed:
                raise DestinationExistsError(reason="the file exists", path=name)
            shelf.unnamed[name] = text
            return StoredFile(FileRole.DOMAIN_XML, name, len(text.encode()), _sha256(text))

    def save_state(self, uuid: str, step: SaveState, data: bytes) -> StoredFile:
        """See `PointStore.save_state`."""
        with self._host.call("save_state"):
            shelf = self._shelf(uuid)
            if step.name in shelf.files or step.name in shelf.unnamed:
                raise DestinationExistsError(reason="the file exists", path=step.name)
            shelf.unnamed[step.name] = data.decode("latin-1")
            digest = hashlib.sha256(data).hexdigest()
            return StoredFile(step.role, step.name, len(data), digest)

    def copy_memory(
        self, uuid: str, step: CopyMemory, on_event: OnEvent, cancel: CancelToken
    ) -> StoredFile:
        """See `PointStore.copy_memory`."""
        with self._host.call("copy_memory"):
            cancel.check()
            if step.source not in self._host.memory_files:
                raise HostError(reason="no such file", path=str(step.source))
            text = str(self._host.memory_files[step.source])
            on_event(CopyProgress("memory", step.name, len(text), len(text)))
            self._shelf(uuid).unnamed[step.name] = text
            return StoredFile(FileRole.MEMORY, step.name, len(text), _sha256(text))

    def read_config(self, uuid: str, file: StoredFile) -> str:
        """See `PointStore.read_config`."""
        with self._host.call("read_config"):
            return self._verified(uuid, file)

    def restore_memory(
        self, uuid: str, step: RestoreMemory, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `PointStore.restore_memory`."""
        with self._host.call("restore_memory"):
            cancel.check()
            if step.destination in self._host.memory_files:
                raise DestinationExistsError(reason="the file exists", path=str(step.destination))
            text = self._verified(uuid, step.file)
            on_event(CopyProgress("memory", step.destination.name, len(text), len(text)))
            self._host.memory_files[step.destination] = int(text)

    def _verified(self, uuid: str, file: StoredFile) -> str:
        text = self._shelf(uuid).files.get(file.name)
        if text is None or _sha256(text) != file.sha256:
            raise VerifyError(reason="the file is not what was recorded", path=file.name)
        return text

    def publish(self, point: RestorePoint) -> None:
        """See `PointStore.publish`."""
        with self._host.call("publish"):
            shelf = self._shelf(point.uuid)
            if point.id in shelf.manifests:
                raise DestinationExistsError(reason="the manifest exists", path=f"{point.id}.json")
            for file in point.files:
                if file.name in shelf.unnamed:
                    shelf.files[file.name] = shelf.unnamed.pop(file.name)
            self._check_complete(shelf, point)
            shelf.manifests[point.id] = render_manifest(point)
            shelf.seals[point.id] = _sha256(shelf.manifests[point.id])
            for disk in point.disks:
                for image in disk.images:
                    shelf.receipts.pop((disk.target, image.name), None)

    def _check_complete(self, shelf: _Shelf, point: RestorePoint) -> None:
        for file in point.files:
            if file.name not in shelf.files:
                raise StoreError(reason="the file is not in the store", path=file.name)
        for disk in point.disks:
            for image in disk.images:
                kept = shelf.images.get((disk.target, image.name))
                if kept is None:
                    raise StoreError(reason="an image is not in the store", path=image.name)
                receipt = shelf.receipts.get((disk.target, image.name))
                if receipt != Receipt(disk.target, image):
                    raise StoreError(reason="the receipt says otherwise", path=image.name)
            if disk.images:
                tuple(self._resolve(shelf, disk.target, disk.images[0].name))
            else:
                _law(disk.parent in shelf.manifests, "a disk without an image has a parent")

    def drop(self, uuid: str, step: DropPoints) -> int:
        """See `PointStore.drop`."""
        shelf = self._shelf(uuid)
        _law(shelf.written, "points are dropped under the exclusive lock")
        self._finish_merge(shelf)
        self._finish_removal(shelf)
        fault = misfit(step, self.read_history(uuid))
        if fault is not None:
            raise StalePlanError(reason=f"{fault}; plan again")
        for point in step.heirs:
            with self._host.call("drop.heir"):
                shelf.manifests[point.id] = render_manifest(point)
                shelf.seals[point.id] = _sha256(shelf.manifests[point.id])
        with self._host.call("drop.intent"):
            shelf.removal = Removal(step.points, step.files)
        return self._finish_removal(shelf)

    def _finish_removal(self, shelf: _Shelf) -> int:
        freed, removal = 0, shelf.removal
        if removal is None:
            return 0
        for point in removal.points:
            with self._host.call("drop.unpublish"):
                shelf.manifests.pop(point, None)
                shelf.seals.pop(point, None)
        for file in removal.files:
            with self._host.call("drop.delete"):
                target, _, name = file.rpartition("/")
                kept = shelf.images.pop((target, name), None) if target else None
                freed += kept.record.size_bytes if kept else len(shelf.files.pop(name, ""))
        with self._host.call("drop.done"):
            shelf.removal = None
        return freed

    def merge(
        self, uuid: str, step: MergeImages, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[StoredImage, int]:
        """See `PointStore.merge`."""
        shelf = self._shelf(uuid)
        _law(shelf.written, "images are merged under the exclusive lock")
        with self._host.call("merge.write"):
            cancel.check()
            point = parse_manifest(shelf.manifests[step.point])
            own = point.disk(step.target).images
            start = own.index(step.images[0]) if step.images[0] in own else 0
            if own[start : start + len(step.images)] != step.images:
                raise StoreError(reason="the point has other images", path=step.images[0].name)
            for image in step.images:
                _verify(image, shelf.images.get((step.target, image.name)))
            new = self._gathered(shelf, step)
            on_event(ImageCopied(step.target, new.record.name, new.record.size_bytes, "0" * 64))
        with self._host.call("merge.intent"):
            images = (*own[:start], new.record, *own[start + len(step.images) :])
            merged = evolve(
                point,
                disks=tuple(
                    evolve(disk, images=images) if disk.target == step.target else disk
                    for disk in point.disks
                ),
            )
            name = new.record.name
            gone = tuple(image.name for image in step.images[1:])
            shelf.merge = Merge(step.target, f"{name}.merged", name, merged, gone), new
        self._finish_merge(shelf)
        return new.record, sum(i.size_bytes for i in step.images) - new.record.size_bytes

    def _gathered(self, shelf: _Shelf, step: MergeImages) -> _Kept:
        clusters: dict[int, int] = {}
        for image in reversed(step.images):
            clusters |= shelf.images[step.target, image.name].clusters
        top = shelf.images[step.target, step.images[0].name]
        record = evolve(
            top.record,
            backing=step.backing,
            size_bytes=(len(clusters) + 1) * CLUSTER_BYTES,
            sha256=_fingerprint(top.clusters_in_size, step.backing, clusters),
        )
        return _Kept(record, top.clusters_in_size, clusters)

    def _finish_merge(self, shelf: _Shelf) -> None:
        if shelf.merge is None:
            return
        merge, new = shelf.merge
        with self._host.call("merge.place"):
            shelf.images[merge.target, merge.name] = new
        with self._host.call("merge.manifest"):
            shelf.manifests[merge.point.id] = render_manifest(merge.point)
            shelf.seals[merge.point.id] = _sha256(shelf.manifests[merge.point.id])
        with self._host.call("merge.delete"):
            for name in merge.gone:
                shelf.images.pop((merge.target, name), None)
            shelf.merge = None

    def flatten(
        self, uuid: str, step: FlattenImage, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.flatten`."""
        with self._host.call("flatten"):
            self._check_restore(uuid, step)
            cancel.check()
            content = _read(self._resolve(self._shelf(uuid), step.target, step.images[0].name))
            self.restored[step.destination] = content
            return self._made(step, on_event, (len(content) + 1) * CLUSTER_BYTES)

    def copy_chain(
        self, uuid: str, step: CopyStored, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.copy_chain`."""
        with self._host.call("copy_chain"):
            self._check_restore(uuid, step)
            cancel.check()
            shelf = self._shelf(uuid)
            for image, path in zip(step.images, step.destinations, strict=True):
                self.restored[path] = _read(self._resolve(shelf, step.target, image.name))
            return self._made(step, on_event, sum(image.size_bytes for image in step.images))

    def create_linked(
        self, uuid: str, step: CreateLinked, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """See `PointStore.create_linked`."""
        with self._host.call("create_linked"):
            self._check_restore(uuid, step)
            cancel.check()
            content = _read(self._resolve(self._shelf(uuid), step.target, step.images[0].name))
            self.restored[step.destination] = content
            return self._made(step, on_event, CLUSTER_BYTES)

    def _check_restore(self, uuid: str, step: DiskRestore) -> None:
        taken = [path for path in step.destinations if path in self.restored]
        if taken:
            raise DestinationExistsError(reason="the file exists", path=str(taken[0]))
        if isinstance(step, CreateLinked) and not step.verify:
            return
        for image in step.images:
            _verify(image, self._shelf(uuid).images.get((step.target, image.name)))

    def _made(self, step: DiskRestore, on_event: OnEvent, size: int) -> RestoredImage:
        clusters = step.images[0].virtual_size_bytes // CLUSTER_BYTES
        self._host.restored[step.destination] = clusters, self.restored[step.destination]
        on_event(CopyProgress(step.target, step.destination.name, size, size))
        return RestoredImage(
            target=step.target,
            path=step.destination,
            format=step.format,
            virtual_size_bytes=step.images[0].virtual_size_bytes,
            size_bytes=size,
        )

    def make_directory(self, path: PurePosixPath) -> None:
        """See `PointStore.make_directory`."""
        with self._host.call("make_directory"):
            _law(path.is_absolute(), f"{path} depends on a directory")

    def read_state(self, uuid: str, file: StoredFile) -> bytes:
        """See `PointStore.read_state`."""
        with self._host.call("store.read_state"):
            data = self._shelf(uuid).files.get(file.name, "").encode("latin-1")
            if not file.describes(data):
                raise VerifyError(reason="the file is not what was recorded", path=file.name)
            return data

    def restore_nvram(self, uuid: str, step: RestoreNvram) -> None:
        """See `PointStore.restore_nvram`."""
        with self._host.call("restore_nvram"):
            if step.destination in self._host.state_files:
                raise DestinationExistsError(reason="the file exists", path=str(step.destination))
            data = self._shelf(uuid).files.get(step.file.name, "").encode("latin-1")
            if not step.file.describes(data):
                raise VerifyError(reason="the file is not what was recorded", path=step.file.name)
            self._host.state_files[step.destination] = data

    def inodes(self, paths: tuple[PurePosixPath, ...]) -> tuple[int, ...]:
        """See `PointStore.inodes`."""
        with self._host.call("inodes"):
            there = {*self.restored, *self._host.memory_files, *self._host.state_files}
            return tuple(int(path in there) for path in paths)

    def discard(self, path: PurePosixPath, inode: int) -> None:
        """See `PointStore.discard`."""
        with self._host.call("discard"):
            _law(inode == 1, f"{path} was never made")
            self._host.forget_image(path)
            self.restored.pop(path, None)

    def remove_directory(self, path: PurePosixPath) -> None:
        """See `PointStore.remove_directory`."""
        with self._host.call("remove_directory"):
            _law(path.is_absolute(), f"{path} depends on a directory")


def _read_manifests(
    shelf: _Shelf,
) -> tuple[tuple[RestorePoint, ...], tuple[tuple[str, str], ...]]:
    points: list[RestorePoint] = []
    unreadable: list[tuple[str, str]] = []
    for name, text in sorted(shelf.manifests.items()):
        if _sha256(text) != shelf.seals.get(name, _sha256(text)):
            reason = "it is not the manifest that was published"
            unreadable.append((f"{name}.json", reason))
            continue
        try:
            points.append(parse_manifest(text))
        except ManifestError as error:
            unreadable.append((f"{name}.json", error.reason))
    return tuple(sorted(points, key=lambda point: point.sequence)), tuple(unreadable)


def _copied(step: CopyImage, image: Image, clusters: Content) -> _Kept:
    size = (image.virtual_size_bytes or 0) // CLUSTER_BYTES
    if image.identity is None or image.format != step.format:
        raise HostError(reason=f"not an image in {step.format} format", path=str(step.source))
    record = StoredImage(
        name=step.name,
        format="qcow2",
        size_bytes=CLUSTER_BYTES + len(clusters) * CLUSTER_BYTES // (2 if step.compress else 1),
        sha256=_fingerprint(size, step.backing, clusters),
        virtual_size_bytes=size * CLUSTER_BYTES,
        backing=step.backing,
        source=SourceImage(str(step.source), step.format, image.identity),
    )
    return _Kept(record, size, dict(clusters))


def _digest_of(kept: _Kept) -> str:
    return _fingerprint(kept.clusters_in_size, kept.record.backing, kept.clusters)


def _verify(image: StoredImage, kept: _Kept | None) -> None:
    if kept is None:
        raise VerifyError(reason="the image is not in the store", path=image.name)
    if _digest_of(kept) != image.sha256:
        raise VerifyError(reason="the image is not what was recorded", path=image.name)
