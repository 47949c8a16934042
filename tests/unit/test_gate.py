"""The gate is asked before each step, and keeps a step from beginning."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import fibackup as fb
from fibackup.testing import AgentState, FakeHost, FakeStore

NOW = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)


class World:
    """A domain with two disks and its plan."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.store = FakeStore(self.host)
        self.uuid = self.host.add_domain("web1", {"vda": {0: 7}, "vdb": {0: 8}})
        self.policy = fb.BackupPolicy(quiesce=fb.Quiesce.OFF)

    def plan(self) -> fb.Plan:
        """Plan from what is there now."""
        domain, history = self.host.read_domain("web1"), self.store.read_history(self.uuid)
        return fb.plan_backup(domain, history, now=NOW, policy=self.policy)


def test_the_gate_sees_each_step_right_before_it_begins() -> None:
    """In the order of the plan, after the event of its start and before that of its end."""
    world, seen = World(), list[object]()
    plan = world.plan()
    fb.Executor(world.host, world.store).run(plan, on_event=seen.append, gate=seen.append)
    steps = [each for each in seen if not isinstance(each, fb.CopyProgress | fb.ImageCopied)]
    assert [type(each).__name__ for each in steps] == [
        name for step in plan.steps for name in ("StepStarted", type(step).__name__, "StepFinished")
    ]


@pytest.mark.parametrize("index", range(4))
def test_a_gate_that_refuses_keeps_the_step_from_beginning(index: int) -> None:
    """What was before stands, nothing of the step is done, and a next run makes its point."""
    world = World()
    plan = world.plan()

    def refuse(step: fb.Step) -> None:
        if step is plan.steps[index]:
            raise fb.HostError(reason="not now")

    with pytest.raises(fb.StepError, match="not now") as caught:
        fb.Executor(world.host, world.store).run(plan, gate=refuse)
    assert caught.value.index == index
    snapshot = next(n for n, step in enumerate(plan.steps) if isinstance(step, fb.TakeSnapshot))
    assert ("no snapshot was taken" in caught.value.state) == (index <= snapshot)
    assert world.store.read_history(world.uuid).points == ()
    chain = world.host.read_domain("web1").disks[0].chain
    assert chain is not None
    assert len(chain.images) == (1 if index <= snapshot else 2)
    report = fb.Executor(world.host, world.store).run(world.plan())
    assert report.point is not None


@pytest.mark.parametrize("cancels", [False, True])
@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("quiesce", list(fb.Quiesce))
def test_a_run_that_ends_before_its_snapshot_leaves_nothing_to_settle(
    quiesce: fb.Quiesce, *, memory: bool, cancels: bool
) -> None:
    """Nothing was frozen and no overlay is there: the ledger is as before, and so is the guest."""
    world, cancel = World(), fb.CancelToken()
    world.host.set_agent("web1", AgentState.CONNECTED)
    world.policy = fb.BackupPolicy(quiesce=fb.Quiesce.OFF if memory else quiesce, memory=memory)
    before = world.host.read_domain("web1").ledger

    def refuse(step: fb.Step) -> None:
        if isinstance(step, fb.TakeSnapshot | fb.WhileFrozen):
            if not cancels:
                raise fb.HostError(reason="not now")
            cancel.cancel()

    with pytest.raises(fb.StepError) as caught:
        fb.Executor(world.host, world.store).run(world.plan(), gate=refuse, cancel=cancel)
    assert "no snapshot was taken" in caught.value.state
    assert world.host.read_domain("web1").ledger == before
    assert "thaw" not in world.host.calls
    assert fb.plan_recovery(world.host.read_domain("web1"), None, now=NOW).steps == ()


def test_an_intent_that_cannot_be_taken_back_is_settled_later() -> None:
    """What the run failed with is what is told, and the next run forgets the intent."""
    world = World()

    def refuse(step: fb.Step) -> None:
        if isinstance(step, fb.TakeSnapshot):
            world.host.fail_at(1, fb.LibvirtError(reason="gone"), lasting=True)
            raise fb.HostError(reason="not now")

    with pytest.raises(fb.StepError, match="not now"):
        fb.Executor(world.host, world.store).run(world.plan(), gate=refuse)
    world.host.heal()
    assert len(fb.plan_recovery(world.host.read_domain("web1"), None, now=NOW).steps) == 1


def test_a_run_that_is_cancelled_in_its_gate_ends_before_the_step() -> None:
    """Who asks to stop while the gate takes its time is heard."""
    world, cancel = World(), fb.CancelToken()

    def slow(step: fb.Step) -> None:
        if isinstance(step, fb.TakeSnapshot):
            cancel.cancel()

    with pytest.raises(fb.StepError) as caught:
        fb.Executor(world.host, world.store).run(world.plan(), gate=slow, cancel=cancel)
    assert isinstance(caught.value.__cause__, fb.CancelledError)
    assert "no snapshot was taken" in caught.value.state
