"""
What is to be seen of the models: live chains, stored chains, and both side by side.

::

    live                              stored
    disk.bimg-B   active, ours
    disk.bimg-A   ours           ->   20261124T040407Z.qcow2   increment      copied from it
    disk.qcow2    base           ->   20261123T040406Z.qcow2   full

Whose an overlay is says the ledger, never its name. That an image is a copy of another says the
identity that the live one had while it was copied. Nothing here raises for a value that exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from itertools import pairwise
from pathlib import PurePosixPath

from attrs import evolve

from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, Domain
from fibackup.model.ledger import Ledger, Overlay
from fibackup.model.point import DiskKind, History, PointDisk, RestorePoint, StoredImage
from fibackup.render.drawable import Picture, picture_of
from fibackup.render.scene import (
    DEFAULT_WIDTH,
    Box,
    Column,
    Link,
    LinkKind,
    Section,
    Table,
    Tint,
    stack,
)
from fibackup.render.text import table
from fibackup.units import counted, format_bytes

__all__ = ["draw_chains", "draw_history", "live_boxes", "picture_chains"]

_MOST_LEVELLED = 4
"""Empty places over a column at most, for the sake of level arrows."""


def draw_chains(
    domain: Domain, history: History | None = None, *, width: int = DEFAULT_WIDTH
) -> str:
    """
    Draw every disk's live chain, and beside it what the store holds, newest on top.

    Args:
        domain: The domain, as it was read.
        history: What a store holds of it, or None.
        width: Columns of the terminal, 50 or more; names lose their middle where it is narrow.

    Returns:
        Several lines, escaped for a terminal.

    Source:
        docs/glossary.md: active layer, overlay, base, full, increment.
    """
    return picture_chains(domain, history).to_text(width=width)


def draw_history(history: History, *, width: int = DEFAULT_WIDTH) -> str:
    """
    Return a table of the points, oldest first.

    Args:
        history: What a store holds of a domain.
        width: Columns of the terminal.

    Returns:
        A heading and a line for each point.

    Source:
        docs/glossary.md: restore point.
    """
    points = _points_table(history)
    return table((points.head, *points.rows), width=width)


def _points_table(history: History) -> Table:
    return Table(
        "points",
        ("point", "#", "kind", "consistency", "disks", "size", "on"),
        tuple(
            (
                point.id,
                str(point.sequence),
                str(point.kind),
                str(point.consistency),
                ",".join(disk.target for disk in point.disks),
                format_bytes(point.size_bytes),
                ",".join(dict.fromkeys(filter(None, (disk.parent for disk in point.disks)))) or "-",
            )
            for point in history.points
        ),
    )


# --- live chains --------------------------------------------------------------------------------


def live_boxes(chain: BackingChain, ledger: Ledger | None) -> tuple[Box, ...]:
    """
    Return the images of a live chain, as they are to be seen.

    Args:
        chain: The chain.
        ledger: The domain's ledger; None: whose an overlay is, is not known.

    Source:
        docs/glossary.md: active layer, overlay, base; the ledger says what is ours.
    """
    own = _own_image(chain, ledger) if ledger is not None else None
    below = chain.below(own) if own is not None else ()
    templates = frozenset(image.path for image in below)
    return tuple(
        _live_box(
            image,
            place,
            ledger,
            template=image.path in templates,
        )
        for image, place in zip(chain, _places(chain.depth), strict=True)
    )


def _places(depth: int) -> tuple[str, ...]:
    return ("active layer", *["frozen"] * (depth - 2), *["base"] * (depth > 1))


def _own_image(chain: BackingChain, ledger: Ledger) -> PurePosixPath | None:
    """Return the image that the oldest overlay of ours was made on, when the chain has it."""
    own: PurePosixPath | None = None
    for upper, lower in pairwise(chain.paths):
        entry = ledger.overlay(upper)
        if entry is not None and ledger.overlay(lower) is None and ledger.lies_on(entry, lower):
            own = lower
    return own


def _live_box(image: Image, place: str, ledger: Ledger | None, *, template: bool) -> Box:
    entry = ledger.overlay(image.path) if ledger is not None else None
    tint = Tint.PLAIN if ledger is None else Tint.OTHER if entry is None else Tint.OURS
    words = [image.format, *(_overlay_words(image, entry) if entry is not None else ())]
    if template:
        words.append("template: only read")
    elif tint is Tint.OTHER and image.point_in_name is not None:
        words.append("named like ours, not in the ledger")
    return Box(
        name=image.path.name,
        size_bytes=image.allocated_bytes,
        tint=tint,
        words=tuple(words),
        tag=place,
        active=place == "active layer",
        problem=image.problem or "",
        hint=tuple(_image_hint(image, entry)),
    )


def _overlay_words(image: Image, entry: Overlay) -> Iterator[str]:
    yield "ours"
    if entry.freed:
        yield "to be deleted"
    if entry.stale:
        yield "its proof is gone"
    elif entry.point != image.point_in_name:
        yield f"on {entry.point}"


def _image_hint(image: Image, entry: Overlay | None) -> Iterator[str]:
    yield f"{image.path} ({image.format})"
    if image.allocated_bytes is not None:
        yield f"{format_bytes(image.allocated_bytes)} allocated"
    if image.virtual_size_bytes is not None:
        yield f"{format_bytes(image.virtual_size_bytes)} virtual"
    if image.being_written:
        yield "a process has it open for writing"
    if entry is not None:
        yield f"sits on point {entry.point} of store {entry.store}"


# --- stored chains ------------------------------------------------------------------------------


def _stored_boxes(history: History, target: str) -> tuple[Box, ...]:
    """Return a disk's images of all points, newest on top, each on its backing file."""
    found = [
        (point, disk, image)
        for point in reversed(history.points)
        for disk in point.disks
        if disk.target == target
        for image in (disk.images or (None,))
    ]
    places: dict[str | None, int] = {}
    for index, (point, _, image) in enumerate(found):
        places.setdefault(image.name if image is not None else None, index)
        places.setdefault(f"point {point.id}", index)
    return tuple(
        _point_box(point, disk, places.get(f"point {disk.parent}"))
        if image is None
        else evolve(
            _stored_box(image, point, disk),
            on=places.get(image.backing) if image.backing is not None else None,
            problem="missing, or cut short" if f"{target}/{image.name}" in history.damaged else "",
        )
        for point, disk, image in found
    )


def _point_box(point: RestorePoint, disk: PointDisk, parent: int | None) -> Box:
    """Return what stands for a point that added no image of a disk."""
    return Box(
        name=point.id,
        tint=Tint.INCREMENT,
        words=("nothing was written", str(point.consistency)),
        tag="unchanged",
        hint=(f"point {point.id}, number {point.sequence}", f"as at point {disk.parent}"),
        on=parent,
    )


def _stored_box(image: StoredImage, point: RestorePoint, disk: PointDisk) -> Box:
    top = image is disk.images[0]
    return Box(
        name=image.name,
        size_bytes=image.size_bytes,
        tint=Tint.FULL if disk.kind is DiskKind.FULL else Tint.INCREMENT,
        words=(str(point.consistency),) if top else ("of the same point",),
        tag=str(disk.kind) if top else "",
        hint=(
            f"point {point.id}, number {point.sequence}, {point.consistency}",
            f"{format_bytes(image.size_bytes)}, {format_bytes(image.virtual_size_bytes)} virtual",
            f"on {image.backing}" if image.backing is not None else "needs no other image",
            f"copied from {image.source.path} ({image.source.format})",
            f"sha256 {image.sha256}",
        ),
    )


# --- side by side -------------------------------------------------------------------------------


def picture_chains(domain: Domain, history: History | None = None) -> Picture:
    """
    Return a picture of every disk's live chain, and beside it what the store holds.

    Args:
        domain: The domain, as it was read.
        history: What a store holds of it, or None.

    Returns:
        The picture; arrows lead from live images to their copies.

    Source:
        docs/explore.md.
    """
    targets = [disk.target for disk in domain.disks]
    gone = (each for each in _targets(history) if each not in targets)
    where = (f"store {history.path}",) if history is not None else ()
    return Picture(
        title=domain.name,
        facts=(str(domain.state), domain.uuid, *where),
        sections=(
            *(_disk_section(disk, domain.ledger, history) for disk in domain.disks),
            *(_gone_section(target, history) for target in gone if history is not None),
        ),
        notes=(*_domain_notes(domain), *(_history_notes(history) if history is not None else ())),
    )


def _targets(history: History | None) -> tuple[str, ...]:
    """Return the disks of a history, those of the newest points first."""
    points = reversed(history.points) if history is not None else ()
    return tuple(dict.fromkeys(disk.target for point in points for disk in point.disks))


def _disk_section(disk: Disk, ledger: Ledger, history: History | None) -> Section:
    reason = disk.skip_reason or disk.unsupported_reason
    if disk.chain is None:
        note = f"no chain: {reason or 'it has no image'}"
        stored = _stored_boxes(history, disk.target) if history is not None else ()
        if not stored:
            return Section(disk.target, note=note)
        return Section(disk.target, (Column("live", note=note), Column("stored", stored)))
    live = stack(live_boxes(disk.chain, ledger))
    note = ", ".join(filter(None, (_virtual_size(disk.chain), reason, _job(disk))))
    if history is None:
        return Section(disk.target, (Column("live", live),), note=note)
    stored = _stored_boxes(history, disk.target)
    links = _links(disk.chain, ledger, history)
    shift = _shift(links)
    return Section(
        disk.target,
        (
            Column("live", _lowered(live, -shift)),
            Column("stored", _lowered(stored, shift), note="nothing of this disk"),
        ),
        links=tuple(
            evolve(link, start=link.start + max(-shift, 0), end=link.end + max(shift, 0))
            for link in links
        ),
        note=note,
    )


def _gone_section(target: str, history: History) -> Section:
    columns = (
        Column("live", note="the domain has no such disk now"),
        Column("stored", _stored_boxes(history, target)),
    )
    return Section(target, columns)


def _virtual_size(chain: BackingChain) -> str:
    size = chain.active.virtual_size_bytes
    return f"{format_bytes(size)} virtual" if size is not None else ""


def _job(disk: Disk) -> str:
    return f"a block job runs: {disk.block_job}" if disk.block_job is not None else ""


def _links(chain: BackingChain, ledger: Ledger, history: History) -> tuple[Link, ...]:
    """Return arrows from live images to their copies, and from the active layer to its point."""
    stored = [
        (point, image)
        for point in reversed(history.points)
        for disk in point.disks
        if disk.target == chain.target
        for image in (disk.images or (None,))
    ]
    links: list[Link] = []
    for start, image in enumerate(chain):
        end = next(
            (
                index
                for index, (_, copy) in enumerate(stored)
                if copy is not None and _is_copy(copy, image)
            ),
            None,
        )
        if end is not None:
            links.append(Link(0, start, end))
    entry = ledger.overlay(chain.active.path)
    if entry is not None and entry.store == history.store and not entry.stale:
        for index, (point, _) in enumerate(stored):
            if point.id == entry.point:
                links.append(Link(0, 0, index, LinkKind.SITS_ON))
                break
    return tuple(links)


def _is_copy(stored: StoredImage, image: Image) -> bool:
    """Tell whether an image is still what a stored one was copied from."""
    source = stored.source
    return source.path == str(image.path) and source.identity == image.identity


def _shift(links: Sequence[Link]) -> int:
    """Return how far the stored chain is lowered: its arrows are level, or most of them."""
    points = [link.start + 1 - link.end for link in links if link.kind is LinkKind.SITS_ON]
    copies = [link.start - link.end for link in links if link.kind is LinkKind.COPY]
    wanted = next(iter((*points, *copies)), 0)
    return wanted if abs(wanted) <= _MOST_LEVELLED else 0


def _lowered(boxes: tuple[Box | None, ...], places: int) -> tuple[Box | None, ...]:
    """Return a column with empty places on top; none when *places* is not above 0."""
    if places <= 0 or not boxes:
        return boxes
    moved = (
        evolve(box, on=box.on + places) if box is not None and box.on is not None else box
        for box in boxes
    )
    return (*[None] * places, *moved)


def _domain_notes(domain: Domain) -> Iterator[str]:
    run = domain.ledger.run
    if run is not None:
        yield f"a run has not ended: point {run.point} ({run.phase})"
    if domain.managed_save:
        yield "the domain has a managed-save image"
    if domain.snapshots:
        yield f"libvirt keeps snapshots: {', '.join(domain.snapshots)}"


def _history_notes(history: History) -> Iterator[str]:
    for file, reason in history.unreadable:
        yield f"the manifest {file} is damaged: {reason}"
    if history.damaged:
        yield f"missing or cut short: {', '.join(sorted(history.damaged))}"
    if history.unclaimed:
        yield f"files that no point names: {', '.join(sorted(history.unclaimed))}"


# --- pictures of single values ------------------------------------------------------------------


@picture_of.register
def chain_picture(value: BackingChain) -> Picture:
    """Return a chain: nobody has said whose its images are."""
    column = Column("backing chain", stack(live_boxes(value, None)))
    return Picture(
        title=value.target,
        facts=tuple(filter(None, (_virtual_size(value),))),
        sections=(Section("", (column,)),),
    )


@picture_of.register
def domain_picture(value: Domain) -> Picture:
    """Return a domain's live chains."""
    return picture_chains(value)


@picture_of.register
def history_picture(value: History) -> Picture:
    """Return the stored chains of a domain, and its points."""
    latest = value.latest
    points = counted(len(value.points), "point")
    total = format_bytes(sum(point.size_bytes for point in value.points))
    return Picture(
        title=latest.domain if latest is not None else value.uuid,
        facts=(f"{points}, {total}", f"store {value.path}", value.uuid),
        sections=tuple(
            Section(target, (Column("stored", _stored_boxes(value, target)),))
            for target in _targets(value)
        ),
        tables=(_points_table(value),) if value.points else (),
        notes=tuple(_history_notes(value)),
    )


@picture_of.register
def point_picture(value: RestorePoint) -> Picture:
    """Return the images that a point added, on what they lie, and what else it has."""
    return Picture(
        title=value.id,
        facts=(
            value.domain,
            f"number {value.sequence}, {value.kind}, {value.consistency}",
            format_bytes(value.size_bytes),
        ),
        sections=tuple(_point_section(value, disk) for disk in value.disks),
        tables=(Table("point", rows=tuple(_point_rows(value))),),
        notes=value.warnings,
    )


def _point_section(point: RestorePoint, disk: PointDisk) -> Section:
    boxes = [_stored_box(image, point, disk) for image in disk.images]
    under = disk.images[-1].backing if disk.images else disk.parent
    if under is not None:
        boxes.append(Box(name=under, words=(f"of point {disk.parent}",), tag="parent"))
    if not disk.images:
        boxes.insert(0, _point_box(point, disk, None))
    note = f"{format_bytes(disk.virtual_size_bytes)} virtual"
    return Section(disk.target, (Column("stored", stack(boxes)),), note=note)


def _point_rows(point: RestorePoint) -> Iterator[tuple[str, str]]:
    detail = f": {point.consistency_detail}" if point.consistency_detail else ""
    yield "time", point.time.astimezone(UTC).isoformat(sep=" ").replace("+00:00", " UTC")
    yield "consistency", f"{point.consistency}{detail}"
    yield "domain", f"{point.domain}  {point.uuid}"
    yield "store", point.store
    yield "parent", point.parent or "-"
    for file in point.files:
        yield str(file.role), f"{file.name}  {format_bytes(file.size_bytes)}"
    for disk in point.disks:
        yield disk.target, f"{disk.kind}: {disk.reason}"
    for target, reason in point.skipped:
        yield target, f"not in the point: {reason}"
    made = point.versions
    yield "made by", f"fibackup {made.fibackup}, libvirt {made.libvirt}, QEMU {made.qemu}"
