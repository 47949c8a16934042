"""
Files that are written once and are durable before anybody names them.

::

    open   .NAME.tmp   O_EXCL | O_NOFOLLOW, 0600, in the directory of the result
    write, fdatasync
    link   NAME        refuses to replace
    unlink .NAME.tmp
    fsync  the directory

A failed fsync is never tried again on the same file: the kernel may have dropped the pages.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress

from fibackup.errors import (
    DestinationExistsError,
    HostError,
    ManifestError,
    NoSpaceError,
    PermissionDeniedError,
    StoreError,
)
from fibackup.model.chain import FileIdentity

__all__ = [
    "TEMP_SUFFIX",
    "forget_temporary",
    "fsync_directory",
    "how_to_remount",
    "identity_of",
    "kept_temporary_file",
    "make_directories",
    "make_directory",
    "open_directory",
    "open_lasting",
    "os_errors",
    "publish_file",
    "read_small",
    "refuse_strangers",
    "remove_if_same",
    "replace_file",
    "require_writable",
    "temporary_file",
    "write_all",
    "write_once",
    "write_unnamed",
]

TEMP_SUFFIX = ".tmp"
_NOT_SMALL = "not a regular file of a sensible size"
_MAX_SMALL_BYTES = 16 * 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LASTING = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = _LASTING | os.O_CREAT | os.O_EXCL


@contextmanager
def os_errors(path: str, *, inside: bool = False) -> Generator[None]:
    """
    Turn each OSError into one of ours, and complete the paths of our own.

    Args:
        path: What it is about, when the error itself does not say; a bare name in an error of
            ours is beside it.
        inside: True: it is a directory, and that name is in it.

    Raises:
        NoSpaceError: ENOSPC, EDQUOT, EFBIG.
        PermissionDeniedError: EACCES, EPERM, EROFS; with owner, mode and our own user.
        HostError: Any other.

    Source:
        errno(3).
    """
    try:
        yield
    except OSError as error:
        where = (
            error.filename if isinstance(error.filename, str) and "/" in error.filename else path
        )
        words = error.strerror or str(error)
        if error.errno in _FULL:
            raise NoSpaceError(reason=words, path=where) from error
        if error.errno in _FORBIDDEN:
            raise PermissionDeniedError(
                reason=f"{words} ({_who(where)})",
                path=where,
                remedy=how_to_remount(where) if error.errno == errno.EROFS else "",
            ) from error
        raise HostError(reason=words, path=where) from error
    except StoreError as error:
        if error.path is not None and not error.path.startswith("/"):
            error.path = os.path.join(path if inside else os.path.dirname(path), error.path)
        raise


def _who(path: str) -> str:
    with suppress(OSError):
        found = os.stat(path)
        mode = stat.S_IMODE(found.st_mode)
        owner = f"owner {found.st_uid}:{found.st_gid}, mode {mode:04o}"
        return f"{owner}, we are {os.geteuid()}:{os.getegid()}"
    return f"we are {os.geteuid()}:{os.getegid()}"


def how_to_remount(path: str) -> str:
    """Say how the file system that a path is on can be written again."""
    mount_point = os.path.realpath(path)
    while not os.path.ismount(mount_point):  # which does not see that of a bind mount
        above = os.path.dirname(mount_point)
        if not _is_read_only(above):
            break
        mount_point = above
    return (
        "find out why it is read-only (dmesg; ReadWritePaths= of a unit), then: "
        f"mount -o remount,rw {shlex.quote(mount_point)}"
    )


def _is_read_only(path: str) -> bool:
    with suppress(OSError):
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    return False


def refuse_strangers(fd: int, path: str, what: str) -> None:
    """
    Refuse an open directory in which others could replace what is ours.

    Args:
        fd: The directory.
        path: Its path, for errors.
        what: What it is, for errors: ``"the store"``.

    Raises:
        PermissionDeniedError: Its owner is neither root nor us, or others can write it.

    Source:
        credentials(7): who may write a directory may rename and replace what is in it.
    """
    found = os.fstat(fd)
    cures = (
        f"chown {os.geteuid()}" if found.st_uid not in {0, os.geteuid()} else "",
        "chmod go-w" if found.st_mode & _OTHERS_WRITE else "",
    )
    if any(cures):
        raise PermissionDeniedError(
            reason=f"others can write {what} (owner {found.st_uid}, "
            f"mode {stat.S_IMODE(found.st_mode):04o}, we are {os.geteuid()}): "
            "make it ours alone to write, chown and chmod go-w",
            path=path,
            remedy=" && ".join(f"{cure} {shlex.quote(path)}" for cure in cures if cure),
        )


def require_writable(fd: int, path: str, what: str, *, new_files: bool = True) -> None:
    """
    Refuse an open directory in which we could, or should, make no file; none is made to find out.

    Args:
        fd: The directory.
        path: Its path, for errors.
        what: What it is, for errors: ``"the store"``.
        new_files: False: what is needed of it is there already, and may be written.

    Raises:
        PermissionDeniedError: It is on a file system that is mounted read-only, or is not ours to
            write, or not ours alone. Nothing was touched.

    Source:
        statvfs(3), access(2); `refuse_strangers`.
    """
    with os_errors(path):
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        refuse_strangers(fd, path, what)
        needed = os.W_OK | os.X_OK if new_files else os.X_OK
        if not os.access(".", needed, dir_fd=fd, effective_ids=True):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def identity_of(fd: int) -> FileIdentity:
    """Return inode, size and mtime of an open file."""
    found = os.fstat(fd)
    return FileIdentity(found.st_ino, found.st_size, found.st_mtime_ns)


@contextmanager
def open_directory(name: str, dir_fd: int | None = None) -> Generator[int]:
    """
    Open a directory, not through a link.

    Args:
        name: Its name, or path.
        dir_fd: The directory that *name* is in.

    Yields:
        Its file descriptor.
    """
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def make_directory(name: str, dir_fd: int) -> None:
    """
    Make a directory, 0700 under any umask, and make its name durable; an existing one is fine.

    Args:
        name: Its name.
        dir_fd: The directory to make it in.
    """
    try:
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        return
    if stat.S_IMODE(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode) != 0o700:
        os.chmod(name, 0o700, dir_fd=dir_fd)
    fsync_directory(dir_fd)


def make_directories(path: str) -> None:
    """
    Make a directory and those above it that are missing, 0700, and make their names durable.

    Args:
        path: Absolute path; links in it are followed.
    """
    if os.path.isdir(path):
        return
    parent, name = os.path.split(path)
    make_directories(parent)
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        make_directory(name, fd)
    finally:
        os.close(fd)


def fsync_directory(fd: int) -> None:
    """Make the names in a directory durable."""
    os.fsync(fd)


@contextmanager
def temporary_file(name: str, dir_fd: int) -> Generator[int]:
    """
    Open the temporary file of *name*; it is gone afterwards, whatever happens.

    Args:
        name: Name of the file that is to be.
        dir_fd: Its directory.

    Yields:
        A file descriptor for reading and writing.
    """
    with kept_temporary_file(name, dir_fd) as fd:
        inode = os.fstat(fd).st_ino
        yield fd
    with suppress(OSError):  # what is published stays published; the next run tidies up
        remove_if_same(f".{name}{TEMP_SUFFIX}", inode, dir_fd)


@contextmanager
def kept_temporary_file(name: str, dir_fd: int) -> Generator[int]:
    """
    Open the temporary file of *name*; it is gone after a failure, else it waits for its name.

    Args:
        name: Name that `publish_file` will give it.
        dir_fd: Its directory.

    Yields:
        A file descriptor for reading and writing.
    """
    temp = f".{name}{TEMP_SUFFIX}"
    fd = _new_file(temp, dir_fd)
    inode = os.fstat(fd).st_ino
    try:
        try:
            yield fd
        finally:
            os.close(fd)
    except BaseException:
        remove_if_same(temp, inode, dir_fd)
        raise


def forget_temporary(name: str, dir_fd: int) -> None:
    """
    Remove the temporary file of *name*, if it is there.

    Args:
        name: Name of the file that was to be.
        dir_fd: Its directory.
    """
    with suppress(FileNotFoundError):
        os.unlink(f".{name}{TEMP_SUFFIX}", dir_fd=dir_fd)


def _new_file(name: str, dir_fd: int) -> int:
    """Make a file that is ours, not through a link: 0600, whatever the umask takes away."""
    fd = os.open(name, _NEW, 0o600, dir_fd=dir_fd)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != 0o600:
            os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        os.unlink(name, dir_fd=dir_fd)
        raise
    return fd


def open_lasting(name: str, dir_fd: int) -> int:
    """
    Open a file that stays, such as a lock, not through a link; a missing one is made, 0600.

    One that root makes belongs to whoever the directory belongs to.

    Args:
        name: Its name.
        dir_fd: Its directory.

    Returns:
        A file descriptor for reading and writing.
    """
    while True:
        with suppress(FileNotFoundError):
            return os.open(name, _LASTING, dir_fd=dir_fd)
        with suppress(FileExistsError):  # somebody was faster
            fd = _new_file(name, dir_fd)
            _give_to_owner(fd, dir_fd)
            return fd


def _give_to_owner(fd: int, dir_fd: int) -> None:
    """
    Give a file that root has just made to the owner of its directory, who is to read it too.

    Only of files that are known to be new: one that is found may have another name elsewhere.
    """
    owner = os.fstat(dir_fd)
    if os.geteuid() == 0 != owner.st_uid:
        with suppress(OSError):  # NFS, a user namespace
            os.fchown(fd, owner.st_uid, owner.st_gid)


def publish_file(name: str, dir_fd: int) -> None:
    """
    Give a complete, synced temporary file its name; never replaces.

    Args:
        name: The name.
        dir_fd: The directory.

    Raises:
        DestinationExistsError: The name is taken.
        OSError: It failed; the file does not have the name, and nobody else's was removed.

    Source:
        link(2); file systems without links get rename(2) behind a check, under the caller's lock.
    """
    temp = f".{name}{TEMP_SUFFIX}"
    inode = os.stat(temp, dir_fd=dir_fd, follow_symlinks=False).st_ino
    try:
        _name(temp, name, dir_fd)
        forget_temporary(name, dir_fd)
        fsync_directory(dir_fd)
    except DestinationExistsError:
        raise
    except BaseException:  # nobody may build upon a name that a power cut could take away
        remove_if_same(name, inode, dir_fd)
        raise


def _name(temp: str, name: str, dir_fd: int) -> None:
    try:
        os.link(temp, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
    except FileExistsError:
        raise _taken(name) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename(temp, name, dir_fd)


def remove_if_same(name: str, inode: int, directory: int) -> None:
    """
    Remove a file that we made; another one in its place stays.

    Args:
        name: Its name.
        inode: Its inode.
        directory: Its directory.
    """
    with suppress(FileNotFoundError):
        if os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino == inode:
            os.unlink(name, dir_fd=directory)


def _rename(temp: str, name: str, dir_fd: int) -> None:
    _refuse_taken(name, dir_fd)
    os.rename(temp, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def _refuse_taken(name: str, dir_fd: int) -> None:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        raise _taken(name)


def _taken(name: str) -> DestinationExistsError:
    return DestinationExistsError(reason="the file exists; nothing is ever overwritten", path=name)


def write_all(fd: int, data: bytes) -> None:
    """
    Write all of *data* at the position of a file.

    Args:
        fd: The open file.
        data: What to write.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_unnamed(name: str, data: bytes, dir_fd: int) -> None:
    """
    Write a small file, durably; `publish_file` gives it its name.

    Args:
        name: The name that it is to get.
        data: Its content.
        dir_fd: Its directory.

    Raises:
        DestinationExistsError: The name is taken, or waited for already.
    """
    try:
        _refuse_taken(name, dir_fd)
        with kept_temporary_file(name, dir_fd) as fd:
            write_all(fd, data)
            os.fdatasync(fd)
    except FileExistsError:
        raise _taken(name) from None


def write_once(name: str, data: bytes, dir_fd: int) -> None:
    """
    Write a small file, durably, under a name that is free.

    Args:
        name: Its name.
        data: Its content.
        dir_fd: Its directory.

    Raises:
        DestinationExistsError: The name is taken.
    """
    with temporary_file(name, dir_fd) as fd:
        write_all(fd, data)
        os.fdatasync(fd)
        publish_file(name, dir_fd)


def replace_file(name: str, data: bytes, dir_fd: int) -> None:
    """
    Write a small file, durably, in place of the one of that name: a reader sees the old or the new.

    Only for what says nothing of the guest's data and can be had again: seals, records of
    verifications. The caller holds a lock that keeps other writers of the same file out. What root
    writes belongs to whoever the directory belongs to.

    Args:
        name: Its name.
        data: Its content.
        dir_fd: Its directory.

    Source:
        rename(2).
    """
    with temporary_file(name, dir_fd) as fd:
        write_all(fd, data)
        _give_to_owner(fd, dir_fd)
        os.fdatasync(fd)
        os.rename(f".{name}{TEMP_SUFFIX}", name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        fsync_directory(dir_fd)


def read_small(name: str, dir_fd: int) -> bytes:
    """
    Read a small file, whole, not through a link.

    Args:
        name: Its name.
        dir_fd: Its directory.

    Returns:
        Its content.

    Raises:
        ManifestError: It is no regular file, or too large.

    Source:
        open(2).
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(name, flags, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:  # a link, a socket
            raise
        raise ManifestError(reason=_NOT_SMALL, path=name) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_SMALL_BYTES:
            raise ManifestError(reason=_NOT_SMALL, path=name)
        data = os.read(fd, found.st_size + 1)
        if len(data) == found.st_size:
            return data
        return data + b"".join(iter(lambda: os.read(fd, 1024 * 1024), b""))
    finally:
        os.close(fd)
