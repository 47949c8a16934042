"""
Judge what a verification has found: which points are spoiled by what, and what lies about.

::

    unreadable or lost manifest   spoils its point
    broken link, bad image        spoils every point whose disk reads through the image
    bad XML, memory, ...          spoils its point; the disks can be restored
    a file that no point names    leftover, when a run of ours may have left it; else a stranger
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import reduce
from typing import TypeAlias

from attrs import evolve, frozen

from fibackup.model.checks import is_target
from fibackup.model.point import History, StoredImage, WrongDisk
from fibackup.model.records import (
    LINKED_FILE,
    MERGE_FILE,
    RECORD_FILE,
    REMOVAL_FILE,
    SEALS_FILE,
)
from fibackup.model.tree import ImageTree, trees_of
from fibackup.model.verification import (
    CheckedContent,
    CheckedFile,
    ContentCheck,
    Fault,
    FaultKind,
    FileCheck,
    FoundFile,
    PointHealth,
    Survey,
    Verification,
    VerificationRecord,
)
from fibackup.plan.records import going_warnings, unexplained_images
from fibackup.plan.verify_steps import FileToVerify

__all__ = [
    "Verified",
    "ages_in",
    "found_wrong",
    "judge",
    "last_verified",
    "named_images",
    "replaced_since",
    "trusted",
    "with_found_wrong",
]

_OF_THE_STORE = frozenset(
    {
        "lock",
        "lock.readers",
        "lock.verified",
        LINKED_FILE,
        MERGE_FILE,
        RECORD_FILE,
        REMOVAL_FILE,
        SEALS_FILE,
    }
)
_RECEIPT = ".receipt"
_MANIFEST = ".json"
_IMAGE = re.compile(r"([0-9]{8}T[0-9]{6}Z)(?:-[0-9]+)?\.qcow2(?:\.(?:receipt|merged))?", re.ASCII)
_OTHER = re.compile(r"([0-9]{8}T[0-9]{6}Z)\.(?:json|xml|nvram|tpm|mem)", re.ASCII)
_PROTECTED = re.compile(r"[0-9]{8}T[0-9]{6}Z\.protected", re.ASCII)
_TEMPORARY = re.compile(r"\..+\.tmp", re.DOTALL)


_Found: TypeAlias = tuple[str, Fault]
"""The disk that is spoiled, or "" when none is, and the fault."""


@frozen
class Verified:
    """
    When a point was last verified.

    Attributes:
        files: When all of its files had been read, and were right: the time of the one that was
            read longest ago. None when one was never read, or was wrong.
        contents: The same of its disks as a guest reads them.
        wrong: True when one was wrong when it was last read.
    """

    files: datetime | None = None
    contents: datetime | None = None
    wrong: bool = False


@frozen
class _Age:
    """When something was last right; None when it was never read, or was wrong."""

    time: datetime | None
    wrong: bool = False

    def with_(self, other: _Age) -> _Age:
        """Return the age of both together: wrong before never before long ago."""
        if self.wrong or other.wrong:
            return self if self.wrong else other
        if self.time is None or other.time is None:
            return self if self.time is None else other
        return self if self.time <= other.time else other


@frozen
class _Wrong:
    """
    What a disk reads through that was wrong, its own reading included.

    Attributes:
        entry: The lowest of them; None when there is none.
        run: The last verification that found one.
        last_right: The first verification in which one was right for the last time.
        spoils_all: True when one of them leaves nothing right that lies on it.
    """

    entry: CheckedContent | None = None
    run: int = 0
    last_right: int = sys.maxsize
    spoils_all: bool = False

    def with_(self, entry: CheckedContent, *, spoils_all: bool) -> _Wrong:
        """Return it with one more: the strictest of what shows that a disk is right."""
        return _Wrong(
            self.entry or entry,
            max(self.run, entry.run),
            min(self.last_right, entry.last_right),
            self.spoils_all or spoils_all,
        )


_NEVER = _Age(None)
_WRONG = _Age(None, wrong=True)


class _Reading:
    """What a record says of the files that are there; what it says of others counts for nothing."""

    def __init__(self, record: VerificationRecord) -> None:
        self._files = {entry.file: entry for entry in record.files}
        self.contents = {entry.file: entry for entry in record.contents}
        self._prints: dict[str, Mapping[str, str]] = {}

    def of_file(self, file: str, sha256: str) -> _Age:
        """Tell when a file with this sha256 was read."""
        entry = self._files.get(file)
        return _NEVER if entry is None or entry.sha256 != sha256 else _age(entry)

    def of_content(self, top: str, chain: str | None) -> _Age:
        """
        Tell when a disk was read through this top image, of a chain with this fingerprint.

        What was wrong stays wrong until it is read again, whatever was merged under it.
        """
        entry = self.contents.get(top)
        if entry is None or (entry.chain != chain and not entry.fault):
            return _NEVER
        return _age(entry)

    def wrong_disks(self, target: str, tree: ImageTree) -> Mapping[str, CheckedContent]:
        """
        Return what was wrong through images of a disk, and is not known to be right since.

        A point that was dropped has handed its image to another, with which it is read: when that
        disk was right in a later verification, structure and content, so is the image.
        """
        found = {
            name: entry
            for file, entry in self.contents.items()
            if entry.fault and file.startswith(f"{target}/")
            for name in (file.removeprefix(f"{target}/"),)
            if name in tree.images
        }
        return {
            name: entry
            for name, entry in found.items()
            if name in tree.shown_by or not self._right_since(target, tree, name)
        }

    def _right_since(self, target: str, tree: ImageTree, name: str) -> bool:
        later, was = (
            self.contents.get(f"{target}/{top}") for top in (tree.tops.get(tree.owners[name]), name)
        )
        if later is None or was is None or later.run <= was.run:
            return False
        return self._shows_right(target, tree, later, run=was.run, last_right=was.last_right)

    def _shows_right(
        self, target: str, tree: ImageTree, entry: CheckedContent, *, run: int, last_right: int
    ) -> bool:
        if target not in self._prints:
            self._prints[target] = tree.fingerprints()
        chain = self._prints[target].get(entry.file.removeprefix(f"{target}/"))
        return entry.shows_right(chain, run=run, last_right=last_right)

    def spoiled(self, target: str, tree: ImageTree, wrong: CheckedContent) -> frozenset[str]:
        """
        Return the points that a disk spoils, which was wrong when it was last read.

        One that was another disk leaves those alone that lie on it and are known to be right.
        """
        name = wrong.file.removeprefix(f"{target}/")
        through = tree.shown_through(name)
        if _spoils_all(tree, name, wrong):
            return through
        tops = {tree.tops[point] for point in through}
        entries = (self.contents.get(f"{target}/{top}") for top in tops - {name})
        right = {
            e.file
            for e in entries
            if e and self._shows_right(target, tree, e, run=wrong.run, last_right=wrong.last_right)
        }
        return frozenset(p for p in through if f"{target}/{tree.tops[p]}" not in right)

    def spoiling(self, target: str, tree: ImageTree) -> Mapping[str, CheckedContent]:
        """
        Return one of those that spoil a disk, as `spoiled` says, for each point that has any.

        All of a chain may read otherwise: it is climbed once, and not once for each of them.
        """
        wrong = self.wrong_disks(target, tree)
        if not wrong:
            return {}

        def combine(image: StoredImage, under: _Wrong | None) -> _Wrong:
            entry, below = wrong.get(image.name), under or _Wrong()
            if entry is None:
                return below
            return below.with_(entry, spoils_all=_spoils_all(tree, image.name, entry))

        climbed = tree.climb(combine)
        found: dict[str, CheckedContent] = {}
        for name, all_ in climbed.items():
            if all_.entry is not None and not self._is_right(target, tree, name, all_):
                found.update(dict.fromkeys(tree.shown_by.get(name, ()), all_.entry))
        for name in wrong.keys() - climbed.keys():  # it reaches no base
            found.update(dict.fromkeys(tree.shown_through(name), wrong[name]))
        return found

    def _is_right(self, target: str, tree: ImageTree, top: str, wrong: _Wrong) -> bool:
        entry = self.contents.get(f"{target}/{top}")
        if entry is None or wrong.spoils_all:
            return False
        return self._shows_right(target, tree, entry, run=wrong.run, last_right=wrong.last_right)


def _spoils_all(tree: ImageTree, name: str, wrong: CheckedContent) -> bool:
    """Tell whether nothing that lies on it is right, whatever was read of that."""
    return not wrong.reads_otherwise or name not in tree.shown_by


def _age(entry: CheckedFile | CheckedContent) -> _Age:
    return _Age(None if entry.fault else entry.time, bool(entry.fault))


def last_verified(history: History, record: VerificationRecord) -> Mapping[str, Verified]:
    """
    Return when each point was last verified.

    Args:
        history: What the store holds.
        record: What has been read of it.

    Returns:
        One value for each point that can be read, by id.

    Source:
        docs/verify.md.
    """
    return ages_in(trees_of(history), history, record)


def ages_in(
    trees: Mapping[str, ImageTree], history: History, record: VerificationRecord
) -> Mapping[str, Verified]:
    """
    Return when each point was last verified, for who has the trees of the history already.

    Args:
        trees: What `trees_of` gave of the history.
        history: What the store holds.
        record: What has been read of it.

    Returns:
        As `last_verified`.

    Source:
        docs/verify.md.
    """
    reading = _Reading(record)

    def of_images(target: str, tree: ImageTree) -> Mapping[str, _Age]:
        def combine(image: StoredImage, under: _Age | None) -> _Age:
            own = reading.of_file(f"{target}/{image.name}", image.sha256)
            return own if under is None else own.with_(under)

        return tree.climb(combine)

    def of_content(target: str, top: str | None) -> _Age:
        if target not in prints or top is None:
            return _NEVER
        return reading.of_content(f"{target}/{top}", prints[target].get(top))

    prints = {target: tree.fingerprints() for target, tree in trees.items() if reading.contents}
    ages = {target: of_images(target, tree) for target, tree in trees.items()}
    spoiled = {target: reading.spoiling(target, tree) for target, tree in trees.items()}
    found: dict[str, Verified] = {}
    for point in history.points:
        tops = {disk.target: trees[disk.target].tops.get(point.id) for disk in point.disks}
        parts = [reading.of_file(file.name, file.sha256) for file in point.files]
        parts += [ages[target].get(top or "", _NEVER) for target, top in tops.items()]
        all_files = reduce(_Age.with_, parts)
        disks = reduce(
            _Age.with_,
            (
                _WRONG if point.id in spoiled[target] else of_content(target, top)
                for target, top in tops.items()
            ),
        )
        found[point.id] = Verified(all_files.time, disks.time, all_files.wrong or disks.wrong)
    return found


def found_wrong(history: History, record: VerificationRecord) -> frozenset[str]:
    """
    Return the files that were wrong when they were last read, and images through which a disk was.

    Args:
        history: What the store holds.
        record: What has been read of it; what it says of other files than these counts for nothing.

    Returns:
        Such as ``"vda/20261124T040407Z.qcow2"`` and ``"20261124T040407Z.xml"``.

    Source:
        docs/verify.md; docs/store-format.md, ``verified.json``.
    """
    return _wrong_files(history, record) | _wrong_images(history, record)


def _wrong_files(history: History, record: VerificationRecord) -> frozenset[str]:
    """Return the files that were wrong when they were last read."""
    if not any(entry.fault for entry in record.files):  # as nearly always: nothing to work out
        return frozenset()
    reading = _Reading(record)
    named = named_images(history) | {
        (file.name, file.sha256) for point in history.points for file in point.files
    }
    return frozenset(file for file, sha256 in named if reading.of_file(file, sha256).wrong)


def _wrong_images(history: History, record: VerificationRecord) -> frozenset[str]:
    """Return the images through which a disk was wrong."""
    if not any(entry.fault for entry in record.contents):
        return frozenset()
    reading = _Reading(record)
    return frozenset(
        f"{target}/{name}"
        for target, tree in trees_of(history).items()
        for name in reading.wrong_disks(target, tree)
    )


def with_found_wrong(history: History, record: VerificationRecord) -> History:
    """
    Return a history that tells what verifications have found wrong.

    Args:
        history: What the store holds.
        record: What has been read of it.

    Source:
        docs/verify.md.
    """
    files, images = _wrong_files(history, record), _wrong_images(history, record)
    if not (files or images):
        return history
    return evolve(
        history,
        wrong_files=files,
        wrong_images=images,
        wrong_disks=tuple(_wrong_disks(history, record)),
    )


def _wrong_disks(history: History, record: VerificationRecord) -> Iterator[WrongDisk]:
    trees = trees_of(history)
    sure = evolve(
        record, contents=tuple(e for e in record.contents if e.reads_otherwise or not e.fault)
    )
    otherwise, wrong = (
        {target: reading.spoiling(target, tree) for target, tree in trees.items()}
        for reading in (_Reading(sure), _Reading(record))
    )
    for point in history.points:
        for disk in point.disks:
            entry = otherwise[disk.target].get(point.id)
            known = entry is not None
            entry = entry or wrong[disk.target].get(point.id)
            if entry is not None:
                yield WrongDisk(
                    point.id, disk.target, entry.file, entry.time, entry.fault, otherwise=known
                )


def trusted(
    history: History, record: VerificationRecord, *, before: int | None = None
) -> VerificationRecord:
    """
    Return a record without what was read first through something that was wrong.

    When that is right again, the disk reads otherwise, and is right too. So this is done before
    newer entries replace those that say what was wrong.

    Args:
        history: What the store holds.
        record: What has been read of it.
        before: Only what earlier verifications than this one have read; None: of all.

    Returns:
        The record. A disk that was right goes, as if it had never been read; of one that was wrong
        the fault stays, and there is nothing to compare the next reading with.

    Source:
        docs/adr/0029-a-fault-stays-until-it-is-read-right.md.
    """
    faults = (*(each.fault for each in record.files), *(each.fault for each in record.contents))
    if not any(faults):  # as nearly always
        return record
    doubtful = {
        file
        for target, tree in trees_of(history).items()
        for file in _doubtful(target, tree, record)
    }
    contents = (
        each.without_reference()
        if each.file in doubtful and (before is None or each.run < before)
        else each
        for each in record.contents
    )
    return evolve(record, contents=tuple(each for each in contents if each is not None))


def _doubtful(target: str, tree: ImageTree, record: VerificationRecord) -> Iterator[str]:
    """Give the top images that were read first after something under them was last right."""
    reading = _Reading(record)
    disks = reading.wrong_disks(target, tree)
    files = {entry.file: entry for entry in record.files if entry.fault}

    def combine(image: StoredImage, under: tuple[int, int] | None) -> tuple[int, int]:
        """Return when all that a disk reads through was right; and when the disk was, too."""
        file, disk = files.get(f"{target}/{image.name}"), disks.get(image.name)
        through = under[1] if under is not None else sys.maxsize
        if file is not None:  # also of one that a merge has made of it since
            through = min(through, file.last_right)
        return through, through if disk is None else min(through, disk.last_right)

    for name, (right, _) in tree.climb(combine).items():
        entry = reading.contents.get(f"{target}/{name}")
        if entry is not None and entry.reference_since > right:
            yield entry.file


def judge(
    survey: Survey,
    files: Sequence[FileCheck] = (),
    contents: Sequence[ContentCheck] = (),
    *,
    point: str | None = None,
    odd: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Verification:
    """
    Say what a verification has found.

    Args:
        survey: What lies in the domain's directory after the reading, with the record of it.
        files: What came of each file.
        contents: What came of each disk that was read as a guest does.
        point: Id of the only point that was looked at, None for all.
        odd: What else is odd, and no fault.
        notes: What else is worth knowing.

    Returns:
        The faults, and a verdict on each point. Files that no point needs any more, because it was
        removed meanwhile, are passed over.

    Source:
        docs/verify.md, "What is found".
    """
    history = survey.history
    trees = trees_of(history)
    reading = _Reading(_with_checks(survey.record, contents))
    found = tuple(
        (target, fault)
        for target, fault in (
            *(("", fault) for fault in survey.faults),
            *(("", fault) for fault in _faults_of_orphans(survey) if point is None),
            *_faults_of_manifests(history),
            *_faults_of_links(history, trees),
            *_faults_of_files(history, trees, files),
            *_faults_of_contents(history, trees, reading, contents),
            *_faults_of_before(history, trees, survey.record, reading, files, contents),
        )
        if point is None or point in fault.points or not fault.points
    )
    if point is None:
        leftovers, strangers = _lying_about(survey)
    else:
        leftovers, strangers = (), ()
    latest = history.latest
    others = replaced_since(history, files)
    these = [check for check in files if check.file not in others]
    read = [check.read_bytes for check in these if check.read_bytes is not None]
    unread = sum(check.read_bytes is None and check.kind is None for check in these)
    return Verification(
        domain=latest.domain if latest else history.uuid,
        uuid=history.uuid,
        point=point,
        faults=tuple(fault for _, fault in found),
        points=tuple(
            verdict
            for verdict in _verdicts(history, found, survey.record)
            if point in {None, verdict.id}
        ),
        leftovers=leftovers,
        strangers=strangers,
        odd=(
            *odd,
            *_unverified(history, trees, others, point),
            *_going(survey, point),
            *_unsealed(survey, point),
        ),
        notes=(*notes, *(f"{each.at or each.file}: {each.note}" for each in contents if each.note)),
        manifests=tuple(each for each in survey.digests if point in {None, each[0]}),
        read_files=len(read),
        read_bytes=sum(read),
        skipped_files=unread,
        read_disks=sum(check.sha256 is not None for check in contents),
    )


def _faults_of_manifests(history: History) -> Iterator[_Found]:
    for file, reason in history.unreadable:
        yield "", Fault(FaultKind.MANIFEST, file, reason, (file.removesuffix(_MANIFEST),))
    for lost in history.lost:
        reason = "the manifest of a published point is gone"
        yield "", Fault(FaultKind.LOST, lost + _MANIFEST, reason, (lost,))


def _faults_of_links(history: History, trees: Mapping[str, ImageTree]) -> Iterator[_Found]:
    for target, tree in trees.items():
        for name, reason in tree.broken.items():
            points = _in_order(history, tree.shown_through(name))
            yield target, Fault(FaultKind.CHAIN, f"{target}/{name}", reason, points)
        for point, reason in tree.lost.items():
            words = f"disk {target}: {reason}"
            yield target, Fault(FaultKind.CHAIN, point + _MANIFEST, words, (point,))


def named_images(history: History) -> frozenset[tuple[str, str]]:
    """
    Return every image that a point names, with its sha256.

    Args:
        history: What the store holds.

    Source:
        docs/store-format.md, ``images``.
    """
    return frozenset(
        (f"{disk.target}/{image.name}", image.sha256)
        for point in history.points
        for disk in point.disks
        for image in disk.images
    )


def replaced_since(history: History, files: Iterable[FileToVerify | FileCheck]) -> tuple[str, ...]:
    """
    Return the files that points name, but as others than those that were to be verified.

    Args:
        history: What the store holds.
        files: What was to be verified, or has been; what no point names any more is passed over.

    Source:
        docs/verify.md, "While others work".
    """
    named = named_images(history) | {
        (file.name, file.sha256) for point in history.points for file in point.files
    }
    right = {each.file for each in files if (each.file, each.sha256) in named}
    there = {name for name, _ in named} - right
    return tuple(dict.fromkeys(each.file for each in files if each.file in there))


def _faults_of_files(
    history: History, trees: Mapping[str, ImageTree], checks: Iterable[FileCheck]
) -> Iterator[_Found]:
    owners = {
        (file.name, file.sha256): point.id for point in history.points for file in point.files
    }
    images = named_images(history)
    for check in checks:
        known = (check.file, check.sha256)
        if check.kind is None or not (known in images or known in owners):
            continue  # of another image of that name, when a merge came between
        target, _, name = check.file.rpartition("/")
        points = trees[target].shown_through(name) if target else frozenset({owners[known]})
        yield target, Fault(check.kind, check.file, check.reason, _in_order(history, points))


def _with_checks(
    record: VerificationRecord, contents: Sequence[ContentCheck]
) -> VerificationRecord:
    """Return the record with what was read now, where the store could not be written."""
    there, run = {entry.file: entry.time for entry in record.contents}, record.next_run
    missing = (each for each in contents if each.file not in there or there[each.file] < each.time)
    return record.with_entries(contents=(each.entry(run) for each in missing))


def _faults_of_contents(
    history: History,
    trees: Mapping[str, ImageTree],
    reading: _Reading,
    checks: Iterable[ContentCheck],
) -> Iterator[_Found]:
    for check in checks:
        target, _, top = check.file.rpartition("/")
        if check.kind is None or target not in trees:
            continue
        tree, at = trees[target], check.at or check.file
        if check.kind is FaultKind.STRUCTURE:
            points = tree.shown_through(at.rpartition("/")[2])
        elif check.kind is FaultKind.DISK:
            points = reading.spoiled(target, tree, check.entry(reading.contents[check.file].run))
        else:
            points = frozenset(point for point, shown in tree.tops.items() if shown == top)
        if points:
            yield target, Fault(check.kind, at, check.reason, _in_order(history, points))


def _faults_of_before(
    history: History,
    trees: Mapping[str, ImageTree],
    record: VerificationRecord,
    reading: _Reading,
    files: Iterable[FileCheck],
    contents: Iterable[ContentCheck],
) -> Iterator[_Found]:
    """Give what was wrong when it was last read, and was not read now: nothing makes it right."""
    now = {check.file for check in files if check.kind or check.read_bytes is not None}
    checks = (
        FileCheck(each.file, each.sha256, each.time, FaultKind.SHA256, _before(each))
        for each in record.files
        if each.fault and each.file not in now
    )
    yield from _faults_of_files(history, trees, checks)
    read = {check.file for check in contents}
    for target, tree in trees.items():
        for entry in reading.wrong_disks(target, tree).values():
            if entry.file not in read:
                spoiled = _in_order(history, reading.spoiled(target, tree, entry))
                yield target, Fault(FaultKind.DISK, entry.file, _before(entry), spoiled)


def _before(entry: CheckedFile | CheckedContent) -> str:
    how = " --deep" if isinstance(entry, CheckedContent) else ""
    return f"{entry.fault} (found {entry.time:%Y-%m-%d}; fibackup verify{how} reads it again)"


def _in_order(history: History, points: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(points, key=lambda each: history.point(each).sequence))


def _verdicts(
    history: History, found: Iterable[_Found], record: VerificationRecord
) -> Iterator[PointHealth]:
    """Give a verdict on each point; those without a manifest stand where their ids belong."""
    spoiled: dict[str, set[str]] = {}
    for target, fault in found:
        for point in fault.points:
            spoiled.setdefault(point, set()).add(target)
    ages = last_verified(history, record)
    verdicts = [
        PointHealth(
            id=point.id,
            whole=point.id not in spoiled,
            disks=tuple(
                disk.target for disk in point.disks if disk.target not in spoiled.get(point.id, ())
            ),
            verified=ages[point.id].files,
            contents_verified=ages[point.id].contents,
        )
        for point in history.points
    ]
    gone = spoiled.keys() - {point.id for point in history.points}
    if gone:
        verdicts += [PointHealth(point, whole=False) for point in gone]
        verdicts.sort(key=lambda verdict: verdict.id)
    yield from verdicts


def _faults_of_orphans(survey: Survey) -> Iterator[Fault]:
    """Give the images that may be all that is left of points: no seal tells what was published."""
    history = survey.history
    if survey.busy or {point.id for point in history.points} - {*survey.unsealed}:
        return
    reason = (
        "the manifest of its point may be gone, and no seal tells which points there were: take "
        "manifests and points.sha256 from another copy of the store, or move the image away"
    )
    for file in sorted(unexplained_images(history)):
        yield Fault(FaultKind.LOST, file, reason)


def _lying_about(
    survey: Survey,
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Return leftovers and strangers, each with the reason."""
    history = survey.history
    named = {file.name for point in history.points for file in point.files}
    named |= {
        f"{disk.target}/{image.name}"
        for point in history.points
        for disk in point.disks
        for image in disk.images
    }
    gone = {file.removesuffix(_MANIFEST) for file, _ in history.unreadable} | set(history.lost)
    named.update(fault.file for fault in _faults_of_orphans(survey))
    complete = {f"{each.target}/{each.image.name}" for each in history.receipts}
    leftovers: list[tuple[str, str]] = []
    strangers: list[tuple[str, str]] = []
    for file in survey.files:
        if file.name in named:
            continue
        why = _why_left(file, gone, complete, history.orphans)
        if why is None:
            strangers.append((file.name, "no fibackup writes such a file"))
        elif why and not survey.busy:
            leftovers.append((file.name, why))
    return tuple(leftovers), tuple(strangers)


def _why_left(
    file: FoundFile, gone: set[str], complete: set[str], orphans: frozenset[str]
) -> str | None:
    """Return why a file lies there; empty when it should, None when nobody knows."""
    target, _, name = file.name.rpartition("/")
    if not file.regular or (target and not is_target(target)):
        return None
    if _TEMPORARY.fullmatch(name):
        return "left half-written by a killed run; the next backup removes it"
    if not target and (name in _OF_THE_STORE or _PROTECTED.fullmatch(name)):
        return ""
    match = (_IMAGE if target else _OTHER).fullmatch(name)
    if match is None:
        return None
    if match[1] in gone or name.endswith(_MANIFEST):
        return ""  # it belongs to a point of which nothing is known, or is a manifest
    if name.endswith(_RECEIPT):
        return "a receipt; the next backup uses it, or it is of a point that is complete"
    if file.name in complete:
        words = "complete, but in no point yet; the next backup takes it over if it can"
        return f"{words}, and once two points of the disk have not, it goes"
    if file.name in orphans:
        return "the manifest of its point may be gone; nothing is pruned while it is there"
    if target:
        return "no point names it: left by a killed run"
    return "no point names it: the manifest of its point is gone, and nothing else needs it"


def _going(survey: Survey, point: str | None) -> Iterator[str]:
    """Tell of points that a prune was taking away, unless one is at work."""
    if not survey.busy and (point is None or point in survey.history.going):
        yield from going_warnings(survey.history)


def _unverified(
    history: History, trees: Mapping[str, ImageTree], files: Iterable[str], point: str | None
) -> Iterator[str]:
    """Tell of what was compared with what is recorded no more: it counts for nothing."""
    for file in files:
        target, _, name = file.rpartition("/")
        of = trees[target].shown_through(name) if target else {file[:16]}
        points = [each for each in _in_order(history, of) if point in {None, each}]
        if points:
            words = f"{'points' if len(points) > 1 else 'point'} {', '.join(points)}"
            yield (
                f"{file} was replaced while it was verified, and is not verified: "
                f"verify {words} again"
            )


def _unsealed(survey: Survey, point: str | None) -> Iterator[str]:
    for unsealed in survey.unsealed:
        if point in {None, unsealed}:
            yield f"{unsealed}.json: it has no seal; the next backup seals it"
