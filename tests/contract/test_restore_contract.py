"""What `PointStore` promises about the forms in which a disk is restored."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from fibackup.errors import DestinationExistsError, StepError, VerifyError
from fibackup.host.cancel import CancelToken
from fibackup.host.events import ignore_events
from fibackup.host.executor import Executor
from fibackup.plan.restore import RestoreForm, plan_restore
from fibackup.plan.steps import CopyStored, CreateLinked, FlattenImage, Plan

if TYPE_CHECKING:
    from pathlib import Path

    from contract.conftest import Points, World
    from fibackup.plan.steps import DiskRestore


def plan_of(world: World, points: Points, into: PurePosixPath, form: RestoreForm) -> Plan:
    """Take two points and plan a restore of the newer one."""
    for value in (1, 2):
        world.write("vda", value, value)
        points.take()
    return plan_restore(world.store.read_history(world.uuid), "latest", into=into, form=form)


def again(world: World, step: DiskRestore) -> None:
    """Do a step once more, by the store alone."""
    token = CancelToken()
    if isinstance(step, FlattenImage):
        world.store.flatten(world.uuid, step, ignore_events, token)
    if isinstance(step, CopyStored):
        world.store.copy_chain(world.uuid, step, ignore_events, token)
    if isinstance(step, CreateLinked):
        world.store.create_linked(world.uuid, step, ignore_events, token)


@pytest.mark.parametrize("form", RestoreForm)
def test_a_form_makes_the_files_that_it_names(
    world: World, points: Points, tmp_path: Path, form: RestoreForm
) -> None:
    """All of them, each with an inode, and a second time is refused before the first step."""
    plan = plan_of(world, points, PurePosixPath(tmp_path / "into"), form)
    absent = plan.expects.absent
    assert set(world.store.inodes(absent)) == {0}
    report = Executor(None, world.store).run(plan)
    assert world.store.occupied(absent) == absent
    assert all(world.store.inodes(absent))
    assert [image.path for image in report.restored] == [step.destination for step in plan.restores]
    with pytest.raises(DestinationExistsError):
        Executor(None, world.store).run(plan)


@pytest.mark.parametrize("form", RestoreForm)
def test_a_step_does_not_replace_a_file(
    world: World, points: Points, tmp_path: Path, form: RestoreForm
) -> None:
    """The store itself refuses, and leaves what is there."""
    plan = plan_of(world, points, PurePosixPath(tmp_path / "into"), form)
    Executor(None, world.store).run(plan)
    before = world.store.inodes(plan.expects.absent)
    with pytest.raises(DestinationExistsError):
        again(world, plan.restores[0])
    assert world.store.inodes(plan.expects.absent) == before


@pytest.mark.parametrize("form", RestoreForm)
def test_a_wrong_hash_leaves_nothing(
    world: World, points: Points, tmp_path: Path, form: RestoreForm
) -> None:
    """Of no disk, although only the last one is wrong."""
    into = PurePosixPath(tmp_path / "into")
    plan = plan_of(world, points, into, form)
    world.damage("vdb")
    with pytest.raises(StepError) as caught:
        Executor(None, world.store).run(plan)
    assert isinstance(caught.value.__cause__, VerifyError)
    assert world.store.occupied((*plan.expects.absent, into)) == ()


def test_a_file_is_discarded_once(world: World, points: Points, tmp_path: Path) -> None:
    """It is removed by its inode; one that is gone is fine."""
    plan = plan_of(world, points, PurePosixPath(tmp_path / "into"), RestoreForm.FLAT)
    Executor(None, world.store).run(plan)
    [path, *_] = plan.expects.absent
    [inode] = world.store.inodes((path,))
    world.store.discard(path, inode)
    assert world.store.occupied((path,)) == ()
    world.store.discard(path, inode)
    world.store.remove_directory(path.parent / "no-such-directory")
