"""
The steps of a restore, as the executor runs them: all of them, or nothing stays.

::

    vda.qcow2     made, inode 71
    vdb.qcow2     made, inode 72
    web1          defined
    smoke start   fails  -->  undefine web1, remove vdb.qcow2, vda.qcow2, the directory

What is undone is what this run made and nobody has used: each file was absent when the run began,
was written by a step of the plan, and is the same inode still.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePosixPath
from threading import Lock
from typing import ParamSpec, assert_never

from fibackup.errors import (
    DestinationExistsError,
    DomainBusyError,
    DomainExistsError,
    FibackupError,
    ForeignConfigError,
    HostError,
    NoSuchDomainError,
    SharedBaseError,
    StalePlanError,
)
from fibackup.host.api import Host, PointStore
from fibackup.host.cancel import CancelToken
from fibackup.host.events import OnEvent
from fibackup.host.side_by_side import side_by_side
from fibackup.model.domain import Domain, DomainState
from fibackup.model.point import History, StoredFile
from fibackup.parse.domain_xml import domain_root
from fibackup.parse.machine_state import has_tpm
from fibackup.plan.define_steps import DefineStep
from fibackup.plan.report import RestoredImage
from fibackup.plan.steps import (
    CopyStored,
    CreateLinked,
    DefineDomain,
    DiskRestore,
    FlattenImage,
    MakeDirectory,
    Plan,
    RestoreDisks,
    RestoreNvram,
    RestoreTpm,
    ResumeDomain,
    SmokeStart,
    StartDomain,
    Step,
)

__all__ = ["RestoreRun"]

_P = ParamSpec("_P")


def usable_cores() -> int:
    """Return how many cores this process may use: sched_getaffinity(2)."""
    return len(os.sched_getaffinity(0))


class RestoreRun:
    """
    One restore: what its steps made so far.

    Args:
        host: Where a domain is defined; None is enough for disks.
        store: Where the point is.
        plan: The plan.
        emit: Gets the events.
        cancel: Asked while copying.
        threads: Disks that are brought back at the same time, at most; never more than there are
            cores.
    """

    def __init__(
        self,
        host: Host | None,
        store: PointStore,
        plan: Plan,
        emit: OnEvent,
        cancel: CancelToken,
        threads: int,
    ) -> None:
        """Begin with nothing made."""
        self._host_or_none = host
        self._store = store
        self._plan = plan
        self._emit = emit
        self._cancel = cancel
        self._threads = threads
        self._recording = Lock()
        self._files: list[tuple[PurePosixPath, int]] = []
        self._unrecorded: tuple[PurePosixPath, ...] = ()
        self._defined: DefineDomain | None = None
        self._absent: tuple[PurePosixPath, ...] = ()
        self.restored: list[RestoredImage] = []

    @property
    def _host(self) -> Host:
        if self._host_or_none is None:
            raise HostError(domain=self._plan.domain, reason="this restore needs a host")
        return self._host_or_none

    def _absent_directories(self) -> tuple[PurePosixPath, ...]:
        """Return the missing directories of what will be made, the deepest first."""
        found = dict.fromkeys(
            parent for path in self._plan.expects.absent for parent in path.parents
        )
        there = frozenset(self._store.occupied(tuple(found)))
        return tuple(sorted(set(found) - there, key=lambda path: len(path.parts), reverse=True))

    @property
    def _resumes(self) -> bool:
        return any(isinstance(step, ResumeDomain) for step in self._plan.steps)

    # --- before the first step ------------------------------------------------------------------

    def check(self, history: History) -> None:
        """
        Compare the plan with the store and the host, and note which directories are missing.

        Args:
            history: What the store holds, read again.

        Raises:
            StalePlanError: The point has other images, XML or state than when the plan was made.
            RequirementError: There is no qemu-img.
            DomainBusyError: The domain that is to go on is there, and is not off.
            ForeignConfigError: Its stored XML reaches out of the guest.
            DestinationExistsError: A file would be overwritten; or the host has a state of its
                TPM, such as a domain that is gone left.
            DomainExistsError: The domain is there by now.
            SharedBaseError: Another domain uses an image that came with the XML.
        """
        for restore in self._plan.restores:
            if history.images(self._plan.point, restore.target) != restore.images:
                raise self._stale("other images")
        if not all(isinstance(step, CopyStored) for step in self._plan.restores):
            self._store.require_qemu_img()
        if self._resumes:
            self._check_resumable()
            self._check_foreign()
        for path in self._store.occupied(self._plan.expects.absent):
            raise DestinationExistsError(
                domain=self._plan.domain,
                reason="the destination exists; nothing is ever overwritten",
                path=str(path),
            )
        self._absent = self._absent_directories()
        files = history.point(self._plan.point).files
        for step in self._plan.steps:
            file = _stored(step)
            if file is not None and file not in files:
                raise self._stale(f"another {file.role}")
            if isinstance(step, DefineDomain):
                self._check_free(step)

    def _check_resumable(self) -> None:
        """Refuse to bring back a domain that is there and is not off, or another of its name."""
        for name in (self._plan.uuid, self._plan.domain):
            try:
                found = self._host.read_domain(name)
            except NoSuchDomainError:
                continue
            if (found.uuid, found.name) != (self._plan.uuid, self._plan.domain):
                raise DomainBusyError(
                    domain=self._plan.domain,
                    reason=f"its name or UUID is taken by {found.name}, {found.uuid}",
                    remedy="rename or undefine that domain first; or restore the disks alone, "
                    "without the memory",
                )
            if found.state is not DomainState.SHUTOFF or found.managed_save:
                state = "has a managed-save image" if found.managed_save else f"is {found.state}"
                raise DomainBusyError(
                    domain=found.name,
                    reason=f"the domain {state}; a guest is brought back into one that is off",
                    remedy=_turned_off(found),
                )

    def _check_foreign(self) -> None:
        """Refuse a stored XML that reaches out of the guest, unless somebody has allowed it."""
        for step in self._plan.steps:
            if not isinstance(step, ResumeDomain) or step.keep_foreign:
                continue
            config = self._store.read_config(self._plan.uuid, step.config)
            held = tuple(disk.target for disk in step.disks)
            parts = self._host.foreign_parts(config, held)
            if parts:
                raise ForeignConfigError(
                    domain=self._plan.domain,
                    reason=f"the XML of point {self._plan.point} reaches out of the guest",
                    parts=parts,
                )

    def _stale(self, what: str) -> StalePlanError:
        reason = f"point {self._plan.point} has {what} than when the plan was made; plan again"
        return StalePlanError(domain=self._plan.domain, reason=reason)

    def _check_free(self, step: DefineDomain) -> None:
        facts = self._host.read_host()
        if step.name in facts.names or step.uuid in facts.uuids:
            raise DomainExistsError(
                domain=step.name,
                reason="a domain of this name or UUID is defined; nothing is ever overwritten",
            )
        tpm = self._host.find_tpm_state(step.uuid) if has_tpm(domain_root(step.xml)) else None
        if tpm is not None:
            raise DestinationExistsError(
                domain=step.name,
                reason="the host has a state of its TPM, which no restore overwrites: move it away",
                path=str(tpm),
            )
        found = self._host.image_uses(step.uuid, step.kept_files)
        uses = tuple(use for use in found if not use.doubt)
        if uses:
            names = tuple(dict.fromkeys(use.domain for use in uses))
            raise SharedBaseError(
                domain=step.name,
                path=str(uses[0].path),
                reason=f"the new domain would write {uses[0].path}, the disk of: "
                f"{', '.join(names)}",
                dependents=names,
            )

    # --- the steps ------------------------------------------------------------------------------

    def apply(self, step: DiskRestore | RestoreDisks | DefineStep) -> None:
        """
        Do a step, and remember what it made.

        Args:
            step: The step.
        """
        if isinstance(step, RestoreDisks):
            self._side_by_side(step.disks)
        elif isinstance(step, DiskRestore):
            self.restored.append(self._disk(step, self._cancel))
        else:
            self._make_domain(step)

    def _side_by_side(self, steps: tuple[DiskRestore, ...]) -> None:
        """Bring disks back; all of them will be removed when one fails, so that one stops all."""
        threads = min(self._threads, usable_cores())
        self.restored += side_by_side(
            self._disk, steps, self._cancel, threads=threads, name="fibackup-restore"
        )

    def _disk(self, step: DiskRestore, cancel: CancelToken) -> RestoredImage:
        cancel.check()
        uuid, emit = self._plan.uuid, self._emit
        match step:
            case FlattenImage():
                image = self._store.flatten(uuid, step, emit, cancel)
            case CopyStored():
                image = self._store.copy_chain(uuid, step, emit, cancel)
            case CreateLinked():
                image = self._store.create_linked(uuid, step, emit, cancel)
            case _:
                assert_never(step)
        self.made(step.destinations)
        return image

    def _make_domain(self, step: DefineStep) -> None:
        match step:
            case MakeDirectory():
                self._store.make_directory(step.path)
            case RestoreNvram():
                self._store.restore_nvram(self._plan.uuid, step)
                self.made((step.destination,))
            case DefineDomain():
                self._define(step)
            case RestoreTpm():
                data = self._store.read_state(self._plan.uuid, step.file)
                self._host.write_tpm(step.uuid, data)
            case SmokeStart():
                self._host.smoke_start(step.uuid)
            case StartDomain():
                self._host.start_domain(step.uuid)
            case _:
                assert_never(step)

    def _define(self, step: DefineDomain) -> None:
        try:
            self._host.define_domain(step)
        except DomainExistsError:  # somebody was faster: that domain is not ours to undefine
            raise
        except FibackupError:
            self._defined = step  # perhaps: the answer may be what was lost
            raise
        self._defined = step

    def made(self, paths: tuple[PurePosixPath, ...]) -> None:
        """
        Remember files that a step has made.

        Args:
            paths: The files.
        """
        with self._recording:
            self._unrecorded += paths
            self._record()

    def _record(self) -> None:
        inodes = self._store.inodes(self._unrecorded)
        self._files.extend(zip(self._unrecorded, inodes, strict=True))
        self._unrecorded = ()

    # --- after a failure ------------------------------------------------------------------------

    def undo(self) -> str:
        """
        Remove what the restore has made, unless a guest runs on it.

        Returns:
            What is left, in words.
        """
        if self._guest_is_back():
            return "the store is unchanged; the guest runs on the restored disks, they stand"
        left = self._remove()
        if left:
            return f"the store is unchanged; what could not be removed: {'; '.join(left)}"
        return "the store is unchanged, and what the restore had made is removed"

    def _guest_is_back(self) -> bool:
        """Tell whether the guest may have gone on from its memory; a doubt counts as yes."""
        if not self._resumes:
            return False
        try:
            return self._host.read_domain(self._plan.uuid).state is not DomainState.SHUTOFF
        except NoSuchDomainError:
            return False
        except FibackupError:
            return True

    def _remove(self) -> tuple[str, ...]:
        """Remove what was made, the last first; the disks of a domain that stays, stay with it."""
        left: list[str] = []
        if self._defined is not None:
            _try(left, self._host.undefine_domain, self._defined)
            if left:
                return (*left, f"domain {self._defined.name} may be defined, its files stand")
        if self._unrecorded:
            _try(left, self._record)
        for path, inode in reversed(self._files):
            _try(left, self._store.discard, path, inode)
        for path in self._absent:
            _try(left, self._store.remove_directory, path)
        return tuple(left)


def _turned_off(domain: Domain) -> str:
    """Say how a domain gets off."""
    if domain.managed_save:
        return f"start it and shut it down, or: virsh managedsave-remove {domain.uuid}"
    if domain.state is DomainState.RUNNING:
        return f"shut it down first: virsh shutdown {domain.uuid}"
    return f"end it first: virsh destroy {domain.uuid}"


def _stored(step: Step) -> StoredFile | None:
    """Return the file of the point that a step was planned with."""
    if isinstance(step, DefineDomain):
        return step.config
    return step.file if isinstance(step, RestoreNvram | RestoreTpm) else None


def _try(left: list[str], action: Callable[_P, None], *args: _P.args, **options: _P.kwargs) -> None:
    try:
        action(*args, **options)
    except FibackupError as error:
        left.append(str(error))
