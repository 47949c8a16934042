"""
Images with content, in memory: they lie on each other as qcow2 images do.

::

    active   {3: 9}   --+
    base     {0: 1}   --+-- reads as {0: 1, 3: 9}

A cluster holds one number; 0 reads as zeros and is left out of what is read. Each new image has an
inode of its own, and its time moves exactly when it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeAlias

from attrs import define

from fibackup.model.chain import FileIdentity, Image
from fibackup.testing.law import law

__all__ = ["CLUSTER_BYTES", "Content", "ImageFile", "Images", "read_layers"]

Content: TypeAlias = Mapping[int, int]
"""What a disk holds: cluster number to a number that stands for the cluster's bytes."""

CLUSTER_BYTES = 65536
"""Size of a cluster, the default of qcow2."""


@define
class ImageFile:
    """An image: the clusters that it has of its own, and what it lies on."""

    path: PurePosixPath
    format: str
    clusters_in_size: int
    clusters: dict[int, int]
    backing: PurePosixPath | None
    inode: int
    mtime_ns: int

    @property
    def allocated_bytes(self) -> int:
        """Its own clusters, and one for the header."""
        return (len(self.clusters) + 1) * CLUSTER_BYTES

    @property
    def virtual_size_bytes(self) -> int:
        """Size of the disk."""
        return self.clusters_in_size * CLUSTER_BYTES

    @property
    def identity(self) -> FileIdentity:
        """What tells it from another image, and from itself before it was written."""
        raw = self.format == "raw"
        size = self.virtual_size_bytes if raw else self.allocated_bytes
        return FileIdentity(self.inode, size, self.mtime_ns)

    def observed(self) -> Image:
        """Return what its header says."""
        backing = str(self.backing) if self.backing is not None else ""
        return Image(
            path=self.path,
            format=self.format,
            virtual_size_bytes=self.virtual_size_bytes,
            allocated_bytes=self.allocated_bytes,
            identity=self.identity,
            header_backing=None if self.format == "raw" else backing,
        )


def read_layers(layers: Iterable[tuple[int, Mapping[int, int]]]) -> dict[int, int]:
    """
    Return what a chain reads as.

    Args:
        layers: Size in clusters, and clusters, of each image, top first.

    Returns:
        The clusters that are not zeros.
    """
    stack = tuple(layers)
    found: dict[int, int] = {}
    for number in range(stack[0][0]):
        value = _read_cluster(stack, number)
        if value:
            found[number] = value
    return found


def _read_cluster(stack: tuple[tuple[int, Mapping[int, int]], ...], number: int) -> int:
    for size, clusters in stack:
        if number >= size:
            return 0
        if number in clusters:
            return clusters[number]
    return 0


class Images(dict[PurePosixPath, ImageFile]):
    """The images of a host, by their paths."""

    def __init__(self) -> None:
        """Have none."""
        super().__init__()
        self.inode: int = 100
        self._ticks = 0

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def add(
        self,
        path: PurePosixPath,
        content: Content,
        *,
        size_clusters: int,
        image_format: str,
        backing: PurePosixPath | None,
    ) -> None:
        """Write a new image; one that is there is replaced, with another inode."""
        self.inode += 1
        self[path] = ImageFile(
            path, image_format, size_clusters, dict(content), backing, self.inode, self._tick()
        )

    def chain(self, path: PurePosixPath | None) -> list[ImageFile]:
        """Return an image and all that it lies on, top first."""
        files: list[ImageFile] = []
        while path is not None:
            files.append(self[path])
            path = files[-1].backing
        return files

    def read(self, path: PurePosixPath) -> dict[int, int]:
        """Return what an image reads as."""
        return read_layers((file.clusters_in_size, file.clusters) for file in self.chain(path))

    def touch(self, file: ImageFile) -> None:
        """Move the time of an image."""
        file.mtime_ns = self._tick()

    def write(self, path: PurePosixPath, cluster: int, value: int) -> None:
        """Write a cluster of an image."""
        file = self[path]
        law(0 <= cluster < file.clusters_in_size, f"{path} has no cluster {cluster}")
        file.clusters[cluster] = value
        self.touch(file)

    def resize(self, path: PurePosixPath, clusters: int) -> None:
        """Give an image another size; what it grows by reads as zeros."""
        top = self[path]
        if clusters > top.clusters_in_size and top.backing is not None:
            top.clusters |= dict.fromkeys(range(top.clusters_in_size, clusters), 0)
        top.clusters_in_size = clusters
        top.clusters = {
            number: value for number, value in top.clusters.items() if number < clusters
        }
        self.touch(top)

    def commit(self, files: list[ImageFile]) -> None:
        """Write what neighbours in a chain have, top first, into the last of them."""
        into, size = files[-1], files[0].clusters_in_size
        into.clusters, into.clusters_in_size = _merged(files, size), size
        self.touch(into)

    def pull(self, files: list[ImageFile], base: PurePosixPath | None) -> None:
        """Write what neighbours in a chain have, top first, into the first, then on *base*."""
        active = files[0]
        active.clusters = _merged(files, active.clusters_in_size)
        self.rebase(active, base)

    def rebase(self, file: ImageFile, backing: PurePosixPath | None) -> None:
        """Let an image lie on another one."""
        file.backing = backing
        self.touch(file)


def _merged(files: list[ImageFile], size: int) -> dict[int, int]:
    content: dict[int, int] = {}
    for number in range(size):
        for file in files:
            if number >= file.clusters_in_size:
                content[number] = 0
                break
            if number in file.clusters:
                content[number] = file.clusters[number]
                break
    return content
