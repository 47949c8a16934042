"""
Look at the files of a chain: identity, sizes, and what each header says.

::

    Image(path, format)  --stat, first cluster-->  Image(..., identity, header_backing)

No backing file is opened because a header names it: only what libvirt lists is looked at.
"""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath

from attrs import evolve

from fibackup.errors import FibackupError, HostError, ParseError, PermissionDeniedError
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.files import how_to_remount, identity_of, os_errors
from fibackup.host.lock import has_writer, refuse_users
from fibackup.model.chain import MAX_DEPTH, BackingChain, Image
from fibackup.parse.qcow2_header import Qcow2Header, resolve_backing

__all__ = [
    "delete_unused",
    "examine_chain",
    "follow_chain",
    "refuse_unwritable",
    "shared_images",
]


def examine_chain(chain: BackingChain) -> BackingChain:
    """
    Return *chain* with what its files tell.

    Only qcow2 images have their header read; an image that is declared raw is never looked into,
    because its guest may have written anything there.

    Args:
        chain: Paths and formats, as libvirt gives them.

    Returns:
        The same images with identity, sizes and header facts; a file that cannot be read or
        understood has its ``problem`` set.

    Source:
        QEMU docs/interop/qcow2.txt; stat(2).
    """
    following = (*chain.images[1:], None)
    return evolve(
        chain,
        images=tuple(
            _examine(image, under) for image, under in zip(chain.images, following, strict=True)
        ),
    )


def follow_chain(chain: BackingChain) -> BackingChain:
    """
    Return *chain* down to its base, from the headers of its images.

    libvirt shows the whole chain of a running domain only; of one that is off it shows what the
    definition says. QEMU would follow the headers when the domain starts, and so do we. An image
    whose header does not say the format of its backing file is not followed: it would be probed.

    Args:
        chain: What the definition shows, examined.

    Returns:
        The chain with the images that it lacked; ``problem`` is set where it cannot be followed.

    Source:
        QEMU docs/interop/qcow2.txt, "backing file format name".
    """
    images = list(chain.images)
    while len(images) < MAX_DEPTH and (below := images[-1].header_backing):
        if not below.startswith("/") or any(str(image.path) == below for image in images):
            break
        found = _backing_format(images[-1].path)
        if found is None:
            words = "its header does not say the format of its backing file"
            images[-1] = evolve(images[-1], problem=words)
            break
        images.append(_examine(Image(PurePosixPath(below), found), None))
    return evolve(chain, images=tuple(images))


def _backing_format(path: PurePosixPath) -> str | None:
    with os_errors(str(path)):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return read_qcow2_head(fd, str(path))[0].backing_format
    finally:
        os.close(fd)


def _examine(image: Image, under: Image | None) -> Image:
    try:
        with os_errors(str(image.path)):
            fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _examine_open(image, under, fd)
        finally:
            os.close(fd)
    except FibackupError as error:
        return evolve(image, problem=error.reason)


def _examine_open(image: Image, under: Image | None, fd: int) -> Image:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise HostError(reason="not a regular file", path=str(image.path))
    known = evolve(
        image,
        identity=identity_of(fd),
        allocated_bytes=found.st_blocks * 512,
        being_written=has_writer(fd),
    )
    if image.format == "raw":
        return evolve(known, virtual_size_bytes=found.st_size)
    if image.format != "qcow2":
        return known
    header, _ = read_qcow2_head(fd, str(image.path))
    _refuse_features(header)
    return evolve(
        known,
        virtual_size_bytes=header.virtual_size_bytes,
        header_backing=_backing(header, image.path, under),
    )


def _refuse_features(header: Qcow2Header) -> None:
    if header.has_data_file:
        raise ParseError(reason="its data is in another file (data-file)")
    if header.corrupt:
        raise ParseError(reason="QEMU has marked it corrupt; look at it with qemu-img check")
    if header.encrypted:
        raise ParseError(reason="it is encrypted")


def _backing(header: Qcow2Header, path: PurePosixPath, under: Image | None) -> str:
    """Return the backing file, as libvirt names it where that is the same file."""
    if header.backing_name is None:
        return ""
    named = resolve_backing(header.backing_name, path.parent)
    if under is not None and os.path.realpath(named) == os.path.realpath(under.path):
        return str(under.path)
    return str(named)


def shared_images(
    paths: tuple[PurePosixPath, ...], images: tuple[Image, ...]
) -> tuple[PurePosixPath, ...]:
    """
    Return those of *paths* that another domain uses.

    A domain that is off shows only its active layers, so the headers are followed from there, as
    QEMU would when it starts. An image that is raw is never looked into: its guest wrote it.

    Args:
        paths: Images of ours.
        images: What the other domain's XML names.

    Returns:
        The paths that are the same file as one of the images, or as one under them.

    Source:
        stat(2): device and inode; QEMU docs/interop/qcow2.txt.
    """
    theirs = _files_under(images)
    return tuple(path for path in paths if (key := _key(path)) is not None and key in theirs)


def _key(path: PurePosixPath) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _files_under(images: tuple[Image, ...]) -> set[tuple[int, int]]:
    """Return device and inode of images, and of all that their headers lead to."""
    found: set[tuple[int, int]] = set()
    for image in images:
        below: Image | None = image
        while below is not None:
            key = _key(below.path)
            if key is None or key in found:
                break
            found.add(key)
            below = _named_below(below)
    return found


def _named_below(image: Image) -> Image | None:
    """Return the backing file that the header of an image names."""
    if image.format != "qcow2":
        return None
    below = _examine(image, None).header_backing
    if not below or not below.startswith("/"):
        return None
    return Image(PurePosixPath(below), _backing_format(image.path) or "qcow2")


def refuse_unwritable(directory: PurePosixPath, *, as_us: bool) -> None:
    """
    Refuse a directory in which the daemon cannot make an overlay.

    A daemon of the system runs as root, and is kept out by a read-only file system alone; one of
    the session may do what we may.

    Args:
        directory: Where the overlay will be.
        as_us: True for a daemon of the session.

    Raises:
        PermissionDeniedError: With what is in the way. Nothing was touched.

    Source:
        statvfs(3), access(2).
    """
    with os_errors(str(directory)):
        remedy = ""
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            reason = "no overlay can be made here: the file system is mounted read-only"
            remedy = how_to_remount(str(directory))
        elif as_us and not os.access(directory, os.W_OK | os.X_OK):
            reason = "no overlay can be made here: libvirt runs as this user, who may not write"
        else:
            return
    raise PermissionDeniedError(
        reason=f"{reason}; make it writable, or exclude the disk",
        path=str(directory),
        remedy=remedy,
    )


def delete_unused(path: PurePosixPath) -> None:
    """
    Delete an image that no process has open as QEMU does; a missing one is fine.

    Args:
        path: The image.

    Raises:
        DomainBusyError: A QEMU process holds a lock on it. It stays.
        HostError: It is no regular file, or cannot be deleted.

    Source:
        QEMU docs/system/images, "Disk image file locking"; unlink(2).
    """
    with os_errors(str(path)):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise HostError(reason="not a regular file", path=str(path))
            refuse_users(fd, str(path))
            os.unlink(path)
        finally:
            os.close(fd)
