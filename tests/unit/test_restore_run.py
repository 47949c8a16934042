"""A restore that fails leaves nothing behind: everything in memory, a fault at each call."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from fibackup.errors import FibackupError, StepError
from fibackup.host.executor import Executor
from fibackup.plan import BackupPolicy, Plan, Quiesce, RestoreForm, plan_backup, plan_restore
from fibackup.testing import FakeHost, FakeStore

INTO = PurePosixPath("/into")
CONTENT = {"vda": {0: 1, 3: 9}, "vdb": {1: 2}}


class World:
    """A domain with two disks, and a store with two points of it."""

    def __init__(self) -> None:
        """Take the points."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {1: 2}})
        self.store = FakeStore(self.host)
        self.take()
        self.host.write("web1", "vda", 3, 9)
        self.take()

    def take(self, policy: BackupPolicy | None = None) -> None:
        """Take a point."""
        domain, history = self.host.read_domain("web1"), self.store.read_history(self.uuid)
        plan = plan_backup(domain, history, now=self.host.now, policy=policy)
        Executor(self.host, self.store).run(plan)

    def plan(self, form: RestoreForm) -> Plan:
        """Plan a restore of the newest point."""
        history = self.store.read_history(self.uuid)
        return plan_restore(history, "latest", into=INTO, form=form)


def failure_of(world: World, plan: Plan) -> FibackupError | None:
    """Run a plan, and return its error."""
    try:
        Executor(None, world.store).run(plan)
    except FibackupError as error:
        return error
    return None


@pytest.mark.parametrize("form", RestoreForm)
def test_each_form_shows_what_the_guest_had(form: RestoreForm) -> None:
    """The report names the file that shows the disk."""
    world = World()
    report = Executor(None, world.store).run(world.plan(form))
    assert {image.target: world.store.restored[image.path] for image in report.restored} == CONTENT
    assert set(report.plan.expects.absent) == set(world.store.restored)


@pytest.mark.parametrize("form", RestoreForm)
def test_a_failed_restore_leaves_nothing(form: RestoreForm) -> None:
    """Whichever call fails; the store is as it was, and the same restore succeeds afterwards."""
    number, failures = 0, 0
    while True:
        number += 1
        world = World()
        plan = world.plan(form)
        names = world.store.image_names(world.uuid)
        world.host.fail_at(number)
        error = failure_of(world, plan)
        if error is None:
            break
        failures += 1
        if isinstance(error, StepError):
            assert "what the restore had made is removed" in error.state
            assert error.next_command.startswith("fibackup list")
        world.host.heal()
        assert world.store.restored == {}
        assert world.host.restored == {}
        assert world.store.image_names(world.uuid) == names
        Executor(None, world.store).run(plan)
    assert failures >= 7


def test_what_cannot_be_removed_is_said() -> None:
    """The error names it, and the reason."""
    world = World()
    plan = world.plan(RestoreForm.FLAT)
    calls = len(world.host.calls)
    Executor(None, world.store).run(plan)
    number = world.host.calls[calls:].index("flatten") + 3  # flatten, inodes, flatten
    world = World()
    world.host.fail_at(number, lasting=True)
    with pytest.raises(StepError) as caught:
        Executor(None, world.store).run(plan)
    assert "what could not be removed: " in caught.value.state
    assert INTO / "vda.qcow2" in world.store.restored


def test_a_file_of_somebody_else_stays() -> None:
    """It came between the check and the step; it is not ours to remove."""
    world = World()
    plan = world.plan(RestoreForm.FLAT)
    flatten = world.store.flatten

    def racing(*args: object) -> object:
        world.store.restored[INTO / "vdb.qcow2"] = {7: 7}
        return flatten(*args)  # type: ignore[arg-type]

    world.store.flatten = racing  # type: ignore[method-assign, assignment]
    with pytest.raises(StepError, match="exists"):
        Executor(None, world.store).run(plan)
    assert world.store.restored == {INTO / "vdb.qcow2": {7: 7}}


def test_a_guest_that_is_back_keeps_its_disks() -> None:
    """It runs on them: only its definition could not be set."""
    for after in (True, False):
        world = World()
        world.host.set_memory("web1", 42)
        world.take(BackupPolicy(memory=True, quiesce=Quiesce.OFF))
        world.host.shut_off("web1")
        history = world.store.read_history(world.uuid)
        plan = plan_restore(history, "latest", into=INTO, memory=True)
        calls = len(world.host.calls)
        Executor(world.host, world.store).run(plan)
        number = world.host.calls[calls:].index("resume_domain") + 1

        world = World()
        world.host.set_memory("web1", 42)
        world.take(BackupPolicy(memory=True, quiesce=Quiesce.OFF))
        world.host.shut_off("web1")
        world.host.fail_at(number, after=after)
        with pytest.raises(StepError) as caught:
            Executor(world.host, world.store).run(plan)
        assert ("the guest runs on the restored disks" in caught.value.state) is after
        assert bool(world.store.restored) is after
