"""
Verify in depth: the structure of images by ``qemu-img check``, disks as a guest reads them.

::

    C.qcow2 (brought by the point)   qemu-img check      corruptions: a fault; leaks: a note,
                                                         as are stale counts in a dirty image
    A <- B <- C                      qemu-nbd, sha256    otherwise than it was: a fault
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath

from attrs import frozen

from fibackup.errors import (
    CancelledError,
    DomainBusyError,
    FibackupError,
    QemuImgError,
    RequirementError,
)
from fibackup.host.cancel import CancelToken
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.events import CopyProgress, FileVerified, OnEvent
from fibackup.host.files import open_directory
from fibackup.host.lock import hold_image_lock
from fibackup.host.nbd import find_qemu_nbd, hash_content
from fibackup.host.pace import Pace
from fibackup.host.page_cache import drop
from fibackup.host.qemu_img import check, find_qemu_img
from fibackup.host.record import Recorder
from fibackup.host.side_by_side import ChildToken
from fibackup.host.verify import check_all
from fibackup.model.verification import ContentCheck, FaultKind
from fibackup.plan.verify_steps import ContentToVerify, VerifyContents

__all__ = ["verify_contents"]

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_HARM = "no harm to the data"
_DROP_BYTES = 256 * 1024 * 1024


def verify_contents(
    step: VerifyContents,
    dir_fd: int,
    path: PurePosixPath,
    recorder: Recorder,
    on_event: OnEvent,
    cancel: CancelToken,
    *,
    threads: int,
) -> tuple[ContentCheck, ...]:
    """
    Check the images and read the disks of a step.

    Args:
        step: The disks; none reads through a file that is known to be bad.
        dir_fd: The domain's directory.
        path: Its path, for qemu-img and qemu-nbd.
        recorder: Gets each check as soon as it is there.
        on_event: Gets `CopyProgress` and `FileVerified`.
        cancel: Asked between two blocks.
        threads: Disks that are read at the same time.

    Returns:
        One check for each disk, in the order of the step.

    Raises:
        RequirementError: qemu-img or qemu-nbd is missing.
        CancelledError: *cancel* was set; what was finished is recorded.
    """
    find_qemu_img()
    find_qemu_nbd()
    linked = ChildToken(cancel)
    run = _Run(dir_fd, path, Pace(step.rate_bytes, linked), recorder, on_event, linked)
    return check_all(run.check, step.contents, linked, threads)


@frozen
class _Finding:
    """What came of one disk."""

    sha256: str | None = None
    kind: FaultKind | None = None
    reason: str = ""
    at: str = ""
    note: str = ""
    read_bytes: int = 0


@frozen
class _Run:
    """What the threads have in common."""

    dir_fd: int
    path: PurePosixPath
    pace: Pace
    recorder: Recorder
    on_event: OnEvent
    cancel: CancelToken

    def check(self, content: ContentToVerify) -> ContentCheck:
        """Check one disk; what is wrong with it is no error."""
        self.cancel.check()
        found = self._structure(content)
        if found.kind is None:
            found = self._read(content, found.note)
        outcome = ContentCheck(
            file=content.file,
            chain=content.chain,
            time=datetime.now(UTC),
            sha256=found.sha256,
            kind=found.kind,
            reason=found.reason,
            at=found.at,
            note=found.note,
            read_bytes=found.read_bytes,
            earlier=content.earlier,
            since=content.since,
        )
        self.recorder.add(outcome)
        self.on_event(FileVerified(content.file, found.read_bytes, found.reason))
        return outcome

    def _structure(self, content: ContentToVerify) -> _Finding:
        """Look at the images that came with the point: the others have had their turn."""
        notes: list[str] = []
        for name in content.checked:
            at = f"{content.target}/{name}"
            try:
                depth = len(content.images)
                result = check(self.path / at, "qcow2", depth=depth, cancel=self.cancel)
            except QemuImgError as error:
                return _Finding(kind=FaultKind.STRUCTURE, reason=str(error), at=at)
            stale = result.stale_counts
            if not result.sound and not (result.sound_if_dirty and self._is_dirty(content, name)):
                words = f"qemu-img check: {result.corruptions} corruptions"
                errors = f", {result.check_errors} errors" if result.check_errors else ""
                return _Finding(kind=FaultKind.STRUCTURE, reason=words + errors, at=at)
            if stale:
                notes.append(
                    f"qemu-img check: {stale} stale refcounts, {_NO_HARM} (QEMU was killed)"
                )
            if result.leaks:
                notes.append(f"qemu-img check: {result.leaks} leaked clusters, {_NO_HARM}")
        return _Finding(note="; ".join(notes))

    def _is_dirty(self, content: ContentToVerify, name: str) -> bool:
        """Tell whether the counts of references may lag behind: the image was not closed."""
        with (
            suppress(OSError, FibackupError),
            open_directory(content.target, self.dir_fd) as disk,
            os.fdopen(os.open(name, _OPEN, dir_fd=disk), "rb") as image,
        ):
            return read_qcow2_head(image.fileno(), name)[0].dirty
        return False

    def _read(self, content: ContentToVerify, note: str) -> _Finding:
        total = content.virtual_size_bytes
        dropped = 0
        try:
            with _held(content, self.dir_fd) as files:
                _drop(files)  # what is cached may be right where the disk is not

                def progress(position: int) -> None:
                    nonlocal dropped
                    name = content.images[0]
                    self.on_event(CopyProgress(content.target, name, position, total))
                    if position - dropped >= _DROP_BYTES:
                        dropped = position
                        _drop(files)

                found, count = hash_content(
                    self.path / content.file,
                    total,
                    depth=len(content.images),
                    on_bytes=progress,
                    pace=self.pace.spend,
                    cancel=self.cancel,
                )
                _drop(files)
        except (CancelledError, RequirementError, DomainBusyError):
            raise
        except FibackupError as error:
            return _Finding(kind=FaultKind.UNREADABLE, reason=str(error), note=note)
        except OSError as error:
            reason = f"it cannot be opened: {error.strerror}"
            return _Finding(kind=FaultKind.UNREADABLE, reason=reason, note=note)
        reason = content.judged(found)
        kind = FaultKind.DISK if reason else None
        return _Finding(found, kind, reason, note=note, read_bytes=count)


@contextmanager
def _held(content: ContentToVerify, dir_fd: int) -> Generator[tuple[int, ...]]:
    """Keep every image of a disk open, under the lock that a QEMU reader holds."""
    with ExitStack() as stack, open_directory(content.target, dir_fd) as disk:
        files: list[int] = []
        for name in content.images:
            fd = os.open(name, _OPEN, dir_fd=disk)
            stack.callback(os.close, fd)
            hold_image_lock(fd, name)
            files.append(fd)
        yield tuple(files)


def _drop(files: tuple[int, ...]) -> None:
    for fd in files:
        drop(fd)
