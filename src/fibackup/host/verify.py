"""
Compare stored files with what their manifests say, several at a time.

::

    open, no link -- regular -- size -- header (of an image) -- sha256 (of those that are read)
         |             |         |         |                      |
      missing     not a file    size     header                 sha256       a fault: the next file

Nothing is written but the record. What is read comes from the disk, and not from the page cache,
which it leaves behind the reader.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from attrs import frozen

from fibackup.errors import CancelledError, HostError, ParseError
from fibackup.host.cancel import CancelToken
from fibackup.host.copy import hash_file
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.events import CopyProgress, FileVerified, OnEvent
from fibackup.host.files import open_directory
from fibackup.host.pace import Pace
from fibackup.host.page_cache import drop
from fibackup.host.record import Recorder
from fibackup.host.side_by_side import ChildToken
from fibackup.model.verification import FaultKind, FileCheck
from fibackup.parse.qcow2_header import stored_header_fault
from fibackup.plan.verify_steps import FileToVerify, VerifyFiles

__all__ = ["check_all", "verify_files"]

_T = TypeVar("_T")
_C = TypeVar("_C")

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_PROGRESS_BYTES = 4 * 1024 * 1024


class _WrongError(Exception):
    """A file is not what its manifest says."""

    def __init__(self, kind: FaultKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def verify_files(
    step: VerifyFiles,
    dir_fd: int,
    recorder: Recorder,
    on_event: OnEvent,
    cancel: CancelToken,
    *,
    threads: int,
) -> tuple[FileCheck, ...]:
    """
    Look at the files of a step, and read those that are to be read.

    Args:
        step: The files.
        dir_fd: The domain's directory.
        recorder: Gets each check as soon as it is there.
        on_event: Gets `CopyProgress` and `FileVerified`.
        cancel: Asked between two blocks.
        threads: Files that are read at the same time.

    Returns:
        One check for each file, in the order of the step.

    Raises:
        CancelledError: *cancel* was set; what was finished is recorded.
        OSError: Files may not be read at all.
    """
    linked = ChildToken(cancel)
    run = _Run(
        dir_fd,
        Pace(step.rate_bytes, linked),
        {file.sha256: file.file for file in step.files},
        recorder,
        on_event,
        linked,
    )
    return check_all(run.check, step.files, linked, threads)


def check_all(
    check: Callable[[_T], _C], items: Iterable[_T], linked: ChildToken, threads: int
) -> tuple[_C, ...]:
    """
    Check things side by side; an error or an interrupt ends it, and nothing more is begun.

    Args:
        check: Makes a check of a thing.
        items: The things; they are begun in this order.
        linked: Stops the checks that are under way.
        threads: How many at the same time.

    Returns:
        The checks, in the order of the things.
    """
    pool = ThreadPoolExecutor(threads, "fibackup-verify")
    try:
        futures = [pool.submit(check, item) for item in items]
        return tuple(future.result() for future in futures)
    except BaseException:
        linked.cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@frozen
class _Run:
    """What the threads have in common."""

    dir_fd: int
    pace: Pace
    known: Mapping[str, str]
    recorder: Recorder
    on_event: OnEvent
    cancel: CancelToken

    def check(self, file: FileToVerify) -> FileCheck:
        """Check one file; what is wrong with it is no error."""
        self.cancel.check()
        read, kind, reason = None, None, ""
        try:
            read = self._read(file)
        except _WrongError as wrong:
            kind, reason = wrong.kind, wrong.reason
        check = FileCheck(file.file, file.sha256, datetime.now(UTC), kind, reason, read)
        self.recorder.add(check)
        if read is not None or kind is not None:
            self.on_event(FileVerified(file.file, file.size_bytes, reason))
        return check

    def _read(self, file: FileToVerify) -> int | None:
        with _opened(file, self.dir_fd) as fd:
            if file.read:
                drop(fd)  # what is cached may be right where the disk is not
            if file.header is not None:
                _check_header(file, fd)
            return self._hash(file, fd) if file.read else None

    def _hash(self, file: FileToVerify, fd: int) -> int:
        try:
            found = hash_file(
                fd,
                file.size_bytes,
                on_bytes=self._progress(file),
                cancel=self.cancel,
                pace=self.pace.spend,
            )
        except CancelledError:
            raise
        except (HostError, OSError) as error:
            words = error.strerror if isinstance(error, OSError) else error.reason
            raise _WrongError(FaultKind.UNREADABLE, f"it cannot be read: {words}") from error
        if found != file.sha256:
            other = self.known.get(found)
            what = f", which is that of {other}" if other else ""
            raise _WrongError(FaultKind.SHA256, f"sha256 is {found}{what}; {file.sha256} recorded")
        return file.size_bytes

    def _progress(self, file: FileToVerify) -> Callable[[int], None]:
        target, _, name = file.file.rpartition("/")
        small = file.size_bytes < _PROGRESS_BYTES

        def tell(position: int) -> None:
            if not small:
                self.on_event(CopyProgress(target or "-", name, position, file.size_bytes))

        return tell


@contextmanager
def _opened(file: FileToVerify, dir_fd: int) -> Generator[int]:
    """Open a file, not through a link; its type and its size must be right."""
    target, _, name = file.file.rpartition("/")
    try:
        with open_directory(target or ".", dir_fd) as directory:
            fd = os.open(name, _OPEN, dir_fd=directory)
    except OSError as error:
        if error.errno in _FORBIDDEN:
            raise
        if error.errno in _ABSENT:
            raise _WrongError(FaultKind.MISSING, "the file is missing") from error
        kind = FaultKind.NOT_A_FILE if error.errno == errno.ELOOP else FaultKind.UNREADABLE
        raise _WrongError(kind, f"it cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _WrongError(FaultKind.NOT_A_FILE, "it is not a regular file")
        if found.st_size != file.size_bytes:
            words = f"{found.st_size} bytes, {file.size_bytes} recorded"
            raise _WrongError(FaultKind.SIZE, words)
        yield fd
    finally:
        os.close(fd)


def _check_header(file: FileToVerify, fd: int) -> None:
    if file.header is None:
        return
    try:
        header, _ = read_qcow2_head(fd, file.file)
    except ParseError as error:
        raise _WrongError(FaultKind.HEADER, f"{error.where}: {error.reason}") from error
    except HostError as error:
        raise _WrongError(FaultKind.UNREADABLE, f"it cannot be read: {error.reason}") from error
    fault = stored_header_fault(
        header,
        backing=file.header.backing,
        virtual_size_bytes=file.header.virtual_size_bytes,
    )
    if fault:
        raise _WrongError(FaultKind.HEADER, fault)
