"""
What is known of a store's files: what lies there, what was read, and what that says of each point.

::

    Survey               what lies in a domain's directory, and the record
      FileCheck          one file against its manifest: there, its size, its header, its sha256
      ContentCheck       one disk as a guest reads it
    VerificationRecord   when each of them was last read in full, kept beside the points
    Verification         faults, the points that they spoil, and the points that are whole

A fault in an image spoils every point that reads through it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from attrs import evolve, field, frozen

from fibackup.model.checks import non_negative, sha256_hex
from fibackup.model.point import History
from fibackup.units import counted, format_bytes, printable

__all__ = [
    "CheckedContent",
    "CheckedFile",
    "ContentCheck",
    "Fault",
    "FaultKind",
    "FileCheck",
    "FoundFile",
    "PointHealth",
    "Survey",
    "Verification",
    "VerificationRecord",
]

READS_OTHERWISE = "the disk reads otherwise"
"""How the fault of a disk begins that could be read, and was another one."""

_AND_NOW = "; and now it cannot be told: "
_READ_AND_WAS = re.compile(r": sha256 ([0-9a-f]{64}), ([0-9a-f]{64}) then")


class FaultKind(StrEnum):
    """
    What is wrong with a file.

    `COPY`: another directory has the UUID of the domain. `LOST`: the manifest of a published point
    is gone, or seems to be. `JOURNAL`: what a killed prune was about to do cannot be read.
    `CHAIN`: a backing name leads nowhere.
    `STRUCTURE`: ``qemu-img check`` found errors. `DISK`: the disk does not read as it did.
    """

    COPY = "copy"
    MANIFEST = "manifest"
    LOST = "lost"
    SEALS = "seals"
    RECORD = "record"
    JOURNAL = "journal"
    MISSING = "missing"
    NOT_A_FILE = "not-a-file"
    SIZE = "size"
    UNREADABLE = "unreadable"
    SHA256 = "sha256"
    HEADER = "header"
    CHAIN = "chain"
    STRUCTURE = "structure"
    DISK = "disk"


@frozen
class Fault:
    """
    One thing that is wrong.

    Attributes:
        kind: What.
        file: The file, in the domain's directory, such as ``"vda/20261124T040407Z.qcow2"``.
        reason: In words.
        points: Ids of the points that it spoils, oldest first.
    """

    kind: FaultKind
    file: str
    reason: str
    points: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return file, reason and points in one line."""
        spoils = ", ".join(self.points) or "no point"
        return f"{printable(self.file)}: {printable(self.reason)} (spoils {spoils})"


@frozen
class CheckedFile:
    """
    When a file was last read in full.

    Attributes:
        file: The file, in the domain's directory.
        sha256: What its manifest said; when that has changed since, the entry counts for nothing.
        time: When, aware.
        run: Number of the verification, counted up; this is the order.
        fault: What was wrong, empty when nothing was.
        since: Of one that was wrong, the verification in which it was last right, 0 when it never
            was. None: it was right, or that is not known.
    """

    file: str
    sha256: str = field(validator=sha256_hex)
    time: datetime
    run: int = field(validator=non_negative)
    fault: str = ""
    since: int | None = None

    @property
    def last_right(self) -> int:
        """Number of the verification in which it was last right, 0 when there is none."""
        return (self.since or 0) if self.fault else self.run

    def after(self, earlier: CheckedFile | None) -> CheckedFile:
        """
        Return the entry as it is kept in place of another one.

        Args:
            earlier: What the record has of a file of this name, perhaps before a merge, or None.

        Source:
            docs/store-format.md, ``verified.json``.
        """
        if not self.fault:
            return self
        return evolve(self, since=earlier.last_right if earlier is not None else 0)


@frozen
class CheckedContent:
    """
    When a disk was last read as a guest does.

    Attributes:
        file: The top image, in the domain's directory.
        chain: Fingerprint of its images; when they have changed since, it is to be read again.
        time: When, aware.
        run: Number of the verification.
        sha256: sha256 of the flat content, None when it could not be read.
        fault: What was wrong, empty when nothing was.
        since: Of a disk that was right, the verification that found what it is compared with, 0
            when that is the hash that its point was taken with. Of one that was wrong, the
            verification in which it was last right, 0 when it never was. None: not known.
        reference_run: Of a disk that was wrong, the verification that found what it is compared
            with. None: it was right, there is nothing to compare with, or that is not known.
    """

    file: str
    chain: str = field(validator=sha256_hex)
    time: datetime
    run: int = field(validator=non_negative)
    sha256: str | None
    fault: str = ""
    since: int | None = None
    reference_run: int | None = None

    @property
    def last_right(self) -> int:
        """Number of the verification in which it was last right, 0 when there is none."""
        return (self.since or 0) if self.fault else self.run

    @property
    def reference_since(self) -> int:
        """Number of the verification that found what the next one compares with."""
        return (self.reference_run or 0) if self.fault else self.compared_since

    def without_reference(self) -> CheckedContent | None:
        """
        Return what is left of it when that was read through something wrong.

        Returns:
            The fault, which the next reading ends; None of a disk that was right: it is as if it
            had never been read.

        Source:
            docs/adr/0029-a-fault-stays-until-it-is-read-right.md.
        """
        return evolve(self, sha256=None, reference_run=None) if self.fault else None

    @property
    def compared_since(self) -> int:
        """Number of the verification that found what it is compared with, at the latest."""
        return self.run if self.fault or self.since is None else self.since

    def shows_right(self, chain: str | None, *, run: int, last_right: int) -> bool:
        """
        Tell whether this reading shows its disk to be right, although something under it was wrong.

        It does when it is no older, and was compared with what was found while that one was right:
        what was read first through something wrong proves nothing.

        Args:
            chain: Fingerprint of the images as they are now, None when they do not reach a base.
            run: The verification that found it wrong; of several, the last one.
            last_right: The verification in which it was last right; of several, the first one.

        Source:
            docs/verify.md, "A fault stays".
        """
        same = not self.fault and self.chain == chain
        return same and self.run >= run and self.compared_since <= last_right

    @property
    def reads_otherwise(self) -> bool:
        """True when the disk could be read, and was another one: what lies on it may be right."""
        return self.fault.startswith(READS_OTHERWISE)

    @property
    def reference(self) -> str | None:
        """sha256 to compare the next reading with; one that a fault says is wrong is no such."""
        said = _READ_AND_WAS.search(self.fault)
        return said[2] if said is not None and said[1] == self.sha256 else self.sha256


@frozen
class FileCheck:
    """
    What came of looking at one file.

    Attributes:
        file: The file, in the domain's directory.
        sha256: What its manifest says.
        time: When, aware.
        kind: What is wrong, None when nothing is.
        reason: In words.
        read_bytes: Bytes that were hashed; None when it was looked at only.
    """

    file: str
    sha256: str
    time: datetime
    kind: FaultKind | None = None
    reason: str = ""
    read_bytes: int | None = None

    def entry(self, run: int) -> CheckedFile | None:
        """
        Return what the record keeps of it; None when there is nothing to keep.

        Args:
            run: Number of the verification.

        Source:
            docs/store-format.md, ``verified.json``.
        """
        if self.read_bytes is None and self.kind is None:
            return None
        return CheckedFile(self.file, self.sha256, self.time, run, self.reason)


@frozen
class ContentCheck:
    """
    What came of reading one disk of a point as a guest does.

    Attributes:
        file: The top image, in the domain's directory.
        chain: Fingerprint of its images.
        time: When, aware.
        sha256: sha256 of the disk's flat content; None when it could not be read.
        kind: What is wrong, None when nothing is.
        reason: In words.
        at: The image that is wrong, in the domain's directory; the top image, or one under it.
        note: What is odd and no fault, or empty.
        read_bytes: Bytes that were read.
        earlier: What the record had of it, or None.
        since: Number of the verification that found what it was compared with, 0 when that is the
            hash that its point was taken with, None when there was nothing to compare with.
    """

    file: str
    chain: str
    time: datetime
    sha256: str | None
    kind: FaultKind | None = None
    reason: str = ""
    at: str = ""
    note: str = ""
    read_bytes: int = 0
    earlier: CheckedContent | None = None
    since: int | None = None

    def entry(self, run: int) -> CheckedContent:
        """
        Return what the record keeps of it: while a disk is wrong, what it was before that.

        Args:
            run: Number of the verification.

        Source:
            docs/store-format.md, ``verified.json``.
        """
        was = self.earlier
        if self.kind is None:
            sha256, since = self.sha256, run if self.since is None else self.since
        else:
            sha256, since = (was.reference, was.last_right) if was is not None else (None, 0)
        found = was.reference_since if self.kind is not None and was is not None else None
        return CheckedContent(
            self.file, self.chain, self.time, run, sha256, self._fault(), since, found
        )

    def _fault(self) -> str:
        """Return what is wrong; that a disk reads otherwise stays, also when it cannot be read."""
        was = self.earlier.fault if self.earlier and self.earlier.reads_otherwise else ""
        if self.kind is None or not was or self.reason.startswith(READS_OTHERWISE):
            return self.reason
        return f"{was.partition(_AND_NOW)[0]}{_AND_NOW}{self.reason}"


_Entry: TypeAlias = CheckedFile | CheckedContent


@frozen
class VerificationRecord:
    """
    What has been read of a domain's files, and when.

    Attributes:
        files: One entry for each file, by name.
        contents: One entry for each top image, by name.
    """

    files: tuple[CheckedFile, ...] = ()
    contents: tuple[CheckedContent, ...] = ()

    @property
    def next_run(self) -> int:
        """Number of the next verification."""
        runs = [entry.run for entry in self.files] + [entry.run for entry in self.contents]
        return 1 + max(runs, default=0)

    @property
    def named(self) -> frozenset[str]:
        """The files that it has entries of."""
        read = {entry.file for entry in self.files}
        return frozenset(read | {entry.file for entry in self.contents})

    def with_entries(
        self,
        files: Iterable[CheckedFile] = (),
        contents: Iterable[CheckedContent] = (),
        *,
        forget: Collection[str] = (),
    ) -> VerificationRecord:
        """
        Return the record with newer entries in place of older ones.

        What another verification has found wrong meanwhile is not replaced by what was read before.

        Args:
            files: What was read.
            contents: What was read.
            forget: Files whose entries go, such as those that no point names any more.

        Returns:
            The new record.

        Source:
            docs/store-format.md, ``verified.json``.
        """
        by_file = {entry.file: entry for entry in self.files}
        for each in files:
            there = by_file.get(each.file)
            if not _outdated(each, there):
                by_file[each.file] = each.after(there)
        by_top = {entry.file: entry for entry in self.contents}
        by_top |= {e.file: e for e in contents if not _outdated(e, by_top.get(e.file))}
        return VerificationRecord(
            files=tuple(by_file[name] for name in sorted(by_file) if name not in forget),
            contents=tuple(by_top[name] for name in sorted(by_top) if name not in forget),
        )


def _outdated(entry: _Entry, there: _Entry | None) -> bool:
    """Tell whether something was found wrong after an entry said that it is right."""
    if there is None or not there.fault or entry.fault:
        return False
    return there.run >= entry.run and there.time > entry.time


@frozen
class FoundFile:
    """
    A file that lies in a domain's directory.

    Attributes:
        name: In the domain's directory, such as ``"vda/20261124T040407Z.qcow2"``.
        size_bytes: Its size.
        regular: False for a link, a directory inside a disk's one, a pipe, ...
    """

    name: str
    size_bytes: int
    regular: bool = True


@frozen
class Survey:
    """
    What lies in a domain's directory; nothing but manifests was read.

    Attributes:
        history: What the manifests say.
        files: Every file, by name.
        record: When what was last verified.
        digests: Point id and sha256 of the manifest, of each that could be read.
        unsealed: Ids of points that have no seal yet.
        faults: What is wrong with the seals, the record or the directory itself.
        busy: True while a writer holds the lock: files without a point may be its own.
    """

    history: History
    files: tuple[FoundFile, ...] = ()
    record: VerificationRecord = field(factory=VerificationRecord)
    digests: tuple[tuple[str, str], ...] = ()
    unsealed: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    busy: bool = False


@frozen
class PointHealth:
    """
    What is known of one point.

    Attributes:
        id: The point.
        whole: True when no fault spoils it.
        disks: Targets of the disks that can be restored; all of them, when it is whole.
        verified: When all of its files had been read, and were right: the time of the one that was
            read longest ago. None when one was never read, or was wrong.
        contents_verified: The same of its disks as a guest reads them.
    """

    id: str
    whole: bool
    disks: tuple[str, ...] = ()
    verified: datetime | None = None
    contents_verified: datetime | None = None


@frozen
class Verification:
    """
    What a verification found.

    Attributes:
        domain: The domain's name.
        uuid: Its UUID.
        point: The only point that was looked at, None for all.
        faults: What is wrong, and the points that it spoils.
        points: Every point, oldest first, also those whose manifests are damaged or gone.
        leftovers: ``(file, why)``: what a killed run leaves; no point needs it.
        strangers: ``(file, why)``: what no fibackup writes.
        odd: What else is odd, and no fault.
        notes: What is worth knowing.
        manifests: Point id and sha256 of its manifest: kept elsewhere, it proves what was here.
        read_files: Files that were read and hashed.
        read_bytes: Their size.
        skipped_files: Files that were only looked at: not in the sample, or verified lately.
        read_disks: Disks that were read as a guest does.
    """

    domain: str
    uuid: str
    point: str | None
    faults: tuple[Fault, ...]
    points: tuple[PointHealth, ...]
    leftovers: tuple[tuple[str, str], ...] = ()
    strangers: tuple[tuple[str, str], ...] = ()
    odd: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    manifests: tuple[tuple[str, str], ...] = ()
    read_files: int = 0
    read_bytes: int = 0
    skipped_files: int = 0
    read_disks: int = 0

    @property
    def whole(self) -> tuple[str, ...]:
        """Ids of the points that no fault spoils, oldest first."""
        return tuple(verdict.id for verdict in self.points if verdict.whole)

    @property
    def spoiled(self) -> tuple[str, ...]:
        """Ids of the points that a fault spoils, oldest first."""
        return tuple(verdict.id for verdict in self.points if not verdict.whole)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd without being a fault, a line each."""
        lying = (*self.leftovers, *self.strangers)
        return (*(f"{file}: {why}" for file, why in lying), *self.odd)

    def __str__(self) -> str:
        """Return faults, which points are whole, what was read, and what is odd."""
        lines = [f"fault: {fault}" for fault in self.faults]
        for verdict in self.points:
            if not verdict.whole:
                disks = ", ".join(verdict.disks) or "none"
                lines.append(f"point {verdict.id} is spoiled; disks that can be restored: {disks}")
        total, whole = len(self.points), len(self.whole)
        lines.append(f"{whole} of {counted(total, 'point')} whole")
        skipped = f", {self.skipped_files} looked at only" if self.skipped_files else ""
        disks = (
            f", {counted(self.read_disks, 'disk')} read as a guest does" if self.read_disks else ""
        )
        size = format_bytes(self.read_bytes)
        lines.append(f"{counted(self.read_files, 'file')} read, {size}{skipped}{disks}")
        lines.extend(f"note: {printable(note)}" for note in self.notes)
        lines.extend(f"warning: {printable(warning)}" for warning in self.warnings)
        return "\n".join(lines)
