"""
Backups of a Linux guest that writes without a pause: what it knew to be durable is in the point.

::

    guest    ACK 7   ACK 8   [snapshot]   ACK 9   ACK 10
    point    1 .. 8, perhaps 9 (it had begun), never 10
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import libvirt
import pytest

from fibackup import (
    AgentError,
    BackupPolicy,
    Consistency,
    DomainStateError,
    Event,
    Executor,
    ImageFormat,
    Ledger,
    LibvirtHost,
    Quiesce,
    Report,
    RestorePoint,
    StepError,
    StepFinished,
    Store,
    TakeSnapshot,
    WhileFrozen,
    plan_backup,
    plan_restore,
)
from hypervisor import (
    TWO_DISKS,
    DiskSpec,
    Embedded,
    GuestOptions,
    LinuxGuest,
    MakeLinuxGuest,
    PrivateDaemon,
    fsck_clean,
    read_records,
)
from hypervisor.host import run

pytestmark = pytest.mark.libvirt

POINTS = (Quiesce.OFF, Quiesce.REQUIRE, Quiesce.TRY, Quiesce.REQUIRE, Quiesce.OFF)


class WatchedHost(LibvirtHost):
    """A host that notes what was asked of the guest agent."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        """Use an open connection."""
        super().__init__(connection)
        self.asked: list[str] = []

    def freeze(self, uuid: str, timeout_seconds: float) -> int:
        """Note the freeze."""
        self.asked.append("freeze")
        return super().freeze(uuid, timeout_seconds)

    def thaw(self, uuid: str, timeout_seconds: float) -> int:
        """Note the thaw."""
        self.asked.append("thaw")
        return super().thaw(uuid, timeout_seconds)


@dataclass(frozen=True)
class Moment:
    """A point, and what the guest had acknowledged before its snapshot and after it."""

    report: Report
    acked_before: int
    acked_after: int

    @property
    def point(self) -> RestorePoint:
        """The point."""
        assert self.report.point is not None
        return self.report.point


@dataclass(frozen=True)
class Backups:
    """A guest and its store."""

    guest: LinuxGuest
    host: WatchedHost
    store: Store

    def backup(self, quiesce: Quiesce, limit_seconds: float = 20) -> Moment:
        """Make a point of the guest while it writes."""
        after: list[int] = []

        def listen(event: Event) -> None:
            if isinstance(event, StepFinished) and isinstance(
                event.step, TakeSnapshot | WhileFrozen
            ):
                after.append(self.guest.acked())

        policy = BackupPolicy(quiesce=quiesce, freeze_timeout_seconds=limit_seconds)
        history = self.store.read_history(self.guest.uuid)
        domain = self.host.read_domain(self.guest.name)
        plan = plan_backup(domain, history, now=datetime.now(UTC), policy=policy)
        before = self.guest.acked()
        report = Executor(self.host, self.store).run(plan, on_event=listen)
        return Moment(report, before, after[0])

    def restore(self, moment: Moment, into: Path) -> dict[str, Path]:
        """Restore a point to raw files."""
        plan = plan_restore(
            self.store.read_history(self.guest.uuid),
            moment.point.id,
            into=PurePosixPath(into),
            image_format=ImageFormat.RAW,
        )
        report = Executor(None, self.store).run(plan)
        return {image.target: Path(image.path) for image in report.restored}

    def depth(self) -> int:
        """Return the depth of the deepest chain of the domain."""
        domain = self.host.read_domain(self.guest.name)
        return max(disk.chain.depth for disk in domain.disks if disk.chain is not None)


@contextmanager
def backups_of(guest: LinuxGuest, hypervisor: Embedded, place: Path) -> Iterator[Backups]:
    """Give a guest a store of its own."""
    place.mkdir()
    with Store.create(place) as store:
        yield Backups(guest, WatchedHost(hypervisor.connection), store)


def check_records(moment: Moment, images: dict[str, Path], *, replay_journal: bool) -> None:
    """Assert that a point has what was acknowledged before it, and nothing begun after it."""
    assert set(images) == {"vda", "vdb"}
    for target, raw in images.items():
        records = read_records(raw, target, replay_journal=replay_journal)
        assert records == list(range(1, len(records) + 1))
        assert moment.acked_before <= len(records) <= moment.acked_after + 1


# -- five points under constant writes -----------------------------------------------------------


@pytest.fixture(scope="module")
def story(
    linux_guest: MakeLinuxGuest, hypervisor: Embedded, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Backups, list[Moment]]]:
    """Give a guest that writes all the time, and five points of it."""
    guest = linux_guest(options=GuestOptions(pause_microseconds=10_000))
    guest.wait_acked(3)
    scratch = tmp_path_factory.mktemp("linux")
    with backups_of(guest, hypervisor, scratch / "store") as backups:
        moments = []
        for quiesce in POINTS:
            moments.append(backups.backup(quiesce))
            guest.wait_more(3)
        yield backups, moments


NUMBERS = range(len(POINTS))
Story = tuple[Backups, list[Moment]]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_point_of_a_writing_guest_is_right(story: Story, number: int, tmp_path: Path) -> None:
    """A restored point is its frozen layer, and has every record acknowledged before it."""
    backups, moments = story
    images = backups.restore(moments[number], tmp_path)
    domain = backups.host.read_domain(backups.guest.name)
    for target, raw in images.items():
        chain = domain.disk(target).chain
        assert chain is not None
        layer = chain.images[-1 - number]
        run("qemu-img", "compare", "-U", "-f", layer.format, "-F", "raw", str(layer.path), raw)
    check_records(moments[number], images, replay_journal=True)


@pytest.mark.parametrize("number", NUMBERS)
def test_only_quiesced_points_are_clean(story: Story, number: int, tmp_path: Path) -> None:
    """A quiesced point has clean file systems with every record; another needs its journal."""
    backups, moments = story
    moment, quiesced = moments[number], POINTS[number] is not Quiesce.OFF
    images = backups.restore(moment, tmp_path)
    assert {fsck_clean(raw) for raw in images.values()} == {quiesced}
    assert (moment.report.frozen_seconds > 0) is quiesced
    wanted = Consistency.APPLICATION if quiesced else Consistency.CRASH
    assert moment.point.consistency is wanted
    assert moment.point.consistency_detail == ""
    if quiesced:
        check_records(moment, images, replay_journal=False)


def test_only_the_first_point_is_full(story: Story) -> None:
    """A guest that writes all the time has one full, then increments on each other."""
    _, moments = story
    assert [str(moment.point.kind) for moment in moments] == ["full"] + ["increment"] * 4
    assert [disk.parent for moment in moments[1:] for disk in moment.point.disks] == [
        moment.point.id for moment in moments[:-1] for _ in moment.point.disks
    ]


def test_the_guest_writes_on_after_the_thaw(story: Story) -> None:
    """Each freeze was followed by a thaw, and the guest has acknowledged more ever since."""
    backups, moments = story
    assert backups.host.asked == ["freeze", "thaw"] * 3
    acked = [moment.acked_after for moment in moments]
    assert acked == sorted(set(acked))
    backups.guest.wait_acked(acked[-1] + 3)
    assert backups.guest.failures() == []


def test_a_restored_point_boots(story: Story, linux_guest: MakeLinuxGuest, tmp_path: Path) -> None:
    """A second domain on restored disks boots and continues the numbers without a gap."""
    backups, moments = story
    moment = moments[-1]
    tmp_path.chmod(0o755)
    images = backups.restore(moment, tmp_path / "restored")
    disks = [DiskSpec(target=name, format="raw", path=raw) for name, raw in images.items()]
    twin = linux_guest(*disks, options=GuestOptions(pause_microseconds=10_000))
    assert twin.wait_more(1) <= moment.acked_after + 3
    twin.wait_more(3)
    twin.shutdown()
    for target, raw in images.items():
        assert fsck_clean(raw)
        records = read_records(raw, target, replay_journal=False)
        assert records == list(range(1, len(records) + 1))
        assert len(records) >= twin.acked()
    twin.close()


def test_a_guest_that_somebody_froze_is_not_thawed(
    story: Story, hypervisor: Embedded, tmp_path: Path
) -> None:
    """We neither freeze nor thaw a frozen guest: an error, or a point that is labelled so."""
    host = WatchedHost(hypervisor.connection)
    backups = replace(story[0], host=host)
    guest, before = backups.guest, backups.depth()
    assert guest.dom.fsFreeze() == 2
    try:
        still = guest.acked()
        with pytest.raises(StepError) as failure:
            backups.backup(Quiesce.REQUIRE)
        assert isinstance(failure.value.__cause__, AgentError)
        assert "frozen already" in failure.value.reason
        assert "no snapshot was taken" in failure.value.state
        assert backups.depth() == before
        moment = backups.backup(Quiesce.TRY)
        assert "thaw" not in host.asked
        assert guest.acked() == still
        with pytest.raises(libvirt.libvirtError, match="frozen"):
            guest.dom.fsInfo()
    finally:
        thawed = guest.dom.fsThaw()
    assert thawed == 2
    assert moment.point.consistency is Consistency.CRASH
    assert "frozen already" in moment.point.consistency_detail
    guest.wait_more(3)
    check_records(moment, backups.restore(moment, tmp_path), replay_journal=True)


# -- agents that do not help ---------------------------------------------------------------------


def test_a_guest_without_an_agent(
    linux_guest: MakeLinuxGuest, hypervisor: Embedded, tmp_path: Path
) -> None:
    """Without an agent, `require` touches nothing and `try` makes a point that says why."""
    guest = linux_guest(options=GuestOptions(agent="off"))
    guest.wait_acked(2)
    with backups_of(guest, hypervisor, tmp_path / "store") as backups:
        before = sorted((tmp_path / "store").iterdir())
        with pytest.raises(DomainStateError, match="agent is not connected"):
            backups.backup(Quiesce.REQUIRE)
        assert sorted((tmp_path / "store").iterdir()) == before
        assert backups.depth() == 1
        assert backups.host.read_domain(guest.name).ledger == Ledger()
        moment = backups.backup(Quiesce.TRY)
        assert moment.point.consistency is Consistency.CRASH
        assert "agent is not connected" in moment.point.consistency_detail
        assert moment.point.consistency_detail in moment.report.warnings
        assert backups.host.asked == []
        guest.wait_more(2)
        images = backups.restore(moment, tmp_path / "restored")
        check_records(moment, images, replay_journal=True)
    guest.close()


def within(seconds: float, act: Callable[[], None]) -> None:
    """Run an act, and fail when it has not ended in time."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"it took more than {seconds} s"
    if failures:
        raise failures[0]


def test_an_agent_that_never_answers(
    linux_guest: MakeLinuxGuest, hypervisor: Embedded, tmp_path: Path
) -> None:
    """A silent agent ends `require` within its limit, and `try` goes on without it."""
    guest = linux_guest(options=GuestOptions(agent="hang"))
    guest.wait_acked(2)
    with backups_of(guest, hypervisor, tmp_path / "store") as backups:
        with pytest.raises(StepError) as failure:
            within(60, lambda: void(backups.backup(Quiesce.REQUIRE, limit_seconds=1)))
        assert isinstance(failure.value.__cause__, AgentError)
        assert "no snapshot was taken" in failure.value.state
        assert backups.depth() == 1
        guest.wait_more(2)
        moment = backups.backup(Quiesce.TRY, limit_seconds=1)
        assert moment.point.consistency is Consistency.CRASH
        assert "agent" in moment.point.consistency_detail
        assert moment.report.frozen_seconds == 0
        guest.wait_more(2)
        images = backups.restore(moment, tmp_path / "restored")
        check_records(moment, images, replay_journal=True)
    guest.close()


def void(_: object) -> None:
    """Forget a result."""


def test_a_freeze_that_comes_too_late_is_thawed(
    linux_guest: MakeLinuxGuest, hypervisor: Embedded, tmp_path: Path
) -> None:
    """A guest that freezes after we have stopped waiting is thawed all the same, and writes on."""
    options = GuestOptions(agent="slow", freeze_delay_seconds=4)
    guest = linux_guest(*TWO_DISKS, options=options)
    guest.wait_acked(2)
    with backups_of(guest, hypervisor, tmp_path / "store") as backups:
        with pytest.raises(StepError) as failure:
            backups.backup(Quiesce.REQUIRE, limit_seconds=3)
        assert isinstance(failure.value.__cause__, AgentError)
        assert backups.depth() == 1
        assert backups.host.asked == ["freeze", "thaw"]
        guest.wait_more(3)
        moment = backups.backup(Quiesce.TRY, limit_seconds=3)
        assert moment.point.consistency is Consistency.CRASH
        assert "agent" in moment.point.consistency_detail
        assert backups.host.asked == ["freeze", "thaw"] * 2
        guest.wait_more(3)
        images = backups.restore(moment, tmp_path / "restored")
        check_records(moment, images, replay_journal=True)
    guest.close()


def test_a_freeze_outlives_no_restart_of_the_daemon(
    linux_guest: MakeLinuxGuest, private_daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """The daemon is killed while the freeze is under way, and back after a while: it is thawed."""
    options = GuestOptions(agent="slow", freeze_delay_seconds=3)
    guest = linux_guest(*TWO_DISKS, options=options, on=private_daemon)
    guest.wait_acked(2)

    def bounce() -> None:
        private_daemon.kill()
        time.sleep(1)
        private_daemon.start()

    (tmp_path / "store").mkdir()
    with (
        Store.create(tmp_path / "store") as store,
        LibvirtHost.open(private_daemon.uri) as host,
    ):
        domain = host.read_domain(guest.uuid)
        policy = BackupPolicy(quiesce=Quiesce.REQUIRE)
        history = store.read_history(guest.uuid)
        plan = plan_backup(domain, history, now=datetime.now(UTC), policy=policy)
        timer = threading.Timer(1.5, bounce)
        timer.start()
        with pytest.raises(StepError) as failure:
            Executor(host, store).run(plan)
        timer.join()
        guest.dom = private_daemon.connection.lookupByUUIDString(guest.uuid)
        assert isinstance(failure.value.__cause__, AgentError)
        assert "no snapshot was taken" in failure.value.state
        guest.wait_more(3)
        assert host.read_domain(guest.uuid).ledger.run is None
    guest.close()
