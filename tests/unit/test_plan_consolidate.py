"""Facts about the plan of a consolidation, and about what it leaves in the ledger."""

from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import (
    BlockJobError,
    ChainError,
    DomainBusyError,
    DomainStateError,
    LibvirtError,
    PolicyError,
    SharedBaseError,
    StepError,
)
from fibackup.host.cancel import CancelToken
from fibackup.host.events import OnEvent, ignore_events
from fibackup.host.executor import Executor
from fibackup.model.domain import Disk, Domain, DomainState, ImageUse
from fibackup.model.ledger import Ledger, Run, RunPhase
from fibackup.plan.backup import plan_backup
from fibackup.plan.consolidate import ConsolidationPolicy, Method, plan_consolidation
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.recover import plan_recovery
from fibackup.plan.report import Report
from fibackup.plan.steps import (
    CommitImages,
    CommitOffline,
    ConsolidateDisk,
    EachDisk,
    FinishBlockJob,
    Plan,
    PullImages,
)
from fibackup.testing import FakeHost, FakeStore

TEMPLATE = PurePosixPath("/images/template.qcow2")
PULL = ConsolidationPolicy(method=Method.BLOCKPULL)
ROLLING = ConsolidationPolicy(keep_overlay=True)


class World:
    """A domain over a template, with some points in a store."""

    def __init__(self, points: int = 0, *, template: bool = True) -> None:
        """Make both, and take the points."""
        self.host = FakeHost()
        self.host.add_image(TEMPLATE, {0: 1})
        self.uuid = self.host.add_domain(
            "web1", {"vda": {1: 2}, "vdb": {}}, template=TEMPLATE if template else None
        )
        self.store = FakeStore(self.host)
        self.own = self.chain()[0]
        self.value = 10
        for _ in range(points):
            self.backup()

    def domain(self) -> Domain:
        """Read the domain."""
        return self.host.read_domain("web1")

    def chain(self, target: str = "vda") -> tuple[PurePosixPath, ...]:
        """Return the paths of a live chain."""
        chain = self.domain().disk(target).chain
        assert chain is not None
        return chain.paths

    def backup(self, *, consolidate: bool = False) -> Report:
        """Write something and take the next point."""
        self.value += 1
        self.host.write("web1", "vda", self.value % 16, self.value)
        policy = BackupPolicy(quiesce=Quiesce.OFF, consolidate=consolidate)
        history = self.store.read_history(self.uuid)
        plan = plan_backup(self.domain(), history, now=self.host.now, policy=policy)
        return Executor(self.host, self.store).run(plan)

    def plan(
        self, policy: ConsolidationPolicy | None = None, uses: tuple[ImageUse, ...] = ()
    ) -> Plan:
        """Plan a consolidation."""
        plan = plan_consolidation(self.domain(), uses=uses, policy=policy)
        assert Plan.from_json(plan.to_json()) == plan
        return plan

    def run(self, policy: ConsolidationPolicy | None = None) -> Report:
        """Plan and run."""
        return Executor(self.host, None).run(self.plan(policy))

    def every_point_is_right(self) -> None:
        """Assert that each point reads as the guest did."""
        for point in self.store.read_history(self.uuid).points:
            for disk in point.disks:
                found = self.store.restore(self.uuid, point.id, disk.target)
                assert found == self.host.moment(self.uuid, point.id).disks[disk.target]


def parts(plan: Plan) -> dict[str, ConsolidateDisk]:
    """Return what is planned for each disk."""
    return {
        disk.job.target: disk
        for step in plan.steps
        if isinstance(step, EachDisk)
        for disk in step.disks
    }


def commit_of(plan: Plan, target: str = "vda") -> CommitImages:
    """Return the commit that is planned for a disk."""
    job = parts(plan)[target].job
    assert isinstance(job, CommitImages)
    return job


def test_a_full_commit_goes_into_the_disks_own_image() -> None:
    """Never into the template; every overlay is deleted afterwards."""
    world = World(2)
    active, frozen, own, template = world.chain()
    part = parts(world.plan())["vda"]
    assert part.job == CommitImages("vda", own, active, pivot=True, leaves=(own, template))
    assert part.overlays == (active, frozen)
    assert part.touched == (active, frozen, own)
    seen = world.host.guest_sees("web1", "vda")
    world.run()
    assert world.chain() == (own, template)
    assert not set(world.host.images()) & {active, frozen}
    assert world.host.guest_sees("web1", "vda") == seen
    assert (world.domain().ledger.overlays, world.domain().ledger.run) == ((), None)


def test_the_rolling_form_leaves_the_active_layer() -> None:
    """What lies between it and the disk's own image goes."""
    world = World(3)
    active, upper, lower, own, template = world.chain()
    part = parts(world.plan(ROLLING))["vda"]
    assert commit_of(world.plan(ROLLING)).leaves == (active, own, template)
    assert part.overlays == (upper, lower)
    world.run(ROLLING)
    assert world.chain() == (active, own, template)
    world.every_point_is_right()


def test_a_pull_leaves_the_template_and_the_disks_own_image() -> None:
    """In the rolling form the own image stays in the chain; else it is left as it is."""
    world = World(2)
    active, frozen, own, template = world.chain()
    keep = parts(world.plan(evolve(PULL, keep_overlay=True)))["vda"]
    assert keep.job == PullImages("vda", own, (active, own, template))
    part = parts(world.plan(PULL))["vda"]
    assert part.job == PullImages("vda", template, (active, template))
    assert part.overlays == part.touched == (frozen,)
    before = world.host.images()[own]
    world.run(PULL)
    assert world.chain() == (active, template)
    assert world.host.images()[own] == before


def test_a_pull_of_a_disk_without_a_template_leaves_one_image() -> None:
    """Nothing is under it."""
    world = World(1, template=False)
    assert parts(world.plan(PULL))["vda"].job == PullImages("vda", None, (world.chain()[0],))


def test_after_a_pull_the_overlay_is_the_disks_own_image() -> None:
    """The next commits go into that, not into the template, and it is never deleted."""
    world = World(2)
    world.run(PULL)
    own, template = world.chain()
    assert world.domain().ledger.overlay(own) is None
    before = world.host.images()[template]
    for _ in range(3):
        world.backup(consolidate=True)
        assert world.chain()[1:] == (own, template)
    world.run()
    assert world.chain() == (own, template)
    assert world.host.images()[template] == before
    world.every_point_is_right()


def test_an_overlay_that_somebody_pulled_is_the_disks_own_image_too() -> None:
    """Our ledger says what it lay on; it lies on something else now."""
    world = World(1)
    active, _, template = world.chain()
    others = world.host
    others.run_block_job(
        world.uuid, PullImages("vda", template, (active, template)), ignore_events, CancelToken()
    )
    assert "vda" not in parts(world.plan())
    before = others.images()[template]
    world.backup(consolidate=True)
    world.backup(consolidate=True)
    assert world.chain()[1:] == (active, template)
    assert others.images()[template] == before
    world.every_point_is_right()


def test_overlays_that_somebody_committed_are_passed_over() -> None:
    """The ledger knows what lay under them."""
    world = World(3)
    active, upper, lower, own, template = world.chain()
    job = CommitImages("vda", own, upper, pivot=False, leaves=(active, own, template))
    world.host.run_block_job(world.uuid, job, ignore_events, CancelToken())
    part = parts(world.plan())["vda"]
    assert commit_of(world.plan()).base == own
    assert part.overlays == (active,)
    assert lower in world.host.images()


def test_one_disk_or_all() -> None:
    """All that have overlays of ours; the others are said to be short."""
    world = World(1)
    assert set(parts(world.plan())) == {"vda", "vdb"}
    assert set(parts(world.plan(ConsolidationPolicy(disks=("vdb",))))) == {"vdb"}


def test_short_chains_are_left_alone() -> None:
    """A plan without a step is no error, and running it does nothing."""
    for world, policy in (
        (World(), None),
        (World(1), ROLLING),
        (World(template=False), None),
    ):
        plan = world.plan(policy)
        assert plan.steps == ()
        assert "as short as it gets" in str(plan)
        before = world.host.images()
        world.run(policy)
        assert world.host.images() == before


def test_limits_go_into_the_jobs() -> None:
    """A suspension only into a commit with a pivot."""
    world = World(2)
    limits = ConsolidationPolicy(bandwidth_bytes=7, timeout_seconds=8, suspend_seconds=9)
    job = commit_of(world.plan(limits))
    assert (job.bandwidth_bytes, job.timeout_seconds, job.suspend_seconds) == (7, 8, 9)
    assert commit_of(world.plan(evolve(limits, keep_overlay=True))).suspend_seconds == 0
    pull = parts(world.plan(evolve(limits, method=Method.BLOCKPULL)))["vda"].job
    assert isinstance(pull, PullImages)
    assert (pull.bandwidth_bytes, pull.timeout_seconds) == (7, 8)


@pytest.mark.parametrize(
    ("bandwidth", "timeout", "suspend"), [(-1, 1.0, 0.0), (0, 0.0, 0.0), (0, 1.0, -1.0)]
)
def test_limits_that_are_none_are_refused(bandwidth: int, timeout: float, suspend: float) -> None:
    """Less than nothing."""
    with pytest.raises(PolicyError):
        ConsolidationPolicy(
            bandwidth_bytes=bandwidth, timeout_seconds=timeout, suspend_seconds=suspend
        )


def test_libvirts_snapshots_are_named() -> None:
    """A consolidation is refused; a backup goes on without one."""
    world = World(2)
    world.host.set_snapshots("web1", ("before-upgrade",))
    with pytest.raises(DomainStateError, match="before-upgrade"):
        world.plan()
    report = world.backup(consolidate=True)
    assert len(world.chain()) == 5
    assert any("before-upgrade" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("phase", "frozen", "refused"),
    [
        (RunPhase.INTENT, False, True),
        (RunPhase.TAKEN, False, True),
        (RunPhase.TAKEN, True, True),
        (RunPhase.CONSOLIDATING, False, False),
        (RunPhase.INTENT, True, False),
    ],
)
def test_a_backup_that_has_not_ended_is_in_the_way(
    phase: RunPhase, *, frozen: bool, refused: bool
) -> None:
    """Its overlays are not stored yet; a consolidation that died, or a thaw, can wait."""
    world = World(1)
    run = Run("20261124T040000Z", "store", phase, frozen)
    world.host.write_ledger(world.uuid, evolve(world.domain().ledger, run=run))
    if refused:
        with pytest.raises(DomainStateError, match="20261124T040000Z has not ended"):
            world.plan()
    else:
        assert parts(world.plan())


def test_a_busy_domain_and_a_busy_disk_are_refused() -> None:
    """Paused, with a job, or with a block job."""
    world = World(1)
    world.host.pause("web1")
    with pytest.raises(DomainStateError):
        world.plan()
    paused = ConsolidationPolicy(allow_paused=True)
    assert parts(world.plan(paused))
    with pytest.raises(PolicyError, match="paused"):
        world.plan(evolve(paused, method=Method.BLOCKPULL))
    world.host.set_state("web1", DomainState.RUNNING, job="dump")
    with pytest.raises(DomainStateError):
        world.plan()
    world.host.set_state("web1", DomainState.RUNNING)
    world.host.set_disk("web1", Disk("vda", block_job="commit"))
    with pytest.raises(DomainStateError, match="block job"):
        world.plan()


def test_a_foreign_overlay_above_ours_is_refused_and_one_below_is_the_base() -> None:
    """It is somebody's snapshot."""
    world = World()
    foreign = world.host.foreign_snapshot("web1", "vda")
    world.backup()
    assert commit_of(world.plan()).base == foreign
    world.host.foreign_snapshot("web1", "vda")
    with pytest.raises(DomainStateError, match="is not ours") as caught:
        world.plan()
    assert caught.value.target == "vda"


def test_an_image_that_another_domain_uses_is_refused_by_name() -> None:
    """The base of a commit, and each overlay that would go; not the template."""
    world = World(2)
    active, frozen, own, template = world.chain()
    for path in (active, frozen, own):
        with pytest.raises(SharedBaseError, match="db1") as caught:
            world.plan(uses=(ImageUse("db1", path), ImageUse("db1", path)))
        assert caught.value.dependents == ("db1",)
    assert world.plan(uses=(ImageUse("db1", template),)).steps
    assert world.plan(PULL, uses=(ImageUse("db1", own),)).steps
    with pytest.raises(SharedBaseError):
        world.plan(PULL, uses=(ImageUse("db1", frozen),))


def test_an_image_of_which_it_cannot_be_told_is_refused_with_the_reason() -> None:
    """What cannot be told counts as used."""
    world = World(1)
    doubt = "it cannot be told what /i/odd lies on: it is odd"
    use = ImageUse("db1", world.chain()[1], doubt=doubt)
    with pytest.raises(SharedBaseError, match=f"db1 perhaps: {doubt}"):
        world.plan(uses=(use,))


def test_an_image_under_another_disk_of_the_domain_is_refused() -> None:
    """By the plan, and by the run when it came after that; a disk's own use is none."""
    world = World(1)
    plan = world.plan()
    own = world.chain()[1]
    world.host.add_image("/images/clone.qcow2", backing=own)
    world.host.attach_disk("web1", "vdc", path="/images/clone.qcow2")
    uses = world.host.image_uses(world.uuid, world.chain())
    assert [str(use) for use in uses if use.path == own] == [
        "disk vda of web1",
        "disk vdc of web1",
    ]
    with pytest.raises(SharedBaseError, match="is also used by: disk vdc of web1: /"):
        world.plan(uses=uses)
    with pytest.raises(StepError, match="is also used by: disk vdc of web1"):
        Executor(world.host, None).run(plan)
    assert world.chain()[1] == own


def test_a_domain_that_comes_after_the_plan_is_noticed() -> None:
    """Right before the first write; nothing is written, also not in the ledger."""
    world = World(1)
    plan, ledger = world.plan(), world.domain().ledger
    world.host.add_image("/images/clone.qcow2", backing=world.own)
    world.host.add_domain("clone", {})
    world.host.attach_disk("clone", "vda", path="/images/clone.qcow2")
    before = world.host.images()
    with pytest.raises(StepError, match="clone") as caught:
        Executor(world.host, None).run(plan)
    assert isinstance(caught.value.__cause__, SharedBaseError)
    assert f"vda: {world.chain()[0]}" in caught.value.state
    kept = {path: image for path, image in before.items() if "vda" in path.name}
    assert {path: world.host.images()[path] for path in kept} == kept
    assert world.domain().ledger.run == ledger.run


def test_a_job_that_somebody_began_since_the_plan_is_not_taken_for_ours() -> None:
    """Nothing is written, also not in the ledger: a recovery would pivot it."""
    world = World(1)
    plan, ledger = world.plan(), world.domain().ledger
    chain = world.chain()
    world.host.leave_job(
        "web1", CommitImages("vda", chain[-1], chain[0], pivot=True, leaves=chain[-1:])
    )
    with pytest.raises(StepError, match="which is not ours") as caught:
        Executor(world.host, None).run(plan)
    assert isinstance(caught.value.__cause__, DomainBusyError)
    assert world.domain().ledger.run == ledger.run
    assert world.domain().disk("vda").block_job == "active commit"
    assert world.chain() == chain


def test_what_a_recovery_still_has_to_do_outlives_a_consolidation() -> None:
    """A thaw, or a header that waits until the domain is off."""
    for run in (
        Run("20261124T040000Z", "store", RunPhase.INTENT, frozen=True),
        Run("-", "-", RunPhase.CONSOLIDATING),
    ):
        world = World(1)
        world.host.write_ledger(world.uuid, evolve(world.domain().ledger, run=run))
        world.run()
        assert world.domain().ledger.run == run


def test_a_backup_spares_a_base_that_another_domain_uses() -> None:
    """With a warning; the point is published, the other disk is consolidated."""
    world = World(1)
    world.host.add_image("/images/clone.qcow2", backing=world.own)
    world.host.add_domain("clone", {})
    world.host.attach_disk("clone", "vda", path="/images/clone.qcow2")
    report = world.backup(consolidate=True)
    assert report.point is not None
    assert any("vda was not consolidated" in w and "clone" in w for w in report.warnings)
    assert (len(world.chain("vda")), len(world.chain("vdb"))) == (4, 3)
    world.every_point_is_right()


def test_one_disk_that_fails_leaves_the_others_right() -> None:
    """The first error is raised at the end; the failed disk keeps its chain and its proof."""
    world = World(1)
    plan = world.plan()
    before = world.chain("vda")
    world.host.fail_at(
        next(n for n, call in enumerate(calls_of(World(1)), 1) if call == "run_block_job"),
        BlockJobError(reason="No space left on device"),
    )
    with pytest.raises(StepError, match="No space left"):
        Executor(world.host, None).run(plan)
    assert world.chain("vda") == before
    assert world.chain("vdb") == (world.chain("vdb")[0], TEMPLATE)
    assert world.domain().ledger.run is None
    report = world.backup()
    assert report.point is not None
    assert {disk.target: str(disk.kind) for disk in report.point.disks} == {
        "vda": "increment",
        "vdb": "full",
    }
    world.every_point_is_right()


def test_a_second_disk_that_fails_is_a_warning_beside_the_first() -> None:
    """Both are told."""
    world = World(1)
    plan = world.plan()
    number = calls_of(World(1)).index("image_uses") + 1
    world.host.fail_at(number, LibvirtError(reason="gone", code=38), lasting=True)
    with pytest.raises(StepError, match="gone") as caught:
        Executor(world.host, None).run(plan)
    assert "libvirt does not answer" in caught.value.state


def test_what_a_failed_job_leaves_behind_stays_in_the_ledger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest that is suspended still: a recovery lets it go on, and a backup begins with one."""
    world = World(1)
    real = world.host.run_block_job

    def fail(uuid: str, job: CommitImages, on_event: OnEvent, cancel: CancelToken) -> None:
        if job.target != "vda":  # the other disk's turn comes all the same
            real(uuid, job, on_event, cancel)
            return
        ledger = world.domain().ledger
        assert ledger.run is not None
        world.host.write_ledger(uuid, evolve(ledger, run=evolve(ledger.run, suspended=True)))
        world.host.pause(uuid)
        raise LibvirtError(reason="gone", code=38)

    monkeypatch.setattr(world.host, "run_block_job", fail)
    with pytest.raises(StepError, match="gone"):
        world.run()
    assert world.chain("vdb") == (world.chain("vdb")[0], TEMPLATE)
    runs = (each.run for each in world.host.ledgers("web1"))
    marks = [each.suspended for each in runs if each is not None]
    assert marks == sorted(marks)  # once it is there, no ledger is without it
    run = world.domain().ledger.run
    assert run is not None
    assert (run.phase, run.suspended) == (RunPhase.CONSOLIDATING, True)


def test_a_job_that_outlives_its_run_is_left_to_a_recovery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Libvirt was away; the job goes on, and the ledger says that it is ours."""
    world = World(1)

    def fail(uuid: str, job: CommitImages, *_: object) -> None:
        world.host.leave_job(uuid, job)
        raise LibvirtError(reason="gone", code=38)

    monkeypatch.setattr(world.host, "run_block_job", fail)
    with pytest.raises(StepError, match="gone"):
        world.run(ConsolidationPolicy(disks=("vda",)))
    plan = plan_recovery(world.domain(), None, now=world.host.now)
    assert [type(step) for step in plan.steps] == [FinishBlockJob]
    Executor(world.host, None).run(plan)
    assert world.chain() == (world.own, TEMPLATE)


def test_an_overlay_that_left_the_ledger_is_not_deleted() -> None:
    """Only what the ledger has is ours."""
    world = World(1)
    plan = world.plan()
    emptied = evolve(plan, expects=evolve(plan.expects, ledger=None))
    world.host.write_ledger(world.uuid, Ledger())
    with pytest.raises(StepError, match="no longer ours"):
        Executor(world.host, None).run(emptied)
    assert len(world.chain()) == 3


@pytest.mark.parametrize("keep_overlay", [False, True])
@pytest.mark.parametrize("method", list(Method))
def test_a_job_that_says_it_is_done_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, method: Method, *, keep_overlay: bool
) -> None:
    """The chain is read again, and as it is not what the job should leave, nothing is deleted."""
    world = World(2)
    plan = world.plan(ConsolidationPolicy(method=method, keep_overlay=keep_overlay))
    before = world.chain()
    monkeypatch.setattr(FakeHost, "run_block_job", lambda *_: None)
    with pytest.raises(StepError, match="the chain is another one"):
        Executor(world.host, None).run(plan)
    assert world.chain() == before
    assert "delete_image" not in world.host.calls
    run = world.domain().ledger.run
    assert run is not None
    assert run.phase is RunPhase.CONSOLIDATING


def calls_of(world: World) -> list[str]:
    """Return the calls of a consolidation."""
    plan = world.plan()
    begin = len(world.host.calls)
    Executor(world.host, None).run(plan)
    return world.host.calls[begin:]


# -- off -----------------------------------------------------------------------------------------


def test_a_domain_that_is_off_is_committed_off_line() -> None:
    """All overlays go, and the definition names the disk's own image."""
    world = World(2)
    world.host.shut_off("web1")
    active, frozen, own, template = world.chain()
    identity = world.host.images()[active][0]
    part = parts(world.plan())["vda"]
    assert part.job == CommitOffline("vda", own, "qcow2", active, identity, (own, template))
    assert part.overlays == (active, frozen)
    assert "off-line" in str(world.plan())
    world.run()
    assert world.chain() == (own, template)
    assert world.domain().ledger.overlays == ()
    world.every_point_is_right()


def test_a_domain_that_is_off_takes_a_full_commit_only() -> None:
    """No pull, and no rolling form."""
    world = World(1)
    world.host.shut_off("web1")
    for policy in (PULL, ROLLING):
        with pytest.raises(PolicyError, match="off"):
            world.plan(policy)


def test_an_active_layer_without_an_identity_is_refused() -> None:
    """It could not be told from one that was written meanwhile."""
    world = World(1)
    world.host.shut_off("web1")
    domain = world.domain()
    chain = domain.disk("vda").chain
    assert chain is not None
    blind = evolve(chain, images=(evolve(chain.active, identity=None), *chain.images[1:]))
    disks = (evolve(domain.disk("vda"), chain=blind), domain.disk("vdb"))
    with pytest.raises(ChainError, match="cannot be read"):
        plan_consolidation(evolve(domain, disks=disks))


def test_a_domain_that_starts_meanwhile_keeps_its_overlay() -> None:
    """The fake refuses as the real one does."""
    world = World(1)
    world.host.shut_off("web1")
    part = parts(world.plan())["vda"]
    assert isinstance(part.job, CommitOffline)
    world.host.start("web1")
    with pytest.raises(DomainBusyError):
        world.host.commit_offline(world.uuid, part.job, ignore_events, CancelToken())


def test_a_pull_names_the_images_that_it_leaves_behind() -> None:
    """The disk's own image is not ours to delete; the rolling form and a commit leave none."""
    world = World(points=2)
    own = world.host.read_domain("web1").disk("vda").chain
    assert own is not None
    plan = world.plan(PULL)
    left = [image.path for image in own if ".bimg-" not in image.path.name]
    assert left[-1] == TEMPLATE
    assert plan.warnings[0] == (
        f"vda: {left[0]} is no part of the disk any more; it is left for you to delete"
    )
    assert len(plan.warnings) == 2
    assert plan.warnings[0] in str(plan)
    assert world.plan(ConsolidationPolicy()).warnings == ()
    assert world.plan(evolve(PULL, keep_overlay=True)).warnings == ()
