"""
Backups through a real daemon, whose client or who itself dies in the middle.

::

    client --RPC--> libvirtd ---> QEMU        the client is killed: the daemon and QEMU go on
       |                            |         the daemon is killed: QEMU goes on
       '---- copies images ---------'         the next run picks up what is stored already
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

import fibackup
from fibackup import (
    BackupPolicy,
    CopyProgress,
    Event,
    Executor,
    HostError,
    ImageFormat,
    LibvirtHost,
    LockedError,
    OnEvent,
    Plan,
    Quiesce,
    Report,
    StepError,
    Store,
    ignore_events,
    plan_backup,
    plan_restore,
)
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    MakeBlockDomain,
    PrivateDaemon,
    differences,
    processes_of,
)

pytestmark = pytest.mark.libvirt

SOURCES = Path(fibackup.__file__).parents[1]
DISKS = (DiskSpec(), DiskSpec(target="vdb"), DiskSpec(target="vdc", format="raw"))
BIG = 24 * MIB


@dataclass
class Rig:
    """A domain of the daemon, a store, and what the guest had at each point."""

    daemon: PrivateDaemon
    domain: BlockDomain
    store: Store
    scratch: Path
    references: dict[str, dict[str, Path]] = field(default_factory=dict)
    rounds: int = 0

    def write(self) -> None:
        """Write as the guest: something small everywhere, and much on vdb."""
        self.rounds += 1
        for target in self.domain.disks:
            self.domain.write(target, self.rounds * MIB, 2 * MIB, self.rounds)
        self.domain.write("vdb", 32 * MIB, BIG, self.rounds)

    def remember(self, point: str) -> None:
        """Keep what the guest has now."""
        self.references[point] = {
            target: self.domain.reference(target, point) for target in self.domain.disks
        }

    def plan(self, host: LibvirtHost) -> Plan:
        """Plan the next point."""
        found = host.read_domain(self.domain.name)
        policy = BackupPolicy(quiesce=Quiesce.OFF, allow_paused=True)
        history = self.store.read_history(self.domain.uuid)
        return plan_backup(found, history, now=datetime.now(UTC), policy=policy)

    def backup(self, on_event: OnEvent = ignore_events) -> Report:
        """Make a point through a connection of its own."""
        with LibvirtHost.open(self.daemon.uri) as host:
            plan = self.plan(host)
            try:
                return Executor(host, self.store, threads=1).run(plan, on_event=on_event)
            finally:
                if self.store.read_history(self.domain.uuid).find(plan.point) is not None:
                    self.remember(plan.point)

    def check(self) -> None:
        """Assert that the store has the points that it should, and that all are right."""
        history = self.store.read_history(self.domain.uuid)
        assert [point.id for point in history.points] == list(self.references)
        assert history.receipts == ()
        assert list(Path(self.store.path).rglob(".*")) == []
        for point, references in self.references.items():
            into = self.scratch / f"{point}-{self.rounds}"
            plan = plan_restore(
                history, point, into=PurePosixPath(into), image_format=ImageFormat.RAW
            )
            for image in Executor(None, self.store).run(plan).restored:
                assert differences(Path(image.path), "raw", references[image.target]) == ""

    def find_domain(self) -> None:
        """Look the domain up again, after the daemon was started again."""
        self.domain.dom = self.daemon.connection.lookupByUUIDString(self.domain.uuid)

    def images(self) -> dict[Path, int]:
        """Return every stored image with its size."""
        return {path: path.stat().st_size for path in Path(self.store.path).rglob("*.qcow2")}

    def stored(self, target: str) -> dict[str, int]:
        """Return the stored images of a disk, with their inodes."""
        found = Path(self.store.path).glob(f"*/{target}/*.qcow2")
        return {path.name: path.stat().st_ino for path in found}


@pytest.fixture
def rig(
    private_daemon: PrivateDaemon, block_domain: MakeBlockDomain, tmp_path: Path
) -> Iterator[Rig]:
    """Give a domain with three disks that has been written."""
    domain = block_domain(*DISKS, on=private_daemon)
    (tmp_path / "store").mkdir()
    with Store.create(tmp_path / "store") as store:
        made = Rig(private_daemon, domain, store, tmp_path)
        made.write()
        yield made


def kinds(report: Report) -> set[str]:
    """Return whether the disks of a point are fulls or increments."""
    assert report.point is not None
    return {str(disk.kind) for disk in report.point.disks}


def test_a_backup_through_a_daemon(rig: Rig) -> None:
    """A full and two increments, made through a daemon, bring back what the guest had."""
    found = []
    for _ in range(3):
        found.append(rig.backup())
        rig.write()
    assert [kinds(report) for report in found] == [{"full"}, {"increment"}, {"increment"}]
    rig.check()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_new_daemon_costs_no_full(rig: Rig, end: str) -> None:
    """After the daemon was replaced, and the guest wrote on, the next point is an increment."""
    rig.backup()
    qemus = rig.daemon.qemus()
    rig.daemon.stop() if end == "stop" else rig.daemon.kill()
    rig.daemon.start()
    assert rig.daemon.qemus() == qemus
    rig.find_domain()
    rig.write()
    assert kinds(rig.backup()) == {"increment"}
    rig.check()


def test_a_restart_of_daemon_and_guest_costs_no_full(rig: Rig) -> None:
    """The ledger outlives the domain and the daemon: the next point is an increment."""
    rig.backup()
    rig.write()
    rig.domain.destroy()
    rig.daemon.restart()
    rig.find_domain()
    rig.domain.start()
    assert kinds(rig.backup()) == {"increment"}
    rig.check()


# -- the client dies -----------------------------------------------------------------------------

CLIENT = """
import sys, threading
from datetime import UTC, datetime
import fibackup as fb
uri, store, name, moment = sys.argv[1:]
def here(event):
    if moment == "copying":
        half_done = isinstance(event, fb.CopyProgress) and event.done_bytes > 8 << 20
        return half_done and event.target == "vdb"
    kind = {"snapshot": fb.TakeSnapshot, "published": fb.PublishPoint}[moment]
    return isinstance(event, fb.StepFinished) and isinstance(event.step, kind)
def listen(event):
    if here(event):
        print(plan.point, flush=True)
        threading.Event().wait()
host, store = fb.LibvirtHost.open(uri), fb.Store.open(store)
domain = host.read_domain(name)
policy = fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True)
plan = fb.plan_backup(domain, store.read_history(domain.uuid), now=datetime.now(UTC), policy=policy)
fb.Executor(host, store, threads=1).run(plan, on_event=listen)
"""


@contextmanager
def a_client_that_stands_still(rig: Rig, moment: str) -> Iterator[str]:
    """Run a client until a moment of its backup, yield the point's id, and kill it there."""
    words = [sys.executable, "-c", CLIENT, rig.daemon.uri, str(rig.store.path), rig.domain.name]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    with subprocess.Popen(
        [*words, moment], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as client:
        assert client.stdout is not None
        assert client.stderr is not None
        try:
            point = client.stdout.readline().strip()
            assert point, client.stderr.read()
            yield point
        finally:
            client.kill()


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_client_that_is_killed_while_it_copies(rig: Rig, earlier: int) -> None:
    """The next run takes the images that were complete as they are, and copies only the others."""
    for _ in range(earlier):
        rig.backup()
        rig.write()
    with a_client_that_stands_still(rig, "copying") as lost:
        [temp] = Path(rig.store.path).glob("*/vdb/.*.tmp")
        assert temp.stat().st_blocks * 512 >= 4 * MIB
        with LibvirtHost.open(rig.daemon.uri) as host:
            plan = rig.plan(host)
            with pytest.raises(LockedError):
                Executor(host, rig.store).run(plan)
    complete = rig.stored("vda")
    assert f"{lost}.qcow2" in complete
    assert f"{lost}.qcow2" not in rig.stored("vdb")
    before = rig.images()
    rig.write()
    report = rig.backup()
    after = rig.images()
    assert before.items() <= after.items()
    assert report.copied_bytes == sum(size for path, size in after.items() if path not in before)
    assert kinds(report) == ({"increment"} if earlier else {"full"})
    assert report.point is not None
    assert len(report.point.disk("vda").images) == 2
    copied = dict.fromkeys(rig.domain.disks, 0)
    for copy in report.plan.copies:
        copied[copy.target] += 1
    assert copied == {"vda": 1, "vdb": 2, "vdc": 2}
    assert report.point.size_bytes == report.copied_bytes + sum(
        size for path, size in before.items() if path.name == f"{lost}.qcow2"
    )
    assert complete.items() <= rig.stored("vda").items()
    rig.write()
    assert kinds(rig.backup()) == {"increment"}
    rig.check()


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_client_that_is_killed_after_its_snapshot(rig: Rig, earlier: int) -> None:
    """The next run stores both the layer that was frozen in vain and the one above it."""
    for _ in range(earlier):
        rig.backup()
        rig.write()
    with a_client_that_stands_still(rig, "snapshot"):
        pass
    rig.write()
    report = rig.backup()
    assert kinds(report) == ({"increment"} if earlier else {"full"})
    assert report.point is not None
    assert {len(disk.images) for disk in report.point.disks} == {2}
    rig.check()


def test_a_client_that_is_killed_after_it_has_published(rig: Rig) -> None:
    """A point without its result in the ledger is whole, and the next one is an increment on it."""
    rig.backup()
    rig.write()
    with a_client_that_stands_still(rig, "published") as point:
        rig.remember(point)
    rig.write()
    report = rig.backup()
    assert report.point is not None
    assert {disk.parent for disk in report.point.disks} == {point}
    assert {len(disk.images) for disk in report.point.disks} == {1}
    rig.check()


# -- the daemon dies -----------------------------------------------------------------------------


def while_copying(act: Callable[[], None]) -> Callable[[Event], None]:
    """Return a listener that acts once, in the middle of the copy of vdb."""
    done: list[Event] = []

    def listen(event: Event) -> None:
        here = isinstance(event, CopyProgress) and event.target == "vdb"
        if here and not done:
            done.append(event)
            act()

    return listen


def failure_of(act: Callable[[], object]) -> StepError | None:
    """Return the error with which a run ended, None when it made its point."""
    try:
        act()
    except StepError as error:
        return error
    return None


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "stays away"])
def test_a_daemon_that_is_killed_while_we_copy(rig: Rig, *, comes_back: bool) -> None:
    """The run makes its point or ends with a typed error; the guest and the next run are right."""

    def end() -> None:
        rig.daemon.kill()
        if comes_back:
            rig.daemon.start()

    rig.backup()
    rig.write()
    qemus = processes_of(rig.daemon.root)
    before = rig.stored("vda")
    error = failure_of(lambda: rig.backup(while_copying(end)))
    if error is not None:
        assert isinstance(error.__cause__, HostError)
        assert "delete" in error.state
        assert error.next_command
    if not comes_back:
        rig.daemon.start()
    rig.find_domain()
    assert set(rig.daemon.qemus()) <= set(qemus)
    stored = rig.stored("vda")
    assert len(stored) == len(before) + 1
    rig.write()
    assert kinds(rig.backup()) == {"increment"}
    assert stored.items() <= rig.stored("vda").items()
    rig.check()


def test_a_host_shows_where_it_is(rig: Rig) -> None:
    """In a notebook and in a log; a closed one is nowhere."""
    with LibvirtHost.open(rig.daemon.uri) as host:
        assert repr(host) == f"<LibvirtHost {rig.daemon.uri}>"
    assert repr(host) == "<LibvirtHost closed>"
