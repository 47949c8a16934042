"""
The laws of a backup, over histories that nobody would write by hand.

::

    guest writes | owner restarts | an administrator commits, pulls, replaces, resizes
         `------- backups to two stores, of some disks, with a fault at any call -------'
                                     |
                 every published point reads as the guest did at its snapshot, for ever
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest
from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fibackup.errors import FibackupError, ManifestError, PlanError, VerifyError
from fibackup.host.events import CopyProgress, Event
from fibackup.host.executor import Executor
from fibackup.model.chain import Image
from fibackup.model.point import History, format_point_id, parse_point_id
from fibackup.model.verification import FaultKind
from fibackup.plan.backup import plan_backup
from fibackup.plan.consolidate import ConsolidationPolicy, Method, plan_consolidation
from fibackup.plan.outlook import foresee
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.prune import plan_prune
from fibackup.plan.recover import plan_recovery
from fibackup.plan.report import Report
from fibackup.plan.restore import RestoreForm, plan_restore
from fibackup.plan.retention import RetentionPolicy
from fibackup.plan.steps import CopyImage, DeleteOverlays, EachDisk, FinishBlockJob, Plan
from fibackup.plan.verify import VerifyPolicy, plan_verify
from fibackup.testing import CLUSTER_BYTES, AgentState, Content, FakeHost, FakeStore

pytestmark = pytest.mark.property

STORES = ("5702e000-0000-4000-8000-00000000000a", "5702e000-0000-4000-8000-00000000000b")
DOMAIN = "web1"
TARGETS = ("vda", "vdb")
CLUSTERS = 6
TEMPLATE = PurePosixPath("/images/template.qcow2")


@frozen
class Fault:
    """One call that fails."""

    at: int
    after: bool = False
    lasting: bool = False
    error: BaseException | None = field(default=None, eq=False)


class World:
    """A domain whose two disks lie on one template, two stores, and all that was promised."""

    def __init__(self) -> None:
        """Make the domain; it has written something."""
        self.host = FakeHost()
        self.host.add_image(TEMPLATE, {0: 1, 1: 2}, size_clusters=CLUSTERS)
        self.uuid = self.host.add_domain(
            DOMAIN, {"vda": {2: 3}, "vdb": {}}, size_clusters=CLUSTERS, template=TEMPLATE
        )
        self.stores = tuple(
            FakeStore(self.host, uuid=uuid, path=f"/backup{number}")
            for number, uuid in enumerate(STORES)
        )
        self.had: dict[tuple[int, str], Mapping[str, Content]] = {}
        self.off_images: set[tuple[PurePosixPath, str, str]] = set()
        self.links: dict[PurePosixPath, tuple[int, str, tuple[str, ...]]] = {}
        self.lost: tuple[set[tuple[str, str]], ...] = (set(), set())
        self.rotten: set[tuple[int, str, str]] = set()
        self.known_rotten: set[tuple[int, str, str]] = set()
        for store in self.stores:
            store.while_copying = lambda step, store=store: self._not_copied_before(store, step)

    # --- acts -----------------------------------------------------------------------------------

    def plan(self, store: int = 0, policy: BackupPolicy | None = None) -> Plan:
        """Plan, and hold the plan to the laws of plans."""
        history = self.stores[store].read_history(self.uuid)
        domain = self.host.read_domain(DOMAIN)
        plan = plan_backup(domain, history, now=self.host.now, policy=policy)
        assert Plan.from_json(plan.to_json()) == plan
        self._every_backing_is_stored(plan, store)
        return plan

    def run(self, plan: Plan, store: int = 0) -> Report:
        """Run a plan; whatever happens, no image that was there is written."""
        with self._only_a_commit_writes(plan):
            report = Executor(self.host, self.stores[store]).run(plan)
        self._the_chains_are_as_foreseen(plan)
        assert Report.from_json(report.to_json()) == report
        history = self.stores[store].read_history(self.uuid)
        for disk in history.point(plan.point).disks:
            assert _is_whole(history, plan.point, disk.target)
            found = self._rotten_under(store, history, plan.point, disk.target)
            assert not found & self.known_rotten, (plan.point, disk.target)
        return report

    def backup(
        self, store: int = 0, policy: BackupPolicy | None = None, fault: Fault | None = None
    ) -> Report | None:
        """Plan and run; None when it failed, as it may only with a fault."""
        had = {target: self.host.guest_sees(DOMAIN, target) for target in self._targets()}
        begin, moments = len(self.host.calls), len(self.host.moments)
        frozen_before = self.host.is_frozen(DOMAIN)
        point = ""
        if fault is not None:
            self.host.fail_at(fault.at, fault.error, after=fault.after, lasting=fault.lasting)
        try:
            plan = self.plan(store, policy)
            point = plan.point
            return self.run(plan, store)
        except (FibackupError, KeyboardInterrupt):
            if fault is None:
                raise
            return None
        finally:
            self.host.heal()
            taken = self.host.moments[moments:]  # none while the domain is off
            self.had[store, point] = taken[-1].disks if taken else had
            if not frozen_before:
                self._no_guest_is_left_frozen(begin, fault)

    def consolidate(
        self, policy: ConsolidationPolicy | None = None, fault: Fault | None = None
    ) -> Report | None:
        """Plan and run a consolidation; None when it was refused, or failed with a fault."""
        seen = {target: self.host.guest_sees(DOMAIN, target) for target in self._targets()}
        if fault is not None:
            self.host.fail_at(fault.at, fault.error, after=fault.after, lasting=fault.lasting)
        try:
            plan = plan_consolidation(self.host.read_domain(DOMAIN), policy=policy)
            assert Plan.from_json(plan.to_json()) == plan
            with self._only_a_commit_writes(plan):
                report = Executor(self.host, None).run(plan)
            self._the_chains_are_as_foreseen(plan)
            return report
        except PlanError:  # refused: nothing was touched
            return None
        except (FibackupError, KeyboardInterrupt):
            if fault is None:
                raise
            return None
        finally:
            self.host.heal()
            assert seen == {target: self.host.guest_sees(DOMAIN, target) for target in seen}

    def _targets(self) -> tuple[str, ...]:
        return tuple(disk.target for disk in self.host.read_domain(DOMAIN).disks)

    def recover(self, store: int = 0, fault: Fault | None = None) -> None:
        """Recover with a store at hand, perhaps the wrong one; only a thaw that failed is left."""
        if fault is not None:
            self.host.fail_at(fault.at, fault.error, after=fault.after, lasting=fault.lasting)
        try:
            self._recover(store)
        except FibackupError:
            if fault is None:
                raise
            return
        finally:
            self.host.heal()
        run = self.host.read_domain(DOMAIN).ledger.run
        if fault is None or run is None or not run.frozen:
            assert self.plan_recovery(store).steps == ()

    def plan_recovery(self, store: int) -> Plan:
        """Plan a recovery, and hold the plan to the laws of plans."""
        history = self.stores[store].read_history(self.uuid)
        plan = plan_recovery(self.host.read_domain(DOMAIN), history, now=self.host.now)
        assert Plan.from_json(plan.to_json()) == plan
        self._every_backing_is_stored(plan, store)
        return plan

    def _recover(self, store: int) -> None:
        plan = self.plan_recovery(store)
        seen = {target: self.host.guest_sees(DOMAIN, target) for target in TARGETS}
        with self._only_a_commit_writes(plan):
            Executor(self.host, self.stores[store]).run(plan)
        assert {target: self.host.guest_sees(DOMAIN, target) for target in TARGETS} == seen

    def prune(self, store: int, keep_last: int, protected: int, fault: Fault | None = None) -> None:
        """Prune, unless the store has lost too much; what is kept was whole, and is."""
        shelf = self.stores[store]
        with shelf.locked(self.uuid, DOMAIN, exclusive=True):  # finishes what was left
            history = shelf.read_history(self.uuid)
        if not history.points:
            return
        protect = (history.points[protected % len(history.points)].id,)
        try:
            policy = RetentionPolicy(keep_last=keep_last, protect=protect)
            used = shelf.images_in_use(self.uuid)
            tomorrow = self.host.now + timedelta(days=1)
            plan = plan_prune(history, policy, now=tomorrow, in_use=used)
        except (ManifestError, VerifyError):  # refused
            return
        if fault is not None:
            self.host.fail_at(fault.at, fault.error, after=fault.after, lasting=fault.lasting)
        try:
            Executor(None, shelf).run(plan)
        except (FibackupError, KeyboardInterrupt) as error:
            if fault is None and not (self.rotten and isinstance(error.__cause__, VerifyError)):
                raise
        finally:
            self.host.heal()
        after = shelf.read_history(self.uuid)
        for point in after.points:
            for disk in point.disks:
                was = _is_whole(history, point.id, disk.target)
                assert _is_whole(after, point.id, disk.target) == was, (point.id, disk.target)

    def link(self, store: int, which: int, target: str) -> None:
        """Bring a disk of a point back as an overlay, whose domain is off from now on."""
        shelf = self.stores[store]
        history = shelf.read_history(self.uuid)
        if not history.points:
            return
        point = history.points[which % len(history.points)].id
        into = PurePosixPath(f"/linked/{len(self.links)}")
        try:
            plan = plan_restore(history, point, into=into, disks=(target,), form=RestoreForm.LINKED)
            [image] = Executor(None, shelf).run(plan).restored
        except FibackupError:  # no such disk, or what it needs is damaged
            return
        names = tuple(image.name for image in history.images(point, target))
        self.links[image.path] = store, target, names

    def unlink(self, which: int) -> None:
        """Remove an overlay, or pull it local."""
        if self.links:
            path = sorted(self.links)[which % len(self.links)]
            store, _, _ = self.links.pop(path)
            self.stores[store].discard(path, 1)

    def every_linked_disk_has_its_images(self) -> None:
        """Law (j): under their names, what nobody has damaged or taken away by hand."""
        for path, (store, target, names) in self.links.items():
            there = {name for each, name in self.stores[store].image_names(self.uuid)}
            by_hand = {name for each, name in self.lost[store] if each == target}
            rotten = {name for each, of, name in self.rotten if (each, of) == (store, target)}
            assert set(names) <= there | by_hand, path
            if not (by_hand | rotten) & set(names):
                found = self.stores[store]._shelf(self.uuid).read(target, names[0])
                assert found == self.stores[store].restored[path], path

    def rot(self, store: int, which: int) -> None:
        """Flip bits of a stored image; nobody knows of it."""
        names = self.stores[store].image_names(self.uuid)
        if names:
            target, name = names[which % len(names)]
            self.stores[store].damage(self.uuid, target, name)
            self.rotten.add((store, target, name))

    def verify(self, store: int, *, deep: bool, fault: Fault | None = None) -> None:
        """Verify; what is rotten is found, and nothing else is called so."""
        if fault is not None:
            self.host.fail_at(fault.at, fault.error, after=fault.after, lasting=fault.lasting)
        try:
            survey = self.stores[store].survey(self.uuid)
            plan = plan_verify(survey, now=self.host.now, policy=VerifyPolicy(deep=deep))
            report = Executor(None, self.stores[store]).run(plan)
        except (FibackupError, KeyboardInterrupt):
            if fault is None:
                raise
            return
        finally:
            self.host.heal()
        found = report.verification
        assert found is not None
        history = self.stores[store].read_history(self.uuid)
        rotten = {each for each in self.rotten if each[0] == store}
        named = {f"{d.target}/{i.name}" for p in history.points for d in p.disks for i in d.images}
        there = {f"{target}/{name}" for _, target, name in rotten} & named - history.damaged
        wrong = {each.file for each in found.faults if each.kind is FaultKind.SHA256}
        assert wrong == there
        assert history.found_wrong >= there
        self.known_rotten |= {each for each in rotten if f"{each[1]}/{each[2]}" in there}
        for point in history.points:
            whole = all(
                _is_whole(history, point.id, disk.target)
                and not self._rotten_under(store, history, point.id, disk.target)
                for disk in point.disks
            )
            assert (point.id in found.whole) == whole, point.id

    def _rotten_under(
        self, store: int, history: History, point: str, target: str
    ) -> set[tuple[int, str, str]]:
        images = history.images(point, target)
        return {(store, target, image.name) for image in images} & self.rotten

    def finish(self, store: int = 0) -> None:
        """Recover from whatever there was: plan again, finish, and need one copy for each disk."""
        targets = tuple(disk.target for disk in self.host.read_domain(DOMAIN).disks)
        self.backup(store, BackupPolicy(quiesce=Quiesce.OFF, consolidate=True))
        assert sorted(copy.target for copy in self.plan(store).copies) == sorted(targets)
        assert self.plan(store).cost_bytes > 0
        self.every_point_reads_as_the_guest_did()

    # --- laws -----------------------------------------------------------------------------------

    def every_point_reads_as_the_guest_did(self) -> None:
        """Law (d): each disk of each published point holds what it held at the snapshot."""
        for number, store in enumerate(self.stores):
            history = store.read_history(self.uuid)
            for point in history.points:
                had = self.had[number, point.id]
                for disk in point.disks:
                    if not _is_whole(history, point.id, disk.target):
                        continue
                    if not self._rotten_under(number, history, point.id, disk.target):
                        found = store.restore(self.uuid, point.id, disk.target)
                        assert found == had[disk.target], (point.id, disk)

    def _every_backing_is_stored(self, plan: Plan, store: int) -> None:
        """Law (a) and (b): at every prefix of the plan, and no name twice."""
        stored = set(self.stores[store].image_names(self.uuid))
        for copy in plan.copies:
            assert copy.backing is None or (copy.target, copy.backing) in stored, str(plan)
            assert (copy.target, copy.name) not in stored, str(plan)
            stored.add((copy.target, copy.name))

    def _not_copied_before(self, store: FakeStore, step: CopyImage) -> None:
        """Law (g): no receipt says that this very image is in the store, on the same backing."""
        identity = self.host.image(step.source)[0].identity
        for target, name in store.image_names(self.uuid):
            record = store.stored(self.uuid, target, name)
            known = (target, name) in store._shelf(self.uuid).receipts
            known = known and (store.path, target, name) not in self.off_images
            same = (target, record.source.path) == (step.target, str(step.source))
            same = same and record.source.identity == identity and record.backing == step.backing
            assert not (same and known), f"{step.source} is copied again"

    @contextmanager
    def _only_a_commit_writes(self, plan: Plan) -> Iterator[None]:
        """Law (c): a run makes overlays; images that were there are written by its commits only."""
        before = self.host.images()
        may_change = {
            path
            for step in plan.steps
            if isinstance(step, EachDisk)
            for disk in step.disks
            for path in (*disk.touched, disk.job.leaves[0])
        }
        chains = {
            disk.target: set(disk.chain.paths)
            for disk in self.host.read_domain(DOMAIN).disks
            if disk.chain
        }
        for step in plan.steps:
            if isinstance(step, DeleteOverlays):
                assert not set(step.paths) & set().union(*chains.values())
                may_change.update(step.paths)
            elif isinstance(step, FinishBlockJob):
                may_change.update(chains[step.target] - {TEMPLATE})
        try:
            yield
        finally:
            after = self.host.images()
            kept = {path: image for path, image in before.items() if path not in may_change}
            assert {path: after[path] for path in kept} == kept

    def _the_chains_are_as_foreseen(self, plan: Plan) -> None:
        """Law (i): after a run each chain is the one that was computed from the steps alone."""
        chains = {disk.target: disk.chain for disk in self.host.read_domain(DOMAIN).disks}
        for outlook in foresee(plan):
            chain = chains[outlook.target]
            assert chain is not None
            assert chain.paths == outlook.after, str(plan)

    def _no_guest_is_left_frozen(self, begin: int, fault: Fault | None) -> None:
        """Law (h): a frozen guest means that the thaw was tried, and was what failed."""
        if not self.host.is_frozen(DOMAIN):
            return
        calls = self.host.calls[begin:]
        assert "thaw" in calls
        assert fault is not None
        assert fault.lasting or calls[fault.at - 1] == "thaw"


def _is_whole(history: History, point: str, target: str) -> bool:
    try:
        return history.damage(point, target) is None
    except ManifestError:
        return False


# --- plain laws ---------------------------------------------------------------------------------


def _two_points() -> World:
    world = World()
    world.backup()
    world.host.write(DOMAIN, "vda", 1, 10)
    world.backup()
    world.host.write(DOMAIN, "vdb", 2, 11)
    return world


def _calls_of_a_backup() -> list[str]:
    world = _two_points()
    begin = len(world.host.calls)
    world.backup()
    return world.host.calls[begin:]


CALLS = _calls_of_a_backup()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("number", range(1, len(CALLS) + 1))
@pytest.mark.parametrize("interrupt", [False, True], ids=["error", "interrupt"])
def test_a_backup_that_fails_at_any_call_is_finished_by_the_next(
    *, number: int, after: bool, lasting: bool, interrupt: bool
) -> None:
    """Fail at any call, plan again, finish: every point reads as the guest did, no exception."""
    world = _two_points()
    error = KeyboardInterrupt() if interrupt else None
    world.backup(fault=Fault(number, after, lasting, error))
    if world.host.is_frozen(DOMAIN):
        world.host.thaw(world.uuid, 1)
    world.host.write(DOMAIN, "vda", 3, 12)
    world.finish()


@pytest.mark.parametrize("number", range(1, len(CALLS) + 1))
def test_a_base_that_changes_before_a_failure_never_ends_in_a_wrong_increment(number: int) -> None:
    """A foreign commit, then a run that fails at any call: no later point reads wrong."""
    world = _two_points()
    world.host.foreign_write(TEMPLATE, 4, 77)
    world.backup(fault=Fault(number, after=True))
    if world.host.is_frozen(DOMAIN):
        world.host.thaw(world.uuid, 1)
    world.finish()


def _consolidated(policy: ConsolidationPolicy, fault: Fault | None, *, off: bool) -> World:
    world = _two_points()
    if off:
        world.host.shut_off(DOMAIN)
    world.consolidate(policy, fault)
    if off:
        world.host.start(DOMAIN)
    return world


@pytest.mark.parametrize("number", range(1, 25))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("form", ["commit", "rolling", "pull", "rolling pull", "off"])
def test_a_consolidation_that_fails_at_any_call_harms_nothing(
    *, form: str, lasting: bool, after: bool, number: int
) -> None:
    """Fail at any call, in any form: the guest sees the same, and both stores can go on."""
    method = Method.BLOCKPULL if "pull" in form else Method.BLOCKCOMMIT
    policy = ConsolidationPolicy(method=method, keep_overlay="rolling" in form)
    world = _consolidated(policy, Fault(number, after, lasting), off=form == "off")
    world.host.write(DOMAIN, "vda", 3, 12)
    world.backup(1)
    world.host.write(DOMAIN, "vda", 4, 13)
    world.finish()
    world.finish(1)
    assert world.host.images()[TEMPLATE] == World().host.images()[TEMPLATE]


@pytest.mark.parametrize("number", [None, *range(1, 25)])
@pytest.mark.parametrize("keep_overlay", [False, True], ids=["full", "rolling"])
@pytest.mark.parametrize("method", Method)
def test_a_template_that_changed_is_not_forgotten_with_the_overlays_of_one_disk(
    *, method: Method, keep_overlay: bool, number: int | None
) -> None:
    """Two disks lie on it: what one of them loses by a consolidation, the other must not forget."""
    world = _two_points()
    world.host.foreign_write(TEMPLATE, 4, 77)
    policy = ConsolidationPolicy(method=method, keep_overlay=keep_overlay, disks=("vda",))
    world.consolidate(policy, Fault(number) if number else None)
    world.recover()
    world.finish()


@pytest.mark.parametrize("keep_overlay", [False, True], ids=["full", "rolling"])
@pytest.mark.parametrize("method", Method)
def test_a_template_that_changes_while_a_block_job_runs_is_not_overlooked(
    *, method: Method, keep_overlay: bool
) -> None:
    """A job writes no template, so what is written down of it stays."""
    world = _two_points()

    def write(event: Event) -> None:
        if isinstance(event, CopyProgress):
            world.host.foreign_write(TEMPLATE, 4, 77)

    policy = ConsolidationPolicy(method=method, keep_overlay=keep_overlay, disks=("vda",))
    plan = plan_consolidation(world.host.read_domain(DOMAIN), policy=policy)
    Executor(world.host, None).run(plan, on_event=write)
    world.finish()


@pytest.mark.parametrize("number", range(10, 25))
def test_a_recovery_deletes_what_no_chain_has(number: int) -> None:
    """A consolidation dies, an administrator pulls: leftover overlays go, others are untouched."""
    world = _consolidated(
        ConsolidationPolicy(), Fault(number, after=False, lasting=True), off=False
    )
    for target in TARGETS:
        world.host.foreign_pull(DOMAIN, target)
    world.recover()
    world.finish()


@settings(max_examples=20)
@given(
    times=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    full=st.booleans(),
)
def test_two_points_never_share_an_id(times: list[int], full: bool) -> None:  # noqa: FBT001
    """However the clock jumps, ids differ, and sequence numbers count up."""
    world = World()
    start = world.host.now
    for seconds in times:
        world.host.now = start + timedelta(seconds=seconds)
        world.backup(policy=BackupPolicy(full=full))
    points = world.stores[0].read_history(world.uuid).points
    assert len({point.id for point in points}) == len(times)
    assert [point.sequence for point in points] == list(range(1, len(times) + 1))
    world.every_point_reads_as_the_guest_did()


@given(st.datetimes(min_value=datetime(1970, 1, 1)).map(lambda time: time.replace(microsecond=0)))  # noqa: DTZ001
def test_a_point_id_is_a_time(time: datetime) -> None:
    """Reading an id gives the time that it was made from."""
    aware = time.replace(tzinfo=UTC)
    assert parse_point_id(format_point_id(aware)) == aware


# --- histories ----------------------------------------------------------------------------------

targets = st.sampled_from(TARGETS)
stores = st.sampled_from((0, 1))
clusters = st.integers(0, CLUSTERS - 1)
faults = st.none() | st.builds(Fault, st.integers(1, 34), st.booleans(), st.booleans())
policies = st.builds(
    BackupPolicy,
    disks=st.sampled_from([(), (), ("vda",), ("vdb",)]),
    quiesce=st.sampled_from([Quiesce.TRY, Quiesce.OFF]),
    full=st.sampled_from([False, False, False, True]),
    consolidate=st.booleans(),
)


forms = st.builds(
    ConsolidationPolicy,
    method=st.sampled_from(Method),
    keep_overlay=st.booleans(),
    disks=st.sampled_from([(), ("vda",), ("vdb",)]),
)


class Histories(RuleBasedStateMachine):
    """Anything may happen to the domain, and anything may fail."""

    def __init__(self) -> None:
        """Make a world without points."""
        super().__init__()
        self.world = World()
        self.host = self.world.host
        self.value = 100

    def thawed(self) -> bool:
        """Tell whether the guest can write."""
        return not self.host.is_frozen(DOMAIN)

    @precondition(lambda self: self.thawed())
    @rule(target_=targets, cluster=clusters, zeros=st.booleans())
    def guest_writes(self, target_: str, cluster: int, zeros: bool) -> None:  # noqa: FBT001
        """The guest writes a cluster, something new or zeros."""
        size = (self._image(target_, 0).virtual_size_bytes or 0) // CLUSTER_BYTES
        self.host.write(DOMAIN, target_, cluster % size, 0 if zeros else self._new_value())

    @rule(store=stores)
    def backup_as_usual(self, store: int) -> None:
        """A backup of all disks runs."""
        self.world.backup(store, BackupPolicy(quiesce=Quiesce.OFF))

    @rule(store=stores, policy=policies, fault=faults)
    def backup(self, store: int, policy: BackupPolicy, fault: Fault | None) -> None:
        """A backup runs, or fails somewhere."""
        self.world.backup(store, policy, fault)

    @rule(policy=forms, off=st.booleans(), fault=faults)
    def consolidate(self, policy: ConsolidationPolicy, off: bool, fault: Fault | None) -> None:  # noqa: FBT001
        """The live chains are shortened, running or off, or something fails."""
        if off:
            self.host.shut_off(DOMAIN)
        self.world.consolidate(policy, fault)
        if off:
            self.host.start(DOMAIN)

    @rule(store=stores, fault=faults)
    def recover(self, store: int, fault: Fault | None) -> None:
        """A recovery runs, or fails somewhere."""
        self.world.recover(store, fault)

    @rule(store=stores, keep_last=st.integers(1, 3), protected=st.integers(0, 9), fault=faults)
    def prune(self, store: int, keep_last: int, protected: int, fault: Fault | None) -> None:
        """Points go and images are merged, or something fails."""
        self.world.prune(store, keep_last, protected, fault)

    @rule(store=stores, policy=policies, fault=faults)
    def backup_while_off(self, store: int, policy: BackupPolicy, fault: Fault | None) -> None:
        """A backup of the domain while it is off runs, or fails somewhere."""
        self.host.shut_off(DOMAIN)
        self.world.backup(store, policy, fault)
        self.host.now += timedelta(seconds=1)
        self.host.start(DOMAIN)
        shelf = self.world.stores[store]
        names = shelf.image_names(self.world.uuid)
        self.world.off_images.update((shelf.path, target, name) for target, name in names)

    @rule(store=stores, which=st.integers(0, 9), target_=targets)
    def linked_restore(self, store: int, which: int, target_: str) -> None:
        """A disk comes back as an overlay on the store."""
        self.world.link(store, which, target_)

    @rule(which=st.integers(0, 9))
    def linked_disk_goes(self, which: int) -> None:
        """Such a disk is removed, or pulled local."""
        self.world.unlink(which)

    @rule(store=stores, which=st.integers(0, 30))
    def store_rots(self, store: int, which: int) -> None:
        """Bits of a stored image flip."""
        self.world.rot(store, which)

    @rule(store=stores, deep=st.booleans(), fault=faults)
    def verify(self, store: int, deep: bool, fault: Fault | None) -> None:  # noqa: FBT001
        """A verification runs, or fails somewhere."""
        self.world.verify(store, deep=deep, fault=fault)

    @precondition(lambda self: not self.thawed())
    @rule()
    def thaw(self) -> None:
        """The owner thaws a guest that a failed thaw left frozen."""
        self.host.thaw(self.world.uuid, 1)

    @rule(agent=st.sampled_from(AgentState))
    def agent_changes(self, agent: AgentState) -> None:
        """The guest agent comes, goes, hangs or refuses; one that goes leaves nothing frozen."""
        if self.thawed():
            self.host.set_agent(DOMAIN, agent)

    @rule()
    def restart(self) -> None:
        """The owner restarts the domain."""
        self.host.restart(DOMAIN)

    @rule(target_=targets)
    def foreign_snapshot(self, target_: str) -> None:
        """An administrator takes a snapshot."""
        self.host.foreign_snapshot(DOMAIN, target_)

    @rule(target_=targets, layers=st.integers(1, 4))
    def foreign_commit(self, target_: str, layers: int) -> None:
        """An administrator commits some layers down, never into the template."""
        depth = self.host.read_domain(DOMAIN).disk(target_).chain
        assert depth is not None
        keep = 2 if TEMPLATE in depth.paths else 1
        if depth.depth > keep:
            self.host.foreign_commit(DOMAIN, target_, layers=min(layers, depth.depth - keep))

    @rule(target_=targets)
    def foreign_pull(self, target_: str) -> None:
        """An administrator pulls everything into the active layer."""
        self.host.foreign_pull(DOMAIN, target_)

    @rule(target_=targets, same_path=st.booleans())
    def replace(self, target_: str, same_path: bool) -> None:  # noqa: FBT001
        """An administrator puts another image in place."""
        self.host.replace_disk(DOMAIN, target_, {0: self._new_value()}, same_path=same_path)

    @rule(target_=targets, size=st.integers(2, 9))
    def resize(self, target_: str, size: int) -> None:
        """The owner makes a disk larger or smaller."""
        self.host.resize(DOMAIN, target_, size)

    @rule(target_=targets, depth=st.integers(0, 6), cluster=clusters)
    def foreign_write(self, target_: str, depth: int, cluster: int) -> None:
        """Somebody writes an image, wherever it is in the chain."""
        image = self._image(target_, depth)
        size = (image.virtual_size_bytes or 0) // CLUSTER_BYTES
        self.host.foreign_write(image.path, cluster % size, self._new_value())

    @rule(target_=targets, depth=st.integers(0, 6))
    def touch(self, target_: str, depth: int) -> None:
        """Somebody touches an image."""
        self.host.touch(self._image(target_, depth).path)

    @rule(store=stores, which=st.integers(0, 9))
    def store_loses_a_manifest(self, store: int, which: int) -> None:
        """A store loses the manifest of a point; what lies on that point is lost with it."""
        points = self.world.stores[store].read_history(self.world.uuid).points
        if points:
            self.world.stores[store].forget(self.world.uuid, points[which % len(points)].id)

    @rule(store=stores, target_=targets)
    def store_loses_an_image(self, store: int, target_: str) -> None:
        """A store loses the image of a disk in its newest point."""
        history = self.world.stores[store].read_history(self.world.uuid)
        for disk in history.latest.disks if history.latest else ():
            for image in disk.images[:1]:  # none, when nothing was written while it was off
                if disk.target == target_ and f"{target_}/{image.name}" not in history.damaged:
                    self.world.stores[store].lose(self.world.uuid, target_, image.name)
                    self.world.lost[store].add((target_, image.name))

    @rule(target_=targets)
    def disk_leaves_and_comes_back(self, target_: str) -> None:
        """A disk is detached, a backup of the rest runs, and the disk comes back."""
        path = self.host.detach_disk(DOMAIN, target_)
        self.world.backup(0, BackupPolicy(quiesce=Quiesce.OFF))
        self.host.attach_disk(DOMAIN, target_, path=path)

    @invariant()
    def points_read_as_the_guest_did(self) -> None:
        """Law (d), after every act."""
        self.world.every_point_reads_as_the_guest_did()

    @invariant()
    def linked_disks_have_their_images(self) -> None:
        """Law (j), after every act."""
        self.world.every_linked_disk_has_its_images()

    def teardown(self) -> None:
        """In the end, both stores can be brought up to date."""
        for store in range(len(STORES)):
            self.world.finish(store)

    def _image(self, target_: str, depth: int) -> Image:
        chain = self.host.read_domain(DOMAIN).disk(target_).chain
        assert chain is not None
        return chain.images[depth % chain.depth]

    def _new_value(self) -> int:
        self.value += 1
        return self.value


TestHistories = Histories.TestCase
