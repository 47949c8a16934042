"""
Which restored disks lie on the images of a store.

::

    /images/now/vda.qcow2 --backing file--> STORE/web1-UUID/vda/20261124T040407Z.qcow2 <- ...
             |                                                     ^
             `------ LinkedDisk: a prune asks for it --------------'  and leaves these images
"""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath

from attrs import evolve, field, frozen

from fibackup.errors import ModelError
from fibackup.model.checks import absolute, one_line, target_name
from fibackup.model.point import is_point_id

__all__ = ["LinkedDisk", "LinkedDisks"]


@frozen
class LinkedDisk:
    """
    An overlay that a restore has made on stored images.

    Attributes:
        overlay: Its path on the machine that made it.
        machine: That machine: its node name, and ``/etc/machine-id`` when there is one.
        places: Its directory and all above, nearest first: ``"st_dev:st_ino"`` of each.
        target: The disk, such as ``"vda"``.
        images: Names of all stored images under it, the one that it lies on first.
        time: When it was made, aware.
    """

    overlay: PurePosixPath = field(validator=absolute)
    machine: str = field(validator=one_line)
    places: tuple[str, ...]
    target: str = field(validator=target_name)
    images: tuple[str, ...]
    time: datetime

    def __attrs_post_init__(self) -> None:
        """Refuse names that are not those of images of points."""
        for name in self.images:
            if "/" in name or not is_point_id(name[:16]):
                raise ModelError(reason=f"{name!r} is not an image of a restore point")

    @property
    def files(self) -> tuple[str, ...]:
        """The images, in the domain's directory: ``"vda/20261124T040407Z.qcow2"``."""
        return tuple(f"{self.target}/{name}" for name in self.images)


@frozen
class LinkedDisks:
    """
    All that is known of a domain's linked disks, those that are gone by now among them.

    Attributes:
        disks: In the order in which they were made.
    """

    disks: tuple[LinkedDisk, ...] = ()

    def with_disk(self, disk: LinkedDisk) -> LinkedDisks:
        """
        Return them with one more, in place of an older one of the same path, machine and images.

        One of other images stays: the new one may fail because its path is taken.

        Args:
            disk: The new one.

        Source:
            docs/store-format.md, ``linked.json``.
        """
        others = (
            each
            for each in self.disks
            if (each.machine, each.overlay, each.files) != (disk.machine, disk.overlay, disk.files)
        )
        return evolve(self, disks=(*others, disk))

    def rivals(self, disk: LinkedDisk) -> frozenset[str]:
        """
        Return what the overlay of a disk lies on if it is that of another entry of the same path.

        Args:
            disk: One of them.

        Returns:
            Names of images.

        Source:
            docs/store-format.md, ``linked.json``.
        """
        return frozenset(
            each.images[0]
            for each in self.disks
            if each.machine == disk.machine and each.overlay == disk.overlay and each.images
        ) - {*disk.images[:1]}
