"""
Read what a store has of a domain, without a lock: anew where a writer may have been in between.

::

    manifests, seals      points, lost, unreadable
    merge.json            the points as they are when the merge is finished
    prune.json            which points and files are on their way out
    linked.json           readable?
    vda/*.qcow2           named by a point, and of its size?  else damaged; by none: unclaimed
    vda/*.receipt         images that are complete, and in no point yet
    verified.json         what a verification found wrong
    <id>.protected        what a prune keeps
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import PurePosixPath
from typing import TypeVar

from attrs import evolve

from fibackup.errors import ManifestError, StoreError
from fibackup.host.files import open_directory
from fibackup.host.journals import read_linked, read_merge, read_removal
from fibackup.host.manifests import Manifests, read_manifests
from fibackup.host.record import record_of_faults
from fibackup.host.store_files import (
    PROTECTED_SUFFIX,
    RECEIPT,
    exists,
    is_stored_image,
    list_directory,
    list_entries,
    read_text,
)
from fibackup.model.journal import Removal, as_merged
from fibackup.model.point import History, Receipt, RestorePoint, is_point_id
from fibackup.model.records import (
    LINKED_FILE,
    MERGE_FILE,
    RECORD_FILE,
    REMOVAL_FILE,
    SEALS_FILE,
)
from fibackup.parse.manifest import parse_receipt
from fibackup.plan.records import GONE
from fibackup.plan.removal import points_going
from fibackup.plan.verified import with_found_wrong

__all__ = ["read_history"]

_READS = 3
_T = TypeVar("_T")


def read_history(
    fd: int, path: PurePosixPath, *, store: str, uuid: str, compress: bool
) -> tuple[History, Manifests]:
    """
    Read the history; anew when images may have come or gone in between.

    Args:
        fd: The domain's directory.
        path: Its path.
        store: UUID of the store.
        uuid: UUID of the domain.
        compress: Whether the store says that its points are compressed.

    Returns:
        The history, and the manifests that it was made of.
    """
    reads = 0
    while True:
        reads += 1
        manifests, files = _read_points(fd, store=store, uuid=uuid)
        history, removal = _history(fd, path, manifests, files, store, uuid, compress=compress)
        if not (history.damaged or history.orphans) or reads == _READS:
            history = _with_record(history, fd)
            going = points_going(removal, history)
            return evolve(history, going=going) if going else history, manifests


def _with_record(history: History, fd: int) -> History:
    record, fault = record_of_faults(fd)
    told = with_found_wrong(history, record)
    if fault is None:
        return told
    return evolve(told, damaged_records=(*told.damaged_records, (RECORD_FILE, fault)))


def _read_points(fd: int, *, store: str, uuid: str) -> tuple[Manifests, Mapping[str, bool]]:
    """
    Read the manifests; anew when a writer may have been in between.

    Args:
        fd: The domain's directory.
        store: UUID of the store.
        uuid: UUID of the domain.

    Returns:
        The manifests; and the names beside them, of each whether it is a directory.
    """
    reads = 0
    while True:
        reads += 1
        files = list_entries(fd)
        found = read_manifests(fd, files, store=store, uuid=uuid)
        if not found.suspect or reads == _READS:
            return found, files


def _history(
    fd: int,
    path: PurePosixPath,
    manifests: Manifests,
    files: Mapping[str, bool],
    store: str,
    uuid: str,
    *,
    compress: bool,
) -> tuple[History, Removal | None]:
    inside = sorted(each for each, is_directory in files.items() if is_directory)
    sizes = {each: _disk_files(fd, each) for each in inside}
    points = manifests.points
    leaving: set[str] = set()
    faults: dict[str, str | None] = {}
    merge, faults[MERGE_FILE] = _read(read_merge, fd)
    if merge is not None:
        points = as_merged(points, merge, sizes.get(merge.target, {}))
        leaving.update(f"{merge.target}/{name}" for name in merge.gone)
    removal, faults[REMOVAL_FILE] = _read(read_removal, fd)
    if removal is not None:
        leaving.update(removal.files)
    protected = frozenset(
        each.removesuffix(PROTECTED_SUFFIX) for each in files if each.endswith(PROTECTED_SUFFIX)
    )
    _, faults[LINKED_FILE] = _read(read_linked, fd, (OSError, StoreError))
    there = {f"{target}/{file}" for target, found in sizes.items() for file in found}
    named = {
        f"{disk.target}/{image.name}"
        for point in points
        for disk in point.disks
        for image in disk.images
    }
    orphans = frozenset(
        file
        for file in there - named - leaving
        if is_stored_image(file) and file + RECEIPT not in there
    )
    seals_fault = manifests.seals_fault
    if _must_be_sealed(manifests, orphans) and not exists(SEALS_FILE, fd):
        seals_fault = GONE
    beginnings = {each[:16] for each in chain(files, *sizes.values())}
    history = History(
        store=store,
        path=path.parent,
        uuid=uuid,
        directory=path.name,
        points=points,
        receipts=tuple(
            receipt
            for target, found in sizes.items()
            for receipt in _receipts(fd, path, target, found)
            if f"{target}/{receipt.image.name}" not in named
        ),
        taken_ids=frozenset(filter(is_point_id, beginnings)),
        damaged=frozenset(_damaged(points, sizes)),
        unclaimed=frozenset(there - named),
        orphans=orphans,
        damaged_records=tuple(
            (file, reason)
            for file, reason in {SEALS_FILE: seals_fault, **faults}.items()
            if reason is not None
        ),
        unreadable=manifests.unreadable,
        lost=manifests.lost,
        protected=protected,
        compress=compress,
    )
    return history, removal


def _must_be_sealed(manifests: Manifests, orphans: frozenset[str]) -> bool:
    """
    Tell whether there must have been seals.

    Only the first point of all may have none: its run was killed between manifest and seal, and
    then each image is named, or has a receipt.
    """
    count = len(manifests.points) + len(manifests.unreadable)
    later = any(point.sequence > 1 for point in manifests.points)
    return count > 1 or later or bool(count and orphans)


def _read(
    read: Callable[[int], _T], fd: int, damage: tuple[type[Exception], ...] = (ManifestError,)
) -> tuple[_T | None, str | None]:
    """
    Return what a file says, and what is wrong with it.

    Args:
        read: Reads it.
        fd: The domain's directory.
        damage: Errors after which the points can be told all the same.
    """
    try:
        return read(fd), None
    except damage as error:
        return None, error.reason if isinstance(error, StoreError) else str(error)


def _disk_files(fd: int, target: str) -> dict[str, int]:
    """Return names and sizes; what a writer has just taken away is passed over."""
    sizes: dict[str, int] = {}
    with suppress(FileNotFoundError), open_directory(target, fd) as disk:
        for name in list_directory(disk):
            with suppress(FileNotFoundError):
                sizes[name] = os.stat(name, dir_fd=disk, follow_symlinks=False).st_size
    return sizes


def _receipts(
    fd: int, path: PurePosixPath, target: str, sizes: Mapping[str, int]
) -> Iterator[Receipt]:
    names = sorted(name for name in sizes if name.endswith(RECEIPT))
    if not names:
        return
    with open_directory(target, fd) as disk:
        for name in names:
            where = str(path / target / name)
            try:
                receipt = parse_receipt(read_text(disk, name, where), path=where)
            except (FileNotFoundError, ManifestError):  # published meanwhile, or damaged
                continue
            size = sizes.get(receipt.image.name)
            if receipt.target == target and size == receipt.image.size_bytes:
                yield receipt


def _damaged(
    points: Iterable[RestorePoint], sizes: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    for point in points:
        for disk in point.disks:
            for image in disk.images:
                if sizes.get(disk.target, {}).get(image.name) != image.size_bytes:
                    yield f"{disk.target}/{image.name}"
