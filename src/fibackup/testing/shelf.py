"""
What a store in memory has of one domain.

::

    images     (vda, A.qcow2) -> clusters, and the record that a manifest has of it
    receipts   of images that are in no manifest yet
    manifests  as the text that a store has; their hashes are the seals
    removal, merge    what a run has begun, and the next one finishes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable
from datetime import datetime
from pathlib import PurePosixPath

from attrs import define, evolve, field

from fibackup.errors import DomainBusyError, HostError, ManifestError, StoreError, VerifyError
from fibackup.model.chain import Image
from fibackup.model.journal import Merge, Removal, as_merged
from fibackup.model.point import (
    History,
    Receipt,
    RestorePoint,
    SourceImage,
    StoredFile,
    StoredImage,
)
from fibackup.model.verification import (
    CheckedContent,
    CheckedFile,
    FaultKind,
    FileCheck,
    FoundFile,
    Survey,
    VerificationRecord,
)
from fibackup.parse.manifest import parse_manifest, render_manifest
from fibackup.plan.continuity import refuse_unfounded
from fibackup.plan.layers import outlived
from fibackup.plan.prune_steps import MergeImages
from fibackup.plan.removal import points_going
from fibackup.plan.steps import CopyImage
from fibackup.plan.verified import settled, trusted, with_found_wrong
from fibackup.plan.verify_steps import FileToVerify
from fibackup.testing.images import CLUSTER_BYTES, Content, read_layers

__all__ = ["KeptImage", "Shelf", "content_sha256", "copied", "sha256"]


@define
class KeptImage:
    """An image of the fake store."""

    record: StoredImage
    clusters_in_size: int
    clusters: dict[int, int]

    @property
    def sha256(self) -> str:
        """The hash of what it holds, whatever its record says."""
        return _fingerprint(self.clusters_in_size, self.record.backing, self.clusters)


@define
class Shelf:
    """A domain's part of the fake store."""

    images: dict[tuple[str, str], KeptImage] = field(factory=dict[tuple[str, str], KeptImage])
    receipts: dict[tuple[str, str], Receipt] = field(factory=dict[tuple[str, str], Receipt])
    files: dict[str, str] = field(factory=dict[str, str])
    unnamed: dict[str, str] = field(factory=dict[str, str])
    manifests: dict[str, str] = field(factory=dict[str, str])
    seals: dict[str, str] = field(factory=dict[str, str])
    record: VerificationRecord = field(factory=VerificationRecord)
    removal: Removal | None = None
    merge: tuple[Merge, KeptImage] | None = None
    written: bool = False
    in_use: frozenset[str] = frozenset()
    linked: dict[PurePosixPath, tuple[str, ...]] = field(
        factory=dict[PurePosixPath, tuple[str, ...]]
    )

    def read(self, target: str, name: str | None) -> dict[int, int]:
        """Return what an image reads as, by the backing names in the images alone."""
        layers: list[tuple[int, Content]] = []
        while name is not None:
            kept = self.images.get((target, name))
            if kept is None:
                raise AssertionError(f"{name} of {target} is not in the store")
            layers.append((kept.clusters_in_size, kept.clusters))
            name = kept.record.backing
        return read_layers(layers)

    def text(self, file: StoredFile) -> str:
        """Return a small file; it must be what was recorded."""
        text = self.files.get(file.name)
        if text is None or sha256(text) != file.sha256:
            raise VerifyError(reason="the file is not what was recorded", path=file.name)
        return text

    def data(self, file: StoredFile) -> bytes:
        """Return a small file of bytes; it must be what was recorded."""
        data = self.files.get(file.name, "").encode("latin-1")
        if not file.describes(data):
            raise VerifyError(reason="the file is not what was recorded", path=file.name)
        return data

    def verify(self, target: str, image: StoredImage) -> None:
        """Refuse an image that is not what was recorded."""
        kept = self.images.get((target, image.name))
        if kept is None:
            raise VerifyError(reason="the image is not in the store", path=image.name)
        if kept.sha256 != image.sha256:
            raise VerifyError(reason="the image is not what was recorded", path=image.name)

    def used(self, there: Container[PurePosixPath]) -> dict[str, str]:
        """Return the images that are in use, and why; of the overlays, those that are *there*."""
        found = dict.fromkeys(self.in_use, "a process has it open")
        for path, files in self.linked.items():
            if path in there:
                found |= dict.fromkeys(files, f"the linked disk {path} lies on it")
        return found

    def refuse_used(self, files: Iterable[str], there: Container[PurePosixPath]) -> None:
        """Refuse to take away what is in use."""
        used = self.used(there)
        for file in files:
            if file in used:
                raise DomainBusyError(reason=used[file], path=file)

    # --- points ---------------------------------------------------------------------------------

    def put_manifest(self, point: RestorePoint) -> None:
        """Write the manifest of a point, and its seal."""
        self.manifests[point.id] = render_manifest(point)
        self.seals[point.id] = sha256(self.manifests[point.id])

    def check_complete(self, point: RestorePoint) -> None:
        """Refuse a point that names what is not there, or what its receipt does not say."""
        for file in point.files:
            if file.name not in self.files:
                raise StoreError(reason="the file is not in the store", path=file.name)
        for disk in point.disks:
            for image in disk.images:
                if (disk.target, image.name) not in self.images:
                    raise StoreError(reason="an image is not in the store", path=image.name)
                receipt = self.receipts.get((disk.target, image.name))
                if receipt != Receipt(disk.target, image):
                    raise StoreError(reason="the receipt says otherwise", path=image.name)
        there = {f"{target}/{name}" for target, name in self.images}
        refuse_unfounded(point, self.points()[0], there.__contains__)

    def points(self) -> tuple[tuple[RestorePoint, ...], tuple[tuple[str, str], ...]]:
        """Return the points, and the manifests that cannot be read, with the reason."""
        points: list[RestorePoint] = []
        unreadable: list[tuple[str, str]] = []
        for name, text in sorted(self.manifests.items()):
            if sha256(text) != self.seals.get(name, sha256(text)):
                reason = "it is not the manifest that was published"
                unreadable.append((f"{name}.json", reason))
                continue
            try:
                points.append(parse_manifest(text))
            except ManifestError as error:
                unreadable.append((f"{name}.json", error.reason))
        ordered = tuple(sorted(points, key=lambda point: point.sequence))
        if self.merge is not None:
            merge, new = self.merge
            placed = self.images.get((merge.target, merge.name)) is new
            sizes = {merge.name: new.record.size_bytes} if placed else {merge.file: 0}
            ordered = as_merged(ordered, merge, sizes)
        return ordered, tuple(unreadable)

    def history(self, store: str, path: PurePosixPath, uuid: str) -> History:
        """Return what the store says of the domain."""
        points, unreadable = self.points()
        there = {f"{target}/{name}" for target, name in self.images}
        named = {
            f"{disk.target}/{image.name}"
            for point in points
            for disk in point.disks
            for image in disk.images
        }
        names = [*(name for _, name in self.images), *self.files, *self.manifests]
        found = History(
            store=store,
            path=path,
            uuid=uuid,
            directory=uuid if points else "",
            points=points,
            receipts=tuple(self.receipts.values()),
            taken_ids=frozenset(name[:16] for name in names),
            unclaimed=frozenset(there - named),
            orphans=frozenset(there - named - self._on_their_way()),
            damaged=frozenset(named - there),
            unreadable=unreadable,
            lost=tuple(sorted(self.seals.keys() - self.manifests.keys())),
        )
        found = with_found_wrong(found, self.record)
        return evolve(found, going=points_going(self.removal, found))

    def _on_their_way(self) -> set[str]:
        """Return the images that a receipt or a journal names."""
        found = {f"{target}/{name}" for target, name in self.receipts}
        found.update(self.removal.files if self.removal is not None else ())
        if self.merge is not None:
            found.update(f"{self.merge[0].target}/{name}" for name in self.merge[0].gone)
        return found

    def forget_outlived(self) -> None:
        """Remove images with a receipt that later points have passed over."""
        points, unreadable = self.points()
        if unreadable or self.seals.keys() - self.manifests.keys():
            return
        for target, name in [key for key in self.receipts if outlived(*key, points)]:
            self.images.pop((target, name), None)
            del self.receipts[target, name]

    def gather(self, step: MergeImages) -> KeptImage:
        """Return the image that a merge makes of several."""
        clusters: dict[int, int] = {}
        for image in reversed(step.images):
            clusters |= self.images[step.target, image.name].clusters
        top = self.images[step.target, step.images[0].name]
        record = evolve(
            top.record,
            backing=step.backing,
            size_bytes=(len(clusters) + 1) * CLUSTER_BYTES,
            sha256=_fingerprint(top.clusters_in_size, step.backing, clusters),
        )
        return KeptImage(record, top.clusters_in_size, clusters)

    # --- a verification -------------------------------------------------------------------------

    def survey(self, history: History) -> Survey:
        """Return everything that lies there."""
        sizes = {f"{name}.json": len(text) for name, text in self.manifests.items()}
        sizes |= {name: len(text.encode()) for name, text in self.files.items()}
        for (target, name), kept in self.images.items():
            sizes[f"{target}/{name}"] = kept.record.size_bytes
        sizes |= {f"{target}/{name}.receipt": 1 for target, name in self.receipts}
        digests = {name: sha256(text) for name, text in self.manifests.items()}
        return Survey(
            history=history,
            files=tuple(FoundFile(name, sizes[name]) for name in sorted(sizes)),
            record=self.record,
            digests=tuple(sorted(digests.items())),
            unsealed=tuple(sorted(self.manifests.keys() - self.seals.keys())),
            busy=self.written,
        )

    def check_file(self, file: FileToVerify, now: datetime) -> FileCheck:
        """Compare a file with what it should be."""
        target, _, name = file.file.rpartition("/")
        kept = self.images.get((target, name))
        text = self.files.get(name) if not target else None
        found = kept.sha256 if kept is not None else text and sha256(text)
        kind, reason = None, ""
        if found is None:
            kind, reason = FaultKind.MISSING, "the file is missing"
        elif kept and file.header and kept.record.backing != file.header.backing:
            kind, reason = FaultKind.HEADER, "its header names another backing file"
        if kind is None and file.read and found != file.sha256:
            kind, reason = FaultKind.SHA256, f"sha256 is {found}; {file.sha256} recorded"
        read = file.size_bytes if kind is None and file.read else None
        return FileCheck(file.file, file.sha256, now, kind, reason, read)

    def remember(self, entry: CheckedFile | CheckedContent | None, history: History) -> None:
        """Keep what a verification has found."""
        if entry is not None:
            self.record = trusted(history, self.record, before=entry.run)
        files = (entry,) if isinstance(entry, CheckedFile) else ()
        contents = (entry,) if isinstance(entry, CheckedContent) else ()
        there = {*self.files, *(f"{target}/{name}" for target, name in self.images)}
        gone = self.record.named - there
        self.record = settled(history, self.record.with_entries(files, contents, forget=gone))


def copied(step: CopyImage, image: Image, clusters: Content) -> KeptImage:
    """Return what the store keeps of an image of a host."""
    size = (image.virtual_size_bytes or 0) // CLUSTER_BYTES
    if image.identity is None or image.format != step.format:
        raise HostError(reason=f"not an image in {step.format} format", path=str(step.source))
    record = StoredImage(
        name=step.name,
        format="qcow2",
        size_bytes=CLUSTER_BYTES + len(clusters) * CLUSTER_BYTES // (2 if step.compress else 1),
        sha256=_fingerprint(size, step.backing, clusters),
        virtual_size_bytes=size * CLUSTER_BYTES,
        backing=step.backing,
        source=SourceImage(str(step.source), step.format, image.identity),
    )
    return KeptImage(record, size, dict(clusters))


def sha256(text: str) -> str:
    """Return the hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def content_sha256(size_bytes: int, clusters: Content) -> str:
    """Return the hash of what a disk reads as."""
    return sha256(json.dumps([size_bytes, sorted(clusters.items())]))


def _fingerprint(size: int, backing: str | None, clusters: Content) -> str:
    return sha256(json.dumps([size, backing, sorted(clusters.items())]))
