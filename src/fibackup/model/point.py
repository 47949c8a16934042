"""
Restore points, and what a store holds of one domain.

A point names the images it added, per disk; the rest of the disk is in the points before it::

    point        vda                                  vdb
    20261122T..  full       20261122T...qcow2         full      20261122T...qcow2
    20261123T..  increment  20261123T...qcow2         -         (was not chosen)
    20261124T..  increment  20261124T...qcow2         increment 20261124T...qcow2

`History.images` follows the backing names down through the points, as qemu would.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePosixPath
from textwrap import wrap
from typing import Any, TypeAlias

from attrs import field, frozen

from fibackup.errors import ManifestError, ModelError, NoSuchPointError, StoreError
from fibackup.model.chain import MAX_DEPTH, FileIdentity
from fibackup.model.checks import (
    UUID_PATTERN,
    base_name,
    matches,
    non_negative,
    not_empty,
    one_line,
    sha256_hex,
    target_name,
)
from fibackup.render.drawable import Drawable
from fibackup.units import format_bytes, printable

__all__ = [
    "Consistency",
    "DiskKind",
    "FileRole",
    "History",
    "PointDisk",
    "Receipt",
    "RestorePoint",
    "SourceImage",
    "StoredFile",
    "StoredImage",
    "Versions",
    "WrongDisk",
    "describe_copies",
    "format_point_id",
    "is_point_id",
    "parse_point_id",
]

POINT_PATTERN = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)
_POINT_FORMAT = "%Y%m%dT%H%M%SZ"
_WIDEST = 100

Annotation: TypeAlias = "str | int | bool | None"


def format_point_id(time: datetime) -> str:
    """
    Return the id of a point taken at *time*, such as ``"20261124T040407Z"``.

    Args:
        time: An aware time; it is converted to UTC, fractions of a second are dropped.

    Returns:
        16 characters, safe in file names; they sort by time.

    Raises:
        ModelError: *time* is naive. Nothing was touched.

    Source:
        ISO 8601 basic format.
    """
    if time.tzinfo is None:
        raise ModelError(reason="the time of a point needs a time zone")
    text = time.astimezone(UTC).strftime(_POINT_FORMAT)
    return text.zfill(16)  # %Y does not fill up the years before 1000


def is_point_id(text: str) -> bool:
    """
    Tell whether *text* has the form of a point's id.

    Args:
        text: Such as ``"20261124T040407Z"``.

    Source:
        ISO 8601 basic format.
    """
    return POINT_PATTERN.fullmatch(text) is not None


def parse_point_id(text: str) -> datetime:
    """
    Return the time in a point's id.

    Args:
        text: Such as ``"20261124T040407Z"``.

    Returns:
        An aware time in UTC.

    Raises:
        ModelError: *text* is not a point's id. Nothing was touched.

    Source:
        ISO 8601 basic format.
    """
    if POINT_PATTERN.fullmatch(text):
        try:
            return datetime.strptime(text, _POINT_FORMAT).replace(tzinfo=UTC)
        except ValueError:
            pass
    raise ModelError(reason=f"{text!r} is not the id of a restore point, such as 20261124T040407Z")


class Consistency(StrEnum):
    """
    What the guest knew of the moment.

    `APPLICATION`: file systems frozen by the guest agent. `CRASH`: as after a power cut.
    `MEMORY`: with the guest's memory. `OFFLINE`: the domain was off.
    """

    APPLICATION = "application"
    CRASH = "crash"
    MEMORY = "memory"
    OFFLINE = "offline"


class DiskKind(StrEnum):
    """Whether the images of a disk in a point stand alone, or need the parent point."""

    FULL = "full"
    INCREMENT = "increment"


@frozen
class SourceImage:
    """
    The live image that a stored image was copied from, as it was then.

    Attributes:
        path: Its path on the host.
        format: Its declared format.
        identity: Inode, size and mtime while it was copied.
    """

    path: str
    format: str = field(validator=one_line)
    identity: FileIdentity


class FileRole(StrEnum):
    """What a file of a point that is no disk image is for."""

    DOMAIN_XML = "domain-xml"
    MEMORY = "memory"
    NVRAM = "nvram"
    TPM_STATE = "tpm-state"


@frozen
class StoredFile:
    """
    A file of a point that is no disk image, such as the domain's XML.

    Attributes:
        role: What it is for.
        name: File name in the domain's directory of the store.
        size_bytes: Its size.
        sha256: Its sha256, 64 hexadecimal digits.
    """

    role: FileRole
    name: str = field(validator=base_name)
    size_bytes: int = field(validator=non_negative)
    sha256: str = field(validator=sha256_hex)

    def describes(self, data: bytes) -> bool:
        """
        Tell whether *data* is the content of the file.

        Args:
            data: The content, whole.

        Source:
            docs/store-format.md, ``files``.
        """
        return (len(data), hashlib.sha256(data).hexdigest()) == (self.size_bytes, self.sha256)


@frozen
class StoredImage:
    """
    One image in the store.

    Attributes:
        name: File name in the disk's directory of the store.
        format: Always ``"qcow2"`` in stores of format 1.
        size_bytes: Its size.
        sha256: Its sha256, 64 hexadecimal digits.
        virtual_size_bytes: What a guest would see.
        backing: File name of its backing file in the same directory, or None for a base.
        source: What it was copied from.
    """

    name: str = field(validator=base_name)
    format: str = field(validator=one_line)
    size_bytes: int = field(validator=non_negative)
    sha256: str = field(validator=sha256_hex)
    virtual_size_bytes: int = field(validator=non_negative)
    backing: str | None
    source: SourceImage

    def __attrs_post_init__(self) -> None:
        """Refuse an image that would lie on itself, and backing names that are paths."""
        if self.backing is not None and (
            "/" in self.backing or self.backing in {"", ".", "..", self.name}
        ):
            raise ModelError(reason=f"{self.backing!r} cannot be the backing file of {self.name!r}")


@frozen
class Receipt:
    """
    A stored image that is complete and durable, but that no published point names yet.

    Attributes:
        target: The disk.
        image: The image.
    """

    target: str = field(validator=target_name)
    image: StoredImage


@frozen
class PointDisk:
    """
    One disk of a point.

    Attributes:
        target: The disk, such as ``"vda"``.
        kind: Full, or an increment on *parent*.
        reason: Why it is a full, or on what proof it is an increment.
        parent: The point on whose image of this disk it lies, None for a full.
        virtual_size_bytes: What the guest saw.
        images: The images this point added, top first; none when the disk is as at *parent*.
        content_sha256: sha256 of the disk's flat content, None when it was not taken.
    """

    target: str = field(validator=target_name)
    kind: DiskKind
    reason: str
    parent: str | None
    virtual_size_bytes: int = field(validator=non_negative)
    images: tuple[StoredImage, ...]
    content_sha256: str | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse images that do not lie on each other, and a kind that contradicts them."""
        for image, under in zip(self.images, self.images[1:], strict=False):
            if image.backing != under.name:
                raise ModelError(
                    reason=f"{image.name} lies on {image.backing}, not on {under.name}",
                    target=self.target,
                )
        full = self.kind is DiskKind.FULL
        lies_on = self.images[-1].backing if self.images else self.parent
        if full != (self.parent is None) or full != (lies_on is None):
            raise ModelError(
                reason=f"{self.kind} on point {self.parent}, image on {lies_on}", target=self.target
            )
        if full and not self.images:
            raise ModelError(reason="a full without an image", target=self.target)

    @property
    def size_bytes(self) -> int:
        """Bytes of the images that this point added."""
        return sum(image.size_bytes for image in self.images)


@frozen
class Versions:
    """
    Who took a point.

    Attributes:
        fibackup: Version of this library.
        libvirt: Version of the libvirt daemon, such as ``"9.0.0"``.
        qemu: Version of the hypervisor.
    """

    fibackup: str = "unknown"
    libvirt: str = "unknown"
    qemu: str = "unknown"


@frozen
class RestorePoint(Drawable):
    """
    A moment of a domain that the store can bring back.

    Attributes:
        id: Such as ``"20261124T040407Z"``; a name, not the order.
        sequence: 1 for a domain's first point in a store, then counted up; this is the order.
        parent: The point before it in the store, or None.
        store: UUID of the store.
        time: When the snapshot was taken, aware, UTC.
        domain: The domain's name.
        uuid: The domain's UUID.
        consistency: What the guest knew of the moment.
        consistency_detail: In words, such as why a freeze was not had.
        files: Its other files, one for each role at most; always the domain's XML.
        disks: The disks, 1 or more.
        skipped: Disks that are not in the point: target and reason.
        versions: Who took it.
        facts: What else was true of the domain, such as ``("machine", "pc-q35-7.2")``; sorted.
        warnings: What the run warned of.
    """

    id: str = field(validator=matches(POINT_PATTERN, "is not the id of a restore point"))
    sequence: int = field(validator=non_negative)
    parent: str | None
    store: str = field(validator=matches(UUID_PATTERN, "is not a UUID"))
    time: datetime
    domain: str = field(validator=not_empty)
    uuid: str = field(validator=matches(UUID_PATTERN, "is not a UUID"))
    consistency: Consistency
    consistency_detail: str
    files: tuple[StoredFile, ...]
    disks: tuple[PointDisk, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    versions: Versions = field(factory=Versions)
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        """Refuse a point without disks, with a disk twice, or without a time zone."""
        targets = [disk.target for disk in self.disks]
        if not targets or len(set(targets)) != len(targets):
            raise ModelError(reason=f"a point of the disks {targets}", domain=self.domain)
        if self.time.tzinfo is None:
            raise ModelError(reason="the time of a point needs a time zone", domain=self.domain)
        roles = [file.role for file in self.files]
        if FileRole.DOMAIN_XML not in roles or len(set(roles)) != len(roles):
            raise ModelError(reason=f"a point with the files {roles}", domain=self.domain)

    @property
    def kind(self) -> DiskKind:
        """Full when every disk is a full, else increment."""
        full = all(disk.kind is DiskKind.FULL for disk in self.disks)
        return DiskKind.FULL if full else DiskKind.INCREMENT

    @property
    def size_bytes(self) -> int:
        """Bytes of the images that this point added, all disks."""
        return sum(disk.size_bytes for disk in self.disks)

    def disk(self, target: str) -> PointDisk:
        """
        Return the disk with this target.

        Args:
            target: Such as ``"vda"``.

        Returns:
            The disk.

        Raises:
            NoSuchPointError: The point does not have it. Nothing was touched.

        Source:
            docs/store-format.md, ``disks``.
        """
        for disk in self.disks:
            if disk.target == target:
                return disk
        known = ", ".join(disk.target for disk in self.disks)
        raise NoSuchPointError(
            reason=f"point {self.id} does not have the disk; it has: {known}",
            domain=self.domain,
            target=target,
        )

    def __str__(self) -> str:
        """Return id, kind and consistency, then a line for each disk."""
        size = format_bytes(self.size_bytes)
        lines = [f"{self.id} #{self.sequence} {self.kind} {self.consistency} {size}"]
        for disk in self.disks:
            under = f" on {disk.parent}" if disk.parent else ""
            size, reason = format_bytes(disk.size_bytes), printable(disk.reason)
            lines += _folded(f"  {disk.target} {disk.kind}{under} {size}: {reason}")
        for target, reason in self.skipped:
            lines += _folded(f"  {target} not in the point: {printable(reason)}")
        return "\n".join(lines)


def _folded(line: str) -> list[str]:
    """Break a line between words where it is wider than a page."""
    indent = " " * 6
    return wrap(
        line,
        _WIDEST,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def describe_copies(directories: Sequence[str]) -> str:
    """
    Say that directories have the UUID of one domain, which of them is read, and what helps.

    Args:
        directories: Their names, the one that is read first.

    Returns:
        A sentence without a final stop.

    Source:
        docs/store-format.md, "Directories".
    """
    return (
        "directories of the store have the same UUID, and nothing is written or restored while "
        f"one may be a copy: {', '.join(directories)}; only {directories[0]} is read: "
        "move the copy out of the store"
    )


@frozen
class WrongDisk:
    """
    A disk of a point that does not show what the guest had, though its files may be right.

    Attributes:
        point: Id of the point.
        target: The disk.
        file: The image through which that was found, such as ``"vda/20261124T040407Z.qcow2"``.
        found: When it was last found, aware.
        reason: What was wrong, in words.
        otherwise: True: it was read, and was another than it had been. False: it could not be read,
            or its structure was damaged; a restore may show that it is right by now.
    """

    point: str
    target: str
    file: str
    found: datetime
    reason: str
    otherwise: bool = True

    def __str__(self) -> str:
        """Return all of it in one line."""
        return f"disk {self.target} of {self.words}"

    @property
    def words(self) -> str:
        """All of it but the disk."""
        return (
            f"point {self.point}: {self.file} was found wrong on {self.found:%Y-%m-%d} "
            f"by a verification: {self.reason}"
        )


def _index() -> Any:  # noqa: ANN401 - as attrs types a field
    """Return a field that follows from the others: it does not count when two are compared."""
    return field(init=False, eq=False, repr=False, factory=dict[str, Any])


@frozen
class History(Drawable):
    """
    What one store holds of one domain.

    Attributes:
        store: UUID of the store.
        path: Where the store is.
        uuid: UUID of the domain.
        points: Published points by sequence, oldest first.
        receipts: Complete images that no point names yet.
        taken_ids: Ids that no new point may have, because files carry them.
        damaged: ``"vda/20261124T040407Z.qcow2"``: images that a point names, but whose file is
            missing or has another size.
        wrong_files: ``"vda/20261124T040407Z.qcow2"`` or ``"20261124T040407Z.xml"``: files that
            were wrong when a verification last read them.
        wrong_images: ``"vda/20261124T040407Z.qcow2"``: images through which a disk was wrong when
            a verification last read it; *wrong_disks* has what they spoil.
        wrong_disks: The disks of points that were found wrong, which only a verification in depth
            can tell.
        unclaimed: ``"vda/20261124T040407Z.qcow2"``: files that no point names, such as a killed run
            leaves.
        orphans: Those of them that are images without a receipt, and not on their way out: the
            manifest of their point may be gone.
        directory: Name of the domain's directory in the store, empty when there is none.
        copies: Names of the store's other directories with the domain's UUID. Any of them, or
            *directory*, may be a copy: nobody can tell which points are the domain's own.
        unreadable: ``(file, reason)`` of manifests that are damaged: their points are not in
            *points*, and nothing is known of them.
        lost: Ids of points that were published, and whose manifests are gone.
        damaged_records: ``(file, reason)`` of the small files that tell of all points, such as
            ``points.sha256``: while that is damaged it cannot be told whether a point is *lost*.
        protected: Ids of points that no retention drops: each has a file ``<id>.protected``.
        going: Ids of points that are listed still, and that a prune is taking away, or was when it
            was interrupted: the next writer takes them.
        compress: True: new points are compressed unless the caller says otherwise, because the
            store has a file ``compress``.
    """

    store: str = field(validator=matches(UUID_PATTERN, "is not a UUID"))
    path: PurePosixPath
    uuid: str = field(validator=matches(UUID_PATTERN, "is not a UUID"))
    points: tuple[RestorePoint, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    taken_ids: frozenset[str] = frozenset()
    damaged: frozenset[str] = frozenset()
    unclaimed: frozenset[str] = frozenset()
    unreadable: tuple[tuple[str, str], ...] = ()
    directory: str = ""
    lost: tuple[str, ...] = ()
    protected: frozenset[str] = frozenset()
    compress: bool = False
    wrong_files: frozenset[str] = frozenset()
    wrong_images: frozenset[str] = frozenset()
    wrong_disks: tuple[WrongDisk, ...] = ()
    orphans: frozenset[str] = frozenset()
    damaged_records: tuple[tuple[str, str], ...] = ()
    going: frozenset[str] = frozenset()
    copies: tuple[str, ...] = ()
    _by_id: Mapping[str, RestorePoint] = _index()
    _stored: Mapping[str, Mapping[str, StoredImage]] = _index()

    def __attrs_post_init__(self) -> None:
        """Refuse points out of order, of another domain or with one id twice; index the others."""
        sequences = [point.sequence for point in self.points]
        ids = [point.id for point in self.points]
        if sequences != sorted(set(sequences)) or len(set(ids)) != len(ids):
            raise ManifestError(
                reason=f"two points share a place or an id: {ids}", path=str(self.path)
            )
        if any(point.uuid != self.uuid or point.store != self.store for point in self.points):
            raise ManifestError(reason="a point of another domain or store", path=str(self.path))
        stored: dict[str, dict[str, StoredImage]] = {}
        for point in self.points:
            for disk in point.disks:
                images = stored.setdefault(disk.target, {})
                images.update((image.name, image) for image in disk.images)
        object.__setattr__(self, "_by_id", dict(zip(ids, self.points, strict=True)))
        object.__setattr__(self, "_stored", stored)

    @property
    def next_sequence(self) -> int:
        """The next point's place in the order; those whose manifests may come back keep theirs."""
        last = self.points[-1].sequence if self.points else 0
        unknown = {*(file[:16] for file, _ in self.unreadable), *self.lost}
        unknown.update(file.rpartition("/")[2][:16] for file in self.orphans)
        return last + 1 + len(unknown)

    @property
    def latest(self) -> RestorePoint | None:
        """The newest point, or None."""
        return self.points[-1] if self.points else None

    @property
    def named_files(self) -> frozenset[tuple[str, str]]:
        """Every file that a point names, ``"vda/20261124T040407Z.qcow2"``, and its sha256."""
        return frozenset(
            named
            for point in self.points
            for named in (
                *((file.name, file.sha256) for file in point.files),
                *(
                    (f"{disk.target}/{image.name}", image.sha256)
                    for disk in point.disks
                    for image in disk.images
                ),
            )
        )

    @property
    def found_wrong(self) -> frozenset[str]:
        """What a verification found wrong when it last read it, or a disk through it."""
        return self.wrong_files | self.wrong_images

    @property
    def distrusted(self) -> frozenset[str]:
        """What is damaged or was found wrong: nothing new is made of it, or laid on it."""
        return self.damaged | self.found_wrong

    @property
    def doubt(self) -> str:
        """Why these points may be a copy's, and what helps; empty where nothing speaks for it."""
        return describe_copies((self.directory, *self.copies)) if self.copies else ""

    def refuse_copies(self) -> None:
        """
        Refuse what may be a copy, perhaps an older one: nothing is planned by its points.

        Raises:
            StoreError: The store has several directories with the domain's UUID.

        Source:
            docs/store-format.md, "Directories".
        """
        if self.copies:
            raise StoreError(reason=self.doubt, path=str(self.path))

    def point(self, point_id: str) -> RestorePoint:
        """
        Return the point with this id.

        Args:
            point_id: Such as ``"20261124T040407Z"``, or ``"latest"``.

        Returns:
            The point.

        Raises:
            NoSuchPointError: The store has none of that id. Nothing was touched.
            ManifestError: The point's manifest is damaged, or gone; of the latest, that of a newer
                one than all that can be read.

        Source:
            docs/store-format.md, ``point``.
        """
        if point_id == "latest" and self.points:
            self._refuse_unread_latest()
            return self.points[-1]
        if point_id in self._by_id:
            return self._by_id[point_id]
        for file, reason in self.unreadable:
            if file.startswith(point_id):
                raise ManifestError(reason=reason, path=str(self.path / self.directory / file))
        if point_id in self.lost:
            raise ManifestError(
                reason=f"the manifest of point {point_id} is gone", path=str(self.path)
            )
        known = ", ".join(point.id for point in self.points[-3:]) or "none"
        raise NoSuchPointError(
            reason=f"no point {point_id} (the newest are: {known})", path=str(self.path)
        )

    def _refuse_unread_latest(self) -> None:
        """Nobody who asks for the latest point is given an older one without a word."""
        last = self.points[-1].id
        reasons = {file[:16]: reason for file, reason in self.unreadable}
        reasons |= dict.fromkeys(self.lost, "it is gone")
        newest = max(reasons, default=last)
        if newest > last:
            raise ManifestError(
                reason=f"the latest point is {newest}, and its manifest cannot be read "
                f"({reasons[newest]}): put it back from another copy of the store, or name the "
                f"point before it, {last}",
                path=str(self.path / self.directory / f"{newest}.json"),
            )

    def find(self, point_id: str) -> RestorePoint | None:
        """
        Return the point with this id, or None.

        Args:
            point_id: Such as ``"20261124T040407Z"``.

        Source:
            docs/store-format.md, ``point``.
        """
        return self._by_id.get(point_id)

    def top(self, point_id: str, target: str) -> StoredImage:
        """
        Return the stored image that shows a disk at a point.

        Args:
            point_id: The point.
            target: The disk.

        Returns:
            The point's own top image, or the one of the nearest parent that has any.

        Raises:
            NoSuchPointError: No such point, or the point has no such disk.
            ManifestError: A parent is missing.

        Source:
            docs/store-format.md, ``images``.
        """
        disk = self.point(point_id).disk(target)
        for _ in range(len(self.points)):
            if disk.images:
                return disk.images[0]
            parent = self.find(disk.parent or "")
            if parent is None:
                break
            disk = parent.disk(target)
        raise ManifestError(
            reason=f"point {point_id} lies on point {disk.parent}, which is not there",
            target=target,
            path=str(self.path),
        )

    def images(self, point_id: str, target: str) -> tuple[StoredImage, ...]:
        """
        Return every stored image that makes up a disk at a point.

        Args:
            point_id: The point.
            target: The disk.

        Returns:
            Images from the top down to a base; each lies on the next.

        Raises:
            NoSuchPointError: No such point, or the point has no such disk.
            ManifestError: A backing name leads nowhere, or round in a circle.

        Source:
            docs/store-format.md, ``images``.
        """
        chain: list[StoredImage] = [self.top(point_id, target)]
        stored = self._stored[target]
        while (backing := chain[-1].backing) is not None:
            if backing not in stored or len(chain) > MAX_DEPTH * max(1, len(self.points)):
                raise ManifestError(
                    reason=f"{chain[-1].name} lies on {backing}, which no point names",
                    target=target,
                    path=str(self.path),
                )
            chain.append(stored[backing])
        return tuple(chain)

    def damage(self, point_id: str, target: str) -> str | None:
        """
        Return the first image under a disk of a point that is missing or cut, or None.

        Args:
            point_id: The point.
            target: The disk.

        Raises:
            NoSuchPointError: No such point, or the point has no such disk.
            ManifestError: The images do not reach a base.

        Source:
            docs/store-format.md, ``images``.
        """
        names = (f"{target}/{image.name}" for image in self.images(point_id, target))
        return next((name for name in names if name in self.damaged), None)

    def __str__(self) -> str:
        """Return every point, oldest first."""
        return "\n".join(str(point) for point in self.points) or "no points"
