"""
A hypervisor in memory.

::

    the test's side    add_domain, write, shut_off, foreign_commit, ...   what people and guests do
    the protocol       read_domain, take_snapshot, run_block_job, ...     what fibackup asks for
    call               counts each call of host and stores, and fails the one that is to fail
"""

from __future__ import annotations

import uuid as _uuid
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from threading import RLock
from types import MappingProxyType

from attrs import evolve

from fibackup.errors import (
    DestinationExistsError,
    DomainBusyError,
    DomainExistsError,
    HostError,
    LibvirtError,
    LockedError,
    NoSuchDomainError,
)
from fibackup.host.cancel import CancelToken
from fibackup.host.events import CopyProgress, OnEvent
from fibackup.model.chain import FileIdentity, Image
from fibackup.model.domain import Disk, Domain, DomainState, ImageUse
from fibackup.model.host_facts import HostFacts
from fibackup.model.ledger import Ledger
from fibackup.model.point import FileRole, Versions
from fibackup.model.snapshot import Snapshot
from fibackup.parse.domain_xml import domain_root, parse_domain_xml
from fibackup.parse.foreign import resumed_foreign
from fibackup.parse.ledger_xml import parse_ledger, render_ledger
from fibackup.parse.machine_state import find_nvram
from fibackup.plan.steps import (
    CommitImages,
    CommitOffline,
    DefineDomain,
    FinishBlockJob,
    MendHeader,
    PullImages,
    ResumeDomain,
)
from fibackup.testing.faults import Faults
from fibackup.testing.guests import EMULATOR, AgentState, Guest, Moment, domain_xml
from fibackup.testing.images import CLUSTER_BYTES, Content, Images
from fibackup.testing.law import law

__all__ = ["FakeHost"]

_START = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)


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
        self._guests: dict[str, Guest] = {}
        self._files = Images()
        self.memory_files: dict[PurePosixPath, int] = {}
        self.restored: dict[PurePosixPath, tuple[int, Content]] = {}
        self.state_files: dict[PurePosixPath, bytes] = {}
        self.smoke_started: list[str] = []
        self._left_tpms: set[str] = set()
        self._faults = Faults()
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
        self._faults.set(len(self.calls) + number, error, after=after, lasting=lasting)

    def heal(self) -> None:
        """
        Forget the fault that `fail_at` set.

        Source:
            docs/embed.md, "In your tests".
        """
        self._faults.heal()

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
        """Return what the call raises before and after its effect."""
        return self._faults.due(name, len(self.calls))

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
        guest = Guest(name, uuid, PurePosixPath(directory), AgentState(agent))
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
        self._files.add(
            place,
            content,
            size_clusters=size_clusters,
            image_format=image_format,
            backing=backing,
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
        law(guest.state is DomainState.RUNNING, f"{guest.name} is {guest.state}, it writes nothing")
        law(not guest.frozen, f"{guest.name} is frozen, it writes nothing")
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
        self._files.write(PurePosixPath(path), cluster, value)

    def touch(self, path: PurePosixPath | str) -> None:
        """
        Move the time of an image, and change nothing else.

        Args:
            path: The image.

        Source:
            docs/embed.md, "In your tests".
        """
        self._files.touch(self._files[PurePosixPath(path)])

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
        return self._files.read(self._guest(domain).active[target])

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
        self._files.resize(self._guest(domain).active[target], clusters)

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
        self._guest(domain).set_state(DomainState.SHUTOFF)

    def start(self, domain: str) -> None:
        """
        Start or resume a domain.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        self._guest(domain).set_state(DomainState.RUNNING)

    def pause(self, domain: str) -> None:
        """
        Pause a domain.

        Args:
            domain: Name or UUID.

        Source:
            docs/embed.md, "In your tests".
        """
        self._guest(domain).set_state(DomainState.PAUSED)

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
        guest = self._guest(domain)
        guest.set_state(state)
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
        path = active.path.with_name(f"{guest.name}-{target}.admin-{self._files.inode + 1}")
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
        files = self._files.chain(guest.active[target])
        count = len(files) - 1 if layers is None else min(layers, len(files) - 1)
        if count:
            self._files.commit(files[: count + 1])
        guest.active[target] = files[count].path
        return files[count].path

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
        self._files.rebase(active, None)

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
        new = guest.directory / f"{guest.name}-{target}-{self._files.inode + 1}.qcow2"
        path = old.path if same_path else new
        self.add_image(path, content, size_clusters=old.clusters_in_size)
        guest.active[target] = path
        return path

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

    def _guest(self, domain: str) -> Guest:
        for guest in self._guests.values():
            if domain in {guest.name, guest.uuid}:
                return guest
        raise NoSuchDomainError(reason="no domain has this name or UUID", domain=domain, code=42)

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
            return self._guest(name).observed(self._files)

    def versions(self) -> Versions:
        """See `Host.versions`."""
        with self.call("versions"):
            return Versions(fibackup="fake", libvirt="0.0.0", qemu="0.0.0")

    def domain_config(self, uuid: str, *, secrets: bool = False) -> str:
        """See `Host.domain_config`."""
        with self.call("domain_config"):
            return domain_xml(self._guest(uuid), secrets=secrets)

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
            guest.check_snapshot(snapshot, self._files)
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

    def image_uses(self, uuid: str, paths: tuple[PurePosixPath, ...]) -> tuple[ImageUse, ...]:
        """See `Host.image_uses`."""
        with self.call("image_uses"):
            uses = [
                ImageUse(guest.name, file.path, target if guest.uuid == uuid else "")
                for guest in self._guests.values()
                for target, active in guest.active.items()
                for file in self._files.chain(active)
                if file.path in paths
            ]
            own = Counter(use.path for use in uses if use.disk)
            return tuple(use for use in uses if not use.disk or own[use.path] > 1)

    def run_block_job(
        self, uuid: str, job: CommitImages | PullImages, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `Host.run_block_job`."""
        with self.call("run_block_job"):
            cancel.check()
            guest = self._guest(uuid)
            on_event(CopyProgress(job.target, guest.active[job.target].name, 0, CLUSTER_BYTES))
            guest.run(job, self._files)
            paths = tuple(file.path for file in self._files.chain(guest.active[job.target]))
            law(paths == job.leaves, f"the job leaves {paths}, the plan says {job.leaves}")

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
            guest.run(job, self._files)

    def commit_offline(
        self, uuid: str, job: CommitOffline, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `Host.commit_offline`."""
        with self.call("commit_offline"):
            cancel.check()
            guest = self._guest(uuid)
            files = self._files.chain(guest.active[job.target])
            if guest.state is not DomainState.SHUTOFF or files[0].identity != job.identity:
                raise DomainBusyError(reason="it was started", domain=guest.name, target=job.target)
            on_event(CopyProgress(job.target, "commit", 0, CLUSTER_BYTES))
            paths = tuple(file.path for file in files)
            commit = CommitImages(job.target, job.base, job.top, pivot=True, leaves=job.leaves)
            guest.run(commit, self._files)
            law(paths[paths.index(job.base) :] == job.leaves, f"{job.leaves} is no end of {paths}")

    def delete_image(self, uuid: str, path: PurePosixPath) -> None:
        """See `Host.delete_image`."""
        with self.call("delete_image"):
            ours = self._guest(uuid).ledgers
            known = any(ledger.overlay(path) is not None for ledger in ours)
            law(known, f"{path} was never an overlay of ours")
            used = {
                file.path
                for guest in self._guests.values()
                for active in guest.active.values()
                for file in self._files.chain(active)
            }
            if path in used:
                raise DomainBusyError(reason="a chain has the image", path=str(path))
            self._files.pop(path, None)

    def mend_header(self, uuid: str, step: MendHeader) -> None:
        """See `Host.mend_header`."""
        with self.call("mend_header"):
            guest = self._guest(uuid)
            if guest.state is not DomainState.SHUTOFF:
                raise DomainBusyError(reason="it was started", domain=guest.name)
            law(step.below in self._files, f"{step.below} is no image")
            self._files.rebase(self._files[step.path], step.below)

    def resume_guest(self, uuid: str) -> None:
        """See `Host.resume_guest`."""
        with self.call("resume_guest"):
            guest = self._guest(uuid)
            if guest.state is DomainState.PAUSED:
                guest.set_state(DomainState.RUNNING)

    def delete_memory(self, uuid: str, path: PurePosixPath) -> None:
        """See `Host.delete_memory`."""
        with self.call("delete_memory"):
            ours = self._guest(uuid).ledgers
            law(any(ledger.memory == path for ledger in ours), f"{path} was never ours")
            self.memory_files.pop(path, None)

    def resume_domain(self, uuid: str, step: ResumeDomain, config: str) -> None:
        """See `Host.resume_domain`."""
        with self.call("resume_domain"):
            name = parse_domain_xml(config).name
            guest = self._guests.get(uuid) or Guest(
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
            law((found.name, found.uuid) == (step.name, step.uuid), "the XML is another's")
            directory = PurePosixPath("/images")
            guest = Guest(
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

    def _attach_restored(self, guest: Guest, disk: Disk) -> None:
        guest.disks[disk.target] = evolve(disk, chain=None)
        if disk.chain is None:
            return
        active = disk.chain.active
        if active.path in self.restored:
            size, content = self.restored[active.path]
            self.add_image(active.path, content, size_clusters=size, image_format=active.format)
        law(active.path in self._files, f"{active.path} is no image")
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
            law(uuid in self.smoke_started, "a domain is started before it was tried")
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
            law(uuid not in self._left_tpms, "a state of a TPM that somebody left")
            law(guest.state is DomainState.SHUTOFF, "the TPM of a domain that runs")
            if guest.states.get(FileRole.TPM_STATE) is not None:
                raise DestinationExistsError(reason="there is a state already", path=uuid)
            guest.states[FileRole.TPM_STATE] = data

    def freeze(self, uuid: str, timeout_seconds: float) -> int:
        """See `Host.freeze`."""
        with self.call("freeze"):
            law(timeout_seconds > 0, "a freeze without a time limit")
            return self._guest(uuid).freeze()

    def thaw(self, uuid: str, timeout_seconds: float) -> int:
        """See `Host.thaw`."""
        with self.call("thaw"):
            law(timeout_seconds > 0, "a thaw without a time limit")
            return self._guest(uuid).thaw()
