"""Facts about the plan of a backup of a domain that is off."""

from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import (
    ChainError,
    DomainBusyError,
    DomainStateError,
    PolicyError,
    RequirementError,
    StalePlanError,
    StepError,
    UnsupportedDiskError,
)
from fibackup.host.executor import Executor
from fibackup.model.domain import Disk, Domain, DomainState
from fibackup.model.point import Consistency, DiskKind, RestorePoint
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.steps import ConfirmOff, InParallel, Plan, PublishPoint, SaveDomainConfig
from fibackup.testing import Content, FakeHost, FakeStore


class World:
    """A domain that is off, with two disks, and an empty store."""

    def __init__(self, *, template: str | None = None) -> None:
        """Make both."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {0: 2}}, template=template)
        self.host.shut_off("web1")
        self.store = FakeStore(self.host)
        self.seen: dict[str, dict[str, Content]] = {}

    def plan(self, policy: BackupPolicy | None = None) -> Plan:
        """Plan the next point."""
        history = self.store.read_history(self.uuid)
        domain = self.host.read_domain("web1")
        return plan_backup(domain, history, now=self.host.now, policy=policy)

    def backup(self, policy: BackupPolicy | None = None) -> RestorePoint:
        """Take the next point, and keep what the disks held."""
        point = Executor(self.host, self.store).run(self.plan(policy)).point
        assert point is not None
        self.seen[point.id] = {
            disk.target: self.host.guest_sees("web1", disk.target) for disk in point.disks
        }
        return point

    def active(self, target: str) -> PurePosixPath:
        """Return the active layer of a disk."""
        chain = self.host.read_domain("web1").disk(target).chain
        assert chain is not None
        return chain.active.path

    def write(self, target: str, cluster: int, value: int) -> None:
        """Start the domain, write, shut it off."""
        self.host.start("web1")
        self.host.write("web1", target, cluster, value)
        self.host.shut_off("web1")

    def restores(self) -> None:
        """Compare every point with what the disks held."""
        for point, disks in self.seen.items():
            for target, content in disks.items():
                assert self.store.restore(self.uuid, point, target) == content


def kinds(point: RestorePoint) -> list[tuple[DiskKind, str | None, int]]:
    """Return kind, parent and number of new images of each disk."""
    return [(disk.kind, disk.parent, len(disk.images)) for disk in point.disks]


def test_the_steps_touch_nothing_of_the_domain() -> None:
    """XML, copies, a last look, the manifest; no ledger and no snapshot."""
    plan = World().plan()
    assert [type(step) for step in plan.steps] == [
        SaveDomainConfig,
        InParallel,
        ConfirmOff,
        PublishPoint,
    ]
    assert plan.expects.states == (DomainState.SHUTOFF,)
    assert plan.expects.absent == ()
    assert plan.expects.space_bytes > 0


def test_the_first_point_is_a_full() -> None:
    """Of every disk, labelled as taken off line, and nothing of the domain changes."""
    world = World()
    before = world.host.images()
    point = world.backup()
    assert kinds(point) == [(DiskKind.FULL, None, 1)] * 2
    assert point.consistency is Consistency.OFFLINE
    assert (world.host.images(), world.host.ledgers("web1"), world.host.moments) == (before, (), [])
    world.restores()


def test_what_the_store_has_lost_is_warned_of() -> None:
    """As for a running domain: the points that came from it, and each manifest that is gone."""
    world = World()
    world.host.start("web1")
    first = world.backup()
    world.host.shut_off("web1")
    assert world.plan().warnings == ()
    world.store.forget(world.uuid, first.id)
    assert f"lacks point {first.id}" in world.plan().warnings[0]
    empty = world.store.read_history(world.uuid)
    damaged = evolve(empty, lost=(first.id,), unreadable=(("x.json", "not JSON"),))
    plan = plan_backup(world.host.read_domain("web1"), damaged, now=world.host.now)
    assert plan.warnings == (
        "the manifest x.json is damaged: not JSON",
        f"the manifest of point {first.id} is gone",
    )
    seals = (("points.sha256", "no seals"),)
    blind = evolve(empty, damaged_records=seals, orphans=frozenset({"vda/x.qcow2"}))
    plan = plan_backup(world.host.read_domain("web1"), blind, now=world.host.now)
    assert plan.warnings[-1] == (
        "points.sha256 is damaged (no seals): it cannot be told whether a point was lost; the next "
        "backup or prune writes it anew; of no point there is: vda/x.qcow2"
    )
    blind = evolve(blind, orphans=frozenset())
    plan = plan_backup(world.host.read_domain("web1"), blind, now=world.host.now)
    assert plan.warnings[-1].endswith("writes it anew")


def test_nothing_is_copied_when_nothing_was_written() -> None:
    """The next point says that each disk is as at the first, and names no image."""
    world = World()
    first = world.backup()
    plan = world.plan()
    second, third = world.backup(), world.backup()
    assert plan.expects.space_bytes == 0
    assert f"nothing was written since point {first.id}" in str(plan)
    assert kinds(second) == [(DiskKind.INCREMENT, first.id, 0)] * 2
    assert kinds(third) == [(DiskKind.INCREMENT, first.id, 0)] * 2
    assert len(world.store.image_names(world.uuid)) == 2
    world.restores()


def test_only_the_disk_that_was_written_is_copied() -> None:
    """The other one is as at the point before."""
    world = World()
    first = world.backup()
    world.write("vdb", 3, 9)
    assert "vdb  full: the disk has no overlay yet that tells what was written" in str(world.plan())
    second = world.backup()
    assert kinds(second) == [(DiskKind.INCREMENT, first.id, 0), (DiskKind.FULL, None, 1)]
    world.restores()


def test_an_overlay_that_was_written_is_an_increment_on_its_parent() -> None:
    """After points on line: twice off line with writes between, both lie on the same point."""
    world = World()
    world.host.start("web1")
    online = world.backup()
    world.write("vda", 1, 7)
    one = world.backup()
    world.write("vda", 1, 8)
    two = world.backup()
    for point in (one, two):
        assert point.disk("vda").parent == online.id
        assert len(point.disk("vda").images) == 1
    assert two.disk("vda").reason == f"written since point {online.id}"
    assert two.disk("vdb").images == ()
    assert two.disk("vdb").parent == one.id
    world.restores()


def test_a_point_that_is_going_is_not_named_as_the_same() -> None:
    """A killed prune was taking it away; an older one with the same images will do."""
    world = World()
    first, second = world.backup(), world.backup(BackupPolicy(full=True))
    history = evolve(world.store.read_history(world.uuid), going=frozenset({second.id}))
    domain = world.host.read_domain("web1")
    plan = plan_backup(domain, history, now=world.host.now)
    assert [decision.parent for decision in plan.decisions] == [first.id, first.id]
    history = evolve(history, going=frozenset({first.id, second.id}))
    plan = plan_backup(domain, history, now=world.host.now)
    assert {decision.kind for decision in plan.decisions} == {DiskKind.FULL}


def test_back_on_line_there_is_no_needless_full() -> None:
    """The next point of the running domain is an increment beside those that were taken off."""
    world = World()
    world.host.start("web1")
    online = world.backup()
    world.write("vda", 1, 7)
    world.backup()
    world.host.start("web1")
    world.host.write("web1", "vda", 2, 8)
    last = world.backup()
    assert kinds(last) == [(DiskKind.INCREMENT, online.id, 1)] * 2
    world.host.shut_off("web1")
    world.backup()
    world.restores()


def test_a_full_is_a_full_when_asked_for() -> None:
    """Even where nothing was written."""
    world = World()
    world.backup()
    point = world.backup(BackupPolicy(full=True))
    assert kinds(point) == [(DiskKind.FULL, None, 1)] * 2
    assert point.disk("vda").reason == "a full was asked for"
    world.restores()


@pytest.mark.parametrize("harm", ["lose", "touch", "replace"])
def test_any_doubt_is_a_copy(harm: str) -> None:
    """A lost image in the store, a moved time or another file: the disk is copied again."""
    world = World()
    first = world.backup()
    match harm:
        case "lose":
            world.store.lose(world.uuid, "vda", first.disk("vda").images[0].name)
            del world.seen[first.id]
        case "touch":
            world.host.touch(world.active("vda"))
        case _:
            world.host.replace_disk("web1", "vda", {0: 5}, same_path=True)
    point = world.backup()
    assert point.disk("vda").kind is DiskKind.FULL
    assert len(point.disk("vda").images) == 1
    world.restores()


def test_a_template_underneath_is_stored_once() -> None:
    """It is part of the full, and of no later point."""
    world = World(template="/images/template.qcow2")
    first = world.backup()
    assert [len(disk.images) for disk in first.disks] == [2, 2]
    assert [len(disk.images) for disk in world.backup().disks] == [0, 0]
    world.restores()


def test_excluded_disks_are_listed() -> None:
    """With the reason, in the plan and in the point."""
    world = World()
    plan = world.plan(BackupPolicy(exclude=("vdb",)))
    assert [(each.target, each.reason) for each in plan.decisions][1:] == [("vdb", "excluded")]
    point = world.backup(BackupPolicy(exclude=("vdb",)))
    assert point.skipped == (("vdb", "excluded"),)
    assert [disk.target for disk in world.backup().disks if disk.images] == ["vdb"]


def test_what_an_aborted_run_has_copied_is_not_copied_again() -> None:
    """The next plan adopts the image by its receipt."""
    world = World()
    plan = world.plan()
    world.host.fail_at(len(world.host.calls) and _calls_until(world, plan, "publish"))
    with pytest.raises(StepError) as caught:
        Executor(world.host, world.store).run(plan)
    assert "no snapshot was taken" in caught.value.state
    again = world.plan()
    assert len(again.expects.receipts) == 2
    assert again.expects.space_bytes == 0
    world.backup()
    world.restores()


def _calls_until(world: World, plan: Plan, name: str) -> int:
    """Return how many calls a run of *plan* makes up to the first one of this name."""
    twin = World()
    twin.host.now = world.host.now
    before = len(twin.host.calls)
    Executor(twin.host, twin.store).run(plan)
    return twin.host.calls[before:].index(name) + 1


def test_a_start_while_it_is_copied_spoils_the_point() -> None:
    """The domain must be off at the end still, with its images as they were."""
    world = World()
    world.store.while_copying = lambda _: world.host.start("web1")
    with pytest.raises(StepError) as caught:
        world.backup()
    assert isinstance(caught.value.__cause__, DomainBusyError)
    assert world.store.read_history(world.uuid).points == ()


def test_a_write_while_it_is_copied_spoils_the_point() -> None:
    """On and off again is noticed by the images."""
    world = World()
    seen: list[object] = []

    def once(_: object) -> None:
        if not seen:
            seen.append(1)
            world.write("vda", 4, 4)

    world.store.while_copying = once
    with pytest.raises(StepError) as caught:
        world.backup()
    assert isinstance(caught.value.__cause__, DomainBusyError)
    assert world.store.read_history(world.uuid).points == ()
    world.backup()
    world.restores()


def test_a_domain_that_was_started_since_makes_the_plan_stale() -> None:
    """And the other way round; nothing is touched."""
    world = World()
    plan = world.plan()
    world.host.start("web1")
    with pytest.raises(StalePlanError):
        Executor(world.host, world.store).run(plan)
    plan = world.plan()
    world.host.shut_off("web1")
    with pytest.raises(StalePlanError):
        Executor(world.host, world.store).run(plan)
    assert world.host.moments == []


def test_a_managed_save_is_refused() -> None:
    """The guest's memory belongs to the disks as they are."""
    world = World()
    world.host.set_state("web1", DomainState.SHUTOFF, managed_save=True)
    with pytest.raises(DomainStateError, match="managed-save"):
        world.plan()


def test_off_is_refused_when_so_wished() -> None:
    """With the command that starts it."""
    with pytest.raises(DomainStateError, match="virsh start"):
        World().plan(BackupPolicy(offline=False))


def test_what_cannot_be_copied_is_refused() -> None:
    """A network disk, a chain that contradicts its headers, and nothing left."""
    world = World()
    world.host.set_disk("web1", Disk("vdn", source_type="network"))
    with pytest.raises(UnsupportedDiskError):
        world.plan()
    assert "vdn" in world.plan(BackupPolicy(skip_unsupported=True)).warnings[0]
    with pytest.raises(PolicyError):
        world.plan(BackupPolicy(exclude=("vda", "vdb", "vdn")))
    world = World(template="/images/template.qcow2")
    under = world.host.add_image("/images/under.qcow2")
    world.host.add_image("/images/template.qcow2", image_format="raw", backing=under)
    with pytest.raises(ChainError, match="raw"):
        world.plan()


def test_a_frozen_image_that_a_process_writes_is_refused() -> None:
    """Nothing tells when it is done, so there is no moment to copy; running or off."""
    world = World()
    for domain in (world.host.read_domain("web1"), _running(world)):
        written = evolve(domain, disks=tuple(_written(disk) for disk in domain.disks))
        with pytest.raises(DomainStateError, match="open for writing"):
            plan_backup(written, world.store.read_history(world.uuid), now=world.host.now)


def _running(world: World) -> Domain:
    """Return the domain, running, on two images."""
    world.host.start("web1")
    for target in ("vda", "vdb"):
        world.host.foreign_snapshot("web1", target)
    return world.host.read_domain("web1")


def _written(disk: Disk) -> Disk:
    """Return the disk, the lowest image of which is being written."""
    assert disk.chain is not None
    images = disk.chain.images
    return evolve(
        disk,
        chain=evolve(disk.chain, images=(*images[:-1], evolve(images[-1], being_written=True))),
    )


@pytest.mark.parametrize("running", [True, False])
def test_a_compressed_point_says_so_in_every_copy(running: bool) -> None:  # noqa: FBT001
    """In the plan and in its words; a compressed and another image lie in one chain."""
    world = World()
    if running:
        world.host.start("web1")
    policy = BackupPolicy(compress=True)
    plan = world.plan(policy)
    assert [copy.compress for copy in plan.copies] == [True, True]
    assert "vda: compress /images/web1-vda.qcow2" in str(plan)
    assert Plan.from_json(plan.to_json()) == plan
    first = world.backup(policy)
    if not running:
        world.host.start("web1")
    world.host.write("web1", "vda", 1, 9)
    second = world.backup()
    assert not any(copy.compress for copy in world.plan().copies)
    for point in (first, second):
        assert world.store.restore(world.uuid, point.id, "vda") == world.seen[point.id]["vda"]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("store", "caller", "compressed"),
    [
        (True, None, True),
        (True, False, False),
        (True, True, True),
        (False, None, False),
        (False, True, True),
    ],
)
def test_a_store_says_whether_points_are_compressed(
    *, running: bool, store: bool, caller: bool | None, compressed: bool
) -> None:
    """A caller who says otherwise wins; one who says nothing leaves it to the store."""
    world = World()
    world.store.compress = store
    if running:
        world.host.start("web1")
    plan = world.plan(BackupPolicy(compress=caller))
    assert plan.copies
    assert {copy.compress for copy in plan.copies} == {compressed}


def test_a_store_that_cannot_compress_refuses_first() -> None:
    """Nothing is written, neither there nor to the domain."""
    world = World()
    world.store.can_compress = False
    before = world.host.read_domain("web1")
    with pytest.raises(RequirementError, match="zstd"):
        world.backup(BackupPolicy(compress=True))
    assert world.host.read_domain("web1") == before
    assert world.store.image_names(world.uuid) == ()
    assert world.backup().disk("vda").images
