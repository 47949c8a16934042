"""
Journals of the store: what a prune is about to do, so that the next writer can finish it.

::

    prune.json     Removal: these points go, then these files
    merge.json     Merge: this image takes the place of those, and the point's manifest is this one
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from fibackup.errors import ModelError
from fibackup.model.checks import base_name, is_target, target_name
from fibackup.model.point import RestorePoint, StoredImage, is_point_id

__all__ = ["Merge", "Removal", "as_merged"]


@frozen
class Removal:
    """
    Points that are being taken away, and the files that go with them.

    Attributes:
        points: Ids of the points; their manifests go first.
        files: ``"vda/20261124T040407Z.qcow2"`` or ``"20261124T040407Z.xml"``.
    """

    points: tuple[str, ...]
    files: tuple[str, ...]

    def __attrs_post_init__(self) -> None:
        """Refuse names that are not those of files of points: a journal deletes nothing else."""
        for point in self.points:
            if not is_point_id(point):
                raise ModelError(reason=f"{point!r} is not the id of a restore point")
        for file in self.files:
            target, slash, name = file.rpartition("/")
            if not is_point_id(name[:16]) or (slash and not is_target(target)):
                raise ModelError(reason=f"{file!r} is not a file of a restore point")


@frozen
class Merge:
    """
    An image that is about to take the place of several of a point.

    Attributes:
        target: The disk.
        file: Name under which it waits, complete and durable; once it is gone, it has its place.
        name: Name of the topmost image that it replaces, and its own from then on.
        point: The point as it is then.
        gone: Names of the other images that it replaces.
    """

    target: str = field(validator=target_name)
    file: str = field(validator=base_name)
    name: str = field(validator=base_name)
    point: RestorePoint
    gone: tuple[str, ...]

    @property
    def image(self) -> StoredImage:
        """The new image."""
        images = self.point.disk(self.target).images
        return next(image for image in images if image.name == self.name)

    def __attrs_post_init__(self) -> None:
        """Refuse what is not about images of the point: a journal touches nothing else."""
        kept = {image.name for image in self.point.disk(self.target).images}
        if self.name not in kept or kept & {self.file, *self.gone}:
            raise ModelError(reason=f"point {self.point.id} does not have the image of its merge")
        for name in (self.file, self.name, *self.gone):
            if not is_point_id(name[:16]):
                raise ModelError(reason=f"{name!r} is not an image of a restore point")


def as_merged(
    points: tuple[RestorePoint, ...], merge: Merge, files: Mapping[str, int]
) -> tuple[RestorePoint, ...]:
    """
    Return the points as they are, when a merge was interrupted.

    As long as the new image waits, they are as their manifests say. Once it has its place, its
    point is as the journal says, whatever the manifest still says. A journal whose image neither
    waits nor has the place says nothing.

    Args:
        points: What the manifests say.
        merge: The journal.
        files: The files of the disk's directory, and their sizes in bytes.

    Source:
        docs/store-format.md, "Journals".
    """
    if merge.file in files or files.get(merge.name) != merge.image.size_bytes:
        return points
    return tuple(merge.point if point.id == merge.point.id else point for point in points)
