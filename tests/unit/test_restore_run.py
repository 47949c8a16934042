"""A restore that fails leaves nothing behind: everything in memory, a fault at each call."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import PurePosixPath
from threading import Barrier
from threading import enumerate as enumerate_threads

import pytest
from typing_extensions import override

from fibackup.errors import (
    CancelledError,
    FibackupError,
    RequirementError,
    StepError,
    VerifyError,
)
from fibackup.host import restore_run, side_by_side
from fibackup.host.cancel import CancelToken
from fibackup.host.events import OnEvent
from fibackup.host.executor import Executor
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.report import RestoredImage
from fibackup.plan.restore import RestoreForm, plan_restore
from fibackup.plan.steps import FlattenImage, Plan
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
            assert error.next_command == f"fibackup verify --store /backup {world.uuid}"
        world.host.heal()
        assert world.store.restored == {}
        assert world.host.restored == {}
        assert world.store.image_names(world.uuid) == names
        Executor(None, world.store).run(plan)
    assert failures >= 7


@pytest.mark.parametrize("form", RestoreForm)
def test_a_missing_qemu_img_is_found_before_the_first_step(form: RestoreForm) -> None:
    """Copies of the stored images are made without it."""
    world = World()
    world.store.has_qemu_img = False
    if form is RestoreForm.CHAIN:
        assert failure_of(world, world.plan(form)) is None
        return
    assert isinstance(failure_of(world, world.plan(form)), RequirementError)
    assert world.store.restored == {}


def test_what_cannot_be_removed_is_said() -> None:
    """The error names it, and the reason."""
    world = World()
    plan = world.plan(RestoreForm.FLAT)
    calls = len(world.host.calls)
    Executor(None, world.store, threads=1).run(plan)
    number = world.host.calls[calls:].index("flatten") + 3  # flatten, inodes, flatten
    world = World()
    world.host.fail_at(number, lasting=True)
    with pytest.raises(StepError) as caught:
        Executor(None, world.store, threads=1).run(plan)
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


# --- several disks ------------------------------------------------------------------------------


Wait = Callable[[FlattenImage, CancelToken], object]


class Lanes(FakeStore):
    """A store in which each disk waits for something before it is brought back."""

    def __init__(
        self, world: World, wait_for: Callable[[FlattenImage, CancelToken], object]
    ) -> None:
        """Hold the points of a world."""
        super().__init__(world.host)
        self.__dict__.update(world.store.__dict__)
        self.wait_for = wait_for

    @override
    def flatten(
        self, uuid: str, step: FlattenImage, on_event: OnEvent, cancel: CancelToken
    ) -> RestoredImage:
        """Wait, then do it."""
        self.wait_for(step, cancel)
        return super().flatten(uuid, step, on_event, cancel)


def until_cancelled(cancel: CancelToken) -> None:
    """Work on until somebody says stop."""
    for _ in range(1000):
        cancel.check()
        time.sleep(0.01)
    pytest.fail("nobody stopped it")


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the process enough of them for two disks."""
    monkeypatch.setattr(restore_run, "usable_cores", lambda: 2)


def test_a_disk_that_comes_back_keeps_a_core_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no more, disks are brought back one by one."""
    world, at_once, most = World(), 0, 0

    def count(_step: FlattenImage, _cancel: CancelToken) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.05)
        at_once -= 1

    monkeypatch.setattr(restore_run, "usable_cores", lambda: 1)
    Executor(None, Lanes(world, count)).run(world.plan(RestoreForm.FLAT))
    assert most == 1


@pytest.mark.usefixtures("cores")
def test_disks_are_brought_back_at_the_same_time() -> None:
    """Each waits for the other; the report has them in the order of the plan."""
    world, both = World(), Barrier(2)
    store = Lanes(world, lambda _step, _cancel: both.wait(10))
    report = Executor(None, store).run(world.plan(RestoreForm.FLAT))
    assert [image.target for image in report.restored] == ["vda", "vdb"]
    assert {image.target: store.restored[image.path] for image in report.restored} == CONTENT


def test_one_at_a_time_is_one_thread() -> None:
    """In the order of the plan; a disk that has not begun when one fails, does not."""
    world, seen = World(), list[str]()

    def fail(step: FlattenImage, _cancel: CancelToken) -> None:
        seen.append(step.target)
        raise VerifyError(reason="a bit has flipped", path="x")

    with pytest.raises(StepError) as caught:
        Executor(None, Lanes(world, fail), threads=1).run(world.plan(RestoreForm.FLAT))
    assert isinstance(caught.value.__cause__, VerifyError)
    assert seen == ["vda"]


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("bad", ["vda", "vdb"])
def test_a_disk_that_fails_stops_the_others(bad: str) -> None:
    """The error is that disk's own, not that the others were stopped; nothing is left."""
    world, begun = World(), Barrier(2)

    def wait_for(step: FlattenImage, cancel: CancelToken) -> None:
        begun.wait(10)
        if step.target == bad:
            raise VerifyError(reason="a bit has flipped", path="x")
        until_cancelled(cancel)

    store = Lanes(world, wait_for)
    with pytest.raises(StepError, match="a bit has flipped") as caught:
        Executor(None, store).run(world.plan(RestoreForm.FLAT))
    assert isinstance(caught.value.__cause__, VerifyError)
    assert store.restored == {}


@pytest.mark.usefixtures("cores")
def test_a_cancelled_restore_stops_every_disk() -> None:
    """By the token of the caller."""
    world, token = World(), CancelToken()

    def wait_for(step: FlattenImage, cancel: CancelToken) -> None:
        if step.target == "vdb":
            token.cancel()
        until_cancelled(cancel)

    store = Lanes(world, wait_for)
    with pytest.raises(StepError) as caught:
        Executor(None, store).run(world.plan(RestoreForm.FLAT), cancel=token)
    assert isinstance(caught.value.__cause__, CancelledError)
    assert store.restored == {}


@pytest.mark.usefixtures("cores")
def test_an_interrupt_waits_for_the_disks_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a notebook: when the call has come back, nobody writes any more."""
    world, ended = World(), list[str]()

    def interrupted(_futures: object) -> None:
        raise KeyboardInterrupt

    def wait_for(step: FlattenImage, cancel: CancelToken) -> None:
        try:
            until_cancelled(cancel)
        finally:
            ended.append(step.target)

    monkeypatch.setattr(side_by_side, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Executor(None, Lanes(world, wait_for)).run(world.plan(RestoreForm.FLAT))
    assert set(ended) <= {"vda", "vdb"}
    assert not [thread for thread in enumerate_threads() if "fibackup-restore" in thread.name]
