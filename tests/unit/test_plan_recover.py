"""What a recovery plans for each state that a killed run can leave."""

from __future__ import annotations

from datetime import timedelta
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import BlockJobError, ChainError, DomainStateError, StepError
from fibackup.host.cancel import CancelToken
from fibackup.host.events import OnEvent, ignore_events
from fibackup.host.executor import Executor
from fibackup.model.domain import Disk, Domain, DomainState
from fibackup.model.ledger import Ledger, Overlay, Run, RunPhase
from fibackup.model.point import History
from fibackup.plan.backup import plan_backup
from fibackup.plan.consolidate import rolling
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.recover import plan_recovery
from fibackup.plan.steps import (
    CommitImages,
    DeleteOverlays,
    FinishBlockJob,
    MendHeader,
    Plan,
    PublishPoint,
    PullImages,
    SaveDomainConfig,
    ThawGuest,
    WriteLedger,
)
from fibackup.testing import AgentState, FakeHost, FakeStore

TARGETS = ("vda", "vdb")


class World:
    """A domain with one point and a second that was begun."""

    def __init__(self) -> None:
        """Make the domain and its first point."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {1: 2}})
        self.store = FakeStore(self.host)
        self.backup()
        self.host.write("web1", "vda", 3, 9)

    @property
    def ledger(self) -> Ledger:
        """The domain's ledger."""
        return self.host.read_domain(self.uuid).ledger

    @property
    def history(self) -> History:
        """What the store has."""
        return self.store.read_history(self.uuid)

    def backup(self, policy: BackupPolicy | None = None) -> str:
        """Make a point, and return its id."""
        domain = self.host.read_domain(self.uuid)
        plan = plan_backup(domain, self.history, now=self.host.now, policy=policy)
        Executor(self.host, self.store).run(plan)
        return plan.point

    def fail(self, call: str, *, times: int = 1, after: bool = False) -> str:
        """Let a backup end at the n-th call of a name, for good; return the point's id."""
        domain = self.host.read_domain(self.uuid)
        plan = plan_backup(domain, self.history, now=self.host.now)
        seen = 0

        class Killed(BaseException):
            pass

        original = self.host._due

        def due(name: str) -> tuple[BaseException | None, BaseException | None]:
            nonlocal seen
            seen += name == call
            if seen >= times:
                late = after and seen == times and name == call
                return (None, Killed()) if late else (Killed(), None)
            return original(name)

        self.host._due = due  # type: ignore[method-assign]
        try:
            with pytest.raises(Killed):
                Executor(self.host, self.store, threads=1).run(plan)
        finally:
            self.host._due = original  # type: ignore[method-assign]
        self.store._shelf(self.uuid).written = False
        return plan.point

    def mark(self, ledger: Ledger) -> None:
        """Write a ledger, as a run that was killed has."""
        self.host.write_ledger(self.uuid, ledger)

    def plan(self, history: History | None = None) -> Plan:
        """Plan the recovery, with the store at hand unless another history is given."""
        domain = self.host.read_domain(self.uuid)
        return plan_recovery(domain, history or self.history, now=self.host.now)

    def plan_without_store(self) -> Plan:
        """Plan the recovery, without a store."""
        return plan_recovery(self.host.read_domain(self.uuid), None, now=self.host.now)

    def run(self, plan: Plan) -> None:
        """Run a plan that needs no store."""
        Executor(self.host, self.store if plan.store else None).run(plan)


def kinds(plan: Plan) -> list[str]:
    """Return the names of the steps' classes."""
    return [type(step).__name__ for step in plan.steps]


FINISH = ["SaveDomainConfig", "InParallel", "PublishPoint", "WriteLedger"]


def test_nothing_is_planned_when_no_run_has_left_anything() -> None:
    """A ledger without a run has no steps, and no warning."""
    plan = World().plan()
    assert (plan.verb, plan.steps, plan.warnings, plan.store) == ("recover", (), (), "")


def test_a_frozen_guest_is_thawed_and_the_run_forgotten() -> None:
    """The intent says frozen: thaw, whether or not the freeze came to be."""
    world = World()
    world.fail("take_snapshot")
    assert world.host.is_frozen("web1")
    plan = world.plan_without_store()
    assert kinds(plan) == ["ThawGuest", "WriteLedger"]
    world.run(plan)
    assert not world.host.is_frozen("web1")
    assert world.ledger.run is None


def test_a_guest_whose_agent_is_away_stays_in_the_ledger() -> None:
    """It may be frozen still: the ledger goes on saying so, and so does the warning."""
    world = World()
    world.fail("take_snapshot")
    world.host.set_agent("web1", AgentState.ABSENT)
    plan = world.plan()
    assert plan.steps == ()
    assert "virsh domfsthaw" in plan.warnings[0]


def test_a_frozen_guest_that_went_off_needs_no_thaw() -> None:
    """Nothing of a freeze outlives the guest."""
    world = World()
    world.fail("take_snapshot")
    world.host.set_agent("web1", AgentState.ABSENT)
    world.host.shut_off("web1")
    assert kinds(world.plan()) == ["WriteLedger"]


def test_overlays_of_an_intent_are_ours_and_prove_nothing() -> None:
    """The snapshot was taken, its answer lost: the overlays enter the ledger as stale."""
    world = World()
    point = world.fail("take_snapshot", after=True)
    plan = world.plan()
    assert kinds(plan) == ["ThawGuest", "WriteLedger"]
    world.run(plan)
    found = [entry for entry in world.ledger.overlays if entry.point == point]
    assert [entry.target for entry in found] == list(TARGETS)
    assert all(entry.stale for entry in found)


def test_an_unfinished_point_gets_its_own_id_and_time() -> None:
    """Copy what has no receipt, publish, say who finished it."""
    world = World()
    point = world.fail("copy_image", times=2)
    plan = world.plan()
    assert kinds(plan) == FINISH
    assert [copy.target for copy in plan.copies] == ["vdb"]
    assert [decision.parent for decision in plan.decisions] == [world.history.points[0].id] * 2
    world.run(plan)
    found = world.history.point(point)
    assert str(found.consistency) == "crash"
    assert "finished by recover" in found.consistency_detail
    assert found.time.strftime("%Y%m%dT%H%M%SZ") == point
    assert world.ledger.run is None
    assert {entry.sha256 is None for entry in world.ledger.overlays} == {False}
    assert world.ledger.stores[0].point == point


def test_the_first_point_of_a_store_is_finished_as_a_full() -> None:
    """Without a parent the whole chain under the overlays is stored."""
    world = World()
    other = FakeStore(world.host, uuid="5702e000-0000-4000-8000-00000000000b", path="/other")
    world.store = other
    world.host.attach_disk("web1", "sda", {})
    world.host.set_disk("web1", Disk("sda", device="cdrom", readonly=True))
    world.fail("save_config")
    plan = world.plan()
    [config] = [step for step in plan.steps if isinstance(step, SaveDomainConfig)]
    [publish] = [step for step in plan.steps if isinstance(step, PublishPoint)]
    assert config.name == f"{plan.point}.xml"
    assert publish.parent is None
    assert publish.skipped == (("sda", "cdrom"),)
    assert {str(decision.kind) for decision in plan.decisions} == {"full"}
    world.run(plan)
    assert len(world.history.points) == 1


def test_a_disk_that_was_not_in_the_run_is_named() -> None:
    """A disk that came after the snapshot is not in the point."""
    world = World()
    world.fail("copy_image")
    world.host.attach_disk("web1", "vdc", {})
    [publish] = [step for step in world.plan().steps if isinstance(step, PublishPoint)]
    assert publish.skipped == (("vdc", "not in the snapshot of the run"),)


def test_a_point_may_be_left_to_the_next() -> None:
    """Not finished, but not forgotten either; one that is published has its result written."""
    world = World()
    world.fail("copy_image")
    domain = world.host.read_domain(world.uuid)
    plan = plan_recovery(domain, world.history, now=world.host.now, finish=False)
    assert (plan.steps, plan.warnings) == ((), ())
    published = World()
    published.fail("publish", after=True)
    domain = published.host.read_domain(published.uuid)
    plan = plan_recovery(domain, published.history, now=published.host.now, finish=False)
    assert kinds(plan) == ["WriteLedger"]


def test_names_that_a_killed_copy_has_left_are_passed_over() -> None:
    """An image without a receipt keeps its name, and nobody uses it."""
    world = World()
    point = world.fail("copy_image", times=2)
    world.store._shelf(world.uuid).receipts.clear()
    plan = world.plan()
    assert [copy.name for copy in plan.copies] == [f"{point}-1.qcow2", f"{point}.qcow2"]
    world.run(plan)
    assert len(world.history.points) == 2


def test_a_published_point_gets_its_result() -> None:
    """The manifest is there, only the ledger does not say so yet."""
    world = World()
    point = world.fail("publish", after=True)
    plan = world.plan()
    assert kinds(plan) == ["WriteLedger"]
    world.run(plan)
    assert world.ledger.run is None
    found = {entry.target: entry.sha256 for entry in world.ledger.overlays if entry.point == point}
    assert found == {target: world.history.top(point, target).sha256 for target in TARGETS}


def test_a_published_point_that_is_in_doubt_gets_no_digest() -> None:
    """A base that changed, a disk that is gone: the run is over, the proof is not made up."""
    world = World()
    world.fail("publish", after=True)
    world.host.touch("/images/web1-vda.qcow2")
    world.host.detach_disk("web1", "vdb")
    world.run(world.plan())
    newest = [entry for entry in world.ledger.overlays if entry.sha256 is None]
    assert {entry.target for entry in newest} == {"vda", "vdb"}


@pytest.mark.parametrize("known", [False, True], ids=["no store", "another store"])
def test_a_point_waits_for_its_store(*, known: bool) -> None:
    """Without the store of the run nothing is decided, and the ledger keeps the run."""
    world = World()
    point = world.fail("copy_image")
    other = FakeStore(world.host, uuid="5702e000-0000-4000-8000-00000000000b", path="/other")
    plan = world.plan(other.read_history(world.uuid)) if known else world.plan_without_store()
    assert plan.steps == ()
    assert f"point {point} is not finished: its store" in plan.warnings[0]


def test_a_point_is_not_finished_by_what_may_be_a_copy() -> None:
    """A copy may lack the points that came since; the ledger keeps the run."""
    world = World()
    point = world.fail("copy_image")
    plan = world.plan(evolve(world.history, directory="a-web1", copies=("web1",)))
    assert plan.steps == ()
    assert f"point {point} is not finished: directories of the store" in plan.warnings[0]


def left_to_the_next(world: World, why: str) -> None:
    """Assert that the point is given up for a reason, and that the next one takes its layers."""
    plan = world.plan()
    assert kinds(plan) == ["WriteLedger"]
    assert "the next one takes its layers" in plan.warnings[0]
    assert why in plan.warnings[0]
    world.run(plan)
    assert world.plan().steps == ()
    world.backup(BackupPolicy(quiesce=Quiesce.OFF))


def test_a_point_whose_base_changed_is_given_up() -> None:
    """A frozen layer that was written is not the moment any more."""
    world = World()
    world.fail("copy_image")
    world.host.touch("/images/web1-vda.qcow2")
    left_to_the_next(world, "has changed")


def test_a_point_whose_overlay_is_gone_is_given_up() -> None:
    """Half a point is none."""
    world = World()
    world.fail("copy_image")
    world.host.foreign_commit("web1", "vdb", layers=1)
    left_to_the_next(world, "is not in the chain any more")


def test_a_point_whose_disk_is_gone_is_given_up() -> None:
    """A detached disk takes its overlay with it."""
    world = World()
    world.fail("copy_image")
    world.host.detach_disk("web1", "vdb")
    left_to_the_next(world, "is not in the chain any more")


def test_a_point_that_is_older_than_another_is_given_up() -> None:
    """Points of a store follow each other in time."""
    world = World()
    world.fail("copy_image")
    run = world.ledger.run
    assert run is not None
    world.mark(evolve(world.ledger, run=evolve(run, point="20200101T000000Z")))
    left_to_the_next(world, "is newer")


def test_a_point_without_overlays_is_given_up() -> None:
    """A ledger that names none has lost them."""
    world = World()
    world.mark(evolve(world.ledger, run=Run("20300101T000000Z", world.store.uuid, RunPhase.TAKEN)))
    left_to_the_next(world, "the ledger has no overlay of it")


def test_a_point_whose_manifest_is_damaged_is_given_up() -> None:
    """Its name is taken."""
    world = World()
    point = world.fail("copy_image")
    damaged = evolve(world.history, unreadable=((f"{point}.json", "not JSON"),))
    assert "its manifest is damaged" in world.plan(damaged).warnings[0]
    gone = evolve(world.history, lost=(point,))
    assert "its manifest is gone" in world.plan(gone).warnings[0]


def test_a_point_whose_image_cannot_be_trusted_is_given_up() -> None:
    """What could not be planned for a backup is not finished either."""
    world = World()
    world.fail("copy_image")
    domain = world.host.read_domain(world.uuid)
    chain = domain.disk("vda").chain
    assert chain is not None
    images = (chain.images[0], evolve(chain.images[1], problem="corrupt"), *chain.images[2:])
    disks = (evolve(domain.disk("vda"), chain=evolve(chain, images=images)), domain.disk("vdb"))
    plan = plan_recovery(evolve(domain, disks=disks), world.history, now=world.host.now)
    assert "cannot be trusted: corrupt" in plan.warnings[0]


def test_a_busy_domain_is_refused_only_when_there_is_something_to_do() -> None:
    """A migration is nobody's business while nothing is left."""
    world = World()
    world.host.set_state("web1", DomainState.RUNNING, job="migration")
    assert world.plan().steps == ()
    world.mark(evolve(world.ledger, run=Run("20300101T000000Z", world.store.uuid)))
    with pytest.raises(DomainStateError, match="a migration job is running"):
        world.plan()


# --- consolidation ------------------------------------------------------------------------------


def consolidating(world: World) -> CommitImages:
    """Give vda three images and the mark of a consolidation; return the job."""
    world.backup()
    domain = world.host.read_domain(world.uuid)
    chain = domain.disk("vda").chain
    assert chain is not None
    part = rolling(domain.ledger, chain)
    assert part is not None
    assert isinstance(part.job, CommitImages)
    world.mark(evolve(domain.ledger, run=Run("-", "-", RunPhase.CONSOLIDATING)))
    return part.job


def test_a_job_of_ours_is_waited_for_and_what_it_frees_deleted() -> None:
    """A backup refuses and says what to do; the recovery does it."""
    world = World()
    job = consolidating(world)
    world.host.leave_job("web1", job)
    with pytest.raises(DomainStateError, match="fibackup recover") as caught:
        world.backup()
    assert "a block job runs on the disk" in caught.value.reason
    plan = world.plan()
    assert plan.steps == (FinishBlockJob("vda", "commit"),)
    assert "wait for the commit" in str(plan)
    world.run(plan)
    assert job.top not in world.host.images()
    assert world.ledger.run is None
    assert world.plan().steps == ()


def test_a_job_that_frees_nothing_more_is_finished_after_the_rest() -> None:
    """What an earlier disk's job freed is deleted first."""
    world = World()
    job = consolidating(world)
    gone = PurePosixPath("/images/web1-vdb.bimg-20200101T000000Z")
    stray = Overlay("vdb", gone, gone, "20200101T000000Z", world.store.uuid, freed=True)
    world.mark(evolve(world.ledger, overlays=(*world.ledger.overlays, stray)))
    world.host.leave_job("web1", job)
    plan = world.plan()
    assert kinds(plan) == ["DeleteOverlays", "WriteLedger", "FinishBlockJob"]
    assert "delete 1 overlay" in str(plan)
    world.run(plan)
    assert world.ledger.overlay(gone) is None


@pytest.mark.parametrize("pivot", [True, False], ids=["active commit", "pull"])
def test_other_jobs_of_ours_are_finished_too(*, pivot: bool) -> None:
    """An active commit is pivoted; a pull ends by itself."""
    world = World()
    commit = consolidating(world)
    active = commit.leaves[0]
    job = (
        evolve(commit, top=active, pivot=True, leaves=commit.leaves[1:])
        if pivot
        else PullImages("vda", None, (active,))
    )
    world.host.leave_job("web1", job)
    world.run(world.plan())
    chain = world.host.read_domain(world.uuid).disk("vda").chain
    assert chain is not None
    assert chain.paths == job.leaves


def test_a_pull_is_not_finished_while_the_guest_is_paused() -> None:
    """QEMU would keep what was pulled in its memory."""
    world = World()
    job = consolidating(world)
    world.host.leave_job("web1", PullImages("vda", None, job.leaves[:1]))
    world.host.pause("web1")
    with pytest.raises(DomainStateError, match="resume"):
        world.plan()


@pytest.mark.parametrize("kind", ["copy", "commit"])
def test_a_foreign_job_is_refused_by_name(kind: str) -> None:
    """A job that is not ours is not touched, and neither is what it works on."""
    world = World()
    world.fail("copy_image")
    world.host.set_disk("web1", Disk("vda", block_job=kind))
    with pytest.raises(DomainStateError, match=f"not ours runs on the disk: {kind}"):
        world.plan()


def test_a_foreign_job_is_no_matter_while_nothing_is_left() -> None:
    """There is nothing to do, so nothing is in the way."""
    world = World()
    world.host.set_disk("web1", Disk("vda", block_job="copy"))
    assert world.plan().steps == ()


def test_a_job_that_ended_unseen_leaves_files_to_delete() -> None:
    """What lay between two images of the chain was committed, and its file is of no use."""
    world = World()
    job = consolidating(world)
    world.host.leave_job("web1", job)
    world.host.finish_block_job(
        world.uuid, FinishBlockJob("vda", "commit"), ignore_events, CancelToken()
    )
    plan = world.plan()
    assert kinds(plan) == ["WriteLedger", "DeleteOverlays", "WriteLedger"]
    assert plan.steps[1] == DeleteOverlays((job.top,))
    world.run(plan)
    assert job.top not in world.host.images()
    assert world.plan().steps == ()
    world.backup()


def test_an_active_overlay_that_is_gone_is_never_deleted() -> None:
    """Its data may be nowhere else: the file stays, and the warning names it."""
    world = World()
    consolidating(world)
    files = set(world.host.images())
    world.host.foreign_commit("web1", "vda")
    plan = world.plan()
    assert kinds(plan) == ["WriteLedger"]
    assert sum("left as it is" in text for text in plan.warnings) == 2
    world.run(plan)
    assert set(world.host.images()) == files


def test_a_consolidation_that_did_not_begin_is_forgotten() -> None:
    """The chain is as before: nothing but the mark goes."""
    world = World()
    consolidating(world)
    plan = world.plan()
    assert kinds(plan) == ["WriteLedger"]
    assert plan.warnings == ()


def test_a_failed_job_is_an_error_that_names_recover() -> None:
    """The next step after a recovery that failed is a recovery."""
    world = World()
    world.host.leave_job("web1", consolidating(world))
    plan = world.plan()
    world.host.fail_at(4, BlockJobError(reason="failed", target="vda"))
    with pytest.raises(StepError) as caught:
        world.run(plan)
    assert caught.value.next_command == f"fibackup recover {world.uuid}"


def test_overlays_stay_when_the_device_lost_what_a_job_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No ledger has them any more, so that no later recovery deletes them either."""
    world = World()
    job = consolidating(world)
    world.host.leave_job("web1", job)
    plan = world.plan()
    finish = world.host.finish_block_job

    def lose(uuid: str, step: FinishBlockJob, on_event: OnEvent, cancel: CancelToken) -> None:
        finish(uuid, step, on_event, cancel)
        raise BlockJobError(reason="lost", target="vda", unsafe=True)

    monkeypatch.setattr(world.host, "finish_block_job", lose)
    with pytest.raises(StepError, match="lost"):
        world.run(plan)
    assert world.plan().steps == ()
    assert world.ledger.overlay(job.top) is None
    assert job.top in world.host.images()
    world.backup()
    assert job.top in world.host.images()


def test_a_file_of_a_killed_memory_run_is_removed() -> None:
    """The ledger names it until it is gone."""
    world = World()
    world.mark(evolve(world.ledger, memory=PurePosixPath("/images/web1-vda.bimg-X.mem")))
    plan = world.plan()
    assert kinds(plan) == ["DeleteMemory", "WriteLedger"]
    world.run(plan)
    assert world.plan().steps == ()


@pytest.mark.parametrize("job", [False, True])
def test_a_guest_that_a_killed_run_suspended_goes_on(*, job: bool) -> None:
    """Before its job is seen to its end, which a pull of a paused guest could not be."""
    world = World()
    commit = consolidating(world)
    run = world.ledger.run
    assert run is not None
    world.mark(evolve(world.ledger, run=evolve(run, suspended=True)))
    if job:
        world.host.leave_job("web1", PullImages("vda", commit.base, commit.leaves))
    world.host.pause("web1")
    plan = world.plan()
    assert kinds(plan) == ["ResumeGuest", "WriteLedger", *["FinishBlockJob"] * job]
    world.run(plan)
    assert world.host.read_domain("web1").state is DomainState.RUNNING
    assert world.plan().steps == ()


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUTOFF])
def test_a_guest_that_is_not_paused_any_more_stays_as_it_is(state: DomainState) -> None:
    """Somebody else was faster; only the ledger is written."""
    world = World()
    consolidating(world)
    run = world.ledger.run
    assert run is not None
    world.mark(evolve(world.ledger, run=evolve(run, suspended=True)))
    world.host.set_state("web1", state)
    assert kinds(world.plan()) == ["WriteLedger"]


def test_a_guest_that_its_owner_paused_stays_paused() -> None:
    """The ledger does not say that it was us."""
    world = World()
    consolidating(world)
    world.host.pause("web1")
    assert kinds(world.plan()) == ["WriteLedger"]


def unheard_end(*, skip: int = 1) -> tuple[World, Domain]:
    """Return a domain whose active layer has a header that skips images of the definition."""
    world = World()
    world.backup()
    consolidating(world)
    world.host.shut_off("web1")
    domain = world.host.read_domain("web1")
    chain = domain.disk("vda").chain
    assert chain is not None
    active, *under = chain.images
    ahead = evolve(active, header_backing=str(under[skip].path) if skip < len(under) else "")
    disk = evolve(domain.disk("vda"), chain=evolve(chain, images=(ahead, *under)))
    return world, evolve(domain, disks=(disk, domain.disk("vdb")))


@pytest.mark.parametrize("skip", [1, 2])
def test_a_header_that_skips_overlays_of_ours_names_them_again(skip: int) -> None:
    """Down to the disk's own image: the chain of the definition shows the same."""
    world, domain = unheard_end(skip=skip)
    chain = domain.disk("vda").chain
    assert chain is not None
    plan = plan_recovery(domain, None, now=world.host.now)
    mend = MendHeader("vda", chain.paths[0], chain.paths[1], "qcow2")
    assert plan.steps[0] == mend
    assert kinds(plan) == ["MendHeader", "WriteLedger"]
    world.run(plan)
    assert world.plan().steps == ()


def test_a_header_that_skips_the_disks_own_image_stays() -> None:
    """It names nothing: what was discarded since would come back."""
    world, domain = unheard_end(skip=9)
    assert kinds(plan_recovery(domain, None, now=world.host.now)) == ["WriteLedger"]


def test_a_header_is_not_put_on_an_overlay_that_is_gone() -> None:
    """Or whose file is to be deleted: the shorter chain is whole."""
    world, domain = unheard_end()
    chain = domain.disk("vda").chain
    assert chain is not None
    active, below, *rest = chain.images
    gone = evolve(chain, images=(active, evolve(below, problem="No such file"), *rest))
    lacking = evolve(domain, disks=(evolve(domain.disk("vda"), chain=gone), domain.disk("vdb")))
    assert kinds(plan_recovery(lacking, None, now=world.host.now)) == ["WriteLedger"]


def test_a_header_of_a_domain_that_runs_waits_for_its_end() -> None:
    """The run stays in the ledger, and the warning says what to do."""
    world, domain = unheard_end()
    running = evolve(domain, state=DomainState.RUNNING)
    plan = plan_recovery(running, None, now=world.host.now)
    assert plan.steps == ()
    [warning] = plan.warnings
    remedy = "shut the domain down, then: fibackup recover"
    assert remedy in warning
    with pytest.raises(ChainError, match=remedy):
        plan_backup(running, world.history, now=world.host.now)


def test_without_a_consolidation_no_header_is_mended() -> None:
    """Nobody knows who wrote it, or why."""
    world, domain = unheard_end()
    ended = evolve(domain, ledger=evolve(domain.ledger, run=None))
    assert plan_recovery(ended, None, now=world.host.now).steps == ()


def test_the_steps_of_a_recovery_are_described() -> None:
    """The dry run says what would be thawed, written and deleted."""
    world = World()
    world.fail("take_snapshot")
    text = str(world.plan())
    assert "thaw the guest" in text
    assert "what is known after the recovery" in text
    assert ThawGuest(60.0) in world.plan().steps
    assert isinstance(world.plan().steps[-1], WriteLedger)


def test_a_later_now_changes_nothing_but_the_name_of_the_xml() -> None:
    """The point keeps its id, however late it is finished."""
    world = World()
    point = world.fail("copy_image")
    domain = world.host.read_domain(world.uuid)
    later = plan_recovery(domain, world.history, now=world.host.now + timedelta(days=1))
    assert later.point == world.plan().point == point
