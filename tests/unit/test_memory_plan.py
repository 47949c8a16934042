"""Points with the guest's memory: planned, taken, and brought back, in memory of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import (
    DomainBusyError,
    DomainStateError,
    FibackupError,
    ForeignConfigError,
    ModelError,
    PolicyError,
    StepError,
    UnsupportedDiskError,
)
from fibackup.host.executor import Executor
from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, DomainState
from fibackup.model.ledger import Ledger
from fibackup.model.point import Consistency, FileRole, StoredFile
from fibackup.model.snapshot import NewOverlay, Snapshot
from fibackup.parse.ledger_xml import parse_ledger, render_ledger
from fibackup.plan.backup import plan_backup
from fibackup.plan.memory import memory_steps
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.restore import plan_restore
from fibackup.plan.steps import (
    CopyMemory,
    DeleteMemory,
    MakeDirectory,
    Plan,
    RestoreMemory,
    ResumeDomain,
    TakeSnapshot,
    WhileFrozen,
    WriteLedger,
)
from fibackup.testing import CLUSTER_BYTES, FakeHost, FakeStore

POINT = "20261124T040000Z"
MEMORY = PurePosixPath(f"/images/web1-vda.bimg-{POINT}.mem")
WITH_MEMORY = BackupPolicy(memory=True)
INTO = PurePosixPath("/into")


class World:
    """A domain with two disks and something in its memory, and an empty store."""

    def __init__(self) -> None:
        """Make both."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {}})
        self.store = FakeStore(self.host)
        self.host.set_memory("web1", 41)

    def plan(self, policy: BackupPolicy | None = WITH_MEMORY) -> Plan:
        """Plan the next point."""
        history = self.store.read_history(self.uuid)
        return plan_backup(self.host.read_domain("web1"), history, now=self.host.now, policy=policy)

    def backup(self, policy: BackupPolicy | None = WITH_MEMORY) -> Plan:
        """Take the next point."""
        plan = self.plan(policy)
        Executor(self.host, self.store).run(plan)
        return plan

    def plan_restore(self, disks: tuple[str, ...] = (), *, paused: bool = False) -> Plan:
        """Plan to bring the guest back from the newest point."""
        history = self.store.read_history(self.uuid)
        return plan_restore(history, "latest", into=INTO, disks=disks, memory=True, paused=paused)

    def restore(self, *, paused: bool = False) -> None:
        """Bring the guest back from the newest point."""
        Executor(self.host, self.store).run(self.plan_restore(paused=paused))


@pytest.fixture
def world() -> World:
    """Give a domain and a store."""
    return World()


# --- the plan of a backup -----------------------------------------------------------------------


def test_the_memory_lies_beside_the_first_overlay(world: World) -> None:
    """It is of the same snapshot, and no freeze is tried."""
    plan = world.plan()
    assert not [step for step in plan.steps if isinstance(step, WhileFrozen)]
    [step] = [step for step in plan.steps if isinstance(step, TakeSnapshot)]
    assert step.snapshot.memory == MEMORY
    assert MEMORY in plan.expects.absent
    assert f"memory: to {MEMORY}" in str(plan)
    assert Plan.from_json(plan.to_json()) == plan


def test_the_memory_is_copied_before_the_point_is_published(world: World) -> None:
    """And counted: the store must have room for it."""
    plan, without = world.plan(), world.plan(BackupPolicy())
    names = [type(step).__name__ for step in plan.steps]
    assert names.index("InParallel") < names.index("CopyMemory") < names.index("PublishPoint")
    assert CopyMemory(MEMORY, f"{POINT}.mem", CLUSTER_BYTES) in plan.steps
    assert plan.expects.space_bytes == without.expects.space_bytes + CLUSTER_BYTES
    assert plan.cost_bytes == without.cost_bytes + CLUSTER_BYTES


def test_the_ledger_knows_the_memory_until_it_is_gone(world: World) -> None:
    """From the intent to the result."""
    ledgers = [step.ledger for step in world.plan().steps if isinstance(step, WriteLedger)]
    assert [ledger.memory for ledger in ledgers] == [MEMORY, MEMORY, None]
    assert parse_ledger(render_ledger(ledgers[0])) == ledgers[0]


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUTOFF])
def test_memory_that_a_run_has_left_is_removed_by_the_next(
    world: World, state: DomainState
) -> None:
    """Whatever the next run is."""
    world.host.write_ledger(world.uuid, Ledger(memory=MEMORY))
    world.host.set_state("web1", state)
    plan = world.plan(BackupPolicy())
    assert plan.steps[0] == DeleteMemory(MEMORY)
    assert f"remove {MEMORY}, left by an earlier run" in str(plan)


def test_what_keeps_the_memory_from_being_saved_is_found_while_planning(world: World) -> None:
    """With what it is; without memory there is a point."""
    world.host.set_memory("web1", 1, blockers=("hostdev (pci)", "shmem (x)"))
    with pytest.raises(PolicyError, match=r"hostdev \(pci\), shmem \(x\)"):
        world.plan()
    world.backup(BackupPolicy())


_CHAIN = BackingChain("sdx", (Image(PurePosixPath("/x"), "raw"),))


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (Disk("sdx", device="floppy", chain=_CHAIN), "floppy"),
        (Disk("sdx", snapshot="no", chain=_CHAIN), "snapshot='no'"),
        (Disk("sdx", source_type="network"), "network"),
        (Disk("sdx", readonly=True, block_job="pull", chain=_CHAIN), "no block job"),
    ],
)
def test_a_disk_that_would_not_fit_the_memory_is_refused(
    world: World, disk: Disk, words: str
) -> None:
    """Each disk that the guest may write takes part, and no block job runs on any."""
    domain = world.host.read_domain("web1")
    domain = evolve(domain, disks=(*domain.disks, disk))
    history = world.store.read_history(world.uuid)
    policy = BackupPolicy(memory=True, skip_unsupported=True)
    with pytest.raises(UnsupportedDiskError, match=words) as caught:
        plan_backup(domain, history, now=world.host.now, policy=policy)
    assert caught.value.target == "sdx"


@pytest.mark.parametrize(
    "disk",
    [
        Disk("sdx", readonly=True, chain=_CHAIN),
        Disk("sdx", device="cdrom", chain=_CHAIN),
        Disk("sdx", device="floppy"),
    ],
)
def test_a_disk_that_is_not_written_may_stay_away(world: World, disk: Disk) -> None:
    """Read-only, a cdrom, or an empty drive."""
    domain = world.host.read_domain("web1")
    domain = evolve(domain, disks=(*domain.disks, disk))
    history = world.store.read_history(world.uuid)
    plan = plan_backup(domain, history, now=world.host.now, policy=WITH_MEMORY)
    assert ("sdx", disk.skip_reason) in [(each.target, each.reason) for each in plan.decisions]


def test_a_domain_that_is_off_has_no_memory(world: World) -> None:
    """It has to be started first."""
    world.host.shut_off("web1")
    with pytest.raises(DomainStateError, match="shut off") as caught:
        world.plan()
    assert "virsh start" in caught.value.remedy


def test_memory_and_a_required_freeze_contradict_each_other() -> None:
    """What is not written yet is in the memory."""
    with pytest.raises(PolicyError, match="no freeze"):
        BackupPolicy(memory=True, quiesce=Quiesce.REQUIRE)


# --- the snapshot -------------------------------------------------------------------------------


def test_a_snapshot_shows_where_the_memory_goes() -> None:
    """On a line of its own; it cannot be where an overlay is."""
    new = NewOverlay("vda", PurePosixPath("/i/a"), PurePosixPath("/i/a.bimg-A"))
    snapshot = Snapshot("s", (new,), memory=PurePosixPath("/i/m"))
    assert str(snapshot).splitlines()[-1] == "memory: /i/m"
    with pytest.raises(ModelError, match="share an overlay"):
        Snapshot("s", (new,), memory=new.path)
    with pytest.raises(ModelError, match="absolute"):
        Snapshot("s", (new,), memory=PurePosixPath("m"))


# --- taken and brought back ---------------------------------------------------------------------


def test_a_guest_goes_on_where_it_was(world: World) -> None:
    """Its memory and its disks are those of the moment, and nothing is left on the host."""
    plan = world.backup()
    point = world.store.read_history(world.uuid).points[-1]
    assert point.consistency is Consistency.MEMORY
    assert [file.role for file in point.files] == [FileRole.DOMAIN_XML, FileRole.MEMORY]
    assert world.host.memory_files == {}
    world.host.set_memory("web1", 99)
    world.host.write("web1", "vda", 0, 2)
    world.host.shut_off("web1")
    world.restore()
    assert world.host.memory("web1") == 41
    moment = world.host.moment(world.uuid, plan.point)
    for target in ("vda", "vdb"):
        assert world.host.guest_sees("web1", target) == moment.disks[target]
    found = world.host.read_domain("web1")
    assert (found.state, found.ledger) == (DomainState.RUNNING, Ledger())
    assert world.host.memory_files == {}
    world.backup()


def test_a_guest_is_brought_back_without_its_definition(world: World) -> None:
    """Paused when asked."""
    world.backup()
    world.host.undefine("web1")
    world.restore(paused=True)
    assert world.host.read_domain("web1").state is DomainState.PAUSED
    assert world.host.memory("web1") == 41


def test_the_plan_of_a_restore_says_what_happens(world: World) -> None:
    """All disks, then the memory, then the guest; every destination must be free."""
    world.backup()
    plan = world.plan_restore()
    passage, *_, memory, resume = plan.steps
    assert passage == MakeDirectory(INTO)
    assert isinstance(memory, RestoreMemory)
    assert isinstance(resume, ResumeDomain)
    assert memory.destination == resume.memory == INTO / f"{POINT}.mem"
    assert plan.expects.absent[-1] == memory.destination
    assert [disk.target for disk in resume.disks] == ["vda", "vdb"]
    assert "let the guest go on in its memory" in str(plan)
    assert f"write the memory to {memory.destination}" in str(plan)
    assert "leave the guest paused" in str(world.plan_restore(paused=True))
    assert Plan.from_json(plan.to_json()) == plan


def test_a_restore_with_memory_needs_all_that_belongs_together(world: World) -> None:
    """A point with memory, all of its disks, and a guest to pause."""
    world.backup()
    with pytest.raises(PolicyError, match="vdb left out"):
        world.plan_restore(("vda",))
    history = world.store.read_history(world.uuid)
    with pytest.raises(PolicyError, match="only a guest that is resumed"):
        plan_restore(history, "latest", into=INTO, paused=True)
    world.backup(BackupPolicy())
    with pytest.raises(PolicyError, match="consistency is: application"):
        world.plan_restore()
    point = world.store.read_history(world.uuid).points[-1]
    assert memory_steps(point, (), INTO, paused=False, keep_foreign=False) == ()


def test_an_xml_that_reaches_out_of_the_guest_is_refused_unless_allowed(world: World) -> None:
    """Before a file is written; a guest that goes on keeps its devices, so none is taken out."""
    world.backup()
    world.host.shut_off("web1")
    read, drive = world.store.read_config, "<disk device='cdrom'><source file='/etc/shadow'/>"

    def hostile(uuid: str, file: StoredFile) -> str:
        return read(uuid, file).replace("<devices>", f"<devices>{drive}<target dev='sda'/></disk>")

    world.store.read_config = hostile  # type: ignore[method-assign]
    plan = world.plan_restore()
    with pytest.raises(ForeignConfigError) as caught:
        Executor(world.host, world.store).run(plan)
    assert caught.value.parts == ("disk sda, medium /etc/shadow",)
    assert world.store.restored == {}
    history = world.store.read_history(world.uuid)
    allowed = plan_restore(history, "latest", into=INTO, memory=True, keep_foreign=True)
    Executor(world.host, world.store).run(allowed)
    assert world.host.read_domain("web1").state is DomainState.RUNNING


def other_of_the_name(world: World) -> None:
    """Let another domain have the name."""
    world.host.undefine("web1")
    world.host.add_domain("web2")
    world.host.rename("web2", "web1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: None, "is running.*virsh shutdown"),
        (lambda w: w.host.pause("web1"), "is paused.*virsh destroy"),
        (
            lambda w: w.host.set_state("web1", DomainState.SHUTOFF, managed_save=True),
            "managed-save.*virsh managedsave-remove",
        ),
        (lambda w: w.host.rename("web1", "web2"), "taken by web2"),
        (other_of_the_name, "taken by web1"),
    ],
)
def test_a_guest_is_not_brought_back_over_another(
    world: World, change: Callable[[World], None], words: str
) -> None:
    """The domain is there and not off, or its name or UUID is another's."""
    world.backup()
    change(world)
    before = len(world.host.calls)
    with pytest.raises(DomainBusyError, match=words):
        world.restore()
    assert "flatten" not in world.host.calls[before:]


def test_a_run_that_ends_anywhere_leaves_nothing_behind_after_the_next() -> None:
    """Before or after each call: the next run removes the memory, and its point is right."""
    calls = len(calls_of_a_backup())
    for number in range(1, calls + 1):
        for after in (False, True):
            world = World()
            plan = world.plan()
            world.host.fail_at(number, after=after, lasting=True)
            with pytest.raises((FibackupError, StepError)):
                Executor(world.host, world.store).run(plan)
            world.host.heal()
            world.backup()
            assert world.host.memory_files == {}, (number, after)
            assert world.host.read_domain("web1").ledger.memory is None
            world.host.shut_off("web1")
            world.restore()
            assert world.host.memory("web1") == 41


def calls_of_a_backup() -> list[str]:
    """Return the calls of a run without faults."""
    world = World()
    plan = world.plan()
    before = len(world.host.calls)
    Executor(world.host, world.store).run(plan)
    return world.host.calls[before:]
