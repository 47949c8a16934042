"""
Copy one frozen image into the store: qcow2 byte by byte under a new header, else by qemu-img.

::

    qcow2   open, image lock, header -> header' (backing name of the store), one pass
    raw     open, image lock, qemu-img convert -f raw -O qcow2, hash what was written
    zstd    open, image lock, qemu-img convert -c, compare, hash what was written
            (what cannot be compressed: as qcow2)
    then    the receipt, then the name

The image is compared before and after: inode, size and mtime must be what the plan wants.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import PurePosixPath

from attrs import evolve, frozen

from fibackup.errors import DomainBusyError, FibackupError, HostError, ParseError
from fibackup.host.cancel import CancelToken
from fibackup.host.compress_image import can_compress, write_compressed
from fibackup.host.copy import copy_and_hash, hash_file
from fibackup.host.events import CopyProgress, ImageCopied, OnEvent
from fibackup.host.files import (
    TEMP_SUFFIX,
    identity_of,
    os_errors,
    publish_file,
    temporary_file,
    write_once,
)
from fibackup.host.lock import hold_image_lock
from fibackup.host.page_cache import drop
from fibackup.host.qemu_img import convert
from fibackup.host.store_files import RECEIPT
from fibackup.model.chain import MAX_STORED_DEPTH, FileIdentity
from fibackup.model.point import Receipt, SourceImage, StoredImage
from fibackup.parse.manifest import render_receipt
from fibackup.parse.qcow2_header import (
    Qcow2Header,
    needed_bytes,
    parse_qcow2_header,
    rewrite_backing,
)
from fibackup.plan.steps import CopyImage

__all__ = ["copy_image", "read_qcow2_head", "stored_depth"]

_FIRST_BYTES = 512


def copy_image(
    step: CopyImage, disk_fd: int, disk_path: PurePosixPath, on_event: OnEvent, cancel: CancelToken
) -> StoredImage:
    """
    Copy an image into an open directory of the store.

    Args:
        step: What to copy, and what it must be.
        disk_fd: The disk's directory.
        disk_path: Its path, for qemu-img.
        on_event: Gets `CopyProgress`, then `ImageCopied`.
        cancel: Asked between two blocks.

    Returns:
        The stored image; it is durable under its name.

    Raises:
        DomainBusyError: A writer has the image, or it is not what the step wants.
        ParseError: It is no qcow2 image although it should be.
        HostError: Reading or writing failed. Nothing of the copy is left.
    """
    source = str(step.source)
    with os_errors(source):
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HostError(
                target=step.target, reason="the image is not a regular file", path=source
            )
        hold_image_lock(fd, source)
        before = identity_of(fd)
        _refuse_change(step, step.identity, before)
        with temporary_file(step.name, disk_fd) as temp:
            header = None if step.format == "raw" else read_qcow2_head(fd, source)[0]
            parent = 0
            if step.compress and step.backing is not None:
                parent = _stored_head(step.backing, disk_fd).virtual_size_bytes
            if header is None or (step.compress and _compressible(header, parent)):
                depth = stored_depth(step.backing, disk_fd) + 1
                work = _Rewrite(step, fd, temp, header, before, parent, depth, disk_path)
                image = work.run(on_event, cancel)
            else:
                image = _copy_qcow2(step, fd, temp, before, on_event, cancel)
            _refuse_change(step, before, identity_of(fd))
            _publish(step.name, Receipt(step.target, image), disk_fd)
    except FibackupError as error:
        error.target = error.target or step.target
        error.path = error.path or source
        raise
    finally:
        os.close(fd)
    on_event(ImageCopied(step.target, step.name, image.size_bytes, image.sha256))
    return image


def _compressible(header: Qcow2Header, parent_bytes: int) -> bool:
    """Tell whether an image can be compressed: a compressed cluster has no subclusters."""
    size, cluster = header.virtual_size_bytes, header.cluster_bytes
    return not header.extended_l2 and can_compress(size, cluster, parent_bytes)


def _publish(name: str, receipt: Receipt, disk_fd: int) -> None:
    """
    Write the receipt, then give the image its name: a name without a receipt would be nobody's.

    A receipt alone means nothing, and the next run removes it.
    """
    write_once(name + RECEIPT, render_receipt(receipt).encode(), disk_fd)
    try:
        publish_file(name, disk_fd)
    except BaseException:
        os.unlink(name + RECEIPT, dir_fd=disk_fd)
        raise


def _refuse_change(step: CopyImage, wanted: FileIdentity | None, found: FileIdentity) -> None:
    differences = wanted.differences(found) if wanted is not None else ()
    if differences:
        raise DomainBusyError(
            target=step.target,
            reason=f"the image is not frozen: it has another {', '.join(differences)} "
            "than after the snapshot",
            path=str(step.source),
        )


def read_qcow2_head(fd: int, path: str) -> tuple[Qcow2Header, bytes]:
    """
    Read the header of an open qcow2 image.

    Args:
        fd: The image.
        path: Its path, for errors.

    Returns:
        The header, and the first cluster (or the whole file, when that is shorter).

    Raises:
        ParseError: Not a qcow2 image, or one that cannot be trusted.

    Source:
        QEMU docs/interop/qcow2.txt.
    """
    try:
        with os_errors(path):
            head = os.pread(fd, _FIRST_BYTES, 0)
            head = os.pread(fd, needed_bytes(head), 0)
        return parse_qcow2_header(head), head
    except ParseError as error:
        raise ParseError(where=error.where, reason=error.reason, path=path) from None


def stored_depth(name: str | None, disk_fd: int) -> int:
    """
    Return how many images a stored image consists of, those under it included.

    Args:
        name: Its file name; None: there is none.
        disk_fd: The disk's directory.

    Returns:
        The number; where one of them cannot be read, of those above it.

    Source:
        docs/store-format.md: a backing name is the name of a file in the same directory.
    """
    depth = 0
    with suppress(OSError, FibackupError):
        while name is not None and "/" not in name and depth < MAX_STORED_DEPTH:
            name = _stored_head(name, disk_fd).backing_name
            depth += 1
    return depth


def _stored_head(name: str, disk_fd: int) -> Qcow2Header:
    """Read the header of a stored image."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=disk_fd)
    try:
        return read_qcow2_head(fd, name)[0]
    finally:
        os.close(fd)


def _copy_qcow2(
    step: CopyImage,
    fd: int,
    temp: int,
    before: FileIdentity,
    on_event: OnEvent,
    cancel: CancelToken,
) -> StoredImage:
    header, head = read_qcow2_head(fd, str(step.source))
    new_head = rewrite_backing(head, name=step.backing, format="qcow2" if step.backing else None)

    def progress(position: int) -> None:
        on_event(CopyProgress(step.target, step.name, position, before.size_bytes))

    sha256 = copy_and_hash(
        fd, temp, before.size_bytes, head=new_head, on_bytes=progress, cancel=cancel
    )
    return _stored(step, before.size_bytes, sha256, header.virtual_size_bytes, before)


@frozen
class _Rewrite:
    """An image that qemu-img writes anew; then it is hashed."""

    step: CopyImage
    source: int
    temp: int
    header: Qcow2Header | None  # None: raw
    before: FileIdentity
    parent_bytes: int  # 0: nothing is under it
    depth: int
    disk_path: PurePosixPath

    def run(self, on_event: OnEvent, cancel: CancelToken) -> StoredImage:
        """Write it, make it durable, and hash it."""
        step, total = self.step, self.before.size_bytes
        if self.header is None and step.backing is not None:
            raise HostError(
                target=step.target, reason="a raw image has no backing file", path=str(step.source)
            )

        def progress(percent: float) -> None:
            on_event(CopyProgress(step.target, step.name, int(total * percent / 100), total))

        written = self.disk_path / f".{step.name}{TEMP_SUFFIX}"
        if step.compress:
            write_compressed(
                step,
                self.disk_path,
                written,
                self.header.cluster_bytes if self.header is not None else None,
                self.parent_bytes,
                depth=self.depth,
                on_percent=progress,
                cancel=cancel,
            )
        else:
            convert(step.source, "raw", written, "qcow2", on_percent=progress, cancel=cancel)
        os.fdatasync(self.temp)
        drop(self.source)
        size = os.fstat(self.temp).st_size
        sha256 = hash_file(self.temp, size, on_bytes=lambda _: None, cancel=cancel)
        found, _ = read_qcow2_head(self.temp, str(written))
        if self.header is not None and found.virtual_size_bytes != self.header.virtual_size_bytes:
            raise HostError(target=step.target, reason="qemu-img wrote another size")
        return _stored(step, size, sha256, found.virtual_size_bytes, self.before)


def _stored(
    step: CopyImage, size: int, sha256: str, virtual_size: int, source: FileIdentity
) -> StoredImage:
    return StoredImage(
        name=step.name,
        format="qcow2",
        size_bytes=size,
        sha256=sha256,
        virtual_size_bytes=virtual_size,
        backing=step.backing,
        source=SourceImage(str(step.source), step.format, evolve(source)),
    )
