"""
Plan to shorten live chains, without touching an image that is not ours to touch.

::

    rolling            template <- disk.qcow2 <- bimg-A <- bimg-B <- bimg-C (active)
                                       base      |------ top          stays
                       template <- disk.qcow2 <- bimg-C (active)

    full (commit)      template <- disk.qcow2 (active)
    full (pull)        template <- bimg-C (active)         disk.qcow2 is left as it is

Only overlays of the ledger are committed or deleted. The base is the image right under the
oldest of them: the disk's own image, never the template below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from attrs import evolve, frozen

from fibackup.errors import DomainStateError, PolicyError, SharedBaseError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, Domain, ImageUse
from fibackup.model.ledger import Ledger
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.selection import chain_of, check_disk, check_state, choose_disks, live_states
from fibackup.plan.steps import (
    CommitImages,
    ConsolidateDisk,
    Decision,
    EachDisk,
    Expectation,
    ExpectedDisk,
    Plan,
    PullImages,
)

__all__ = [
    "ConsolidationPolicy",
    "Method",
    "plan_consolidation",
    "rolling",
    "sharing",
]


class Method(StrEnum):
    """How a chain is shortened: by commit into the base, or by pull into the active layer."""

    BLOCKCOMMIT = "blockcommit"
    BLOCKPULL = "blockpull"


@frozen
class ConsolidationPolicy:
    """
    What the caller wants.

    Attributes:
        method: Commit or pull.
        keep_overlay: True: the active layer stays an overlay (the rolling form).
        disks: Targets; empty means all that have overlays of ours.
        bandwidth_bytes: Bytes in a second at most, 0 without a limit.
        timeout_seconds: Time limit of each disk's job.
        allow_paused: True: also a domain that its owner paused.
    """

    method: Method = Method.BLOCKCOMMIT
    keep_overlay: bool = False
    disks: tuple[str, ...] = ()
    bandwidth_bytes: int = 0
    timeout_seconds: float = 3600.0
    allow_paused: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse limits that are none."""
        if self.bandwidth_bytes < 0 or self.timeout_seconds <= 0:
            raise PolicyError(reason="a bandwidth of less than 0, or a time limit of 0 seconds")


def plan_consolidation(
    domain: Domain,
    *,
    uses: Sequence[ImageUse] = (),
    policy: ConsolidationPolicy | None = None,
) -> Plan:
    """
    Plan to shorten the live chains of a running domain.

    Args:
        domain: The domain, just read.
        uses: Images that other domains use.
        policy: What the caller wants.

    Returns:
        A plan with one `ConsolidateDisk` for each disk that has overlays of ours.

    Raises:
        SharedBaseError: Another domain uses an image that would be written. Nothing was touched.
        DomainStateError: The domain is not running, is busy, or has libvirt snapshots.
        PolicyError: There is nothing to consolidate.

    Source:
        libvirt ``virDomainBlockCommit``, ``virDomainBlockRebase``; docs/design.md, "Live side".
    """
    wishes = policy or ConsolidationPolicy()
    check_state(domain, BackupPolicy(allow_paused=wishes.allow_paused, offline=False))
    if domain.snapshots:
        raise DomainStateError(
            domain=domain.name,
            reason=f"libvirt keeps snapshots that need the chain: {', '.join(domain.snapshots)}",
            remedy="delete them first: virsh snapshot-delete --metadata",
        )
    chosen = choose_disks(domain, BackupPolicy(disks=wishes.disks, skip_unsupported=True)).disks
    disks = tuple(
        each for disk in chosen if (each := _consolidate(domain, disk, wishes)) is not None
    )
    if not disks:
        raise PolicyError(domain=domain.name, reason="no overlay of ours is in a chain to shorten")
    for disk in disks:
        _refuse_shared(domain, disk, uses)
    targets = {disk.job.target for disk in disks}
    return Plan(
        verb="consolidate",
        domain=domain.name,
        uuid=domain.uuid,
        store="",
        point="",
        expects=Expectation(
            disks=tuple(
                ExpectedDisk.of(chain_of(disk)) for disk in chosen if disk.target in targets
            ),
            ledger=domain.ledger,
            states=live_states(BackupPolicy(allow_paused=wishes.allow_paused)),
        ),
        decisions=tuple(
            Decision(disk.target, None, "the chain is as short as it gets")
            for disk in chosen
            if disk.target not in targets
        ),
        steps=(EachDisk(disks),),
    )


def rolling(ledger: Ledger, chain: BackingChain) -> ConsolidateDisk | None:
    """
    Return how to commit what lies between a disk's active layer and its own image.

    Args:
        ledger: The domain's ledger.
        chain: The disk's chain at that time; the active layer is ours.

    Returns:
        The step's part, None when the chain is short already.

    Source:
        docs/design.md, "Rolling consolidation".
    """
    ours = _ours_below(ledger, chain)
    if not ours:
        return None
    base = chain.images[len(ours) + 1]
    return ConsolidateDisk(
        job=CommitImages(
            target=chain.target,
            base=base.path,
            top=ours[0].path,
            pivot=False,
            leaves=(chain.active.path, *(image.path for image in chain.images[len(ours) + 1 :])),
        ),
        overlays=tuple(image.path for image in ours),
    )


def _ours_below(ledger: Ledger, chain: BackingChain) -> tuple[Image, ...]:
    """Return the overlays of ours right under the active layer, without a foreign one between."""
    out: list[Image] = []
    for image in chain.images[1:-1]:
        if ledger.overlay(image.path) is None:
            break
        out.append(image)
    return tuple(out)


def _consolidate(domain: Domain, disk: Disk, policy: ConsolidationPolicy) -> ConsolidateDisk | None:
    check_disk(domain, disk)
    chain = chain_of(disk)
    if domain.ledger.overlay(chain.active.path) is None:
        if _has_ours(domain, chain):
            raise DomainStateError(
                domain=domain.name,
                target=disk.target,
                reason=f"{chain.active.path} is not ours and lies on an overlay of ours",
                remedy="merge the foreign snapshot first: virsh blockcommit",
            )
        return None
    part = rolling(domain.ledger, chain)
    if policy.keep_overlay and policy.method is Method.BLOCKCOMMIT:
        return None if part is None else _limited(part, policy)
    ours = (chain.active, *_ours_below(domain.ledger, chain))
    base = chain.images[len(ours)]
    if policy.method is Method.BLOCKCOMMIT:
        return _limited(_commit_all(disk, chain, ours, base), policy)
    return _limited(_pull(disk, chain, ours, base, policy), policy)


def _has_ours(domain: Domain, chain: BackingChain) -> bool:
    return any(domain.ledger.overlay(image.path) is not None for image in chain)


def _commit_all(
    disk: Disk, chain: BackingChain, ours: tuple[Image, ...], base: Image
) -> ConsolidateDisk:
    job = CommitImages(
        target=disk.target,
        base=base.path,
        top=chain.active.path,
        pivot=True,
        leaves=tuple(image.path for image in chain.images[len(ours) :]),
    )
    return ConsolidateDisk(job, tuple(image.path for image in ours))


def _pull(
    disk: Disk,
    chain: BackingChain,
    ours: tuple[Image, ...],
    base: Image,
    policy: ConsolidationPolicy,
) -> ConsolidateDisk:
    """
    Pull up what is ours and, in the full form, the disk's own image too; a template stays.

    Source: libvirt ``virDomainBlockRebase``: *base* is the image that stays right below.
    """
    under = chain.below(base.path)
    stays = base if policy.keep_overlay else next(iter(under), None)
    rest = chain.images[chain.images.index(stays) :] if stays is not None else ()
    job = PullImages(
        target=disk.target,
        base=stays.path if stays is not None else None,
        leaves=(chain.active.path, *(image.path for image in rest)),
    )
    return ConsolidateDisk(job, tuple(image.path for image in ours[1:]))


def _limited(part: ConsolidateDisk, policy: ConsolidationPolicy) -> ConsolidateDisk:
    return evolve(
        part,
        job=evolve(
            part.job,
            bandwidth_bytes=policy.bandwidth_bytes,
            timeout_seconds=policy.timeout_seconds,
        ),
    )


def _refuse_shared(domain: Domain, disk: ConsolidateDisk, uses: Sequence[ImageUse]) -> None:
    """Refuse to write or to free an image that another domain's chain has."""
    images = {image.path: image for image in chain_of(domain.disk(disk.job.target))}
    touched = [images[path] for path in disk.overlays]
    if isinstance(disk.job, CommitImages):
        touched.append(images[disk.job.base])
    for image in touched:
        users = sharing(image, uses)
        if users:
            raise SharedBaseError(
                domain=domain.name,
                target=disk.job.target,
                path=str(image.path),
                reason=f"the image is also used by: {', '.join(users)}",
                dependents=users,
            )


def sharing(image: Image, uses: Sequence[ImageUse]) -> tuple[str, ...]:
    """
    Return the other domains whose chains have an image.

    Args:
        image: The image.
        uses: What other domains use.

    Source:
        docs/design.md: a base that another domain uses is never written.
    """
    return tuple(dict.fromkeys(use.domain for use in uses if use.path == image.path))
