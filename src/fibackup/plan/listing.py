"""
What a list says of points: what each takes, needs and would free, and when it was verified.

::

    base 10 <- A 2 <- B 3        own    total    freed
    ^                      A     2      12       0      B reads through A
    `-- of point 0         B     3      15       3      and the base; only B itself goes with B

It looks at each image and each point once.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from fibackup.model.point import History, RestorePoint, StoredImage
from fibackup.model.tree import ImageTree, trees_of
from fibackup.model.verification import VerificationRecord
from fibackup.plan.verified import Verified, ages_in

__all__ = ["ListedPoint", "list_points"]


@frozen
class ListedPoint:
    """
    A point in a list.

    Attributes:
        point: The point.
        own_bytes: Bytes of what the point added: its images and its other files.
        total_bytes: Bytes of all that a restore of it reads: the images under its own too.
        freed_bytes: Bytes of its files that nothing else needs: what dropping this point alone
            frees at once, its manifest not counted. Merging may free more.
        verified: When it was last verified.
        tops: The stored image that shows each disk, by target; one that is not there is left out.
        whole: False when an image that it needs is missing, cut, or lies on nothing.
        protected: True when no retention drops it.
        going: True when a prune is taking it away, or was when it was interrupted.
    """

    point: RestorePoint
    own_bytes: int
    total_bytes: int
    freed_bytes: int
    verified: Verified
    tops: tuple[tuple[str, StoredImage], ...]
    whole: bool
    protected: bool
    going: bool = False


@frozen
class _Sums:
    """Of an image and of all those under it."""

    total_bytes: int
    freed_bytes: int
    damaged: bool


def list_points(
    history: History, record: VerificationRecord | None = None
) -> tuple[ListedPoint, ...]:
    """
    Say of each point what a list says.

    Args:
        history: What the store holds of a domain.
        record: When what was last verified, None when that is not asked.

    Returns:
        The points, oldest first; the work grows with their number.

    Source:
        docs/cli.md, "What a list says".
    """
    trees = trees_of(history)
    sums = {target: _sums(history, target, tree) for target, tree in trees.items()}
    ages = ages_in(trees, history, record or VerificationRecord())
    return tuple(_listed(history, point, trees, sums, ages[point.id]) for point in history.points)


def _sums(history: History, target: str, tree: ImageTree) -> Mapping[str, _Sums]:
    users = tree.users()

    def combine(image: StoredImage, under: _Sums | None) -> _Sums:
        alone = users.get(image.name, 0) == 1
        below = under or _Sums(0, 0, damaged=False)
        return _Sums(
            total_bytes=image.size_bytes + below.total_bytes,
            freed_bytes=image.size_bytes + below.freed_bytes if alone else 0,
            damaged=below.damaged or f"{target}/{image.name}" in history.damaged,
        )

    return tree.climb(combine)


def _listed(
    history: History,
    point: RestorePoint,
    trees: Mapping[str, ImageTree],
    sums: Mapping[str, Mapping[str, _Sums]],
    verified: Verified,
) -> ListedPoint:
    total = freed = files = sum(file.size_bytes for file in point.files)
    tops: list[tuple[str, StoredImage]] = []
    whole = True
    for disk in point.disks:
        tree = trees[disk.target]
        top = tree.tops.get(point.id)
        if top is not None:
            tops.append((disk.target, tree.images[top]))
        below = sums[disk.target].get(top or "")
        if below is None:
            whole = False
            continue
        total += below.total_bytes
        freed += below.freed_bytes
        whole = whole and not below.damaged
    return ListedPoint(
        point=point,
        own_bytes=files + point.size_bytes,
        total_bytes=total,
        freed_bytes=freed,
        verified=verified,
        tops=tuple(tops),
        whole=whole,
        protected=point.id in history.protected,
        going=point.id in history.going,
    )
