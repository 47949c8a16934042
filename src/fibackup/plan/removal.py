"""
Judge a removal that was interrupted: what of it is still to be taken away.

::

    prune.json        points A, B   files of A, B
    as it says        A and B go, then their files
    B is protected    A and B stay, and what they need; what nobody needs goes
    and is damaged    it waits: nobody can tell what B needs
    a file is open    A and B stay; when they are gone, it waits
    C lies on A       the same: C was taken since, and the journal is out of date
    C is wrong        the same, when it is all that would be left: it was found wrong since
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable

from fibackup.model.journal import Removal
from fibackup.model.point import History, RestorePoint
from fibackup.plan.forest import broken_points
from fibackup.plan.prune_steps import files_needed

__all__ = ["all_but", "left_to_remove", "points_going", "spare_none"]


def spare_none(_: History) -> frozenset[str]:
    """
    Spare no point: an interrupted removal is finished, as far as nothing else speaks against it.

    Args:
        _: What the store holds.

    Source:
        docs/store-format.md, "Journals".
    """
    return frozenset()


def all_but(dropped: Container[str]) -> Callable[[History], frozenset[str]]:
    """
    Return what spares every point but some, also those of which a plan did not know.

    Args:
        dropped: Ids of points that a plan drops.

    Source:
        docs/store-format.md, "Journals".
    """

    def spared(history: History) -> frozenset[str]:
        there = {*(point.id for point in history.points), *_unreadable(history)}
        return frozenset(point for point in there if point not in dropped)

    return spared


def left_to_remove(
    removal: Removal,
    history: History,
    spared: Container[str] = frozenset(),
    used: Collection[str] = frozenset(),
) -> Removal | None:
    """
    Return what of a removal is still to be taken away.

    When a point that would go is there still and is to stay, or a file of it is in use, or another
    point needs what would go, or no other one is whole, all points that are there stay: they may
    lie on each other.

    Args:
        removal: What a prune was taking away when it was interrupted.
        history: What the store holds.
        spared: Ids of points that stay, besides those that are protected.
        used: Files of the removal that a process has open, or a linked disk lies on.

    Returns:
        The removal; or one without points, of the files that no point needs; or None when it
        waits: a file that would go is in use, or a manifest is damaged or gone of a point that
        stays, and it cannot be told what that needs.

    Source:
        docs/store-format.md, "Journals".
    """
    left = _left(removal, history, removal.points if used else spared)
    if not set(used).isdisjoint(left.files):
        return None
    unknown = {*_unreadable(history), *history.lost}
    return left if unknown <= set(left.points) else None


def points_going(removal: Removal | None, history: History) -> frozenset[str]:
    """
    Return the points that are listed still, and that the next writer who can takes away.

    Args:
        removal: What a prune is taking away, or was when it was interrupted; None for nothing.
        history: What the store holds.

    Source:
        docs/store-format.md, "Journals".
    """
    if removal is None:
        return frozenset()
    left = _left(removal, history).points
    return frozenset(point.id for point in history.points if point.id in left)


def _left(removal: Removal, history: History, spared: Container[str] = frozenset()) -> Removal:
    """Return what is left when nothing is needed but what manifests that can be read tell."""
    listed = {point.id for point in history.points if point.id in removal.points}
    others = [point for point in history.points if point.id not in removal.points]
    there = listed | _unreadable(history).intersection(removal.points)
    stay = any(point in spared or point in history.protected for point in there)
    needed = any(_needs(point, removal) for point in others)
    if not (stay or needed or (there and _none_is_whole(others, history))):
        return removal
    if _lies_on_unnamed(removal, history.points):  # what is under that, no manifest says
        return Removal((), ())
    named = {file for point in history.points for file in files_needed(point)}
    return Removal((), tuple(file for file in removal.files if file not in named))


def _unreadable(history: History) -> frozenset[str]:
    """Return the ids of the points whose manifests are there, and damaged."""
    return frozenset(file.removesuffix(".json") for file, _ in history.unreadable)


def _needs(point: RestorePoint, removal: Removal) -> bool:
    """Tell whether a point needs a file that would go, or a disk of it is as at such a point."""
    return not {*files_needed(point)}.isdisjoint(removal.files) or any(
        not disk.images and disk.parent in removal.points for disk in point.disks
    )


def _none_is_whole(points: Iterable[RestorePoint], history: History) -> bool:
    """Tell whether something is wrong with each of some points, by what is recorded."""
    return {point.id for point in points} <= broken_points(history)


def _lies_on_unnamed(removal: Removal, points: Iterable[RestorePoint]) -> bool:
    """Tell whether a point lies on an image of a point that is gone already."""
    images = [
        (disk.target, image) for point in points for disk in point.disks for image in disk.images
    ]
    named = {f"{target}/{image.name}" for target, image in images}
    lies_on = {f"{target}/{image.backing}" for target, image in images}
    return not (lies_on - named).isdisjoint(removal.files)
