"""
What is to be seen of a plan and of a report: the chains now and afterwards, and what is stored.

::

    now                    after                               store
                           disk.bimg-B   active layer, new
    disk.bimg-A   active   disk.bimg-A                    ->   20261124T040407Z.qcow2   new
    disk.qcow2    base     disk.qcow2    base                  20261123T040406Z.qcow2   parent

A plan knows what it expects and what it does, no more: images that it does not copy have the size
of their files, and of an active layer that is only copied when it is frozen, an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from attrs import evolve

from fibackup.model.ledger import Overlay
from fibackup.model.point import RestorePoint, StoredImage
from fibackup.plan.outlook import DiskOutlook, foresee
from fibackup.plan.prune_steps import MergeImages
from fibackup.plan.report import Report
from fibackup.plan.restore_steps import CreateLinked, DiskRestore, FlattenImage
from fibackup.plan.retention import PointVerdict
from fibackup.plan.steps import (
    CopyImage,
    ExpectedImage,
    Plan,
    PlannedDisk,
    PublishPoint,
    WriteLedger,
    describe,
    headline,
)
from fibackup.render.drawable import Picture, picture_of
from fibackup.render.scene import Box, Change, Column, Link, LinkKind, Section, Table, Tint, stack
from fibackup.units import format_bytes, format_seconds

__all__ = ["plan_picture", "report_picture"]

_MERGES = 12
"""Merges that are drawn; the steps name all of them."""


@picture_of.register
def plan_picture(value: Plan) -> Picture:
    """Return the chains now and after the plan, the decisions and the steps."""
    cost = (f"{format_bytes(value.cost_bytes)} to copy",) if value.copies else ()
    return Picture(
        title=f"{value.domain}: {value.verb}",
        facts=(
            *((f"point {value.point}",) if value.point else ()),
            *cost,
            *_tally(value),
            *_undrawn(value),
            value.uuid,
        ),
        sections=_sections(value),
        tables=(
            Table("decisions", rows=tuple(_decisions(value))),
            Table(
                "steps",
                rows=tuple(
                    (str(number), "\n".join(describe(step)))
                    for number, step in enumerate(value.steps, 1)
                ),
            ),
        ),
        notes=value.warnings,
    )


@picture_of.register
def report_picture(value: Report) -> Picture:
    """Return the chains before and after, and how long each step took."""
    plan = value.plan
    frozen = value.frozen_seconds
    return Picture(
        title=f"{plan.domain}: {plan.verb} done",
        facts=(
            f"took {format_seconds(value.seconds)}",
            *_tally(plan),
            *((f"point {value.point.id}",) if value.point is not None else ()),
            *((f"{format_bytes(value.copied_bytes)} copied",) if value.copied_bytes else ()),
            *((f"{format_bytes(value.freed_bytes)} freed",) if value.freed_bytes > 0 else ()),
            *((f"the guest was frozen for {format_seconds(frozen)}",) if frozen else ()),
        ),
        sections=_sections(plan, value),
        tables=(
            Table(
                "steps",
                rows=tuple(
                    (
                        str(done.index + 1),
                        headline(plan.steps[done.index]),
                        format_seconds(done.seconds),
                    )
                    for done in value.steps
                ),
            ),
            Table(
                "restored",
                rows=tuple(
                    (image.target, str(image.path), image.format, format_bytes(image.size_bytes))
                    for image in value.restored
                ),
            ),
        ),
        notes=value.warnings,
    )


def _decisions(plan: Plan) -> Iterator[tuple[str, str, str]]:
    for each in plan.decisions:
        what = "left out" if each.kind is None else str(each.kind)
        yield each.target, f"{what} on {each.parent}" if each.parent else what, each.reason


def _sections(plan: Plan, report: Report | None = None) -> tuple[Section, ...]:
    """Return the chains of a plan; with what a run has made of it, once there is a report."""
    return (
        *((_points_section(plan.verdicts),) if plan.verdicts else ()),
        *(_live_section(plan, outlook, report) for outlook in foresee(plan)),
        *(_restore_section(step) for step in plan.restores),
        *(_merge_section(step) for step in _merges(plan)[:_MERGES]),
    )


# --- points -------------------------------------------------------------------------------------


def _tally(plan: Plan) -> Iterator[str]:
    """Yield what becomes of the points, in numbers."""
    if plan.verdicts:
        kept = sum(each.kept for each in plan.verdicts)
        freed = sum(each.freed_bytes for each in plan.verdicts)
        yield f"{kept} kept, {len(plan.verdicts) - kept} dropped"
        yield f"{format_bytes(freed)} freed at once"


def _points_section(verdicts: tuple[PointVerdict, ...]) -> Section:
    """Return the points, newest first: what keeps them, or that they go."""
    boxes = tuple(
        Box(
            name=each.point,
            words=each.reasons,
            tag="kept" if each.kept else "",
            change=Change.SAME if each.kept else Change.GONE,
            hint=each.reasons,
        )
        for each in reversed(verdicts)
    )
    return Section("points", (Column("newest first", boxes),))


# --- live chains --------------------------------------------------------------------------------


def _live_section(plan: Plan, outlook: DiskOutlook, report: Report | None) -> Section:
    boxes = _Boxes(plan, outlook)
    made = report.point if report is not None else None
    now = "now" if report is None else "before"
    columns = [Column(now, stack(boxes.before()))]
    if outlook.changes:
        columns.append(Column("after", stack(boxes.after())))
    elif not plan.copies:
        columns = [Column(f"{now}, and after", columns[0].boxes)]
    copies = tuple(reversed([copy for copy in plan.copies if copy.target == outlook.target]))
    stored = _stored(copies, _planned(plan, outlook.target), _sizes(made, outlook.target))
    if not stored:
        return Section(outlook.target, tuple(columns))
    rows = {path: row for row, path in enumerate(outlook.rows)}
    level = rows.get(copies[0].source, 0) if copies else 0
    columns.append(Column("store", stack((*[None] * level, *stored))))
    links = tuple(
        Link(len(columns) - 2, rows[copy.source], level + place)
        for place, copy in enumerate(copies)
        if copy.source in rows
    )
    return Section(outlook.target, tuple(columns), links)


class _Boxes:
    """Makes the boxes of one disk: what the plan knows of each image."""

    def __init__(self, plan: Plan, outlook: DiskOutlook) -> None:
        self._outlook = outlook
        self._expected: Mapping[PurePosixPath, ExpectedImage] = {
            image.path: image
            for disk in plan.expects.disks
            if disk.target == outlook.target
            for image in disk.images
        }
        self._estimates = {copy.source: copy.estimate_bytes for copy in plan.copies}
        self._overlays = _overlays(plan)

    def before(self) -> Iterator[Box | None]:
        """Yield the chain as it is now, level with the chain afterwards."""
        chain = self._outlook.before
        for path in self._outlook.rows:
            yield self._box(path, chain, Change.SAME) if path in chain else None

    def after(self) -> Iterator[Box]:
        """Yield the chain as it will be, and what leaves it."""
        for path in self._outlook.rows:
            yield self._box(path, self._outlook.after, self._change(path))

    def _change(self, path: PurePosixPath) -> Change:
        if path not in self._outlook.after:
            return Change.GONE
        if path not in self._outlook.before:
            return Change.NEW
        return Change.WRITTEN if path in self._outlook.written else Change.SAME

    def _box(self, path: PurePosixPath, chain: tuple[PurePosixPath, ...], change: Change) -> Box:
        place = _place(path, chain)
        ours = path in self._overlays
        end = self._end(path) if change is Change.GONE else ""
        return Box(
            name=path.name,
            size_bytes=self._size(path) if change is not Change.NEW else None,
            tint=Tint.OURS if ours else Tint.OTHER,
            words=tuple(filter(None, (end, self._format(path), "ours" if ours else ""))),
            tag=place,
            active=place == "active layer",
            change=change,
            hint=(str(path),),
        )

    def _end(self, path: PurePosixPath) -> str:
        return "is deleted" if path in self._outlook.deleted else "its file stays"

    def _format(self, path: PurePosixPath) -> str:
        return self._expected[path].format if path in self._expected else "qcow2"

    def _size(self, path: PurePosixPath) -> int | None:
        """Return what an image takes: what its copy does or, for qcow2, the size of its file."""
        estimate = self._estimates.get(path)
        if estimate is not None:
            return estimate
        image = self._expected.get(path)
        if image is None or image.format != "qcow2" or image.identity is None:
            return None
        return image.identity.size_bytes


def _place(path: PurePosixPath, chain: tuple[PurePosixPath, ...]) -> str:
    if path not in chain:
        return ""
    if path == chain[0]:
        return "active layer"
    return "base" if path == chain[-1] else "frozen"


def _overlays(plan: Plan) -> Mapping[PurePosixPath, Overlay]:
    """Return every overlay that the ledger has before, in or after the plan."""
    ledgers = [step.ledger for step in plan.steps if isinstance(step, WriteLedger)]
    if plan.expects.ledger is not None:
        ledgers.append(plan.expects.ledger)
    return {entry.path: entry for ledger in ledgers for entry in ledger.overlays}


# --- stored chains ------------------------------------------------------------------------------


def _planned(plan: Plan, target: str) -> PlannedDisk | None:
    return next(
        (
            disk
            for step in plan.steps
            if isinstance(step, PublishPoint)
            for disk in step.disks
            if disk.target == target
        ),
        None,
    )


def _sizes(point: RestorePoint | None, target: str) -> Mapping[str, int]:
    """Return the sizes of the images that a run has stored."""
    disks = point.disks if point is not None else ()
    return {
        image.name: image.size_bytes
        for disk in disks
        if disk.target == target
        for image in disk.images
    }


def _stored(
    copies: tuple[CopyImage, ...], planned: PlannedDisk | None, sizes: Mapping[str, int]
) -> tuple[Box, ...]:
    """Return what the store gets, what an earlier run has put there, and the parent."""
    full = planned is None or planned.parent is None
    tint = Tint.FULL if full else Tint.INCREMENT
    kind = "" if planned is None else str(planned.kind)
    boxes = [
        Box(
            name=copy.name,
            size_bytes=sizes.get(copy.name, copy.estimate_bytes),
            tint=tint,
            words=("" if copy.name in sizes else "estimated", f"from {copy.source.name}"),
            tag="" if place else kind,
            change=Change.NEW,
            hint=(f"copied from {copy.source}",),
        )
        for place, copy in enumerate(copies)
    ]
    adopted: tuple[StoredImage, ...] = planned.adopted if planned is not None else ()
    boxes.extend(
        Box(
            name=image.name,
            size_bytes=image.size_bytes,
            tint=tint,
            words=("stored by an earlier run",),
            tag="" if boxes else kind,
        )
        for image in adopted
    )
    bottom = copies[-1].backing if copies else adopted[-1].backing if adopted else None
    if planned is not None and planned.parent is not None:
        name = bottom if bottom is not None else f"{planned.parent}.qcow2"
        words = (f"of point {planned.parent}", "" if boxes else "nothing to copy")
        boxes.append(Box(name=name, words=words, tag="parent"))
    return tuple(boxes)


def _restore_section(step: DiskRestore) -> Section:
    """Return the stored images of a disk, and what is made of them."""
    boxes = tuple(_stored_box(image, step.images) for image in step.images)
    stored = Column("store", stack(boxes))
    if isinstance(step, CreateLinked):
        overlay = _restored_box(step, "an overlay on the store's own image")
        link = Link(0, 0, 0, LinkKind.SITS_ON)
        return Section(step.target, (Column("restored", (overlay,)), stored), (link,))
    if isinstance(step, FlattenImage):
        flat = _restored_box(step, "one image that needs no other")
        return Section(step.target, (stored, Column("restored", (flat,))), (Link(0, 0, 0),))
    copies = stack(
        evolve(box, change=Change.NEW, tag="", hint=(str(place),))
        for box, place in zip(boxes, step.destinations, strict=True)
    )
    links = tuple(Link(0, row, row) for row in range(len(copies)))
    return Section(step.target, (stored, Column("restored", copies)), links)


# --- prunes -------------------------------------------------------------------------------------


def _merges(plan: Plan) -> tuple[MergeImages, ...]:
    return tuple(step for step in plan.steps if isinstance(step, MergeImages))


def _undrawn(plan: Plan) -> Iterator[str]:
    """Yield that more is merged than is drawn."""
    merges = len(_merges(plan))
    if merges > _MERGES:
        yield f"{merges} merges, {_MERGES} of them drawn"


def _merge_section(step: MergeImages) -> Section:
    """Return the images of a point before they are merged, and after."""
    top = step.images[0]
    under: tuple[Box, ...] = ()
    if step.backing is not None:
        under = (Box(name=step.backing, words=("lies under them, stays as it is",)),)
    full = step.backing is None
    kind, tint = ("full", Tint.FULL) if full else ("increment", Tint.INCREMENT)
    boxes = [Box(name=each.name, size_bytes=each.size_bytes, tint=tint) for each in step.images]
    before = (*boxes, *under)
    merged = Box(
        name=top.name,
        size_bytes=step.write_bytes,
        tint=tint,
        tag=kind,
        words=(f"{len(step.images)} images in one", "this size at most"),
        change=Change.NEW,
    )
    gone = (evolve(box, change=Change.GONE) for box in boxes[1:])
    after = (merged, *gone, *under)
    links = tuple(Link(0, row, 0) for row in range(len(step.images)))
    return Section(
        f"{step.target} of point {step.point}",
        (Column("now", stack(before)), Column("after", stack(after))),
        links,
    )


def _stored_box(image: StoredImage, chain: tuple[StoredImage, ...]) -> Box:
    """Return an image of a stored chain; a full may have several, when it has a template."""
    point = _point_in(image.name)
    full = point == _point_in(chain[-1].name)
    top = next(each for each in chain if _point_in(each.name) == point) is image
    kind = "full" if full else "increment"
    return Box(
        name=image.name,
        size_bytes=image.size_bytes,
        tint=Tint.FULL if full else Tint.INCREMENT,
        words=() if top else ("of the same point",),
        tag=kind if top else "",
    )


def _point_in(name: str) -> str:
    """Return the id of a point, with which the names of its images begin."""
    return name.partition(".")[0].partition("-")[0]


def _restored_box(step: DiskRestore, words: str) -> Box:
    return Box(
        name=step.destination.name,
        words=(words,),
        tag=step.format,
        change=Change.NEW,
        hint=(str(step.destination),),
    )
