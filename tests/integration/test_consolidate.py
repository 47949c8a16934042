"""
Consolidation of real chains, judged by what a restore brings back.

::

    rolling    template <- disk <- A <- B (active)     ->   template <- disk <- B (active)
    full       template <- disk <- A <- B (active)     ->   template <- disk (active)

    every point ever taken is its reference, the live disk is the mirror, the template is untouched
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import libvirt
import pytest
from attrs import evolve

from fibackup import (
    BackupPolicy,
    BlockJobError,
    CancelledError,
    CancelToken,
    ChainError,
    CopyProgress,
    DiskKind,
    DomainStateError,
    Event,
    Executor,
    PermissionDeniedError,
    Plan,
    PolicyError,
    Quiesce,
    Report,
    SharedBaseError,
    StalePlanError,
    StepError,
    plan_consolidation,
    plan_recovery,
)
from fibackup import ConsolidationPolicy as Policy
from fibackup import Method as How
from fibackup.cli import main
from fibackup.model.ledger import Run, RunPhase
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    Embedded,
    MakeBlockDomain,
    create_image,
    monitor_command,
)
from hypervisor import differences as differences_between
from hypervisor.host import run
from hypervisor.monitor import device_path
from hypervisor.series import PointSeries, series_with_stores

pytestmark = pytest.mark.libvirt

KIB = 1024
CLUSTER = 64 * KIB
PATTERNS = itertools.cycle(range(1, 250))


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Series(PointSeries):
    """A domain whose chains are shortened, its store, and what the guest had at each point."""

    def write(self, target: str, *clusters: int) -> None:
        """Let the guest write clusters, each time with another value."""
        for cluster in clusters:
            self.domain.write(target, cluster * CLUSTER, CLUSTER, next(PATTERNS))

    def backup(self, *, consolidate: bool = True) -> Report:
        """Take a point; what the guest has is kept, also when a later step fails."""
        policy = BackupPolicy(quiesce=Quiesce.OFF, allow_paused=True, consolidate=consolidate)
        return self.take(policy)

    def plan(self, policy: Policy | None = None) -> Plan:
        """Plan a consolidation."""
        found = self.host.read_domain(self.domain.name)
        paths = tuple(path for disk in found.disks if disk.chain for path in disk.chain.paths)
        uses = self.host.image_uses(found.uuid, paths)
        return plan_consolidation(found, uses=uses, policy=policy or Policy(allow_paused=True))

    def consolidate(self, policy: Policy | None = None) -> Report:
        """Plan and run a consolidation."""
        return Executor(self.host, None).run(self.plan(policy))

    def chain(self, target: str = "vda") -> tuple[Path, ...]:
        """Return the live chain, active layer first."""
        chain = self.host.read_domain(self.domain.name).disk(target).chain
        assert chain is not None
        return tuple(map(Path, chain.paths))

    def overlays(self, directory: Path | None = None) -> list[Path]:
        """Return the overlays of ours that exist, used or not."""
        return sorted((directory or self.domain.directory).glob("*.bimg-*"))

    def check(self) -> None:
        """Assert that every point is its reference and that the guest has what it wrote."""
        for point in self.references:
            if self.history.find(point) is None:
                continue
            for image, reference in self.again(point):
                assert differences_between(Path(image.path), "raw", reference) == "", str(image)
        for target in self.domain.disks:
            self.check_live(target)

    def check_live(self, target: str) -> None:
        """Assert that the live chain shows what the guest wrote."""
        if self.domain.is_active:
            self.flush(target)
        reference = self.domain.reference(target, f"live-{next(self.numbers)}")
        image_format = self.domain.active_format(target)
        command = ["qemu-img", "compare", "-U", "-f", image_format, "-F", "raw"]
        assert "identical" in run(*command, self.domain.active(target), reference)

    def flush(self, target: str) -> None:
        """Let the guest flush, so that what it wrote is in the images."""
        path = device_path(self.domain.dom, target)
        monitor_command(self.domain.dom, f'qemu-io -d {path} "flush"')

    def config_sources(self) -> list[str]:
        """Return the files that the persistent definition names, anywhere."""
        xml = self.domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return [node.get("file", "") for node in ET.fromstring(xml).iter("source")]


def running(domain: BlockDomain) -> BlockDomain:
    """Start a domain and let it run; it has only its firmware to run."""
    domain.start(paused=False)
    return domain


def kill_qemu(domain: BlockDomain) -> None:
    """End QEMU at once, as a crash does."""
    pidfile = next(domain.hypervisor.log_directory.parents[1].rglob(f"{domain.name}.pid"))
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while domain.is_active:
        assert time.monotonic() < deadline
        time.sleep(0.05)


MakeSeries = Callable[[BlockDomain], Series]


@pytest.fixture
def series(tmp_path: Path, hypervisor: Embedded) -> Iterator[MakeSeries]:
    """Give a factory of series, each with a store of its own."""
    with series_with_stores(Series, tmp_path, hypervisor) as make:
        yield make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 16 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    place.chmod(0o755)
    run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place)
    yield place
    run("umount", "-l", place)


def kinds(report: Report) -> set[str]:
    """Return the kinds of the disks of a point."""
    assert report.point is not None
    return {str(disk.kind) for disk in report.point.disks}


def on_template(directory: Path) -> tuple[DiskSpec, Path]:
    """Return a disk over a template that holds something."""
    template = directory / "template.qcow2"
    create_image(DiskSpec(), template)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 251 1M 2M", template)
    return DiskSpec(target="vda", backing=template), template


# -- rolling -------------------------------------------------------------------------------------


def test_twenty_cycles_copy_what_was_written_and_keep_two_images(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """The live chain has two images after each cycle; an increment costs what the guest wrote."""
    made = series(block_domain(DiskSpec(target="vda", size_bytes=256 * MIB)))
    made.write("vda", *range(64))
    assert kinds(made.backup()) == {"full"}
    for cycle in range(20):
        clusters = {(cycle * 37 + step * 101) % 4000 for step in range(1 + cycle % 5)}
        made.write("vda", *clusters)
        report = made.backup()
        assert kinds(report) == {"increment"}
        assert report.copied_bytes <= 1.1 * len(clusters) * CLUSTER + 8 * CLUSTER
        assert len(made.chain()) == 2
        assert made.overlays() == [made.chain()[0]]
        assert made.chain()[1] == made.domain.path("vda")
    made.check()


def test_every_disk_is_consolidated_on_its_own_base(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """qcow2 and raw; over a template the disk's own image receives, never the template."""
    domain = block_domain(DiskSpec(target="vda"), DiskSpec(target="vdb", format="raw"))
    made = series(domain)
    for number in range(4):
        made.write("vda", number, number + 1)
        made.write("vdb", 2 * number)
        made.backup()
        assert [len(made.chain(target)) for target in domain.disks] == [2, 2]
    assert len(made.overlays()) == 2
    made.check()


def test_a_template_is_never_written(
    block_domain: MakeBlockDomain, series: MakeSeries, tmp_path: Path
) -> None:
    """Its hash is the same after rolling cycles, a full commit and a full pull."""
    spec, template = on_template(tmp_path)
    made = series(running(block_domain(spec, start=False)))
    before = sha256(template)
    for number in range(3):
        made.write("vda", 16 + number)
        made.backup()
        assert len(made.chain()) == 3
    made.consolidate()
    assert made.chain() == (made.domain.path("vda"), template)
    made.write("vda", 18)
    made.backup()
    made.consolidate(Policy(method=How.BLOCKPULL))
    own = made.chain()[0]
    assert made.chain() == (own, template)
    for number in range(3):
        made.write("vda", 19 + number)
        assert kinds(made.backup()) == ({"increment"} if number else {"full"})
        assert made.chain()[1:] == (own, template)
    made.consolidate()
    assert made.chain() == (own, template)
    assert sha256(template) == before
    made.check()


def test_a_restart_in_between_costs_nothing(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """The proof holds over a restart of the guest, and the depth stays two."""
    made = series(block_domain())
    for number in range(4):
        made.write("vda", number)
        report = made.backup()
        assert kinds(report) == ({"increment"} if number else {"full"})
        made.domain.destroy()
        made.domain.start()
        assert len(made.chain()) == 2
    made.check()


def test_a_commit_without_room_loses_nothing(
    block_domain: MakeBlockDomain, series: MakeSeries, small_disk: Path
) -> None:
    """
    The base has no room: the run says so, the point stands, the other disk is consolidated.

    Later points are right, and so is everything once there is room again.
    """
    big = small_disk / "vda.qcow2"
    domain = block_domain(DiskSpec(target="vda", path=big), DiskSpec(target="vdb"))
    made = series(domain)
    big_files = made.domain.directory / "big"
    big_files.mkdir()
    made.write("vda", *range(8))
    made.backup(consolidate=False)
    for overlay in made.overlays(small_disk):  # the overlays of vda have room, its base has none
        assert overlay.stat().st_size < MIB
    filler = small_disk / "filler"
    made.write("vda", *range(40, 60))
    made.write("vdb", 1)
    room = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(room - 5 * CLUSTER))
    with pytest.raises(StepError, match="vda") as caught:
        made.backup()
    assert isinstance(caught.value.__cause__, BlockJobError)
    assert len(made.chain("vda")) == 3
    assert len(made.chain("vdb")) == 2
    made.check()
    os.truncate(filler, filler.stat().st_size - 8 * CLUSTER)  # room for an overlay, not for more
    made.write("vda", 40)
    with pytest.raises(StepError, match="vda"):
        made.backup()
    assert len(made.chain("vda")) == 4
    points = made.store.read_history(domain.uuid).points
    assert [point.id for point in points] == list(made.references)
    assert points[-1].kind is DiskKind.INCREMENT
    made.check()
    filler.unlink()
    made.write("vda", 41, 70)
    assert kinds(made.backup()) == {"increment"}
    assert [len(made.chain(target)) for target in domain.disks] == [2, 2]
    made.write("vda", 42)
    assert kinds(made.backup()) == {"increment"}
    made.check()


def test_a_base_that_qemu_may_not_write_is_named(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """With its path and what to look at; the overlay stays, and with the right to write it goes."""
    made = series(block_domain())
    made.write("vda", 1)
    made.backup()
    made.write("vda", 2)
    base, before = made.domain.path("vda"), made.chain()
    run("chattr", "+i", base)
    try:
        with pytest.raises(StepError) as caught:
            made.consolidate()
    finally:
        run("chattr", "-i", base)
    cause = caught.value.__cause__
    assert isinstance(cause, PermissionDeniedError)
    assert cause.path == str(base)
    assert f"owner and mode of {base}" in cause.reason
    assert made.chain() == before
    made.check()
    made.consolidate()
    assert made.chain() == (base,)
    made.check()


def clone(home: Embedded, base: Path, block_domain: MakeBlockDomain) -> BlockDomain:
    """Return another domain, off, whose disk lies on an image of the first."""
    del home
    return block_domain(DiskSpec(target="vda", backing=base), start=False)


def test_a_shared_base_is_not_written_and_the_backup_goes_on(
    block_domain: MakeBlockDomain, series: MakeSeries, hypervisor: Embedded
) -> None:
    """The disk keeps its overlays, with a warning that names the other domain."""
    domain = block_domain(DiskSpec(target="vda"), DiskSpec(target="vdb"))
    made = series(domain)
    made.write("vda", 1)
    made.backup()
    other = clone(hypervisor, domain.path("vda"), block_domain)
    before = sha256(domain.path("vda"))
    made.write("vda", 2)
    report = made.backup()
    assert [warning for warning in report.warnings if other.name in warning]
    assert (len(made.chain("vda")), len(made.chain("vdb"))) == (3, 2)
    assert sha256(domain.path("vda")) == before
    made.write("vda", 3)
    assert kinds(made.backup()) == {"increment"}
    made.check()


# -- full ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
@pytest.mark.parametrize("method", list(How))
@pytest.mark.parametrize("keep_overlay", [False, True])
def test_a_chain_is_shortened_and_only_overlays_of_ours_go(
    block_domain: MakeBlockDomain,
    series: MakeSeries,
    image_format: str,
    method: How,
    keep_overlay: bool,  # noqa: FBT001
) -> None:
    """Live chain and definition name what is left; the disk's own image is never deleted."""
    spec = DiskSpec(target="vda", format="raw" if image_format == "raw" else "qcow2")
    made = series(running(block_domain(spec, start=False)))
    for number in range(3):
        made.write("vda", number, 10 + number)
        made.backup(consolidate=False)
    made.write("vda", 20)
    made.flush("vda")
    active, own = made.chain()[0], made.domain.path("vda")
    made.consolidate(Policy(method=method, keep_overlay=keep_overlay))
    if keep_overlay:
        assert made.chain() == (active, own)
    else:
        assert made.chain() == ((own,) if method is How.BLOCKCOMMIT else (active,))
    assert made.overlays() == [path for path in made.chain() if path != own]
    assert own.exists()
    assert set(made.config_sources()) == {str(path) for path in made.chain()}
    kill_qemu(made.domain)  # what the guest had flushed is on the disk, wherever it is now
    made.check_live("vda")
    made.domain.start()
    made.check()
    made.write("vda", 21)
    made.backup()
    made.check()


def test_one_disk_of_two(block_domain: MakeBlockDomain, series: MakeSeries) -> None:
    """The other one keeps its overlays, and its next point is an increment."""
    made = series(block_domain(DiskSpec(target="vda"), DiskSpec(target="vdb")))
    made.write("vda", 1)
    made.backup()
    made.consolidate(Policy(disks=("vdb",), allow_paused=True))
    assert (len(made.chain("vda")), len(made.chain("vdb"))) == (2, 1)
    report = made.backup()
    assert report.point is not None
    assert [str(disk.kind) for disk in report.point.disks] == ["increment", "full"]
    made.check()


def test_nothing_to_do_is_no_error(block_domain: MakeBlockDomain, series: MakeSeries) -> None:
    """The plan has no step and says so."""
    made = series(block_domain())
    plan = made.plan()
    assert plan.steps == ()
    assert "as short as it gets" in str(plan)
    Executor(made.host, None).run(plan)


def test_an_image_of_another_is_never_deleted(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """A foreign overlay under ours is the base, and a foreign one above it is refused."""
    made = series(block_domain())
    foreign = made.domain.directory / "foreign"
    take_foreign(made.domain, foreign)
    made.write("vda", 1)
    made.backup()
    made.consolidate()
    assert made.chain() == (foreign, made.domain.path("vda"))
    made.backup()
    take_foreign(made.domain, made.domain.directory / "above")
    with pytest.raises(DomainStateError, match="is not ours"):
        made.plan()
    made.check()


def take_foreign(domain: BlockDomain, path: Path, *, metadata: bool = False) -> None:
    """Take an external snapshot as another tool would."""
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    if not metadata:
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    domain.dom.snapshotCreateXML(
        "<domainsnapshot><name>by-hand</name><disks>"
        f"<disk name='vda'><source file='{path}'/></disk></disks></domainsnapshot>",
        flags,
    )


def test_libvirts_snapshots_are_in_the_way(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """They are named; a backup goes on, does not consolidate, and warns."""
    made = series(block_domain())
    made.backup()
    take_foreign(made.domain, made.domain.directory / "snap", metadata=True)
    made.write("vda", 1)
    with pytest.raises(DomainStateError, match="by-hand"):
        made.plan()
    report = made.backup()
    assert any("by-hand" in warning for warning in report.warnings)
    assert len(made.chain()) == 4
    made.check()


@pytest.mark.parametrize("running", [False, True])
def test_a_base_of_another_domain_is_refused_by_name(
    block_domain: MakeBlockDomain, series: MakeSeries, hypervisor: Embedded, *, running: bool
) -> None:
    """Running or off, before anything starts; also when it comes after the plan."""
    made = series(block_domain())
    made.write("vda", 1)
    made.backup()
    plan = made.plan()
    other = clone(hypervisor, made.domain.path("vda"), block_domain)
    if running:
        other.start()
    before = sha256(made.domain.path("vda"))
    with pytest.raises(SharedBaseError, match=other.name) as refused:
        made.plan()
    assert refused.value.dependents == (other.name,)
    with pytest.raises(StepError, match=other.name):
        Executor(made.host, None).run(plan)
    assert sha256(made.domain.path("vda")) == before
    assert len(made.chain()) == 2
    assert made.host.read_domain(made.domain.name).ledger.run is None
    made.check()


def test_an_overlay_that_another_domain_uses_is_refused(
    block_domain: MakeBlockDomain, series: MakeSeries, hypervisor: Embedded
) -> None:
    """A linked clone on a frozen overlay keeps it."""
    made = series(block_domain())
    made.backup()
    made.write("vda", 1)
    made.backup(consolidate=False)
    other = clone(hypervisor, made.chain()[1], block_domain)
    with pytest.raises(SharedBaseError, match=other.name):
        made.plan()
    made.domain.dom.resume()
    with pytest.raises(SharedBaseError, match=other.name):
        made.plan(Policy(method=How.BLOCKPULL))
    made.check()


def test_a_plan_that_is_too_old_touches_nothing(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """A backup came in between."""
    made = series(block_domain())
    made.backup()
    plan = made.plan()
    made.backup(consolidate=False)
    with pytest.raises(StalePlanError):
        Executor(made.host, None).run(plan)
    assert len(made.chain()) == 3


# -- limits --------------------------------------------------------------------------------------


def slow_series(made: Series) -> None:
    """Give the chain an overlay that takes a while at a low bandwidth, either way."""
    made.backup()
    for cluster in range(0, 768, 32):
        made.domain.write("vda", cluster * CLUSTER, 32 * CLUSTER, next(PATTERNS))
    made.backup(consolidate=False)
    made.write("vda", 800)


@pytest.mark.parametrize("method", list(How))
def test_a_job_out_of_time_is_aborted_and_the_chain_is_as_before(
    block_domain: MakeBlockDomain, series: MakeSeries, method: How
) -> None:
    """It says so; the job is gone, the next try without a limit succeeds."""
    made = series(running(block_domain(start=False)))
    slow_series(made)
    before = made.chain()
    limits = Policy(method=method, bandwidth_bytes=MIB, timeout_seconds=2)
    with pytest.raises(StepError, match="did not end within 2 s and was aborted") as caught:
        made.consolidate(limits)
    assert isinstance(caught.value.__cause__, BlockJobError)
    assert "the active layers are vda" in caught.value.state
    assert caught.value.next_command == f"fibackup consolidate {made.domain.uuid}"
    assert made.chain() == before
    assert made.domain.dom.blockJobInfo("vda", 0) == {}
    made.check()
    made.write("vda", 900)
    assert kinds(made.backup(consolidate=False)) == {"increment"}
    made.consolidate(Policy(method=method))
    assert len(made.chain()) == 1
    made.check()


def test_a_short_suspension_ends_a_commit_that_does_not_converge(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """The guest goes on afterwards, in the base."""
    domain = running(block_domain(start=False))
    made = series(domain)
    slow_series(made)
    made.consolidate(Policy(bandwidth_bytes=MIB, timeout_seconds=1, suspend_seconds=60))
    assert made.chain() == (domain.path("vda"),)
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    made.check()


def test_a_suspension_that_is_too_short_ends_in_an_abort(
    block_domain: MakeBlockDomain, series: MakeSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest goes on all the same, in its overlay."""
    domain = running(block_domain(start=False))
    made = series(domain)
    slow_series(made)
    monkeypatch.setattr(libvirt.virDomain, "blockJobSetSpeed", lambda *_: 0)
    before = made.chain()
    with pytest.raises(StepError, match=r"within 1\.5 s"):
        made.consolidate(Policy(bandwidth_bytes=MIB, timeout_seconds=1, suspend_seconds=0.5))
    assert made.chain() == before
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    made.check()


def test_a_guest_that_could_not_be_resumed_goes_on_with_the_recovery(
    block_domain: MakeBlockDomain, series: MakeSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libvirt was away at that moment: the ledger says that it was us who suspended the guest."""
    domain = running(block_domain(start=False))
    made = series(domain)
    slow_series(made)
    limits = Policy(bandwidth_bytes=MIB, timeout_seconds=1, suspend_seconds=60)

    def fail(*_: object) -> None:
        raise libvirt.libvirtError("it is away")

    with monkeypatch.context() as away:
        away.setattr(libvirt.virDomain, "resume", fail)
        with pytest.raises(StepError, match="it is away"):
            made.consolidate(limits)
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    found = made.host.read_domain(domain.uuid)
    assert found.ledger.run is not None
    assert found.ledger.run.suspended
    Executor(made.host, None).run(plan_recovery(found, None, now=datetime.now(UTC)))
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert made.host.read_domain(domain.uuid).ledger.run is None
    made.check()


def test_progress_is_told_and_a_run_can_be_cancelled(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """After the cancel the chain is as before."""
    made = series(block_domain())
    slow_series(made)
    token, before, seen = CancelToken(), made.chain(), list[CopyProgress]()

    def listen(event: Event) -> None:
        if isinstance(event, CopyProgress):
            seen.append(event)
            token.cancel()

    plan = made.plan(Policy(bandwidth_bytes=MIB, allow_paused=True))
    with pytest.raises(StepError) as caught:
        Executor(made.host, None).run(plan, on_event=listen, cancel=token)
    assert isinstance(caught.value.__cause__, CancelledError)
    assert seen[0].target == "vda"
    assert seen[0].total_bytes > 0
    assert made.chain() == before
    made.check()


@pytest.mark.parametrize("method", list(How))
def test_a_qemu_that_dies_in_the_middle_leaves_the_chain_whole(
    block_domain: MakeBlockDomain, series: MakeSeries, method: How
) -> None:
    """No event comes; what the guest had flushed is there, and the next try succeeds."""
    made = series(running(block_domain(start=False)))
    slow_series(made)
    made.flush("vda")
    before = made.chain()

    def listen(event: Event) -> None:
        if isinstance(event, CopyProgress) and made.domain.is_active:
            kill_qemu(made.domain)

    plan = made.plan(Policy(method=method, bandwidth_bytes=MIB))
    with pytest.raises(StepError):
        Executor(made.host, None).run(plan, on_event=listen)
    assert made.chain() == before
    made.check()
    made.domain.start(paused=False)
    made.write("vda", 801)
    assert kinds(made.backup(consolidate=False)) == {"increment"}
    made.consolidate(Policy(method=method))
    assert len(made.chain()) == 1
    made.check()


# -- off -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_domain_that_is_off_is_consolidated_off_line(
    block_domain: MakeBlockDomain, series: MakeSeries, tmp_path: Path, image_format: str
) -> None:
    """qemu-img commits, the definition names the base and no backing store; the template stays."""
    spec, template = on_template(tmp_path)
    if image_format == "raw":
        spec = DiskSpec(target="vda", format="raw")
    made = series(block_domain(spec, DiskSpec(target="vdb")))
    before = sha256(template)
    for number in range(3):
        made.write("vda", 16 + number)
        made.backup(consolidate=False)
    made.write("vda", 30)
    made.domain.destroy()
    xml = made.domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert "backingStore" in xml
    made.consolidate()
    after = made.domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert "<backingStore" not in after
    assert len(after.splitlines()) < len(xml.splitlines())
    assert made.chain()[0] == made.domain.path("vda")
    assert made.overlays() == []
    ledger = made.host.read_domain(made.domain.name).ledger
    assert (ledger.overlays, ledger.run) == ((), None)
    assert sha256(template) == before
    made.check()
    made.domain.start()
    made.write("vda", 31)
    assert kinds(made.backup()) == {"full"}
    made.check()


def test_the_other_disks_of_a_domain_that_is_off_stay_as_they_are_defined(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """A header without a format needs the definition, or the domain does not start."""
    made = series(block_domain(DiskSpec(target="vda"), DiskSpec(target="vdb")))
    made.backup()
    made.consolidate(Policy(disks=("vda",), allow_paused=True))
    made.backup()
    made.domain.destroy()
    made.consolidate(Policy(disks=("vda",)))
    overlay, base = made.chain("vdb")[:2]
    xml = made.domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert f"<source file='{base}'/>" in xml
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", overlay)
    made.domain.start()
    assert made.chain("vda") == (made.domain.path("vda"),)


def test_a_job_whose_end_libvirt_never_saw_is_undone_in_the_header(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """The header skips overlays that the definition has; afterwards the domain is backed up."""
    made = series(block_domain())
    for number in range(3):
        made.write("vda", number)
        made.backup(consolidate=False)
    made.domain.destroy()
    active, *under = made.chain()
    run("qemu-img", "commit", "-q", "-d", "-b", under[-1], under[0])
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", under[-1], active)
    ledger = made.host.read_domain(made.domain.uuid).ledger
    killed = evolve(ledger, run=Run("-", "-", RunPhase.CONSOLIDATING))
    made.host.write_ledger(made.domain.uuid, killed)
    with pytest.raises(ChainError, match="its header names"):
        made.plan()
    found = made.host.read_domain(made.domain.uuid)
    Executor(made.host, None).run(plan_recovery(found, None, now=datetime.now(UTC)))
    assert made.chain() == (active, *under)
    made.consolidate()
    assert made.chain() == (made.domain.path("vda"),)
    made.check()


def test_an_active_layer_with_bitmaps_is_committed_while_the_domain_runs(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """Off, it is refused in words, and nothing is written."""
    made = series(block_domain())
    made.backup()
    made.domain.dom.checkpointCreateXML("<domaincheckpoint><name>cp</name></domaincheckpoint>")
    made.write("vda", 1)
    made.domain.destroy()
    before, base = made.chain(), sha256(made.domain.path("vda"))
    with pytest.raises(StepError, match="it has bitmaps"):
        made.consolidate()
    assert (made.chain(), sha256(made.domain.path("vda"))) == (before, base)
    made.domain.start()
    made.consolidate()
    assert len(made.chain()) == 1
    made.check()


def test_a_domain_that_is_off_takes_a_full_commit_only(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """A pull and the rolling form are refused before anything starts."""
    made = series(block_domain())
    made.backup()
    made.domain.destroy()
    for policy in (Policy(keep_overlay=True), Policy(method=How.BLOCKPULL)):
        with pytest.raises(PolicyError, match="off"):
            made.plan(policy)


def test_a_paused_domain_takes_no_pull(block_domain: MakeBlockDomain, series: MakeSeries) -> None:
    """Nothing would make QEMU flush it before the overlays go."""
    made = series(block_domain())
    made.backup()
    with pytest.raises(PolicyError, match="paused"):
        made.plan(Policy(method=How.BLOCKPULL, allow_paused=True))


def test_a_domain_that_starts_meanwhile_keeps_its_overlay(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """Started after the plan, or right after the commit: the definition stands."""
    made = series(block_domain())
    made.write("vda", 1)
    made.backup()
    made.domain.destroy()
    before, plan = made.chain(), made.plan()
    made.domain.start()
    with pytest.raises(StalePlanError):
        Executor(made.host, None).run(plan)
    made.domain.destroy()

    def start(event: Event) -> None:
        if isinstance(event, CopyProgress) and event.done_bytes == event.total_bytes:
            with contextlib.suppress(libvirt.libvirtError):  # QEMU's lock, while qemu-img has it
                made.domain.start()

    with contextlib.suppress(StepError):
        Executor(made.host, None).run(made.plan(), on_event=start)
    assert made.chain() in {before, (made.domain.path("vda"),)}
    made.check()


def test_a_domain_cannot_start_between_the_commit_and_the_new_definition(
    block_domain: MakeBlockDomain, series: MakeSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The active layer is locked as QEMU would, until the definition names the base."""
    made = series(block_domain())
    made.write("vda", 1)
    made.backup()
    made.domain.destroy()
    real, refusals = libvirt.virConnect.defineXML, list[str]()

    def define(connection: libvirt.virConnect, xml: str) -> libvirt.virDomain:
        with pytest.raises(libvirt.libvirtError) as caught:
            made.domain.start()
        refusals.append(str(caught.value))
        return real(connection, xml)

    monkeypatch.setattr(libvirt.virConnect, "defineXML", define)
    made.consolidate()
    assert "lock" in refusals[0]
    assert made.chain() == (made.domain.path("vda"),)
    made.domain.start()
    made.check()


# -- the command ---------------------------------------------------------------------------------


def test_the_command_consolidates(
    private_domain: BlockDomain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dry run, rolling by `backup --consolidate`, then the whole chain; a second time is fine."""
    uri, name = private_domain.hypervisor.uri, private_domain.name
    (tmp_path / "store").mkdir()
    backup = ["backup", "-c", uri, "--store", str(tmp_path / "store"), "--allow-paused", "-q"]
    for number in range(3):
        private_domain.write("vda", number * MIB, MIB, number + 1)
        assert main([*backup, "--quiesce", "off", "--consolidate", name]) == 0
    active = private_domain.active("vda")
    assert len(list(active.parent.glob("*.bimg-*"))) == 1
    capsys.readouterr()
    verb = ["consolidate", "-c", uri, "--allow-paused", name]
    assert main([*verb, "--dry-run"]) == 0
    assert f"delete {active}" in capsys.readouterr().out
    assert main(verb) == 0
    assert "consolidate of" in capsys.readouterr().out
    assert private_domain.active("vda") == private_domain.path("vda")
    assert not active.exists()
    assert main([*verb, "--json"]) == 0
    assert '"ok": true' in capsys.readouterr().out
    assert main(["consolidate", "-c", uri]) == 2
    assert main(["consolidate", "-c", uri, "--timeout", "0", name]) == 2


@pytest.fixture
def private_domain(block_domain: MakeBlockDomain, request: pytest.FixtureRequest) -> BlockDomain:
    """Give a domain of a libvirtd, which another connection can reach."""
    return block_domain(on=request.getfixturevalue("private_daemon"))
