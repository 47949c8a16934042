"""
Judge what a verification has found: which points are spoiled by what, and what lies about.

::

    unreadable or lost manifest   spoils its point
    broken link, bad image        spoils every point whose disk reads through the image
    bad XML, memory, ...          spoils its point; the disks can be restored
    a file that no point names    leftover, when a run of ours may have left it; else a stranger
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from fibackup.model.point import History
from fibackup.model.records import RECORD_FILE
from fibackup.model.tree import ImageTree, trees_of
from fibackup.model.verification import (
    CheckedContent,
    CheckedFile,
    ContentCheck,
    Fault,
    FaultKind,
    FileCheck,
    PointHealth,
    Survey,
    Verification,
    VerificationRecord,
)
from fibackup.plan.lying_about import faults_of_orphans, lying_about
from fibackup.plan.records import going_warnings
from fibackup.plan.verified import Reading, last_verified
from fibackup.plan.verify_steps import FileToVerify

__all__ = ["judge", "replaced_since"]

_MANIFEST = ".json"

_Found: TypeAlias = tuple[str, Fault]
"""The disk that is spoiled, or "" when none is, and the fault."""


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
    reading = Reading(_with_checks(survey.record, contents))
    found = tuple(
        (target, fault)
        for target, fault in (
            *(("", fault) for fault in survey.faults),
            *(("", fault) for fault in faults_of_orphans(survey) if point is None),
            *_faults_of_manifests(history),
            *_faults_of_links(history, trees),
            *_faults_of_files(history, trees, files),
            *_faults_of_contents(history, trees, reading, contents),
            *_faults_of_before(history, trees, survey.record, reading, files, contents),
        )
        if point is None or point in fault.points or not fault.points
    )
    if point is None:
        leftovers, strangers = lying_about(survey)
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


def replaced_since(history: History, files: Iterable[FileToVerify | FileCheck]) -> tuple[str, ...]:
    """
    Return the files that points name, but as others than those that were to be verified.

    Args:
        history: What the store holds.
        files: What was to be verified, or has been; what no point names any more is passed over.

    Source:
        docs/verify.md, "While others work".
    """
    named = history.named_files
    right = {each.file for each in files if (each.file, each.sha256) in named}
    there = {name for name, _ in named} - right
    return tuple(dict.fromkeys(each.file for each in files if each.file in there))


def _faults_of_files(
    history: History, trees: Mapping[str, ImageTree], checks: Iterable[FileCheck]
) -> Iterator[_Found]:
    owners = {
        (file.name, file.sha256): point.id for point in history.points for file in point.files
    }
    named = history.named_files
    for check in checks:
        known = (check.file, check.sha256)
        if check.kind is None or known not in named:
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
    reading: Reading,
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
    reading: Reading,
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
        for name, entry in reading.wrong_disks(target, tree).items():
            if entry.file not in read:
                spoiled = _in_order(history, reading.spoiled(target, tree, entry))
                shown = name in tree.shown_by
                words = _before(entry) if shown else _of_dropped(entry, tree.owners[name])
                yield target, Fault(FaultKind.DISK, entry.file, words, spoiled)


def _before(entry: CheckedFile | CheckedContent) -> str:
    how = " --deep" if isinstance(entry, CheckedContent) else ""
    return f"{entry.fault} (found {entry.time:%Y-%m-%d}; fibackup verify{how} reads it again)"


def _of_dropped(entry: CheckedContent, heir: str) -> str:
    return (
        f"{entry.fault} (found {entry.time:%Y-%m-%d}; its point was dropped, so fibackup verify "
        f"--deep reads the disk of {heir}, which has the image now: when it was put right, and "
        f"that does not show it, remove {RECORD_FILE})"
    )


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
