"""
Plan to shorten live chains, without touching an image that is not ours to touch.

::

    rolling            template <- disk.qcow2 <- bimg-A <- bimg-B <- bimg-C (active)
                                       base      |------ top          stays
                       template <- disk.qcow2 <- bimg-C (active)

    full (commit)      template <- disk.qcow2 (active)
    full (pull)        template <- bimg-C (active)         disk.qcow2 is left as it is
    full, domain off   template <- disk.qcow2              by qemu-img; the domain is defined anew

Only overlays of the ledger are committed or deleted. The base is the image right under the
oldest of them: the disk's own image, never the template below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import takewhile

from attrs import evolve, field, frozen

from fibackup.errors import ChainError, DomainStateError, PolicyError, SharedBaseError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, Domain, DomainState, ImageUse
from fibackup.model.ledger import Ledger, Run, RunPhase
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.selection import chain_of, check_disk, check_state, choose_disks, live_states
from fibackup.plan.steps import (
    CommitImages,
    CommitOffline,
    ConsolidateDisk,
    Decision,
    EachDisk,
    Expectation,
    ExpectedDisk,
    Plan,
    PullImages,
)
from fibackup.plan.wishes import flag, member, names

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
        suspend_seconds: When a commit is not ready in its time, the guest is suspended for as
            long at most, so that it ends; 0: never, the commit is aborted.
        allow_paused: True: also a domain that its owner paused.
    """

    method: Method = field(default=Method.BLOCKCOMMIT, validator=member(Method))
    keep_overlay: bool = field(default=False, validator=flag)
    disks: tuple[str, ...] = field(default=(), validator=names)
    bandwidth_bytes: int = 0
    timeout_seconds: float = 3600.0
    suspend_seconds: float = 0.0
    allow_paused: bool = field(default=False, validator=flag)

    def __attrs_post_init__(self) -> None:
        """Refuse limits that are none."""
        if self.bandwidth_bytes < 0 or self.timeout_seconds <= 0 or self.suspend_seconds < 0:
            raise PolicyError(
                reason="a bandwidth or a suspension of less than 0, or a time limit of 0 seconds"
            )


def plan_consolidation(
    domain: Domain,
    *,
    uses: Sequence[ImageUse] = (),
    policy: ConsolidationPolicy | None = None,
) -> Plan:
    """
    Plan to shorten the chains of a domain, running or off.

    Args:
        domain: The domain, just read.
        uses: Images that other domains use.
        policy: What the caller wants.

    Returns:
        A plan with one `ConsolidateDisk` for each disk that has overlays of ours; without a step
        when every chain is as short as it gets.

    Raises:
        SharedBaseError: Another domain uses an image that would be written. Nothing was touched.
        DomainStateError: The domain is busy, has libvirt snapshots, or a backup of it has not
            ended. Nothing was touched.
        PolicyError: A domain that is off takes a full commit only, and one that is paused takes no
            pull. Nothing was touched.

    Source:
        libvirt ``virDomainBlockCommit``, ``virDomainBlockRebase``; docs/design.md, "Live side".
    """
    wishes = policy or ConsolidationPolicy()
    _check_domain(domain, wishes)
    chosen = choose_disks(domain, BackupPolicy(disks=wishes.disks, skip_unsupported=True)).disks
    disks = tuple(
        each for disk in chosen if (each := _consolidate(domain, disk, wishes)) is not None
    )
    for disk in disks:
        _refuse_shared(domain, disk, uses)
    targets = {disk.job.target for disk in disks}
    return Plan(
        verb="consolidate",
        domain=domain.name,
        uuid=domain.uuid,
        store="",
        point="",
        expects=_expects(domain, tuple(disk for disk in chosen if disk.target in targets), wishes),
        decisions=tuple(
            Decision(disk.target, None, "the chain is as short as it gets")
            for disk in chosen
            if disk.target not in targets
        ),
        steps=(EachDisk(disks),) if disks else (),
        warnings=tuple(warning for disk in disks for warning in _leaves_behind(domain, disk)),
    )


def _leaves_behind(domain: Domain, disk: ConsolidateDisk) -> tuple[str, ...]:
    """Say which images a pull takes out of the chain and does not delete: they are not ours."""
    target, job = disk.job.target, disk.job
    if not isinstance(job, PullImages):
        return ()
    active, *under = chain_of(domain.disk(target))
    left = [image for image in under if image.path not in (*job.leaves, *disk.overlays)]
    formats = {
        image.path: f"; the disk, which was {image.format}, is {active.format} then"
        for image in left
        if image.format != active.format
    }
    return tuple(
        f"{target}: {image.path} is no part of the disk any more; it is left for you to delete"
        + formats.get(image.path, "")
        for image in left
    )


def _can_wait(run: Run) -> bool:
    """Tell whether a consolidation may come before what a run has left: a job, or a thaw."""
    return run.phase is RunPhase.CONSOLIDATING or (run.phase is RunPhase.INTENT and run.frozen)


def _check_domain(domain: Domain, policy: ConsolidationPolicy) -> None:
    check_state(domain, BackupPolicy(allow_paused=policy.allow_paused))
    if domain.snapshots:
        raise DomainStateError(
            domain=domain.name,
            reason=f"libvirt keeps snapshots that need the chain: {', '.join(domain.snapshots)}",
            remedy="delete them first: virsh snapshot-delete --metadata",
        )
    run = domain.ledger.run
    if run is not None and not _can_wait(run):
        raise DomainStateError(
            domain=domain.name,
            reason=f"the backup of point {run.point} has not ended",
            remedy="let it end; if it died, back up again first, which stores what it froze",
        )
    if _is_off(domain) and (policy.keep_overlay or policy.method is not Method.BLOCKCOMMIT):
        raise PolicyError(
            domain=domain.name,
            reason="the domain is off: its overlays can only be committed, all of them",
        )
    if domain.state is DomainState.PAUSED and policy.method is Method.BLOCKPULL:
        raise PolicyError(
            domain=domain.name,
            reason="the domain is paused: QEMU would not flush what was pulled; resume it first",
        )


def _is_off(domain: Domain) -> bool:
    return domain.state is DomainState.SHUTOFF


def _expects(domain: Domain, disks: tuple[Disk, ...], policy: ConsolidationPolicy) -> Expectation:
    off = _is_off(domain)
    live = live_states(BackupPolicy(allow_paused=policy.allow_paused))
    return Expectation(
        disks=tuple(ExpectedDisk.of(chain_of(disk), frozen=off) for disk in disks),
        ledger=domain.ledger,
        states=(DomainState.SHUTOFF,) if off else live,
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
    pairs = zip(chain.images[1:-1], chain.images[2:], strict=True)
    ours = takewhile(lambda pair: _is_ours(ledger, chain.target, *pair), pairs)
    return tuple(image for image, _ in ours)


def _is_ours(ledger: Ledger, target: str, image: Image, under: Image) -> bool:
    """
    Tell whether an image is an overlay of ours on what it was made on.

    One that lies on something else has become the disk's own image, as after a pull.
    """
    entry = ledger.overlay(image.path)
    return entry is not None and entry.target == target and ledger.lies_on(entry, under.path)


def _consolidate(domain: Domain, disk: Disk, policy: ConsolidationPolicy) -> ConsolidateDisk | None:
    check_disk(domain, disk)
    chain = chain_of(disk)
    if chain.depth == 1:
        return None
    if not _is_ours(domain.ledger, disk.target, *chain.images[:2]):
        if _ours_below(domain.ledger, chain):
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
    if _is_off(domain):
        return _limited(_commit_offline(domain, chain, ours, base), policy)
    if policy.method is Method.BLOCKCOMMIT:
        return _limited(_commit_all(disk, chain, ours, base), policy)
    return _limited(_pull(disk, chain, ours, base, policy), policy)


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


def _commit_offline(
    domain: Domain, chain: BackingChain, ours: tuple[Image, ...], base: Image
) -> ConsolidateDisk:
    if chain.active.identity is None:
        raise ChainError(
            domain=domain.name,
            target=chain.target,
            path=str(chain.active.path),
            reason="the active layer cannot be read",
        )
    job = CommitOffline(
        target=chain.target,
        base=base.path,
        base_format=base.format,
        top=chain.active.path,
        identity=chain.active.identity,
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
    job = part.job
    if isinstance(job, (CommitImages, PullImages)):
        job = evolve(
            job, bandwidth_bytes=policy.bandwidth_bytes, timeout_seconds=policy.timeout_seconds
        )
    if isinstance(job, CommitImages) and job.pivot:
        job = evolve(job, suspend_seconds=policy.suspend_seconds)
    return evolve(part, job=job)


def _refuse_shared(domain: Domain, disk: ConsolidateDisk, uses: Sequence[ImageUse]) -> None:
    """Refuse to write or to free an image that another domain's chain has."""
    images = {image.path: image for image in chain_of(domain.disk(disk.job.target))}
    for path in disk.touched:
        users = sharing(images[path], disk.job.target, uses)
        if users:
            raise SharedBaseError(
                domain=domain.name,
                target=disk.job.target,
                path=str(path),
                reason=f"the image is also used by: {', '.join(dict.fromkeys(map(str, users)))}",
                dependents=tuple(dict.fromkeys(use.domain for use in users)),
            )


def sharing(image: Image, target: str, uses: Sequence[ImageUse]) -> tuple[ImageUse, ...]:
    """
    Return the uses of an image by other domains, and by other disks of its own.

    Args:
        image: The image.
        target: The disk whose own use does not count.
        uses: What `Host.image_uses` found.

    Source:
        docs/design.md: a base that another domain uses is never written.
    """
    return tuple(use for use in uses if use.path == image.path and use.disk != target)
