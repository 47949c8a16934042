"""
What is wrong, or will be: a judgement of facts that were read before, and what helps.

::

    HypervisorFacts    versions, permissions, who confines QEMU           -> diagnose_hypervisor
    StoreFacts   owner and mode, room, manifests, leftovers         -> diagnose_store
    DomainFacts  what the next backup would do, what a killed run   -> diagnose_domain
                 left, ledger against chain, room for overlays

A domain is judged by planning: what `plan_backup` and `plan_recovery` say is what will happen.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath

from attrs import frozen

from fibackup.errors import (
    DomainStateError,
    FibackupError,
    RequirementError,
    UnsupportedDiskError,
)
from fibackup.model.domain import Domain, DomainState
from fibackup.model.ledger import KnownStore, RunPhase
from fibackup.model.point import History, Versions
from fibackup.model.verification import VerificationRecord
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.records import (
    damage_warnings,
    describe_orphans,
    going_warnings,
    unexplained_images,
)
from fibackup.plan.recover import plan_recovery
from fibackup.plan.requirements import Work, check_versions
from fibackup.plan.verified import last_verified
from fibackup.units import counted, format_bytes, printable

__all__ = [
    "DomainFacts",
    "Finding",
    "HypervisorFacts",
    "Level",
    "OverlayPlace",
    "StoreFacts",
    "diagnose_domain",
    "diagnose_hypervisor",
    "diagnose_store",
]

_LITTLE_ROOM = 0.05
_COMMITS_UNDER_APPARMOR = (12, 1)
_LOOK_OR_WRITE = 0o066
_ERRORS = "docs/errors.md explains it"
_ACCESS = "run fibackup as the store's owner, or as root"
_NOWHERE = History(
    store="00000000-0000-0000-0000-000000000000",
    path=PurePosixPath("/"),
    uuid="00000000-0000-0000-0000-000000000000",
)
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})
_COARSE = frozenset({"vfat", "exfat", "ntfs", "ntfs3"})


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@frozen
class Finding:
    """
    Something that was found out.

    Attributes:
        level: How bad it is.
        subject: ``"host"``, ``"store"``, or ``"domain web1"``.
        text: What was found.
        remedy: What helps, or nothing.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""


@frozen
class HypervisorFacts:
    """
    The hypervisor, and who we are on it.

    Attributes:
        uri: Of libvirt.
        versions: Of fibackup, libvirt and QEMU.
        qemu_img: Version of qemu-img, None where there is none.
        user_id: Our effective user id.
        security_models: What confines QEMU, as libvirt calls it, such as ``"apparmor"``.
        run_directory: Where the locks of domains are.
        run_directory_fault: Why that cannot be used, or nothing.
    """

    uri: str
    versions: Versions
    qemu_img: str | None
    user_id: int
    security_models: tuple[str, ...] = ()
    run_directory: str = ""
    run_directory_fault: str = ""


@frozen
class StoreFacts:
    """
    A store as it lies there.

    Attributes:
        path: Its directory.
        user_id: Our effective user id.
        owner_id: Owner of the directory.
        mode: Its permission bits.
        free_bytes: Room that is left.
        total_bytes: Room in all.
        free_files: Files that can still be made, 0 where the file system does not count.
        total_files: Files in all, 0 where the file system does not count.
        filesystem: Such as ``"ext4"``, or nothing.
        histories: What it holds of each domain.
        temporary: Temporary files that a killed run has left.
        records: What has been verified of a domain, with its UUID.
        fault: Why it takes no point, or nothing.
        remedy: What helps against the fault, where that is known.
        misnamed: Names of directories that hold points, and do not say of which domain.
    """

    path: str
    user_id: int
    owner_id: int
    mode: int
    free_bytes: int
    total_bytes: int
    free_files: int = 0
    total_files: int = 0
    filesystem: str = ""
    histories: tuple[History, ...] = ()
    temporary: tuple[str, ...] = ()
    records: tuple[tuple[str, VerificationRecord], ...] = ()
    fault: str = ""
    remedy: str = ""
    misnamed: tuple[str, ...] = ()


@frozen
class OverlayPlace:
    """
    A directory in which a domain's overlays are made.

    Attributes:
        path: The directory.
        free_bytes: Room that is left.
        total_bytes: Room in all.
        beside_store: True when the store is on the same file system.
        fault: Why no overlay can be made there, or nothing.
        remedy: What helps against that, where it is known.
    """

    path: str
    free_bytes: int
    total_bytes: int
    beside_store: bool = False
    fault: str = ""
    remedy: str = ""


@frozen
class DomainFacts:
    """
    A domain, and what is around it.

    Attributes:
        domain: Just read.
        history: What the store holds of it; None: no store was looked at.
        store_free_bytes: Room that is left in the store.
        places: Where its overlays are made.
        lost_stores: Stores that the ledger names and that are not where they were.
        at_work: True while a run holds the domain.
        store_fault: Why the store takes no point of it, or nothing.
        store_remedy: What helps against that, where it is known.
    """

    domain: Domain
    history: History | None = None
    store_free_bytes: int = 0
    places: tuple[OverlayPlace, ...] = ()
    lost_stores: tuple[KnownStore, ...] = ()
    at_work: bool = False
    store_fault: str = ""
    store_remedy: str = ""


# --- the host -----------------------------------------------------------------------------------


def diagnose_hypervisor(facts: HypervisorFacts) -> tuple[Finding, ...]:
    """
    Judge the hypervisor.

    Args:
        facts: Just read.

    Returns:
        Findings, those that are well included.

    Source:
        docs/operate.md, "Doctor".
    """
    return tuple(Finding(level, "host", *words) for level, *words in _host(facts))


_Said = tuple[Level, str] | tuple[Level, str, str]


def _host(facts: HypervisorFacts) -> Iterator[_Said]:
    found = facts.versions
    yield from _versions(facts)
    yield (
        Level.OK,
        (
            f"fibackup {found.fibackup}, libvirt {found.libvirt}, QEMU {found.qemu}, "
            f"qemu-img {facts.qemu_img or 'missing'}, at {facts.uri}"
        ),
    )
    if facts.user_id and "/session" not in facts.uri:
        yield (
            Level.WARNING,
            f"this is user {facts.user_id}; images of the system's domains are often root's",
            "run fibackup as root, or as a user who may read the images",
        )
    yield from _confinement(facts)
    if facts.run_directory_fault:
        yield (
            Level.PROBLEM,
            f"no lock can be held in {facts.run_directory}: {facts.run_directory_fault}",
            f"make it yours, mode 0700: {facts.run_directory}",
        )


def _confinement(facts: HypervisorFacts) -> Iterator[_Said]:
    """Say what keeps QEMU from files, and of which faults of libvirt that is the cause."""
    if "selinux" in facts.security_models:
        yield Level.OK, "SELinux confines QEMU; libvirt labels overlays as it labels their images"
    if "apparmor" not in facts.security_models:
        return
    yield Level.OK, "AppArmor confines QEMU; overlays are made beside their images, as it allows"
    version = tuple(map(int, re.findall(r"\d+", facts.versions.libvirt)))
    if version < _COMMITS_UNDER_APPARMOR:
        yield (
            Level.NOTE,
            (
                f"with AppArmor, libvirt {facts.versions.libvirt} may refuse to consolidate "
                "a domain that was started on an overlay (Permission denied); backups go on"
            ),
            "let it be: nothing is lost; or upgrade to libvirt 12.1; or see docs/operate.md",
        )


def _versions(facts: HypervisorFacts) -> Iterator[_Said]:
    if facts.qemu_img is None:
        yield (
            Level.PROBLEM,
            "qemu-img is missing: raw images cannot be stored, and nothing can be restored",
            "install it: apt install qemu-utils, dnf install qemu-img",
        )
    said: set[str] = set()
    for work in Work:
        try:
            warnings = check_versions(facts.versions, facts.qemu_img, work=work)
        except RequirementError as error:
            if error.reason not in said:
                yield Level.PROBLEM, error.reason, "upgrade it"
            said.add(error.reason)
        else:
            for each in warnings:
                if each not in said:
                    yield Level.WARNING, each, "upgrade it when you can"
            said |= set(warnings)


# --- a store ------------------------------------------------------------------------------------


def diagnose_store(facts: StoreFacts) -> tuple[Finding, ...]:
    """
    Judge a store.

    Args:
        facts: Just read.

    Returns:
        Findings, those that are well included.

    Source:
        docs/operate.md, "Doctor"; docs/store-format.md.
    """
    return tuple(Finding(level, "store", *words) for level, *words in _store(facts))


def _store(facts: StoreFacts) -> Iterator[_Said]:
    points = counted(sum(len(each.points) for each in facts.histories), "point")
    yield (
        Level.OK,
        (
            f"{facts.path}: {points} of {counted(len(facts.histories), 'domain')}, "
            f"{format_bytes(facts.free_bytes)} of {format_bytes(facts.total_bytes)} free"
        ),
    )
    if facts.fault:
        yield Level.PROBLEM, f"{facts.path} takes no point: {facts.fault}", facts.remedy or _ACCESS
    if facts.mode & _LOOK_OR_WRITE:
        yield (
            Level.WARNING,
            f"other users can look into it (mode {facts.mode:04o}), and it holds the guests' disks",
            f"chmod 0700 {shlex.quote(facts.path)}",
        )
    elif facts.mode & 0o011:
        yield (
            Level.NOTE,
            (
                f"other users can pass through it (mode {facts.mode:04o}), as linked restores "
                "need, and see only what is opened to them"
            ),
        )
    if facts.owner_id != facts.user_id and not facts.fault:
        yield (
            Level.WARNING,
            f"it belongs to user {facts.owner_id}, and this is user {facts.user_id}",
            f"run fibackup as its owner, or chown it: {facts.path}",
        )
    yield from _room(facts)
    if facts.filesystem in _NETWORK:
        yield Level.NOTE, f"it is on {facts.filesystem}: locks are as good as the server makes them"
    if facts.filesystem in _COARSE:
        yield (
            Level.WARNING,
            f"it is on {facts.filesystem}, which has no holes, no modes and files of 4 GiB at most",
            "use a file system of Linux",
        )
    for name in facts.misnamed:
        yield (
            Level.PROBLEM,
            f"{printable(name)} holds points of a domain that its name does not tell",
            f"fibackup verify --store {shlex.quote(facts.path)}",
        )
    records = dict(facts.records)
    for history in facts.histories:
        yield from _history(history)
        if history.uuid in records:
            yield from _found_wrong(facts.path, history, records[history.uuid])
    if facts.temporary:
        yield (
            Level.NOTE,
            f"{counted(len(facts.temporary), 'temporary file')} of runs that go on, or were killed",
            "let them be: the next run of their domain removes them",
        )


def _room(facts: StoreFacts) -> Iterator[_Said]:
    if facts.free_bytes < _LITTLE_ROOM * facts.total_bytes:
        yield (
            Level.WARNING,
            f"little room is left: {format_bytes(facts.free_bytes)}",
            f"drop points, by rules of yours: fibackup prune --store {facts.path} --dry-run ...",
        )
    if facts.total_files and facts.free_files < _LITTLE_ROOM * facts.total_files:
        yield (
            Level.WARNING,
            f"few more files can be made: {facts.free_files}",
            "drop points, or give the file system more inodes",
        )


def _found_wrong(path: str, history: History, record: VerificationRecord) -> Iterator[_Said]:
    """Say of which points a verification has read something that was wrong."""
    ages = last_verified(history, record)
    wrong = [point for point in history.points if ages[point.id].wrong]
    if wrong:
        points = ", ".join(point.id for point in wrong)
        yield (
            Level.PROBLEM,
            f"{wrong[-1].domain}: verify found wrong what points need: {points}",
            f"fibackup verify --store {shlex.quote(path)} {history.uuid}",
        )


def _history(history: History) -> Iterator[_Said]:
    name = history.points[-1].domain if history.points else history.uuid
    if history.copies:
        yield (
            Level.PROBLEM,
            f"{name}: {history.doubt}",
            "look which of them has the newest point, and move the other out of the store",
        )
    for file, reason in history.unreadable:
        yield (
            Level.PROBLEM,
            f"{name}: the manifest {file} is damaged: {reason}",
            "take the file from another copy of the store",
        )
    for point in history.lost:
        yield (
            Level.PROBLEM,
            f"{name}: the manifest of point {point} is gone",
            "take the file from another copy of the store",
        )
    for words in (*damage_warnings(history), *going_warnings(history)):
        yield Level.WARNING, f"{name}: {words}", ""
    if unexplained_images(history):
        yield (
            Level.PROBLEM,
            f"{name}: {describe_orphans(history)}",
            "take the manifest from another copy of the store",
        )
    for file in sorted(history.damaged):
        yield (
            Level.PROBLEM,
            f"{name}: {file} is missing or has another size, and points need it",
            "take the file from another copy of the store; the next backup is a full of that disk",
        )
    stored = {f"{each.target}/{each.image.name}" for each in history.receipts}
    loose = history.unclaimed - stored - history.orphans
    images = sorted(file for file in loose if file.endswith(".qcow2"))
    if images:
        where = shlex.quote(str(history.path))
        yield (
            Level.NOTE,
            f"{name}: no point names {', '.join(images)}",
            f"let them be; what each is, says fibackup verify --store {where} {history.uuid}",
        )


# --- a domain -----------------------------------------------------------------------------------


def diagnose_domain(facts: DomainFacts, *, now: datetime) -> tuple[Finding, ...]:
    """
    Judge a domain: what its next backup would do, and what is left of earlier runs.

    Args:
        facts: Just read.
        now: The time, aware.

    Returns:
        Findings, those that are well included.

    Source:
        docs/operate.md, "Doctor".
    """
    subject = f"domain {facts.domain.name}"
    return tuple(Finding(level, subject, *words) for level, *words in _domain(facts, now))


def _domain(facts: DomainFacts, now: datetime) -> Iterator[_Said]:
    domain = facts.domain
    if facts.at_work:
        yield Level.NOTE, "a run works on it now, and is not judged", "ask again when it has ended"
    else:
        yield from _leftovers(facts, now)
        yield from _next_backup(facts, now)
        yield from _ledger(domain)
    for store in facts.lost_stores:
        yield _lost_store(facts, store)
    for place in facts.places:
        yield from _place(place)
    if domain.state is DomainState.RUNNING and not domain.agent_connected:
        yield (
            Level.NOTE,
            "its guest agent does not answer: points are crash-consistent",
            "install and start qemu-guest-agent in the guest, and give the domain its channel",
        )


def _lost_store(facts: DomainFacts, lost: KnownStore) -> _Said:
    """Say of a store that it is not there; it matters less once newer points are elsewhere."""
    here = [each for each in facts.domain.ledger.stores if each not in facts.lost_stores]
    replaced = any(each.path == lost.path for each in here)
    where = "where another store is now" if replaced else "which is not there"
    text = f"its ledger knows point {lost.point} in a store at {lost.path}, {where}"
    newest = max(here, key=lambda each: each.point, default=None)
    if newest is not None and newest.point > lost.point:
        return (
            Level.NOTE,
            f"{text}; {newest.path} has point {newest.point}",
            "let it be when the store is retired; else mount the disk that it is on",
        )
    return (
        Level.WARNING,
        text,
        "mount the disk that the store is on; without it, the next point elsewhere is a full",
    )


def _leftovers(facts: DomainFacts, now: datetime) -> Iterator[_Said]:
    """Say what a run has left that did not finish, and which jobs are in the way."""
    domain, command = facts.domain, _recover(facts)
    for disk in domain.disks:
        if disk.block_job is not None:
            yield (
                Level.WARNING,
                f"a block job runs on disk {disk.target}: {disk.block_job}",
                f"virsh blockjob {domain.uuid} {disk.target} --info",
            )
    try:
        plan = plan_recovery(domain, facts.history, now=now)
    except FibackupError as error:
        yield Level.WARNING, f"a run did not finish, and cannot be settled now: {error}", _ERRORS
        return
    if plan.steps:
        steps = "1 step settles" if len(plan.steps) == 1 else f"{len(plan.steps)} steps settle"
        yield Level.WARNING, f"a run did not finish; {steps} what it left", command
    yield from ((Level.WARNING, each, command) for each in plan.warnings)


def _recover(facts: DomainFacts) -> str:
    """Return the command that settles what is left; an unfinished point needs its store."""
    domain, run = facts.domain, facts.domain.ledger.run
    store = ""
    if run is not None and run.phase is RunPhase.TAKEN:
        if facts.history is not None and facts.history.store == run.store:
            store = f"--store {shlex.quote(str(facts.history.path))} "
        elif all(known.uuid != run.store for known in domain.ledger.stores):
            store = "--store DIR "
    return f"fibackup recover {store}{domain.uuid}"


def _next_backup(facts: DomainFacts, now: datetime) -> Iterator[_Said]:
    policy = BackupPolicy(quiesce=Quiesce.OFF)
    history = facts.history or _NOWHERE
    try:
        plan = plan_backup(facts.domain, history, now=now, policy=policy)
    except FibackupError as error:
        yield Level.PROBLEM, f"it cannot be backed up: {_words(error)}", _remedy(error)
        return
    for each in plan.warnings:
        yield Level.WARNING, f"of its next point: {each}", _lasting(facts, each)
    if facts.history is None:
        yield Level.OK, f"it can be backed up: {', '.join(each.target for each in plan.decisions)}"
        return
    if facts.store_fault:
        yield (
            Level.PROBLEM,
            f"the store takes no point of it: {facts.store_fault}",
            facts.store_remedy or _ACCESS,
        )
        return
    words = "; ".join(f"{each.target}: {each.kind}: {each.reason}" for each in plan.decisions)
    yield Level.OK, f"the next point is {words}"
    if facts.store_free_bytes < plan.expects.space_bytes:
        yield (
            Level.PROBLEM,
            f"the next point needs about {format_bytes(plan.expects.space_bytes)}, the store has "
            + format_bytes(facts.store_free_bytes),
            "drop points: fibackup prune; or give the store more room",
        )


def _words(error: FibackupError) -> str:
    """Return what is wrong, without what helps, which stands on its own."""
    where = f"disk {error.target}: " if error.target else ""
    return f"{where}{error.reason}"


def _lasting(facts: DomainFacts, warning: str) -> str:
    """Return what makes the next point one without this warning; each plan has it again."""
    where = facts.history.path if facts.history is not None else None
    if warning.startswith("the manifest "):
        return f"fibackup verify --store {shlex.quote(str(where or 'DIR'))} {facts.domain.uuid}"
    if warning.startswith("the store lacks "):
        return "see that it is the right store, and whole; the next point is a full"
    if warning.endswith("consolidate soon"):
        return f"fibackup consolidate {facts.domain.uuid}"
    if " is not in the backup: " in warning:
        return "back it up by other means; --exclude says that it is meant to be left out"
    return f"virsh dumpxml --inactive {facts.domain.uuid}"


def _remedy(error: FibackupError) -> str:
    if isinstance(error, DomainStateError) and error.remedy:
        return error.remedy
    if isinstance(error, UnsupportedDiskError):
        return "leave the disk out: --exclude, or --skip-unsupported"
    return _ERRORS


def _ledger(domain: Domain) -> Iterator[_Said]:
    """Compare what the ledger says with the chains, where plans do not."""
    chains = [disk.chain for disk in domain.disks if disk.chain]
    used = {path for chain in chains for path in chain.paths}
    gone = [each for each in domain.ledger.overlays if each.path not in used and not each.freed]
    for each in gone:
        yield (
            Level.NOTE,
            (
                f"its ledger has an overlay of {each.target} that is in no chain: {each.path}; "
                "the next run forgets it, and deletes nothing"
            ),
        )
    overlays = {path for chain in chains for path in chain.paths[:-1]}  # not what lies on nothing
    for path in sorted(overlays):
        if ".bimg-" in path.name and domain.ledger.overlay(path) is None:
            yield (
                Level.NOTE,
                (
                    f"{path} looks like an overlay of ours, and its ledger does not know it "
                    "(a pull onto a template makes it the disk's own image); it is never deleted"
                ),
            )


def _place(place: OverlayPlace) -> Iterator[_Said]:
    if place.fault:
        yield (
            Level.PROBLEM,
            f"no overlay can be made in {place.path}: {place.fault}",
            place.remedy or "run fibackup as root, or as a user who may write there",
        )
    if place.free_bytes < _LITTLE_ROOM * place.total_bytes:
        yield (
            Level.WARNING,
            f"{place.path} has {format_bytes(place.free_bytes)} left; overlays grow there",
            "make room, and consolidate",
        )
    if place.beside_store:
        yield (
            Level.WARNING,
            f"the store is on the same file system as {place.path}: one loss takes both",
            "put the store on another disk",
        )
