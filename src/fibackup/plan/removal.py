"""
Judge a removal that was interrupted: what of it is still to be taken away.

::

    prune.json        points A, B   files of A, B
    as it says        A and B go, then their files
    B is protected    A and B stay, and what they need; what nobody needs goes
    C lies on A       the same: C was taken since, and the journal is out of date
    C is wrong        the same, when it is all that would be left: it was found wrong since
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

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
        return frozenset(point.id for point in history.points if point.id not in dropped)

    return spared


def left_to_remove(
    removal: Removal, history: History, spared: Container[str] = frozenset()
) -> Removal:
    """
    Return what of a removal is still to be taken away.

    When a point that would go is listed still and is to stay, or another point needs what would
    go, or no other one is whole, all points that are listed stay: they may lie on each other.

    Args:
        removal: What a prune was taking away when it was interrupted.
        history: What the store holds.
        spared: Ids of points that stay, besides those that are protected.

    Returns:
        The removal; or one without points, of the files that no point needs.

    Source:
        docs/store-format.md, "Journals".
    """
    listed = [point for point in history.points if point.id in removal.points]
    others = [point for point in history.points if point.id not in removal.points]
    stay = any(point.id in spared or point.id in history.protected for point in listed)
    needed = any(_needs(point, removal) for point in others)
    if not (stay or needed or (listed and _none_is_whole(others, history))):
        return removal
    if _lies_on_unnamed(removal, history.points):  # what is under that, no manifest says
        return Removal((), ())
    named = {file for point in history.points for file in files_needed(point)}
    return Removal((), tuple(file for file in removal.files if file not in named))


def points_going(removal: Removal | None, history: History) -> frozenset[str]:
    """
    Return the points that are listed still, and that the next writer takes away.

    Args:
        removal: What a prune is taking away, or was when it was interrupted; None for nothing.
        history: What the store holds.

    Source:
        docs/store-format.md, "Journals".
    """
    if removal is None:
        return frozenset()
    left = left_to_remove(removal, history).points
    return frozenset(point.id for point in history.points if point.id in left)


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
