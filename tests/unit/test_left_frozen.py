"""A guest that a killed run has left frozen: the ledger says so until a thaw was answered."""

from __future__ import annotations

import pytest

from fibackup.errors import AgentError, StepError
from fibackup.host.executor import Executor
from fibackup.model.domain import DomainState
from fibackup.model.ledger import Run, RunPhase
from fibackup.model.point import Consistency, RestorePoint
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.recover import plan_recovery
from fibackup.plan.report import Report
from fibackup.testing import AgentState, FakeHost, FakeStore


class Killed(BaseException):
    """The process is gone."""


class MuteHost(FakeHost):
    """A host on which the guest agent may be connected and answer nothing."""

    mute = False

    def thaw(self, uuid: str, timeout_seconds: float) -> int:
        """Thaw, or wait in vain."""
        if self.mute:
            self.calls.append("thaw")
            raise AgentError(reason="the guest may be frozen still: no answer", maybe_frozen=True)
        return super().thaw(uuid, timeout_seconds)


class World:
    """A domain with two points, whose third run was killed while the guest was frozen."""

    def __init__(self) -> None:
        """Make it."""
        self.host = MuteHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {1: 2}})
        self.store = FakeStore(self.host)
        for number in (1, 2):
            self.host.write("web1", "vda", 3, number)
            self.backup()
        self.host.write("web1", "vda", 4, 9)
        self.kill("take_snapshot")
        assert self.host.is_frozen("web1")
        self.host.mute = True

    @property
    def run(self) -> Run | None:
        """The run in the ledger."""
        return self.host.read_domain("web1").ledger.run

    def backup(self, quiesce: Quiesce = Quiesce.TRY, *, consolidate: bool = False) -> RestorePoint:
        """Take a point."""
        policy = BackupPolicy(quiesce=quiesce, consolidate=consolidate)
        domain, history = self.host.read_domain("web1"), self.store.read_history(self.uuid)
        plan = plan_backup(domain, history, now=self.host.now, policy=policy)
        point = Executor(self.host, self.store).run(plan).point
        assert point is not None
        return point

    def recover(self) -> Report:
        """Settle what is left."""
        domain, history = self.host.read_domain("web1"), self.store.read_history(self.uuid)
        plan = plan_recovery(domain, history, now=self.host.now)
        return Executor(self.host, self.store).run(plan)

    def kill(self, call: str, *, consolidate: bool = False) -> None:
        """Let a backup end for good at a call."""
        original = self.host._due
        gone = False

        def due(name: str) -> tuple[BaseException | None, BaseException | None]:
            nonlocal gone
            gone = gone or name == call
            return (Killed(), None) if gone else original(name)

        self.host._due = due  # type: ignore[method-assign]
        with pytest.raises(Killed):
            self.backup(consolidate=consolidate)
        self.host._due = original  # type: ignore[method-assign]
        self.store._shelf(self.uuid).written = False

    def settle(self) -> None:
        """The agent is well again: one recovery thaws the guest, and every point is right."""
        self.host.mute = False
        self.host.set_agent("web1", AgentState.CONNECTED)
        assert self.host.is_frozen("web1")
        self.recover()
        assert not self.host.is_frozen("web1")
        assert self.run is None
        assert self.recover().steps == ()
        self.host.write("web1", "vdb", 2, 3)
        point = self.backup(Quiesce.REQUIRE)
        assert point.consistency is Consistency.APPLICATION
        assert str(point.kind) == "increment"
        for each in self.store.read_history(self.uuid).points:
            moment = self.host.moment(self.uuid, each.id)
            for disk in each.disks:
                found = self.store.restore(self.uuid, each.id, disk.target)
                assert found == moment.disks[disk.target]


def test_a_recovery_whose_thaw_fails_is_not_the_last() -> None:
    """It warns, the ledger goes on saying frozen, and the next recovery tries again."""
    world = World()
    for _ in range(2):
        assert "virsh domfsthaw" in world.recover().warnings[0]
        assert world.run is not None
        assert world.run.frozen
    world.settle()


@pytest.mark.parametrize("agent", [AgentState.CONNECTED, AgentState.ABSENT])
@pytest.mark.parametrize("consolidate", [False, True])
@pytest.mark.parametrize("recovers", [False, True])
def test_backups_of_a_guest_that_cannot_be_thawed_do_not_forget_it(
    agent: AgentState, *, consolidate: bool, recovers: bool
) -> None:
    """Their points are crash-consistent increments, and a later recovery thaws."""
    world = World()
    world.host.set_agent("web1", agent)
    for _ in range(2):
        if recovers:
            world.recover()
        point = world.backup(consolidate=consolidate)
        assert (point.consistency, str(point.kind)) == (Consistency.CRASH, "increment")
        assert world.run is not None
        assert (world.run.phase, world.run.frozen) == (RunPhase.INTENT, True)
    world.settle()


def test_a_backup_that_must_quiesce_fails_and_does_not_forget_it() -> None:
    """It takes back its own intent, and not what the run before it has left."""
    world = World()
    with pytest.raises(StepError, match="frozen already"):
        world.backup(Quiesce.REQUIRE)
    assert world.run is not None
    assert world.run.frozen
    world.settle()


def test_a_point_is_finished_although_its_guest_cannot_be_thawed() -> None:
    """A run that was killed while it copied has its point, and the thaw is tried again."""
    world = World()
    world.kill("copy_image")
    assert world.run is not None
    assert (world.run.phase, world.run.frozen) == (RunPhase.TAKEN, True)
    point = world.run.point
    assert world.recover().point is not None
    assert world.store.read_history(world.uuid).points[-1].id == point
    assert (world.run.phase, world.run.frozen) == (RunPhase.INTENT, True)
    world.settle()


def test_a_kill_in_a_consolidation_does_not_forget_it() -> None:
    """The run that consolidates says frozen too."""
    world = World()
    world.kill("run_block_job", consolidate=True)
    assert world.run is not None
    assert (world.run.phase, world.run.frozen) == (RunPhase.CONSOLIDATING, True)
    world.settle()


def test_a_guest_that_went_off_is_frozen_no_more() -> None:
    """Nothing of a freeze outlives the guest."""
    world = World()
    world.host.set_agent("web1", AgentState.ABSENT)
    world.host.shut_off("web1")
    assert world.host.read_domain("web1").state is DomainState.SHUTOFF
    world.recover()
    assert world.run is None
