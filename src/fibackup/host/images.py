"""
Look at the files of a chain: identity, sizes, and what each header says.

::

    Image(path, format)  --stat, first cluster-->  Image(..., identity, header_backing)

No backing file is opened because a header names it: only what libvirt lists is looked at.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import PurePosixPath

from attrs import evolve

from fibackup.errors import FibackupError, HostError, ParseError, PermissionDeniedError
from fibackup.host.copy_image import read_qcow2_head
from fibackup.host.files import how_to_remount, identity_of, os_errors
from fibackup.host.lock import has_writer, refuse_users
from fibackup.model.chain import MAX_DEPTH, BackingChain, Image
from fibackup.parse.qcow2_header import Qcow2Header, backing_files, is_qcow2, resolve_backing

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
) -> dict[PurePosixPath, str]:
    """
    Return those of *paths* that another domain, or another disk, uses or may use.

    A domain that is off shows only its active layers, so the headers are followed from there, as
    QEMU would when it starts. An image that is raw is never looked into: its guest wrote it. An
    image that is missing leads nowhere, and so does a file that is no qcow2 image at all.

    Args:
        paths: Images of ours.
        images: What the other XML names; see `disk_images` for their ``header_backing``.

    Returns:
        The paths that are the same file as one of the images, or as one under them, each with
        ``""``. When a chain cannot be followed to its end, all others that exist as well, with
        the image that it ends at, and why.

    Source:
        stat(2): device and inode; QEMU docs/interop/qcow2.txt.
    """
    theirs, doubt = _files_under(images)
    found: dict[PurePosixPath, str] = {}
    for path in paths:
        with suppress(FibackupError):
            key = _key(path)
            if key in theirs:
                found[path] = ""
            elif key is not None and doubt:
                found[path] = doubt
    return found


def _key(path: PurePosixPath) -> tuple[int, int] | None:
    """Return device and inode of a file, None when there is none."""
    with os_errors(str(path)):
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return found.st_dev, found.st_ino


_FOLLOWED = frozenset({"qcow2", "qcow", "qed"})


def _files_under(images: tuple[Image, ...]) -> tuple[set[tuple[int, int] | None], str]:
    """Return device and inode of images and of all that lies under them, and what is not known."""
    said = {image.path for image in images if image.header_backing is not None}
    seen: set[tuple[tuple[int, int], str]] = set()
    waiting, doubt = list(images), ""
    for image in waiting:  # it grows
        try:
            key = _key(image.path)
            if key is None or (key, image.format) in seen:
                continue
            seen.add((key, image.format))
            waiting.extend(_named_below(image))
        except FibackupError as error:
            if image.path not in said and image.format in _FOLLOWED:
                reason = f"it cannot be told what {image.path} lies on: {error.reason}"
                doubt = doubt or reason
    return {key for key, _ in seen}, doubt


def _named_below(image: Image) -> tuple[Image, ...]:
    """Return the backing file that the header of an image names, whatever else it says."""
    if image.format in {"qcow", "qed"}:
        raise ParseError(reason=f"an image in {image.format} format")
    header = _sound_header(image.path) if image.format == "qcow2" else None
    if header is None or header.backing_name is None:
        return ()
    below = backing_files(header.backing_name, image.path.parent)
    return tuple(Image(path, header.backing_format or "qcow2") for path in below)


def _sound_header(path: PurePosixPath) -> Qcow2Header | None:
    """Return the header of an image, None when QEMU would not take the file for qcow2."""
    with os_errors(str(path)):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            kind = os.fstat(fd).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)) or not is_qcow2(os.pread(fd, 4, 0)):
                return None
            return read_qcow2_head(fd, str(path))[0]
        finally:
            os.close(fd)


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
