"""
Block jobs: start one, wait for its end, and believe only the chain that is read afterwards.

::

    inactive commit   base <- a <- b <- active     top b, base base     ->   base <- active
    active commit     base <- a <- active          READY, then pivot    ->   base
    pull              base <- a <- b <- active     base base            ->   base <- active

    out of time       abort; or, for an active commit that may: suspend, READY, pivot, resume
                      the caller suspends and resumes: the ledger has to say so meanwhile
    in the end        sync what was written, by a descriptor that was open before: QEMU does not
                      tell of a flush that failed when an inactive commit completes

`blockJobInfo` shows the same for a failed job as for a finished one, so the event tells why a job
ended, and the chain tells whether it succeeded. A process that gets no events decides by the chain.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import PurePosixPath
from typing import NoReturn, TypeAlias

import libvirt

from fibackup.errors import BlockJobError, CancelledError
from fibackup.host.cancel import CancelToken
from fibackup.host.events import CopyProgress, OnEvent
from fibackup.host.files import os_errors
from fibackup.host.libvirt_errors import libvirt_errors, translate
from fibackup.host.volumes import find_volumes
from fibackup.model.domain import Domain
from fibackup.parse.domain_xml import parse_domain_xml
from fibackup.plan.steps import CommitImages, FinishBlockJob, PullImages

__all__ = ["finish_job", "run_commit", "run_pull"]

Suspended: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Lets a guest that runs stand still, for as long as the context is open."""

_POLL_SECONDS = 0.5
_SETTLE_SECONDS = 30.0
_PIVOT = libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT


class _End(Enum):
    """How a job ended, or that it waits for the pivot."""

    READY = "ready"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"


_STATUS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED: _End.COMPLETED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED: _End.FAILED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED: _End.CANCELLED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_READY: _End.READY,
}
_OVER = frozenset({_End.COMPLETED, _End.FAILED, _End.CANCELLED})


class _Watch:
    """What libvirt's events said of the job on one disk."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._changed = threading.Event()
        self._said: list[_End] = []

    def job(self, _: object, __: object, disk: str, ___: int, status: int, ____: object) -> None:
        if disk == self._target and status in _STATUS:
            self._said.append(_STATUS[status])
            self._changed.set()

    def wait(self, seconds: float) -> _End | None:
        """Wait for news; return the last word, None when nothing was said yet."""
        self._changed.wait(seconds)
        self._changed.clear()
        return self._said[-1] if self._said else None


@contextmanager
def _watching(
    connection: libvirt.virConnect, handle: libvirt.virDomain, target: str
) -> Generator[_Watch]:
    """Listen before the job starts: READY may come before the starting call returns."""
    watch = _Watch(target)
    with libvirt_errors("virConnectDomainEventRegisterAny"):
        callback = connection.domainEventRegisterAny(
            handle, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, watch.job, None
        )
    try:
        yield watch
    finally:
        with suppress(libvirt.libvirtError):  # a daemon that has gone knows of no callback
            connection.domainEventDeregisterAny(callback)


def run_commit(
    connection: libvirt.virConnect,
    handle: libvirt.virDomain,
    step: CommitImages,
    on_event: OnEvent,
    cancel: CancelToken,
    suspended: Suspended,
) -> None:
    """
    Commit images down into the base of a step, and pivot when the active layer is among them.

    Args:
        connection: The connection, for its events.
        handle: The domain.
        step: What to commit.
        on_event: Gets `CopyProgress`.
        cancel: Aborts the job; the chain stays as it was.
        suspended: Lets the guest stand still.

    Raises:
        BlockJobError: The job failed, or did not converge in its time: the chain is as before. Or
            what it wrote is lost, see `BlockJobError.unsafe`.
        CancelledError: *cancel* was set. The chain is as before.

    Source:
        libvirt ``virDomainBlockCommit``, ``virDomainBlockJobAbort``,
        ``VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2``.
    """
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE if step.pivot else 0
    flags |= libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES if step.bandwidth_bytes else 0
    kept = f"{step.top} still has all of it"
    written = dict.fromkeys((step.base, step.leaves[0]))  # the header of the active layer too
    with (
        _made_durable(step.target, tuple(written), kept),
        _watching(connection, handle, step.target) as watch,
    ):
        with libvirt_errors("virDomainBlockCommit"):
            top = None if step.pivot else str(step.top)
            handle.blockCommit(step.target, str(step.base), top, step.bandwidth_bytes, flags)
        in_time = _wait(handle, step.target, watch, step.timeout_seconds, on_event, cancel)
        if not in_time and step.suspend_seconds:
            with suspended():
                _hurry(handle, step, watch, on_event, cancel)
        elif not in_time:
            _give_up(handle, step.target, step.timeout_seconds)
        elif step.pivot:
            _pivot(handle, step.target)
        _settle(handle, step.target, step.leaves)


def run_pull(
    connection: libvirt.virConnect,
    handle: libvirt.virDomain,
    step: PullImages,
    on_event: OnEvent,
    cancel: CancelToken,
    suspended: Suspended,
) -> None:
    """
    Pull what lies above the base of a step up into the active layer.

    Args:
        connection: The connection, for its events.
        handle: The domain.
        step: What to pull.
        on_event: Gets `CopyProgress`.
        cancel: Aborts the job; the chain stays as it was.
        suspended: Lets the guest stand still.

    Raises:
        BlockJobError: The job failed, or took longer than its time: the chain is as before. Or
            what it wrote is lost, see `BlockJobError.unsafe`.
        CancelledError: *cancel* was set. The chain is as before.

    Source:
        libvirt ``virDomainBlockRebase``.
    """
    flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES if step.bandwidth_bytes else 0
    kept = "the images that it was pulled from still have all of it"
    with (
        _made_durable(step.target, step.leaves[:1], kept),
        _watching(connection, handle, step.target) as watch,
    ):
        with libvirt_errors("virDomainBlockRebase"):
            base = str(step.base) if step.base is not None else None
            handle.blockRebase(step.target, base, step.bandwidth_bytes, flags)
        if not _wait(handle, step.target, watch, step.timeout_seconds, on_event, cancel):
            _give_up(handle, step.target, step.timeout_seconds)
        _settle(handle, step.target, step.leaves)
        with suspended():  # QEMU flushes; until then what was pulled is in its memory only
            pass


@contextmanager
def _made_durable(target: str, images: Sequence[PurePosixPath], kept: str) -> Generator[None]:
    """
    Sync the images that a job writes, once it is over and before what it was read from goes.

    The kernel tells of lost writes each file that was open by then: ours is open before the job.
    """
    with ExitStack() as stack:
        files: list[tuple[PurePosixPath, int]] = []
        for image in images:
            with os_errors(str(image)):
                fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, fd)
            files.append((image, fd))
        yield
        for image, fd in files:
            try:
                os.fsync(fd)
            except OSError as error:
                raise BlockJobError(
                    target=target,
                    path=str(image),
                    reason=f"the device lost some of what the block job wrote ({error.strerror}); "
                    f"{kept}, and stays: see docs/consolidate.md, When writes are lost",
                    unsafe=True,
                ) from error


def _hurry(
    handle: libvirt.virDomain,
    step: CommitImages,
    watch: _Watch,
    on_event: OnEvent,
    cancel: CancelToken,
) -> None:
    """Commit the rest as fast as it goes, and pivot."""
    with libvirt_errors("virDomainBlockJobSetSpeed"):
        handle.blockJobSetSpeed(step.target, 0, 0)
    if not _wait(handle, step.target, watch, step.suspend_seconds, on_event, cancel):
        _give_up(handle, step.target, step.timeout_seconds + step.suspend_seconds)
    _pivot(handle, step.target)


def finish_job(
    connection: libvirt.virConnect,
    handle: libvirt.virDomain,
    step: FinishBlockJob,
    on_event: OnEvent,
    cancel: CancelToken,
    suspended: Suspended,
) -> None:
    """
    Wait for the end of a job that runs already, and pivot when it is ready for that.

    Args:
        connection: The connection, for its events.
        handle: The domain.
        step: The disk, and how long to wait.
        on_event: Gets `CopyProgress`.
        cancel: Aborts the job.
        suspended: Lets the guest stand still.

    Raises:
        BlockJobError: The job failed, or did not converge in its time; or what it wrote is lost,
            see `BlockJobError.unsafe`.
        CancelledError: *cancel* was set, and the job was aborted.

    Source:
        libvirt ``virDomainBlockJobAbort``; a restarted daemon takes its jobs up again.
    """
    before = _chain(handle, step.target)
    kept = "the images that left the chain still have all of it"
    with (
        _made_durable(step.target, before, kept),
        _watching(connection, handle, step.target) as watch,
    ):
        if not _wait(handle, step.target, watch, step.timeout_seconds, on_event, cancel):
            _give_up(handle, step.target, step.timeout_seconds)
        if _mirror(handle, step.target) == "yes":
            _pivot(handle, step.target)
        _until_over(handle, step.target, watch, before)
        with suspended():  # QEMU flushes what it has in its memory only
            pass


def _until_over(
    handle: libvirt.virDomain, target: str, watch: _Watch, before: tuple[PurePosixPath, ...]
) -> None:
    """Wait until the job is gone, and libvirt has said so, or shows another chain."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        said = watch.wait(_POLL_SECONDS / 5)
        with libvirt_errors("virDomainGetBlockJobInfo"):
            gone = not handle.blockJobInfo(target, 0) and _mirror(handle, target) is None
        if gone and (said in _OVER or _chain(handle, target) != before):
            return
        if time.monotonic() > deadline:
            if gone:
                return
            raise BlockJobError(target=target, reason="the block job does not go away")


def _wait(
    handle: libvirt.virDomain,
    target: str,
    watch: _Watch,
    timeout_seconds: float,
    on_event: OnEvent,
    cancel: CancelToken,
) -> bool:
    """Wait until the job is ready or over; return False when the time is over first."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        said = watch.wait(_POLL_SECONDS)
        end = said or _look(handle, target, on_event)
        if end in {_End.READY, _End.COMPLETED, _End.GONE}:
            return True
        if end in {_End.FAILED, _End.CANCELLED}:
            raise BlockJobError(
                target=target,
                reason=f"the block job {end.value}; the chain is as before, and nothing is lost",
            )
        if cancel.cancelled:
            _abort(handle, target)
            raise CancelledError(target=target, reason="the run was cancelled")
        if time.monotonic() > deadline:
            return False


def _give_up(handle: libvirt.virDomain, target: str, seconds: float) -> NoReturn:
    _abort(handle, target)
    raise BlockJobError(
        target=target,
        reason=f"the block job did not end within {seconds:g} s and was aborted; the guest may "
        "write faster than it is committed; the chain is as before, and nothing is lost",
    )


def _look(handle: libvirt.virDomain, target: str, on_event: OnEvent) -> _End | None:
    """Ask libvirt itself, for a process that gets no events, and for the progress."""
    try:
        info = handle.blockJobInfo(target, 0)
        mirror = _mirror(handle, target)
    except libvirt.libvirtError as error:
        raise translate(error, doing="virDomainGetBlockJobInfo") from error
    if mirror == "yes":
        return _End.READY
    if info:
        on_event(CopyProgress(target, "block job", info.get("cur", 0), info.get("end", 0)))
        return None
    return _End.GONE if mirror is None else None


def _mirror(handle: libvirt.virDomain, target: str) -> str | None:
    """Return the ``ready`` attribute of the disk's ``<mirror>``: "" while it runs, None without."""
    with libvirt_errors("virDomainGetXMLDesc"):
        domain = parse_domain_xml(handle.XMLDesc(0))
    disk = next((each for each in domain.disks if each.target == target), None)
    return None if disk is None else disk.mirror_ready


def _pivot(handle: libvirt.virDomain, target: str) -> None:
    try:
        handle.blockJobAbort(target, _PIVOT)
    except libvirt.libvirtError as error:
        _abort(handle, target)
        raise BlockJobError(
            target=target, reason=f"the pivot failed and the job was aborted: {error}"
        ) from error


def _abort(handle: libvirt.virDomain, target: str) -> None:
    """End a job; one that has ended already is fine."""
    try:
        handle.blockJobAbort(target, 0)
    except libvirt.libvirtError as error:
        if "does not have an active block job" not in str(error):
            raise translate(error, doing="virDomainBlockJobAbort") from error


def _settle(handle: libvirt.virDomain, target: str, leaves: tuple[PurePosixPath, ...]) -> None:
    """Read the chain until it is the expected one; libvirt updates it a moment after the job."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        found = _paths(handle, target)
        if found == leaves:
            return
        with libvirt_errors("virDomainIsActive"):
            active = handle.isActive()
        if time.monotonic() > deadline or not active:
            raise BlockJobError(
                target=target,
                reason="after the block job the chain is not the expected one: "
                + " <- ".join(str(path) for path in reversed(found)),
            )
        time.sleep(_POLL_SECONDS / 5)


def _paths(handle: libvirt.virDomain, target: str) -> tuple[PurePosixPath, ...]:
    domain = _read(handle)
    chain = domain.disk(target).chain
    return chain.paths if chain is not None and domain.disk(target).block_job is None else ()


def _chain(handle: libvirt.virDomain, target: str) -> tuple[PurePosixPath, ...]:
    chain = _read(handle).disk(target).chain
    return chain.paths if chain is not None else ()


def _read(handle: libvirt.virDomain) -> Domain:
    with libvirt_errors("virDomainGetXMLDesc"):
        xml = handle.XMLDesc(0)
    return parse_domain_xml(xml, volumes=find_volumes(handle.connect(), xml))
