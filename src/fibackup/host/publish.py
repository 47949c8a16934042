"""
How a point comes to be, and how what a killed run left is told from it.

::

    .POINT.xml.tmp  vda/POINT.qcow2  vda/POINT.qcow2.receipt     stored, durable
    .POINT.json.tmp                                              says what is to be named
    POINT.xml                                                    named
    POINT.json                                                   the point exists
    points.sha256                                                its seal; receipts go

At each moment a file with a name is in a point, or has a receipt, or the unfinished manifest names
it; so `sweep` can remove the rest, and nothing else.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

from fibackup.errors import ManifestError, StoreError
from fibackup.host.files import (
    TEMP_SUFFIX,
    fsync_directory,
    open_directory,
    publish_file,
    temporary_file,
    write_all,
)
from fibackup.host.manifests import read_manifests
from fibackup.host.record import WRITTEN_BY_READERS, forget_entries, forget_unwritten
from fibackup.host.seals import MANIFEST_SUFFIX, seal_points
from fibackup.host.store_files import (
    RECEIPT,
    directories_in,
    exists,
    is_stored_image,
    is_temporary,
    list_directory,
    read_text,
)
from fibackup.model.point import DiskKind, Receipt, RestorePoint, is_point_id
from fibackup.parse.manifest import parse_manifest, parse_receipt, render_manifest
from fibackup.plan.continuity import refuse_unfounded
from fibackup.plan.layers import outlived

__all__ = ["publish_point", "sweep"]

_log = logging.getLogger("fibackup.store")


def publish_point(point: RestorePoint, fd: int, path: PurePosixPath) -> None:
    """
    Name a point's files, then write its manifest: from here on the point exists.

    Args:
        point: The point.
        fd: The domain's directory.
        path: Its path, for errors.

    Raises:
        DestinationExistsError: The manifest exists.
        StoreError: A file is not there, or not of its size, or its receipt says otherwise; or an
            image lies on one that no point names, or that is gone. No file of this point has got
            its name.
    """
    name = point.id + MANIFEST_SUFFIX
    if not exists(name, fd):
        _check_receipts(point, fd, path)
        _check_parents(point, fd)
    named: list[str] = []
    with temporary_file(name, fd) as temp:
        write_all(temp, render_manifest(point).encode())
        os.fdatasync(temp)
        try:
            for file in point.files:
                with suppress(FileNotFoundError):  # it has its name, or is missing
                    publish_file(file.name, fd)
                    named.append(file.name)
            _check_files(point, fd, path)
            _sync_disks(point, fd)
            images = (f"{disk.target}/{i.name}" for disk in point.disks for i in disk.images)
            forget_entries([*images, *(file.name for file in point.files)], fd)
            publish_file(name, fd)
        except BaseException:
            for each in named:
                os.unlink(each, dir_fd=fd)
            raise
    try:
        seal_points(point.id, fd)
    except OSError as error:  # the point is whole without it; the next one brings it along
        _log.warning("point %s has no seal yet: %s", point.id, error)
    for disk in point.disks:
        with open_directory(disk.target, fd) as disk_fd:
            for image in disk.images:
                with suppress(FileNotFoundError):
                    os.unlink(image.name + RECEIPT, dir_fd=disk_fd)


def _sync_disks(point: RestorePoint, fd: int) -> None:
    """Make the names of all images durable: an adopted one may be of a run that was killed."""
    for disk in point.disks:
        with open_directory(disk.target, fd) as disk_fd:
            fsync_directory(disk_fd)


def _check_files(point: RestorePoint, fd: int, path: PurePosixPath) -> None:
    files = [("", file.name, file.size_bytes) for file in point.files]
    files += [
        (disk.target, image.name, image.size_bytes) for disk in point.disks for image in disk.images
    ]
    for directory, name, size in files:
        with suppress(FileNotFoundError):
            found = os.stat(
                f"{directory}/{name}" if directory else name, dir_fd=fd, follow_symlinks=False
            )
            if stat.S_ISREG(found.st_mode) and found.st_size == size:
                continue
        raise StoreError(
            domain=point.domain,
            reason=f"point {point.id} names a file that is not there, or not of {size} bytes",
            path=str(path / directory / name),
        )


def _check_receipts(point: RestorePoint, fd: int, path: PurePosixPath) -> None:
    """Refuse a point whose images are not the ones that their receipts describe."""
    for disk in point.disks:
        with open_directory(disk.target, fd) as disk_fd:
            for image in disk.images:
                name = image.name + RECEIPT
                where = str(path / disk.target / name)
                text = read_text(disk_fd, name, where)
                if parse_receipt(text, path=where) != Receipt(disk.target, image):
                    raise StoreError(
                        domain=point.domain,
                        target=disk.target,
                        reason=f"point {point.id} and its receipt differ on {image.name}",
                        path=where,
                    )


def _check_parents(point: RestorePoint, fd: int) -> None:
    """Refuse a point that lies on what no point has, or what is gone."""
    if point.kind is DiskKind.INCREMENT:
        published = read_manifests(fd, list_directory(fd), store=point.store, uuid=point.uuid)
        refuse_unfounded(point, published.points, lambda file: exists(file, fd))


def sweep(fd: int, path: str, *, store: str, uuid: str, done: bool = False) -> None:
    """
    Remove what a killed run left, from a domain's directory that is locked: it is nobody's.

    These are temporary files; the files of a point whose manifest did not get its name; and
    receipts that mean nothing, because a point names the image, or there is none. An image with a
    receipt stays for the next runs, until two points have passed it over. A file that none of
    these tells of stays, as does one that a reader is writing, such as the record of a
    verification: these have a lock of their own.

    Args:
        fd: The domain's directory.
        path: Its path, for errors.
        store: UUID of the store.
        uuid: UUID of the domain.
        done: True: the holder of the lock has done its work. Before that, its plan may count on
            what is there; and one that fails leaves what it has finished to the next.
    """
    unwritten = {f".{name}{TEMP_SUFFIX}" for name in WRITTEN_BY_READERS}
    files = list_directory(fd)
    if not unwritten.isdisjoint(files):
        files = [name for name in files if name not in unwritten]
        forget_unwritten(fd)
    directories = directories_in(fd)
    receipts: set[tuple[str, str]] = set()
    for name in files:
        if is_temporary(name):
            _remove_named(fd, name, path)
            os.unlink(name, dir_fd=fd)
        elif name in directories:
            with open_directory(name, fd) as disk:
                there = list_directory(disk)
                for each in filter(is_temporary, there):
                    os.unlink(each, dir_fd=disk)
            receipts |= {(name, each) for each in there if each.endswith(RECEIPT)}
    if receipts:
        found = read_manifests(fd, files, store=store, uuid=uuid)
        _remove_receipts(fd, receipts, found.points)
        unknown = found.unreadable or found.lost or found.seals_fault
        if done and not unknown:
            _remove_outlived(fd, receipts, found.points)


def _remove_named(fd: int, temp: str, path: str) -> None:
    """Remove the files of a point, when *temp* is its whole manifest and has not got its name."""
    name = temp.removeprefix(".").removesuffix(TEMP_SUFFIX)
    point_id = name.removesuffix(MANIFEST_SUFFIX)
    if name == point_id or not is_point_id(point_id) or exists(name, fd):
        return
    try:
        point = parse_manifest(read_text(fd, temp, f"{path}/{temp}"))
    except (ManifestError, OSError):  # cut short: it had not named anything; or a planted link
        return
    if point.id == point_id:
        for file in point.files:
            with suppress(FileNotFoundError):
                os.unlink(file.name, dir_fd=fd)


def _remove_receipts(
    fd: int, receipts: set[tuple[str, str]], points: Iterable[RestorePoint]
) -> None:
    named = {
        (disk.target, image.name + RECEIPT)
        for point in points
        for disk in point.disks
        for image in disk.images
    }
    for target, receipt in receipts:
        with open_directory(target, fd) as disk:
            if (target, receipt) in named or not exists(receipt.removesuffix(RECEIPT), disk):
                os.unlink(receipt, dir_fd=disk)


def _remove_outlived(
    fd: int, receipts: set[tuple[str, str]], points: Sequence[RestorePoint]
) -> None:
    """
    Remove images that are passed over, each before its receipt.

    An image without a receipt might be of a point whose manifest was lost, and would end prunes;
    so the one is gone for good before the other goes.
    """
    for target, receipt in sorted(receipts):
        name = receipt.removesuffix(RECEIPT)
        if is_stored_image(f"{target}/{name}") and outlived(target, name, points):
            with open_directory(target, fd) as disk, suppress(FileNotFoundError):
                os.unlink(name, dir_fd=disk)
                fsync_directory(disk)
                os.unlink(receipt, dir_fd=disk)
                _log.info("%s/%s was in no point, and is removed", target, name)
