"""
QEMU's lock on an image, ours on one that QEMU writes for us, ours on a domain's part of the store.

QEMU's image locking (file-posix.c) marks permissions by shared locks on single bytes::

    byte 100 + p   somebody uses permission p          p: 0 consistent read, 1 write, 3 resize
    byte 200 + p   somebody does not share p with others

A reader as qemu-img is one holds 100 (it reads), 201 and 203 (nobody may write or resize). While we
hold these, a block commit into the image, or the start of a domain that writes it, fails with
``Failed to get "write" lock``. When somebody holds 101 or 103 the image is not frozen.

What keeps our own runs away from a file that QEMU writes is a lock on byte 0, which is none of
these: NFS makes of flock(2) a lock on all bytes, and QEMU would wait for us.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from attrs import frozen

from fibackup.errors import DomainBusyError, LockedError, StoreError
from fibackup.host.files import open_lasting
from fibackup.units import printable

__all__ = [
    "LockSight",
    "has_user",
    "has_writer",
    "hold_alone",
    "hold_image_lock",
    "hold_store_lock",
    "is_in_use",
    "look_at_lock",
    "refuse_strange",
    "refuse_users",
    "refuse_users_of",
]

_OURS = 0
_IN_USE = 100
_NOT_SHARED = 200
_CONSISTENT_READ, _WRITE, _RESIZE = 0, 1, 3
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.5
_FLOCK = struct.Struct("hhqqi4x")
_RECORD_BYTES = 4096
_COMMAND_CHARACTERS = 200
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT}
_OPEN = "a process has the image open"
_DISK_OF_ITS_OWN = (
    "a domain that runs on it needs a disk of its own: virsh blockpull DOMAIN DISK --wait; "
    "then run the same command again"
)
_OTHER_NAMES = (
    "the lock has other names (hard links, as cp -al makes them), and to use it would be to use "
    "what has them; while no fibackup runs, make it a file of its own, in its directory: "
    "cp -p {name} {name}.own && mv {name}.own {name}"
)


def _lock_record(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def hold_image_lock(fd: int, path: str) -> None:
    """
    Hold, on an open image, the lock that a QEMU reader would hold.

    The lock ends when *fd* is closed, also by the death of the process.

    Args:
        fd: The image, open for reading.
        path: Its path, for errors.

    Raises:
        DomainBusyError: A writer has the image, or the file system has no such locks. Nothing was
            touched.

    Source:
        QEMU docs/system/images, "Disk image file locking"; block/file-posix.c; fcntl(2)
        ``F_OFD_SETLK``.
    """
    try:
        for byte in (_IN_USE + _CONSISTENT_READ, _NOT_SHARED + _WRITE, _NOT_SHARED + _RESIZE):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_record(fcntl.F_RDLCK, byte))
        for byte, what in (
            (_IN_USE + _WRITE, "somebody writes the image"),
            (_IN_USE + _RESIZE, "somebody may resize the image"),
            (_NOT_SHARED + _CONSISTENT_READ, "somebody does not let others read the image"),
        ):
            if _is_held(fd, byte):
                raise DomainBusyError(reason=f"{what}: it is not frozen", path=path)
    except OSError as error:
        raise DomainBusyError(
            reason=f"QEMU's image lock cannot be had ({error.strerror})", path=path
        ) from error


def hold_alone(fd: int) -> None:
    """
    Hold a file against other runs of ours; QEMU may have it beside us.

    The lock ends when *fd* is closed, also by the death of the process.

    Args:
        fd: The file, open for writing.

    Raises:
        BlockingIOError: Another run holds it.

    Source:
        fcntl(2) ``F_OFD_SETLK``; flock(2), "NFS details"; QEMU block/file-posix.c.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_record(fcntl.F_WRLCK, _OURS))
    except PermissionError as error:  # EACCES: the other word for EAGAIN
        raise BlockingIOError(errno.EAGAIN, error.strerror) from error


def has_writer(fd: int) -> bool:
    """
    Tell whether a QEMU process may write or resize an image; False where nothing can be told.

    Args:
        fd: The image, open.

    Source:
        QEMU block/file-posix.c; fcntl(2) ``F_OFD_GETLK``.
    """
    try:
        return any(_is_held(fd, _IN_USE + permission) for permission in (_WRITE, _RESIZE))
    except OSError:
        return False


def _is_held(fd: int, byte: int) -> bool:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock_record(fcntl.F_WRLCK, byte))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def has_user(fd: int) -> bool:
    """
    Tell whether any QEMU process has an image open.

    Args:
        fd: The image, open.

    Raises:
        OSError: Its file system cannot tell.

    Source:
        QEMU block/file-posix.c: 100 to 163 and 200 to 263.
    """
    records = (
        _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 64, 0) for start in (_IN_USE, _NOT_SHARED)
    )
    return any(
        _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, record))[0] != fcntl.F_UNLCK
        for record in records
    )


def refuse_users(fd: int, path: str) -> None:
    """
    Raise when any QEMU process has the image open.

    Args:
        fd: The image, open.
        path: Its path, for errors.

    Raises:
        DomainBusyError: Somebody holds one of QEMU's lock bytes.

    Source:
        QEMU block/file-posix.c: 100 to 163 and 200 to 263.
    """
    if has_user(fd):
        raise DomainBusyError(reason=_OPEN, path=path)


def is_in_use(file: str, dir_fd: int) -> bool:
    """
    Tell whether any QEMU process has an image open, such as one under a restored overlay.

    Args:
        file: Its path in the directory; one that is not there is nobody's.
        dir_fd: The directory.

    Source:
        QEMU block/file-posix.c; a file system without such locks cannot tell.
    """
    with suppress(FileNotFoundError):
        fd = os.open(
            file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd
        )
        try:
            with suppress(OSError):
                return has_user(fd)
        finally:
            os.close(fd)
    return False


def refuse_users_of(file: str, dir_fd: int) -> None:
    """
    Refuse to delete an image that QEMU has open, such as one under a restored overlay.

    Args:
        file: Its path in the directory; one that is not there is nobody's.
        dir_fd: The directory.

    Raises:
        DomainBusyError: Somebody holds one of QEMU's lock bytes.

    Source:
        QEMU block/file-posix.c; a file system without such locks cannot tell.
    """
    if is_in_use(file, dir_fd):
        raise DomainBusyError(reason=_OPEN, path=file, remedy=_DISK_OF_ITS_OWN)


@contextmanager
def hold_store_lock(
    name: str,
    dir_fd: int,
    *,
    exclusive: bool,
    wait_seconds: float = 0.0,
    signed: bool = True,
) -> Generator[None]:
    """
    Hold the lock file *name* in an open directory; it is made when missing.

    A reader of a store on read-only media, which nobody can change, may go without; so may one of a
    full store, where no writer can make the lock either.

    Args:
        name: File name of the lock.
        dir_fd: The directory.
        exclusive: True for a writer, False for a reader beside other readers.
        wait_seconds: How long to wait while another run holds it; a writer waits for half a
            second at least, because others may look whether it is held: see `look_at_lock`.
        signed: False: a writer does not say in it who holds it, and it is never written.

    Yields:
        While the lock is held.

    Raises:
        LockedError: Another run holds it; ``owner`` says which.
        StoreError: It is no plain file; or it would be signed, and has other names (hard links).
        FileNotFoundError: Its directory is removed.

    Source:
        flock(2): the kernel ends it with the process, so it is never stale.
    """
    signs = exclusive and signed
    fd = _lock(name, dir_fd, exclusive=exclusive, wait_seconds=wait_seconds, signed=signs)
    if fd is None:
        yield
        return
    try:
        if signs:
            _sign(fd)
        yield
    finally:
        os.close(fd)


def _lock(
    name: str, dir_fd: int, *, exclusive: bool, wait_seconds: float, signed: bool
) -> int | None:
    """Return the open lock file, locked; None for a reader who needs none."""
    end = time.monotonic() + max(wait_seconds, _LOOK_SECONDS if exclusive else 0.0)
    while True:
        fd = _open_lock(name, dir_fd, exclusive=exclusive)
        if fd is None:
            return None
        try:
            refuse_strange(fd, name, alone=signed)
            _flock(fd, name, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, end)
            if _has_name(fd, name, dir_fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _flock(fd: int, name: str, kind: int, end: float) -> None:
    """Lock, and try again until the time is over; flock(2) itself waits without end."""
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
                continue
            owner = _owner(fd)
            raise LockedError(
                reason=f"another run holds the lock ({owner})", path=name, owner=owner
            ) from None
        return


def _has_name(fd: int, name: str, dir_fd: int) -> bool:
    """Tell whether a locked file is the lock still: one that was removed locks nobody out."""
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))


@frozen
class LockSight:
    """
    What a look at a lock has shown; two that are equal, and not held, have no run between them.

    Attributes:
        held: True: somebody holds it exclusively.
        signed_ns: When it was last signed, as the file system tells; 0 when there is no lock.
    """

    held: bool = False
    signed_ns: int = 0


def look_at_lock(name: str, dir_fd: int) -> LockSight:
    """
    Tell whether somebody holds the lock *name* exclusively, without waiting for it.

    To try a lock is to hold it for a moment; whoever wants it in this moment tries again.

    Args:
        name: File name of the lock.
        dir_fd: The directory.

    Source:
        flock(2).
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(name, flags, dir_fd=dir_fd)
    except OSError:
        return LockSight()
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        held = False
    except OSError:
        held = True
    try:
        return LockSight(held, os.fstat(fd).st_mtime_ns)
    finally:
        os.close(fd)


def _open_lock(name: str, dir_fd: int, *, exclusive: bool) -> int | None:
    """Open a lock file; None for a reader where it cannot be made, and none is needed."""
    try:
        return open_lasting(name, dir_fd)
    except OSError as error:
        if exclusive or error.errno not in _UNWRITABLE:
            raise
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None


def refuse_strange(fd: int, name: str, *, alone: bool) -> None:
    """
    Refuse a lock that may not be changed; make one of our own 0600, whatever the umask.

    One that is another file as well, as in a copy of a store made by ``cp -al``, is locked like any
    other and left as it is: to change it is to change that one.

    Args:
        fd: The lock file, open.
        name: Its name, for errors.
        alone: True: it may have no other name, as one that is going to be written.

    Raises:
        StoreError: It is no plain file, or has other names and may not.

    Source:
        open(2): the umask takes bits away.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(reason="the lock is not a plain file", path=name)
    if found.st_nlink > 1:
        if alone:
            raise StoreError(reason=_OTHER_NAMES.format(name=name), path=name)
        return
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != 0o600:
        with suppress(OSError):  # a strange umask, or a copied store, which may be read-only
            os.fchmod(fd, 0o600)


def _owner(fd: int) -> str:
    """Say who signed last; whether the lock is held, the kernel alone knows."""
    try:
        record = json.loads(os.pread(fd, _RECORD_BYTES, 0))
        pid, host, boot = int(record["pid"]), record["host"], record["boot_id"]
        command, since = record["command"], record["since"]
        if boot == _boot_id() and not os.path.exists(f"/proc/{pid}"):
            return "unknown"  # the one before; who holds it now has not signed yet
    except (ValueError, KeyError, TypeError, OSError):
        return "unknown"
    return printable(f"pid {pid} on {host}, {command}, since {since}")


def _sign(fd: int) -> None:
    """Write down who we are, for people; a full disk must not keep anybody from the lock."""
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "command": _command(),
        "since": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(record).encode(), 0)


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _command() -> str:
    """Return the command line of this process, such as ``fibackup backup web1``, cut short."""
    program, *words = getattr(sys, "argv", None) or [""]
    place, name = os.path.split(program)
    if name == "__main__.py":  # python -m fibackup
        name = os.path.basename(place)
    if name in {"", "-c"}:
        name = "python"
    return " ".join([name, *words])[:_COMMAND_CHARACTERS]
