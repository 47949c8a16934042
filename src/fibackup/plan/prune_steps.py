"""
The steps of a prune: values, as all steps are.

::

    DropPoints     what kept points need becomes theirs, manifests go, then files that nothing names
    MergeImages    images of one point become one image
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import evolve, frozen

from fibackup.model.point import History, RestorePoint, StoredImage
from fibackup.plan.forest import broken_points
from fibackup.units import counted, format_bytes

__all__ = [
    "READERS_SECONDS",
    "DropPoints",
    "MergeImages",
    "describe_prune",
    "files_needed",
    "misfit",
    "shared",
    "spoiled",
]

READERS_SECONDS = 600.0
"""How long a prune waits for those who read, before it leaves things as they are."""


@frozen
class DropPoints:
    """
    Unpublish points, and delete what no other point needs.

    Kept points that lie on dropped ones get new manifests first, in which the images they need are
    theirs. So at each moment every published point is whole.

    Attributes:
        points: Ids of the points, oldest first; none when heirs of an interrupted prune are all
            that is left to be done.
        heirs: Kept points as they are from now on, oldest first.
        files: ``"vda/20261124T040407Z.qcow2"`` or ``"20261124T040407Z.xml"``: what is deleted.
        freed_bytes: Bytes of these files.
        wait_seconds: How long to wait for those who read the domain's points.
    """

    points: tuple[str, ...]
    heirs: tuple[RestorePoint, ...]
    files: tuple[str, ...]
    freed_bytes: int
    wait_seconds: float = READERS_SECONDS


@frozen
class MergeImages:
    """
    Make one image of several that lie on each other and belong to one point.

    The result is a new file; it takes the name of the topmost, so that what lies on that goes on
    lying on it, and the point's manifest is written anew.

    Attributes:
        target: The disk.
        point: The point.
        images: The images, top first; 2 or more.
        write_bytes: Bytes that are written, at most.
        read_bytes: Bytes that are read, at most.
        wait_seconds: How long to wait for those who read the domain's points.
    """

    target: str
    point: str
    images: tuple[StoredImage, ...]
    write_bytes: int
    read_bytes: int
    wait_seconds: float = READERS_SECONDS

    @property
    def backing(self) -> str | None:
        """What the result lies on, None for nothing."""
        return self.images[-1].backing


def misfit(step: DropPoints, history: History) -> str | None:
    """
    Say why a drop that was planned before does not fit what the store holds now.

    Another prune may have merged what the heirs would name, someone has protected a point, or a
    verification has found wrong what was going to stay.

    Args:
        step: The drop.
        history: What the store holds, read under the locks under which the drop is to run.

    Returns:
        The reason, or None when it fits.

    Source:
        docs/store-format.md, "Writing order".
    """
    if history.unreadable or history.lost:
        return "a manifest is damaged or gone"
    gone, heirs = frozenset(step.points), {point.id: point for point in step.heirs}
    if gone & history.protected:
        return f"point {min(gone & history.protected)} is protected"
    points = {point.id: point for point in history.points}
    if not points.keys() - gone - broken_points(history) and gone & points.keys():
        return "no point that would stay is whole"
    there = {
        (disk.target, image)
        for point in history.points
        for disk in point.disks
        for image in disk.images
    }
    for heir in step.heirs:
        now = points.get(heir.id)
        if now is None or evolve(now, disks=heir.disks) != heir:
            return f"point {heir.id} is not what it was"
        if not {(disk.target, image) for disk in heir.disks for image in disk.images} <= there:
            return f"point {heir.id} would take over images that are not there"
    taken = frozenset(step.files)
    for point in history.points:
        if point.id not in gone and not taken.isdisjoint(files_needed(heirs.get(point.id, point))):
            return f"point {point.id} needs a file that would be deleted"
    return None


def shared(step: MergeImages, points: Iterable[RestorePoint]) -> str | None:
    """
    Say which other point names an image that a merge would take away, or write anew.

    Args:
        step: The merge.
        points: What is published, read under the lock under which the merge is to run.

    Returns:
        The reason not to merge, or None when there is no such point.

    Source:
        docs/store-format.md, "Writing order".
    """
    names = {image.name for image in step.images}
    for point in points:
        if point.id == step.point:
            continue
        for disk in point.disks:
            if disk.target == step.target:
                for image in disk.images:
                    if image.name in names:
                        return f"point {point.id} names {image.name} too"
    return None


def spoiled(step: MergeImages, history: History) -> str | None:
    """
    Say which image of a merge is damaged or was found wrong: the result would count as sound.

    Args:
        step: The merge.
        history: What the store holds now; a verification may have ended since the plan.

    Returns:
        The reason not to merge, or None.

    Source:
        docs/verify.md, "What is found".
    """
    wrong = history.distrusted
    for image in step.images:
        if f"{step.target}/{image.name}" in wrong:
            return f"{image.name} was found wrong"
    return None


def files_needed(point: RestorePoint) -> Iterator[str]:
    """
    Give the files that a point names, and those that its images lie on.

    Args:
        point: The point.

    Yields:
        Such as ``"20261124T040407Z.xml"`` and ``"vda/20261124T040407Z.qcow2"``.

    Source:
        docs/store-format.md, ``images``.
    """
    yield from (file.name for file in point.files)
    for disk in point.disks:
        for image in disk.images:
            yield f"{disk.target}/{image.name}"
            yield f"{disk.target}/{image.backing}"


def describe_prune(step: DropPoints | MergeImages) -> tuple[str, ...]:
    """Return the headline of a step, then its details, one a line."""
    return _describe_drop(step) if isinstance(step, DropPoints) else (_describe_merge(step),)


def _describe_merge(step: MergeImages) -> str:
    size = format_bytes(step.write_bytes)
    on = f" on {step.backing}" if step.backing else ""
    images = counted(len(step.images), "image")
    return (
        f"{step.target}: merge {images} of point {step.point} into one{on} ({size} at most): "
        + ", ".join(image.name for image in step.images)
    )


def _describe_drop(step: DropPoints) -> tuple[str, ...]:
    points, files = counted(len(step.points), "point"), counted(len(step.files), "file")
    frees = format_bytes(step.freed_bytes)
    heirs = tuple(
        f"   point {point.id} takes over {counted(len(disk.images), 'image')} of {disk.target}"
        for point in step.heirs
        for disk in point.disks
        if any(not image.name.startswith(point.id) for image in disk.images)
    )
    if not step.points:
        count = counted(len(step.heirs), "point")
        names = "names" if len(step.heirs) == 1 else "name"
        return (f"take up a prune that was interrupted: {count} {names} what is its own",)
    return (f"drop {points}, delete {files} ({frees}){':' if heirs else ''}", *heirs)
