"""
Write a disk of a point as one image, and check every stored image while it is read.

::

    A.qcow2 <- B.qcow2 <- C.qcow2      open, image lock, size, header against manifest
       |          |          |
       +----------+----------+--- sha256 of each file --- wrong: stop, nothing is written
                             `--- qemu-img convert ------ INTO/.vda.qcow2.tmp
                                                           all right: link INTO/vda.qcow2

The source goes through the page cache, because two read it; the destination goes past it where it
can (open(2), ``O_DIRECT``), so that it is written while the rest is read, and not in the end.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PurePosixPath
from threading import Lock

from fibackup.errors import CancelledError, LockedError, ParseError, VerifyError
from fibackup.host.copy import hash_file
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.events import CancelToken, CopyProgress, OnEvent
from fibackup.host.files import (
    TEMP_SUFFIX,
    make_directories,
    os_errors,
    publish_file,
    temporary_file,
)
from fibackup.host.lock import hold_image_lock
from fibackup.host.qemu_img import convert
from fibackup.host.side_by_side import ChildToken
from fibackup.model.point import StoredImage
from fibackup.parse.qcow2_header import stored_header_fault
from fibackup.plan.report import RestoredImage
from fibackup.plan.steps import FlattenImage

__all__ = [
    "destination_directory",
    "flatten",
    "opened_image",
    "refuse_header",
    "temporary_destination",
    "verify_image",
    "while_verified",
    "wrong_image",
]


_BLOCK_BYTES = 4096
"""The largest block of a disk: what is no multiple of it cannot be written past the page cache."""

_making_directories = Lock()  # a directory is there when its mode is right


def flatten(
    step: FlattenImage,
    disk_fd: int,
    disk_path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
) -> RestoredImage:
    """
    Write the images of a step as one.

    Args:
        step: The images, top first, and the destination.
        disk_fd: The disk's directory in the store.
        disk_path: Its path, for qemu-img.
        on_event: Gets `CopyProgress`.
        cancel: Asked while it runs.

    Returns:
        What was written.

    Raises:
        VerifyError: A stored image is not what its manifest says. Nothing is left behind.
        DestinationExistsError: The destination exists.
    """
    with ExitStack() as stack:
        files = tuple(
            (image, stack.enter_context(opened_image(image, disk_fd, disk_path)))
            for image in step.images
        )
        for image, fd in files:
            refuse_header(image, fd, disk_path)
        directory = stack.enter_context(destination_directory(step.destination))
        temp = stack.enter_context(temporary_destination(step.destination.name, directory))
        _convert_and_verify(step, files, temp, disk_path, on_event, cancel)
        _drop_cache([fd for _, fd in files])
        size = os.fstat(temp).st_size
        publish_file(step.destination.name, directory)
    return RestoredImage(
        target=step.target,
        path=step.destination,
        format=step.format,
        virtual_size_bytes=step.images[0].virtual_size_bytes,
        size_bytes=size,
    )


def _drop_cache(fds: Sequence[int]) -> None:
    """Drop clean pages, of several files at once: what takes time is each page."""
    with ThreadPoolExecutor(2, "fibackup-cache") as pool:
        for done in [pool.submit(os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_DONTNEED) for fd in fds]:
            done.result()


def wrong_image(image: StoredImage, path: PurePosixPath, reason: str) -> VerifyError:
    """Return the error for a stored image that is not what its manifest says."""
    return VerifyError(reason=f"{image.name}: {reason}", path=str(path / image.name))


@contextmanager
def opened_image(image: StoredImage, disk_fd: int, path: PurePosixPath) -> Generator[int]:
    """Open a stored image under QEMU's reader lock; its type and size must be right."""
    try:
        fd = os.open(
            image.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=disk_fd
        )
    except FileNotFoundError:
        raise wrong_image(image, path, "the file is missing") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != image.size_bytes:
            raise wrong_image(image, path, f"{found.st_size} bytes, {image.size_bytes} recorded")
        hold_image_lock(fd, str(path / image.name))
        yield fd
    finally:
        os.close(fd)


def refuse_header(image: StoredImage, fd: int, path: PurePosixPath) -> None:
    """Refuse a header that contradicts the manifest: it could lead to another file."""
    try:
        header, _ = read_qcow2_head(fd, str(path / image.name))
    except ParseError as error:
        raise wrong_image(image, path, error.reason) from error
    fault = stored_header_fault(
        header, backing=image.backing, virtual_size_bytes=image.virtual_size_bytes
    )
    if fault:
        raise wrong_image(image, path, fault)


@contextmanager
def destination_directory(path: PurePosixPath) -> Generator[int]:
    """Open the directory of a restored file; it is made, durably, when it is missing."""
    with os_errors(str(path.parent)):
        with _making_directories:
            make_directories(str(path.parent))
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def temporary_destination(name: str, directory: int) -> Generator[int]:
    """Open the temporary file; one that a killed restore left is removed, a live one respected."""
    _remove_stale(name, directory)
    with temporary_file(name, directory) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd


def _remove_stale(name: str, directory: int) -> None:
    temp = f".{name}{TEMP_SUFFIX}"
    with suppress(FileNotFoundError):
        fd = os.open(temp, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(temp, dir_fd=directory)
        except BlockingIOError:
            raise LockedError(reason="another restore writes there", path=temp) from None
        finally:
            os.close(fd)


def verify_image(
    image: StoredImage,
    fd: int,
    disk_path: PurePosixPath,
    on_bytes: Callable[[int], None],
    linked: CancelToken,
    *,
    keep_cached: bool = False,
) -> None:
    """
    Hash a stored image; one that is wrong ends what else runs under the same token.

    Args:
        image: What its manifest says.
        fd: The image, open.
        disk_path: The disk's directory in the store, for errors.
        on_bytes: Called with the position reached.
        linked: Asked between two blocks, and cancelled by every failure.
        keep_cached: True: somebody else reads it at the same time.

    Raises:
        VerifyError: It is not what its manifest says.
    """
    try:
        found = hash_file(
            fd, image.size_bytes, on_bytes=on_bytes, cancel=linked, keep_cached=keep_cached
        )
        if found != image.sha256:
            raise wrong_image(  # noqa: TRY301 - the handler is for every failure, this one too
                image, disk_path, f"sha256 is {found}, {image.sha256} recorded"
            )
    except BaseException:
        linked.cancel()
        raise


def _convert_and_verify(
    step: FlattenImage,
    files: tuple[tuple[StoredImage, int], ...],
    temp_fd: int,
    disk_path: PurePosixPath,
    on_event: OnEvent,
    cancel: CancelToken,
) -> None:
    """Convert and hash at the same time; a wrong hash stops the conversion."""
    total = step.images[0].virtual_size_bytes

    def progress(percent: float) -> None:
        on_event(
            CopyProgress(step.target, step.destination.name, int(total * percent / 100), total)
        )

    def act(linked: CancelToken) -> None:
        top = disk_path / step.images[0].name
        temp = step.destination.with_name(f".{step.destination.name}{TEMP_SUFFIX}")
        direct = total % _BLOCK_BYTES == 0 and _takes_direct_writes(temp_fd)
        convert(top, "qcow2", temp, step.format, direct=direct, on_percent=progress, cancel=linked)
        os.fdatasync(temp_fd)
        os.posix_fadvise(temp_fd, 0, 0, os.POSIX_FADV_DONTNEED)

    by_size = sorted(files, key=lambda each: each[0].size_bytes, reverse=True)
    while_verified(by_size, disk_path, act, cancel, threads=2, keep_cached=True)


def _takes_direct_writes(fd: int) -> bool:
    """Tell whether a file can be opened past the page cache; some file systems refuse."""
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT))
    except OSError:
        return False
    return True


def while_verified(
    files: Sequence[tuple[StoredImage, int]],
    disk_path: PurePosixPath,
    act: Callable[[CancelToken], None],
    cancel: CancelToken,
    *,
    threads: int,
    keep_cached: bool = False,
) -> None:
    """
    Do something with stored images, and hash them at the same time; a wrong one stops it.

    Args:
        files: The images, open, in the order in which they are hashed.
        disk_path: The disk's directory in the store, for errors.
        act: Called with the token that a wrong image cancels.
        cancel: Asked while it runs.
        threads: Images that are hashed at the same time.
        keep_cached: True: *act* reads them at the same time.

    Raises:
        VerifyError: An image is not what its manifest says, whatever else failed.
    """
    linked = ChildToken(cancel)
    with ThreadPoolExecutor(threads, "fibackup-verify") as pool:
        checks: list[Future[None]] = [
            pool.submit(
                verify_image, image, fd, disk_path, lambda _: None, linked, keep_cached=keep_cached
            )
            for image, fd in files
        ]
        error: BaseException | None = None
        try:
            act(linked)
        except BaseException as failure:  # noqa: BLE001 - raised below, after the hashes
            error = failure
            if not isinstance(failure, CancelledError):
                linked.cancel()
    failures = [failed for check in checks if (failed := check.exception()) is not None]
    wrong = next((failed for failed in failures if isinstance(failed, VerifyError)), None)
    for each in (wrong, error, *failures):
        if each is not None:
            raise each
