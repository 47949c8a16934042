"""
Disks of a point as a chain of copies, or as an overlay on the store; and what is undone.

::

    chain    A.qcow2 --copy, sha256--> INTO/vda/.A.qcow2.tmp --link--> INTO/vda/A.qcow2
             B.qcow2 --copy, sha256--> ...                             base first
    linked   A.qcow2, B.qcow2 --sha256-->    qemu-img create -F qcow2 -b STORE/.../B.qcow2
                                             INTO/.vda.qcow2.tmp --link--> INTO/vda.qcow2

Each function leaves all of its files behind, or none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PurePosixPath

from fibackup.errors import VerifyError
from fibackup.host.cancel import CancelToken
from fibackup.host.copy import copy_and_hash
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.destination import destination_directory, temporary_destination
from fibackup.host.events import CopyProgress, OnEvent
from fibackup.host.files import (
    TEMP_SUFFIX,
    fsync_directory,
    os_errors,
    publish_file,
    remove_if_same,
    write_all,
)
from fibackup.host.lock import refuse_users
from fibackup.host.qemu_img import create_overlay
from fibackup.host.side_by_side import side_by_side
from fibackup.host.stored_images import OpenImage, opened_images, verify_image, wrong_image
from fibackup.model.point import StoredFile, StoredImage
from fibackup.plan.report import RestoredImage
from fibackup.plan.steps import CopyStored, CreateLinked

__all__ = [
    "copy_chain",
    "create_linked",
    "discard",
    "inode_of",
    "make_passage",
    "read_stored",
    "sync_directory",
    "write_restored",
]


def copy_chain(
    step: CopyStored,
    disk_fd: int,
    disk_path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
) -> RestoredImage:
    """
    Copy the stored images of a disk, each checked against its sha256 while it is copied.

    Args:
        step: The images, top first, and the directory of the copies.
        disk_fd: The disk's directory in the store.
        disk_path: Its path, for errors.
        on_event: Gets `CopyProgress`.
        cancel: Asked between two blocks.

    Returns:
        What was written; its path is the copy of the top image.

    Raises:
        VerifyError: A stored image is not what its manifest says. Nothing is left behind.
        DestinationExistsError: A destination exists. Nothing is left behind.
    """
    with ExitStack() as stack:
        files = stack.enter_context(opened_images(step.images, disk_fd, disk_path))
        directory = stack.enter_context(destination_directory(step.destination))
        made: list[tuple[str, int]] = []
        try:
            for image, fd in reversed(files):
                inode = _copy(image, fd, directory, disk_path, step.target, on_event, cancel)
                made.append((image.name, inode))
        except BaseException:
            for name, inode in reversed(made):
                remove_if_same(name, inode, directory)
            raise
    return RestoredImage(
        target=step.target,
        path=step.destination,
        format=step.format,
        virtual_size_bytes=step.images[0].virtual_size_bytes,
        size_bytes=sum(image.size_bytes for image in step.images),
    )


def _copy(
    image: StoredImage,
    source: int,
    directory: int,
    disk_path: PurePosixPath,
    target: str,
    on_event: OnEvent,
    cancel: CancelToken,
) -> int:
    """Copy one image, and return the inode of the copy."""

    def progress(position: int) -> None:
        on_event(CopyProgress(target, image.name, position, image.size_bytes))

    with temporary_destination(image.name, directory) as temp:
        found = copy_and_hash(
            source, temp, image.size_bytes, head=b"", on_bytes=progress, cancel=cancel
        )
        if found != image.sha256:
            raise wrong_image(image, disk_path, f"sha256 is {found}, {image.sha256} recorded")
        publish_file(image.name, directory)
        return os.fstat(temp).st_ino


def create_linked(
    step: CreateLinked,
    disk_fd: int,
    disk_path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
    note: Callable[[], None],
) -> RestoredImage:
    """
    Make an overlay on the top image of a disk in the store.

    Args:
        step: The images, top first, and the overlay.
        disk_fd: The disk's directory in the store.
        disk_path: Its path, which the overlay's header gets.
        on_event: Gets `CopyProgress`, while the stored images are read.
        cancel: Asked while it runs.
        note: Called right before it is made, so that no prune takes the images from under it.

    Returns:
        What was written.

    Raises:
        VerifyError: A stored image is not what its manifest says. Nothing is left behind.
        DestinationExistsError: The destination exists.
    """
    top, name = step.images[0], step.destination.name
    with ExitStack() as stack:
        files = stack.enter_context(opened_images(step.images, disk_fd, disk_path))
        if step.verify:
            _verify(step, files, disk_path, on_event, cancel)
        directory = stack.enter_context(destination_directory(step.destination))
        temp = stack.enter_context(temporary_destination(name, directory))
        note()
        create_overlay(
            disk_path / top.name,
            "qcow2",
            step.destination.with_name(f".{name}{TEMP_SUFFIX}"),
            top.virtual_size_bytes,
            depth=len(step.images) + 1,
            cancel=cancel,
        )
        header, _ = read_qcow2_head(temp, str(step.destination))
        if header.backing_name != str(disk_path / top.name):
            raise wrong_image(top, disk_path, f"the overlay lies on {header.backing_name}")
        os.fdatasync(temp)
        size = os.fstat(temp).st_size
        publish_file(name, directory)
    return RestoredImage(
        target=step.target,
        path=step.destination,
        format=step.format,
        virtual_size_bytes=top.virtual_size_bytes,
        size_bytes=size,
    )


def _verify(
    step: CreateLinked,
    files: Sequence[OpenImage],
    disk_path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
) -> None:
    """Hash the images, two at a time; the first that is wrong ends it."""

    def verify(file: OpenImage, linked: CancelToken) -> None:
        image, fd = file

        def progress(position: int) -> None:
            on_event(CopyProgress(step.target, image.name, position, image.size_bytes))

        verify_image(image, fd, disk_path, progress, linked)

    side_by_side(verify, files, cancel, threads=2, name="fibackup-verify")


def make_passage(path: PurePosixPath) -> None:
    """
    Make a directory that others may pass through, and not list; an existing one is fine.

    QEMU runs as a user of its own, and has to reach the images in it.

    Args:
        path: The directory; its parents are made as mkdir(1) does. All names are made durable.
    """
    if os.path.isdir(path):
        return
    for each in reversed([each for each in path.parents if not os.path.isdir(each)]):
        os.makedirs(each, exist_ok=True)
        sync_directory(each.parent)
    os.mkdir(path, 0o700)
    os.chmod(path, 0o711)  # noqa: S103 - QEMU passes through, whatever the umask is
    sync_directory(path.parent)


def sync_directory(directory: PurePosixPath) -> None:
    """
    Make the names in a directory durable.

    Args:
        directory: The directory; a link to one is followed.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync_directory(fd)
    finally:
        os.close(fd)


def read_stored(file: StoredFile, directory: int, path: PurePosixPath) -> bytes:
    """
    Return the content of a small stored file.

    Args:
        file: The file, as its point names it.
        directory: The domain's directory in the store.
        path: Its path, for errors.

    Raises:
        VerifyError: It is missing, or not what its point says.
    """
    where = str(path / file.name)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(file.name, flags, dir_fd=directory)
    except FileNotFoundError:
        raise VerifyError(reason=f"{file.name}: the file is missing", path=where) from None
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        data = os.pread(fd, file.size_bytes + 1, 0) if regular else b""
    finally:
        os.close(fd)
    if not file.describes(data):
        raise VerifyError(reason=f"{file.name} is not what its point says", path=where)
    return data


def write_restored(name: str, data: bytes, directory: int) -> None:
    """
    Write a small restored file, durably, under a name that is free.

    Args:
        name: Its name.
        data: Its content.
        directory: Its directory.

    Raises:
        DestinationExistsError: The name is taken.
    """
    with temporary_destination(name, directory) as temp:
        write_all(temp, data)
        os.fdatasync(temp)
        publish_file(name, directory)


def inode_of(path: PurePosixPath) -> int:
    """
    Return the inode of a file, 0 when there is none.

    Args:
        path: The file; a link is not followed.
    """
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return 0


def discard(path: PurePosixPath, inode: int) -> None:
    """
    Remove a file that a restore made.

    Args:
        path: The file; a missing one, or another one in its place, is left alone.
        inode: The inode of the one that was made.

    Raises:
        DomainBusyError: A process has it open as QEMU does. It stays.
        HostError: It cannot be removed.
    """
    with os_errors(str(path)):
        if inode_of(path) != inode:
            return
        with _open(path) as fd:
            with suppress(OSError):  # a file system without such locks: nobody holds one
                refuse_users(fd, str(path))
            os.unlink(path)


@contextmanager
def _open(path: PurePosixPath) -> Generator[int]:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)
