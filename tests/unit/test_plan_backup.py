"""Facts about the plan of a backup."""

from datetime import datetime, timedelta
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import DomainStateError, ModelError, RequirementError, StepError
from fibackup.host.executor import Executor
from fibackup.model.domain import Disk, DomainState
from fibackup.model.ledger import Ledger, Run, RunPhase
from fibackup.model.point import DiskKind, Versions
from fibackup.plan import backup
from fibackup.plan.backup import DEEP_CHAIN, plan_backup
from fibackup.plan.layers import outlived
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.steps import (
    InParallel,
    Plan,
    PublishPoint,
    SaveDomainConfig,
    TakeSnapshot,
    WhileFrozen,
    WriteLedger,
)
from fibackup.testing import AgentState, FakeHost, FakeStore
from hypervisor import histories

POINT = "20261124T040000Z"


class World:
    """A domain with two disks and an empty store."""

    def __init__(self, disks: tuple[str, ...] = ("vda", "vdb")) -> None:
        """Make both."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {target: {0: 1} for target in disks})
        self.store = FakeStore(self.host)

    def plan(self, policy: BackupPolicy | None = None, now: datetime | None = None) -> Plan:
        """Plan the next point."""
        history = self.store.read_history(self.uuid)
        domain = self.host.read_domain("web1")
        return plan_backup(domain, history, now=now or self.host.now, policy=policy)

    def backup(self, policy: BackupPolicy | None = None) -> Plan:
        """Take the next point."""
        plan = self.plan(policy)
        Executor(self.host, self.store).run(plan)
        return plan


def publish_of(plan: Plan) -> PublishPoint:
    """Return the step that publishes."""
    return next(step for step in plan.steps if isinstance(step, PublishPoint))


def test_a_point_is_published_after_everything_that_it_names() -> None:
    """Intent, snapshot, ledger, XML and copies, manifest, ledger."""
    steps = World().plan().steps
    storing = (InParallel, SaveDomainConfig)
    assert [type(step) for step in steps if not isinstance(step, storing)] == [
        WriteLedger,
        WhileFrozen,
        WriteLedger,
        PublishPoint,
        WriteLedger,
    ]
    kinds = [type(step) for step in steps]
    assert kinds.index(InParallel) < kinds.index(PublishPoint)
    assert kinds.index(SaveDomainConfig) < kinds.index(PublishPoint)


def test_disks_are_read_once_more_only_when_that_is_asked_for() -> None:
    """It costs a reading of each disk, so the dry run says so."""
    for asked in (False, True):
        plan = World().plan(BackupPolicy(content_hash=asked))
        assert publish_of(plan).content_hash is asked
        assert ("read each disk as a guest does" in str(plan)) is asked


def test_the_ledger_knows_of_a_run_before_it_begins_and_until_it_ends() -> None:
    """Intent, taken, nothing."""
    ledgers = [s.ledger for s in World().plan().steps if isinstance(s, WriteLedger)]
    assert ledgers[0].run == Run(POINT, FakeStore(FakeHost()).uuid, RunPhase.INTENT, frozen=True)
    assert ledgers[1].run == Run(POINT, FakeStore(FakeHost()).uuid, RunPhase.TAKEN)
    assert ledgers[2].run is None
    assert [store.point for store in ledgers[2].stores] == [POINT]


def test_all_chosen_disks_are_in_one_snapshot_and_all_others_are_excluded_by_name() -> None:
    """A disk that is not named would be snapshotted too."""
    world = World()
    world.host.set_disk("web1", Disk("sda", device="cdrom"))
    plan = world.plan(BackupPolicy(disks=("vdb",), quiesce=Quiesce.OFF))
    step = next(step for step in plan.steps if isinstance(step, TakeSnapshot))
    assert [new.target for new in step.snapshot.overlays] == ["vdb"]
    assert sorted(step.snapshot.excluded) == ["sda", "vda"]
    assert {d.target: d.kind for d in plan.decisions}["sda"] is None


def test_an_increment_copies_only_the_layer_that_was_frozen() -> None:
    """The image in the store lies on the one of the point before."""
    world = World(("vda",))
    world.backup()
    plan = world.backup()
    (copy,) = plan.copies
    assert (copy.backing, copy.identity) == (f"{POINT}.qcow2", None)
    assert publish_of(plan).disks[0].parent == POINT
    assert publish_of(plan).sequence == 2


@pytest.mark.parametrize(
    ("quiesce", "agent", "frozen", "said"),
    [
        (Quiesce.OFF, AgentState.CONNECTED, False, ""),
        (Quiesce.TRY, AgentState.CONNECTED, True, ""),
        (Quiesce.TRY, AgentState.ABSENT, False, "the guest agent is not connected"),
        (Quiesce.REQUIRE, AgentState.CONNECTED, True, ""),
    ],
)
def test_the_guest_is_frozen_when_it_is_wanted_and_possible(
    quiesce: Quiesce, agent: AgentState, *, frozen: bool, said: str
) -> None:
    """What could not be had is said, in the plan and in the point."""
    world = World()
    world.host.set_agent("web1", agent)
    plan = world.plan(BackupPolicy(quiesce=quiesce, freeze_timeout_seconds=7))
    steps = [step for step in plan.steps if isinstance(step, WhileFrozen)]
    assert bool(steps) is frozen
    assert all(step.timeout_seconds == 7 for step in steps)
    assert all(step.required is (quiesce is Quiesce.REQUIRE) for step in steps)
    assert said in publish_of(plan).consistency_detail
    assert any(said in warning for warning in plan.warnings) is bool(said)


@pytest.mark.parametrize("paused", [False, True])
def test_a_freeze_that_is_required_and_cannot_be_had_is_refused(*, paused: bool) -> None:
    """The agent is absent, or the domain is paused so that it cannot answer."""
    world = World()
    if paused:
        world.host.pause("web1")
    else:
        world.host.set_agent("web1", AgentState.ABSENT)
    with pytest.raises(DomainStateError, match="cannot be quiesced"):
        world.plan(BackupPolicy(quiesce=Quiesce.REQUIRE, allow_paused=True))


def test_a_paused_domain_is_backed_up_as_it_stands() -> None:
    """Without a freeze, and saying so."""
    world = World()
    world.host.pause("web1")
    plan = world.plan(BackupPolicy(allow_paused=True))
    assert not any(isinstance(step, WhileFrozen) for step in plan.steps)
    assert "paused" in publish_of(plan).consistency_detail


def test_the_state_is_checked_first() -> None:
    """A domain that is off is not looked at any further."""
    world = World()
    world.host.shut_off("web1")
    with pytest.raises(DomainStateError, match="shut off"):
        world.plan(policy=BackupPolicy(offline=False))


def test_a_naive_time_is_refused() -> None:
    """It would name another moment on another host."""
    with pytest.raises(ModelError, match="time zone"):
        World().plan(now=datetime(2026, 11, 24))  # noqa: DTZ001


def test_an_id_that_is_taken_is_passed_over() -> None:
    """By a point, by a file of the store, by an overlay, by the ledger or by an unfinished run."""
    world = World()
    start = world.host.now
    world.backup()
    assert world.plan(now=start).point == "20261124T040001Z"
    history = world.store.read_history(world.uuid)
    history = evolve(history, taken_ids=frozenset({"20261124T040001Z"}))
    domain = world.host.read_domain("web1")
    run = Run("20261124T040002Z", history.store)
    domain = evolve(domain, ledger=evolve(domain.ledger, run=run))
    assert plan_backup(domain, history, now=start).point == "20261124T040003Z"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("/i/disk.qcow2",), ("/i/disk.bimg-P",)),
        (("/i/disk.bimg-20200101T000000Z",), ("/i/disk.bimg-P",)),
        (("/i/disk",), ("/i/disk.bimg-P",)),
        (("/i/data.qcow2", "/i/data.img"), ("/i/data.bimg-P", "/i/data.img.bimg-P")),
        (("/i/data.qcow2", "/i/data"), ("/i/data.bimg-P", "/i/data-vdb.bimg-P")),
        (("/i/data.qcow2", "/j/data.qcow2"), ("/i/data.bimg-P", "/j/data.bimg-P")),
        (
            ("/i/data-vdc.x", "/i/data.x", "/i/data"),
            ("/i/data-vdc.bimg-P", "/i/data.bimg-P", "/i/data-vdc-vdc.bimg-P"),
        ),
    ],
)
def test_an_overlay_is_named_beside_the_active_layer(
    paths: tuple[str, ...], names: tuple[str, ...]
) -> None:
    """Its name begins with that of the disk's image; two disks never share one."""
    world = World(())
    for letter, path in zip("abc", paths, strict=False):
        world.host.attach_disk("web1", f"vd{letter}", path=path)
    overlays = world.plan().expects.absent
    assert [str(path).replace(POINT, "P") for path in overlays] == list(names)


def test_a_full_of_a_deep_chain_stores_every_image_of_it() -> None:
    """Base first, each on the one before, the top under the name of the point."""
    world = World(("vda",))
    world.host.foreign_snapshot("web1", "vda")
    plan = world.plan()
    names = [(copy.name, copy.backing) for copy in plan.copies]
    assert names == [(f"{POINT}-1.qcow2", None), (f"{POINT}.qcow2", f"{POINT}-1.qcow2")]
    assert plan.copies[0].identity is not None
    assert publish_of(plan).disks[0].images == (f"{POINT}.qcow2", f"{POINT}-1.qcow2")


def _until_publish() -> tuple[World, Plan]:
    world = World(("vda",))
    plan = world.plan()
    seen = len(world.host.calls)
    probe = World(("vda",))
    begin = len(probe.host.calls)
    probe.backup()
    number = probe.host.calls[begin:].index("publish") + 1 - (seen - begin)
    world.host.fail_at(number)
    with pytest.raises(StepError, match="publish"):
        Executor(world.host, world.store).run(plan)
    return world, plan


def test_a_run_that_failed_at_the_end_leaves_one_copy_to_make() -> None:
    """The receipt's image is adopted when path, format, identity and backing are the same."""
    world, failed = _until_publish()
    plan = world.plan()
    assert [str(copy.source) for copy in plan.copies] == [str(failed.expects.absent[0])]
    assert [image.name for image in publish_of(plan).disks[0].adopted] == [f"{failed.point}.qcow2"]
    assert plan.expects.receipts
    Executor(world.host, world.store).run(plan)
    seen = world.host.moment(world.uuid, plan.point).disks["vda"]
    assert world.store.restore(world.uuid, plan.point, "vda") == seen


def test_an_image_is_passed_over_when_the_last_two_points_of_its_disk_are_younger() -> None:
    """Not when a point needs it, and other disks do not count."""
    old, new, newer = (histories.point(number, histories.disk(number)) for number in (2, 3, 4))
    name = histories.image_name(1)
    assert outlived("vda", name, (new, newer))
    assert outlived("vda", name, (old, new, newer))
    assert not outlived("vda", name, (newer,))
    assert not outlived("vdb", name, (new, newer))
    assert not outlived("vda", histories.image_name(3), (old, new, newer))
    assert not outlived("vda", f"{new.id}-7.qcow2", (old, new, newer))


def test_an_image_that_changed_after_it_was_stored_is_copied_again() -> None:
    """Its identity is another."""
    world, failed = _until_publish()
    world.host.touch(failed.copies[0].source)
    plan = world.plan()
    assert len(plan.copies) == 2
    assert publish_of(plan).disks[0].adopted == ()


def test_a_raw_base_is_stored_by_its_declared_format() -> None:
    """The copy says raw; nothing is probed."""
    world = World(())
    world.host.attach_disk("web1", "vda", image_format="raw")
    assert world.plan().copies[0].format == "raw"


def test_a_deep_chain_is_warned_of() -> None:
    """Before libvirt refuses to start it."""
    world = World(("vda",))
    for _ in range(DEEP_CHAIN - 2):
        world.host.foreign_snapshot("web1", "vda")
    assert world.plan().warnings == ()
    world.host.foreign_snapshot("web1", "vda")
    assert "images deep: consolidate soon" in world.plan().warnings[0]


def test_a_deep_chain_in_the_store_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what makes it shorter; a full begins a new one."""
    monkeypatch.setattr(backup, "DEEP_STORED_CHAIN", 3)
    world = World(("vda",))
    rolling = BackupPolicy(consolidate=True)
    for _ in range(3):
        assert world.backup(rolling).warnings == ()
    (warning,) = world.plan().warnings
    assert "disk vda will lie on 3 images in the store: prune" in warning
    assert "--full" in warning
    assert world.backup(BackupPolicy(full=True, consolidate=True)).warnings == ()
    assert world.plan().warnings == ()


def test_a_store_that_has_lost_what_it_got_is_warned_of_once() -> None:
    """A new full alone would hide that every older point is gone."""
    world = World(("vda",))
    first = publish_of(world.backup()).point
    assert world.plan().warnings == ()
    world.store.forget(world.uuid, first)
    assert f"lacks point {first}" in world.plan().warnings[0]
    world.host.now += timedelta(days=1)
    world.backup()
    assert world.plan().warnings == ()


@pytest.mark.parametrize("known", ["unreadable", "lost"])
def test_a_lost_manifest_is_no_lost_store(known: str) -> None:
    """It has a warning of its own."""
    world = World(("vda",))
    first = publish_of(world.backup()).point
    world.store.forget(world.uuid, first)
    empty = world.store.read_history(world.uuid)
    there = (
        evolve(empty, lost=(first,))
        if known == "lost"
        else evolve(empty, unreadable=((f"{first}.json", "damaged"),))
    )
    plan = plan_backup(world.host.read_domain("web1"), there, now=world.host.now)
    assert not [each for each in plan.warnings if "lacks" in each]


def test_a_chain_that_this_libvirt_would_not_start_is_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused before the first step; a domain that is off gets no overlay, and its point."""
    world = World(("vda",))
    monkeypatch.setattr(
        FakeHost, "versions", lambda _: Versions(fibackup="0", libvirt="11.0.0", qemu="9.0.0")
    )
    for _ in range(23):
        world.host.foreign_snapshot("web1", "vda")
    Executor(world.host, world.store).run(world.plan())
    calls = len(world.host.calls)
    with pytest.raises(RequirementError, match="26 images"):
        Executor(world.host, world.store).run(world.plan())
    assert not {"write_ledger", "take_snapshot"} & set(world.host.calls[calls:])
    world.host.shut_off("web1")
    Executor(world.host, world.store).run(world.plan())


def test_a_definition_that_names_another_image_is_warned_of() -> None:
    """The next start would go back to it; a transient domain has no definition."""
    world = World(("vda",))
    domain = world.host.read_domain("web1")
    disk = evolve(domain.disks[0], config_source="/images/old.qcow2")
    domain = evolve(domain, disks=(disk,))
    history = world.store.read_history(world.uuid)
    (warning,) = plan_backup(domain, history, now=world.host.now).warnings
    assert "the persistent definition names /images/old.qcow2" in warning
    transient = evolve(domain, persistent=False)
    assert plan_backup(transient, history, now=world.host.now).warnings == ()


def test_a_disk_that_only_the_running_guest_has_is_warned_of() -> None:
    """It is in the point, and not in the XML that a domain would be defined from."""
    world = World(("vda", "vdb"))
    domain = world.host.read_domain("web1")
    domain = evolve(domain, disks=(domain.disks[0], evolve(domain.disks[1], config_source=None)))
    history = world.store.read_history(world.uuid)
    (warning,) = plan_backup(domain, history, now=world.host.now).warnings
    assert "disk vdb is not in the persistent definition" in warning
    transient = evolve(domain, persistent=False)
    assert plan_backup(transient, history, now=world.host.now).warnings == ()


def test_a_plan_expects_what_was_observed() -> None:
    """Another chain, another ledger or a disk that is gone makes it stale."""
    world = World()
    plan = world.plan()
    domain = world.host.read_domain("web1")
    assert plan.expects.difference(domain) is None
    other = evolve(domain, ledger=Ledger(run=Run("x", "y")))
    assert "ledger" in str(plan.expects.difference(other))
    assert "vda" in str(plan.expects.difference(evolve(domain, disks=domain.disks[1:])))
    world.host.foreign_snapshot("web1", "vdb")
    assert "vdb" in str(plan.expects.difference(world.host.read_domain("web1")))


def test_disks_that_were_not_chosen_keep_their_place_in_the_ledger() -> None:
    """A point of one disk does not cost the other its increments."""
    world = World()
    world.host.set_disk("web1", Disk("sda", device="cdrom"))
    world.backup()
    world.backup(BackupPolicy(disks=("vda",)))
    kinds = {d.target: d.kind for d in world.plan().decisions if d.kind is not None}
    assert kinds == {"vda": DiskKind.INCREMENT, "vdb": DiskKind.INCREMENT}


def test_a_ledger_that_forgets_or_loops_keeps_no_proof() -> None:
    """An overlay whose images are not all in the ledger is forgotten with the next point."""
    world = World(("vda",))
    world.backup()
    domain = world.host.read_domain("web1")
    (overlay,) = domain.ledger.overlays
    strange = evolve(overlay, path=PurePosixPath("/images/web1-vda.qcow2"))
    loop = evolve(domain.ledger.images[0], path=overlay.below, backing=overlay.below)
    round_and_round = evolve(loop, path=PurePosixPath("/x"), backing=PurePosixPath("/x"))
    looped = evolve(overlay, below=round_and_round.path)
    history = world.store.read_history(world.uuid)
    for first, images in ((overlay, ()), (overlay, (loop,)), (looped, (round_and_round,))):
        ledger = Ledger(overlays=(first, strange), images=images)
        later = world.host.now + timedelta(seconds=9)
        plan = plan_backup(evolve(domain, ledger=ledger), history, now=later)
        written = [step.ledger for step in plan.steps if isinstance(step, WriteLedger)][-1]
        assert first not in written.overlays


def test_the_same_facts_give_the_same_plan() -> None:
    """Planning is pure, and a plan survives its JSON form."""
    world = World()
    world.backup()
    assert world.plan() == world.plan()
    assert Plan.from_json(world.plan().to_json()) == world.plan()


def test_a_domain_in_any_state_but_off_can_have_been_running() -> None:
    """Blocked counts as running for the whole plan."""
    world = World()
    world.host.set_state("web1", DomainState.BLOCKED)
    assert world.plan().steps
