"""
The executor: runs a plan, step by step, and decides nothing.

::

    lock the domain, on its host and in the store
    compare plan.expects with what is found      StalePlanError: nothing touched
    for each step                                 StepError: says what was done and what now holds
    report

It improvises no undo. After a failure the next plan starts from what is found, from the ledger
and from the store.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import cached_property
from threading import Lock
from typing import assert_never

from attrs import evolve

from fibackup.errors import (
    AgentError,
    DomainBusyError,
    FibackupError,
    HostError,
    NoSpaceError,
    ParseError,
    QemuImgError,
    StalePlanError,
    StepError,
)
from fibackup.host.aftermath import command_after, state_after
from fibackup.host.api import Host, PointStore
from fibackup.host.cancel import CancelToken
from fibackup.host.consolidating import Consolidator
from fibackup.host.events import (
    Event,
    Gate,
    OnEvent,
    StepFinished,
    StepStarted,
    Warned,
    ignore_events,
    no_gate,
)
from fibackup.host.restore_run import RestoreRun
from fibackup.host.side_by_side import side_by_side
from fibackup.host.verifying import Verifier
from fibackup.model.domain import Domain
from fibackup.model.ledger import Ledger, Run, RunPhase
from fibackup.model.point import (
    Consistency,
    History,
    PointDisk,
    RestorePoint,
    StoredFile,
    StoredImage,
    Versions,
)
from fibackup.model.snapshot import NewOverlay, Snapshot
from fibackup.parse.domain_xml import domain_facts, domain_root, has_passwords
from fibackup.plan.backup import DEEP_CHAIN
from fibackup.plan.continuity import parent_gone
from fibackup.plan.prune_steps import DropPoints, MergeImages
from fibackup.plan.removal import all_but, spare_none
from fibackup.plan.report import Report, StepOutcome
from fibackup.plan.requirements import check_depth
from fibackup.plan.steps import (
    STATES,
    ConfirmOff,
    CopyImage,
    CopyMemory,
    DefineDomain,
    DeleteMemory,
    DeleteOverlays,
    EachDisk,
    Expectation,
    ExpectedDisk,
    FinishBlockJob,
    InParallel,
    MendHeader,
    Plan,
    PlannedDisk,
    PublishPoint,
    RestoreMemory,
    ResumeDomain,
    ResumeGuest,
    SaveDomainConfig,
    SaveState,
    Step,
    TakeSnapshot,
    ThawGuest,
    WhileFrozen,
    WriteLedger,
    headline,
)
from fibackup.plan.verify_steps import VerifyContents, VerifyFiles
from fibackup.units import format_bytes

__all__ = ["Executor"]

logging.getLogger("fibackup").addHandler(logging.NullHandler())
_log = logging.getLogger("fibackup.executor")


class Executor:
    """
    Runs plans against a host and a store.

    One executor may run several plans, also from several threads: each run has its own state, and
    the store's lock keeps two runs of one domain apart.

    Args:
        host: The hypervisor; None is enough for a restore and for a prune.
        store: The backup directory; None is enough for a consolidation.
        threads: Disks that are copied or brought back at the same time, at most; those that are
            brought back are never more than there are cores.
    """

    def __init__(self, host: Host | None, store: PointStore | None, *, threads: int = 4) -> None:
        """Keep host and store; nothing is touched."""
        self._host = host
        self._store = store
        self._threads = threads

    def run(
        self,
        plan: Plan,
        *,
        on_event: OnEvent = ignore_events,
        cancel: CancelToken | None = None,
        gate: Gate = no_gate,
        holds_lock: bool = False,
    ) -> Report:
        """
        Run *plan*.

        Args:
            plan: What `plan_backup` or `plan_restore` returned.
            on_event: Called with each `Event`, one at a time; what it raises is logged.
            cancel: Asked between steps and while copying; not between a snapshot and the writing
                of the ledger that makes it known.
            gate: Called before each step, under the locks of the run; a `FibackupError` that it
                raises fails the step before it begins.
            holds_lock: True: the caller holds `Host.locked` of the domain, over more than this
                plan.

        Returns:
            What was done.

        Raises:
            StalePlanError: The host or the store is not as the plan expects. Nothing was touched.
            LockedError: Another run works on the domain. Nothing was touched.
            NoSpaceError: The store has less room than the plan needs. Nothing was touched.
            DestinationExistsError: A restore would overwrite a file. Nothing was touched.
            StepError: A step failed; it says what was done and what to do next.

        Source:
            docs/design.md, "Plan and executor".
        """
        token = cancel or CancelToken()
        run = _Run(self._host, self._store, plan, on_event, token, gate, self._threads)
        with ExitStack() as held:
            if self._host is not None and not holds_lock and _takes_the_domain(plan):
                held.enter_context(self._host.locked(plan.uuid))
            if self._store is not None:
                exclusive = plan.verb in {"backup", "recover", "prune"}
                dropped = frozenset(each.point for each in plan.verdicts if not each.kept)
                spared = all_but(dropped) if plan.verb == "prune" else spare_none
                held.enter_context(
                    self._store.locked(plan.uuid, plan.domain, exclusive=exclusive, spared=spared)
                )
            return run.execute()


def _takes_the_domain(plan: Plan) -> bool:
    """Tell whether no other run may work on the domain meanwhile; disks alone are nobody's yet."""
    if plan.verb == "restore":
        return any(
            isinstance(step, ResumeDomain) or (isinstance(step, DefineDomain) and not step.clone)
            for step in plan.steps
        )
    return plan.verb != "prune"


class _Run:
    """The state of one run: what was measured and stored so far."""

    def __init__(
        self,
        host: Host | None,
        store: PointStore | None,
        plan: Plan,
        on_event: OnEvent,
        cancel: CancelToken,
        gate: Gate,
        threads: int,
    ) -> None:
        self._host_or_none = host
        self._store_or_none = store
        self._plan = plan
        self._listener = on_event
        self._listening = Lock()
        self._cancel = cancel
        self._gate = gate
        self._threads = threads
        self._store_path = ""
        self._warnings = list(plan.warnings)
        self._outcomes: list[StepOutcome] = []
        self._snapshot: Snapshot | None = None
        self._moment: datetime | None = None
        self._after: Domain | None = None
        self._consistency = Consistency.CRASH
        self._consistency_detail = ""
        self._frozen_seconds = 0.0
        self._config: StoredFile | None = None
        self._memory: StoredFile | None = None
        self._states: list[StoredFile] = []
        self._facts: tuple[tuple[str, str], ...] = ()
        self._versions = Versions()
        self._stored: dict[tuple[str, str], StoredImage] = {}
        self._copied_bytes = 0
        self._freed_bytes = 0
        self._history: History | None = None
        self._point: RestorePoint | None = None
        self._written: Ledger | None = None
        self._left_frozen: Run | None = None
        self._restore_run: RestoreRun | None = None

    @cached_property
    def _verifier(self) -> Verifier:
        return Verifier(self._store, self._plan, self._emit, self._cancel, self._threads)

    @cached_property
    def _consolidator(self) -> Consolidator:
        return Consolidator(self._host, self._plan, self._emit, self._cancel, self._warn)

    @property
    def _store(self) -> PointStore:
        if self._store_or_none is None:
            raise HostError(domain=self._plan.domain, reason=f"a {self._plan.verb} needs a store")
        return self._store_or_none

    @property
    def _restore(self) -> RestoreRun:
        if self._restore_run is None:
            raise HostError(domain=self._plan.domain, reason="only a restore does that")
        return self._restore_run

    @property
    def _host(self) -> Host:
        if self._host_or_none is None:
            raise HostError(domain=self._plan.domain, reason=f"a {self._plan.verb} needs a host")
        return self._host_or_none

    def execute(self) -> Report:
        started, clock = datetime.now(UTC), time.monotonic()
        self._check()
        self._cancel.check()
        for index, step in enumerate(self._plan.steps):
            self._one(index, step)
        return Report(
            plan=self._plan,
            started=started,
            seconds=time.monotonic() - clock,
            steps=tuple(self._outcomes),
            copied_bytes=self._copied_bytes,
            freed_bytes=self._freed_bytes,
            frozen_seconds=self._frozen_seconds,
            point=self._point,
            restored=tuple(self._restore_run.restored) if self._restore_run else (),
            verification=self._verifier.result() if self._plan.verb == "verify" else None,
            warnings=tuple(self._warnings),
        )

    def _one(self, index: int, step: Step) -> None:
        self._emit(StepStarted(index, step))
        clock = time.monotonic()
        try:
            self._ask(index, step)
            self._apply(step)
        except FibackupError as error:
            raise self._step_error(index, error) from error
        except OSError as error:
            wrapped = HostError(domain=self._plan.domain, reason=str(error), path=_name_of(error))
            raise self._step_error(index, wrapped) from error
        seconds = time.monotonic() - clock
        self._outcomes.append(StepOutcome(index, seconds))
        self._emit(StepFinished(index, step, seconds))

    def _ask(self, index: int, step: Step) -> None:
        """Ask whether the step may begin; before a snapshot, a no takes the intent back."""
        stoppable = index > 0 and not _follows_snapshot(step)
        try:
            if stoppable:
                self._cancel.check()
            self._gate(step)
            if stoppable:
                self._cancel.check()
        except FibackupError:
            self._forget_intent()
            raise

    def _emit(self, event: Event) -> None:
        with self._listening:
            if isinstance(event, Warned):
                self._warnings.append(event.text)
            try:
                self._listener(event)
            except Exception:  # noqa: BLE001 - a listener must not end a backup
                _log.exception("the listener failed on %s", event)

    # --- before the first step ------------------------------------------------------------------

    def _check(self) -> None:
        if not self._plan.store:  # no store takes part
            self._check_domain()
            return
        history = self._store.read_history(self._plan.uuid)
        self._store_path = str(history.path)
        self._history = history
        if history.store != self._plan.store:
            raise self._stale(f"the plan is for store {self._plan.store}, this is {history.store}")
        if self._plan.verb != "verify":  # which tells of copies, and reads on
            history.refuse_copies()
        if self._plan.verb == "restore":
            self._restore_run = RestoreRun(
                self._host_or_none, self._store, self._plan, self._emit, self._cancel, self._threads
            )
            self._restore_run.check(history)
        elif self._plan.verb != "verify":  # which looks at whatever is there
            latest = history.latest
            if (latest.sequence if latest else 0) != self._plan.expects.sequence:
                raise self._stale("the store has other points than when the plan was made")
            if not set(self._plan.expects.receipts) <= {
                f"{receipt.target}/{receipt.image.name}" for receipt in history.receipts
            }:
                raise self._stale("an image that the plan counts on is no longer in the store")
            if self._plan.verb == "prune":
                if tuple(point.id for point in history.points) != self._plan.expects.points:
                    raise self._stale("the store has other points than when the plan was made")
                return
            fault = parent_gone(self._plan, history)
            if fault is not None:
                raise self._stale(fault)
            if any(copy.compress for copy in self._plan.copies):
                self._store.require_compression()
            self._check_domain()
            self._check_depth()
            self._check_space()

    def _check_domain(self) -> None:
        expects = self._plan.expects
        domain = self._host.read_domain(self._plan.uuid)
        snapshot = self._plan.snapshot
        difference = expects.difference(domain)
        if difference is None and snapshot is not None:
            difference = snapshot.difference(disk.target for disk in domain.disks)
        if difference is not None:
            raise self._stale(difference)
        self._left_frozen = _left_frozen(domain)
        for path in self._host.occupied(expects.absent):
            raise self._stale("the name of the new overlay is taken", str(path))

    def _check_depth(self) -> None:
        """Ask for the version only when a snapshot makes a chain that some would not start."""
        for disk in self._plan.expects.disks if self._plan.snapshot is not None else ():
            depth = len(disk.images) + 1
            if depth > DEEP_CHAIN:
                check_depth(self._host.versions(), disk.target, depth)

    def _check_space(self) -> None:
        expects = self._plan.expects
        free = self._store.free_bytes()
        if free < expects.space_bytes:
            raise NoSpaceError(
                domain=self._plan.domain,
                reason=f"the store has {format_bytes(free)} free, "
                f"the copies need about {format_bytes(expects.space_bytes)}",
                path=self._store_path,
                needed_bytes=expects.space_bytes,
                free_bytes=free,
            )

    def _stale(self, reason: str, path: str | None = None) -> StalePlanError:
        return StalePlanError(domain=self._plan.domain, reason=f"{reason}; plan again", path=path)

    # --- the steps ------------------------------------------------------------------------------

    def _apply(self, step: Step) -> None:
        match step:
            case ThawGuest():
                self._thaw_leftover(step)
            case WriteLedger():
                self._write_ledger(step)
            case TakeSnapshot():
                self._take_alone(step)
            case WhileFrozen():
                self._while_frozen(step)
            case CopyImage():
                self._copy(step, self._cancel)
            case InParallel():
                self._in_parallel(step)
            case EachDisk():
                self._consolidator.each_disk(step)
            case ResumeGuest() | MendHeader() | FinishBlockJob() | DeleteOverlays():
                self._clear_away(step)
            case CopyMemory() | DeleteMemory() | RestoreMemory() | ResumeDomain():
                self._apply_memory(step)
            case SaveDomainConfig() | SaveState():
                self._save(step)
            case DropPoints():
                self._freed_bytes += self._store.drop(self._plan.uuid, step)
            case MergeImages():
                self._merge(step)
            case ConfirmOff():
                self._confirm_off(step)
            case PublishPoint():
                self._publish(step)
            case VerifyFiles() | VerifyContents():
                self._verifier.apply(step)
                if self._plan.verb != "verify":
                    self._verifier.refuse_wrong()
            case _:  # the rest is a restore's, which mypy and pyright prove
                self._restore.apply(step)

    def _thaw_leftover(self, step: ThawGuest) -> None:
        """Thaw what an earlier run left; a guest that has rebooted since need not answer."""
        try:
            self._thaw(step.timeout_seconds)
        except AgentError as error:
            self._warn(f"{error.reason}; look at it: virsh domfsthaw {self._plan.uuid}")

    def _clear_away(self, step: ResumeGuest | MendHeader | FinishBlockJob | DeleteOverlays) -> None:
        """Undo or end what a consolidation has left that was killed."""
        match step:
            case ResumeGuest():
                self._host.resume_guest(self._plan.uuid)
            case MendHeader():
                self._host.mend_header(self._plan.uuid, step)
            case FinishBlockJob():
                self._consolidator.finish_job(step)
            case DeleteOverlays():
                self._consolidator.delete(step.paths)
            case _:
                assert_never(step)

    def _thaw(self, timeout_seconds: float) -> int:
        thawed = self._host.thaw(self._plan.uuid, timeout_seconds)
        self._left_frozen = None
        return thawed

    def _warn(self, text: str) -> None:
        self._emit(Warned(text))

    def _write_ledger(self, step: WriteLedger) -> None:
        digests = {target: self._stored[target, name].sha256 for target, name in step.digests}
        measured = (
            {}
            if self._after is None
            else {
                image.path: image.identity
                for disk in self._after.disks
                if disk.chain
                for image in disk.chain
            }
        )
        ledger = evolve(
            step.ledger,
            images=tuple(
                evolve(image, identity=measured.get(image.path))
                if image.identity is None
                else image
                for image in step.ledger.images
            ),
            overlays=tuple(
                evolve(entry, sha256=digests[entry.target])
                if entry.point == self._plan.point and entry.target in digests
                else entry
                for entry in step.ledger.overlays
            ),
        )
        self._written = self._remember(ledger)

    def _remember(self, ledger: Ledger) -> Ledger:
        """Write a ledger; one that an earlier run left says frozen until a thaw was answered."""
        if self._left_frozen is not None:
            run = ledger.run or evolve(self._left_frozen, phase=RunPhase.INTENT, suspended=False)
            ledger = evolve(ledger, run=evolve(run, frozen=True))
        self._host.write_ledger(self._plan.uuid, ledger)
        return ledger

    def _take_alone(self, step: TakeSnapshot) -> None:
        try:
            self._take_snapshot(step)
        except StalePlanError:
            self._forget_intent()
            raise
        self._confirm_snapshot(step.snapshot)

    def _take_snapshot(self, step: TakeSnapshot) -> None:
        self._snapshot = step.snapshot
        try:
            self._moment = self._host.take_snapshot(self._plan.uuid, step.snapshot)
        except StalePlanError:
            self._snapshot = None  # it was not attempted
            raise
        if step.snapshot.memory is not None:
            self._consistency = Consistency.MEMORY

    def _confirm_snapshot(self, snapshot: Snapshot) -> None:
        """Read the domain again, and compare each chain with the one that must be there now."""
        self._after = self._host.read_domain(self._plan.uuid)
        before = {disk.target: disk for disk in self._plan.expects.disks}
        for new in snapshot.overlays:
            chain = self._after.disk(new.target).chain
            found = ExpectedDisk.of(chain) if chain is not None else None
            if found is None or not _is_above(found, before[new.target], new):
                raise HostError(
                    domain=self._plan.domain,
                    target=new.target,
                    reason="after the snapshot the chain is not the one that was planned",
                    path=str(new.path),
                )
        for target, path in _snapshotted_too(self._after, snapshot):
            self._warn(
                f"disk {target} was attached at the moment of the snapshot and is not in the "
                f"point; libvirt gave it the overlay {path}, which is not ours to merge"
            )

    def _while_frozen(self, step: WhileFrozen) -> None:
        frozen, clock, thawed = 0, time.monotonic(), 0
        thaw_is_due, taken = True, False
        try:
            try:
                frozen, thaw_is_due = self._freeze(step)
            except AgentError as refusal:
                thaw_is_due = refusal.maybe_frozen
                raise
            for inner in step.steps:
                self._take_snapshot(inner)
            taken = True
        finally:
            if thaw_is_due:
                thawed = self._thaw(step.timeout_seconds)
            if self._snapshot is None:
                self._forget_intent()
            elif not taken:
                self._note_thawed()
        if frozen and thawed:
            self._frozen_seconds = time.monotonic() - clock
            self._consistency = Consistency.APPLICATION
        elif frozen:
            self._expired(step)
        for inner in step.steps:
            self._confirm_snapshot(inner.snapshot)

    def _freeze(self, step: WhileFrozen) -> tuple[int, bool]:
        """Return how many file systems were frozen, and whether a thaw is due."""
        try:
            frozen = self._host.freeze(self._plan.uuid, step.timeout_seconds)
            error = AgentError(
                domain=self._plan.domain, reason="the guest agent froze no file system"
            )
        except AgentError as refusal:
            frozen, error = 0, refusal
        if frozen:
            return frozen, True
        if step.required:
            raise error
        self._crash_consistent(error.reason)
        return 0, error.maybe_frozen

    def _expired(self, step: WhileFrozen) -> None:
        """Go on without the freeze, or end with an intent of which no point is ever made."""
        reason = "the freeze had expired when the guest was thawed"
        if step.required:
            self._note_thawed()
            raise AgentError(domain=self._plan.domain, reason=reason)
        self._crash_consistent(reason)

    def _forget_intent(self) -> None:
        """Take the intent back from the ledger, as no snapshot was attempted."""
        run = self._written.run if self._written is not None else None
        if self._written is None or run is None or self._snapshot is not None:
            return
        if run.phase is RunPhase.INTENT:
            with suppress(FibackupError):  # then the next run does
                self._remember(evolve(self._written, run=None, memory=None))

    def _note_thawed(self) -> None:
        """Say in the ledger that no thaw is due: the next run must not thaw another's freeze."""
        if self._written is not None and self._written.run is not None:
            run = evolve(self._written.run, frozen=False)
            with suppress(FibackupError):
                self._remember(evolve(self._written, run=run))

    def _crash_consistent(self, why: str) -> None:
        self._consistency = Consistency.CRASH
        self._consistency_detail = f"crash-consistent: {why}"
        self._warn(self._consistency_detail)

    def _in_parallel(self, step: InParallel) -> None:
        """Run the lanes; what they have stored stays, and the next run goes on from there."""
        side_by_side(
            self._lane,
            step.lanes,
            self._cancel,
            threads=self._threads,
            name="fibackup-copy",
            together=False,  # a copy may have taken hours, and the next run takes it over
        )

    def _lane(self, lane: tuple[CopyImage, ...], cancel: CancelToken) -> None:
        for copy in lane:
            cancel.check()
            self._copy(copy, cancel)

    def _copy(self, step: CopyImage, cancel: CancelToken) -> None:
        image = self._store.copy_image(
            self._plan.uuid, self._with_identity(step), self._emit, cancel
        )
        with self._listening:
            self._stored[step.target, step.name] = image
            self._copied_bytes += image.size_bytes

    def _with_identity(self, step: CopyImage) -> CopyImage:
        """Fill in what the image was right after the snapshot that froze it."""
        if step.identity is not None or self._after is None:
            return step
        chain = self._after.disk(step.target).chain
        found = next((image.identity for image in chain or () if image.path == step.source), None)
        return evolve(step, identity=found)

    def _apply_memory(self, step: CopyMemory | DeleteMemory | RestoreMemory | ResumeDomain) -> None:
        uuid = self._plan.uuid
        match step:
            case CopyMemory():
                self._copy_memory(step)
            case DeleteMemory():
                self._host.delete_memory(uuid, step.path)
            case RestoreMemory():
                self._store.restore_memory(uuid, step, self._emit, self._cancel)
                self._restore.made((step.destination,))
            case ResumeDomain():
                self._host.resume_domain(uuid, step, self._store.read_config(uuid, step.config))
            case _:
                assert_never(step)

    def _copy_memory(self, step: CopyMemory) -> None:
        self._memory = self._store.copy_memory(self._plan.uuid, step, self._emit, self._cancel)
        self._copied_bytes += self._memory.size_bytes
        self._host.delete_memory(self._plan.uuid, step.source)

    def _save(self, step: SaveDomainConfig | SaveState) -> None:
        if isinstance(step, SaveDomainConfig):
            self._save_config(step)
        else:
            self._save_state(step)

    def _save_config(self, step: SaveDomainConfig) -> None:
        uuid = self._plan.uuid
        xml = self._host.domain_config(uuid, secrets=step.secrets)
        autostart = ("autostart", "yes" if self._host.autostart(uuid) else "no")
        self._facts += (*domain_facts(xml), autostart)
        if not step.secrets and self._has_passwords(xml):
            self._facts += (("missing-passwords", "the backup was not asked for secrets"),)
        self._versions = self._host.versions()
        self._config = self._store.save_config(uuid, step.name, xml)

    def _has_passwords(self, xml: str) -> bool:
        """Tell whether the domain has passwords that its XML does not show."""
        if domain_root(xml).find("devices/graphics") is None:
            return False
        with suppress(FibackupError):  # who may not see them need not know
            return has_passwords(self._host.domain_config(self._plan.uuid, secrets=True))
        return False

    def _save_state(self, step: SaveState) -> None:
        """Store the state; a point without it is better than none, and says what it lacks."""
        try:
            data = self._host.read_state(self._plan.uuid, step.role)
        except (HostError, ParseError) as error:
            self._warn(f"the {STATES[step.role]} is not in the point: {error}")
            self._facts += ((f"missing-{step.role}", str(error)),)
            return
        self._states.append(self._store.save_state(self._plan.uuid, step, data))

    def _merge(self, step: MergeImages) -> None:
        image, freed = self._store.merge(self._plan.uuid, step, self._emit, self._cancel)
        self._copied_bytes += image.size_bytes
        self._freed_bytes += freed

    def _confirm_off(self, step: ConfirmOff) -> None:
        domain = self._host.read_domain(self._plan.uuid)
        wanted = Expectation(disks=step.disks, states=self._plan.expects.states)
        difference = wanted.difference(domain)
        if difference is not None:
            raise DomainBusyError(domain=domain.name, reason=f"while it was copied, {difference}")
        self._moment = datetime.now(UTC)
        self._consistency = Consistency.OFFLINE

    def _publish(self, step: PublishPoint) -> None:
        moment = step.time or self._moment
        if self._config is None or moment is None:
            raise HostError(
                domain=self._plan.domain,
                reason="a point is published after its snapshot and its XML",
            )
        point = RestorePoint(
            id=step.point,
            sequence=step.sequence,
            parent=step.parent,
            store=self._plan.store,
            time=moment,
            domain=self._plan.domain,
            uuid=self._plan.uuid,
            consistency=self._consistency,
            consistency_detail=self._consistency_detail or step.consistency_detail,
            files=(self._config, *self._states, *((self._memory,) if self._memory else ())),
            facts=tuple(sorted(self._facts)),
            disks=tuple(self._point_disk(disk, read=step.content_hash) for disk in step.disks),
            skipped=step.skipped,
            versions=self._versions,
            warnings=tuple(self._warnings),
        )
        self._store.publish(point)
        self._point = point

    def _point_disk(self, disk: PlannedDisk, *, read: bool) -> PointDisk:
        for image in disk.adopted:
            self._stored.setdefault((disk.target, image.name), image)
        images = tuple(self._stored[disk.target, name] for name in disk.images)
        top = images[0] if images else self._parent_top(disk)
        return PointDisk(
            target=disk.target,
            kind=disk.kind,
            reason=disk.reason,
            parent=disk.parent,
            virtual_size_bytes=top.virtual_size_bytes,
            images=images,
            content_sha256=self._read_content(disk.target, top) if read else None,
        )

    def _read_content(self, target: str, top: StoredImage) -> str:
        return self._store.hash_content(self._plan.uuid, target, top, self._emit, self._cancel)

    def _parent_top(self, disk: PlannedDisk) -> StoredImage:
        """Return the image that shows a disk that is as at its parent."""
        if self._history is None or disk.parent is None:
            raise HostError(target=disk.target, reason="a disk without an image has a parent")
        return self._history.top(disk.parent, disk.target)

    # --- after a failure ------------------------------------------------------------------------

    def _step_error(self, index: int, error: FibackupError) -> StepError:
        lines = tuple(headline(step) for step in self._plan.steps)
        return StepError(
            domain=self._plan.domain,
            target=error.target,
            path=error.path,
            reason=f"step {index + 1} ({lines[index]}) failed: {_words(error)}",
            plan=self._plan,
            index=index,
            done=lines[:index],
            remaining=lines[index:],
            state=self._state(error),
            next_command=command_after(self._plan, error, self._store_path),
        )

    def _state(self, error: FibackupError) -> str:
        if self._plan.verb == "restore":
            return self._restore.undo()
        return state_after(
            self._plan,
            error,
            host=self._host_or_none,
            snapshot=self._snapshot,
            point=self._point.id if self._point is not None else "",
        )


def _follows_snapshot(step: Step) -> bool:
    """Tell whether a step makes a snapshot known, without which no point is made of it."""
    run = step.ledger.run if isinstance(step, WriteLedger) else None
    return run is not None and run.phase is RunPhase.TAKEN


def _left_frozen(domain: Domain) -> Run | None:
    """Return the run of which a thaw is due; nothing of a freeze outlives the guest."""
    run, lives = domain.ledger.run, domain.agent_connected or domain.state.runs
    return run if run is not None and run.frozen and lives else None


def _is_above(found: ExpectedDisk, before: ExpectedDisk, new: NewOverlay) -> bool:
    """Tell whether *found* is *before* with one new overlay on top; the frozen ones unchanged."""
    if len(found.images) != len(before.images) + 1:
        return False
    top, old_active, *rest = found.images
    return (
        top.path == new.path
        and (old_active.path, old_active.format) == (before.images[0].path, before.images[0].format)
        and tuple(rest) == before.images[1:]
    )


def _snapshotted_too(domain: Domain, snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    """Return the disks that the snapshot does not name and that have an overlay of its name."""
    named = {*(new.target for new in snapshot.overlays), *snapshot.excluded}
    return tuple(
        (disk.target, str(disk.chain.active.path))
        for disk in domain.disks
        if disk.target not in named
        and disk.chain is not None
        and disk.chain.active.path.suffix == f".{snapshot.name}"
    )


def _words(error: FibackupError) -> str:
    """Return what happened, without domain, disk and path, which the outer error says."""
    said = error.stderr.strip().splitlines() if isinstance(error, QemuImgError) else []
    return f"{error.reason}: {said[-1]}" if said else error.reason


def _name_of(error: OSError) -> str | None:
    return error.filename if isinstance(error.filename, str) else None
