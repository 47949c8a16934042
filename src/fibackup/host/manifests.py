"""
Read the manifests of a domain; one that is damaged spoils its own point only.

::

    bytes -- seal right? -- JSON -- checksum -- fields -- name, domain, store -- place -- point
                 |           |         |          |               |               |
                 `-----------+---------+----------+---------------+---------------'
                                       unreadable: (file, reason)

Of a manifest whose seal is right the checksum is not computed again: its bytes are proven.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from attrs import frozen

from fibackup.errors import ManifestError
from fibackup.host.files import read_small
from fibackup.host.seals import MANIFEST_SUFFIX, read_seals
from fibackup.host.store_files import is_manifest
from fibackup.model.point import RestorePoint
from fibackup.parse.manifest import parse_manifest

__all__ = ["Manifests", "manifests_naming", "read_manifests"]

_OF_THE_FILE = {errno.EIO, errno.ELOOP, errno.ENXIO, errno.ENOENT, errno.EISDIR}
"""Errors that say something of one file; others end the reading."""


@frozen
class Manifests:
    """
    What the manifests of a domain say.

    Attributes:
        points: By sequence.
        unreadable: ``(file, reason)``.
        lost: Points with a seal and without a manifest.
        digests: sha256 of each manifest that was read, by id of its point.
        unsealed: Ids of those that have no seal.
        seals_fault: What is wrong with the seals, or None.
        suspect: True when it may look otherwise because a writer was at work.
    """

    points: tuple[RestorePoint, ...]
    unreadable: tuple[tuple[str, str], ...]
    lost: tuple[str, ...]
    digests: Mapping[str, str]
    unsealed: frozenset[str]
    seals_fault: str | None
    suspect: bool


def read_manifests(dir_fd: int, files: Iterable[str], *, store: str, uuid: str) -> Manifests:
    """
    Read every manifest among the files of a domain's directory.

    Args:
        dir_fd: The directory.
        files: The names in it, listed before.
        store: UUID of the store.
        uuid: UUID of the domain.

    Returns:
        The points, and what is wrong.

    Raises:
        FormatTooNewError: A newer fibackup wrote one.
        OSError: The directory cannot be read.

    Source:
        docs/store-format.md, "Manifest" and ``points.sha256``.
    """
    seals, fault = _seals(dir_fd)
    digests: dict[str, str] = {}
    points: list[RestorePoint] = []
    unreadable: dict[str, str] = {}
    ids = sorted(name.removesuffix(MANIFEST_SUFFIX) for name in files if is_manifest(name))
    for each in ids:
        try:
            data = _read(each, dir_fd)
            digests[each] = sha256(data).hexdigest()
            points.append(_point(each, data, digests[each], seals, store, uuid))
        except ManifestError as error:
            unreadable[each + MANIFEST_SUFFIX] = error.reason
    points.sort(key=lambda point: (point.sequence, point.id not in seals, point.id))
    for point, first in _doubles(points):
        reason = f"it claims to be number {point.sequence}, which is point {first.id}"
        unreadable[point.id + MANIFEST_SUFFIX] = reason
    lost = sorted(seals.keys() - set(ids))
    return Manifests(
        points=tuple(point for point in points if point.id + MANIFEST_SUFFIX not in unreadable),
        unreadable=tuple(sorted(unreadable.items())),
        lost=tuple(lost),
        digests=digests,
        unsealed=frozenset(digests.keys() - seals.keys()),
        seals_fault=fault,
        suspect=bool(unreadable or lost),
    )


def manifests_naming(dir_fd: int, files: Iterable[str], names: Iterable[str]) -> list[str]:
    """
    Return the manifests in which any of some names stands, without understanding them.

    Args:
        dir_fd: The domain's directory.
        files: The names in it.
        names: Such as ``"20261124T040407Z.qcow2"``; ASCII, so they stand there as they are.

    Raises:
        OSError: One cannot be read.
    """
    wanted = [name.encode() for name in names]
    found: list[str] = []
    for file in sorted(files):
        if is_manifest(file):
            data = read_small(file, dir_fd)
            if any(name in data for name in wanted):
                found.append(file)
    return found


def _seals(dir_fd: int) -> tuple[Mapping[str, str], str | None]:
    try:
        return read_seals(dir_fd), None
    except ManifestError as error:
        return {}, error.reason


def _read(point: str, dir_fd: int) -> bytes:
    try:
        return read_small(point + MANIFEST_SUFFIX, dir_fd)
    except OSError as error:
        if error.errno not in _OF_THE_FILE:
            raise
        raise ManifestError(reason=f"it cannot be read: {error.strerror}") from error


def _point(
    point: str, data: bytes, digest: str, seals: Mapping[str, str], store: str, uuid: str
) -> RestorePoint:
    sealed = seals.get(point)
    found = parse_manifest(data, path=point + MANIFEST_SUFFIX, proven=sealed == digest)
    if sealed not in {None, digest}:
        raise ManifestError(reason="it is not the manifest that was published")
    if found.id != point:
        raise ManifestError(reason=f"the manifest of point {found.id} is in a file of another name")
    if found.store == store and found.uuid != uuid and sealed == digest:
        raise ManifestError(
            reason=f"it is of domain {found.uuid}, and so are the seals beside it: the name of the "
            "directory should end with that UUID, rename it"
        )
    if (found.store, found.uuid) != (store, uuid):
        raise ManifestError(
            reason=f"it is of domain {found.uuid} in store {found.store}, not of this one"
        )
    return found


def _doubles(points: list[RestorePoint]) -> Iterator[tuple[RestorePoint, RestorePoint]]:
    """Give each point whose place in the order is taken, and who has it: one with a seal first."""
    first = None
    for point in points:
        if first is not None and point.sequence == first.sequence:
            yield point, first
        else:
            first = point
