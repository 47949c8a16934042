"""
The laws of a prune, over histories that nobody would write by hand.

::

    guest writes | goes off, comes back | points of some disks, live and off | consolidations
         `--------- prunes by any policy, with a fault at any call, then again ---------'
                                     |
       every point that the store lists reads as the guest did, at each moment; what the policy
       keeps is there; nothing is left over; the next point is an increment where one was due
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fibackup.errors import FibackupError, PlanError
from fibackup.host.executor import Executor
from fibackup.model.point import DiskKind, History
from fibackup.plan.backup import plan_backup
from fibackup.plan.consolidate import ConsolidationPolicy, plan_consolidation
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.prune import plan_prune
from fibackup.plan.retention import RetentionPolicy, choose_points
from fibackup.plan.steps import Plan
from fibackup.testing import Content, FakeHost, FakeStore

pytestmark = pytest.mark.property

DOMAIN = "web1"
TARGETS = ("vda", "vdb")
CLUSTERS = 6


@frozen
class Write:
    """The guest writes, when it runs."""

    target: str
    cluster: int
    value: int


@frozen
class Take:
    """A point of some disks."""

    disks: tuple[str, ...] = TARGETS
    full: bool = False


@frozen
class Turn:
    """The domain is shut off, or started."""


@frozen
class Consolidate:
    """All overlays of ours go down."""


@frozen
class Prune:
    """A prune; *at* is the call that fails, 0 for none. The next one keeps *more*, or the same."""

    last: int
    protected: int
    at: int = 0
    after: bool = False
    lasting: bool = False
    more: int = 0


@frozen
class Die:
    """A prune whose call *at* fails, and that nobody takes up but who writes next."""

    last: int
    protected: int
    at: int
    after: bool = False
    lasting: bool = False


Act = Write | Take | Turn | Consolidate | Prune | Die

writes = st.builds(
    Write, st.sampled_from(TARGETS), st.integers(0, CLUSTERS - 1), st.integers(0, 200)
)
takes = st.builds(
    Take,
    st.sampled_from([TARGETS, TARGETS, TARGETS, ("vda",), ("vdb",)]),
    st.sampled_from([False, False, False, True]),
)
prunes = st.builds(
    Prune,
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 25),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
)
deaths = st.builds(
    Die, st.integers(1, 4), st.integers(0, 3), st.integers(1, 25), st.booleans(), st.booleans()
)
acts: SearchStrategy[Act] = (
    writes | writes | takes | takes | prunes | deaths | st.builds(Turn) | st.builds(Consolidate)
)


class World:
    """A domain with two disks, a store, and what each point has to read."""

    def __init__(self) -> None:
        """Make the domain."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain(DOMAIN, {"vda": {2: 3}, "vdb": {}}, size_clusters=CLUSTERS)
        self.store = FakeStore(self.host)
        self.had: dict[str, dict[str, Content]] = {}
        self.running = True

    def act(self, what: Act) -> None:
        """Do it, and look at every point after."""
        match what:
            case Write():
                if self.running:
                    self.host.write(DOMAIN, what.target, what.cluster, what.value)
            case Take():
                self.take(BackupPolicy(disks=what.disks, full=what.full, quiesce=Quiesce.OFF))
            case Turn():
                (self.host.shut_off if self.running else self.host.start)(DOMAIN)
                self.running = not self.running
            case Consolidate():
                self.consolidate()
            case Prune():
                self.prune(what)
            case Die():
                self.die(what)
        self.every_point_reads_right()

    def plan(self, policy: BackupPolicy) -> Plan:
        """Plan the next point."""
        return plan_backup(
            self.host.read_domain(DOMAIN),
            self.store.read_history(self.uuid),
            now=self.host.now,
            policy=policy,
        )

    def take(self, policy: BackupPolicy) -> None:
        """Take a point; nothing writes meanwhile."""
        plan = self.plan(policy)
        had = {target: self.host.guest_sees(DOMAIN, target) for target in TARGETS}
        Executor(self.host, self.store).run(plan)
        self.had[plan.point] = dict(had)
        self.host.now += timedelta(hours=7)

    def consolidate(self) -> None:
        """Shorten the live chains, where that is allowed."""
        try:
            plan = plan_consolidation(
                self.host.read_domain(DOMAIN), policy=ConsolidationPolicy(keep_overlay=True)
            )
            Executor(self.host, None).run(plan)
        except PlanError:
            return

    def die(self, what: Die) -> None:
        """Prune, with a fault."""
        points = self.store.read_history(self.uuid).points
        if not points:
            return
        policy = RetentionPolicy(
            keep_last=what.last, protect=(points[what.protected % len(points)].id,)
        )
        self.host.fail_at(what.at, after=what.after, lasting=what.lasting)
        try:
            self.run_prune(policy)
        except FibackupError:
            pass
        finally:
            self.host.heal()

    def prune(self, what: Prune) -> None:
        """Prune, with a fault; then again without one."""
        points = self.store.read_history(self.uuid).points
        if not points:
            return
        protect = (points[what.protected % len(points)].id,)
        policy = RetentionPolicy(keep_last=what.last, protect=protect)
        before = self.due()
        if what.at:
            self.host.fail_at(what.at, after=what.after, lasting=what.lasting)
        try:
            self.run_prune(policy)
        except FibackupError:
            assert what.at
        finally:
            self.host.heal()
        self.every_point_reads_right()
        assert self.due() == before
        there = {point.id for point in self.store.read_history(self.uuid).points}
        policy = RetentionPolicy(keep_last=what.last + what.more, protect=tuple(there & {*protect}))
        self.run_prune(policy)
        self.every_point_reads_right()
        assert self.due() == before
        self.nothing_is_left_over(policy)

    def run_prune(self, policy: RetentionPolicy) -> None:
        """Finish what was left and is not to be kept now, plan, run."""

        def spared(found: History) -> set[str]:
            return {v.point for v in choose_points(found, policy, now=self.host.now) if v.kept}

        kept = spared(self.store.read_history(self.uuid))
        with self.store.locked(self.uuid, DOMAIN, exclusive=True, spared=spared):
            history = self.store.read_history(self.uuid)
        plan = plan_prune(history, policy, now=self.host.now)
        assert Plan.from_json(plan.to_json()) == plan
        Executor(None, self.store).run(plan)
        left = [point.id for point in self.store.read_history(self.uuid).points]
        assert left == [verdict.point for verdict in plan.verdicts if verdict.kept]
        past = [point for point in history.points if point.time <= self.host.now]
        last = (point.id for point in past[-policy.keep_last :])
        assert {*policy.protect, *last, history.points[-1].id} <= set(left)
        assert kept <= set(left)

    def due(self) -> list[tuple[str, DiskKind | None, str | None]]:
        """Return what the next point of each disk would be."""
        plan = self.plan(BackupPolicy(quiesce=Quiesce.OFF))
        newest = self.store.read_history(self.uuid).points[-1]
        disks = {disk.target for disk in newest.disks}
        return [(d.target, d.kind, d.parent) for d in plan.decisions if d.target in disks]

    def every_point_reads_right(self) -> None:
        """By the backing names in the stored images alone, and by the plan of a restore."""
        history = self.store.read_history(self.uuid)
        assert history.damaged == frozenset()
        for point in history.points:
            for disk in point.disks:
                found = self.store.restore(self.uuid, point.id, disk.target)
                assert found == self.had[point.id][disk.target], (point.id, disk.target)
                assert history.images(point.id, disk.target)

    def nothing_is_left_over(self, policy: RetentionPolicy) -> None:
        """No file without a manifest, no journal, nothing to do."""
        history = self.store.read_history(self.uuid)
        assert history.unclaimed == frozenset()
        named = {file.name for point in history.points for file in point.files}
        shelf = self.store._shelf(self.uuid)
        assert set(shelf.files) == named
        assert shelf.removal is None
        assert set(shelf.seals) == set(shelf.manifests)
        assert shelf.merge is None
        assert plan_prune(history, policy, now=self.host.now).steps == ()


AN_OFFLINE_FULL = [
    Take(TARGETS, full=False),
    Take(TARGETS, full=False),
    Turn(),
    Take(TARGETS, full=True),
]
A_CHAIN_GOES = [*(Take(TARGETS, full=False) for _ in range(3)), Take(TARGETS, full=True)]


A_DISK_GOES = [*(Take(TARGETS, full=False) for _ in range(2)), Take(("vdb",), full=False)]


@given(st.lists(acts, max_size=25))
@example([*AN_OFFLINE_FULL, Prune(1, 1)])
@example([*AN_OFFLINE_FULL, Prune(1, 3), Turn(), Prune(1, 3)])
@example([*A_CHAIN_GOES, Prune(1, 3, 9)])
@example([*A_CHAIN_GOES, Prune(1, 3, 9, lasting=True)])
@example([*A_DISK_GOES, Die(1, 2, 11, lasting=True), Take(), Take(), Prune(1, 4)])
def test_kept_points_read_the_same_whatever_happens(what: list[Act]) -> None:
    """A fault at any call of a prune, before or after its effect, or a power cut."""
    world = World()
    for each in what:
        world.act(each)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("at", range(1, 20))
def test_what_a_prune_had_begun_may_not_be_wanted_any_more(
    *, at: int, after: bool, lasting: bool
) -> None:
    """The next one keeps more, and merges what the first had left because it was the newest."""
    world = World()
    for each in (Take(), Write("vda", 1, 2), Take(), Prune(1, 1), Write("vda", 2, 3), Take()):
        world.act(each)
    world.act(Prune(1, 1, at, after=after, lasting=lasting, more=1))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
def test_every_call_of_a_prune_may_be_the_last(*, after: bool, lasting: bool) -> None:
    """All calls, one by one, of a prune that drops points, hands images over and merges them."""
    at, failed = 0, True
    while failed:
        at += 1
        world = World()
        for number in range(6):
            world.act(Write("vda", number % 4, number + 1))
            world.act(Write("vdb", number % 3, number + 9))
            world.act(Take())
        world.host.fail_at(at, after=after, lasting=lasting)
        policy = RetentionPolicy(keep_last=2, protect=(sorted(world.had)[1],))
        try:
            world.run_prune(policy)
            failed = False
        except FibackupError:
            pass
        world.host.heal()
        world.every_point_reads_right()
        for each in (RetentionPolicy(keep_last=6), policy):  # what it had begun counts for nothing
            world.run_prune(each)
            world.every_point_reads_right()
            world.nothing_is_left_over(each)
    assert at > 15


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("at", range(1, 20))
def test_backups_after_a_prune_that_died_read_right(
    *, at: int, lasting: bool, running: bool
) -> None:
    """It was taking away the last points of a disk, on which the next one would have lain."""
    world = World()
    off = () if running else (Turn(), Take())
    for each in (Take(), Write("vda", 1, 2), Take(), *off, Take(("vdb",))):
        world.act(each)
    newest = len(world.had) - 1
    for each in (Die(1, newest, at, lasting=lasting), Take(), Take(("vda",)), Prune(1, newest)):
        world.act(each)
