"""
What a record of verifications shows of the points that are there.

::

    verified.json   vda/A.qcow2  read on Monday, right    vda/B.qcow2  its disk read otherwise
                         |                                     |
    A <- B <- C          A is right      B is wrong            C is wrong too, unless its disk
                                                               has been read since, and is right

What it says of other files than those of the points counts for nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import reduce

from attrs import evolve, frozen

from fibackup.model.point import History, StoredImage, WrongDisk
from fibackup.model.tree import ImageTree, trees_of
from fibackup.model.verification import CheckedContent, CheckedFile, VerificationRecord

__all__ = [
    "Reading",
    "Verified",
    "ages_in",
    "last_verified",
    "settled",
    "trusted",
    "with_found_wrong",
]


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


class Reading:
    """
    What a record says of the files that are there; what it says of others counts for nothing.

    Args:
        record: What has been read of a store.

    Attributes:
        contents: What was read of each disk, by its top image, such as
            ``"vda/20261124T040407Z.qcow2"``.
    """

    def __init__(self, record: VerificationRecord) -> None:
        self._files = {entry.file: entry for entry in record.files}
        self.contents: Mapping[str, CheckedContent] = {
            entry.file: entry for entry in record.contents
        }
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
        """
        Tell whether an image whose point was dropped was right later, read with what lies on it.

        The points above may have been dropped too since they were read: their images are there.
        """
        was = self.contents[f"{target}/{name}"]
        read = (self.contents.get(f"{target}/{above}") for above in tree.over(name))
        return any(
            each.run > was.run
            and self._shows_right(target, tree, each, run=was.run, last_right=was.last_right)
            for each in read
            if each is not None
        )

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
        if _spoils_all(wrong):
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
            return below.with_(entry, spoils_all=_spoils_all(entry))

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


def _spoils_all(wrong: CheckedContent) -> bool:
    """Tell whether nothing that lies on it is right, whatever was read of that."""
    return not wrong.reads_otherwise


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
    reading = Reading(record)

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


def _wrong_files(history: History, record: VerificationRecord) -> frozenset[str]:
    """Return the files that were wrong when they were last read."""
    if not any(entry.fault for entry in record.files):  # as nearly always: nothing to work out
        return frozenset()
    reading = Reading(record)
    return frozenset(
        file for file, sha256 in history.named_files if reading.of_file(file, sha256).wrong
    )


def _wrong_images(history: History, record: VerificationRecord) -> frozenset[str]:
    """Return the images through which a disk was wrong."""
    if not any(entry.fault for entry in record.contents):
        return frozenset()
    reading = Reading(record)
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
        for reading in (Reading(sure), Reading(record))
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


def settled(history: History, record: VerificationRecord) -> VerificationRecord:
    """
    Return a record without what was wrong through images of dropped points, and is right by now.

    Those that have shown it can be dropped too, or merged: then nothing would tell it any more.

    Args:
        history: What the store holds.
        record: What has been read of it.

    Source:
        docs/adr/0029-a-fault-stays-until-it-is-read-right.md.
    """
    if not any(entry.fault for entry in record.contents):  # as nearly always
        return record
    reading = Reading(record)
    ended = frozenset(
        f"{target}/{name}"
        for target, tree in trees_of(history).items()
        for name in tree.images.keys() - reading.wrong_disks(target, tree).keys()
        if name not in tree.shown_by
    )
    return evolve(
        record,
        contents=tuple(e for e in record.contents if not e.fault or e.file not in ended),
    )


def _doubtful(target: str, tree: ImageTree, record: VerificationRecord) -> Iterator[str]:
    """Give the top images that were read first after something under them was last right."""
    reading = Reading(record)
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
