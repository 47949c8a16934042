"""
The stored images of one disk, as a tree: which lie on which, and which points show them.

::

    base  <-  A  <-  B        point b shows B
              ^
              `---  C         point c shows C, point d is as c

It is put together once, in time that grows with the number of points and not with its square;
`History.images` is for one point at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import TypeVar

from fibackup.model.point import History, PointDisk, StoredImage

__all__ = ["ImageTree", "trees_of"]

_T = TypeVar("_T")


class ImageTree:
    """
    The images of a disk that the points of a history name.

    Args:
        history: What the store holds.
        target: The disk.

    Attributes:
        images: By name.
        owners: The point that brought an image, by the image's name.
        tops: The image that shows the disk, by point.
        shown_by: The points that show an image, by its name.
        lost: Why a point that has the disk shows no image, by point.
        broken: Why an image does not lie on another as it should, by name.
    """

    def __init__(self, history: History, target: str) -> None:
        """Look at every point once."""
        self.images: dict[str, StoredImage] = {}
        self.owners: dict[str, str] = {}
        self.tops: dict[str, str] = {}
        self.lost: dict[str, str] = {}
        disks = {
            point.id: disk
            for point in history.points
            for disk in point.disks
            if disk.target == target
        }
        for point, disk in disks.items():
            for image in disk.images:
                self.images[image.name] = image
                self.owners[image.name] = point
        self._find_tops(disks)
        self.shown_by: dict[str, list[str]] = {}
        for point, top in self.tops.items():
            self.shown_by.setdefault(top, []).append(point)
        self._above: dict[str, list[str]] = {name: [] for name in self.images}
        for name, image in self.images.items():
            if image.backing in self._above:
                self._above[image.backing].append(name)
        bases = [name for name, image in self.images.items() if image.backing is None]
        self._order = tuple(self._upwards(bases))
        self.broken: dict[str, str] = dict(self._find_broken())

    def _find_tops(self, disks: Mapping[str, PointDisk]) -> None:
        """Follow a disk that is as at its parent; what was followed once is not followed again."""
        for point in disks:
            way: list[str] = []
            at = point
            while at in disks and at not in self.tops and at not in way and not disks[at].images:
                way.append(at)
                at = disks[at].parent or ""
            if at in disks and disks[at].images:
                self.tops[at] = disks[at].images[0].name
            if at in self.tops:
                self.tops.update(dict.fromkeys(way, self.tops[at]))
            else:
                words = f"it is as at point {at}, which is not there, or has not the disk"
                self.lost.update(dict.fromkeys(way, words))

    def _find_broken(self) -> Iterator[tuple[str, str]]:
        reached = set(self._order)
        for name, image in self.images.items():
            if image.backing is not None and image.backing not in self.images:
                yield name, f"it lies on {image.backing}, which no point names"
                reached.update(self._upwards([name]))
        for name, image in self.images.items():
            if name not in reached:
                yield name, f"it lies on {image.backing}, round in a circle"

    def _upwards(self, names: Iterable[str]) -> Iterator[str]:
        """Give images and all that lies on them, each after what it lies on."""
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            yield name
            waiting.extend(self._above[name])

    def shown_through(self, *names: str) -> frozenset[str]:
        """
        Return the points whose disk reads through any of these images.

        Args:
            names: Images; those that no point names are passed over.

        Source:
            qcow2: a cluster that an image does not have is read from its backing file.
        """
        seen: set[str] = set()
        waiting = [name for name in names if name in self.images]
        while waiting:
            name = waiting.pop()
            if name not in seen:  # a circle ends here
                seen.add(name)
                waiting.extend(self._above[name])
        return frozenset(point for name in seen for point in self.shown_by.get(name, ()))

    def images_of(self, point: str) -> tuple[StoredImage, ...]:
        """
        Return the images that make up the disk at a point, top first; none when they do not.

        Args:
            point: Id of the point.

        Source:
            docs/store-format.md, ``images``.
        """
        chain: dict[str, StoredImage] = {}
        name = self.tops.get(point)
        while name is not None:
            if name in self.broken or name in chain:
                return ()
            chain[name] = self.images[name]
            name = self.images[name].backing
        return tuple(chain.values())

    def over(self, name: str) -> tuple[str, ...]:
        """
        Return the images that the point which has an image laid on it, top first.

        Args:
            name: The image.

        Source:
            docs/store-format.md, ``images``.
        """
        found: dict[str, None] = {}
        above = self.tops.get(self.owners[name])
        while above is not None and above != name and above in self.images and above not in found:
            found[above] = None
            above = self.images[above].backing
        return tuple(found)

    def climb(self, combine: Callable[[StoredImage, _T | None], _T]) -> Mapping[str, _T]:
        """
        Work out a value for each image that reaches a base, from the bases up.

        Args:
            combine: Makes an image's value of the image and of the value of what it lies on; that
                is None for a base.

        Returns:
            The values, by name.

        Source:
            docs/store-format.md, ``images``.
        """
        found: dict[str, _T] = {}
        for name in self._order:
            image = self.images[name]
            under = None if image.backing is None else found[image.backing]
            found[name] = combine(image, under)
        return MappingProxyType(found)

    def fingerprints(self) -> Mapping[str, str]:
        """
        Return a sha256 for each image that reaches a base, of its own and all those under it.

        Source:
            docs/store-format.md, ``verified.json``.
        """
        return self.climb(
            lambda image, under: sha256(f"{image.sha256}{under or ''}".encode()).hexdigest()
        )

    def users(self) -> Mapping[str, int]:
        """
        Return how many points read through each image.

        Source:
            docs/store-format.md, ``images``.
        """
        count = Counter(self.tops.values())
        for name in reversed(self._order):
            backing = self.images[name].backing
            if backing is not None:
                count[backing] += count[name]
        return MappingProxyType(count)


def trees_of(history: History) -> Mapping[str, ImageTree]:
    """Return the images of each disk that any point has, as trees, by target."""
    targets = dict.fromkeys(disk.target for point in history.points for disk in point.disks)
    return {target: ImageTree(history, target) for target in targets}
