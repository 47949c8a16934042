"""
Names: of points, of overlays beside their sources, of images in the store.

::

    disk.bimg-A  (active)   ->  disk.bimg-B                 overlay of point B
    layers to store         ->  B.qcow2 on B-1.qcow2 on A.qcow2
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from attrs import evolve

from fibackup.errors import DomainStateError
from fibackup.model.chain import OVERLAY_MARK, BackingChain, Image
from fibackup.model.domain import Domain
from fibackup.model.ledger import Ledger, Overlay
from fibackup.model.point import History, RestorePoint, StoredImage, format_point_id
from fibackup.plan.steps import CopyImage

__all__ = ["free_id", "left_by_run", "outlived", "overlay_paths", "store_layers"]

_MAX_STEM_BYTES = 200


def free_id(now: datetime, domain: Domain, history: History) -> str:
    """
    Return the id for *now*, or for the first later second that no file carries yet.

    Args:
        now: The time, aware.
        domain: The domain, for its overlays and its ledger.
        history: The store's points, receipts and files.

    Source:
        docs/store-format.md, ``id``: a name, used once.
    """
    taken = set(history.taken_ids) | {point.id for point in history.points}
    taken |= {
        image.point_in_name
        for disk in domain.disks
        if disk.chain
        for image in disk.chain
        if image.point_in_name
    }
    taken |= {entry.point for entry in domain.ledger.overlays}
    if domain.ledger.run is not None:
        taken.add(domain.ledger.run.point)
    time = now
    while (point := format_point_id(time)) in taken:
        time += timedelta(seconds=1)
    return point


def overlay_paths(chains: Iterable[BackingChain], point: str) -> dict[str, PurePosixPath]:
    """
    Name the new overlays: ``<stem>.bimg-<point>`` beside the active layer.

    Two disks whose images differ only in the suffix (``data.qcow2``, ``data.img``) keep it.

    Args:
        chains: Chains of the chosen disks.
        point: Id of the point.

    Returns:
        The overlay of each target; no path twice.

    Source:
        docs/backup.md.
    """
    paths: dict[str, PurePosixPath] = {}
    for chain in chains:
        source = chain.active.path
        ours = OVERLAY_MARK in source.name
        stem = _short(source.name.partition(OVERLAY_MARK)[0] if ours else source.stem)
        path = source.with_name(f"{stem}{OVERLAY_MARK}{point}")
        name = _short(source.name)
        while path in paths.values():
            path = source.with_name(f"{name}{OVERLAY_MARK}{point}")
            name = f"{name}-{chain.target}"
        paths[chain.target] = path
    return paths


def _short(name: str) -> str:
    """Return what of *name* leaves room for the point: a file name has 255 bytes at most."""
    data = name.encode(errors="surrogateescape")
    return name if len(data) <= _MAX_STEM_BYTES else data[:_MAX_STEM_BYTES].decode(errors="ignore")


def left_by_run(ledger: Ledger, chains: tuple[BackingChain, ...]) -> tuple[Overlay, ...]:
    """
    Return the overlays of a run that ended right after its snapshot; they prove nothing.

    Args:
        ledger: The ledger, with the intent of the run.
        chains: Chains of the domain.

    Source:
        docs/store-format.md, "Ledger".
    """
    run = ledger.run
    if run is None:
        return ()
    return tuple(
        Overlay(chain.target, image.path, under.path, run.point, run.store, stale=True)
        for chain in chains
        for image, under in zip(chain.images, chain.images[1:], strict=False)
        if image.point_in_name == run.point and ledger.overlay(image.path) is None
    )


def store_layers(
    target: str,
    layers: tuple[Image, ...],
    under: str | None,
    history: History,
    point: str,
    *,
    frozen: bool = False,
    compress: bool = False,
) -> tuple[tuple[str, ...], tuple[CopyImage, ...], tuple[StoredImage, ...]]:
    """
    Name the stored images of *layers*; adopt what is stored already.

    Args:
        target: The disk.
        layers: Images that the point is to add, top first.
        under: Name of the stored image that they lie on, None for a full.
        history: The store, for its receipts.
        point: Id of the point.
        frozen: True: the top image too is frozen already (the domain is off).
        compress: True: the copies are compressed; what is stored already stays as it is.

    Returns:
        Names, top first; the copies to make, base first; the adopted images, top first.

    Raises:
        DomainStateError: An image that should be frozen is being written. Nothing was touched.

    Source:
        docs/store-format.md, "Receipts".
    """
    names: list[str] = []
    copies: list[CopyImage] = []
    adopted: list[StoredImage] = []
    for above, image in reversed(tuple(enumerate(layers))):
        settled = frozen or above > 0
        if settled and image.being_written:
            raise DomainStateError(
                target=target,
                reason=f"{image.path} is to be copied, but a process has it open for writing",
                remedy="an aborted block job keeps it so until the domain is shut down and started",
            )
        known = _receipt(target, image, under, history) if settled else None
        if known is not None:
            adopted.append(known)
            under = known.name
        else:
            name = _free_name(target, point, above, history, names)
            copy = _copy(target, image, name, under, frozen_already=settled)
            copies.append(evolve(copy, compress=compress))
            under = name
        names.append(under)
    return tuple(reversed(names)), tuple(copies), tuple(reversed(adopted))


def outlived(target: str, name: str, points: Sequence[RestorePoint]) -> bool:
    """
    Tell whether two later points of a disk have passed over an image that a run has left.

    A run takes over what a killed one had copied of the very images that it would copy. The first
    point after that one may lie elsewhere, as a full does that was asked for; and the next one may
    take the image over all the same, such as when it falls back to an older parent. Whoever would
    do so after that copies once more.

    Args:
        target: The disk.
        name: The stored image; it has a receipt.
        points: What is published, by sequence; their manifests are all there and sound.

    Returns:
        True: no point needs the image, and the last two of the disk are younger.

    Source:
        docs/store-format.md, "Receipts".
    """
    disks = [(point.id, d) for point in points for d in point.disks if d.target == target]
    if any(name in {image.name, image.backing} for _, disk in disks for image in disk.images):
        return False
    last = [point for point, _ in disks[-2:]]
    return len(last) > 1 and name[:16] < min(last)


def _free_name(target: str, point: str, above: int, history: History, names: list[str]) -> str:
    """Return a name that no file has, also of a run that was killed before its receipt."""
    number = above
    while True:
        name = f"{point}-{number}.qcow2" if number else f"{point}.qcow2"
        if name not in names and f"{target}/{name}" not in history.unclaimed:
            return name
        number += 1


def _copy(
    target: str, image: Image, name: str, under: str | None, *, frozen_already: bool
) -> CopyImage:
    return CopyImage(
        target=target,
        source=image.path,
        format=image.format,
        name=name,
        backing=under,
        identity=image.identity if frozen_already else None,
        estimate_bytes=image.allocated_bytes or 0,
    )


def _receipt(target: str, image: Image, under: str | None, history: History) -> StoredImage | None:
    """Return the stored image that an unfinished run made of *image*, when it fits here."""
    for receipt in history.receipts:
        source = receipt.image.source
        if (
            receipt.target == target
            and source.path == str(image.path)
            and source.format == image.format
            and source.identity == image.identity
            and receipt.image.backing == under
        ):
            return receipt.image
    return None
