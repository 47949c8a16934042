"""
The steps that bring disks of a point back, each from the same stored images.

::

    store    A.qcow2 <- B.qcow2 <- C.qcow2

    flat     INTO/vda.qcow2                                        FlattenImage
    chain    INTO/vda/A.qcow2 <- B.qcow2 <- C.qcow2                CopyStored
    linked   STORE/.../A.qcow2 <- B.qcow2 <- C.qcow2 <- INTO/vda.qcow2    CreateLinked

    vda ----------->
    vdb ----------->      several disks, side by side                     RestoreDisks
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TypeAlias

from attrs import frozen

from fibackup.model.point import StoredImage
from fibackup.units import counted, printable

__all__ = [
    "CopyStored",
    "CreateLinked",
    "DiskRestore",
    "FlattenImage",
    "RestoreDisks",
    "describe_disk",
]


@frozen
class FlattenImage:
    """
    Write a disk of a point as one image that needs no other.

    Attributes:
        target: The disk.
        images: The stored images, top first; every one is checked against its sha256.
        destination: The file to write; it must not exist.
        format: ``"qcow2"`` or ``"raw"``.
    """

    target: str
    images: tuple[StoredImage, ...]
    destination: PurePosixPath
    format: str

    @property
    def estimate_bytes(self) -> int:
        """What it is expected to write."""
        return sum(image.size_bytes for image in self.images)

    @property
    def destinations(self) -> tuple[PurePosixPath, ...]:
        """The files that the step makes, the one for the disk first."""
        return (self.destination,)


@frozen
class CopyStored:
    """
    Copy the stored images of a disk as they are, with their relative backing names.

    Attributes:
        target: The disk.
        images: The stored images, top first; every one is checked against its sha256 while it is
            copied.
        directory: Where the copies are put, each under its stored name; none may exist.
    """

    target: str
    images: tuple[StoredImage, ...]
    directory: PurePosixPath

    @property
    def destination(self) -> PurePosixPath:
        """The copy that shows the disk."""
        return self.destinations[0]

    @property
    def estimate_bytes(self) -> int:
        """What it is expected to write."""
        return sum(image.size_bytes for image in self.images)

    @property
    def destinations(self) -> tuple[PurePosixPath, ...]:
        """The files that the step makes, the one for the disk first."""
        return tuple(self.directory / image.name for image in self.images)

    @property
    def format(self) -> str:
        """The format of the copies."""
        return "qcow2"


@frozen
class CreateLinked:
    """
    Make an overlay on the store's own image of a disk; that stays as it is.

    Attributes:
        target: The disk.
        images: The stored images, top first.
        destination: The overlay; it must not exist.
        verify: True: every stored image is checked against its sha256 first. False: only its size
            and its header are looked at, so that the disk is there at once.
    """

    target: str
    images: tuple[StoredImage, ...]
    destination: PurePosixPath
    verify: bool = True

    @property
    def estimate_bytes(self) -> int:
        """What it is expected to write."""
        return 0

    @property
    def destinations(self) -> tuple[PurePosixPath, ...]:
        """The files that the step makes, the one for the disk first."""
        return (self.destination,)

    @property
    def format(self) -> str:
        """The format of the overlay."""
        return "qcow2"


DiskRestore: TypeAlias = FlattenImage | CopyStored | CreateLinked
"""A step that brings a disk back."""


@frozen
class RestoreDisks:
    """
    Bring disks back, side by side where there are cores; the first that fails stops the others.

    Attributes:
        disks: One step for each disk.
    """

    disks: tuple[DiskRestore, ...]


def describe_disk(step: DiskRestore) -> str:
    """
    Return a step in one line.

    Args:
        step: The step.

    Source:
        The step's own fields.
    """
    images = counted(len(step.images), "stored image")
    where = printable(str(step.destination))
    if isinstance(step, FlattenImage):
        return f"{step.target}: write {images} flat as {step.format} to {where}"
    if isinstance(step, CopyStored):
        return f"{step.target}: copy {images}, the disk is {where}"
    checked = "checked" if step.verify else "not checked"
    return f"{step.target}: make an overlay on {images}, {checked}, in the store: {where}"
