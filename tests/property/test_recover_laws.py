"""
The laws of a recovery: whatever a run was killed in, one recovery settles it.

::

    two points --> backup --consolidate, killed before or after its n-th call
               --> recover      the guest as before, not frozen; a second plan has no steps
               --> backup       every point reads as the guest did, no file lies around
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from attrs import evolve

from fibackup.errors import FibackupError
from fibackup.host.cancel import CancelToken
from fibackup.host.events import ignore_events
from fibackup.host.executor import Executor
from fibackup.model.ledger import Run, RunPhase
from fibackup.plan.backup import plan_backup
from fibackup.plan.consolidate import ConsolidationPolicy, Method, plan_consolidation, rolling
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.recover import plan_recovery
from fibackup.plan.steps import CommitImages, FinishBlockJob, Plan
from fibackup.testing import FakeHost, FakeStore

pytestmark = pytest.mark.property

TARGETS = ("vda", "vdb")


class Killed(BaseException):
    """The process is gone: nothing of ours runs after it."""


class World:
    """A domain with two points, which has written since."""

    def __init__(self) -> None:
        """Make it."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {1: 2}})
        self.store = FakeStore(self.host)
        self.backup()
        self.host.write("web1", "vda", 3, 9)
        self.backup()
        self.host.write("web1", "vdb", 4, 9)

    def plan(self, *, consolidate: bool = False) -> Plan:
        """Plan a backup."""
        domain, history = self.host.read_domain(self.uuid), self.store.read_history(self.uuid)
        policy = BackupPolicy(consolidate=consolidate)
        return plan_backup(domain, history, now=self.host.now, policy=policy)

    def backup(self, *, consolidate: bool = False) -> None:
        """Make a point."""
        Executor(self.host, self.store).run(self.plan(consolidate=consolidate))

    def consolidate(self, method: Method, *, keep: bool) -> None:
        """Shorten the chains."""
        policy = ConsolidationPolicy(method=method, keep_overlay=keep)
        plan = plan_consolidation(self.host.read_domain(self.uuid), policy=policy)
        Executor(self.host, None).run(plan)

    def plan_recovery(self) -> Plan:
        """Plan a recovery."""
        domain, history = self.host.read_domain(self.uuid), self.store.read_history(self.uuid)
        return plan_recovery(domain, history, now=self.host.now)

    def settle(self) -> Plan:
        """Plan a recovery and run it."""
        plan = self.plan_recovery()
        Executor(self.host, self.store).run(plan)
        return plan

    def recover(self) -> Plan:
        """Recover; the guest sees no difference, and nothing is left to do."""
        seen = self.sees()
        plan = self.settle()
        assert Plan.from_json(plan.to_json()) == plan
        assert str(plan)
        assert self.plan_recovery().steps == ()
        assert self.sees() == seen
        assert not self.host.is_frozen("web1")
        return plan

    def kill(self, act: Callable[[], object], number: int, *, after: bool) -> None:
        """Let a run end at its n-th call, and with it all that it would have done then."""
        self.host.fail_at(number, Killed(), after=after, lasting=True)
        with pytest.raises(Killed):
            act()
        self.host.heal()
        self.store._shelf(self.uuid).written = False  # the kernel lets its lock go

    def sees(self) -> dict[str, dict[int, int]]:
        """Return what the guest reads."""
        return {target: self.host.guest_sees("web1", target) for target in TARGETS}

    def check(self) -> None:
        """Every point reads as the guest did."""
        for point in self.store.read_history(self.uuid).points:
            moment = self.host.moment(self.uuid, point.id)
            assert {disk.target for disk in point.disks} == set(TARGETS)
            for disk in point.disks:
                found = self.store.restore(self.uuid, point.id, disk.target)
                assert found == moment.disks[disk.target], point.id

    def lying_around(self) -> set[str]:
        """Return the overlays of ours that no chain has."""
        disks = self.host.read_domain(self.uuid).disks
        used = {path for disk in disks if disk.chain for path in disk.chain.paths}
        return {path.name for path in self.host.images() if path not in used} - {
            "web1-vda.qcow2",
            "web1-vdb.qcow2",
        }


ACTS: dict[str, Callable[[World], None]] = {
    "backup": lambda world: world.backup(),
    "rolling": lambda world: world.backup(consolidate=True),
    "commit": lambda world: world.consolidate(Method.BLOCKCOMMIT, keep=False),
    "keep": lambda world: world.consolidate(Method.BLOCKCOMMIT, keep=True),
    "pull": lambda world: world.consolidate(Method.BLOCKPULL, keep=False),
    "pull and keep": lambda world: world.consolidate(Method.BLOCKPULL, keep=True),
}


def count(act: str) -> int:
    """Return how many calls an act makes."""
    world = World()
    begin = len(world.host.calls)
    ACTS[act](world)
    return len(world.host.calls) - begin


CASES = [(act, number) for act in ACTS for number in range(1, count(act) + 1)]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("act", "number"), CASES)
def test_a_run_that_is_killed_at_any_call_is_settled_by_one_recovery(
    *, act: str, number: int, after: bool
) -> None:
    """Kill, recover, write on, back up: points intact, guest unharmed, no file left over."""
    world = World()
    published = {point.id for point in world.store.read_history(world.uuid).points}
    world.kill(lambda: ACTS[act](world), number, after=after)
    plan = world.recover()
    world.check()
    assert published <= {point.id for point in world.store.read_history(world.uuid).points}
    assert len(world.lying_around()) == sum("is left as it is" in text for text in plan.warnings)
    world.host.write("web1", "vda", 5, 77)
    world.backup(consolidate=True)
    world.check()
    chains = [disk.chain for disk in world.host.read_domain(world.uuid).disks]
    assert {chain.depth for chain in chains if chain} <= {1, 2}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, count("rolling") + 1))
def test_a_backup_right_after_a_kill_needs_no_recovery(*, number: int, after: bool) -> None:
    """The next backup takes what is there; a recovery after it finds what it left at most."""
    world = World()
    world.kill(lambda: world.backup(consolidate=True), number, after=after)
    if not world.host.is_frozen("web1"):
        world.host.write("web1", "vdb", 5, 77)
    world.backup(consolidate=True)
    world.check()
    assert not world.host.is_frozen("web1")
    world.recover()
    assert world.lying_around() == set()
    world.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", ["rolling", "commit", "keep", "pull", "pull and keep"])
def test_what_one_call_leaves_unknown_of_a_disk_is_not_forgotten_by_the_next(
    *, act: str, after: bool
) -> None:
    """Fail once at any call: after one recovery every overlay is used, deleted, or told of."""
    for number in range(1, count(act) + 1):
        world = World()
        world.host.fail_at(number, after=after)
        with suppress(FibackupError):
            ACTS[act](world)
        world.host.heal()
        told = world.recover().warnings
        untold = {name for name in world.lying_around() if not any(name in text for text in told)}
        assert untold == set(), world.host.calls[-count(act) :]
        world.check()


def two_jobs() -> World:
    """Let both disks be committed by jobs whose starter is gone."""
    world = World()
    domain = world.host.read_domain(world.uuid)
    run = Run("-", "-", RunPhase.CONSOLIDATING)
    world.host.write_ledger(world.uuid, evolve(domain.ledger, run=run))
    for disk in domain.disks:
        assert disk.chain is not None
        part = rolling(domain.ledger, disk.chain)
        assert part is not None
        assert isinstance(part.job, CommitImages)
        world.host.leave_job("web1", part.job)
    return world


@pytest.mark.parametrize("number", range(1, 15))
def test_a_recovery_that_dies_between_two_jobs_is_settled_by_the_next(number: int) -> None:
    """The run stays in the ledger until the last job's end is known."""
    world = two_jobs()
    steps = world.plan_recovery().steps
    assert [type(step) for step in steps] == [FinishBlockJob, FinishBlockJob]
    world.kill(world.settle, number, after=False)
    for step in steps:  # the jobs go on without us
        assert isinstance(step, FinishBlockJob)
        if world.host.read_domain(world.uuid).disk(step.target).block_job is not None:
            world.host.finish_block_job(world.uuid, step, ignore_events, CancelToken())
    world.recover()
    assert world.lying_around() == set()
    world.check()


def _calls_of_a_recovery() -> int:
    world = World()
    world.kill(world.backup, 15, after=False)
    begin = len(world.host.calls)
    world.settle()
    return len(world.host.calls) - begin


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, _calls_of_a_recovery() + 1))
def test_a_recovery_that_is_killed_is_settled_by_the_next(*, number: int, after: bool) -> None:
    """Recovery is repeatable from wherever it stopped, and the point gets its own id."""
    world = World()
    world.kill(world.backup, 15, after=False)
    run = world.host.read_domain(world.uuid).ledger.run
    assert run is not None
    assert run.phase is RunPhase.TAKEN
    world.kill(world.settle, number, after=after)
    world.recover()
    found = world.store.read_history(world.uuid).point(run.point)
    assert "finished by recover" in found.consistency_detail
    world.check()
