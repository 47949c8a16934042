"""What `PointStore` promises about a prune."""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from fibackup.errors import (
    DomainBusyError,
    LockedError,
    NoSuchPointError,
    StalePlanError,
    StepError,
    VerifyError,
)
from fibackup.host.executor import Executor
from fibackup.model.point import DiskKind, History
from fibackup.plan.prune import plan_prune
from fibackup.plan.prune_steps import MergeImages
from fibackup.plan.report import Report
from fibackup.plan.restore import RestoreForm, plan_restore
from fibackup.plan.retention import RetentionPolicy
from fibackup.plan.steps import Plan
from fibackup.plan.verify import plan_verify

if TYPE_CHECKING:
    from contract.conftest import Content, Points, World


def take(world: World, points: Points, count: int) -> dict[str, Content]:
    """Take points, each after a write of its own; return what the guest had at each."""
    had: dict[str, Content] = {}
    for number in range(1, count + 1):
        world.write("vda", number % 3, number)
        content = world.guest_content("vda")
        report = points.take()
        assert report.point is not None
        had[report.point.id] = content
    return had


def plan(world: World, policy: RetentionPolicy) -> Plan:
    """Plan a prune, tomorrow."""
    now = datetime.now(UTC) + timedelta(days=1)
    used = world.store.images_in_use(world.uuid)
    return plan_prune(world.store.read_history(world.uuid), policy, now=now, in_use=used)


def prune(world: World, policy: RetentionPolicy) -> Report:
    """Plan and run; no host is needed."""
    return Executor(None, world.store).run(plan(world, policy))


def test_kept_points_read_the_same_and_dropped_ones_are_gone(world: World, points: Points) -> None:
    """Also the ones whose images lay under kept points."""
    had = take(world, points, 4)
    ids = list(had)
    report = prune(world, RetentionPolicy(keep_last=1, protect=(ids[1],)))
    history = world.store.read_history(world.uuid)
    assert [point.id for point in history.points] == [ids[1], ids[3]]
    assert history.damaged == history.unclaimed == frozenset()
    for point in history.points:
        assert world.restore_content(point.id, "vda") == had[point.id]
    with pytest.raises(NoSuchPointError):
        history.point(ids[0])
    assert sum(not verdict.kept for verdict in report.plan.verdicts) == 2


def test_the_next_backup_is_an_increment_on_the_newest_point(world: World, points: Points) -> None:
    """A prune takes nothing away that the proof of continuity needs."""
    had = take(world, points, 3)
    prune(world, RetentionPolicy(keep_last=1))
    world.write("vda", 5, 77)
    content = world.guest_content("vda")
    report = points.take()
    assert report.point is not None
    disk = report.point.disk("vda")
    assert (disk.kind, disk.parent) == (DiskKind.INCREMENT, list(had)[-1])
    assert world.restore_content(report.point.id, "vda") == content


def test_a_second_prune_has_nothing_to_do(world: World, points: Points) -> None:
    """The same policy, the same points: no step."""
    take(world, points, 3)
    policy = RetentionPolicy(keep_last=2)
    prune(world, policy)
    assert plan(world, policy).steps == ()


def test_a_plan_made_before_another_point_is_stale(world: World, points: Points) -> None:
    """What was right to drop may be needed now."""
    take(world, points, 2)
    old = plan(world, RetentionPolicy(keep_last=1))
    take(world, points, 1)
    with pytest.raises(StalePlanError, match="other points"):
        Executor(None, world.store).run(old)
    assert len(world.store.read_history(world.uuid).points) == 3


def test_a_plan_made_before_another_prune_is_stale(world: World, points: Points) -> None:
    """The points that it would drop are gone."""
    take(world, points, 2)
    old = plan(world, RetentionPolicy(keep_last=1))
    prune(world, RetentionPolicy(keep_last=1))
    with pytest.raises(StalePlanError, match="other points"):
        Executor(None, world.store).run(old)


def test_what_a_process_has_open_goes_with_a_later_prune(world: World, points: Points) -> None:
    """Its points stay, as a domain on a linked disk needs them when it is off again."""
    had = take(world, points, 4)
    ids = list(had)
    names = [world.store.read_history(world.uuid).top(point, "vda").name for point in ids]
    images = [f"vda/{name}" for name in names[:2]]
    assert world.store.images_in_use(world.uuid) == {}
    with world.open_images(*images):
        used = dict.fromkeys(images, "a process has it open")
        assert world.store.images_in_use(world.uuid) == used
        report = prune(world, RetentionPolicy(keep_last=1))
        [warning] = report.plan.warnings
        assert f"{images[0]} cannot go yet, nor 1 more" in warning
        history = world.store.read_history(world.uuid)
        assert [point.id for point in history.points] == [*ids[:2], ids[3]]
        assert [image.name for image in history.images(ids[1], "vda")] == names[1::-1]
    assert prune(world, RetentionPolicy(keep_last=1)).plan.warnings == ()
    history = world.store.read_history(world.uuid)
    assert [point.id for point in history.points] == ids[3:]
    assert world.restore_content(ids[3], "vda") == had[ids[3]]


def test_no_point_goes_when_what_takes_its_place_is_wrong(world: World, points: Points) -> None:
    """Nobody has verified it: the prune finds it first, and the next one keeps what is whole."""
    had = take(world, points, 5)
    ids = list(had)
    world.damage("vda", world.store.read_history(world.uuid).top(ids[2], "vda").name)
    with pytest.raises(StepError) as caught:
        prune(world, RetentionPolicy(keep_last=1))
    assert isinstance(caught.value.__cause__, VerifyError)
    assert "points that need the wrong file are spoiled" in str(caught.value)
    assert f"{ids[2]}.qcow2" in str(caught.value)
    history = world.store.read_history(world.uuid)
    assert [point.id for point in history.points] == ids
    assert len(history.found_wrong) == 1
    kept = [v for v in prune(world, RetentionPolicy(keep_last=1)).plan.verdicts if v.kept]
    assert [verdict.point for verdict in kept] == [ids[1], ids[4]]
    assert world.restore_content(ids[1], "vda") == had[ids[1]]


def linked(world: World, point: str) -> PurePosixPath:
    """Restore a disk as an overlay on the store."""
    history = world.store.read_history(world.uuid)
    into = history.path.parent / "linked"
    plan = plan_restore(history, point, into=into, disks=("vda",), form=RestoreForm.LINKED)
    report = Executor(None, world.store).run(plan)
    assert report.warnings == plan.warnings
    [image] = report.restored
    return image.path


def test_what_a_linked_disk_lies_on_stays_until_that_is_gone(world: World, points: Points) -> None:
    """Nobody has anything open: the domain on it is off."""
    had = take(world, points, 4)
    ids = list(had)
    overlay = linked(world, ids[1])
    names = [image.name for image in world.store.read_history(world.uuid).images(ids[1], "vda")]
    used = {f"vda/{name}": f"the linked disk {overlay} lies on it" for name in names}
    assert world.store.images_in_use(world.uuid) == used
    report = prune(world, RetentionPolicy(keep_last=1))
    history = world.store.read_history(world.uuid)
    assert [point.id for point in history.points] == [*ids[:2], ids[3]]
    assert [image.name for image in history.images(ids[1], "vda")] == names
    [warning] = report.plan.warnings
    assert str(overlay) in warning
    world.store.discard(overlay, *world.store.inodes((overlay,)))
    assert world.store.images_in_use(world.uuid) == {}
    assert prune(world, RetentionPolicy(keep_last=1)).plan.warnings == ()
    history = world.store.read_history(world.uuid)
    assert [point.id for point in history.points] == ids[3:]
    assert world.restore_content(ids[3], "vda") == had[ids[3]]


def test_what_a_disk_was_linked_to_meanwhile_is_not_taken_away(
    world: World, points: Points
) -> None:
    """A plan that did not know of it ends where it would."""
    ids = list(take(world, points, 4))
    late = plan(world, RetentionPolicy(keep_last=1))
    overlay = linked(world, ids[1])
    with pytest.raises(StepError) as caught:
        Executor(None, world.store).run(late)
    assert isinstance(caught.value.__cause__, DomainBusyError)
    assert str(overlay) in str(caught.value)
    history = world.store.read_history(world.uuid)
    used = world.store.images_in_use(world.uuid)
    assert used.keys() <= {
        f"vda/{image.name}"
        for point in history.points
        for disk in point.disks
        for image in disk.images
    }
    assert history.damaged == frozenset()


def test_what_a_process_has_opened_meanwhile_is_not_taken_away(
    world: World, points: Points
) -> None:
    """A plan that did not know of it ends where it would; nothing is lost."""
    had = take(world, points, 4)
    ids = list(had)
    late = plan(world, RetentionPolicy(keep_last=1))
    merge = next(step for step in late.steps if isinstance(step, MergeImages))
    image = merge.images[-1].name
    with world.open_images(f"{merge.target}/{image}"):
        with pytest.raises(StepError) as caught:
            Executor(None, world.store).run(late)
        assert isinstance(caught.value.__cause__, DomainBusyError)
    assert world.restore_content(ids[3], "vda") == had[ids[3]]


def test_a_backup_whose_parent_was_pruned_since_the_plan_is_stale(
    world: World, points: Points
) -> None:
    """The newest point is the same, but has not the disk; nothing is touched."""
    take(world, points, 1)
    Executor(world.host, world.store).run(points.plan(disks=("vdb",)))
    late, before = points.plan(), world.host.read_domain(world.uuid)
    assert late.decisions[0].parent == world.store.read_history(world.uuid).points[0].id
    prune(world, RetentionPolicy(keep_last=1))
    with pytest.raises(StalePlanError, match=r"does not have point .* of disk vda any more"):
        Executor(world.host, world.store).run(late)
    assert world.host.read_domain(world.uuid) == before
    assert len(world.store.read_history(world.uuid).points) == 1
    take(world, points, 1)


def dying(
    world: World, points: Points, had: dict[str, Content] | None = None, *, listed: bool = True
) -> list[str]:
    """Take two points that stand alone, and let a prune of the first one die."""
    ids = list(had or take(world, points, 1))
    Executor(world.host, world.store).run(points.plan(full=True))
    with world.prune_dies(listed=listed):
        prune(world, RetentionPolicy(keep_last=1))
    return [*ids, world.store.read_history(world.uuid).points[-1].id]


def write_next(world: World, spared: Callable[[History], Container[str]] | None = None) -> None:
    """Hold the lock of a writer, which finishes what was left."""
    more = {} if spared is None else {"spared": spared}
    with world.store.locked(world.uuid, "contract", exclusive=True, **more):
        pass


def listed(world: World) -> list[str]:
    """Return the points that the store lists."""
    return [point.id for point in world.store.read_history(world.uuid).points]


def test_the_next_writer_finishes_a_prune(world: World, points: Points) -> None:
    """Its points go, and their files."""
    ids = dying(world, points)
    assert world.store.read_history(world.uuid).going == {ids[0]}
    write_next(world)
    history = world.store.read_history(world.uuid)
    assert listed(world) == ids[1:]
    assert not history.unclaimed | history.going


def test_what_a_writer_spares_is_asked_under_its_lock(world: World, points: Points) -> None:
    """By the history that is there then: what goes may not have been going before."""
    ids = dying(world, points)
    asked: list[History] = []

    def spared(history: History) -> set[str]:
        with pytest.raises(LockedError):
            write_next(world)
        asked.append(history)
        return {ids[0]}

    write_next(world, spared)
    assert [history.going for history in asked] == [{ids[0]}]
    assert listed(world) == ids
    write_next(world)
    assert listed(world) == ids


def test_a_plan_takes_no_point_that_it_did_not_know(world: World, points: Points) -> None:
    """Another prune was about to drop it, and died: the plan is stale, and the point stays."""
    take(world, points, 2)
    late = plan(world, RetentionPolicy(keep_last=1))
    Executor(world.host, world.store).run(points.plan(full=True))
    Executor(world.host, world.store).run(points.plan(full=True))
    known = listed(world)
    with world.prune_dies():
        prune(world, RetentionPolicy(keep_last=1, protect=(known[0], known[1])))
    assert world.store.read_history(world.uuid).going == {known[2]}
    with pytest.raises(StalePlanError, match="other points"):
        Executor(None, world.store).run(late)
    assert listed(world) == known


def test_the_last_whole_point_stays_whoever_comes_after_an_interrupted_prune(
    world: World, points: Points
) -> None:
    """What was to stay instead of it was found wrong since."""
    had = take(world, points, 1)
    ids = dying(world, points, had)
    world.damage("vda")
    survey = world.store.survey(world.uuid)
    Executor(None, world.store).run(plan_verify(survey, now=datetime.now(UTC)))
    history = world.store.read_history(world.uuid)
    assert (listed(world), history.going) == (ids, frozenset())
    write_next(world)
    assert listed(world) == ids
    assert world.restore_content(ids[0], "vda") == had[ids[0]]
    Executor(world.host, world.store).run(points.plan(full=True))
    prune(world, RetentionPolicy(keep_last=1))
    assert listed(world)[1:] == []


def test_what_a_process_has_open_stays_when_its_point_is_gone(world: World, points: Points) -> None:
    """An interrupted prune waits for it; backups go on, and another prune says what it is."""
    ids = dying(world, points, listed=False)
    (left,) = (f for f in world.store.read_history(world.uuid).unclaimed if f.startswith("vda/"))
    assert listed(world) == ids[1:]
    with world.open_images(left):
        write_next(world)
        had = take(world, points, 2)
        with pytest.raises(StepError) as caught:
            prune(world, RetentionPolicy(keep_last=1))
        assert isinstance(caught.value.__cause__, DomainBusyError)
        assert left in str(caught.value)
        history = world.store.read_history(world.uuid)
        assert listed(world) == [ids[1], *had]
        assert left in history.unclaimed
        assert (history.going, history.orphans) == (frozenset(), frozenset())
    prune(world, RetentionPolicy(keep_last=1))
    history = world.store.read_history(world.uuid)
    assert listed(world) == [*had][-1:]
    assert history.unclaimed == frozenset()
    assert world.restore_content(history.points[-1].id, "vda") == [*had.values()][-1]
