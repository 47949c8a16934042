"""The hypervisor of the tests does what the other tests rely on."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from hypervisor import (
    MIB,
    TWO_DISKS,
    DamagedRecordsError,
    DiskSpec,
    Embedded,
    GuestOptions,
    GuestWriteError,
    ImageFormat,
    LinuxGuest,
    MakeBlockDomain,
    MakeLinuxGuest,
    PrivateDaemon,
    convert,
    create_image,
    differences,
    fsck_clean,
    guest_kit,
    processes_of,
    read_records,
)
from hypervisor.host import tool

pytestmark = pytest.mark.libvirt

DISK_ONLY = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
)


def snapshot(domain: libvirt.virDomain, overlays: dict[str, Path], flags: int = DISK_ONLY) -> None:
    """Take an external snapshot of the disks named."""
    disks = "".join(
        f"<disk name='{target}' snapshot='external' type='file'>"
        f"<driver type='qcow2'/><source file='{path}'/></disk>"
        for target, path in overlays.items()
    )
    domain.snapshotCreateXML(f"<domainsnapshot><disks>{disks}</disks></domainsnapshot>", flags)


# -- paused domains ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "disk",
    [
        DiskSpec(),
        DiskSpec(format="raw"),
        DiskSpec(qcow2_version="v2"),
        DiskSpec(options=("cluster_size=4k",)),
        DiskSpec(bus="sata", target="sda"),
        DiskSpec(bus="scsi", target="sda"),
    ],
    ids=["qcow2", "raw", "v2", "4k", "sata", "scsi"],
)
def test_the_reference_is_what_the_image_holds(
    block_domain: MakeBlockDomain, disk: DiskSpec
) -> None:
    """What the oracle says is what QEMU has written, whatever the format and the bus."""
    domain = block_domain(disk)
    domain.write(disk.target, 0, MIB, 0xAA)
    domain.write(disk.target, 3 * MIB + 512, 5000 * 512, 0x5B)
    domain.write_zeroes(disk.target, 64 * 1024, 4096)
    domain.discard(disk.target, 128 * 1024, 128 * 1024)
    domain.discard(disk.target, 4 * MIB + 512, 100 * 1024)
    reference = domain.reference(disk.target, "end")
    domain.destroy()
    assert differences(domain.path(disk.target), disk.format, reference) == ""


def test_an_image_that_differs_is_told_apart(block_domain: MakeBlockDomain) -> None:
    """The comparison names the place of the first difference."""
    domain = block_domain()
    domain.write("vda", 0, 4096, 1)
    before = domain.reference("vda", "before")
    domain.write("vda", 8192, 512, 2)
    domain.destroy()
    assert "8192" in differences(domain.path("vda"), "qcow2", before)


def test_writes_follow_the_active_layer(block_domain: MakeBlockDomain) -> None:
    """After a snapshot the guest writes the overlay and the base stays as it was."""
    domain = block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw"))
    for target in ("vda", "vdb"):
        domain.write(target, 0, MIB, 1)
    points = {target: domain.reference(target, "point") for target in ("vda", "vdb")}
    overlays = {target: domain.directory / f"{target}.overlay" for target in ("vda", "vdb")}
    snapshot(domain.dom, overlays)
    for target in ("vda", "vdb"):
        domain.write(target, 512, 512, 2)
        assert domain.active(target) == overlays[target]
        assert domain.active_format(target) == "qcow2"
    ends = {target: domain.reference(target, "end") for target in ("vda", "vdb")}
    domain.destroy()
    assert differences(domain.path("vda"), "qcow2", points["vda"]) == ""
    assert differences(domain.path("vdb"), "raw", points["vdb"]) == ""
    for target in ("vda", "vdb"):
        assert differences(overlays[target], "qcow2", ends[target]) == ""


def test_a_linked_clone_starts_with_its_template(
    block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """The reference of a disk with a backing file begins with what is in that file."""
    template = tmp_path / "template.raw"
    create_image(DiskSpec(format="raw"), template)
    template.write_bytes(b"\7" * 8192 + bytes(64 * MIB - 8192))
    domain = block_domain(DiskSpec(backing=template, backing_format="raw"))
    assert domain.reads("vda", 0, 8192, 7)
    domain.write("vda", 4096, 4096, 9)
    assert domain.reference("vda", "now").read_bytes()[:8192] == b"\7" * 4096 + b"\t" * 4096


def test_a_write_that_fails_raises(block_domain: MakeBlockDomain) -> None:
    """An error that QEMU reports to the guest is an exception."""
    domain = block_domain()
    with pytest.raises(GuestWriteError, match="write failed"):
        domain.write("vda", 64 * MIB, 512, 1)


def test_a_domain_that_is_off_is_written_too(block_domain: MakeBlockDomain) -> None:
    """A domain that is off is written through its image."""
    domain = block_domain(start=False)
    domain.write("vda", 0, 65536, 3)
    domain.discard("vda", 0, 65536)
    domain.write("vda", 65536, 65536, 4)
    assert differences(domain.path("vda"), "qcow2", domain.reference("vda", "off")) == ""
    with pytest.raises(GuestWriteError):
        domain.write("vda", 64 * MIB, 512, 1)


def test_a_resized_disk_keeps_its_reference(block_domain: MakeBlockDomain) -> None:
    """A disk may grow while it runs."""
    domain = block_domain()
    domain.resize("vda", 80 * MIB)
    domain.write("vda", 79 * MIB, MIB, 5)
    domain.destroy()
    assert differences(domain.path("vda"), "qcow2", domain.reference("vda", "end")) == ""


# -- the Linux guest -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """
    A guest that was snapshotted while it wrote, snapshotted while frozen, and switched off.

    ::

        base (crash) <- crash overlay (frozen) <- frozen overlay (off)
    """

    guest: LinuxGuest
    acked_at_crash: int
    acked_while_frozen: tuple[int, int]
    acked_at_end: int

    def image(self, target: str, point: str) -> tuple[Path, ImageFormat]:
        """Return the image that holds a point."""
        if point == "crash":
            return self.guest.path(target), self.guest.disks[target].format
        overlay = {"frozen": "crash", "off": "frozen"}[point]
        return self.guest.directory / f"{target}.{overlay}", "qcow2"

    def raw(self, target: str, point: str, directory: Path) -> Path:
        """Return a point as a raw file."""
        image, image_format = self.image(target, point)
        return convert(image, image_format, directory / f"{target}.{point}.raw")


@pytest.fixture(scope="module")
def story(linux_guest: MakeLinuxGuest) -> Story:
    """Give a guest with a past."""
    guest = linux_guest()
    at_crash = guest.wait_acked(5)
    snapshot(guest.dom, {target: guest.directory / f"{target}.crash" for target in guest.disks})
    guest.wait_more(3)
    assert guest.dom.fsFreeze() == 2
    try:
        time.sleep(0.3)
        frozen = guest.acked()
        snapshot(
            guest.dom, {target: guest.directory / f"{target}.frozen" for target in guest.disks}
        )
        time.sleep(0.5)
        still_frozen = guest.acked()
    finally:
        assert guest.dom.fsThaw() == 2
    guest.wait_more(3)
    guest.shutdown()
    return Story(guest, at_crash, (frozen, still_frozen), guest.acked())


@pytest.mark.parametrize("target", ["vda", "vdb"])
def test_what_was_acknowledged_is_in_a_snapshot(story: Story, target: str, tmp_path: Path) -> None:
    """A crash-consistent image needs its journal, and then has every acknowledged record."""
    raw = story.raw(target, "crash", tmp_path)
    assert not fsck_clean(raw)
    records = read_records(raw, target, replay_journal=True)
    assert records == list(range(1, len(records) + 1))
    assert len(records) >= story.acked_at_crash


@pytest.mark.parametrize("target", ["vda", "vdb"])
def test_a_frozen_guest_is_clean(story: Story, target: str, tmp_path: Path) -> None:
    """A frozen guest acknowledges nothing, and its image needs no replay."""
    before, after = story.acked_while_frozen
    assert before == after
    raw = story.raw(target, "frozen", tmp_path)
    assert fsck_clean(raw)
    assert len(read_records(raw, target, replay_journal=False)) >= before


@pytest.mark.parametrize("target", ["vda", "vdb"])
def test_a_guest_that_was_shut_down_is_clean(story: Story, target: str, tmp_path: Path) -> None:
    """After a shutdown everything acknowledged is there, without a replay."""
    raw = story.raw(target, "off", tmp_path)
    assert fsck_clean(raw)
    assert len(read_records(raw, target, replay_journal=False)) >= story.acked_at_end


def test_records_of_another_disk_are_noticed(story: Story, tmp_path: Path) -> None:
    """A disk restored under the wrong name does not pass."""
    with pytest.raises(DamagedRecordsError, match="a record of vda on vdb"):
        read_records(story.raw("vda", "off", tmp_path), "vdb", replay_journal=False)


@pytest.mark.parametrize("point", ["crash", "frozen"])
def test_a_restored_guest_boots_and_goes_on(
    story: Story, linux_guest: MakeLinuxGuest, tmp_path: Path, point: str
) -> None:
    """A guest on restored disks continues the numbers without a gap."""
    disks = [
        DiskSpec(target=target, format="raw", path=story.raw(target, point, tmp_path))
        for target in story.guest.disks
    ]
    restored = linux_guest(*disks)
    restored.wait_acked(story.acked_at_end + 3)
    restored.shutdown()
    for disk in disks:
        raw = disk.path_in(tmp_path)
        assert fsck_clean(raw)
        records = read_records(raw, disk.target, replay_journal=False)
        assert records == list(range(1, len(records) + 1))
        assert len(records) >= restored.acked()
    restored.close()


def test_agents_that_are_absent_or_silent(linux_guest: MakeLinuxGuest) -> None:
    """A guest has no agent, or one that is silent, or one that refuses to freeze."""
    absent = linux_guest(TWO_DISKS[0], options=GuestOptions(agent="off"), wait=False)
    silent = linux_guest(TWO_DISKS[0], options=GuestOptions(agent="hang", writer=False), wait=False)
    refusing = linux_guest(TWO_DISKS[0], options=GuestOptions(agent="fail"), wait=False)
    for guest in (absent, silent, refusing):
        guest.wait_ready()
    assert not absent.agent_connected()
    absent.wait_acked(2)
    assert silent.agent_connected()
    silent.dom.agentSetResponseTimeout(1, 0)
    with pytest.raises(libvirt.libvirtError):
        silent.dom.fsFreeze()
    assert silent.acked() == 0
    with pytest.raises(libvirt.libvirtError):
        refusing.dom.fsFreeze()
    refusing.wait_more(2)
    for guest in (absent, silent, refusing):
        guest.close()


def test_the_kit_is_made_once() -> None:
    """A second call finds the kit."""
    first = guest_kit()
    start = time.monotonic()
    assert guest_kit() == first
    assert time.monotonic() - start < 1


# -- the private daemon --------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_domains_outlive_the_daemon(
    block_domain: MakeBlockDomain, private_daemon: PrivateDaemon, end: str
) -> None:
    """A domain runs on without its daemon, and the next daemon finds it."""
    domain = block_domain(on=private_daemon)
    domain.write("vda", 0, 65536, 1)
    [pid] = private_daemon.qemus()
    private_daemon.stop() if end == "stop" else private_daemon.kill()
    private_daemon.start()
    assert private_daemon.qemus() == [pid]
    domain.dom = private_daemon.connection.lookupByUUIDString(domain.uuid)
    domain.write("vda", 65536, 65536, 2)
    domain.destroy()
    assert differences(domain.path("vda"), "qcow2", domain.reference("vda", "end")) == ""


def test_the_private_daemon_runs_linux(
    linux_guest: MakeLinuxGuest, private_daemon: PrivateDaemon
) -> None:
    """The guest and its agent work under the daemon too."""
    guest = linux_guest(on=private_daemon)
    guest.wait_acked(3)
    assert guest.dom.fsFreeze() == 2
    assert guest.dom.fsThaw() == 2
    guest.close()


# -- nothing is left -----------------------------------------------------------------------------

OTHER_PROCESS = """
import os, sys
from pathlib import Path
from hypervisor import Embedded, PrivateDaemon
kind = {"embedded": Embedded, "daemon": PrivateDaemon}[sys.argv[1]]
opened = kind(Path(sys.argv[2]) if sys.argv[2] else None)
domain = opened.block_domain()
print(opened.root, flush=True)
if sys.argv[3] == "crash":
    os._exit(9)
opened.close()
"""

numbers = itertools.count()


def short_root(kind: str) -> Path:
    """Return a path that is short enough for sockets; pytest's own are not."""
    return Path("/tmp") / f"fib-{kind}-{os.getpid()}-{next(numbers)}"  # noqa: S108 - see above


@pytest.mark.parametrize("kind", ["embedded", "daemon"])
def test_closing_leaves_no_process_and_no_file(kind: str) -> None:
    """A closed hypervisor leaves nothing."""
    root = short_root(kind)
    run_other(kind, root, "close")
    assert not root.exists()
    assert processes_of(root) == []


@pytest.mark.parametrize("kind", ["embedded", "daemon"])
def test_a_crashed_run_is_cleaned_by_the_next(kind: str) -> None:
    """What a crashed process leaves is removed by the next one at the same root."""
    root = short_root(kind)
    run_other(kind, root, "crash")
    assert processes_of(root) != []
    run_other(kind, root, "close")
    assert processes_of(root) == []
    assert not root.exists()


def test_a_crashed_run_in_a_temporary_root_is_swept() -> None:
    """A temporary root without an owner is removed by whoever comes next."""
    root = Path(run_other("embedded", None, "crash").strip())
    assert processes_of(root) != []
    run_other("embedded", None, "close")
    assert processes_of(root) == []
    assert not root.exists()


def test_a_qemu_of_our_own_is_left_to_whoever_started_it() -> None:
    """The reaper takes daemons alone: libvirt waits for the QEMUs that it asks what they can do."""
    code = """
import os, sys, time
from hypervisor.reaper import ensure_reaper
ensure_reaper()
child = os.posix_spawn(sys.argv[1], [sys.argv[1], "--version"], os.environ)
time.sleep(1)
assert os.waitpid(child, 0) == (child, 0)
"""
    qemu = tool("qemu-system-x86_64")
    subprocess.run([sys.executable, "-c", code, qemu], check=True, cwd=Path(__file__).parents[1])


def test_two_processes_do_not_share_a_root(hypervisor: Embedded) -> None:
    """A root that is in use is refused and stays."""
    done = run_other("embedded", hypervisor.root, "close", accept=1)
    assert f"another process uses {hypervisor.root}" in done
    assert hypervisor.root.exists()


def run_other(kind: str, root: Path | None, end: str, accept: int | None = None) -> str:
    """Run a hypervisor in a process of its own; return what it says, root or error."""
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, kind, str(root or ""), end],
        check=False, cwd=tests, capture_output=True, text=True,
    )  # fmt: skip
    expected = accept if accept is not None else 9 if end == "crash" else 0
    assert done.returncode == expected, done.stderr
    return done.stdout + done.stderr
