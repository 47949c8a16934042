"""
Values of the model, as hypothesis draws them: all that the validators let through.

Names and paths are nasty on purpose: spaces, commas, quotes, line breaks where they are allowed,
other scripts, and bytes that are not UTF-8.
"""

from __future__ import annotations

import os
import string
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from fibackup.model.chain import BackingChain, FileIdentity, Image
from fibackup.model.domain import Disk, Domain, DomainState
from fibackup.model.ledger import FrozenImage, KnownStore, Ledger, Overlay, Run, RunPhase
from fibackup.model.point import (
    Consistency,
    DiskKind,
    FileRole,
    PointDisk,
    Receipt,
    RestorePoint,
    SourceImage,
    StoredFile,
    StoredImage,
    Versions,
    format_point_id,
)
from fibackup.model.verification import CheckedContent, CheckedFile, VerificationRecord

__all__ = [
    "chains",
    "digests",
    "disks",
    "domains",
    "file_names",
    "formats",
    "frozen_images",
    "identities",
    "images",
    "ledgers",
    "lines",
    "overlays",
    "paths",
    "point_disks",
    "point_ids",
    "receipts",
    "records",
    "restore_points",
    "sizes",
    "source_images",
    "stored_files",
    "stored_images",
    "targets",
    "texts",
    "times",
    "uuids",
]

sizes = st.integers(0, 2**63 - 1)
formats = st.sampled_from(["qcow2", "raw"])
targets = st.from_regex(r"(vd|sd|hd)[a-z]{1,2}", fullmatch=True)
uuids = st.builds(lambda bits: str(UUID(int=bits)), st.integers(0, 2**128 - 1))
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
times = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - hypothesis wants naive limits
    max_value=datetime(9999, 1, 1),  # noqa: DTZ001 - same
    timezones=st.builds(lambda hours: timezone(timedelta(hours=hours)), st.integers(-12, 14)),
)
point_ids = times.map(format_point_id)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Any text, line breaks and control characters too."""

lines = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
"""Text without control characters, such as a domain's name."""

_NASTY = st.sampled_from(
    ["disk.qcow2", "a b,c=d;e'f\"g", "line\nbreak", "-rf", "$(id)", "%41&amp;", "\u65e5\u672c", "*"]
)
_PLAIN = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=8)
_BYTES = st.binary(min_size=1, max_size=8).map(
    lambda data: os.fsdecode(data.replace(b"/", b"_").replace(b"\0", b"_"))
)

_parts = (_NASTY | _PLAIN | _BYTES).filter(lambda part: part not in {".", ".."})
paths = st.lists(_parts, min_size=1, max_size=4).map(lambda parts: PurePosixPath("/", *parts))
"""Absolute paths, as `os.fsdecode` gives them."""

file_names = _parts.filter(lambda part: not part.startswith("-"))

identities = st.builds(FileIdentity, sizes, sizes, st.integers(-(2**63), 2**63 - 1))
images = st.builds(
    Image,
    paths,
    formats,
    virtual_size_bytes=st.none() | sizes,
    allocated_bytes=st.none() | sizes,
    identity=st.none() | identities,
    header_backing=st.none() | st.just("") | paths.map(str),
    problem=st.none() | texts,
)


@st.composite
def chains(draw: DrawFn, target: SearchStrategy[str] = targets) -> BackingChain:
    """Draw a chain of one to five images."""
    found = draw(st.lists(images, min_size=1, max_size=5, unique_by=lambda image: image.path))
    return BackingChain(draw(target), tuple(found))


@st.composite
def disks(draw: DrawFn, target: SearchStrategy[str] = targets) -> Disk:
    """Draw a disk, supported or not."""
    name = draw(target)
    return Disk(
        target=name,
        device=draw(st.sampled_from(["disk", "cdrom", "floppy", "lun"])),
        source_type=draw(st.sampled_from(["file", "block", "network", "volume"])),
        bus=draw(st.none() | st.sampled_from(["virtio", "sata"])),
        chain=draw(st.none() | chains(st.just(name))),
        readonly=draw(st.booleans()),
        shareable=draw(st.booleans()),
        transient=draw(st.booleans()),
        snapshot=draw(st.none() | st.sampled_from(["no", "internal", "external"])),
        encrypted=draw(st.booleans()),
        block_job=draw(st.none() | st.sampled_from(["copy", "active-commit"])),
        config_source=draw(st.none() | paths.map(str)),
    )


overlays = st.builds(
    Overlay,
    targets,
    paths,
    paths,
    point_ids,
    uuids,
    sha256=st.none() | digests,
    stale=st.booleans(),
)
frozen_images = st.builds(FrozenImage, paths, formats, st.none() | paths, st.none() | identities)
ledgers = st.builds(
    Ledger,
    overlays=st.lists(overlays, max_size=3).map(tuple),
    images=st.lists(frozen_images, max_size=3).map(tuple),
    stores=st.lists(st.builds(KnownStore, uuids, paths.map(str), point_ids), max_size=2).map(tuple),
    run=st.none()
    | st.builds(Run, point_ids, uuids, st.sampled_from(RunPhase), st.booleans(), st.booleans()),
    memory=st.none() | paths,
)


@st.composite
def domains(draw: DrawFn) -> Domain:
    """Draw a domain with up to three disks."""
    names = draw(st.lists(targets, max_size=3, unique=True))
    return Domain(
        name=draw(lines),
        uuid=draw(uuids),
        state=draw(st.sampled_from(DomainState)),
        disks=tuple(draw(disks(st.just(name))) for name in names),
        persistent=draw(st.booleans()),
        ledger=draw(ledgers),
        managed_save=draw(st.booleans()),
        job=draw(st.none() | st.just("backup")),
        agent_connected=draw(st.booleans()),
        memory_blockers=tuple(draw(st.lists(lines, max_size=2))),
        memory_bytes=draw(sizes),
    )


source_images = st.builds(SourceImage, paths.map(str), formats, identities)
stored_files = st.builds(StoredFile, st.just(FileRole.DOMAIN_XML), file_names, sizes, digests)


@st.composite
def stored_images(
    draw: DrawFn, name: SearchStrategy[str] = file_names, *, base: bool | None = None
) -> StoredImage:
    """Draw a stored image; `base` chooses whether it stands alone."""
    own = draw(name)
    alone = draw(st.booleans()) if base is None else base
    backing = None if alone else draw(file_names.filter(lambda other: other != own))
    return StoredImage(
        name=own,
        format="qcow2",
        size_bytes=draw(sizes),
        sha256=draw(digests),
        virtual_size_bytes=draw(sizes),
        backing=backing,
        source=draw(source_images),
    )


receipts = st.builds(Receipt, targets, stored_images())
_runs = st.integers(0, 10**6)
_maybe_runs = st.none() | _runs
_faults = st.just("") | lines
records = st.builds(
    VerificationRecord,
    st.lists(
        st.builds(CheckedFile, texts, digests, times, _runs, _faults, _maybe_runs), max_size=3
    ).map(tuple),
    st.lists(
        st.builds(
            CheckedContent,
            texts,
            digests,
            times,
            _runs,
            st.none() | digests,
            _faults,
            _maybe_runs,
            _maybe_runs,
        ),
        max_size=3,
    ).map(tuple),
)


@st.composite
def point_disks(draw: DrawFn, target: SearchStrategy[str] = targets) -> PointDisk:
    """Draw a disk of a point, whose images lie on each other."""
    kind = draw(st.sampled_from(DiskKind))
    full = kind is DiskKind.FULL
    names = draw(st.lists(file_names, min_size=2, max_size=4, unique=True))
    under = [*names[1:-1], None if full else names[-1]]
    stored = tuple(
        StoredImage(
            name=name,
            format="qcow2",
            size_bytes=draw(sizes),
            sha256=draw(digests),
            virtual_size_bytes=draw(sizes),
            backing=backing,
            source=draw(source_images),
        )
        for name, backing in zip(names[:-1], under, strict=True)
    )
    return PointDisk(
        target=draw(target),
        kind=kind,
        reason=draw(texts),
        parent=None if full else draw(point_ids),
        virtual_size_bytes=draw(sizes),
        images=stored,
        content_sha256=draw(st.none() | digests),
    )


@st.composite
def restore_points(draw: DrawFn) -> RestorePoint:
    """Draw a point of one to three disks."""
    time = draw(times)
    names = draw(st.lists(targets, min_size=1, max_size=3, unique=True))
    return RestorePoint(
        id=format_point_id(time),
        sequence=draw(st.integers(1, 2**31)),
        parent=draw(st.none() | point_ids),
        store=draw(uuids),
        time=time,
        domain=draw(lines),
        uuid=draw(uuids),
        consistency=draw(st.sampled_from(Consistency)),
        consistency_detail=draw(texts),
        files=(draw(stored_files),),
        disks=tuple(draw(point_disks(st.just(name))) for name in names),
        skipped=tuple(draw(st.lists(st.tuples(targets, texts), max_size=2))),
        versions=Versions(draw(lines), draw(lines), draw(lines)),
        warnings=tuple(draw(st.lists(texts, max_size=2))),
    )
