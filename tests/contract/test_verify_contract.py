"""What `PointStore` promises about verification."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

import pytest
from attrs import evolve

from fibackup.errors import CancelledError, StalePlanError, StepError, VerifyError
from fibackup.host.cancel import CancelToken
from fibackup.host.events import Event, FileVerified, ignore_events
from fibackup.host.executor import Executor
from fibackup.model.point import RestorePoint
from fibackup.model.verification import FaultKind, Verification
from fibackup.plan.prune import plan_prune
from fibackup.plan.restore import plan_restore
from fibackup.plan.retention import RetentionPolicy
from fibackup.plan.steps import Plan
from fibackup.plan.verify import VerifyPolicy, plan_verify
from fibackup.plan.verify_steps import FileToVerify, VerifyContents, VerifyFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contract.conftest import Points, World


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def plan(world: World, policy: VerifyPolicy | None = None) -> Plan:
    """Plan to verify the domain's points; the fake's clock may be ahead of this one."""
    survey = world.store.survey(world.uuid)
    now = max(datetime.now(UTC), *(entry.time for entry in survey.record.files), LONG_AGO)
    return plan_verify(survey, now=now, policy=policy or VerifyPolicy())


def verify(world: World, policy: VerifyPolicy | None = None) -> Verification:
    """Verify the domain's points."""
    report = Executor(None, world.store).run(plan(world, policy))
    assert report.verification is not None
    return report.verification


def two_points(world: World, points: Points) -> tuple[RestorePoint, RestorePoint]:
    """Take a full and an increment."""
    world.write("vda", 1, 7)
    first = points.take().point
    world.write("vda", 2, 8)
    second = points.take().point
    assert first is not None
    assert second is not None
    return first, second


def top(point: RestorePoint) -> str:
    """Return the top image of vda."""
    return f"vda/{point.disk('vda').images[0].name}"


def test_a_store_as_it_was_written_is_whole(world: World, points: Points) -> None:
    """Every file is read, and nothing lies about."""
    first, second = two_points(world, points)
    found = verify(world)
    assert found.whole == (first.id, second.id)
    assert (found.faults, found.warnings) == ((), ())
    named = [*first.files, *second.files]
    images = [image for point in (first, second) for disk in point.disks for image in disk.images]
    assert found.read_files == len(named) + len(images)
    sizes = [file.size_bytes for file in named] + [image.size_bytes for image in images]
    assert found.read_bytes == sum(sizes)
    assert [point for point, _ in found.manifests] == [first.id, second.id]


def test_a_point_can_be_taken_with_the_hash_of_what_its_guest_reads(
    world: World, points: Points
) -> None:
    """In a full and in an increment; a deep verification compares, and finds what is otherwise."""
    taken: list[RestorePoint] = []
    for number in range(2):
        world.write("vda", number, 7 + number)
        point = Executor(world.host, world.store).run(points.plan(content_hash=True)).point
        assert point is not None
        taken.append(point)
    hashes = {disk.content_sha256 for point in taken for disk in point.disks}
    assert None not in hashes
    assert len({point.disk("vda").content_sha256 for point in taken}) == 2
    found = verify(world, VerifyPolicy(deep=True))
    assert (found.faults, found.notes) == ((), ())
    made = plan(world, VerifyPolicy(deep=True))
    step = next(step for step in made.steps if isinstance(step, VerifyContents))
    assert {content.recorded for content in step.contents} == {(each,) for each in hashes}
    other = evolve(step, contents=tuple(evolve(c, recorded=("0" * 64,)) for c in step.contents))
    changed = evolve(made, steps=(other,))
    wrong = Executor(None, world.store).run(changed).verification
    assert wrong is not None
    assert {fault.kind for fault in wrong.faults} == {FaultKind.DISK}


def test_what_was_verified_is_remembered(world: World, points: Points) -> None:
    """With its time and the number of the run; what was verified lately is not read again."""
    two_points(world, points)
    verify(world)
    record = world.store.survey(world.uuid).record
    assert {entry.run for entry in record.files} == {1}
    assert record.next_run == 2
    again = plan(world, VerifyPolicy(skip_since=LONG_AGO))
    assert cast("VerifyFiles", again.steps[0]).read_bytes == 0


def test_a_verification_that_is_cancelled_keeps_what_it_has_done(
    world: World, points: Points
) -> None:
    """The next one reads the rest."""
    two_points(world, points)
    cancel = CancelToken()
    seen: list[str] = []

    def stop(event: Event) -> None:
        if isinstance(event, FileVerified):
            seen.append(event.file)
            cancel.cancel()

    with pytest.raises(StepError) as caught:
        Executor(None, world.store, threads=1).run(plan(world), on_event=stop, cancel=cancel)
    assert isinstance(caught.value.__cause__, CancelledError)
    assert "verify" in caught.value.next_command
    record = world.store.survey(world.uuid).record
    assert [entry.file for entry in record.files] == sorted(seen)
    step = cast("VerifyFiles", plan(world, VerifyPolicy(skip_since=LONG_AGO)).steps[0])
    left = {each.file for each in step.files if each.read}
    assert left == {each.file for each in step.files} - set(seen)


def test_a_file_that_is_otherwise_is_a_fault(world: World, points: Points) -> None:
    """The others are read all the same, and the point is spoiled."""
    first, second = two_points(world, points)
    step = cast("VerifyFiles", plan(world).steps[0])
    world.damage("vda", second.disk("vda").images[0].name)
    found = verify(world)
    (fault,) = found.faults
    assert (fault.kind, fault.file, fault.points) == (FaultKind.SHA256, top(second), (second.id,))
    assert found.whole == (first.id,)
    assert found.read_files == len(step.files) - 1


CHANGES: dict[str, tuple[FaultKind, Callable[[FileToVerify], FileToVerify]]] = {
    "missing": (FaultKind.MISSING, lambda file: evolve(file, file=f"{file.file}.gone")),
    "header": (
        FaultKind.HEADER,
        lambda file: evolve(file, header=file.header and evolve(file.header, backing="x.qcow2")),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_is_looked_at_also_when_it_is_not_read(
    world: World, points: Points, change: str
) -> None:
    """It must be there, and its header must lead where the manifest says."""
    _, second = two_points(world, points)
    kind, changed = CHANGES[change]
    step = cast("VerifyFiles", plan(world).steps[0])
    (file,) = [changed(evolve(each, read=False)) for each in step.files if each.file == top(second)]
    with world.store.locked(world.uuid, "contract", exclusive=False):
        (check,) = world.store.verify_files(
            world.uuid, evolve(step, files=(file,)), ignore_events, CancelToken()
        )
    assert (check.kind, check.read_bytes) == (kind, None)


def test_a_disk_is_read_as_a_guest_does(world: World, points: Points) -> None:
    """The first reading is kept; the next one must be the same."""
    two_points(world, points)
    found = verify(world, VerifyPolicy(deep=True))
    assert (found.faults, found.read_disks) == ((), 4)
    assert "no content hash" in found.notes[0]
    again = verify(world, VerifyPolicy(deep=True))
    assert (again.faults, again.read_disks, again.notes) == ((), 4, ())
    contents = world.store.survey(world.uuid).record.contents
    assert {entry.run for entry in contents} == {2}
    assert len({entry.sha256 for entry in contents}) == 3  # nobody has written to vdb
    assert all(health.contents_verified for health in again.points)


def test_a_disk_that_reads_otherwise_is_a_fault(world: World, points: Points) -> None:
    """Although every file of it is right; what lies on it is right as far as that is known."""
    first, second = two_points(world, points)
    assert otherwise(world, first).whole == ()
    verify(world, VerifyPolicy(deep=True))
    found = otherwise(world, first)
    (fault,) = found.faults
    assert (fault.kind, fault.points) == (FaultKind.DISK, (first.id,))
    assert found.whole == (second.id,)


def test_a_disk_that_reads_otherwise_is_not_restored_unasked(
    world: World, points: Points, tmp_path: Path
) -> None:
    """Its files are right; other disks, and what lies on it and is right, are restored."""
    first, second = two_points(world, points)
    verify(world, VerifyPolicy(deep=True))
    assert world.store.read_history(world.uuid).wrong_disks == ()
    assert otherwise(world, first).spoiled == (first.id,)
    history = world.store.read_history(world.uuid)
    (wrong,) = history.wrong_disks
    assert (wrong.point, wrong.target, wrong.file) == (first.id, "vda", top(first))
    into = PurePosixPath(tmp_path / "into")
    with pytest.raises(VerifyError, match=r"was found wrong on .*: the disk reads otherwise"):
        plan_restore(history, first.id, into=into)
    assert plan_restore(history, first.id, into=into, disks=("vdb",)).warnings == ()
    assert plan_restore(history, second.id, into=into).warnings == ()
    wished = plan_restore(history, first.id, into=into, found_wrong=True)
    assert str(wrong) in wished.warnings
    assert len(Executor(None, world.store).run(wished).restored) == 2


def otherwise(world: World, first: RestorePoint) -> Verification:
    """Verify as if a point had been taken with another content."""
    made = plan(world, VerifyPolicy(deep=True))
    files, contents = made.steps
    assert isinstance(contents, VerifyContents)
    wrong = tuple(
        evolve(each, recorded=("0" * 64,)) if each.file == top(first) else each
        for each in contents.contents
    )
    changed = evolve(made, steps=(files, evolve(contents, contents=wrong)))
    found = Executor(None, world.store).run(changed).verification
    assert found is not None
    return found


def prune(world: World, *kept: str) -> None:
    """Keep the newest point and these."""
    now = datetime.now(UTC) + timedelta(days=1)
    policy = RetentionPolicy(keep_last=1, protect=kept)
    Executor(None, world.store).run(
        plan_prune(world.store.read_history(world.uuid), policy, now=now)
    )


@pytest.mark.parametrize("deep", [False, True])
def test_what_a_merge_has_replaced_since_the_plan_is_not_called_whole(
    world: World, points: Points, *, deep: bool
) -> None:
    """It would be compared with what was there before, and that would count for nothing."""
    _, second = two_points(world, points)
    world.write("vda", 3, 9)
    points.take()
    made = plan(world, VerifyPolicy(deep=deep))
    prune(world, second.id)
    world.damage("vda", second.disk("vda").images[0].name)
    before = world.store.read_record(world.uuid)
    with pytest.raises(StepError) as caught:
        Executor(None, world.store).run(made)
    assert isinstance(caught.value.__cause__, StalePlanError)
    assert f"{top(second)} is another one by now; plan again" in str(caught.value)
    assert world.store.read_record(world.uuid) == before
    assert verify(world, VerifyPolicy(deep=deep)).spoiled == (second.id, made_latest(world))


def made_latest(world: World) -> str:
    """Return the newest point."""
    return world.store.read_history(world.uuid).points[-1].id


@pytest.mark.parametrize("deep", [False, True])
def test_what_a_prune_has_dropped_since_the_plan_is_passed_over(
    world: World, points: Points, *, deep: bool
) -> None:
    """All that is left was read, also where the record has been written in between."""
    first, second = two_points(world, points)
    Executor(world.host, world.store).run(points.plan(full=True))
    verify(world)
    made = plan(world, VerifyPolicy(deep=deep))
    prune(world)
    found = Executor(None, world.store).run(made).verification
    assert found is not None
    assert (found.faults, found.warnings) == ((), ())
    assert {first.id, second.id}.isdisjoint(found.whole)
    assert len(found.whole) == 1


def test_a_domain_that_the_store_does_not_know_has_nothing_to_verify(world: World) -> None:
    """It is whole, in its way."""
    found = world.store.survey("00000000-0000-4000-8000-00000000dead")
    assert (found.history.points, found.files, found.faults) == ((), (), ())


def test_a_verification_runs_beside_a_writer(world: World, points: Points) -> None:
    """And takes nothing of it for left over."""
    two_points(world, points)
    with world.store.locked(world.uuid, "contract", exclusive=True):
        assert world.store.survey(world.uuid).busy
        assert verify(world).faults == ()
    assert not world.store.survey(world.uuid).busy


def test_the_record_is_read_by_itself(world: World, points: Points) -> None:
    """As the survey has it; there is none before the first verification."""
    two_points(world, points)
    assert world.store.read_record(world.uuid).files == ()
    verify(world)
    record = world.store.read_record(world.uuid)
    assert record.files
    assert record == world.store.survey(world.uuid).record
    assert world.store.read_record("00000000-0000-4000-8000-00000000dead").files == ()


def test_nothing_new_is_laid_on_what_was_found_wrong(world: World, points: Points) -> None:
    """The history tells of it, so that whoever plans a backup need not ask."""
    first, second = two_points(world, points)
    assert world.store.read_history(world.uuid).found_wrong == frozenset()
    verify(world)
    assert world.store.read_history(world.uuid).found_wrong == frozenset()
    world.damage("vda")
    assert verify(world).faults
    assert world.store.read_history(world.uuid).found_wrong == {top(second)}
    world.write("vda", 3, 9)
    third = points.take().point
    assert third is not None
    assert third.disk("vda").parent != second.id
    assert third.disk("vdb").parent == second.id
    assert verify(world).whole == (first.id, third.id)
