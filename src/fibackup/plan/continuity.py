"""
Continuity: on which restore point does a live chain still sit, provably?

Three witnesses must agree::

    ledger   overlay disk.bimg-B sits on point B of store S; under it lie these frozen images
    chain    disk.bimg-B is there, and under it lie they, each with its inode, size and mtime
    store    S has point B, and its image of this disk is the one the ledger means

The topmost overlay for which they agree is the parent; all layers from it upwards are new. When
they agree for none, the disk gets a full, and the sentence that says why goes into the point.
A point that a prune takes away is none: whoever writes next finishes that before it copies.

Device numbers and libvirt's image indexes take no part: both change with every restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from attrs import evolve, frozen

from fibackup.errors import ManifestError, StoreError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.ledger import Ledger, Overlay
from fibackup.model.point import History, PointDisk, RestorePoint, StoredImage
from fibackup.plan.records import damage_warnings
from fibackup.plan.steps import Plan, PlannedDisk, PublishPoint

__all__ = ["Parent", "find_parent", "losses", "parent_gone", "refuse_unfounded", "stale_overlays"]


@frozen
class Parent:
    """
    The point that a disk's next image lies on.

    Attributes:
        point: The point.
        disk: The disk in that point.
        new_layers: Images above the point's content, active layer first; 1 or more.
        doubt: Why a newer point is not the parent, empty when none was passed over.
    """

    point: RestorePoint
    disk: PointDisk
    new_layers: tuple[Image, ...]
    doubt: str = ""


def find_parent(chain: BackingChain, ledger: Ledger, history: History) -> Parent | str:
    """
    Return the newest proven parent of a disk, or the reason why there is none.

    Args:
        chain: The live chain, with the identities of its images.
        ledger: The domain's ledger.
        history: What the store holds of the domain.

    Returns:
        The parent, or a sentence without a final stop.

    Source:
        docs/design.md, "Continuity"; ADR 0006.
    """
    doubts: list[str] = []
    for depth, image in enumerate(chain.images):
        overlay = ledger.overlay(image.path)
        if overlay is None or overlay.store != history.store:
            continue
        found = _witnesses(chain, depth, overlay, ledger, history)
        if isinstance(found, str):
            doubts.append(found)
            continue
        point, disk = found
        if chain.active.virtual_size_bytes != disk.virtual_size_bytes:
            return (
                f"resized since point {point.id}: "
                f"{disk.virtual_size_bytes} bytes then, {chain.active.virtual_size_bytes} now"
            )
        return Parent(point, disk, chain.images[: depth + 1], next(iter(doubts), ""))
    if doubts:
        return doubts[0]
    if any(disk.target == chain.target for point in history.points for disk in point.disks):
        if not any(overlay.target == chain.target for overlay in ledger.overlays):
            return "the disk has no overlay yet that tells what was written since its last point"
        return "the ledger knows no overlay of the chain: the disk was replaced or consolidated"
    return "the first point of this disk in this store"


def parent_gone(plan: Plan, history: History) -> str | None:
    """
    Say which disk of a planned point would lie on what the store does not have any more.

    Args:
        plan: The plan of a backup or a recovery.
        history: What the store holds now, read under the lock under which the plan is to run.

    Returns:
        The reason not to run it, or None.

    Source:
        docs/store-format.md, "Writing order": a point names nothing that is not there.
    """
    if plan.verb == "backup":  # a recovery finishes what there is
        history = evolve(history, damaged=history.distrusted)
    backings = {(copy.target, copy.name): copy.backing for copy in plan.copies}
    for step in plan.steps:
        for disk in step.disks if isinstance(step, PublishPoint) else ():
            adopted = {(disk.target, image.name): image.backing for image in disk.adopted}
            lowest = (disk.target, disk.images[-1]) if disk.images else None
            backing = (backings | adopted).get(lowest) if lowest is not None else None
            fault = _parent_fault(disk, backing, history) if disk.parent is not None else None
            if fault is not None:
                return fault
    return None


def _parent_fault(disk: PlannedDisk, backing: str | None, history: History) -> str | None:
    """Say why a disk cannot lie on its parent, and on *backing* there; None: no image is new."""
    point = history.find(disk.parent or "")
    if point is None or all(each.target != disk.target for each in point.disks):
        return f"the store does not have point {disk.parent} of disk {disk.target} any more"
    if point.id in history.going:
        return f"a prune takes point {point.id} away"
    damage = _damage(history, point.id, disk.target)
    if damage is None and backing not in {None, history.top(point.id, disk.target).name}:
        return f"point {point.id} has another image of disk {disk.target} than when it was planned"
    return damage


def refuse_unfounded(
    point: RestorePoint, points: Sequence[RestorePoint], is_there: Callable[[str], bool]
) -> None:
    """
    Refuse a point that lies on an image that no point has, or that is gone.

    Args:
        point: A point that is about to be published.
        points: Those that are, by sequence.
        is_there: Whether the store has a file, such as ``"vda/20261124T040407Z.qcow2"``.

    Raises:
        StoreError: It does.

    Source:
        docs/store-format.md, "Receipts".
    """
    history = History(point.store, PurePosixPath(), point.uuid, tuple(points))
    named = {image for each in points for image in _images(each)}
    for disk in point.disks:
        if disk.parent is None:
            continue
        try:
            backing = disk.images[-1].backing if disk.images else None
            name = backing or history.top(disk.parent, disk.target).name
            file = f"{disk.target}/{name}"
            fault = "" if is_there(file) else f"{file} is gone"
            fault = fault if file in named else f"no point names {file}"
        except StoreError as error:
            fault = error.reason
        if fault:
            raise StoreError(
                domain=point.domain,
                target=disk.target,
                reason=f"point {point.id} would lie on what is not there: {fault}",
            )


def _images(point: RestorePoint) -> Iterator[str]:
    for disk in point.disks:
        yield from (f"{disk.target}/{image.name}" for image in disk.images)


def stale_overlays(chain: BackingChain, ledger: Ledger) -> frozenset[PurePosixPath]:
    """
    Return the overlays of a chain under which something is not as it was frozen.

    Args:
        chain: The live chain, with the identities of its images.
        ledger: The domain's ledger.

    Source:
        ADR 0006: a proof that is gone stays gone.
    """
    return frozenset(
        image.path
        for depth, image in enumerate(chain.images)
        if (overlay := ledger.overlay(image.path)) is not None
        and (
            overlay.stale or _changed_below(chain.images[depth + 1 :], overlay, ledger) is not None
        )
    )


def _witnesses(
    chain: BackingChain, depth: int, overlay: Overlay, ledger: Ledger, history: History
) -> tuple[RestorePoint, PointDisk] | str:
    """Ask store and chain whether *overlay*, found at *depth*, sits on its point."""
    if overlay.target != chain.target:
        return f"the overlay {overlay.path} belonged to disk {overlay.target}"
    if overlay.stale:
        return f"an image under {overlay.path} has changed since point {overlay.point}"
    point = history.find(overlay.point)
    disk = next((d for d in point.disks if d.target == chain.target), None) if point else None
    if point is None or disk is None:
        return f"the store does not have point {overlay.point} of this disk"
    if point.id in history.going:
        return f"a prune takes point {point.id} away"
    changed = _changed_below(chain.images[depth + 1 :], overlay, ledger)
    if changed is not None:
        return changed
    if not _same_image(overlay, history.top(point.id, chain.target), ledger):
        return f"the store's image of point {overlay.point} is not the one in the ledger"
    damage = _damage(history, point.id, chain.target)
    return damage if damage is not None else (point, disk)


def _damage(history: History, point: str, target: str) -> str | None:
    """Return what is wrong with the stored images of a disk at a point, or None."""
    try:
        damage = history.damage(point, target)
    except ManifestError as error:
        return f"the store's images of point {point} reach no base: {error.reason}"
    wrong = "is missing, has another size, or was found wrong by a verification"
    return f"the store's image {damage} {wrong}" if damage else None


def _same_image(overlay: Overlay, top: StoredImage, ledger: Ledger) -> bool:
    """
    Tell whether the store's image is the one that the ledger means.

    By its sha256; a run that ended between publishing and its result left none, then by the
    identity of the image it was copied from.
    """
    if overlay.sha256 is not None:
        return overlay.sha256 == top.sha256
    source = top.source
    under = ledger.image(overlay.below)
    return (
        under is not None and source.path == str(under.path) and source.identity == under.identity
    )


def _changed_below(images: tuple[Image, ...], overlay: Overlay, ledger: Ledger) -> str | None:
    """Return what differs under an overlay from what was frozen there, or None."""
    expected: PurePosixPath | None = overlay.below
    for image in images:
        frozen_image = ledger.image(image.path)
        if image.path != expected:
            return f"{image.path} lies where {expected or 'nothing'} lay at point {overlay.point}"
        if frozen_image is None or frozen_image.identity is None or image.identity is None:
            return f"{image.path} cannot be compared with what it was at point {overlay.point}"
        if image.format != frozen_image.format:
            was = frozen_image.format
            return f"{image.path} was {was} at point {overlay.point}, now {image.format}"
        differences = image.identity.differences(frozen_image.identity)
        if differences:
            return (
                f"{image.path} changed since point {overlay.point}: other {', '.join(differences)}"
            )
        expected = frozen_image.backing
    if expected is not None:
        return f"{expected} is no longer under {overlay.path}"
    return None


def losses(ledger: Ledger, history: History) -> Iterator[str]:
    """
    Say what the store has lost of a domain: manifests, or the newest point that it ever got.

    The newest point is never pruned, so where it is missing and no later one is there, points were
    removed by hand, or this is an older copy of the store. A manifest that a seal misses, or that
    cannot be read, is told by itself.

    Args:
        ledger: The domain's ledger; offline points do not stand in it.
        history: What the store holds of the domain.

    Yields:
        Sentences without a final stop.

    Source:
        docs/store-format.md, "Manifest" and ``points.sha256``.
    """
    yield from (f"the manifest {file} is damaged: {reason}" for file, reason in history.unreadable)
    yield from (f"the manifest of point {point} is gone" for point in history.lost)
    there = {
        *(point.id for point in history.points),
        *history.lost,
        *(file.removesuffix(".json") for file, _ in history.unreadable),
    }
    for known in ledger.stores:
        if known.uuid == history.store and max(there, default="") < known.point:
            yield (
                f"the store lacks point {known.point}, the newest that it got of this domain: "
                "points were removed, or it is an older copy of the store"
            )
    yield from damage_warnings(history)
