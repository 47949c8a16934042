"""
Points with the guest's memory: a Linux guest goes on where it was, on disks that agree with it.

::

    guest    COUNT 40   COUNT 41  [snapshot]  COUNT 42 .. 90  destroyed
    restored                      COUNT 42    COUNT 43 ..     no boot in between
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import libvirt
import pytest

import fibackup
from fibackup import (
    BackupPolicy,
    Consistency,
    CopyProgress,
    DomainBusyError,
    DomainState,
    Event,
    Executor,
    FibackupError,
    FileRole,
    ForeignConfigError,
    Host,
    HostError,
    LibvirtHost,
    NoSpaceError,
    Plan,
    PolicyError,
    Report,
    ResumeDomain,
    Snapshot,
    StepError,
    StepFinished,
    Store,
    TakeSnapshot,
    UnsupportedDiskError,
    VerifyError,
    plan_backup,
    plan_restore,
)
from fibackup.host import libvirt_host
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    Embedded,
    GuestOptions,
    Hypervisor,
    LinuxGuest,
    MakeBlockDomain,
    MakeLinuxGuest,
    PrivateDaemon,
    convert,
    create_image,
    fsck_clean,
    read_records,
)

pytestmark = pytest.mark.libvirt

COUNTING = GuestOptions(counter=True, pause_microseconds=20_000)
WITH_MEMORY = BackupPolicy(memory=True, allow_paused=True)


def hashes(*places: Path) -> dict[str, str]:
    """Return the sha256 of every file below some places."""
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    files = [path for path in files if not path.name.startswith("lock")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sources(dom: libvirt.virDomain, flags: int = 0) -> dict[str, str]:
    """Return the images of a domain, live or as it is defined."""
    found = {}
    for disk in ET.fromstring(dom.XMLDesc(flags)).iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        assert target is not None
        assert source is not None
        found[target.get("dev", "")] = source.get("file", "")
    return found


def leftovers(place: Path) -> list[Path]:
    """Return the files with memory below a place, finished or not."""
    return [path for path in place.rglob("*") if ".mem" in path.name]


def running(make: MakeBlockDomain, on: Hypervisor | None = None) -> BlockDomain:
    """Start a domain that runs its firmware, and nothing else."""
    domain = make(start=False, on=on)
    domain.start(paused=False)
    return domain


def plan_next(host: Host, store: Store, uuid: str, policy: BackupPolicy = WITH_MEMORY) -> Plan:
    """Plan the next point of a domain."""
    found = host.read_domain(uuid)
    return plan_backup(found, store.read_history(uuid), now=datetime.now(UTC), policy=policy)


def restore(
    host: LibvirtHost,
    store: Store,
    uuid: str,
    into: Path,
    *,
    paused: bool,
    keep_foreign: bool = False,
) -> Report:
    """Bring a guest back from its newest point."""
    plan = plan_restore(
        store.read_history(uuid),
        "latest",
        into=PurePosixPath(into),
        memory=True,
        paused=paused,
        keep_foreign=keep_foreign,
    )
    return Executor(host, store).run(plan)


# -- a guest that goes on ------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """A point with memory, and where the counter was around its snapshot."""

    report: Report
    before: int
    after: int
    progress: list[CopyProgress]


def take(guest: LinuxGuest, host: LibvirtHost, store: Store) -> Taken:
    """Take a point with memory of a guest that counts and writes."""
    after: list[int] = []
    progress: list[CopyProgress] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepFinished) and isinstance(event.step, TakeSnapshot):
            after.append(guest.counted()[-1])
        if isinstance(event, CopyProgress) and event.target == "memory":
            progress.append(event)

    plan = plan_next(host, store, guest.uuid)
    before = guest.counted()[-1]
    report = Executor(host, store).run(plan, on_event=listen)
    return Taken(report, before, after[0], progress)


def wait_counts(guest: LinuxGuest, known: int, more: int = 10) -> list[int]:
    """Wait until the guest has counted further, and return what it said since *known*."""
    deadline = time.monotonic() + 60
    while len(guest.counted()) < known + more:
        assert time.monotonic() < deadline, guest.failures()
        time.sleep(0.05)
    return guest.counted()[known:]


def check_disks(into: Path, at_least: int) -> None:
    """Assert that the restored disks have every record, each once, and clean file systems."""
    for target in ("vda", "vdb"):
        raw = into / f"{target}.raw"
        convert(into / f"{target}.qcow2", "qcow2", raw, "raw")
        assert fsck_clean(raw)
        records = read_records(raw, target, replay_journal=False)
        assert records == list(range(1, len(records) + 1))
        assert len(records) >= at_least


def test_a_guest_goes_on_where_it_was(
    linux_guest: MakeLinuxGuest, host: LibvirtHost, store: Store, tmp_path: Path
) -> None:
    """Its counter continues without a boot, its disks agree, the originals are untouched."""
    guest = linux_guest(options=COUNTING)
    guest.wait_acked(3)
    taken = take(guest, host, store)
    point = taken.report.point
    assert point is not None
    assert point.consistency is Consistency.MEMORY
    [memory] = [file for file in point.files if file.role is FileRole.MEMORY]
    assert taken.progress[-1].done_bytes == taken.progress[-1].total_bytes == memory.size_bytes
    assert leftovers(guest.directory) == []
    guest.wait_more(5)  # it ran on, and writes what the point must not have
    assert guest.counted() == list(range(1, len(guest.counted()) + 1))
    guest.destroy()
    originals = hashes(guest.directory, Path(store.path))
    known, into = len(guest.counted()), tmp_path / "restored"
    with pytest.raises(ForeignConfigError, match="os/kernel"):
        restore(host, store, guest.uuid, into, paused=False)
    assert not into.exists()
    restore(host, store, guest.uuid, into, paused=False, keep_foreign=True)
    counts = wait_counts(guest, known)
    assert counts == list(range(counts[0], counts[0] + len(counts)))
    assert taken.before < counts[0] <= taken.after + 1
    assert guest.boots() == 1
    images = {target: str(into / f"{target}.qcow2") for target in ("vda", "vdb")}
    assert sources(guest.dom) == images
    assert sources(guest.dom, libvirt.VIR_DOMAIN_XML_INACTIVE) == images
    assert leftovers(into) == []
    acked = guest.wait_more(5)
    guest.shutdown()
    check_disks(into, acked)
    assert hashes(guest.directory, Path(store.path)) == originals
    guest.close()


def test_a_guest_is_brought_back_after_its_definition_is_gone(
    linux_guest: MakeLinuxGuest, host: LibvirtHost, store: Store, tmp_path: Path
) -> None:
    """An undefined domain is there again, paused when asked, defined, and its ledger is empty."""
    guest = linux_guest(options=COUNTING)
    guest.wait_acked(2)
    Executor(host, store).run(plan_next(host, store, guest.uuid, BackupPolicy()))
    taken = take(guest, host, store)
    assert taken.report.point is not None
    assert str(taken.report.point.kind) == "increment"
    guest.destroy()
    guest.dom.undefine()
    restore(host, store, guest.uuid, tmp_path / "restored", paused=True, keep_foreign=True)
    domain = host.read_domain(guest.name)
    assert (domain.uuid, domain.state) == (guest.uuid, DomainState.PAUSED)
    assert domain.persistent
    assert domain.ledger.overlays == ()
    known = len(guest.counted())
    handle = host_handle(guest)
    time.sleep(0.5)
    assert len(guest.counted()) == known
    handle.resume()
    assert taken.before < wait_counts(guest, known)[0] <= taken.after + 1
    guest.close()


def host_handle(guest: LinuxGuest) -> libvirt.virDomain:
    """Return a handle of the domain that is there now."""
    return guest.hypervisor.connection.lookupByUUIDString(guest.uuid)


# -- refused before anything starts --------------------------------------------------------------

SHMEM = "<shmem name='{}'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>"


def test_a_device_that_keeps_its_state_to_itself_is_found_while_planning(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store
) -> None:
    """Shared memory is named as the reason; without memory there is a point."""
    domain = block_domain(devices_xml=SHMEM.format("fibackup-test"))
    found = host.read_domain(domain.name)
    assert found.memory_blockers == ("shmem (fibackup-test)",)
    assert found.memory_bytes == 32 * MIB
    with pytest.raises(PolicyError, match=r"shmem \(fibackup-test\)"):
        plan_next(host, store, domain.uuid)
    assert sorted(path.name for path in domain.directory.iterdir()) == ["vda.qcow2"]
    Executor(host, store).run(plan_next(host, store, domain.uuid, BackupPolicy(allow_paused=True)))


def test_a_disk_that_would_not_fit_the_memory_is_refused(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store
) -> None:
    """An excluded disk that the guest may write is named; a read-only one may be left out."""
    domain = block_domain(
        DiskSpec(target="vda"),
        DiskSpec(target="vdb"),
        DiskSpec(target="vdc", disk_xml="<readonly/>"),
    )
    policy = BackupPolicy(memory=True, allow_paused=True, exclude=("vdb",))
    with pytest.raises(UnsupportedDiskError, match="excluded") as caught:
        plan_next(host, store, domain.uuid, policy)
    assert caught.value.target == "vdb"
    report = Executor(host, store).run(plan_next(host, store, domain.uuid))
    assert report.point is not None
    assert [disk.target for disk in report.point.disks] == ["vda", "vdb"]


def test_a_domain_that_is_off_has_no_memory(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store
) -> None:
    """It is refused, and says how to start it."""
    domain = block_domain(start=False)
    with pytest.raises(FibackupError, match="shut off"):
        plan_next(host, store, domain.uuid)


def test_a_store_without_room_for_the_memory_is_found_before_the_snapshot(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory counts, with the size that the domain has at most."""
    domain = block_domain()
    plan = plan_next(host, store, domain.uuid)
    monkeypatch.setattr(store, "free_bytes", lambda: 32 * MIB)
    with pytest.raises(NoSpaceError):
        Executor(host, store).run(plan)
    assert host.read_domain(domain.uuid) == host.read_domain(domain.name)
    assert sorted(path.name for path in domain.directory.iterdir()) == ["vda.qcow2"]


@pytest.mark.parametrize("state", ["running", "another of its name"])
def test_a_guest_is_not_brought_back_over_another(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, tmp_path: Path, state: str
) -> None:
    """A domain that runs, or another one of the same name, is refused; nothing is written."""
    domain = block_domain()
    Executor(host, store).run(plan_next(host, store, domain.uuid))
    if state != "running":
        domain.destroy()
        xml = ET.fromstring(domain.dom.XMLDesc(0))
        domain.undefine()
        old = xml.find("uuid")
        assert old is not None
        xml.remove(old)
        domain.dom = domain.hypervisor.connection.defineXML(ET.tostring(xml, encoding="unicode"))
    before = sources(domain.dom, libvirt.VIR_DOMAIN_XML_INACTIVE)
    with pytest.raises(DomainBusyError):
        restore(host, store, domain.uuid, tmp_path / "restored", paused=False)
    assert not (tmp_path / "restored").exists()
    assert sources(domain.dom, libvirt.VIR_DOMAIN_XML_INACTIVE) == before


# -- memory that is not what it should be --------------------------------------------------------


def test_damaged_memory_is_not_restored(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, tmp_path: Path
) -> None:
    """A wrong hash leaves no file, no guest, and the old definition."""
    domain = running(block_domain)
    Executor(host, store).run(plan_next(host, store, domain.uuid))
    domain.destroy()
    before = domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    [memory] = leftovers(Path(store.path))
    content = bytearray(memory.read_bytes())
    content[-1] ^= 1
    memory.write_bytes(bytes(content))
    with pytest.raises(StepError) as caught:
        restore(host, store, domain.uuid, tmp_path / "restored", paused=False)
    assert isinstance(caught.value.__cause__, VerifyError)
    assert leftovers(tmp_path / "restored") == []
    assert not domain.is_active
    assert domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before


VNC = "<graphics type='vnc' port='-1' autoport='yes' passwd='hunter2'/>"
PERSISTENT = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


def test_a_guest_that_is_back_is_defined_whatever_comes_then(
    block_domain: MakeBlockDomain,
    host: LibvirtHost,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Also when the file with the memory cannot be removed; its next start finds the restored disk.

    The password is the one that it had, although the point's XML is without it, and a disk that
    only the running guest had is not in the definition.
    """
    domain = block_domain(start=False, devices_xml=VNC)
    domain.start(paused=False)
    plugged = domain.directory / "plugged.qcow2"
    create_image(DiskSpec(), plugged)
    domain.dom.attachDeviceFlags(
        f"<disk type='file'><driver name='qemu' type='qcow2'/><source file='{plugged}'/>"
        "<target dev='vdz' bus='virtio'/></disk>",
        libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )
    report = Executor(host, store).run(plan_next(host, store, domain.uuid))
    assert "disk vdz is not in the persistent definition" in " ".join(report.warnings)
    assert report.point is not None
    assert "missing-passwords" in dict(report.point.facts)
    [config] = [file for file in report.point.files if file.role is FileRole.DOMAIN_XML]
    assert "hunter2" not in store.read_config(domain.uuid, config)
    domain.destroy()

    def fail(path: PurePosixPath) -> None:
        raise HostError(reason="Read-only file system", path=str(path))

    monkeypatch.setattr(libvirt_host, "forget_memory", fail)
    into = tmp_path / "restored"
    with pytest.raises(StepError, match="Read-only") as caught:
        restore(host, store, domain.uuid, into, paused=False, keep_foreign=True)
    assert "the guest runs on the restored disks" in caught.value.state
    images = {target: str(into / f"{target}.qcow2") for target in ("vda", "vdz")}
    assert sources(domain.dom) == images
    assert sources(domain.dom, PERSISTENT) == {"vda": images["vda"]}
    assert "passwd='hunter2'" in domain.dom.XMLDesc(PERSISTENT)


class Meddler(LibvirtHost):
    """A host on which somebody changes the memory between two steps."""

    magic = b""

    def resume_domain(self, uuid: str, step: ResumeDomain, config: str) -> None:
        """Change the restored memory, then go on."""
        with Path(step.memory).open("r+b") as file:
            file.write(self.magic)
        super().resume_domain(uuid, step, config)

    def take_snapshot(self, uuid: str, snapshot: Snapshot) -> datetime:
        """Take it, then change the memory."""
        moment = super().take_snapshot(uuid, snapshot)
        assert snapshot.memory is not None
        with Path(snapshot.memory).open("r+b") as file:
            file.write(self.magic)
        return moment


@pytest.mark.parametrize("magic", [b"LibvirtQemudPart", b"something else.."])
def test_a_restore_that_fails_leaves_the_old_definition(
    block_domain: MakeBlockDomain,
    hypervisor: Embedded,
    host: LibvirtHost,
    store: Store,
    tmp_path: Path,
    magic: bytes,
) -> None:
    """When libvirt refuses the memory, the domain is off and as it was, and no file is left."""
    domain = running(block_domain)
    Executor(host, store).run(plan_next(host, store, domain.uuid))
    domain.destroy()
    before = domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    meddler = Meddler(hypervisor.connection)
    meddler.magic = magic
    with pytest.raises(StepError) as caught:
        restore(meddler, store, domain.uuid, tmp_path / "restored", paused=False)
    assert "virDomainSaveImage" in caught.value.reason or "incomplete" in caught.value.reason
    assert not (tmp_path / "restored").exists()
    assert not domain.is_active
    assert domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before


@pytest.mark.parametrize(
    ("magic", "words"),
    [(b"LibvirtQemudPart", "incomplete"), (b"something else..", "not a guest's memory")],
)
def test_memory_that_libvirt_would_not_restore_is_not_stored(
    block_domain: MakeBlockDomain, hypervisor: Embedded, store: Store, magic: bytes, words: str
) -> None:
    """There is no point; what is not libvirt's is not deleted either."""
    domain = running(block_domain)
    meddler = Meddler(hypervisor.connection)
    meddler.magic = magic
    with pytest.raises(StepError, match=words):
        Executor(meddler, store).run(plan_next(meddler, store, domain.uuid))
    assert store.read_history(domain.uuid).points == ()
    assert leftovers(Path(store.path)) == []
    [left] = leftovers(domain.directory)
    meddler.magic = b"LibvirtQemudSave"
    if words == "incomplete":
        Executor(meddler, store).run(plan_next(meddler, store, domain.uuid))
        assert leftovers(domain.directory) == []
        return
    with pytest.raises(StepError, match="not one that a snapshot of ours wrote"):
        Executor(meddler, store).run(plan_next(meddler, store, domain.uuid))
    assert leftovers(domain.directory) == [left]


def test_a_snapshot_that_libvirt_refuses_changes_nothing(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store
) -> None:
    """QEMU saves the memory of a paused domain once, then not until it has run again."""
    domain = block_domain()
    Executor(host, store).run(plan_next(host, store, domain.uuid))
    before = host.read_domain(domain.uuid).disks
    files = sorted(domain.directory.iterdir())
    with pytest.raises(StepError, match="paused due to previous migration") as caught:
        Executor(host, store).run(plan_next(host, store, domain.uuid))
    assert "no snapshot was taken" in caught.value.state
    assert [disk.chain and disk.chain.paths for disk in host.read_domain(domain.uuid).disks] == [
        disk.chain and disk.chain.paths for disk in before
    ]
    assert sorted(domain.directory.iterdir()) == files
    domain.dom.resume()
    Executor(host, store).run(plan_next(host, store, domain.uuid))
    assert leftovers(domain.directory) == []


# -- runs that end in the middle, and the command line -------------------------------------------

CLIENT = """
import os, signal, sys
from datetime import UTC, datetime
import fibackup as fb
uri, store, name, when = sys.argv[1:]
def listen(event):
    text = type(getattr(event, "step", event)).__name__ + " " + getattr(event, "target", "")
    if isinstance(event, fb.StepStarted):
        text = "start " + text
    if text.strip() == when:
        os.kill(os.getpid(), signal.SIGKILL)
with fb.LibvirtHost.open(uri) as host, fb.Store.open(store) as store:
    domain = host.read_domain(name)
    policy = fb.BackupPolicy(memory=True, allow_paused=True)
    history = store.read_history(domain.uuid)
    plan = fb.plan_backup(domain, history, now=datetime.now(UTC), policy=policy)
    fb.Executor(host, store).run(plan, on_event=listen)
"""


@pytest.mark.parametrize("when", ["TakeSnapshot", "CopyProgress memory", "start PublishPoint"])
def test_a_killed_run_leaves_nothing_behind_after_the_next(
    block_domain: MakeBlockDomain, private_daemon: PrivateDaemon, store: Store, when: str
) -> None:
    """Memory on the host is in the ledger, memory in the store is a temporary file."""
    domain = running(block_domain, on=private_daemon)
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, private_daemon.uri, str(store.path), domain.name, when],
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(fibackup.__file__).parents[1])},
    )
    assert done.returncode == -signal.SIGKILL
    host = LibvirtHost(private_daemon.connection)
    left = host.read_domain(domain.uuid).ledger.memory
    assert left is not None
    assert Path(left).exists() is (when != "start PublishPoint")
    report = Executor(host, store).run(plan_next(host, store, domain.uuid))
    assert report.point is not None
    assert host.read_domain(domain.uuid).ledger.memory is None
    assert leftovers(domain.directory) == []
    assert [path.name for path in leftovers(Path(store.path))] == [f"{report.point.id}.mem"]


def fibackup_command(*words: str) -> dict[str, Any]:
    """Run the command line; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "fibackup", *words, "--json", "--no-progress"],
        check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(fibackup.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["results"][0]
    return found


def test_the_command_line(
    block_domain: MakeBlockDomain, private_daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """`backup --memory`, `restore --memory --paused`: the domain is back, on the restored disk."""
    domain = running(block_domain, on=private_daemon)
    domain.write("vda", 0, MIB, 7)
    (tmp_path / "store").mkdir()
    connect = ("-c", private_daemon.uri, "--store", str(tmp_path / "store"))
    made = fibackup_command("backup", *connect, "--memory", "--allow-paused", domain.name)
    assert made["report"]["point"]["consistency"] == "memory"
    domain.destroy()
    into = private_daemon.images / f"{domain.name}.restored"
    fibackup_command("restore", *connect, domain.name, "--into", str(into), "--memory", "--paused")
    assert sources(domain.dom) == {"vda": str(into / "vda.qcow2")}
    assert domain.dom.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    assert domain.reads("vda", 0, MIB, 7)
    domain.close()
    shutil.rmtree(into)
