"""
Plan what a run that was killed has left: from chains, ledger and store, as they are now.

::

    ledger says      found                                      ->  planned
    frozen           guest agent connected                          thaw; until then, say frozen
    suspended        the domain is paused                           let the guest go on
    intent           no overlay of the point                        forget the run
    intent           its overlays in the chains                     they are ours, and prove nothing
    taken            its overlays, nothing under them changed       copy, publish the point
    taken            anything else                                  the next point takes the layers
    consolidating    a job runs                                     wait for it, pivot
    consolidating    off, a header skips what the definition has    let it name that again
    consolidating    runs, a header skips what the chain has        say so, the run stays
    consolidating    overlays between two of the chain are gone     delete their files
    consolidating    the active overlay itself is gone              say so, delete nothing

A second plan after the first was run has no steps, unless a thaw has failed. The executor
improvises nothing: this is planning again, and as pure as the plan of a backup.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile

from attrs import evolve, frozen

from fibackup.errors import ChainError, DomainStateError, UnsupportedDiskError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, Domain, DomainState
from fibackup.model.ledger import KnownStore, Ledger, Overlay, Run, RunPhase
from fibackup.model.point import DiskKind, History, parse_point_id
from fibackup.plan.continuity import Parent, find_parent, stale_overlays
from fibackup.plan.layers import free_id, left_by_run, store_layers
from fibackup.plan.memory import left_memory
from fibackup.plan.selection import check_disk, is_our_job
from fibackup.plan.state import save_states
from fibackup.plan.steps import (
    CopyImage,
    Decision,
    DeleteOverlays,
    Expectation,
    ExpectedDisk,
    FinishBlockJob,
    InParallel,
    MendHeader,
    Plan,
    PlannedDisk,
    PublishPoint,
    ResumeGuest,
    SaveDomainConfig,
    Step,
    ThawGuest,
    WriteLedger,
)

__all__ = ["plan_recovery"]

_FINISHED = (
    "crash-consistent: finished by recover, after its run had ended; its XML, NVRAM and TPM state "
    "are of then"
)


@frozen
class _Part:
    """A disk of an unfinished point."""

    chain: BackingChain
    planned: PlannedDisk
    copies: tuple[CopyImage, ...]


@frozen
class _Finding:
    """What is to be done about the run: steps that make a point, and the ledger afterwards."""

    ledger: Ledger
    point: str = ""
    parts: tuple[_Part, ...] = ()
    warnings: tuple[str, ...] = ()


def plan_recovery(
    domain: Domain, history: History | None, *, now: datetime, finish: bool = True
) -> Plan:
    """
    Plan what is left to do after a run of a domain was killed, wherever that was.

    Args:
        domain: The domain, just read.
        history: What the run's store holds of it, just read; None: the store is not at hand, and
            a point that the run had not finished stays as it is.
        now: The time, aware; it names the XML of a point that is finished.
        finish: False: a point that the run had not finished stays as it is, and the next one takes
            its layers.

    Returns:
        The plan; without steps when there is nothing to do. After it was run, the plan that is
        made next has none.

    Raises:
        DomainStateError: A job that is not ours is in the way. Nothing was touched.
        ModelError: *now* is naive. Nothing was touched.

    Source:
        docs/design.md, "Plan and executor"; docs/recover.md.
    """
    jobs = _jobs(domain)
    left_frozen = domain.ledger.run is not None and domain.ledger.run.frozen
    mute = left_frozen and domain.state.runs and not domain.agent_connected
    finding = _find(domain, history, jobs=bool(jobs), mute=mute, finish=finish)
    store = history if finding.point else None
    steps: tuple[Step, ...] = (
        *_resume(domain),
        *_mend(domain),
        *((ThawGuest(60.0),) if left_frozen and domain.agent_connected else ()),
        *left_memory(domain),
        *(_finish(domain, store, finding.point, finding.parts, now) if store else ()),
        *_settle(domain.ledger, finding),
        *jobs,
    )
    if steps:
        _refuse_busy(domain)
    latest = store.latest if store is not None else None
    copies = tuple(copy for part in finding.parts for copy in part.copies)
    return Plan(
        verb="recover",
        domain=domain.name,
        uuid=domain.uuid,
        store=store.store if store is not None else "",
        point=finding.point,
        expects=Expectation(
            disks=tuple(ExpectedDisk.of(part.chain) for part in finding.parts),
            ledger=domain.ledger,
            sequence=latest.sequence if latest is not None else 0,
            receipts=tuple(
                f"{part.planned.target}/{image.name}"
                for part in finding.parts
                for image in part.planned.adopted
            ),
            space_bytes=sum(copy.estimate_bytes for copy in copies),
        ),
        decisions=tuple(
            Decision(each.target, each.kind, each.reason, each.parent)
            for each in (part.planned for part in finding.parts)
        ),
        steps=steps,
        warnings=finding.warnings,
    )


# --- jobs ---------------------------------------------------------------------------------------


def _jobs(domain: Domain) -> tuple[FinishBlockJob, ...]:
    found: list[FinishBlockJob] = []
    for disk in domain.disks:
        if disk.block_job is None:
            continue
        if is_our_job(domain, disk):
            _refuse_pull_while_paused(domain, disk)
            found.append(FinishBlockJob(disk.target, disk.block_job))
        elif domain.ledger.run is not None or domain.ledger.freed:
            raise DomainStateError(
                domain=domain.name,
                target=disk.target,
                reason=f"a block job that is not ours runs on the disk: {disk.block_job}",
                remedy=f"let it finish, or: virsh blockjob {domain.uuid} {disk.target} --abort",
            )
    return tuple(found)


def _resume(domain: Domain) -> tuple[ResumeGuest, ...]:
    """Return the step for a guest that a run of ours has suspended, and nobody else."""
    run = domain.ledger.run
    ours = run is not None and run.suspended
    return (ResumeGuest(),) if ours and domain.state is DomainState.PAUSED else ()


def _mend(domain: Domain) -> tuple[MendHeader, ...]:
    """Return the steps for headers that are ahead of the definition of a domain that is off."""
    return _skipping(domain) if domain.state is DomainState.SHUTOFF else ()


def _skipping(domain: Domain) -> tuple[MendHeader, ...]:
    """
    Return what would mend overlays whose headers skip overlays of ours that libvirt has in a chain.

    QEMU has ended a job there, and libvirt never heard of it. The images that are skipped have all
    that they had, so the longer chain shows the same; whether the job's last writes have reached
    the image that it wrote, nobody knows.
    """
    run, ledger = domain.ledger.run, domain.ledger
    if run is None or run.phase is not RunPhase.CONSOLIDATING:
        return ()
    return tuple(
        MendHeader(chain.target, image.path, below.path, below.format)
        for chain in _chains(domain)
        for image, below in zip(chain.images, chain.images[1:], strict=False)
        if ledger.overlay(image.path) is not None
        and _is_there(below, ledger)
        and image.header_backing in _past_ours(ledger, chain.below(image.path))
    )


def _is_there(image: Image, ledger: Ledger) -> bool:
    """Tell whether an overlay can be lain on: its file may be gone, or on its way out."""
    entry = ledger.overlay(image.path)
    return image.problem is None and entry is not None and not entry.freed


def _past_ours(ledger: Ledger, under: Sequence[Image]) -> frozenset[str]:
    """Return what lies under the first of some images, down to the first that is not ours."""
    ours = takewhile(lambda image: ledger.overlay(image.path) is not None, under)
    return frozenset(str(image.path) for image in under[1 : len(tuple(ours)) + 1])


def _refuse_pull_while_paused(domain: Domain, disk: Disk) -> None:
    if disk.block_job == "pull" and not domain.state.runs and not _resume(domain):
        raise DomainStateError(
            domain=domain.name,
            target=disk.target,
            reason=f"the domain is {domain.state}: QEMU would not flush what was pulled",
            remedy=f"resume it: virsh resume {domain.uuid}",
        )


def _refuse_busy(domain: Domain) -> None:
    if domain.job is not None:
        raise DomainStateError(
            domain=domain.name,
            reason=f"a {domain.job} job is running",
            remedy=f"wait for it, or: virsh domjobabort {domain.uuid}",
        )


# --- the run ------------------------------------------------------------------------------------


def _find(
    domain: Domain, history: History | None, *, jobs: bool, mute: bool, finish: bool
) -> _Finding:
    """Return what becomes of the run; one that cannot be judged now stays in the ledger."""
    ledger, run = domain.ledger, domain.ledger.run
    if run is None:
        return _Finding(ledger)
    ledger = evolve(ledger, run=evolve(run, suspended=False))
    if mute:
        hint = f"thaw it when its guest agent is back: virsh domfsthaw {domain.uuid}"
        return _Finding(ledger, warnings=(f"the guest may be frozen still; {hint}",))
    if run.phase is RunPhase.TAKEN:
        return _taken(domain, history, run, finish=finish)
    if run.phase is RunPhase.INTENT:
        left = left_by_run(ledger, _chains(domain))
        return _Finding(evolve(ledger, run=None, overlays=(*ledger.overlays, *left)))
    marked = ledger.after_lost_job(_chains(domain))
    if jobs:
        return _Finding(marked)
    if domain.state is not DomainState.SHUTOFF and (skipping := _skipping(domain)):
        hint = f"shut the domain down, then: fibackup recover {domain.uuid}"
        return _Finding(marked, warnings=(f"the header of {skipping[0].path} is ahead; {hint}",))
    return _Finding(evolve(marked, run=None), warnings=_lost(domain, marked))


def _lost(domain: Domain, ledger: Ledger) -> tuple[str, ...]:
    """Return what is to be said of overlays that are gone, nobody knows how."""
    used = {path for chain in _chains(domain) for path in chain.paths}
    return tuple(
        f"{entry.path} is in no chain any more, and it cannot be proven where its data is: "
        "it is left as it is"
        for entry in ledger.overlays
        if entry.path not in used and not entry.freed
    )


def _taken(domain: Domain, history: History | None, run: Run, *, finish: bool) -> _Finding:
    ledger = domain.ledger
    thawed = evolve(ledger, run=evolve(run, frozen=False))
    if history is None or history.store != run.store:
        unknown = (
            f"point {run.point} is not finished: its store {run.store} is not at hand; "
            f"when it is: fibackup recover --store DIR {domain.uuid}"
        )
        return _Finding(thawed, warnings=(unknown,))
    if history.copies:
        return _Finding(thawed, warnings=(f"point {run.point} is not finished: {history.doubt}",))
    known = KnownStore(history.store, str(history.path), run.point)
    others = tuple(store for store in ledger.stores if store.uuid != history.store)
    result = evolve(ledger, run=None, stores=(*others, known))
    if history.find(run.point) is not None:
        return _Finding(_with_digests(domain, history, result, run.point))
    if not finish:
        return _Finding(thawed)
    parts = _parts(domain, history, run)
    if isinstance(parts, str):
        left = f"point {run.point} cannot be finished, the next one takes its layers: {parts}"
        return _Finding(evolve(ledger, run=None), warnings=(left,))
    return _Finding(result, run.point, parts)


def _with_digests(domain: Domain, history: History, ledger: Ledger, point: str) -> Ledger:
    """Write down the sha256 of a published point's images, where all witnesses agree."""

    def digest(overlay: Overlay) -> str | None:
        chain = _chain(domain, overlay.target)
        if chain is None or overlay.path not in chain.paths:
            return None
        at = chain.paths.index(overlay.path)
        own = BackingChain(chain.target, chain.images[at:])
        parent = find_parent(own, ledger, history)
        proven = isinstance(parent, Parent) and parent.point.id == point
        return history.top(point, overlay.target).sha256 if proven else None

    return evolve(
        ledger,
        overlays=tuple(
            evolve(entry, sha256=digest(entry))
            if entry.point == point and entry.store == history.store
            else entry
            for entry in ledger.overlays
        ),
    )


# --- an unfinished point ------------------------------------------------------------------------


def _parts(domain: Domain, history: History, run: Run) -> tuple[_Part, ...] | str:
    """Return the disks of an unfinished point, or why it cannot be finished."""
    newer = [point.id for point in history.points if point.id > run.point]
    if newer:
        return f"point {newer[0]} is newer"
    if any(name == f"{run.point}.json" for name, _ in history.unreadable):
        return "its manifest is damaged"
    if run.point in history.lost:
        return "its manifest is gone"
    parts: list[_Part] = []
    for overlay in domain.ledger.overlays:
        if overlay.point != run.point or overlay.store != run.store:
            continue
        part = _part(domain, history, overlay)
        if isinstance(part, str):
            return part
        parts.append(part)
    return tuple(parts) or "the ledger has no overlay of it"


def _part(domain: Domain, history: History, overlay: Overlay) -> _Part | str:
    chain = _chain(domain, overlay.target)
    if chain is None or overlay.path not in chain.paths:
        return f"{overlay.path} is not in the chain any more"
    if overlay.path in stale_overlays(chain, domain.ledger):
        return f"an image under {overlay.path} has changed"
    frozen_images = BackingChain(chain.target, chain.below(overlay.path))
    try:
        check_disk(domain, evolve(domain.disk(overlay.target), chain=frozen_images))
    except (ChainError, UnsupportedDiskError) as error:
        return error.reason
    parent = find_parent(frozen_images, domain.ledger, history)
    if isinstance(parent, str):
        kind, reason, on, layers, under = DiskKind.FULL, parent, None, frozen_images.images, None
    else:
        kind, on, layers = DiskKind.INCREMENT, parent.point.id, parent.new_layers
        reason = f"ledger, chain and store agree on point {on}"
        under = history.top(on, chain.target).name
    names, copies, adopted = store_layers(
        chain.target, layers, under, history, overlay.point, frozen=True
    )
    return _Part(chain, PlannedDisk(chain.target, kind, reason, on, names, adopted), copies)


def _finish(
    domain: Domain, history: History, point: str, parts: tuple[_Part, ...], now: datetime
) -> tuple[Step, ...]:
    """Return the steps that a point still lacks; its time is the one of its id."""
    name = free_id(now, domain, history) if point in history.taken_ids else point
    config = f"{name}.xml"
    latest = history.latest
    targets = {part.planned.target for part in parts}
    return (
        *save_states(domain, name),
        SaveDomainConfig(config),
        InParallel(tuple(part.copies for part in parts if part.copies)),
        PublishPoint(
            point=point,
            sequence=history.next_sequence,
            parent=latest.id if latest else None,
            config=config,
            disks=tuple(part.planned for part in parts),
            skipped=tuple(
                (disk.target, disk.skip_reason or "not in the snapshot of the run")
                for disk in domain.disks
                if disk.target not in targets
            ),
            consistency_detail=_FINISHED,
            time=parse_point_id(point),
        ),
    )


# --- the ledger ---------------------------------------------------------------------------------


def _settle(before: Ledger, finding: _Finding) -> tuple[Step, ...]:
    """Return the steps that write what is known now, and delete what nothing needs."""
    after = evolve(finding.ledger, memory=None)
    digests = tuple((part.planned.target, part.planned.images[0]) for part in finding.parts)
    write = (WriteLedger("what is known after the recovery", after, digests),)
    freed = after.freed
    delete = (
        DeleteOverlays(freed),
        WriteLedger("what was deleted", after.without(freed), digests),
    )
    return (*(write if after != before else ()), *(delete if freed else ()))


def _chain(domain: Domain, target: str) -> BackingChain | None:
    return next((disk.chain for disk in domain.disks if disk.target == target), None)


def _chains(domain: Domain) -> tuple[BackingChain, ...]:
    return tuple(disk.chain for disk in domain.disks if disk.chain is not None)
