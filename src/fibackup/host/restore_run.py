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
    DomainExistsError,
    FibackupError,
    HostError,
    SharedBaseError,
    StalePlanError,
)
from fibackup.host.api import Host, PointStore
from fibackup.host.events import CancelToken, OnEvent
from fibackup.host.side_by_side import side_by_side
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
    SmokeStart,
    StartDomain,
    Step,
)

__all__ = ["RestoreRun"]

_P = ParamSpec("_P")
_CORES_FOR_A_DISK = 2  # qemu-img has one, the hashes have the other; more disks only get in the way


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
        threads: Disks that are brought back at the same time, at most; never more than one for
            two cores.
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
        """Note which directories are not there yet."""
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
        self._absent = self._absent_directories()
        self.restored: list[RestoredImage] = []

    @property
    def _host(self) -> Host:
        if self._host_or_none is None:
            raise HostError(domain=self._plan.domain, reason="defining a domain needs a host")
        return self._host_or_none

    def _absent_directories(self) -> tuple[PurePosixPath, ...]:
        """Return the missing directories of what will be made, the deepest first."""
        found = dict.fromkeys(
            parent for path in self._plan.expects.absent for parent in path.parents
        )
        there = frozenset(self._store.occupied(tuple(found)))
        return tuple(sorted(set(found) - there, key=lambda path: len(path.parts), reverse=True))

    # --- before the first step ------------------------------------------------------------------

    def check(self, history: History) -> None:
        """
        Compare what the plan defines with the store and the host.

        Args:
            history: What the store holds, read again.

        Raises:
            StalePlanError: The point has another XML or state than when the plan was made.
            DomainExistsError: The domain is there by now.
            DestinationExistsError: The host has a state of its TPM, such as a domain that is gone
                left.
            SharedBaseError: Another domain uses an image that came with the XML.
        """
        files = history.point(self._plan.point).files
        for step in self._plan.steps:
            file = _stored(step)
            if file is not None and file not in files:
                raise StalePlanError(
                    domain=self._plan.domain,
                    reason=f"point {self._plan.point} has another {file.role}; plan again",
                )
            if isinstance(step, DefineDomain):
                self._check_free(step)

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
                reason="the host has a state of its TPM; nothing is ever overwritten",
                path=str(tpm),
            )
        uses = self._host.image_uses(step.uuid, step.kept_files)
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
        threads = min(self._threads, max(1, usable_cores() // _CORES_FOR_A_DISK))
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

    def undo(self) -> tuple[str, ...]:
        """
        Remove what was made, the last first; the disks of a domain that stays, stay with it.

        Returns:
            What could not be removed, in words.
        """
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
