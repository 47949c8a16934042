"""
Images and backing chains: what lies under a disk of a domain.

A chain is ordered as libvirt and QEMU order it, the active layer first and the base last::

    disk.bimg-20261124T040407Z   active layer: the guest writes here
      |  backing file
    disk.bimg-20261123T040406Z   frozen: nobody writes here
      |  backing file
    disk.qcow2                   base
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from attrs import field, frozen

from fibackup.errors import ChainError
from fibackup.model.checks import absolute, non_negative, one_line
from fibackup.render.drawable import Drawable
from fibackup.units import format_bytes, printable

__all__ = ["MAX_DEPTH", "MAX_STORED_DEPTH", "OVERLAY_MARK", "BackingChain", "FileIdentity", "Image"]

MAX_DEPTH = 200
"""Images in a chain at most; libvirt refuses more (``qemuDomainStorageSourceAccessAllow``)."""

MAX_STORED_DEPTH = 10_000
"""Images in a stored chain at most; who reads one follows no more headers, and asks for no more."""

OVERLAY_MARK = ".bimg-"
"""What stands between the stem of a disk's image and the restore point in our overlays' names."""


@frozen
class FileIdentity:
    """
    What shows that a file is still the same, unchanged file.

    Device numbers are left out: they change when a host restarts.

    Attributes:
        inode: ``st_ino``.
        size_bytes: ``st_size``.
        mtime_ns: ``st_mtime_ns``; moves with every write, not with a change of owner or label.
    """

    inode: int = field(validator=non_negative)
    size_bytes: int = field(validator=non_negative)
    mtime_ns: int

    def differences(self, other: FileIdentity) -> tuple[str, ...]:
        """
        Return the words for what differs: ``"inode"``, ``"size"``, ``"mtime"``.

        Args:
            other: The same file at another time.

        Source:
            stat(2).
        """
        pairs = (
            ("inode", self.inode, other.inode),
            ("size", self.size_bytes, other.size_bytes),
            ("mtime", self.mtime_ns, other.mtime_ns),
        )
        return tuple(word for word, mine, theirs in pairs if mine != theirs)


@frozen
class Image:
    """
    One file of a backing chain.

    Attributes:
        path: Absolute path, as libvirt writes it.
        format: ``"qcow2"`` or ``"raw"`` as the domain declares it, never probed.
        virtual_size_bytes: What the guest sees, or None when unknown.
        allocated_bytes: What the file takes on its file system, or None when unknown.
        identity: Inode, size and mtime when it was read, or None.
        header_backing: Absolute path of the backing file that the image's own header names,
            ``""`` when the header names none, None when no header was read (raw, or not looked at).
        problem: Why the image cannot be trusted or read, or None.
        being_written: True when a process holds QEMU's write lock on it.
    """

    path: PurePosixPath = field(validator=absolute)
    format: str = field(validator=one_line)
    virtual_size_bytes: int | None = None
    allocated_bytes: int | None = None
    identity: FileIdentity | None = None
    header_backing: str | None = None
    problem: str | None = None
    being_written: bool = False

    @property
    def point_in_name(self) -> str | None:
        """What an overlay of ours carries after ``.bimg-`` in its name, or None."""
        _, mark, point = self.path.name.rpartition(OVERLAY_MARK)
        return point if mark else None

    def __str__(self) -> str:
        """Return path, format and sizes on one line."""
        sizes = [
            f"{format_bytes(self.allocated_bytes)} allocated"
            if self.allocated_bytes is not None
            else "",
            f"{format_bytes(self.virtual_size_bytes)} virtual"
            if self.virtual_size_bytes is not None
            else "",
        ]
        known = ", ".join(size for size in sizes if size)
        return f"{printable(str(self.path))} ({self.format}{', ' if known else ''}{known})"


@frozen
class BackingChain(Drawable):
    """
    The images of one disk, from the active layer down to the base.

    Attributes:
        target: The disk's target, such as ``"vda"``.
        images: 1 to `MAX_DEPTH` images, active layer first, no path twice.
    """

    target: str = field(validator=one_line)
    images: tuple[Image, ...]

    def __attrs_post_init__(self) -> None:
        """Refuse chains that cannot be."""
        if not self.images:
            raise ChainError(reason="the chain has no image", target=self.target)
        if len(self.images) > MAX_DEPTH:
            raise ChainError(
                reason=f"{len(self.images)} images deep; libvirt allows {MAX_DEPTH}",
                target=self.target,
            )
        seen: set[PurePosixPath] = set()
        for image in self.images:
            if image.path in seen:
                raise ChainError(reason="the chain loops", target=self.target, path=str(image.path))
            seen.add(image.path)

    @property
    def active(self) -> Image:
        """The image that the guest writes now."""
        return self.images[0]

    @property
    def base(self) -> Image:
        """The image at the bottom."""
        return self.images[-1]

    @property
    def depth(self) -> int:
        """Number of images, the active layer included."""
        return len(self.images)

    @property
    def paths(self) -> tuple[PurePosixPath, ...]:
        """The images' paths, active layer first."""
        return tuple(image.path for image in self.images)

    def below(self, path: PurePosixPath) -> tuple[Image, ...]:
        """
        Return the images under *path*; none when *path* is not in the chain.

        Args:
            path: Path of an image.

        Source:
            docs/glossary.md: backing chain.
        """
        paths = self.paths
        return self.images[paths.index(path) + 1 :] if path in paths else ()

    def __iter__(self) -> Iterator[Image]:
        """Iterate from the active layer down."""
        return iter(self.images)

    def __len__(self) -> int:
        """Return the depth."""
        return len(self.images)

    def __str__(self) -> str:
        """Draw the chain, the active layer on top."""
        words = ["active layer", *("frozen" for _ in self.images[1:])]
        if self.depth > 1:
            words[-1] = "base"
        marks = ["   ", *("`- " for _ in self.images[1:])]
        drawn = zip(marks, self.images, words, strict=True)
        return "\n".join((self.target, *(f"{mark}{image}  {word}" for mark, image, word in drawn)))
