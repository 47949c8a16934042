"""
Plan a prune: drop what the policy does not keep, and keep what kept points need.

::

    store         20. <- 21. <- 22. <- 23. <- 24. <- 25.
    kept                        22.    23.           25.
    handed over   20., 21. to 22., 24. to 25.

A dropped point loses its manifest at once. Its images go with it when nothing lies on them; else
the kept point above takes them over, and they are merged when that costs no more than it should.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from attrs import evolve

from fibackup.errors import ManifestError, NoSuchPointError
from fibackup.model.point import Consistency, DiskKind, History, PointDisk, RestorePoint
from fibackup.model.records import LINKED_FILE, MERGE_FILE
from fibackup.plan.forest import Forest, broken_points, forests
from fibackup.plan.merge import plan_merges
from fibackup.plan.prune_steps import READERS_SECONDS, DropPoints, MergeImages
from fibackup.plan.records import describe_damaged, describe_orphans, record_warnings
from fibackup.plan.retention import NOTHING_KEEPS_IT, PointVerdict, RetentionPolicy, choose_points
from fibackup.plan.steps import Expectation, Plan, Step
from fibackup.plan.verify_steps import ExpectedHeader, FileToVerify, VerifyFiles

__all__ = ["plan_prune"]

_NEEDED = {MERGE_FILE, LINKED_FILE}
"""Who drops points must know what these say."""


def plan_prune(
    history: History,
    policy: RetentionPolicy,
    *,
    now: datetime,
    wait_seconds: float = READERS_SECONDS,
    in_use: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """
    Plan to drop the points that a policy does not keep.

    Args:
        history: What the store holds of the domain, just read.
        policy: What is kept.
        now: The time, aware; points from the future are not touched.
        wait_seconds: How long the run waits for those who read the domain's points.
        in_use: Images that a process has open or a linked disk lies on, and why, as
            `Store.images_in_use` has them. Their points are kept, and none of them is merged away.

    Returns:
        The plan, with a verdict on every point; without steps when there is nothing to do. Every
        kept point reads the same before, while and after it is run, also when the run is killed.

    Raises:
        StoreError: The store has several directories of the domain. Nothing was touched.
        NoSuchPointError: The store has no point of the domain, or not one that is protected.
        ManifestError: A manifest is damaged or gone, or seems to be, so it cannot be told what it
            needs. Nothing was touched.
        VerifyError: No point is whole. Nothing was touched.
        ModelError: *now* is naive. Nothing was touched.

    Source:
        docs/prune.md; docs/design.md, "Store".
    """
    history.refuse_copies()
    _refuse_unknown(history)
    if not history.points:
        raise NoSuchPointError(
            reason=f"the store has no point of domain {history.uuid}", path=str(history.path)
        )
    woods = forests(history)
    reasons = {
        verdict.point: [*verdict.reasons] if verdict.kept else []
        for verdict in choose_points(history, policy, now=now)
    }
    waiting = _keep_what_is_used(history, in_use, reasons)
    _keep_what_carries(history, woods, reasons)
    heirs, gone = _outcome(history, woods, reasons)
    steps: tuple[Step, ...] = ()
    before = {point.id: point for point in history.points}
    changed = tuple(heir for heir in heirs if heir != before[heir.id])
    if gone or changed:  # without gone: a prune died in between, and two points name one image
        steps = (
            DropPoints(
                points=tuple(gone),
                heirs=changed,
                files=tuple(name for files in gone.values() for name in files),
                freed_bytes=sum(size for files in gone.values() for size in files.values()),
                wait_seconds=wait_seconds,
            ),
        )
    merges, later = _merges(history, heirs, frozenset(in_use), wait_seconds)
    if merges:  # what is wrong shows before anything goes
        steps = (VerifyFiles(tuple(_inputs(merges)), run=0), *steps, *merges)
    newest = history.points[-1]
    return Plan(
        verb="prune",
        domain=newest.domain,
        uuid=history.uuid,
        store=history.store,
        point="",
        expects=Expectation(
            sequence=newest.sequence, points=tuple(point.id for point in history.points)
        ),
        decisions=(),
        steps=steps,
        verdicts=tuple(
            PointVerdict(
                point.id,
                bool(reasons[point.id]),
                tuple(reasons[point.id]) or (NOTHING_KEEPS_IT,),
                sum(gone.get(point.id, {}).values()),
            )
            for point in history.points
        ),
        warnings=(
            *record_warnings(history),
            *_say_what_waits(waiting | later, in_use),
            *_say_which_disks_go(history, heirs),
            *_say_what_is_kept_broken(history, reasons),
        ),
    )


def _say_what_is_kept_broken(
    history: History, reasons: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Name the kept points of which something is damaged or was found wrong."""
    broken = broken_points(history)
    kept = [point.id for point in history.points if reasons[point.id] and point.id in broken]
    if kept:
        yield f"kept, and damaged or found wrong by a verification: {', '.join(kept)}"


def _outcome(
    history: History, woods: Mapping[str, Forest], reasons: Mapping[str, Sequence[str]]
) -> tuple[tuple[RestorePoint, ...], dict[str, dict[str, int]]]:
    """Return the kept points as they are afterwards, and what goes with each of the others."""
    kept = [point for point in history.points if reasons[point.id]]
    dropped = [point for point in history.points if not reasons[point.id]]
    ids = [point.id for point in kept]
    after = {target: _hand_over(forest, ids) for target, forest in woods.items()}
    heirs = tuple(_heir(point, after) for point in kept)
    return heirs, _files(dropped, heirs)


def _keep_what_is_used(
    history: History, used: Mapping[str, str], reasons: dict[str, list[str]]
) -> frozenset[str]:
    """Add reasons to the points whose images are in use; return those of them that wait."""
    waiting: set[str] = set()
    for point in history.points if used else ():
        own = {f"{disk.target}/{image.name}" for disk in point.disks for image in disk.images}
        if own & used.keys() and not reasons[point.id]:
            file = min(own & used.keys())
            reasons[point.id].append(f"{file}: {used[file]}")
            waiting |= own & used.keys()
    return frozenset(waiting)


def _say_what_waits(files: frozenset[str], used: Mapping[str, str]) -> tuple[str, ...]:
    """Return the warning that images which are in use cannot go yet."""
    if not files:
        return ()
    first = min(files)
    more = f", nor {len(files) - 1} more" if len(files) > 1 else ""
    warning = (
        f"{first} cannot go yet{more}: {used[first]}. A domain gets a disk of its own by virsh "
        'blockpull DOMAIN DISK --wait while it runs, by qemu-img rebase -f qcow2 -b "" DISK while '
        "it is off"
    )
    return (warning,)


def _say_which_disks_go(history: History, kept: Iterable[RestorePoint]) -> Iterator[str]:
    """Give a warning for each disk of which no point is left."""
    left = {disk.target for point in kept for disk in point.disks}
    targets = dict.fromkeys(disk.target for point in history.points for disk in point.disks)
    for target in targets:
        if target not in left:
            yield f"no point that is kept has disk {target}: protect one, or it is gone"


def _merges(
    history: History, heirs: Sequence[RestorePoint], used: frozenset[str], wait_seconds: float
) -> tuple[tuple[MergeImages, ...], frozenset[str]]:
    """Return the merges of the points as they are after the drops, and what waits for its own."""
    after = evolve(history, points=tuple(heirs))
    woods = forests(after)
    points = {point.id: point for point in heirs}
    live = {
        target: frozenset(
            top
            for point_id in live_points(forest, points, [*points])
            if (top := forest.tops[point_id]) is not None
        )
        for target, forest in woods.items()
    }
    due = plan_merges(history, heirs, woods, live, wait_seconds=wait_seconds)
    if not used:
        return due, frozenset()
    possible = plan_merges(history, heirs, woods, live, in_use=used, wait_seconds=wait_seconds)
    return possible, (_taken(due) - _taken(possible)) & used


def _inputs(merges: Iterable[MergeImages]) -> Iterator[FileToVerify]:
    """Return the images that are going to be merged, to be read before."""
    for merge in merges:
        for image in merge.images:
            header = ExpectedHeader(image.backing, image.virtual_size_bytes)
            file = f"{merge.target}/{image.name}"
            yield FileToVerify(file, image.size_bytes, image.sha256, header, read=True)


def _taken(merges: Iterable[MergeImages]) -> frozenset[str]:
    """Return the images that go when others have taken over their content."""
    return frozenset(
        f"{merge.target}/{image.name}" for merge in merges for image in merge.images[1:]
    )


def _refuse_unknown(history: History) -> None:
    """Refuse to judge what is needed while a point's needs are unknown."""
    unknown = (*(file for file, _ in history.unreadable), *(f"{p}.json" for p in history.lost))
    if unknown:
        reason = (
            f"{unknown[0]} is damaged or gone, and it cannot be told which images its point "
            "needs: nothing is dropped until it is back. Without a copy of it, move it away, if it "
            "is there, and points.sha256 too: the next backup writes that anew, without this point"
        )
    elif needed := [each for each in history.damaged_records if each[0] in _NEEDED]:
        reason = describe_damaged(*needed[0])
    elif history.orphans:
        reason = describe_orphans(history)
    else:
        return
    domain = history.points[-1].domain if history.points else history.uuid
    raise ManifestError(reason=reason, domain=domain, path=str(history.path))


# --- points that are kept for what lies on them -------------------------------------------------


def _keep_what_carries(
    history: History, woods: Mapping[str, Forest], reasons: dict[str, list[str]]
) -> None:
    """Add reasons to the points that must stay for others' sake."""
    points = {point.id: point for point in history.points}
    for forest in woods.values():
        for point_id in live_points(forest, points, [p for p in points if reasons[p]]):
            if not reasons[point_id]:
                reasons[point_id].append("the next point may lie on it")
    found = True
    while found:
        found = False
        for forest in woods.values():
            for point_id, count in _forks(forest, [p for p in points if reasons[p]]).items():
                reasons[point_id].append(f"{count} branches of {forest.target} lie on it")
                found = True


def live_points(
    forest: Forest, points: Mapping[str, RestorePoint], kept: Sequence[str]
) -> tuple[str, ...]:
    """
    Return the points that the live chain of a disk may sit on.

    That is the newest one. A point of a domain that was off is a copy beside the live chain, which
    sits where it sat before: on its parent, or, under a full, on the last point of when it ran.

    Args:
        forest: The disk.
        points: All points by id.
        kept: Ids of points that are kept, by sequence.
    """
    found = [point_id for point_id in kept if point_id in forest.disks][-1:]
    while found and points[found[-1]].consistency is Consistency.OFFLINE:
        below = forest.disks[found[-1]].parent or _ran_before(forest, points, found[-1])
        if below not in forest.disks or below in found:
            break
        found.append(below)
    return tuple(found)


def _ran_before(forest: Forest, points: Mapping[str, RestorePoint], point_id: str) -> str | None:
    """Return the last point of the disk before this one that was taken of a running domain."""
    ran = (
        each
        for each in reversed(forest.disks)
        if points[each].sequence < points[point_id].sequence
        and points[each].consistency is not Consistency.OFFLINE
    )
    return next(ran, None)


def _forks(forest: Forest, kept: Sequence[str]) -> dict[str, int]:
    """Return dropped points on whose images branches lie that are both needed."""
    kept_ids = set(kept)
    shown = {forest.tops.get(point_id) for point_id in kept}
    above = forest.above(kept)
    return {
        forest.owner[name]: len(children)
        for name, children in above.items()
        if len(children) > 1 and name not in shown and forest.owner[name] not in kept_ids
    }


# --- whose image it is --------------------------------------------------------------------------


def _hand_over(forest: Forest, kept: Sequence[str]) -> dict[str, PointDisk]:
    """
    Return the disk in each kept point, with the images that are its own from now on.

    An image stays with its point. That of a dropped one goes to the oldest point that shows it,
    or else to the point above.
    """
    owners = _owners(forest, kept)
    kept_ids = set(kept)
    return {
        point_id: _disk_after(forest, point_id, owners, kept_ids)
        for point_id in kept
        if point_id in forest.disks
    }


def _owners(forest: Forest, kept: Sequence[str]) -> dict[str, str]:
    """Return the point that has each needed image."""
    kept_ids = set(kept)
    owners: dict[str, str] = {}
    tops = {each: top for each in kept if (top := forest.tops.get(each)) is not None}
    for point_id, top in tops.items():
        first = forest.owner[top]
        owners.setdefault(top, first if first in kept_ids else point_id)
    walked: set[str] = set()
    for top in tops.values():
        holder = owners[top]
        for name in forest.down(top):
            if name in walked:
                break
            walked.add(name)
            first = forest.owner[name]
            holder = owners.setdefault(name, first if first in kept_ids else holder)
    return owners


def _disk_after(
    forest: Forest, point_id: str, owners: Mapping[str, str], kept: set[str]
) -> PointDisk:
    disk, top = forest.disks[point_id], forest.tops[point_id]
    if top is None:  # it lies on a point that is not there
        return disk
    own: list[str] = []
    below: str | None = top
    for name in forest.down(top):
        if owners[name] != point_id:
            break
        own.append(name)
        below = forest.images[name].backing
    parent = _parent(forest, disk, own, below, owners, kept)
    images = tuple(forest.images[name] for name in own)
    if (images, parent) == (disk.images, disk.parent):
        return disk
    return evolve(
        disk,
        kind=DiskKind.FULL if parent is None else DiskKind.INCREMENT,
        reason="what it lay on was pruned, and it took over what it needs",
        parent=parent,
        images=images,
    )


def _parent(
    forest: Forest,
    disk: PointDisk,
    own: Sequence[str],
    below: str | None,
    owners: Mapping[str, str],
    kept: set[str],
) -> str | None:
    """Return the point that has the image under a point's own ones."""
    if below is None:
        return None
    if below not in owners:  # the chain ends in nothing: leave it as it was told
        return forest.disks[forest.owner[own[-1]]].parent
    stays = disk.parent in kept and forest.tops.get(disk.parent or "") == below
    return disk.parent if stays else owners[below]


def _heir(point: RestorePoint, after: Mapping[str, Mapping[str, PointDisk]]) -> RestorePoint:
    disks = tuple(after[disk.target][point.id] for disk in point.disks)
    return point if disks == point.disks else evolve(point, disks=disks)


# --- what is deleted ----------------------------------------------------------------------------


def _files(
    dropped: Iterable[RestorePoint], heirs: Iterable[RestorePoint]
) -> dict[str, dict[str, int]]:
    """Return, for each dropped point, the files that go with it, and their sizes."""
    needed = {
        f"{disk.target}/{image.name}"
        for point in heirs
        for disk in point.disks
        for image in disk.images
    } | {file.name for point in heirs for file in point.files}
    found: dict[str, dict[str, int]] = {}
    for point in dropped:
        sizes = {file.name: file.size_bytes for file in point.files}
        sizes |= {
            f"{disk.target}/{image.name}": image.size_bytes
            for disk in point.disks
            for image in disk.images
        }
        found[point.id] = {name: size for name, size in sizes.items() if name not in needed}
        needed.update(sizes)  # one file is deleted once
    return found
