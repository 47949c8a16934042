"""
The ledger: what fibackup remembers with the domain itself, in libvirt's metadata.

It answers one question: on the content of which restore point does an overlay of ours sit?

::

    live chain                            ledger
    disk.bimg-B   active                  Overlay(disk.bimg-B, on point B of store S)
    disk.bimg-A   frozen                  FrozenImage(disk.bimg-A, identity, on disk.qcow2)
    disk.qcow2    base                    FrozenImage(disk.qcow2, identity, on nothing)

An overlay sits on point B as long as every image under it is the frozen image that is written
down here: same path, same place in the chain, same inode, size and mtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import PurePosixPath

from attrs import evolve, field, frozen
from attrs.validators import optional

from fibackup.model.chain import BackingChain, FileIdentity
from fibackup.model.checks import absolute, one_line

__all__ = ["FrozenImage", "KnownStore", "Ledger", "Overlay", "Run", "RunPhase", "consolidated"]


class RunPhase(StrEnum):
    """How far a run came that has not written its result yet."""

    INTENT = "intent"
    TAKEN = "taken"
    CONSOLIDATING = "consolidating"


@frozen
class Run:
    """
    A run that has begun: written before the snapshot, removed with the result.

    Attributes:
        point: The restore point it is to make.
        store: The store's UUID.
        phase: `RunPhase.INTENT` before the snapshot, `RunPhase.TAKEN` after it,
            `RunPhase.CONSOLIDATING` while a block job may be writing into a frozen image.
        frozen: True from before a freeze until a thaw was answered, in a later run if need be.
        suspended: True from before the guest is suspended until after it was resumed.
    """

    point: str = field(validator=one_line)
    store: str = field(validator=one_line)
    phase: RunPhase = RunPhase.INTENT
    frozen: bool = False
    suspended: bool = False


@frozen
class KnownStore:
    """
    A store that has points of this domain.

    Attributes:
        uuid: The store's UUID.
        path: Where it was when it was used last.
        point: The newest point it got.
    """

    uuid: str = field(validator=one_line)
    path: str
    point: str = field(validator=one_line)


@frozen
class FrozenImage:
    """
    An image that nobody writes any more, and what it was when it stopped.

    Attributes:
        path: Absolute path.
        format: Format the domain declares.
        backing: Path of the image under it, or None for a base.
        identity: Inode, size and mtime, measured after the snapshot that froze it; None until then.
    """

    path: PurePosixPath = field(validator=absolute)
    format: str = field(validator=one_line)
    backing: PurePosixPath | None = None
    identity: FileIdentity | None = None


@frozen
class Overlay:
    """
    An overlay that fibackup made, and what lies under it.

    Attributes:
        target: The disk.
        path: Absolute path of the overlay.
        below: Path of the image right under it.
        point: The point on whose content it sits.
        store: UUID of the store that has the point.
        sha256: sha256 of the point's own stored image of this disk; None until it is published.
        stale: True once an image under it has changed: it is ours still, but proves nothing.
        freed: True once a block job has put what it holds elsewhere: its file is to be deleted.
    """

    target: str = field(validator=one_line)
    path: PurePosixPath = field(validator=absolute)
    below: PurePosixPath = field(validator=absolute)
    point: str = field(validator=one_line)
    store: str = field(validator=one_line)
    sha256: str | None = None
    stale: bool = False
    freed: bool = False


@frozen
class Ledger:
    """
    What fibackup remembers with a domain.

    Attributes:
        overlays: Overlays of ours, in no order that matters.
        images: Frozen images under them.
        stores: Stores that have points of the domain.
        run: A run that has begun, or None.
        memory: File with the guest's memory that a run has made and not removed yet, or None.
    """

    overlays: tuple[Overlay, ...] = ()
    images: tuple[FrozenImage, ...] = ()
    stores: tuple[KnownStore, ...] = ()
    run: Run | None = None
    memory: PurePosixPath | None = field(default=None, validator=optional(absolute))

    def overlay(self, path: PurePosixPath) -> Overlay | None:
        """
        Return the entry of the overlay at *path*, or None when it is not ours.

        Args:
            path: Path of an image.

        Source:
            docs/store-format.md, "Ledger".
        """
        return next((entry for entry in self.overlays if entry.path == path), None)

    def image(self, path: PurePosixPath) -> FrozenImage | None:
        """
        Return the entry of the frozen image at *path*, or None.

        Args:
            path: Path of an image.

        Source:
            docs/store-format.md, "Ledger".
        """
        return next((entry for entry in self.images if entry.path == path), None)

    def lies_on(self, overlay: Overlay, path: PurePosixPath) -> bool:
        """
        Tell whether an overlay lies on *path* by what is written down.

        Overlays of ours may have lain between; what lay under the last of them is as far as it
        goes. So a template is never taken for the disk's own image when that has left the chain.

        Args:
            overlay: An overlay of ours.
            path: The image that is right under it now.

        Source:
            docs/consolidate.md, "What is never written".
        """
        below: Overlay | None = overlay
        for _ in range(len(self.overlays) + 1):
            if below is None or below.below == path:
                break
            below = self.overlay(below.below)
        return below is not None and below.below == path

    def without_unused(self, chains: tuple[BackingChain, ...]) -> Ledger:
        """
        Return the ledger without images and overlays that are in none of *chains*.

        Freed overlays stay until their files are gone.

        Args:
            chains: Every chain of the domain.

        Source:
            docs/store-format.md, "Ledger".
        """
        used = {path for chain in chains for path in chain.paths}
        return evolve(
            self,
            overlays=tuple(e for e in self.overlays if e.path in used or e.freed),
            images=tuple(entry for entry in self.images if entry.path in used),
        )

    @property
    def freed(self) -> tuple[PurePosixPath, ...]:
        """Overlays that a block job has freed, and whose files may be there still."""
        return tuple(entry.path for entry in self.overlays if entry.freed)

    def without(self, paths: tuple[PurePosixPath, ...]) -> Ledger:
        """
        Return the ledger without the overlays at *paths*.

        What lay on one of them lies on what that lay on: else it would be taken for the disk's own
        image, and stay in the chain for ever.

        Args:
            paths: Overlays whose files are gone.

        Source:
            docs/store-format.md, "Ledger".
        """
        under = {entry.path: entry.below for entry in self.overlays if entry.path in paths}
        kept: list[Overlay] = []
        for entry in self.overlays:
            if entry.path in under:
                continue
            below = entry.below
            for _ in under:
                below = under.get(below, below)
            kept.append(entry if below == entry.below else evolve(entry, below=below))
        return evolve(self, overlays=tuple(kept))

    def after_lost_job(self, chains: tuple[BackingChain, ...]) -> Ledger:
        """
        Return the ledger with the overlays marked that a block job freed without writing so.

        Only for a run that ended while it consolidated. What lay between an overlay of ours and an
        image under it, both still in the chain, was committed or pulled. When the overlay itself
        is gone, nobody knows where its data is, and it is not marked.

        Args:
            chains: Every chain of the domain.

        Source:
            libvirt ``virDomainBlockCommit``: the images between base and top become invalid.
        """
        if self.run is None or self.run.phase is not RunPhase.CONSOLIDATING:
            return self
        used = {path for chain in chains for path in chain.paths}
        gone = {
            path
            for chain in chains
            for image in chain
            for path in self._ours_under(image.path, chain.target, used)
        }
        return evolve(
            self,
            overlays=tuple(evolve(e, freed=True) if e.path in gone else e for e in self.overlays),
        )

    def _ours_under(
        self, path: PurePosixPath, target: str, used: set[PurePosixPath]
    ) -> Iterator[PurePosixPath]:
        """Yield the overlays that lay right under *path*, down to the first that is in use."""
        entry = self.overlay(path)
        for _ in self.overlays:
            below = self.overlay(entry.below) if entry is not None else None
            if below is None or below.path in used or below.target != target:
                return
            yield below.path
            entry = below


def consolidated(
    ledger: Ledger,
    *,
    target: str,
    removed: tuple[PurePosixPath, ...],
    after: BackingChain,
    written: PurePosixPath | None = None,
    stale: frozenset[PurePosixPath] = frozenset(),
) -> Ledger:
    """
    Return the ledger after images of a disk were committed or pulled away.

    The content under an overlay that is still there did not change, only the images that hold it.
    So the overlay keeps its point, and the image that was written is written down anew. Of the
    others, such as a template on which another disk lies too, what is written down stays: who
    changed them was not the job, and that must not be forgotten. When the disk's own image has left
    the chain, the overlay is the disk's own image from now on, and not ours.

    Args:
        ledger: The ledger before.
        target: The disk.
        removed: Overlays that are no longer in the chain; they are marked as freed.
        after: The chain as it is now, with the identities of its images.
        written: The image that was committed into, None for a pull.
        stale: Overlays whose proof did not hold before the job; the new identities of what lies
            under them must not stand in for it.

    Returns:
        The ledger to write.

    Source:
        libvirt ``virDomainBlockCommit``: the images between base and top, and top, become invalid.
    """
    gone = set(removed)
    under = dict(zip(after.paths, (*after.paths[1:], None), strict=True))
    known = {entry.path: entry.identity for entry in ledger.images if entry.path != written}
    frozen_now = tuple(
        FrozenImage(
            image.path, image.format, under[image.path], known.get(image.path, image.identity)
        )
        for image in after.images[1:]
    )
    paths = {*after.paths, *gone}
    overlays: list[Overlay] = []
    for entry in ledger.overlays:
        below = under.get(entry.path)
        if entry.path not in under:
            overlays.append(evolve(entry, freed=entry.freed or entry.path in gone))
        elif below is not None and entry.target == target and ledger.lies_on(entry, below):
            doubt = entry.stale or entry.path in stale
            overlays.append(evolve(entry, below=below, stale=doubt))
    return evolve(
        ledger,
        overlays=tuple(overlays),
        images=(*(entry for entry in ledger.images if entry.path not in paths), *frozen_now),
        run=None,
    )
