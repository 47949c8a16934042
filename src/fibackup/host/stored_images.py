"""
Open stored images, and check them against their manifests while somebody reads them.

::

    A.qcow2 <- B.qcow2 <- C.qcow2      opened: a file, of its size, under the lock of a QEMU reader,
       |          |          |                 with a header that leads to its own backing file
       |          |          |
       +----------+----------+--- sha256 of each --- wrong: the act is stopped, or does not count
                             `--- act, such as qemu-img convert
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import TypeAlias

from fibackup.errors import CancelledError, ParseError, VerifyError
from fibackup.host.cancel import CancelToken
from fibackup.host.copy import hash_file
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.lock import hold_image_lock
from fibackup.host.side_by_side import ChildToken, stand_back
from fibackup.model.point import StoredImage
from fibackup.parse.qcow2_header import stored_header_fault

__all__ = ["OpenImage", "opened_images", "verify_image", "while_verified", "wrong_image"]

OpenImage: TypeAlias = tuple[StoredImage, int]
"""What the manifest says of an image, and the image, open."""


def wrong_image(image: StoredImage, path: PurePosixPath, reason: str) -> VerifyError:
    """Return the error for a stored image that is not what its manifest says."""
    return VerifyError(reason=f"{image.name}: {reason}", path=str(path / image.name))


@contextmanager
def opened_images(
    images: Sequence[StoredImage], disk_fd: int, disk_path: PurePosixPath
) -> Generator[tuple[OpenImage, ...]]:
    """
    Open stored images under QEMU's reader lock; sizes and headers must be what manifests say.

    Args:
        images: What their manifests say.
        disk_fd: The disk's directory in the store.
        disk_path: Its path, for errors.

    Yields:
        The images, in the same order.

    Raises:
        VerifyError: One of them is missing, or is not what its manifest says.
    """
    with ExitStack() as stack:
        files = tuple(
            (image, stack.enter_context(_opened(image, disk_fd, disk_path))) for image in images
        )
        for image, fd in files:
            _refuse_header(image, fd, disk_path)
        yield files


@contextmanager
def _opened(image: StoredImage, disk_fd: int, path: PurePosixPath) -> Generator[int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(image.name, flags, dir_fd=disk_fd)
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


def _refuse_header(image: StoredImage, fd: int, path: PurePosixPath) -> None:
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


def verify_image(
    image: StoredImage,
    fd: int,
    disk_path: PurePosixPath,
    on_bytes: Callable[[int], None],
    cancel: CancelToken,
    *,
    keep_cached: bool = False,
) -> None:
    """
    Hash a stored image.

    Args:
        image: What its manifest says.
        fd: The image, open.
        disk_path: The disk's directory in the store, for errors.
        on_bytes: Called with the position reached.
        cancel: Asked between two blocks.
        keep_cached: True: somebody else reads it at the same time.

    Raises:
        VerifyError: It is not what its manifest says.
    """
    found = hash_file(
        fd, image.size_bytes, on_bytes=on_bytes, cancel=cancel, keep_cached=keep_cached
    )
    if found != image.sha256:
        raise wrong_image(image, disk_path, f"sha256 is {found}, {image.sha256} recorded")


def while_verified(
    files: Sequence[OpenImage],
    disk_path: PurePosixPath,
    act: Callable[[CancelToken], object],
    cancel: CancelToken,
    *,
    threads: int,
    keep_cached: bool = False,
    on_bytes: Callable[[str, int], None] | None = None,
) -> None:
    """
    Do something with stored images, and hash them at the same time; a wrong one stops it.

    The threads that hash stand back, but for that of the largest image, which is hashed first:
    *act* and that one are what takes longest.

    Args:
        files: The images, open.
        disk_path: The disk's directory in the store, for errors.
        act: Called with the token that a wrong image cancels.
        cancel: Asked while it runs.
        threads: Images that are hashed at the same time.
        keep_cached: True: *act* reads them at the same time.
        on_bytes: Called with the name of an image, and the position that its hash has reached.

    Raises:
        VerifyError: An image is not what its manifest says, whatever else failed.
        HostError: An image cannot be read, or *act* has failed.
    """
    linked = ChildToken(cancel)
    by_size = sorted(files, key=lambda each: each[0].size_bytes, reverse=True)

    def verify(image: StoredImage, fd: int) -> None:
        if fd != by_size[0][1]:
            stand_back()
        try:
            passed = _unheard if on_bytes is None else partial(on_bytes, image.name)
            verify_image(image, fd, disk_path, passed, linked, keep_cached=keep_cached)
        except BaseException:
            linked.cancel()
            raise

    checks: list[Future[None]] = []
    failures: list[BaseException] = []
    with ThreadPoolExecutor(threads, "fibackup-verify") as pool:
        try:
            checks += [pool.submit(verify, image, fd) for image, fd in by_size]
            act(linked)
            wait(checks)
        except Exception as failure:  # noqa: BLE001 - raised below, after the hashes
            linked.cancel()
            failures.append(failure)
        except BaseException:  # Ctrl-C
            linked.cancel()
            raise
    failures += [failed for check in checks if (failed := check.exception()) is not None]
    for each in sorted(failures, key=_distance):
        raise each


def _unheard(_: int) -> None:
    """Take a position that nobody asks for."""


def _distance(error: BaseException) -> int:
    """Return how far from the cause an error is: qemu-img fails on a wrong image, then all stop."""
    if isinstance(error, VerifyError):
        return 0
    return 2 if isinstance(error, CancelledError) else 1
