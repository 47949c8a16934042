"""
Which disks take part in a backup, and whether the domain can be backed up at all.

::

    asked for   excluded   skip_reason    unsupported_reason         ->
    any         yes        any            any                        left out
    by name     no         some           or some                    refused
    as "all"    no         some           any                        left out
    as "all"    no         none           transient, shareable       left out, with a warning
    as "all"    no         none           any other                  refused, or left out so too
    any         no         none           none                       takes part
"""

from __future__ import annotations

from attrs import frozen

from fibackup.errors import ChainError, DomainStateError, PolicyError, UnsupportedDiskError
from fibackup.model.chain import MAX_DEPTH, BackingChain, Image
from fibackup.model.domain import Disk, Domain, DomainState
from fibackup.model.ledger import RunPhase
from fibackup.plan.policy import BackupPolicy

__all__ = [
    "Choice",
    "chain_of",
    "check_disk",
    "check_state",
    "choose_disks",
    "is_our_job",
    "live_states",
]


@frozen
class Choice:
    """Which disks take part, and why others do not."""

    disks: tuple[Disk, ...]
    skipped: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def live_states(policy: BackupPolicy) -> tuple[DomainState, ...]:
    """
    Return the states of a domain in which it can be snapshotted.

    Args:
        policy: May allow a paused one.

    Source:
        libvirt ``virDomainState``.
    """
    paused = (DomainState.PAUSED,) if policy.allow_paused else ()
    return (DomainState.RUNNING, DomainState.BLOCKED, *paused)


def check_state(domain: Domain, policy: BackupPolicy) -> None:
    """
    Refuse a domain that is not running, or busy.

    Args:
        domain: The domain.
        policy: May allow a paused one.

    Raises:
        DomainStateError: With what to do about it.

    Source:
        libvirt ``virDomainState``.
    """
    if domain.managed_save:
        raise DomainStateError(
            domain=domain.name,
            reason="a managed-save image exists; a snapshot would be lost when it is resumed",
            remedy=f"start the domain, or: virsh managedsave-remove {domain.uuid}",
        )
    off = policy.offline and not policy.memory and domain.state is DomainState.SHUTOFF
    if domain.state not in live_states(policy) and not off:
        raise DomainStateError(
            domain=domain.name, reason=f"the domain is {domain.state}", remedy=_remedy(domain)
        )
    if domain.job is not None:
        raise DomainStateError(
            domain=domain.name,
            reason=f"a {domain.job} job is running",
            remedy=f"wait for it, or: virsh domjobabort {domain.uuid}",
        )


def _remedy(domain: Domain) -> str:
    remedies = {
        DomainState.SHUTOFF: f"start it first: virsh start {domain.uuid}",
        DomainState.PAUSED: f"resume it: virsh resume {domain.uuid}; "
        "or allow a paused domain: --allow-paused",
        DomainState.PAUSED_IO_ERROR: f"make room on the storage, then: virsh resume {domain.uuid}",
        DomainState.CRASHED: f"end it and start it again: virsh destroy {domain.uuid}",
        DomainState.PMSUSPENDED: f"wake it: virsh dompmwakeup {domain.uuid}",
        DomainState.SHUTDOWN: "wait until it is off, and start it again",
    }
    return remedies.get(domain.state, f"look at it: virsh domstate --reason {domain.uuid}")


def choose_disks(domain: Domain, policy: BackupPolicy) -> Choice:
    """
    Choose the disks that take part.

    Args:
        domain: The domain.
        policy: What was asked for.

    Returns:
        The chosen disks, and why others are left out.

    Raises:
        UnsupportedDiskError: A disk that should take part cannot.
        PolicyError: A wish names no disk, or no disk is left.

    Source:
        docs/backup.md, "Disks".
    """
    known = {disk.target for disk in domain.disks}
    for target in (*policy.disks, *policy.exclude):
        if target not in known:
            raise PolicyError(
                domain=domain.name,
                target=target,
                reason=f"no such disk; it has: {', '.join(sorted(known)) or 'none'}",
            )
    chosen: list[Disk] = []
    skipped: list[tuple[str, str]] = []
    warnings: list[str] = []
    for disk in domain.disks:
        reason = _left_out(domain, disk, policy)
        if reason is None:
            chosen.append(disk)
            continue
        skipped.append((disk.target, reason))
        if (
            disk.skip_reason is None
            and disk.unsupported_reason is not None
            and disk.target not in policy.exclude
        ):
            warnings.append(f"disk {disk.target} is not in the backup: {reason}")
    if not chosen:
        why = "; ".join(f"{target}: {reason}" for target, reason in skipped) or "it has no disk"
        raise PolicyError(domain=domain.name, reason=f"no disk is left to back up ({why})")
    return Choice(tuple(chosen), tuple(skipped), tuple(warnings))


def _left_out(domain: Domain, disk: Disk, policy: BackupPolicy) -> str | None:
    """Return why *disk* is left out, None when it takes part; refuse what cannot be had."""
    asked = disk.target in policy.disks
    if disk.target in policy.exclude:
        return "excluded"
    if policy.disks and not asked:
        return "not asked for"
    if disk.snapshot == "no" and not asked:
        return "snapshot='no' in the domain's XML"
    if disk.skip_reason is not None and not asked:
        return disk.skip_reason
    reason = disk.skip_reason or disk.unsupported_reason
    if reason is None:
        return None
    if not asked and (policy.skip_unsupported or disk.transient or disk.shareable):
        return reason
    raise UnsupportedDiskError(
        domain=domain.name,
        target=disk.target,
        reason=f"{reason}; exclude the disk, or skip unsupported ones",
    )


def is_our_job(domain: Domain, disk: Disk) -> bool:
    """
    Tell whether the block job of a disk was left by a run of ours that was killed.

    Args:
        domain: The domain, for its ledger.
        disk: A disk with a block job.

    Source:
        docs/store-format.md, "Ledger": the phase is written before each job.
    """
    run = domain.ledger.run
    kinds = {"commit", "active commit", "active-commit", "pull"}
    return (
        run is not None
        and run.phase is RunPhase.CONSOLIDATING
        and disk.block_job in kinds
        and any(domain.ledger.overlay(image.path) is not None for image in disk.chain or ())
    )


def check_disk(domain: Domain, disk: Disk) -> None:
    """
    Refuse a disk with a block job, or with a chain that cannot be trusted.

    Args:
        domain: The domain, for errors.
        disk: A chosen disk.

    Raises:
        DomainStateError: A block job runs on it.
        ChainError: The chain is too deep, or headers and libvirt disagree.
        UnsupportedDiskError: An image has a format that cannot be stored.

    Source:
        libvirt ``virDomainGetBlockJobInfo``; docs/design.md, "Threats".
    """
    if disk.block_job is not None:
        ours = is_our_job(domain, disk)
        raise DomainStateError(
            domain=domain.name,
            target=disk.target,
            reason=f"a block job runs on the disk: {disk.block_job}",
            remedy=f"an earlier run of fibackup left it: fibackup recover {domain.uuid}"
            if ours
            else f"let it finish, or: virsh blockjob {domain.uuid} {disk.target} --abort",
        )
    chain = chain_of(disk)
    if chain.depth >= MAX_DEPTH:
        raise ChainError(
            domain=domain.name,
            target=disk.target,
            reason=f"{chain.depth} images deep; libvirt allows {MAX_DEPTH}: consolidate first",
        )
    for image, under in zip(chain.images, (*chain.images[1:], None), strict=True):
        _check_image(domain, disk, image, under)


def _check_image(domain: Domain, disk: Disk, image: Image, under: Image | None) -> None:
    def refuse(reason: str) -> ChainError:
        return ChainError(
            domain=domain.name, target=disk.target, path=str(image.path), reason=reason
        )

    if image.problem is not None:
        raise refuse(f"the image cannot be trusted: {image.problem}")
    if image.format not in {"qcow2", "raw"}:
        raise UnsupportedDiskError(
            domain=domain.name,
            target=disk.target,
            path=str(image.path),
            reason=f"an image in {image.format} format",
        )
    if image.format == "raw" and under is not None:
        raise refuse("a raw image cannot have a backing file")
    wanted = str(under.path) if under is not None else ""
    if image.header_backing is not None and image.header_backing != wanted:
        raise refuse(
            f"its header names {image.header_backing or 'no backing file'}, "
            f"libvirt says {wanted or 'there is none'}{_after_lost_job(domain)}"
        )


def _after_lost_job(domain: Domain) -> str:
    """Return what mends a header that a job of ours has written, whose end libvirt never saw."""
    run = domain.ledger.run
    if run is None or run.phase is not RunPhase.CONSOLIDATING:
        return ""
    return f"; shut the domain down, then: fibackup recover {domain.uuid}"


def chain_of(disk: Disk) -> BackingChain:
    """
    Return the chain of a chosen disk.

    Args:
        disk: A disk that takes part.

    Source:
        `choose_disks` leaves out disks without a chain.
    """
    if disk.chain is None:  # pragma: no cover - such a disk is skipped or unsupported
        raise ChainError(target=disk.target, reason="the disk has no image")
    return disk.chain
