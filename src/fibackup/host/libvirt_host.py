"""
The real host: libvirt, called as little as possible.

::

    read_domain      lookup, state, XML live and persistent, metadata, jobs, snapshots: 10 calls
                     + 1 a disk + 4 a volume of a storage pool
    write_ledger     lookup, setMetadata
    take_snapshot    lookup, XML live, snapshotCreateXML
    freeze / thaw    lookup, agent calls

This module and its neighbours in this folder are the only ones that import libvirt.
"""

from __future__ import annotations

import math
import os
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import libvirt
from attrs import evolve

from fibackup.errors import (
    AgentError,
    DomainBusyError,
    FibackupError,
    ForeignConfigError,
    HostError,
    LibvirtError,
    NoSuchDomainError,
    RequirementError,
    StalePlanError,
    VerifyError,
)
from fibackup.host.block_jobs import finish_job, run_commit, run_pull
from fibackup.host.cancel import CancelToken
from fibackup.host.commit_image import committed
from fibackup.host.define import (
    define_domain,
    read_host,
    smoke_start,
    undefine_domain,
)
from fibackup.host.events import OnEvent
from fibackup.host.images import (
    delete_unused,
    examine_chain,
    follow_chain,
    refuse_unwritable,
    shared_images,
)
from fibackup.host.libvirt_errors import (
    CONNECTION_LOST,
    NO_DOMAIN_METADATA,
    libvirt_errors,
    may_have_frozen,
    translate,
)
from fibackup.host.machine_state import (
    nvram_directory,
    pack_tpm,
    read_state_file,
    remove_tpm,
    tpm_directory,
    unpack_tpm,
)
from fibackup.host.memory_image import delete_memory, forget_memory
from fibackup.host.qemu_img import qemu_img_version, rebase_header, shows_the_same_on
from fibackup.host.run_lock import hold_domain_lock
from fibackup.host.volumes import find_volumes
from fibackup.model.chain import MAX_DEPTH, Image
from fibackup.model.checks import UUID_PATTERN
from fibackup.model.domain import Disk, Domain, DomainState, ImageUse
from fibackup.model.host_facts import HostFacts
from fibackup.model.ledger import Ledger
from fibackup.model.point import FileRole, Versions
from fibackup.model.snapshot import Snapshot
from fibackup.parse.domain_xml import (
    disk_images,
    disk_targets,
    domain_root,
    parse_domain_xml,
    with_disk_sources,
    with_passwords,
    without_ledger,
)
from fibackup.parse.foreign import resumed_foreign
from fibackup.parse.ledger_xml import LEDGER_PREFIX, LEDGER_URI, parse_ledger, render_ledger
from fibackup.parse.machine_state import find_nvram, find_tpm, has_tpm
from fibackup.parse.xml_tree import parse_xml
from fibackup.plan.requirements import Work, check_versions
from fibackup.plan.steps import (
    CommitImages,
    CommitOffline,
    DefineDomain,
    FinishBlockJob,
    MendHeader,
    PullImages,
    ResumeDomain,
)

__all__ = ["LibvirtHost"]

_PAUSED_BY_CALL = {libvirt.VIR_DOMAIN_PAUSED_USER, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN}
"""Why a guest stands still that was suspended; a crash, a watchdog or a migration is no such."""

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.BLOCKED,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PMSUSPENDED,
}
_BLOCK_JOBS = {1: "pull", 2: "copy", 3: "commit", 4: "active commit", 5: "backup"}
_SNAPSHOT_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
)
_MEMORY_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_LIVE
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
)
_THAW_PAUSE_SECONDS = 0.5
_loop_started = threading.Lock()


def _start_event_loop() -> None:
    """Register libvirt's event loop once in a process, and run it in a daemon thread."""
    if not _loop_started.acquire(blocking=False):
        return
    libvirt.virEventRegisterDefaultImpl()

    def pump() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=pump, name="fibackup-libvirt-events", daemon=True).start()


class LibvirtHost:
    """
    A hypervisor that is reached through libvirt; the image files must be on this machine.

    Thread-safe: it keeps the connection and no other state. A connection that `open` made is
    made again when the daemon was restarted in between.

    Open one with `LibvirtHost.open`, and use it as a context manager, or call `close`. An
    application that has a connection already, and runs libvirt's event loop itself, passes it to
    the constructor; then `close` leaves it open.
    """

    def __init__(self, connection: libvirt.virConnect) -> None:
        """Use an open connection, which the caller closes."""
        self._connection = connection
        self._uri: str | None = None

    @classmethod
    def open(cls, uri: str | None = None) -> Self:
        """
        Connect to libvirt.

        Args:
            uri: Such as ``"qemu:///system"``; None: ``$LIBVIRT_DEFAULT_URI``, else ``qemu:///system``.

        Returns:
            The host.

        Raises:
            RequirementError: The hypervisor is on another machine.
            LibvirtError: libvirt cannot be reached.
            PermissionDeniedError: libvirt does not let this user in.

        Source:
            libvirt ``virConnectOpen``; https://libvirt.org/uri.html.
        """
        where = uri or os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///system"
        _refuse_remote(where)
        libvirt.registerErrorHandler(_ignore_error, None)
        _start_event_loop()
        with libvirt_errors(f"cannot connect to {where}"):
            host = cls(libvirt.open(where))
        host._uri = where
        try:
            _refuse_remote(host.uri)  # an alias of libvirt.conf may stand for another machine
        except RequirementError:
            host.close()
            raise
        return host

    def __repr__(self) -> str:
        """Return where libvirt is, as far as it is open."""
        with suppress(LibvirtError):
            return f"<LibvirtHost {self.uri}>"
        return "<LibvirtHost closed>"

    @property
    def uri(self) -> str:
        """Where libvirt is, as it says itself, such as ``"qemu:///system"``."""
        with libvirt_errors("virConnectGetURI"):
            return self._connection.getURI()

    @property
    def security_models(self) -> tuple[str, ...]:
        """What confines the domains, as libvirt calls it, such as ``("apparmor", "dac")``."""
        with libvirt_errors("virConnectGetCapabilities"):
            capabilities = parse_xml(self._connection.getCapabilities(), "capabilities")
        found = (node.text for node in capabilities.iterfind("host/secmodel/model"))
        return tuple(each for each in found if each)

    def close(self) -> None:
        """
        Close the connection when `open` made it; twice is fine.

        Source:
            libvirt ``virConnectClose``.
        """
        if self._uri is not None:
            self._uri = None
            with libvirt_errors("virConnectClose"):
                self._connection.close()

    def __enter__(self) -> Self:
        """Return the host."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    # --- reading --------------------------------------------------------------------------------

    def versions(self) -> Versions:
        """See `Host.versions`."""
        with libvirt_errors("virConnectGetVersion"):
            return Versions(
                fibackup=_own_version(),
                libvirt=_dotted(self._connection.getLibVersion()),
                qemu=_dotted(self._connection.getVersion()),
            )

    def check_requirements(self, *, consolidates: bool = False) -> tuple[str, ...]:
        """
        Refuse versions of libvirt, QEMU and qemu-img that are too old, or known to do harm.

        Args:
            consolidates: True when chains are going to be shortened.

        Returns:
            Warnings.

        Raises:
            RequirementError: With program, version and remedy. Nothing was touched.

        Source:
            libvirt and QEMU release notes.
        """
        work = Work.CONSOLIDATE if consolidates else Work.BACKUP
        return check_versions(self.versions(), qemu_img_version(), work=work)

    def read_domain(self, name: str) -> Domain:
        """See `Host.read_domain`."""
        handle = self._lookup(name)
        with libvirt_errors("virDomainGetXMLDesc", name):
            persistent = bool(handle.isPersistent())
            live = handle.XMLDesc(0)
            config = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) if persistent else None
            state = _state(handle.state())
            active = bool(handle.isActive())
            job = int(handle.jobInfo()[0]) if active else 0
            saved = bool(handle.hasManagedSaveImage(0)) if persistent else False
            snapshots = tuple(sorted(each.getName() for each in handle.listAllSnapshots(0)))
        domain = parse_domain_xml(
            live, config, volumes=find_volumes(self._connection, live, config)
        )
        return evolve(
            domain,
            state=state,
            persistent=persistent,
            ledger=self._read_ledger(handle, name),
            managed_save=saved,
            snapshots=snapshots,
            job="background" if job else None,
            disks=tuple(_examine_disk(handle, disk, active=active) for disk in domain.disks),
        )

    def list_domains(self, *, running: bool = False) -> tuple[str, ...]:
        """
        Return the UUIDs of the domains, sorted by name.

        Args:
            running: True: only those that run.

        Raises:
            LibvirtError: libvirt refused.

        Source:
            libvirt ``virConnectListAllDomains``.
        """
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE if running else 0
        with libvirt_errors("virConnectListAllDomains"):
            handles = self._connection.listAllDomains(flags)
            return tuple(
                uuid for _, uuid in sorted((each.name(), each.UUIDString()) for each in handles)
            )

    def domain_names(self) -> frozenset[str]:
        """
        Return the names of the domains.

        Raises:
            LibvirtError: libvirt refused.

        Source:
            libvirt ``virConnectListAllDomains``.
        """
        with libvirt_errors("virConnectListAllDomains"):
            return frozenset(each.name() for each in self._connection.listAllDomains(0))

    def identify(self, name: str) -> tuple[str, str]:
        """
        Find a domain, without reading it.

        Args:
            name: Name or UUID.

        Returns:
            Its name and its UUID.

        Raises:
            NoSuchDomainError: No domain has this name or UUID.
            LibvirtError: libvirt refused.

        Source:
            libvirt ``virDomainLookupByName``, ``virDomainLookupByUUIDString``.
        """
        handle = self._lookup(name)
        with libvirt_errors("virDomainGetName", name):
            return handle.name(), handle.UUIDString()

    def domain_config(self, uuid: str, *, secrets: bool = False) -> str:
        """See `Host.domain_config`."""
        handle = self._lookup(uuid)
        flags = libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0
        with libvirt_errors("virDomainGetXMLDesc", uuid):
            return handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | flags)

    def autostart(self, uuid: str) -> bool:
        """See `Host.autostart`."""
        handle = self._lookup(uuid)
        with libvirt_errors("virDomainGetAutostart", uuid):
            return bool(handle.isPersistent() and handle.autostart())

    def read_state(self, uuid: str, role: FileRole) -> bytes:
        """See `Host.read_state`."""
        handle = self._lookup(uuid)
        with libvirt_errors("virDomainGetXMLDesc", uuid):
            xml, name = handle.XMLDesc(0), handle.name()
            uri = self._connection.getURI()
        if role is FileRole.TPM_STATE:
            return pack_tpm(find_tpm(xml), tpm_directory(uri, uuid))
        return read_state_file(find_nvram(xml) or nvram_directory(uri) / f"{name}_VARS.fd")

    def occupied(self, paths: tuple[PurePosixPath, ...]) -> tuple[PurePosixPath, ...]:
        """See `Host.occupied`."""
        for directory in dict.fromkeys(path.parent for path in paths):
            refuse_unwritable(directory, as_us=self._is_session())
        return tuple(path for path in paths if os.path.lexists(path))

    def _is_session(self) -> bool:
        """Tell whether the daemon is this user's own, and may do what this user may."""
        with libvirt_errors("virConnectGetURI"):
            return self._connection.getURI().partition("?")[0].endswith("/session")

    def _lookup(self, name: str) -> libvirt.virDomain:
        with libvirt_errors("virDomainLookup", name):
            try:
                return self._find(name)
            except libvirt.libvirtError as error:
                if not self._reconnect(error):
                    raise
            return self._find(name)

    def _find(self, name: str) -> libvirt.virDomain:
        if UUID_PATTERN.fullmatch(name):
            return self._connection.lookupByUUIDString(name)
        return self._connection.lookupByName(name)

    def _reconnect(self, error: libvirt.libvirtError) -> bool:
        """Open our own connection again when the daemon has gone and come back."""
        if self._uri is None or error.get_error_code() not in CONNECTION_LOST:
            return False
        self._connection = libvirt.open(self._uri)
        return True

    def _read_ledger(self, handle: libvirt.virDomain, name: str) -> Ledger:
        try:
            text = handle.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, LEDGER_URI, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == NO_DOMAIN_METADATA:
                return Ledger()
            raise translate(error, domain=name, doing="virDomainGetMetadata") from error
        return parse_ledger(text)

    # --- acting ---------------------------------------------------------------------------------

    def locked(self, uuid: str) -> AbstractContextManager[None]:
        """See `Host.locked`."""
        return hold_domain_lock(uuid)

    def write_ledger(self, uuid: str, ledger: Ledger) -> None:
        """See `Host.write_ledger`."""
        handle = self._lookup(uuid)
        with libvirt_errors("virDomainSetMetadata", uuid):
            flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if handle.isActive() else 0
            flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG if handle.isPersistent() else 0
            handle.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                render_ledger(ledger),
                LEDGER_PREFIX,
                LEDGER_URI,
                flags,
            )

    def take_snapshot(self, uuid: str, snapshot: Snapshot) -> datetime:
        """See `Host.take_snapshot`."""
        handle = self._lookup(uuid)
        with libvirt_errors("virDomainGetXMLDesc", uuid):
            difference = snapshot.difference(disk_targets(handle.XMLDesc(0)))
        if difference is not None:
            raise StalePlanError(domain=uuid, reason=f"{difference}; plan again")
        with libvirt_errors("virDomainSnapshotCreateXML", uuid):
            flags = _SNAPSHOT_FLAGS if snapshot.memory is None else _MEMORY_FLAGS
            handle.snapshotCreateXML(_snapshot_xml(snapshot), flags)
        return datetime.now(UTC)

    def run_block_job(
        self, uuid: str, job: CommitImages | PullImages, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `Host.run_block_job`."""
        handle, suspended = self._lookup(uuid), partial(self._suspended, uuid)
        with libvirt_errors("block job", uuid):
            if isinstance(job, CommitImages):
                run_commit(self._connection, handle, job, on_event, cancel, suspended)
            else:
                run_pull(self._connection, handle, job, on_event, cancel, suspended)

    @contextmanager
    def _suspended(self, uuid: str) -> Generator[None]:
        """Let the guest stand still, if it runs; the ledger says so, for who may have to end it."""
        handle = self._lookup(uuid)
        with libvirt_errors("virDomainGetState", uuid):
            state = _state(handle.state())
        if not state.runs:
            yield
            return
        self._mark_suspended(uuid, suspended=True)
        try:
            with libvirt_errors("virDomainSuspend", uuid):
                handle.suspend()
            yield
        finally:
            self.resume_guest(uuid)
            with suppress(FibackupError):  # what a caller writes next has no such mark either
                self._mark_suspended(uuid, suspended=False)

    def _mark_suspended(self, uuid: str, *, suspended: bool) -> None:
        ledger = self._read_ledger(self._lookup(uuid), uuid)
        if ledger.run is not None:
            self.write_ledger(uuid, evolve(ledger, run=evolve(ledger.run, suspended=suspended)))

    def mend_header(self, uuid: str, step: MendHeader) -> None:
        """See `Host.mend_header`."""
        handle = self._lookup(uuid)
        with libvirt_errors("virDomainIsActive", uuid):
            active = bool(handle.isActive())
        if active:
            raise DomainBusyError(domain=uuid, target=step.target, reason="it was started")
        if not shows_the_same_on(step.path, step.below, step.format, depth=2 * MAX_DEPTH):
            raise HostError(
                domain=uuid,
                target=step.target,
                reason="by its header the overlay shows another disk than by the definition, so "
                "something was written under it since; nothing is changed: let the definition name "
                "what the header names, or the header what the definition does",
                path=str(step.path),
            )
        rebase_header(step.path, step.below, step.format)

    def resume_guest(self, uuid: str) -> None:
        """See `Host.resume_guest`."""
        handle = self._lookup(uuid)
        with libvirt_errors("virDomainResume", uuid):
            state, reason = handle.state()
            if state == libvirt.VIR_DOMAIN_PAUSED and reason in _PAUSED_BY_CALL:
                handle.resume()

    def commit_offline(
        self, uuid: str, job: CommitOffline, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `Host.commit_offline`."""
        handle = self._lookup(uuid)
        _definition_on(handle, uuid, job)
        with committed(job, on_event, cancel):
            xml = _definition_on(handle, uuid, job)
            with libvirt_errors("virDomainDefineXML", uuid):
                sources = {job.target: (job.base, job.base_format)}
                self._connection.defineXML(with_disk_sources(xml, sources, keep_others=True))

    def finish_block_job(
        self, uuid: str, step: FinishBlockJob, on_event: OnEvent, cancel: CancelToken
    ) -> None:
        """See `Host.finish_block_job`."""
        handle, suspended = self._lookup(uuid), partial(self._suspended, uuid)
        with libvirt_errors("block job", uuid):
            finish_job(self._connection, handle, step, on_event, cancel, suspended)

    def delete_image(self, uuid: str, path: PurePosixPath) -> None:
        """See `Host.delete_image`."""
        for handle in self._handles():
            images = tuple(each for disk in self._images(handle).values() for each in disk)
            for doubt in shared_images((path,), images).values():
                with libvirt_errors("virDomainGetName"):
                    name = handle.name()
                reason = f"{name} may still use the overlay: {doubt}"
                raise DomainBusyError(
                    domain=uuid,
                    reason=reason if doubt else f"{name} still uses the overlay",
                    path=str(path),
                )
        delete_unused(path)

    def image_uses(self, uuid: str, paths: tuple[PurePosixPath, ...]) -> tuple[ImageUse, ...]:
        """See `Host.image_uses`."""
        out: list[ImageUse] = []
        for handle in self._handles():
            with libvirt_errors("virDomainGetName"):
                name, own = handle.name(), handle.UUIDString() == uuid
            disks = self._images(handle)
            if own:
                out.extend(_own_uses(name, paths, disks))
                continue
            images = tuple(each for disk in disks.values() for each in disk)
            out.extend(
                ImageUse(name, path, doubt=doubt)
                for path, doubt in shared_images(paths, images).items()
            )
        return tuple(out)

    def _images(self, handle: libvirt.virDomain) -> dict[str, tuple[Image, ...]]:
        """Return what each disk names, live and persistent; nothing when the domain has gone."""
        try:
            texts = [handle.XMLDesc(0)]
            if handle.isActive() and handle.isPersistent():
                texts.append(handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return {}
            raise translate(error, doing="virDomainGetXMLDesc") from error
        volumes = find_volumes(self._connection, *texts)
        found: dict[str, tuple[Image, ...]] = {}
        for text in texts:
            for target, images in disk_images(text, volumes=volumes):
                found[target] = (*found.get(target, ()), *images)
        return found

    def _handles(self) -> list[libvirt.virDomain]:
        with libvirt_errors("virConnectListAllDomains"):
            return list(self._connection.listAllDomains(0))

    def delete_memory(self, uuid: str, path: PurePosixPath) -> None:
        """See `Host.delete_memory`."""
        del uuid  # the name and the content of the file say whose it is
        delete_memory(path)

    def resume_domain(self, uuid: str, step: ResumeDomain, config: str) -> None:
        """See `Host.resume_domain`."""
        sources = {disk.target: (disk.path, disk.format) for disk in step.disks}
        kept = {target: sources[target] for target in disk_targets(config) if target in sources}
        definition = with_disk_sources(without_ledger(config), kept)
        memory = str(step.memory)
        with libvirt_errors("virDomainSaveImageGetXMLDesc", uuid):
            secure = libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE
            saved = self._connection.saveImageGetXMLDesc(memory, secure)
        self._refuse_foreign(uuid, step, config, saved)
        live = with_disk_sources(without_ledger(saved), sources)
        flags = libvirt.VIR_DOMAIN_SAVE_PAUSED if step.paused else 0
        with libvirt_errors("virDomainRestoreFlags", uuid):
            self._connection.restoreFlags(memory, live, flags)
        runs = "the guest is back on the restored disks, only its definition could not be set"
        try:
            with libvirt_errors(f"{runs}; virDomainDefineXML", uuid):
                self._connection.defineXML(with_passwords(definition, saved))
        finally:
            forget_memory(step.memory)

    def _refuse_foreign(self, uuid: str, step: ResumeDomain, config: str, saved: str) -> None:
        """Refuse a file with memory that brings in what the stored XML does not say."""
        stored, there = parse_domain_xml(config), parse_domain_xml(saved)
        if (there.uuid, there.name) != (uuid, stored.name) or stored.uuid != uuid:
            raise VerifyError(
                domain=stored.name,
                reason=f"the memory is that of {there.name}, {there.uuid}",
                path=str(step.memory),
            )
        held = tuple(disk.target for disk in step.disks)
        parts = () if step.keep_foreign else self.foreign_parts(saved, held)
        if parts:
            raise ForeignConfigError(
                domain=stored.name,
                reason="the XML in the file with the memory reaches out of the guest",
                path=str(step.memory),
                parts=parts,
            )

    def foreign_parts(self, config: str, held: tuple[str, ...]) -> tuple[str, ...]:
        """See `Host.foreign_parts`."""
        with libvirt_errors("virConnectGetURI"):
            nvrams = nvram_directory(self._connection.getURI())
        emulators = self.read_host().emulators
        root = domain_root(config)
        return resumed_foreign(root, held=held, emulators=emulators, nvrams=nvrams)

    def read_host(self) -> HostFacts:
        """See `Host.read_host`."""
        return read_host(self._connection)

    def define_domain(self, step: DefineDomain) -> None:
        """See `Host.define_domain`."""
        define_domain(self._connection, step)

    def undefine_domain(self, step: DefineDomain) -> None:
        """See `Host.undefine_domain`."""
        undefine_domain(self._connection, step)
        if has_tpm(domain_root(step.xml)):  # older libvirt leaves a state that is to persist
            remove_tpm(self._tpm_directory(step.uuid))

    def smoke_start(self, uuid: str) -> None:
        """See `Host.smoke_start`."""
        smoke_start(self._lookup(uuid))

    def start_domain(self, uuid: str) -> None:
        """See `Host.start_domain`."""
        handle = self._lookup(uuid)
        with libvirt_errors("virDomainCreate", uuid):
            handle.create()

    def find_tpm_state(self, uuid: str) -> PurePosixPath | None:
        """See `Host.find_tpm_state`."""
        directory = self._tpm_directory(uuid)
        return directory if os.path.lexists(directory) else None

    def write_tpm(self, uuid: str, data: bytes) -> None:
        """See `Host.write_tpm`."""
        unpack_tpm(data, self._tpm_directory(uuid))

    def _tpm_directory(self, uuid: str) -> PurePosixPath:
        with libvirt_errors("virConnectGetURI"):
            uri = self._connection.getURI()
        return tpm_directory(uri, uuid)

    def freeze(self, uuid: str, timeout_seconds: float) -> int:
        """See `Host.freeze`."""
        with _agent_errors(uuid):
            handle = self._lookup(uuid)
            handle.agentSetResponseTimeout(math.ceil(timeout_seconds), 0)
            _refuse_foreign_freeze(handle, uuid)
        with _agent_errors(uuid, freezes=True):
            return handle.fsFreeze(None, 0)

    def thaw(self, uuid: str, timeout_seconds: float) -> int:
        """See `Host.thaw`."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                with _agent_errors(uuid):
                    return self._lookup(uuid).fsThaw(None, 0)
            except AgentError as error:
                advice = self._ask_caller(error)
                if advice or time.monotonic() + _THAW_PAUSE_SECONDS > deadline:
                    raise AgentError(
                        reason=f"the guest may be frozen still: {error.reason}{advice}",
                        domain=uuid,
                        maybe_frozen=True,
                    ) from error
            time.sleep(_THAW_PAUSE_SECONDS)

    def _ask_caller(self, error: AgentError) -> str:
        """Say that only the caller can connect again; nothing while another try may help."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, libvirt.libvirtError):
            cause = cause.__cause__
        code = cause.get_error_code() if cause is not None else None
        if self._uri is not None or code not in CONNECTION_LOST or self._connection.isAlive():
            return ""
        return "; the connection is lost, and only the caller, whose it is, can make it again"


def _own_uses(
    name: str, paths: tuple[PurePosixPath, ...], disks: Mapping[str, tuple[Image, ...]]
) -> tuple[ImageUse, ...]:
    """Return which of *paths* several disks of one domain use."""
    uses = tuple(
        ImageUse(name, path, target, doubt)
        for target, images in disks.items()
        for path, doubt in shared_images(paths, images).items()
    )
    found = Counter(use.path for use in uses)
    return tuple(use for use in uses if found[use.path] > 1)


def _definition_on(handle: libvirt.virDomain, uuid: str, job: CommitOffline) -> str:
    """Return the definition of a domain that is off and whose disk is what *job* commits."""
    with libvirt_errors("virDomainGetXMLDesc", uuid):
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        active, xml = bool(handle.isActive()), handle.XMLDesc(flags)
    found = parse_domain_xml(xml, volumes=find_volumes(handle.connect(), xml))
    chain = found.disk(job.target).chain
    if active or chain is None or chain.active.path != job.top:
        what = "it was started" if active else f"{job.top} is no longer its disk"
        raise DomainBusyError(domain=uuid, target=job.target, reason=what)
    return xml


def _ignore_error(_: object, __: object) -> None:
    """Keep libvirt from printing each error to stderr as well."""


def _refuse_remote(uri: str) -> None:
    parts = urlsplit(uri)
    transport = parts.scheme.partition("+")[2]
    if parts.hostname not in {None, "", "localhost"} or transport in {
        "ssh",
        "libssh",
        "libssh2",
        "tcp",
        "tls",
        "ext",
    }:
        raise RequirementError(
            reason="the hypervisor is on another machine; fibackup reads the images themselves",
            path=uri,
            remedy=f"run fibackup on {parts.hostname or 'that machine'}",
        )


def _own_version() -> str:
    try:
        return version("fibackup")
    except PackageNotFoundError:  # pragma: no cover - run from a tree that is not installed
        return "unknown"


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _state(found: list[int]) -> DomainState:
    state, reason = found[0], found[1]
    if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR:
        return DomainState.PAUSED_IO_ERROR
    return _STATES.get(state, DomainState.UNKNOWN)


def _examine_disk(handle: libvirt.virDomain, disk: Disk, *, active: bool) -> Disk:
    if disk.chain is None or disk.device != "disk":
        return disk
    job = disk.block_job
    if active and job is None:
        with libvirt_errors("virDomainGetBlockJobInfo"):
            info = handle.blockJobInfo(disk.target, 0)
        job = _BLOCK_JOBS.get(int(info.get("type", 0)), "unknown") if info else None
    chain = examine_chain(disk.chain)
    known = active or disk.chain_ends
    return evolve(disk, chain=chain if known else follow_chain(chain), block_job=job)


def _snapshot_xml(snapshot: Snapshot) -> str:
    """
    Return the XML of a snapshot.

    Every disk is named: libvirt would put an overlay of its own choice on one that is not.
    """
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = snapshot.name
    if snapshot.memory is not None:
        ET.SubElement(root, "memory", snapshot="external", file=str(snapshot.memory))
    disks = ET.SubElement(root, "disks")
    for new in snapshot.overlays:
        disk = ET.SubElement(disks, "disk", name=new.target, snapshot="external", type="file")
        ET.SubElement(disk, "driver", type="qcow2")
        ET.SubElement(disk, "source", file=str(new.path))
    for target in snapshot.excluded:
        ET.SubElement(disks, "disk", name=target, snapshot="no")
    return ET.tostring(root, encoding="unicode")


def _refuse_foreign_freeze(handle: libvirt.virDomain, uuid: str) -> None:
    """
    Refuse a guest that somebody else has frozen.

    ``fsInfo`` is refused by a frozen agent, and unlike ``guest-fsfreeze-status`` does not taint the
    domain. Any other answer of the agent says nothing about a freeze.
    """
    try:
        handle.fsInfo(0)
    except libvirt.libvirtError as error:
        if "frozen" in str(error):
            raise AgentError(
                reason="the guest is frozen already, by somebody else", domain=uuid
            ) from error
        lost = error.get_error_code() in CONNECTION_LOST and not handle.connect().isAlive()
        found = translate(error, domain=uuid, doing="virDomainGetFSInfo")
        if lost or (isinstance(found, AgentError) and "unable to execute" not in found.reason):
            raise


@contextmanager
def _agent_errors(uuid: str, *, freezes: bool = False) -> Generator[None]:
    """
    Turn each failure of a call to the guest agent into an `AgentError`.

    With *freezes*, the guest may be frozen after it, unless the failure shows that it cannot be:
    a connection that was lost meanwhile shows nothing.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        found = translate(error, domain=uuid, doing="guest agent")
        maybe_frozen = freezes and may_have_frozen(error)
        raise _agent_error(found, uuid, maybe_frozen=maybe_frozen) from error
    except HostError as error:
        raise _agent_error(error, uuid, maybe_frozen=False) from error


def _agent_error(error: HostError, uuid: str, *, maybe_frozen: bool) -> HostError:
    if isinstance(error, NoSuchDomainError):
        return error
    return AgentError(reason=error.reason, domain=uuid, maybe_frozen=maybe_frozen)
