"""
Files with a guest's memory, as libvirt's external snapshot and ``virsh save`` write them.

::

    LibvirtQemudSave | header | domain XML | migration stream       complete
    LibvirtQemudPart | ...                                          a writer has not finished

    host   disk.bimg-B.mem  --copy, hash-->  STORE/web1-UUID/B.mem  --hash, copy-->  INTO/B.mem
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

from fibackup.errors import DomainBusyError, HostError, VerifyError
from fibackup.host.cancel import CancelToken
from fibackup.host.copy import copy_and_hash
from fibackup.host.destination import destination_directory, temporary_destination
from fibackup.host.events import CopyProgress, ImageCopied, OnEvent
from fibackup.host.files import (
    identity_of,
    kept_temporary_file,
    os_errors,
    publish_file,
)
from fibackup.model.chain import OVERLAY_MARK
from fibackup.model.point import FileRole, StoredFile
from fibackup.plan.memory import MEMORY_SUFFIX
from fibackup.plan.steps import CopyMemory, RestoreMemory

__all__ = [
    "MEMORY_TARGET",
    "copy_memory",
    "delete_memory",
    "forget_memory",
    "restore_memory",
]

MEMORY_TARGET = "memory"
"""What stands in events where a disk would."""

_COMPLETE = b"LibvirtQemudSave"
_PARTIAL = b"LibvirtQemudPart"


def copy_memory(
    step: CopyMemory, directory: int, on_event: OnEvent, cancel: CancelToken
) -> StoredFile:
    """
    Copy a file with memory into an open directory of the store.

    Args:
        step: What to copy.
        directory: The domain's directory.
        on_event: Gets `CopyProgress`, then `ImageCopied`.
        cancel: Asked between two blocks.

    Returns:
        The stored file; it is durable, and gets its name with its point. Until then it is a
        temporary file, so that what a run leaves that ends before its point is removed.

    Raises:
        HostError: It is no complete file of memory, or reading or writing failed.
        DomainBusyError: It changed while it was copied. Nothing of the copy is left.
    """
    path = str(step.source)
    with os_errors(path):
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _refuse_incomplete(source, path)
        before = identity_of(source)
        with kept_temporary_file(step.name, directory) as temp:
            sha256 = _copy(source, temp, step.name, on_event, cancel)
            if identity_of(source) != before:
                raise DomainBusyError(reason="the memory changed while it was copied", path=path)
    finally:
        os.close(source)
    on_event(ImageCopied(MEMORY_TARGET, step.name, before.size_bytes, sha256))
    return StoredFile(FileRole.MEMORY, step.name, before.size_bytes, sha256)


def _copy(source: int, temp: int, name: str, on_event: OnEvent, cancel: CancelToken) -> str:
    size = os.fstat(source).st_size

    def progress(position: int) -> None:
        on_event(CopyProgress(MEMORY_TARGET, name, position, size))

    return copy_and_hash(source, temp, size, head=b"", on_bytes=progress, cancel=cancel)


def _refuse_incomplete(fd: int, path: str) -> None:
    """
    Refuse what libvirt would not restore.

    Source: libvirt ``virQEMUSaveHeader``: the magic says whether the writer has finished.
    """
    regular = stat.S_ISREG(os.fstat(fd).st_mode)
    magic = os.pread(fd, len(_COMPLETE), 0) if regular else b""
    if magic == _PARTIAL:
        raise HostError(reason="the memory is incomplete: its writer did not finish", path=path)
    if magic != _COMPLETE:
        raise HostError(reason="the file is not a guest's memory as libvirt saves it", path=path)


def delete_memory(path: PurePosixPath) -> None:
    """
    Delete a file that a snapshot of ours wrote, finished or not; a missing one is fine.

    Args:
        path: The file.

    Raises:
        DomainBusyError: Its name or its content is not that of such a file. It stays.
        HostError: It cannot be deleted.
    """
    with os_errors(str(path)):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        try:
            found = os.fstat(fd)
            regular = stat.S_ISREG(found.st_mode)
            magic = os.pread(fd, len(_COMPLETE), 0) if regular else b"-"
        finally:
            os.close(fd)
        ours = OVERLAY_MARK in path.name and path.name.endswith(MEMORY_SUFFIX)
        if not ours or magic not in {_COMPLETE, _PARTIAL, b""}:
            raise DomainBusyError(
                reason="the file is not one that a snapshot of ours wrote; it stays", path=str(path)
            )
        os.unlink(path)


def forget_memory(path: PurePosixPath) -> None:
    """
    Delete restored memory whose guest has gone on: it does not fit its disks any more.

    Args:
        path: The file.

    Raises:
        HostError: It cannot be deleted.
    """
    with os_errors(str(path)), suppress(FileNotFoundError):
        os.unlink(path)


def restore_memory(
    step: RestoreMemory,
    directory: int,
    path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
) -> None:
    """
    Write stored memory to a file; it gets its name only when its hash is right.

    Args:
        step: The stored file and the destination.
        directory: The domain's directory in the store.
        path: Its path, for errors.
        on_event: Gets `CopyProgress`.
        cancel: Asked between two blocks.

    Raises:
        VerifyError: The stored file is not what its point says. Nothing is left behind.
        DestinationExistsError: The destination exists.
    """
    name = step.destination.name
    with (
        _opened(step.file, directory, path) as source,
        destination_directory(step.destination) as into,
        temporary_destination(name, into) as temp,
    ):
        found = _copy(source, temp, name, on_event, cancel)
        if found != step.file.sha256:
            raise _wrong(step.file, path, f"sha256 is {found}, {step.file.sha256} recorded")
        _refuse_incomplete(temp, str(step.destination))
        publish_file(name, into)


@contextmanager
def _opened(file: StoredFile, directory: int, path: PurePosixPath) -> Generator[int]:
    try:
        fd = os.open(file.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise _wrong(file, path, "the file is missing") from None
    try:
        size = os.fstat(fd).st_size
        if size != file.size_bytes:
            raise _wrong(file, path, f"{size} bytes, {file.size_bytes} recorded")
        yield fd
    finally:
        os.close(fd)


def _wrong(file: StoredFile, path: PurePosixPath, reason: str) -> VerifyError:
    return VerifyError(reason=f"{file.name}: {reason}", path=str(path / file.name))
