"""
The stored images of one disk, over all points: who brought them, who lies on whom.

::

    20261120T..  <-  20261121T..  <-  20261122T..          a chain
                         ^
                         `----------  20261123T..          and a branch: offline points lie beside
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from fibackup.model.point import History, PointDisk, RestorePoint, StoredImage
from fibackup.model.tree import ImageTree, trees_of

__all__ = ["Forest", "broken_points", "forests", "grounded_images"]


class Forest:
    """
    The images of one disk; every look-up takes the same time, however many points there are.

    Args:
        target: The disk.
    """

    def __init__(self, target: str) -> None:
        """Begin without images."""
        self.target = target
        self.images: dict[str, StoredImage] = {}
        self.owner: dict[str, str] = {}
        self.disks: dict[str, PointDisk] = {}
        self.tops: dict[str, str | None] = {}

    def add(self, point: RestorePoint, disk: PointDisk) -> None:
        """Add what a point brought; points come by sequence, so a parent comes first."""
        self.disks[point.id] = disk
        for image in disk.images:
            self.images[image.name] = image
            self.owner.setdefault(image.name, point.id)
        own = disk.images[0].name if disk.images else None
        self.tops[point.id] = own or self.tops.get(disk.parent or "")

    def down(self, name: str | None) -> Iterator[str]:
        """Yield the names of the images from *name* down to the base, or to where it breaks."""
        seen: set[str] = set()
        while name is not None and name in self.images and name not in seen:
            seen.add(name)
            yield name
            name = self.images[name].backing

    def above(self, points: Iterable[str]) -> dict[str, set[str]]:
        """Return what lies right on each image, of all that these points need."""
        found: dict[str, set[str]] = {}
        for point in points:
            upper: str | None = None
            for name in self.down(self.tops.get(point)):
                children = found.setdefault(name, set())
                if upper in children:  # the rest was walked before
                    break
                if upper is not None:
                    children.add(upper)
                upper = name
        return found


def forests(history: History) -> dict[str, Forest]:
    """
    Return the forest of each disk.

    Args:
        history: What the store holds of a domain.

    Source:
        docs/store-format.md, ``images``.
    """
    found: dict[str, Forest] = {}
    for point in history.points:
        for disk in point.disks:
            if disk.target not in found:
                found[disk.target] = Forest(disk.target)
            found[disk.target].add(point, disk)
    return found


def broken_points(history: History) -> frozenset[str]:
    """
    Return the points that lack an image, have one of another size, or were found wrong.

    A disk above a wrong one may have been read since, and be right.

    Args:
        history: What the store holds of a domain.

    Source:
        docs/store-format.md, ``images``.
    """
    broken = {
        point.id
        for point in history.points
        if any(file.name in history.wrong_files for file in point.files)
    }
    broken.update(disk.point for disk in history.wrong_disks)
    wrong = history.damaged | history.wrong_files
    for target, tree in trees_of(history).items():
        whole = grounded_images(target, tree, wrong)
        broken.update(tree.lost)
        broken.update(point for point, top in tree.tops.items() if top not in whole)
    return frozenset(broken)


def grounded_images(target: str, tree: ImageTree, wrong: Container[str]) -> frozenset[str]:
    """
    Return the images of a disk that reach a base through images of which none is wrong.

    Args:
        target: The disk.
        tree: Its images.
        wrong: ``"vda/20261124T040407Z.qcow2"``: images that count as none.

    Source:
        docs/store-format.md, ``images``.
    """

    def reaches(image: StoredImage, under: bool | None) -> bool:  # noqa: FBT001
        return under is not False and f"{target}/{image.name}" not in wrong

    return frozenset(name for name, whole in tree.climb(reaches).items() if whole)
