"""
The steps of a plan, and the plan: values that say what will be done, and why.

::

    Plan
      expects      what was observed when it was computed; the executor compares first
      decisions    per disk: full or increment, and the reason
      steps        ThawGuest              only when an earlier run may have left it frozen
                   WriteLedger            the intent
                   WhileFrozen            freeze, TakeSnapshot, thaw: no freeze without its thaw
                   WriteLedger            what was taken
                   SaveState              firmware variables, TPM: what is there
                   SaveDomainConfig
                   InParallel             a lane of CopyImage for each disk, base first
                   CopyMemory             only with memory: into the store, then off the host
                   PublishPoint           the manifest, after everything that it names
                   WriteLedger            the result

The set of steps is closed: the executor matches all of them, and `assert_never` guards it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Self, TypeAlias, assert_never, cast

from attrs import field, frozen

from fibackup.codec import decode, encode
from fibackup.errors import ParseError
from fibackup.model.chain import BackingChain, FileIdentity
from fibackup.model.domain import Domain, DomainState
from fibackup.model.ledger import Ledger
from fibackup.model.point import DiskKind, FileRole, StoredFile, StoredImage
from fibackup.model.snapshot import Snapshot
from fibackup.plan.define_steps import (
    DefineDomain,
    MakeDirectory,
    RestoreNvram,
    RestoreTpm,
    SmokeStart,
    StartDomain,
    describe_restore,
)
from fibackup.plan.prune_steps import DropPoints, MergeImages, describe_prune
from fibackup.plan.restore_steps import (
    CopyStored,
    CreateLinked,
    DiskRestore,
    FlattenImage,
    RestoreDisks,
)
from fibackup.plan.retention import PointVerdict
from fibackup.plan.verify_steps import VerifyContents, VerifyFiles
from fibackup.render.drawable import Drawable
from fibackup.units import counted, format_bytes, printable

__all__ = [
    "PLAN_SCHEMA",
    "CommitImages",
    "CommitOffline",
    "ConfirmOff",
    "ConsolidateDisk",
    "CopyImage",
    "CopyMemory",
    "CopyStored",
    "CreateLinked",
    "Decision",
    "DefineDomain",
    "DeleteMemory",
    "DeleteOverlays",
    "DiskRestore",
    "EachDisk",
    "Expectation",
    "ExpectedDisk",
    "ExpectedImage",
    "FinishBlockJob",
    "FlattenImage",
    "InParallel",
    "MakeDirectory",
    "MendHeader",
    "Plan",
    "PlannedDisk",
    "PublishPoint",
    "PullImages",
    "RestoreDisks",
    "RestoreMemory",
    "RestoreNvram",
    "RestoreTpm",
    "RestoredDisk",
    "ResumeDomain",
    "ResumeGuest",
    "SaveDomainConfig",
    "SaveState",
    "SmokeStart",
    "StartDomain",
    "Step",
    "TakeSnapshot",
    "ThawGuest",
    "WhileFrozen",
    "WriteLedger",
    "headline",
]

STATES: Mapping[FileRole, str] = MappingProxyType(
    {FileRole.NVRAM: "firmware's NVRAM", FileRole.TPM_STATE: "state of the TPM"}
)
"""What is kept outside of the disks, in words."""

_NO_STORE = "00000000-0000-0000-0000-000000000000"  # of a history where no store is yet

PLAN_SCHEMA = 1
"""Version of the JSON form of plans and reports."""


@frozen
class WriteLedger:
    """
    Replace the domain's ledger.

    Frozen images without an identity are measured by the executor at that moment.

    Attributes:
        why: What this writing marks, in words.
        ledger: The ledger to write.
        digests: ``(target, name of stored image)``: the overlays of these disks that sit on the
            point being made get the sha256 of that image.
    """

    why: str
    ledger: Ledger
    digests: tuple[tuple[str, str], ...] = ()


@frozen
class ThawGuest:
    """
    Thaw a guest that an earlier run of ours may have left frozen.

    Attributes:
        timeout_seconds: How long to try.
    """

    timeout_seconds: float


@frozen
class TakeSnapshot:
    """Put one new overlay on every chosen disk: all at once, or none."""

    snapshot: Snapshot


@frozen
class WhileFrozen:
    """
    Freeze the guest's file systems, run the steps, thaw; the thaw is always tried.

    Attributes:
        steps: What happens while the guest stands still.
        required: True: a freeze that fails or expires ends the run. False: it goes on,
            crash-consistent.
        timeout_seconds: Time limit for the agent's answer, and for the thaw.
    """

    steps: tuple[TakeSnapshot, ...]
    required: bool
    timeout_seconds: float


@frozen
class CopyImage:
    """
    Copy an image that nobody writes into the store.

    Attributes:
        target: The disk.
        source: Path of the image.
        format: Its declared format; raw becomes qcow2 in the store.
        name: File name in the store.
        backing: File name of its backing file in the store, None for a base.
        identity: What the image must be, or None when the snapshot of this plan freezes it.
        estimate_bytes: What it is expected to take; with compression, at most.
        compress: True: its clusters are compressed in the store, with zstd.
    """

    target: str
    source: PurePosixPath
    format: str
    name: str
    backing: str | None
    identity: FileIdentity | None
    estimate_bytes: int
    compress: bool = False


@frozen
class InParallel:
    """
    Copies that run at the same time: lanes side by side, the steps of a lane one by one.

    A lane that fails does not stop the others: the next run takes over what they have stored.

    Attributes:
        lanes: One for each disk, base first.
    """

    lanes: tuple[tuple[CopyImage, ...], ...]


@frozen
class CommitImages:
    """
    Commit a run of images down into the image under them, and wait until that is done.

    With *pivot* the active layer is among them: the guest goes on in the base.

    Attributes:
        target: The disk.
        base: The image that receives; it stays.
        top: The uppermost image that is committed.
        pivot: True when *top* is the active layer.
        leaves: The chain afterwards, active layer first.
        bandwidth_bytes: Bytes in a second at most, 0 without a limit.
        timeout_seconds: After that the job is aborted.
        suspend_seconds: Before it is aborted, the guest stands still for as long at most while the
            rest is committed; 0: never. Only with *pivot*.
    """

    target: str
    base: PurePosixPath
    top: PurePosixPath
    pivot: bool
    leaves: tuple[PurePosixPath, ...]
    bandwidth_bytes: int = 0
    timeout_seconds: float = 3600.0
    suspend_seconds: float = 0.0


@frozen
class PullImages:
    """
    Pull images up into the active layer, and wait until that is done.

    Attributes:
        target: The disk.
        base: The image that stays under the active layer; None: nothing stays.
        leaves: The chain afterwards, active layer first.
        bandwidth_bytes: Bytes in a second at most, 0 without a limit.
        timeout_seconds: After that the job is aborted.
    """

    target: str
    base: PurePosixPath | None
    leaves: tuple[PurePosixPath, ...]
    bandwidth_bytes: int = 0
    timeout_seconds: float = 3600.0


@frozen
class CommitOffline:
    """
    Commit the overlays of a domain that is off into their base, then define the domain with that.

    Attributes:
        target: The disk.
        base: The image that receives; it is the active layer afterwards.
        base_format: Its format.
        top: The active layer before.
        identity: What the active layer must be, before and after.
        leaves: The chain afterwards, active layer first.
    """

    target: str
    base: PurePosixPath
    base_format: str
    top: PurePosixPath
    identity: FileIdentity
    leaves: tuple[PurePosixPath, ...]


@frozen
class ConsolidateDisk:
    """
    Shorten one disk's chain; the ledger says so before and after, then overlays go.

    Attributes:
        job: The block job, or the commit of a domain that is off.
        overlays: Overlays of ours that the job frees, to be deleted when nothing uses them.
    """

    job: CommitImages | PullImages | CommitOffline
    overlays: tuple[PurePosixPath, ...]

    @property
    def touched(self) -> tuple[PurePosixPath, ...]:
        """The images that are written or deleted."""
        return (
            self.overlays if isinstance(self.job, PullImages) else (*self.overlays, self.job.base)
        )


@frozen
class EachDisk:
    """
    Consolidate disks one by one; a disk that fails does not keep the others from it.

    Attributes:
        disks: One for each disk.
        spare_shared: True: a disk whose images another domain uses is left as it is, with a
            warning. False: that is an error.
    """

    disks: tuple[ConsolidateDisk, ...]
    spare_shared: bool = False


@frozen
class CopyMemory:
    """
    Copy the file with the guest's memory into the store, then remove it from the host.

    Attributes:
        source: Path of the file that the snapshot wrote.
        name: File name in the store.
        estimate_bytes: What it takes at most, more or less: the size of the domain's memory.
    """

    source: PurePosixPath
    name: str
    estimate_bytes: int


@frozen
class DeleteMemory:
    """Remove the file with the guest's memory that a run of ours has left, if it is there."""

    path: PurePosixPath


@frozen
class RestoreMemory:
    """
    Write the memory of a point to a file, and check it against its sha256.

    Attributes:
        file: The stored file.
        destination: The file to write; it must not exist.
    """

    file: StoredFile
    destination: PurePosixPath


@frozen
class RestoredDisk:
    """
    Where a disk of a domain that is brought back has its image.

    Attributes:
        target: The disk.
        path: The restored image.
        format: Its format.
    """

    target: str
    path: PurePosixPath
    format: str


@frozen
class ResumeDomain:
    """
    Let the guest go on from its memory, on restored disks, and define the domain with them.

    The file with the memory is removed when that has succeeded: once the guest has written, it
    does not fit its disks any more.

    Attributes:
        memory: The restored file with the memory.
        config: The stored XML of the domain.
        disks: The restored disks, all of the point.
        paused: True: the guest is left paused.
        keep_foreign: True: what of the stored XML reaches out of the guest is allowed.
    """

    memory: PurePosixPath
    config: StoredFile
    disks: tuple[RestoredDisk, ...]
    paused: bool = False
    keep_foreign: bool = False


@frozen
class ResumeGuest:
    """Let a guest go on that a killed run has suspended; one that runs, or is off, stays so."""


@frozen
class MendHeader:
    """
    Let the header of an overlay name the image again that the definition of its domain has there.

    Attributes:
        target: The disk of a domain that is off.
        path: The overlay.
        below: What is under it by the definition.
        format: The format of that.
    """

    target: str
    path: PurePosixPath
    below: PurePosixPath
    format: str


@frozen
class FinishBlockJob:
    """
    Wait for the end of a block job of ours that a killed run left, and pivot if it waits for that.

    What it frees goes into the ledger, and its files are deleted.

    Attributes:
        target: The disk.
        kind: What libvirt calls the job.
        timeout_seconds: After that the job is aborted.
    """

    target: str
    kind: str
    timeout_seconds: float = 3600.0


@frozen
class DeleteOverlays:
    """
    Delete overlays that a block job has freed; one that is gone already is fine.

    Attributes:
        paths: Their files.
    """

    paths: tuple[PurePosixPath, ...]


@frozen
class SaveDomainConfig:
    """
    Store the domain's XML as libvirt gives it.

    Attributes:
        name: File name in the store.
        secrets: True: with the passwords that libvirt leaves out otherwise.
    """

    name: str
    secrets: bool = False


@frozen
class SaveState:
    """
    Store what the domain keeps outside of its disks; what cannot be read is a warning.

    Attributes:
        role: The firmware's variables, or the state of the TPM.
        name: File name in the store.
    """

    role: FileRole
    name: str


@frozen
class ConfirmOff:
    """
    Make sure that the domain is still off, and that no image was written while it was copied.

    Attributes:
        disks: The chains, as they were when the plan was made.
    """

    disks: tuple[ExpectedDisk, ...]


@frozen
class PlannedDisk:
    """
    One disk of the point to publish.

    Attributes:
        target: The disk.
        kind: Full or increment.
        reason: Why.
        parent: The point it lies on, or None.
        images: Names of its images, top first.
        adopted: Images that an earlier, unfinished run has stored already.
    """

    target: str
    kind: DiskKind
    reason: str
    parent: str | None
    images: tuple[str, ...]
    adopted: tuple[StoredImage, ...] = ()


@frozen
class PublishPoint:
    """
    Write the manifest: from here on the point exists.

    Attributes:
        point: Its id.
        sequence: Its place in the order.
        parent: The point before it, or None.
        config: Name of the stored XML.
        disks: Its disks.
        skipped: Disks left out: target and reason.
        consistency_detail: What is to be said when the guest was not frozen.
        time: When its snapshot was taken; None: this plan takes it.
        content_hash: True: each disk is read first, as a guest reads it, and its sha256 recorded.
    """

    point: str
    sequence: int
    parent: str | None
    config: str
    disks: tuple[PlannedDisk, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    consistency_detail: str = ""
    time: datetime | None = None
    content_hash: bool = False


Step: TypeAlias = (
    ThawGuest
    | ResumeGuest
    | MendHeader
    | FinishBlockJob
    | DeleteOverlays
    | WriteLedger
    | TakeSnapshot
    | WhileFrozen
    | CopyImage
    | InParallel
    | EachDisk
    | CopyMemory
    | DeleteMemory
    | SaveDomainConfig
    | SaveState
    | ConfirmOff
    | PublishPoint
    | FlattenImage
    | CopyStored
    | CreateLinked
    | RestoreDisks
    | RestoreMemory
    | ResumeDomain
    | MakeDirectory
    | RestoreNvram
    | DefineDomain
    | RestoreTpm
    | SmokeStart
    | StartDomain
    | VerifyFiles
    | VerifyContents
    | DropPoints
    | MergeImages
)
"""What a plan consists of: a closed set, so a `match` over it can be complete."""


@frozen
class ExpectedImage:
    """
    An image of an expected chain.

    Attributes:
        path: Its path.
        format: Its declared format.
        identity: Inode, size and mtime; None for the active layer, which the guest writes.
    """

    path: PurePosixPath
    format: str
    identity: FileIdentity | None


@frozen
class ExpectedDisk:
    """
    The chain of a chosen disk when the plan was computed.

    Attributes:
        target: The disk.
        images: Path, format and, for all but the active layer, identity; active layer first.
    """

    target: str
    images: tuple[ExpectedImage, ...]

    @classmethod
    def of(cls, chain: BackingChain, *, frozen: bool = False) -> Self:
        """Return what is expected of *chain*; of the active layer too when that is *frozen*."""
        active, *frozen_images = chain.images
        return cls(
            chain.target,
            (
                ExpectedImage(active.path, active.format, active.identity if frozen else None),
                *(
                    ExpectedImage(image.path, image.format, image.identity)
                    for image in frozen_images
                ),
            ),
        )


@frozen
class Expectation:
    """
    What was observed when the plan was computed, and must still hold when it is run.

    Attributes:
        disks: Chains of the chosen disks.
        ledger: The domain's ledger, None when the plan touches no domain.
        sequence: Sequence of the store's newest point of the domain, 0 when it has none.
        points: Ids of all points of the domain in the store, for a prune.
        receipts: ``"vda/NAME"``: unpublished images that the plan counts on.
        absent: Paths that must not exist.
        space_bytes: Free bytes needed in the store.
        states: States of the domain in which the plan may run; empty when it touches no domain.
    """

    disks: tuple[ExpectedDisk, ...] = ()
    ledger: Ledger | None = None
    sequence: int = 0
    receipts: tuple[str, ...] = ()
    absent: tuple[PurePosixPath, ...] = ()
    space_bytes: int = 0
    states: tuple[DomainState, ...] = ()
    points: tuple[str, ...] = ()

    def difference(self, domain: Domain) -> str | None:
        """
        Compare with a domain as it is now.

        Args:
            domain: The domain, read again.

        Returns:
            What is different, in words, or None.

        Source:
            docs/design.md: a plan is checked before its first step.
        """
        if self.states and domain.state not in self.states:
            return f"the domain is {domain.state}"
        chains = {disk.target: disk.chain for disk in domain.disks}
        for expected in self.disks:
            chain = chains.get(expected.target)
            off = expected.images[0].identity is not None
            found = ExpectedDisk.of(chain, frozen=off) if chain is not None else None
            if found != expected:
                return f"disk {expected.target}: its chain is not the one the plan was made for"
        if self.ledger is not None and domain.ledger != self.ledger:
            return "another run has written the domain's ledger since the plan was made"
        return None


@frozen
class Decision:
    """
    What the planner decided for one disk, and why.

    Attributes:
        target: The disk.
        kind: Full or increment; None when the disk is left out.
        reason: In words.
        parent: The point that an increment lies on.
    """

    target: str
    kind: DiskKind | None
    reason: str
    parent: str | None = None

    def __str__(self) -> str:
        """Return one line."""
        what = "left out" if self.kind is None else str(self.kind)
        on = f" on {self.parent}" if self.parent else ""
        return f"{self.target}  {what}{on}: {printable(self.reason)}"


@frozen
class Plan(Drawable):
    """
    What will be done, in order, and why; printing it is the dry run.

    Attributes:
        verb: ``"backup"``, ``"restore"``, ``"consolidate"``, ``"recover"`` or ``"prune"``.
        domain: The domain's name.
        uuid: The domain's UUID.
        store: UUID of the store, empty when none takes part.
        point: The point to make or to read, empty when there is none.
        expects: What must still hold.
        decisions: Per disk, with reasons.
        steps: The steps, in order.
        warnings: What the user should know.
        verdicts: On every point, for a prune: kept or dropped, and why.
    """

    verb: str
    domain: str
    uuid: str
    store: str
    point: str
    expects: Expectation
    decisions: tuple[Decision, ...]
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = field(default=())
    verdicts: tuple[PointVerdict, ...] = ()

    @property
    def cost_bytes(self) -> int:
        """Bytes that the copies are expected to take."""
        others = sum(step.estimate_bytes for step in self.steps if isinstance(step, CopyMemory))
        others += sum(step.estimate_bytes for step in self.restores)
        others += sum(step.write_bytes for step in self.steps if isinstance(step, MergeImages))
        return others + sum(copy.estimate_bytes for copy in self.copies)

    @property
    def read_bytes(self) -> int:
        """Bytes that are expected to be read to compare files with their hashes."""
        reads = (s for s in self.steps if isinstance(s, (VerifyFiles, VerifyContents)))
        return sum(step.read_bytes for step in reads)

    @property
    def copies(self) -> tuple[CopyImage, ...]:
        """Every copy of the plan, in the order in which a single thread would make them."""
        return tuple(
            copy
            for step in self.steps
            if isinstance(step, InParallel)
            for lane in step.lanes
            for copy in lane
        )

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that the plan takes, None when it takes none."""
        inner = (s.steps if isinstance(s, WhileFrozen) else (s,) for s in self.steps)
        taken = (each for some in inner for each in some if isinstance(each, TakeSnapshot))
        return next((step.snapshot for step in taken), None)

    @property
    def restores(self) -> tuple[DiskRestore, ...]:
        """Every step that brings a disk back, in the order of the disks."""
        steps = (s.disks if isinstance(s, RestoreDisks) else (s,) for s in self.steps)
        return tuple(each for some in steps for each in some if isinstance(each, DiskRestore))

    def to_json(self) -> str:
        """
        Return the plan as JSON text that `Plan.from_json` reads.

        Source:
            docs/design.md: plans travel as JSON.
        """
        return json.dumps({"schema": PLAN_SCHEMA, "plan": encode(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """
        Read a plan, strictly.

        Args:
            text: What `to_json` returned.

        Returns:
            An equal plan.

        Raises:
            ParseError: Not JSON, another schema, or not a plan. Nothing was touched.

        Source:
            docs/design.md: plans travel as JSON.
        """
        return decode(cls, open_document(text, "plan"), "plan")

    def __str__(self) -> str:
        """Return the decisions, the numbered steps and the cost: the dry run."""
        store = "a new store" if self.store == _NO_STORE else f"store {self.store}"
        where = f", point {self.point}, {store}" if self.point else ""
        lines = [f"{self.verb} of {printable(self.domain)}{where}"]
        lines.extend(f"  {decision}" for decision in self.decisions)
        lines.extend(f"  {verdict}" for verdict in self.verdicts)
        lines.append("steps" if self.steps else "no steps: there is nothing to do")
        for number, step in enumerate(self.steps, 1):
            first, *rest = describe(step)
            lines.append(f"  {number}. {first}")
            lines.extend(f"     {line}" for line in rest)
        lines.append(self._cost())
        lines.extend(f"warning: {printable(warning)}" for warning in self.warnings)
        return "\n".join(lines)

    def _cost(self) -> str:
        freed = sum(s.freed_bytes for s in self.steps if isinstance(s, DropPoints))
        if self.verb == "verify":
            return f"cost: {format_bytes(self.read_bytes)} to read"
        if self.verb == "prune":
            read = self.read_bytes
            read += sum(s.read_bytes for s in self.steps if isinstance(s, MergeImages))
            return (
                f"cost: {format_bytes(self.cost_bytes)} to write and {format_bytes(read)} to read, "
                f"at most; frees {format_bytes(freed)} at once"
            )
        return f"cost: {format_bytes(self.cost_bytes)} to copy"


def open_document(text: str, key: str) -> object:
    """Return the value under *key* of a JSON document of our schema, or raise `ParseError`."""
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(where=key, reason=f"not JSON: {error}") from None
    found = cast("dict[str, object]", document) if isinstance(document, dict) else {}
    if set(found) != {"schema", key}:
        raise ParseError(where=key, reason=f'expected an object with "schema" and "{key}"')
    if found["schema"] != PLAN_SCHEMA:
        raise ParseError(where="schema", reason=f"schema {found['schema']!r} is not {PLAN_SCHEMA}")
    return found[key]


def headline(step: Step) -> str:
    """
    Return a step in one line.

    Args:
        step: Any step.

    Returns:
        Text for people, without control characters.

    Source:
        The step's own fields.
    """
    return describe(step)[0].rstrip(":")


def describe(step: Step) -> tuple[str, ...]:  # noqa: PLR0911 - one for each kind of step
    """Return a step's headline, then its details, one a line."""
    match step:
        case ThawGuest():
            return ("thaw the guest: an earlier run may have left it frozen",)
        case WriteLedger():
            return (f"write the domain's ledger: {step.why}",)
        case TakeSnapshot():
            return _describe_snapshot(step.snapshot)
        case WhileFrozen():
            inner = tuple(f"   {line}" for each in step.steps for line in describe(each))
            must = "required" if step.required else "or else crash-consistent"
            return (
                f"freeze the guest ({must}, {step.timeout_seconds:g} s at most), thaw after:",
                *inner,
            )
        case CopyImage():
            return (_describe_copy(step),)
        case InParallel():
            lanes = tuple(f"   {_describe_copy(copy)}" for lane in step.lanes for copy in lane)
            images, disks = counted(len(lanes), "image"), counted(len(step.lanes), "disk")
            if not lanes:
                return ("copy no image: each that the point needs is stored",)
            return (f"copy {images} of {disks}:", *lanes)
        case EachDisk():
            return _describe_each(step)
        case ResumeGuest() | MendHeader() | FinishBlockJob():
            return (_describe_left(step),)
        case DeleteOverlays():
            lines = tuple(f"   {printable(str(path))}" for path in step.paths)
            return (f"delete {counted(len(lines), 'overlay')} that nothing needs:", *lines)
        case CopyMemory() | DeleteMemory() | RestoreMemory() | ResumeDomain():
            return _describe_memory(step)
        case SaveDomainConfig() | SaveState():
            return (_describe_saved(step),)
        case DropPoints() | MergeImages():
            return describe_prune(step)
        case ConfirmOff():
            return ("make sure that the domain is still off and its images unchanged",)
        case PublishPoint():
            reading = "read each disk as a guest does, and " if step.content_hash else ""
            return (f"{reading}publish point {step.point} (number {step.sequence})",)
        case VerifyFiles() | VerifyContents():
            return (str(step),)
        case _:  # the rest is a restore's, which mypy and pyright prove
            return describe_restore(step)


def _describe_snapshot(snapshot: Snapshot) -> tuple[str, ...]:
    targets = ", ".join(new.target for new in snapshot.overlays)
    lines = tuple(
        f"   {new.target}: {printable(str(new.source))} <- {printable(str(new.path))}"
        for new in snapshot.overlays
    )
    if snapshot.memory is None:
        return (f"take one snapshot of {targets}:", *lines)
    to = f"   memory: to {printable(str(snapshot.memory))}"
    return (f"take one snapshot of {targets} and the memory, live:", *lines, to)


def _describe_left(step: ResumeGuest | MendHeader | FinishBlockJob) -> str:
    match step:
        case ResumeGuest():
            return "let the guest go on, which an earlier run has suspended"
        case MendHeader():
            path, below = printable(str(step.path)), printable(step.below.name)
            return f"{step.target}: let {path} lie on {below} again, as the definition says"
        case FinishBlockJob():
            return f"{step.target}: wait for the {step.kind} that a killed run left, finish it"
        case _:
            assert_never(step)


def _describe_memory(
    step: CopyMemory | DeleteMemory | RestoreMemory | ResumeDomain,
) -> tuple[str, ...]:
    match step:
        case CopyMemory():
            source, size = printable(str(step.source)), format_bytes(step.estimate_bytes)
            return (f"copy {source} ({size} at most) to {step.name}, then remove it",)
        case DeleteMemory():
            return (f"remove {printable(str(step.path))}, left by an earlier run",)
        case RestoreMemory():
            return (f"write the memory to {printable(str(step.destination))}",)
        case ResumeDomain():
            how = "leave the guest paused in" if step.paused else "let the guest go on in"
            disks = ", ".join(f"{disk.target}: {disk.path}" for disk in step.disks)
            return (f"{how} its memory, and define the domain with {printable(disks)}",)
        case _:  # pragma: no cover - mypy and pyright prove it
            assert_never(step)


def _describe_saved(step: SaveDomainConfig | SaveState) -> str:
    if isinstance(step, SaveState):
        return f"store the {STATES[step.role]} as {step.name}"
    secrets = ", with its secrets," if step.secrets else ""
    return f"store the domain's XML{secrets} as {step.name}"


def _describe_copy(step: CopyImage) -> str:
    on = f" on {step.backing}" if step.backing else ""
    size = format_bytes(step.estimate_bytes)
    source = printable(str(step.source))
    how = "compress" if step.compress else "copy"
    return f"{step.target}: {how} {source} ({step.format}, {size}) to {step.name}{on}"


def _describe_each(step: EachDisk) -> tuple[str, ...]:
    lines: list[str] = []
    for disk in step.disks:
        job = disk.job
        if isinstance(job, CommitOffline):
            words = f"commit {job.top.name} and what is under it into {job.base.name}, off-line"
        elif isinstance(job, CommitImages):
            then = ", then the guest goes on in the base" if job.pivot else ""
            words = f"commit {job.top.name} and what is under it into {job.base.name}{then}"
        else:
            under = f", {job.base.name} stays under it" if job.base else ""
            words = f"pull everything up into the active layer{under}"
        lines.append(f"   {job.target}: {printable(words)}")
        lines.extend(f"      delete {printable(str(path))}" for path in disk.overlays)
    return (f"consolidate {counted(len(step.disks), 'disk')}:", *lines)
