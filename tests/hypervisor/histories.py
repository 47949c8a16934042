"""Histories for tests of what is pure: points of images that lie on each other, and no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Final

import fibackup as fb

STORE: Final = "5702e000-0000-4000-8000-000000000001"
UUID: Final = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a"
START: Final = datetime(2026, 11, 1, tzinfo=UTC)
SIZE: Final = 1000
XML_SIZE: Final = 10


def point_id(number: int) -> str:
    """Return the id of the n-th point."""
    return fb.format_point_id(START + timedelta(days=number - 1))


def image_name(number: int, below: int = 0) -> str:
    """Return the name of an image of the n-th point; those under its top one are counted."""
    return f"{point_id(number)}{f'-{below}' if below else ''}.qcow2"


def digest(name: str) -> str:
    """Return the sha256 that a stored file of this name is said to have."""
    return sha256(name.encode()).hexdigest()


def image(name: str, backing: str | None = None, size_bytes: int = SIZE) -> fb.StoredImage:
    """Return a stored image."""
    source = fb.SourceImage("/images/web1.qcow2", "qcow2", fb.FileIdentity(1, size_bytes, 1))
    return fb.StoredImage(name, "qcow2", size_bytes, digest(name), 1 << 20, backing, source)


def disk(
    number: int,
    parent: int | None = None,
    *,
    target: str = "vda",
    images: int = 1,
    backing: str | None = None,
    content: str | None = None,
    size_bytes: int = SIZE,
) -> fb.PointDisk:
    """Return a disk of the n-th point, on the one of the parent; without images, as the parent."""
    under = backing if backing is not None else image_name(parent) if parent else None
    names = [image_name(number, below) for below in range(images)]
    stored = tuple(
        image(name, lies_on, size_bytes)
        for name, lies_on in zip(names, [*names[1:], under], strict=False)
    )
    return fb.PointDisk(
        target=target,
        kind=fb.DiskKind.INCREMENT if parent else fb.DiskKind.FULL,
        reason="a test",
        parent=point_id(parent) if parent else None,
        virtual_size_bytes=1 << 20,
        images=stored,
        content_sha256=content,
    )


def point_at(
    time: datetime, sequence: int, *disks: fb.PointDisk, parent: str | None = None
) -> fb.RestorePoint:
    """Return a point of any time."""
    name = fb.format_point_id(time)
    xml = f"{name}.xml"
    return fb.RestorePoint(
        id=name,
        sequence=sequence,
        parent=parent,
        store=STORE,
        time=time,
        domain="web1",
        uuid=UUID,
        consistency=fb.Consistency.CRASH,
        consistency_detail="",
        files=(fb.StoredFile(fb.FileRole.DOMAIN_XML, xml, XML_SIZE, digest(xml)),),
        disks=disks,
    )


def point(number: int, *disks: fb.PointDisk) -> fb.RestorePoint:
    """Return the n-th point."""
    parent = point_id(number - 1) if number > 1 else None
    return point_at(START + timedelta(days=number - 1), number, *disks, parent=parent)


def history(*points: fb.RestorePoint) -> fb.History:
    """Return the history of a domain."""
    return fb.History(store=STORE, path=PurePosixPath("/backup"), uuid=UUID, points=points)


def chain(count: int, *, size_bytes: int = SIZE) -> fb.History:
    """Return a full and increments, each on the one before."""
    return history(
        *(
            point(number, disk(number, number - 1 or None, size_bytes=size_bytes))
            for number in range(1, count + 1)
        )
    )


def found_files(
    of: fb.History, more: Mapping[str, int] | Sequence[str] = ()
) -> tuple[fb.FoundFile, ...]:
    """Return all files that points name, and others."""
    sizes: dict[str, int] = {"lock": 0, "lock.readers": 0, "points.sha256": 1}
    for each in of.points:
        sizes[f"{each.id}.json"] = 1
        sizes |= {file.name: file.size_bytes for file in each.files}
        for one in each.disks:
            sizes |= {f"{one.target}/{stored.name}": stored.size_bytes for stored in one.images}
    sizes |= more if isinstance(more, Mapping) else dict.fromkeys(more, 1)
    return tuple(fb.FoundFile(name, sizes[name]) for name in sorted(sizes))
