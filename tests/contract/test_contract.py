"""What `Host` and `PointStore` promise; the fakes and the real ones keep the same promises."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

import pytest

from fibackup.errors import (
    DomainBusyError,
    LibvirtError,
    LockedError,
    NoSuchDomainError,
    StalePlanError,
    StepError,
    StoreError,
)
from fibackup.host.cancel import CancelToken
from fibackup.host.events import ignore_events
from fibackup.host.executor import Executor
from fibackup.model.chain import BackingChain, FileIdentity
from fibackup.model.domain import DomainState
from fibackup.model.ledger import FrozenImage, KnownStore, Ledger, Overlay, Run, RunPhase
from fibackup.model.point import DiskKind, Receipt
from fibackup.model.snapshot import NewOverlay, Snapshot
from fibackup.plan.consolidate import ConsolidationPolicy, Method, plan_consolidation
from fibackup.plan.steps import CommitOffline, CopyImage, EachDisk, MendHeader

if TYPE_CHECKING:
    from contract.conftest import Points, World
    from fibackup.host.api import PointStore


class FailsOnce:
    """A store whose method fails the first time that it is called, before anything happens."""

    def __init__(self, store: PointStore, method: str) -> None:
        """Stand before *store*."""
        self._store = store
        self._method = method

    def __getattr__(self, name: str) -> object:
        """Return the store's own, once not."""
        if name != self._method:
            return cast("object", getattr(self._store, name))
        self._method = ""
        return self._fail

    def _fail(self, *_: object) -> None:
        raise StoreError(reason="it failed, as it should")


class LosesOnce:
    """The store of a world that loses a file right before a point is published."""

    def __init__(self, world: World, file: str) -> None:
        """Stand before the store."""
        self._world = world
        self._file = file

    def __getattr__(self, name: str) -> object:
        """Return the store's own."""
        if name == "publish":
            self._world.lose(self._file)
        return cast("object", getattr(self._world.store, name))


def chain(world: World, target: str = "vda") -> BackingChain:
    """Return the live chain of a disk."""
    found = world.host.read_domain(world.uuid).disk(target).chain
    assert found is not None
    return found


def test_a_domain_is_read_by_name_and_by_uuid(world: World) -> None:
    """With its disks, their chains, and what each image is."""
    domain = world.host.read_domain(world.uuid)
    assert world.host.read_domain(domain.name) == domain
    assert [disk.target for disk in domain.disks] == ["vda", "vdb"]
    image = chain(world).active
    assert (chain(world).depth, image.format, image.header_backing) == (1, "qcow2", "")
    assert image.identity is not None
    assert image.virtual_size_bytes
    assert image.problem is None


@pytest.mark.parametrize("name", ["no-such-domain", "00000000-0000-4000-8000-00000000dead"])
def test_a_domain_that_is_not_there_is_an_error_of_its_own(world: World, name: str) -> None:
    """By name and by UUID."""
    with pytest.raises(NoSuchDomainError):
        world.host.read_domain(name)


def test_a_ledger_comes_back_as_it_was_written(world: World) -> None:
    """All of it, and an empty one too."""
    path, below = PurePosixPath("/i/a b\u00fc.bimg-X"), PurePosixPath("/i/a&<>.qcow2")
    ledger = Ledger(
        (Overlay("vda", path, below, "20261124T040000Z", "store", "a" * 64),),
        (
            FrozenImage(below, "raw", None, FileIdentity(1, 2, 3)),
            FrozenImage(path, "qcow2", below),
        ),
        (KnownStore("store", "/back up", "20261124T040000Z"),),
        Run("20261124T040000Z", "store", RunPhase.TAKEN, frozen=True),
    )
    for each in (ledger, Ledger()):
        world.host.write_ledger(world.uuid, each)
        assert world.host.read_domain(world.uuid).ledger == each


def test_a_ledger_survives_a_restart(world: World) -> None:
    """It is in the persistent definition as well."""
    ledger = Ledger(run=Run("20261124T040000Z", "store"))
    world.host.write_ledger(world.uuid, ledger)
    world.restart()
    assert world.host.read_domain(world.uuid).ledger == ledger


def test_the_configuration_is_the_domains_xml(world: World) -> None:
    """It names the domain."""
    assert world.uuid in world.host.domain_config(world.uuid)
    assert world.host.versions().libvirt


def test_a_path_is_occupied_when_something_is_there(world: World) -> None:
    """Only those that exist come back."""
    there = chain(world).active.path
    assert world.host.occupied((there, there.with_name("nothing"))) == (there,)


def test_a_snapshot_freezes_what_was_active(world: World) -> None:
    """The guest writes the new overlay; the old image lies under it and stays as it is."""
    before = chain(world)
    overlay = before.active.path.with_name("contract.bimg-one")
    snapshot = Snapshot("one", (NewOverlay("vda", before.active.path, overlay),), ("vdb",))
    time = world.host.take_snapshot(world.uuid, snapshot)
    frozen = chain(world).images[1]
    assert time.tzinfo is not None
    assert chain(world).paths == (overlay, before.active.path)
    world.write("vda", 0, 3)
    assert chain(world).images[1] == frozen
    assert chain(world, "vdb").depth == 1


def test_a_snapshot_that_cannot_be_taken_changes_nothing(world: World) -> None:
    """No disk gets an overlay when one cannot."""
    one, two = chain(world), chain(world, "vdb")
    snapshot = Snapshot(
        "bad",
        (
            NewOverlay("vda", one.active.path, one.active.path.with_name("fine.bimg-x")),
            NewOverlay("vdb", two.active.path, one.active.path),
        ),
    )
    with pytest.raises(LibvirtError):
        world.host.take_snapshot(world.uuid, snapshot)
    assert (chain(world).paths, chain(world, "vdb").paths) == (one.paths, two.paths)


def test_a_snapshot_that_names_other_disks_than_there_are_is_refused(world: World) -> None:
    """A disk that is not named would get an overlay too; nothing is changed."""
    before = chain(world)
    new = NewOverlay("vda", before.active.path, before.active.path.with_name("other.bimg-x"))
    for excluded, words in (((), "vdb was attached"), (("vdb", "vdz"), "vdz was detached")):
        with pytest.raises(StalePlanError, match=words):
            world.host.take_snapshot(world.uuid, Snapshot("other", (new,), excluded))
    assert (chain(world), chain(world, "vdb").depth) == (before, 1)


def test_every_point_brings_back_what_the_guest_had(world: World, points: Points) -> None:
    """First a full, then increments; each restores to its own moment."""
    seen = {}
    kinds = []
    for value in (1, 2, 3):
        world.write("vda", value, value)
        world.write("vdb", 0, 10 + value)
        report = points.take()
        assert report.point is not None
        kinds.append(report.point.kind)
        seen[report.point.id] = {t: world.guest_content(t) for t in ("vda", "vdb")}
    assert kinds == [DiskKind.FULL, DiskKind.INCREMENT, DiskKind.INCREMENT]
    for point, disks in seen.items():
        for target, content in disks.items():
            assert world.restore_content(point, target) == content


def test_history_is_what_was_published(world: World, points: Points) -> None:
    """The very same value, with its XML, and without receipts."""
    report = points.take()
    history = world.store.read_history(world.uuid)
    assert history.points == (report.point,)
    assert (history.receipts, history.damaged) == ((), frozenset())
    assert history.store == world.store.uuid
    assert history.points[0].id in history.taken_ids
    assert world.store.free_bytes() > 0


def test_a_store_knows_nothing_of_a_new_domain(world: World) -> None:
    """Its history is empty."""
    history = world.store.read_history("00000000-0000-4000-8000-00000000dead")
    assert (history.points, history.receipts, history.latest) == ((), (), None)


def test_a_point_is_published_once(world: World, points: Points) -> None:
    """The second time is refused, and the first one stands."""
    point = points.take().point
    assert point is not None
    with world.store.locked(world.uuid, "contract", exclusive=True), pytest.raises(StoreError):
        world.store.publish(point)
    assert world.store.read_history(world.uuid).points == (point,)


@pytest.mark.parametrize("lost", ["{0}.json", "vda/{0}.qcow2"])
@pytest.mark.parametrize("running", [True, False])
def test_a_point_is_published_only_on_what_is_there(
    world: World, points: Points, lost: str, *, running: bool
) -> None:
    """What it lies on went while it was copied; of a domain that is off it is the same image."""
    points.take()
    if not running:
        world.shut_off()
        points.take()
    history = world.store.read_history(world.uuid)
    file = lost.format(history.points[-1].id)
    store = LosesOnce(world, file)
    with pytest.raises(StepError, match="would lie on what is not there") as caught:
        Executor(world.host, cast("PointStore", store)).run(points.plan())
    assert isinstance(caught.value.__cause__, StoreError)
    assert len(world.store.read_history(world.uuid).points) == len(history.points) - (
        "json" in lost
    )


def test_a_file_of_the_store_is_written_once(world: World, points: Points) -> None:
    """The XML of a point stays what it was."""
    point = points.take().point
    assert point is not None
    name = point.files[0].name
    with world.store.locked(world.uuid, "contract", exclusive=True), pytest.raises(StoreError):
        world.store.save_config(world.uuid, name, "other")


def test_one_writer_at_a_time(world: World) -> None:
    """A second writer is refused at once; readers share, also with a writer."""

    def lock(*, exclusive: bool) -> AbstractContextManager[None]:
        return world.store.locked(world.uuid, "contract", exclusive=exclusive)

    with (
        lock(exclusive=True),
        lock(exclusive=False),
        lock(exclusive=False),
        pytest.raises(LockedError),
        lock(exclusive=True),
    ):
        pass
    with lock(exclusive=False), lock(exclusive=True):
        pass


def test_one_run_at_a_time_on_a_domain(world: World) -> None:
    """A second one is refused at once; another domain, and a later run, are not."""
    other = "00000000-0000-4000-8000-00000000dead"
    with world.host.locked(world.uuid), world.host.locked(other):
        with pytest.raises(LockedError) as caught, world.host.locked(world.uuid):
            pass
        assert "pid" in caught.value.owner
    with world.host.locked(world.uuid):
        pass


def test_a_run_holds_the_domain_and_a_second_one_touches_nothing(
    world: World, points: Points
) -> None:
    """Whatever store the other run has, or none."""
    plan, before = points.plan(), chain(world)
    with world.host.locked(world.uuid), pytest.raises(LockedError):
        Executor(world.host, world.store).run(plan)
    assert (chain(world), world.store.read_history(world.uuid).points) == (before, ())
    held: list[str] = []

    def look(_: object) -> None:
        if not held:
            with pytest.raises(LockedError) as caught, world.host.locked(world.uuid):
                pass
            held.append(caught.value.owner)

    Executor(world.host, world.store).run(plan, on_event=look)
    assert held


def test_a_caller_may_hold_the_lock_over_more_than_one_run(world: World, points: Points) -> None:
    """Then a run does not take it, and the caller has it still."""
    with world.host.locked(world.uuid):
        Executor(world.host, world.store).run(points.plan(), holds_lock=True)
        with pytest.raises(LockedError), world.host.locked(world.uuid):
            pass
    assert len(world.store.read_history(world.uuid).points) == 1


def test_an_image_that_a_guest_writes_is_not_copied(world: World) -> None:
    """The copy is refused, and nothing of it is left."""
    active = chain(world).active.path
    step = CopyImage("vda", active, "qcow2", "20261124T040000Z.qcow2", None, None, 0)
    with (
        world.store.locked(world.uuid, "contract", exclusive=True),
        pytest.raises(DomainBusyError),
    ):
        world.store.copy_image(world.uuid, step, ignore_events, CancelToken())
    assert world.store.read_history(world.uuid).receipts == ()


def test_an_image_that_is_not_what_the_plan_wants_is_not_copied(world: World) -> None:
    """Its identity must be the one that was frozen."""
    image = chain(world).active
    assert image.identity is not None
    overlay = image.path.with_name("contract.bimg-two")
    snapshot = Snapshot("two", (NewOverlay("vda", image.path, overlay),), ("vdb",))
    world.host.take_snapshot(world.uuid, snapshot)
    other = FileIdentity(image.identity.inode + 1, image.identity.size_bytes, 0)
    step = CopyImage("vda", image.path, "qcow2", "20261124T040000Z.qcow2", None, other, 0)
    with (
        world.store.locked(world.uuid, "contract", exclusive=True),
        pytest.raises(DomainBusyError),
    ):
        world.store.copy_image(world.uuid, step, ignore_events, CancelToken())


def test_a_run_that_failed_is_picked_up_without_copying_twice(world: World, points: Points) -> None:
    """What was stored is adopted; both moments end up in the chain of the next point."""
    world.write("vda", 1, 7)
    store = cast("PointStore", FailsOnce(world.store, "publish"))
    plan = points.plan()
    with pytest.raises(StepError, match="publish"):
        Executor(world.host, store).run(plan)
    assert world.store.read_history(world.uuid).points == ()
    world.write("vda", 2, 8)
    again = points.plan()
    assert {copy.source for copy in again.copies} == set(plan.expects.absent)
    Executor(world.host, world.store).run(again)
    assert world.restore_content(again.point, "vda") == {1: 7, 2: 8}


def test_a_restart_does_not_cost_a_full(world: World, points: Points) -> None:
    """Inodes, sizes and times of frozen images stay, so the proof holds."""
    world.write("vda", 1, 7)
    points.take()
    world.restart()
    world.write("vda", 2, 8)
    report = points.take()
    assert report.point is not None
    assert report.point.kind is DiskKind.INCREMENT
    assert world.restore_content(report.point.id, "vda") == {1: 7, 2: 8}


def test_a_changed_base_costs_a_full_of_that_disk(world: World, points: Points) -> None:
    """And the reason is said."""
    points.take()
    world.touch(chain(world).base.path)
    decisions = {each.target: each for each in points.plan().decisions}
    assert decisions["vda"].kind is DiskKind.FULL
    assert "mtime" in decisions["vda"].reason
    assert decisions["vdb"].kind is DiskKind.INCREMENT


FORMS = {
    "commit": (ConsolidationPolicy(), 1),
    "rolling commit": (ConsolidationPolicy(keep_overlay=True), 2),
    "pull": (ConsolidationPolicy(method=Method.BLOCKPULL), 1),
    "rolling pull": (ConsolidationPolicy(method=Method.BLOCKPULL, keep_overlay=True), 2),
    "off": (ConsolidationPolicy(), 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_consolidation_changes_no_content(world: World, points: Points, form: str) -> None:
    """The guest has what it had, points restore, overlays of ours are gone, the ledger knows."""
    world.restart()  # into a state that a pull takes: not paused
    for value in (1, 2, 3):
        world.write("vda", value, value)
        points.take()
    world.write("vda", 4, 4)
    policy, depth = FORMS[form]
    before = chain(world).paths
    if form == "off":
        world.shut_off()
    plan = plan_consolidation(world.host.read_domain(world.uuid), policy=policy)
    Executor(world.host, None).run(plan)
    if form == "off":
        world.start()
    gone = set(before[:-1]) - set(chain(world).paths)
    assert chain(world).depth == chain(world, "vdb").depth == depth
    assert world.host.occupied((*gone, before[-1])) == (before[-1],)
    ledger = world.host.read_domain(world.uuid).ledger
    assert ledger.run is None
    assert {entry.path for entry in ledger.overlays} == (
        {chain(world).active.path, chain(world, "vdb").active.path} if depth == 2 else set()
    )
    assert world.guest_content("vda") == {1: 1, 2: 2, 3: 3, 4: 4}
    world.write("vda", 5, 5)
    report = points.take()
    assert report.point is not None
    assert report.point.kind is (DiskKind.INCREMENT if depth == 2 else DiskKind.FULL)
    assert world.restore_content(report.point.id, "vda") == world.guest_content("vda")
    for point, value in zip(world.store.read_history(world.uuid).points, (1, 2, 3), strict=False):
        assert world.restore_content(point.id, "vda") == {n: n for n in range(1, value + 1)}


def test_an_image_in_a_chain_is_not_deleted(world: World, points: Points) -> None:
    """Active or frozen; one that is gone already is fine."""
    points.take()
    points.take()
    for path in chain(world).paths[:2]:
        with pytest.raises(DomainBusyError):
            world.host.delete_image(world.uuid, path)
    assert chain(world).depth == 3


def test_nobody_else_uses_an_image_of_the_domain(world: World) -> None:
    """The domain's own use does not count."""
    assert world.host.image_uses(world.uuid, chain(world).paths) == ()
    assert world.host.read_domain(world.uuid).snapshots == ()


def test_a_header_is_mended_while_the_domain_is_off(world: World, points: Points) -> None:
    """The chain is the one that the step says, and the guest has what it had."""
    points.take()
    world.write("vda", 1, 5)
    overlay, base = chain(world).paths
    step = MendHeader("vda", overlay, base, "qcow2")
    with pytest.raises(DomainBusyError):
        world.host.mend_header(world.uuid, step)
    world.shut_off()
    world.host.mend_header(world.uuid, step)
    assert chain(world).images[0].header_backing == str(base)
    world.start()
    assert world.guest_content("vda") == {1: 5}


def test_a_paused_guest_goes_on(world: World) -> None:
    """One that runs, or is off, stays as it is."""
    world.host.resume_guest(world.uuid)
    world.pause()
    assert world.host.read_domain(world.uuid).state is DomainState.PAUSED
    world.host.resume_guest(world.uuid)
    assert world.host.read_domain(world.uuid).state is DomainState.RUNNING
    world.shut_off()
    world.host.resume_guest(world.uuid)
    assert world.host.read_domain(world.uuid).state is DomainState.SHUTOFF


def test_an_image_under_two_disks_of_the_domain_is_shared(world: World, points: Points) -> None:
    """Each of them is named; an image under one alone is not."""
    points.take()
    world.shut_off()
    overlay, base = chain(world).paths
    world.clone("vdb", base)
    uses = world.host.image_uses(world.uuid, (overlay, base))
    assert {(use.path, use.disk) for use in uses} == {(base, "vda"), (base, "vdb")}
    assert not any(use.doubt for use in uses)


def test_a_commit_off_line_is_refused_for_a_domain_that_runs(world: World, points: Points) -> None:
    """Its chain stays."""
    points.take()
    world.shut_off()
    (step,) = plan_consolidation(world.host.read_domain(world.uuid)).steps
    assert isinstance(step, EachDisk)
    job = step.disks[0].job
    assert isinstance(job, CommitOffline)
    world.start()
    before = chain(world).paths
    with pytest.raises(DomainBusyError):
        world.host.commit_offline(world.uuid, job, ignore_events, CancelToken())
    assert chain(world).paths == before


def test_an_image_of_a_killed_run_goes_when_two_points_have_passed_it_over(
    world: World, points: Points
) -> None:
    """One that is taken over never goes; the store tells of the other until then."""
    points.take()
    left_by_failure(world, points)
    points.take()
    assert receipts(world) == ()
    left = left_by_failure(world, points)
    for _ in range(2):
        assert receipts(world) == left
        Executor(world.host, world.store).run(points.plan(full=True))
    history = world.store.read_history(world.uuid)
    assert (history.receipts, history.unclaimed, history.damaged) == ((), frozenset(), frozenset())
    points.take()
    for point in history.points:
        world.restore_content(point.id, "vda")


def test_a_run_that_fails_passes_nothing_over(world: World, points: Points) -> None:
    """Not its own images either, though their names are old when the clock was set back."""
    for _ in range(2):
        points.take()
        world.write("vda", 1, 5)
    points.clock_is_back = timedelta(days=400)
    left = {each.image.name for each in left_by_failure(world, points)}
    points.take()
    *_, last = world.store.read_history(world.uuid).points
    assert left <= {image.name for disk in last.disks for image in disk.images}
    assert receipts(world) == ()


def left_by_failure(world: World, points: Points) -> tuple[Receipt, ...]:
    """Let a run fail after its copies; return what it leaves of both disks."""
    world.write("vda", 1, 5)
    store = cast("PointStore", FailsOnce(world.store, "publish"))
    with pytest.raises(StepError):
        Executor(world.host, store).run(points.plan())
    left = receipts(world)
    assert [each.target for each in left] == ["vda", "vdb"]
    return left


def receipts(world: World) -> tuple[Receipt, ...]:
    """Return what the store has of images in no point."""
    return world.store.read_history(world.uuid).receipts
