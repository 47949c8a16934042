"""
Plan a verification: every file of every point is looked at, and chosen ones are read in full.

::

    all that points name   -- skip_since -->  not read lately  -- sample -->  read in this run
         |                                                                         ^
         `-- wrong when it was last read ------------------------------------------'

A sample takes whole files, those that were read longest ago, until it has its share of all bytes or
more, so at least one; N runs of 100/N percent read everything, whatever the clock shows and
whatever has failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from attrs import evolve, field, frozen

from fibackup.errors import PolicyError
from fibackup.model.point import History, RestorePoint, StoredImage
from fibackup.model.records import RECORD_FILE
from fibackup.model.tree import ImageTree, trees_of
from fibackup.model.verification import CheckedContent, Survey, VerificationRecord
from fibackup.plan.steps import Expectation, Plan, Step
from fibackup.plan.verified import trusted
from fibackup.plan.verify_steps import (
    ContentToVerify,
    ExpectedHeader,
    FileToVerify,
    VerifyContents,
    VerifyFiles,
)
from fibackup.plan.wishes import flag

__all__ = ["VerifyPolicy", "plan_verify"]


def _percent(_: object, __: object, value: float) -> None:
    if not 0 < value <= 100:
        raise PolicyError(reason=f"a sample of {value:g} % is not more than 0 and at most 100")


@frozen
class VerifyPolicy:
    """
    What a verification reads.

    Attributes:
        point: Id of the only point to look at, ``"latest"``, or None for all.
        deep: True: check the structure of images too, and read disks as a guest does.
        sample_percent: Share of the domain's bytes to read, at least: whole files, those that were
            read longest ago.
        skip_since: Files that were read, and were right, since this time are only looked at.
        rate_bytes: Bytes in a second to read at most, 0 without a limit.
    """

    point: str | None = None
    deep: bool = field(default=False, validator=flag)
    sample_percent: float = field(default=100.0, validator=_percent)
    skip_since: datetime | None = None
    rate_bytes: int = 0


class _Entry(Protocol):
    """What the record says of something that was read."""

    @property
    def time(self) -> datetime: ...

    @property
    def run(self) -> int: ...

    @property
    def fault(self) -> str: ...


@frozen
class _Candidate:
    """Something that may be read, and when that was done last."""

    name: str
    size_bytes: int
    entry: _Entry | None


def plan_verify(survey: Survey, *, now: datetime, policy: VerifyPolicy = VerifyPolicy()) -> Plan:
    """
    Plan to compare what lies in a domain's directory of a store with what its manifests say.

    Args:
        survey: What lies there.
        now: The time now, aware; entries of the record from the future count for nothing.
        policy: What is to be read.

    Returns:
        A plan that writes nothing but the record of what was verified. `Report.verification` has
        the result.

    Raises:
        NoSuchPointError: There is no such point. Nothing was touched.
        ManifestError: The point's manifest is damaged or gone. Nothing was touched.

    Source:
        docs/verify.md.
    """
    history = survey.history
    chosen = history.points if policy.point is None else (history.point(policy.point),)
    trees = trees_of(history)
    run = survey.record.next_run
    files = _files(chosen, trees)
    record_fault = "; ".join(each.reason for each in survey.faults if each.file == RECORD_FILE)
    looked = _verify_files(survey, files, run, now, policy)
    steps: list[Step] = [evolve(looked, record_fault=record_fault)]
    if policy.deep:
        steps.append(_verify_contents(survey, chosen, trees, run, now, policy))
    latest = history.latest
    return Plan(
        verb="verify",
        domain=latest.domain if latest else history.uuid,
        uuid=history.uuid,
        store=history.store,
        point=chosen[0].id if policy.point is not None else "",
        expects=Expectation(sequence=latest.sequence if latest else 0),
        decisions=(),
        steps=tuple(steps),
        warnings=(f"{RECORD_FILE}: {record_fault}",) if record_fault else (),
    )


def _files(
    points: Sequence[RestorePoint], trees: Mapping[str, ImageTree]
) -> tuple[FileToVerify, ...]:
    """Return all files that points need, each once for each thing that is said of it."""
    found: dict[FileToVerify, None] = {}
    for point in points:
        for file in point.files:
            found[FileToVerify(file.name, file.size_bytes, file.sha256, None, read=True)] = None
        for disk in point.disks:
            below = trees[disk.target].images_of(point.id) if len(points) == 1 else ()
            for image in below or disk.images:
                header = ExpectedHeader(image.backing, image.virtual_size_bytes)
                name = f"{disk.target}/{image.name}"
                found[FileToVerify(name, image.size_bytes, image.sha256, header, read=True)] = None
    return tuple(found)


def _verify_files(
    survey: Survey, files: tuple[FileToVerify, ...], run: int, now: datetime, policy: VerifyPolicy
) -> VerifyFiles:
    """Put what is read first, in the order in which it was chosen."""
    entries = {entry.file: entry for entry in survey.record.files}
    candidates: list[_Candidate] = []
    for file in files:
        entry = entries.get(file.file)
        of_this = entry is not None and entry.sha256 == file.sha256
        candidates.append(_Candidate(file.file, file.size_bytes, entry if of_this else None))
    order = {name: place for place, name in enumerate(_chosen(candidates, now, policy))}
    ordered = sorted(files, key=lambda file: order.get(file.file, len(order)))
    return VerifyFiles(
        files=tuple(evolve(file, read=file.file in order) for file in ordered),
        run=run,
        rate_bytes=policy.rate_bytes,
    )


def _verify_contents(
    survey: Survey,
    points: Sequence[RestorePoint],
    trees: Mapping[str, ImageTree],
    run: int,
    now: datetime,
    policy: VerifyPolicy,
) -> VerifyContents:
    record = trusted(survey.history, survey.record)
    entries = {entry.file: entry for entry in record.contents}
    recorded, brought = _recorded(survey.history, trees), _brought(survey.history)
    tops: dict[str, str] = {}  # file -> target
    for point in points:
        for disk in point.disks:
            top = trees[disk.target].tops.get(point.id)
            if top is not None:
                tops[f"{disk.target}/{top}"] = disk.target
    prints = {target: tree.fingerprints() for target, tree in trees.items()}
    sizes = {target: tree.climb(_add) for target, tree in trees.items()}
    proven = {target: _all_right(target, tree, record) for target, tree in trees.items()}
    candidates: list[_Candidate] = []
    for file, target in tops.items():
        top = file.removeprefix(f"{target}/")
        if top not in prints[target]:
            continue  # it does not reach a base: a fault without reading it
        entry = entries.get(file)
        of_this = entry is not None and (entry.fault or entry.chain == prints[target][top])
        candidates.append(_Candidate(file, sizes[target][top], entry if of_this else None))
    contents: list[ContentToVerify] = []
    chains: dict[str, dict[str, tuple[str, ...]]] = {target: {} for target in trees}
    for file in _chosen(candidates, now, policy):
        target = tops[file]
        top = file.removeprefix(f"{target}/")
        names = _names(trees[target], top, chains[target])
        contents.append(
            ContentToVerify(
                target=target,
                images=names,
                checked=brought[file],
                chain=prints[target][top],
                virtual_size_bytes=trees[target].images[top].virtual_size_bytes,
                estimate_bytes=sizes[target][top],
                recorded=tuple(recorded.get(file, ())),
                earlier=_known(entries.get(file), proven[target][top]),
            )
        )
    return VerifyContents(
        contents=tuple(contents),
        run=run,
        rate_bytes=policy.rate_bytes,
    )


def _all_right(target: str, tree: ImageTree, record: VerificationRecord) -> Mapping[str, int]:
    """Return the last verification in which every file of a disk was right, by its top."""
    right = {entry.file: entry.last_right for entry in record.files}

    def combine(image: StoredImage, under: int | None) -> int:
        own = right.get(f"{target}/{image.name}", 0)  # a merge has read what it was made of
        return own if under is None else min(own, under)

    return tree.climb(combine)


def _known(entry: CheckedContent | None, right: int) -> CheckedContent | None:
    """Return what the record has of a disk, unless a file under it may have been wrong by then."""
    if entry is None or entry.fault or entry.compared_since <= right:
        return entry
    return None


def _add(image: StoredImage, under: int | None) -> int:
    return image.size_bytes + (under or 0)


def _names(tree: ImageTree, top: str, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the images of a disk, top first; down to one that was asked for before."""
    way: list[str] = []
    name: str | None = top
    while name is not None and name not in known:
        way.append(name)
        name = tree.images[name].backing
    known[top] = (*way, *(known[name] if name is not None else ()))
    return known[top]


def _recorded(history: History, trees: Mapping[str, ImageTree]) -> Mapping[str, dict[str, None]]:
    """Return the content hashes that points were taken with, by top image."""
    found: dict[str, dict[str, None]] = {}
    for point in history.points:
        for disk in point.disks:
            top = trees[disk.target].tops.get(point.id)
            if disk.content_sha256 is not None and top is not None:
                found.setdefault(f"{disk.target}/{top}", {})[disk.content_sha256] = None
    return found


def _brought(history: History) -> Mapping[str, tuple[str, ...]]:
    """Return the images that came with each top image, itself first: their structure is checked."""
    return {
        f"{disk.target}/{disk.images[0].name}": tuple(image.name for image in disk.images)
        for point in history.points
        for disk in point.disks
        if disk.images
    }


def _chosen(
    candidates: Sequence[_Candidate], now: datetime, policy: VerifyPolicy
) -> tuple[str, ...]:
    """Return what is read: all that was wrong, then what was read longest ago."""
    wrong = [each for each in candidates if _was_wrong(each)]
    rest = [each for each in candidates if not _was_wrong(each) and not _lately(each, now, policy)]
    rest.sort(key=lambda each: each.entry.run if each.entry is not None else 0)
    wanted = sum(each.size_bytes for each in candidates) * policy.sample_percent
    sample: list[_Candidate] = []
    picked = 0
    for each in rest:
        if each.size_bytes and picked * 100 >= wanted:
            break
        sample.append(each)
        picked += each.size_bytes
    return tuple(each.name for each in (*wrong, *sample))


def _was_wrong(candidate: _Candidate) -> bool:
    return candidate.entry is not None and bool(candidate.entry.fault)


def _lately(candidate: _Candidate, now: datetime, policy: VerifyPolicy) -> bool:
    entry, since = candidate.entry, policy.skip_since
    return entry is not None and since is not None and since <= entry.time <= now
