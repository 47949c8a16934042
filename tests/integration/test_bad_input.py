"""Bad, odd and hostile input on a real hypervisor: refused with a reason, or backed up rightly."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TypedDict, Unpack
from xml.sax.saxutils import quoteattr

import libvirt
import pytest
from attrs import evolve

import fibackup as fb
from fibackup.parse.manifest import render_manifest
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    Embedded,
    MakeBlockDomain,
    PrivateDaemon,
    create_image,
    differences,
    monitor_command,
)

pytestmark = pytest.mark.libvirt

SOURCE = Path(fb.__file__).resolve().parents[1]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and other users need root")


def tree(directory: Path) -> dict[str, tuple[int, str]]:
    """Return every file below a directory but the locks: mode, and hash or target of a link."""
    found: dict[str, tuple[int, str]] = {}
    for path in sorted(directory.rglob("*")):
        if path.name in {"lock", "lock.readers"}:
            continue  # a run that is refused may have signed the lock
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            text = str(path.readlink())
        else:
            text = sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        found[str(path.relative_to(directory))] = (mode, text)
    return found


class Wishes(TypedDict, total=False):
    """What a test may want of a backup; a paused domain is always fine."""

    disks: tuple[str, ...]
    exclude: tuple[str, ...]
    full: bool
    skip_unsupported: bool
    allow_paused: bool
    offline: bool


@dataclass(frozen=True)
class Bench:
    """A host and a store, and the acts that the tests have in common."""

    host: fb.LibvirtHost
    store: fb.Store
    directory: Path
    out: Path

    def plan(
        self, domain: BlockDomain | fb.Domain, *, later: int = 0, **wishes: Unpack[Wishes]
    ) -> fb.Plan:
        """Plan a backup of a domain that may be paused, now or some seconds later."""
        read = domain if isinstance(domain, fb.Domain) else self.host.read_domain(domain.uuid)
        wanted: Wishes = {"allow_paused": True, **wishes}
        policy = fb.BackupPolicy(**wanted)
        history = self.store.read_history(read.uuid)
        now = datetime.now(UTC) + timedelta(seconds=later)
        return fb.plan_backup(read, history, now=now, policy=policy)

    def backup(
        self, domain: BlockDomain, *, later: int = 0, **wishes: Unpack[Wishes]
    ) -> fb.RestorePoint:
        """Take a point."""
        plan = self.plan(domain, later=later, **wishes)
        point = fb.Executor(self.host, self.store).run(plan).point
        assert point is not None
        return point

    def restore(self, domain: BlockDomain, point: str, image_format: str = "qcow2") -> Path:
        """Restore a point into a directory of its own."""
        into = self.out / f"{domain.uuid}-{point}-{image_format}"
        plan = fb.plan_restore(
            self.store.read_history(domain.uuid),
            point,
            into=PurePosixPath(into),
            image_format=fb.ImageFormat(image_format),
        )
        fb.Executor(None, self.store).run(plan)
        return into

    def backs_up(
        self, domain: BlockDomain, number: int = 1, *, later: int = 0, **wishes: Unpack[Wishes]
    ) -> fb.RestorePoint:
        """Write, take a point, write again, restore: the point has what the guest had."""
        targets = [t for t in domain.disks if t not in wishes.get("exclude", ())]
        for target in targets:
            domain.write(target, number * 128 * 1024, 192 * 1024, 0x40 + number)
        references = {target: domain.reference(target, f"point{number}") for target in targets}
        point = self.backup(domain, later=later, **wishes)
        for target in targets:
            domain.write(target, 0, 64 * 1024, 0x80 + number)
        into = self.restore(domain, point.id)
        assert {disk.target for disk in point.disks} == set(targets)
        for target in targets:
            assert differences(into / f"{target}.qcow2", "qcow2", references[target]) == ""
        return point

    @contextlib.contextmanager
    def unchanged(self, domain: BlockDomain) -> Iterator[None]:
        """Compare chain, images, ledger and store before and after."""
        before = self._state(domain)
        yield
        assert self._state(domain) == before

    def _state(self, domain: BlockDomain) -> tuple[object, ...]:
        try:
            ledger = domain.dom.metadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, "urn:fibackup:ledger:1", 0
            )
        except libvirt.libvirtError:
            ledger = ""
        names = sorted(str(path) for path in domain.directory.rglob("*"))
        disks = [
            ET.tostring(node)
            for node in ET.fromstring(domain.dom.XMLDesc(0)).iterfind("devices/disk")
        ]
        return ledger, names, disks, domain.dom.state()[0], tree(self.directory)


@pytest.fixture
def bench(hypervisor: Embedded, tmp_path: Path) -> Iterator[Bench]:
    """Give a bench with an empty store."""
    directory = tmp_path / "store"
    directory.mkdir()
    with fb.Store.create(directory) as store:
        yield Bench(fb.LibvirtHost(hypervisor.connection), store, directory, tmp_path / "out")


def as_running(bench: Bench, domain: BlockDomain) -> fb.Domain:
    """Return a domain that is only defined, as if it ran."""
    return evolve(bench.host.read_domain(domain.uuid), state=fb.DomainState.RUNNING)


def qemu_img(*words: str | Path) -> None:
    """Run qemu-img."""
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def run_cli(*words: str | Path, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; it never shows a traceback."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "fibackup", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done


# -- the domain ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such-domain", "5ba1a3f7-8a0c-4f1b-9b4b-000000000000"])
def test_an_unknown_domain_is_named(bench: Bench, name: str) -> None:
    """A name or UUID that libvirt does not know is an error of its own, with that name in it."""
    before = tree(bench.directory)
    with pytest.raises(fb.NoSuchDomainError) as caught:
        bench.host.read_domain(name)
    assert caught.value.domain == name
    assert name in str(caught.value)
    assert tree(bench.directory) == before


def test_a_domain_that_is_off_is_refused(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """A domain that is off is refused when so wished, with the command that starts it."""
    domain = block_domain(start=False)
    with bench.unchanged(domain), pytest.raises(fb.DomainStateError, match="shut off") as caught:
        bench.plan(domain, offline=False)
    assert f"virsh start {domain.uuid}" in str(caught.value)
    domain.start()
    bench.backs_up(domain)


def test_a_paused_domain_needs_a_word(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """A paused domain is refused unless the caller allows it; the error says both ways out."""
    domain = block_domain()
    with bench.unchanged(domain), pytest.raises(fb.DomainStateError, match="paused") as caught:
        bench.plan(domain, allow_paused=False)
    assert f"virsh resume {domain.uuid}" in caught.value.remedy
    assert "allow a paused domain" in caught.value.remedy
    bench.backs_up(domain)


def test_a_crashed_domain_is_refused(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """A crashed guest that is kept for inspection is refused; restarted, it is backed up."""
    domain = block_domain(devices_xml="<panic model='isa'/>", start=False)
    xml = ET.fromstring(domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    on_crash = xml.find("on_crash")
    assert on_crash is not None
    on_crash.text = "preserve"
    domain.dom = domain.hypervisor.connection.defineXML(ET.tostring(xml, encoding="unicode"))
    domain.start(paused=False)
    monitor_command(domain.dom, "o /b 0x505 1")  # the guest's cry for help: pvpanic's port
    deadline = time.monotonic() + 30
    while domain.dom.state()[0] != libvirt.VIR_DOMAIN_CRASHED and time.monotonic() < deadline:
        time.sleep(0.05)
    with bench.unchanged(domain), pytest.raises(fb.DomainStateError, match="crashed") as caught:
        bench.plan(domain)
    assert f"virsh destroy {domain.uuid}" in caught.value.remedy
    domain.destroy()
    domain.start()
    bench.backs_up(domain)


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (fb.DomainState.PAUSED_IO_ERROR, "make room"),
        (fb.DomainState.PMSUSPENDED, "virsh dompmwakeup"),
        (fb.DomainState.SHUTDOWN, "wait until it is off"),
        (fb.DomainState.UNKNOWN, "virsh domstate"),
    ],
)
def test_every_other_state_has_a_remedy(
    bench: Bench, block_domain: MakeBlockDomain, state: fb.DomainState, remedy: str
) -> None:
    """A state in which no snapshot is wanted is refused with what can be done about it."""
    domain = evolve(bench.host.read_domain(block_domain(start=False).uuid), state=state)
    with pytest.raises(fb.DomainStateError, match=str(state)) as caught:
        bench.plan(domain)
    assert remedy in str(caught.value)


def test_a_managed_save_image_is_refused(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """A domain whose memory lies in a managed-save image is refused until it has been resumed."""
    domain = block_domain()
    domain.write("vda", 0, MIB, 1)
    domain.dom.managedSave(0)
    with bench.unchanged(domain), pytest.raises(fb.DomainStateError, match="managed-save") as found:
        bench.plan(domain)
    assert f"virsh managedsave-remove {domain.uuid}" in str(found.value)
    domain.start()
    bench.backs_up(domain)


@pytest.mark.parametrize("job", ["copy", "commit"])
def test_a_block_job_in_the_way_is_refused(
    bench: Bench, block_domain: MakeBlockDomain, job: str
) -> None:
    """A block job that somebody has left on a disk is named, with the command that ends it."""
    domain = block_domain()
    bench.backs_up(domain)
    domain.write("vda", MIB, 8 * MIB, 7)
    if job == "copy":
        target = domain.directory / "copy.qcow2"
        xml = (
            f"<disk type='file'><source file='{target}'/><driver type='qcow2'/>"
            "<target dev='vda'/></disk>"
        )
        limit = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: MIB}
        domain.dom.blockCopy("vda", xml, limit, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    else:
        flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
        domain.dom.blockCommit("vda", str(domain.path("vda")), None, 1, flags)
    with pytest.raises(fb.DomainStateError, match=f"block job.*{job}") as caught:
        bench.plan(domain)
    assert caught.value.target == "vda"
    assert f"virsh blockjob {domain.uuid} vda --abort" in str(caught.value)
    domain.dom.blockJobAbort("vda", 0)
    if job == "commit":  # QEMU keeps its base writable until it ends, which rules out a full
        domain.destroy()
        domain.start()
    bench.backs_up(domain, 2)


# -- disks ---------------------------------------------------------------------------------------


def test_a_backup_of_no_disk_is_refused(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """When every disk is left out, the error lists each with its reason."""
    domain = block_domain(
        DiskSpec(),
        devices_xml="<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>",
    )
    with bench.unchanged(domain):
        with pytest.raises(fb.PolicyError, match=r"no disk is left.*vda: excluded; sda: cdrom"):
            bench.plan(domain, exclude=("vda",))
        with pytest.raises(fb.PolicyError, match=r"no such disk; it has: sda, vda"):
            bench.plan(domain, exclude=("vdz",))
        with pytest.raises(fb.PolicyError, match="no such disk"):
            bench.plan(domain, disks=("vdz",))
        with pytest.raises(fb.PolicyError, match="asked for and excluded: vda"):
            bench.plan(domain, disks=("vda",), exclude=("vda",))
    bench.backs_up(domain)


@contextlib.contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """Give a block device over a file."""
    device = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def nbd_server(image: Path, socket: Path) -> Iterator[None]:
    """Serve a raw image on a socket."""
    server = subprocess.Popen(
        ["qemu-nbd", "-f", "raw", "-k", str(socket), "--persistent", "-x", "e", str(image)]
    )
    try:
        deadline = time.monotonic() + 20
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield
    finally:
        server.terminate()
        server.wait()


def raw_file(path: Path) -> Path:
    """Make an empty raw image."""
    create_image(DiskSpec(format="raw", size_bytes=4 * MIB), path)
    return path


def check_unsupported(bench: Bench, domain: BlockDomain, target: str, reason: str) -> None:
    """Check that a disk is refused, and left out with a warning when the caller says so."""
    with bench.unchanged(domain):
        with pytest.raises(fb.UnsupportedDiskError, match=reason) as caught:
            bench.plan(domain)
        assert caught.value.target == target
        with pytest.raises(fb.UnsupportedDiskError, match=reason):
            bench.plan(domain, disks=(target,), skip_unsupported=True)
    point = bench.backs_up(domain, skip_unsupported=True)
    assert [found for found, _ in point.skipped] == [target]
    assert any(target in warning for warning in point.warnings)
    again = bench.backs_up(domain, 2, exclude=(target,))
    assert again.skipped == ((target, "excluded"),)
    assert not any(target in warning for warning in again.warnings)


@as_root
def test_a_block_device_is_unsupported(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """A disk on a block device is refused, or left out; the other disks are backed up."""
    with loop_device(raw_file(tmp_path / "loop.raw")) as device:
        domain = block_domain(
            DiskSpec(),
            devices_xml="<disk type='block' device='disk'><driver name='qemu' type='raw'/>"
            f"<source dev='{device}'/><target dev='vdb' bus='virtio'/></disk>",
        )
        check_unsupported(bench, domain, "vdb", "block: only disks that are files")
        domain.destroy()


def test_a_network_disk_is_unsupported(
    bench: Bench, block_domain: MakeBlockDomain, hypervisor: Embedded
) -> None:
    """A disk on a network server is refused, or left out; the other disks are backed up."""
    socket = hypervisor.images / "nbd.sock"
    with nbd_server(raw_file(hypervisor.images / "nbd.raw"), socket):
        domain = block_domain(
            DiskSpec(),
            devices_xml="<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
            "<source protocol='nbd' name='e'>"
            f"<host transport='unix' socket='{socket}'/></source>"
            "<target dev='vdb' bus='virtio'/></disk>",
        )
        check_unsupported(bench, domain, "vdb", "network: only disks that are files")
        domain.destroy()


@pytest.mark.parametrize("kind", ["shareable", "transient"])
def test_a_disk_that_is_not_its_owners_alone_is_left_out(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path, kind: str
) -> None:
    """A shareable or a transient disk is left out with a warning, and refused when asked for."""
    image = raw_file(tmp_path / f"{kind}.raw")
    domain = block_domain(
        DiskSpec(),
        devices_xml="<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        f"<source file='{image}'/><target dev='vdb' bus='virtio'/><{kind}/></disk>",
    )
    with bench.unchanged(domain), pytest.raises(fb.UnsupportedDiskError, match=f"{kind}: ") as told:
        bench.plan(domain, disks=("vda", "vdb"))
    assert told.value.target == "vdb"
    point = bench.backs_up(domain)
    [(target, reason)] = point.skipped
    assert (target, reason.partition(":")[0]) == ("vdb", kind)
    assert f"disk vdb is not in the backup: {reason}" in point.warnings


@pytest.mark.parametrize(
    ("xml", "target", "reason"),
    [
        (
            (
                "<disk type='block' device='lun'><driver name='qemu' type='raw'/>"
                "<source dev='/dev/null'/><target dev='sda' bus='scsi'/></disk>"
            ),
            "sda",
            "lun: SCSI passthrough",
        ),
        (
            (
                "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
                "<source pool='p' volume='v'/><target dev='vdb' bus='virtio'/></disk>"
            ),
            "vdb",
            "volume: libvirt finds no file for it",
        ),
        (
            (
                "<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
                "<source protocol='rbd' name='pool/image'><host name='ceph' port='6789'/></source>"
                "<target dev='vdb' bus='virtio'/></disk>"
            ),
            "vdb",
            "network: only disks that are files",
        ),
        (
            (
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
                "<source file='/nowhere/luks.qcow2'><encryption format='luks'>"
                "<secret type='passphrase' uuid='5ba1a3f7-8a0c-4f1b-9b4b-000000000001'/>"
                "</encryption></source><target dev='vdb' bus='virtio'/></disk>"
            ),
            "vdb",
            "encrypted: ",
        ),
    ],
    ids=["lun", "volume", "rbd", "luks"],
)
def test_a_disk_that_cannot_be_started_here_is_unsupported_too(
    bench: Bench, block_domain: MakeBlockDomain, xml: str, target: str, reason: str
) -> None:
    """Disks of other kinds are recognised in libvirt's own words for them."""
    domain = block_domain(DiskSpec(), devices_xml=xml, start=False)
    read = as_running(bench, domain)
    with pytest.raises(fb.UnsupportedDiskError, match=reason) as caught:
        bench.plan(read)
    assert caught.value.target == target
    plan = bench.plan(read, skip_unsupported=True)
    assert [decision.target for decision in plan.decisions if decision.kind is None] == [target]


def test_disks_without_data_of_their_own_are_passed_over(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """Empty drives, cdroms, floppies and read-only disks are skipped, listed, and not warned of."""
    iso, floppy, locked = (raw_file(tmp_path / name) for name in ("cd.iso", "fd.img", "ro.raw"))
    domain = block_domain(
        DiskSpec(),
        devices_xml=(
            f"<disk type='file' device='cdrom'><source file='{iso}'/>"
            "<target dev='sda' bus='sata'/><readonly/></disk>"
            "<disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>"
            f"<disk type='file' device='floppy'><source file='{floppy}'/>"
            "<target dev='fda' bus='fdc'/></disk>"
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
            f"<source file='{locked}'/><target dev='vdb' bus='virtio'/><readonly/></disk>"
        ),
    )
    with bench.unchanged(domain):
        for target, reason in (("sda", "cdrom"), ("fda", "floppy"), ("vdb", "read-only")):
            with pytest.raises(fb.UnsupportedDiskError, match=reason):
                bench.plan(domain, disks=("vda", target))
    point = bench.backs_up(domain)
    assert set(point.skipped) == {
        ("sda", "cdrom"),
        ("sdb", "cdrom"),
        ("fda", "floppy"),
        ("vdb", "read-only"),
    }
    assert not any("not in the backup" in warning for warning in point.warnings)


def test_a_disk_that_its_owner_keeps_out_is_left_out(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """snapshot='no' in the definition is honoured, unless the disk is asked for by name."""
    image = raw_file(tmp_path / "scratch.raw")
    domain = block_domain(
        DiskSpec(),
        devices_xml="<disk type='file' device='disk' snapshot='no'>"
        f"<driver name='qemu' type='raw'/><source file='{image}'/>"
        "<target dev='vdb' bus='virtio'/></disk>",
    )
    point = bench.backs_up(domain)
    assert point.skipped == (("vdb", "snapshot='no' in the domain's XML"),)
    assert {decision.target for decision in bench.plan(domain, disks=("vdb",)).decisions} == {
        "vda",
        "vdb",
    }


# -- names of files ------------------------------------------------------------------------------


def test_images_with_one_name_in_two_directories(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """Two disks whose images have the same name in two directories keep apart."""
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
    domain = block_domain(
        DiskSpec(path=one / "disk.qcow2"), DiskSpec(target="vdb", path=two / "disk.qcow2")
    )
    bench.backs_up(domain)
    assert bench.backs_up(domain, 2).kind is fb.DiskKind.INCREMENT
    for directory in (one, two):
        assert len(list(directory.iterdir())) == 3


def test_images_that_differ_in_their_suffix_only(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """data.qcow2 and data.img in one directory get overlays of two names, point after point."""
    domain = block_domain(
        DiskSpec(path=tmp_path / "data.qcow2"),
        DiskSpec(target="vdb", path=tmp_path / "data.img", format="raw"),
        DiskSpec(target="vdc", path=tmp_path / "data"),
    )
    for number in (1, 2, 3):
        kind = bench.backs_up(domain, number).kind
        assert kind is (fb.DiskKind.FULL if number == 1 else fb.DiskKind.INCREMENT)
    assert len({domain.active(target) for target in domain.disks}) == 3


ODD_NAMES = (
    "a b,c=d,,e",
    'it\'s "quoted"',
    "new\nline\ttab",
    "ünïcödé-\u202e-\u9b45",
    "100%25%s%n",
    "nbd:x:y",
    "-rf $(x) `y` ; &",
    'json:{"driver":"null-co"}',
)


def test_odd_names_of_directories_and_images(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """Whatever QEMU takes as a path is backed up, increment after increment, and restored."""
    disks = []
    for number, name in enumerate(ODD_NAMES):
        (tmp_path / name).mkdir()
        spec = DiskSpec(target=f"vd{chr(97 + number)}", size_bytes=4 * MIB)
        path = tmp_path / name / f"{name}.qcow2"
        create_image(spec, path)
        disks.append(DiskSpec(target=spec.target, size_bytes=4 * MIB, path=path))
    domain = block_domain(*disks)
    assert bench.backs_up(domain, 1).kind is fb.DiskKind.FULL
    assert bench.backs_up(domain, 2).kind is fb.DiskKind.INCREMENT
    drawn = fb.draw_chains(
        bench.host.read_domain(domain.uuid), bench.store.read_history(domain.uuid)
    )
    assert "\u202e" not in drawn
    assert "new\\x0aline" in drawn
    report = fb.Executor(bench.host, bench.store).run(bench.plan(domain))
    assert "\u202e" not in f"{report}{report.plan}"


# -- names of domains ----------------------------------------------------------------------------

RTL, CSI = "b\u202ecod.exe", "c\x9b31mred\x9b0m"
TAKEN_BY_LIBVIRT = ("-rf", "$(touch x)", "n" * 240, RTL, CSI, "f g,h=i", "ümläut%s", "'\"")


@pytest.mark.parametrize("name", TAKEN_BY_LIBVIRT, ids=range(len(TAKEN_BY_LIBVIRT)))
def test_odd_names_of_domains(bench: Bench, hypervisor: Embedded, name: str) -> None:
    """A domain's name goes through backup, list and restore, and never reaches a terminal raw."""
    domain = BlockDomain(hypervisor, name, {"vda": DiskSpec()}, "")
    try:
        domain.start()
        point = bench.backs_up(domain)
        assert point.domain == name
        reference = domain.reference_directory / "point1.vda.raw"
        listed = run_cli("list", "--store", bench.directory, "--", name)
        assert (listed.returncode, listed.stderr) == (0, "")
        assert point.id in listed.stdout
        into = bench.out / "named"
        restored = run_cli(
            "restore", "-s", bench.directory, "--into", into, "--no-progress", "--", name
        )
        assert restored.returncode == 0, restored.stderr
        assert differences(into / "vda.qcow2", "qcow2", reference) == ""
        for text in (listed.stdout, restored.stdout, restored.stderr):
            assert not {"\u202e", "\x9b", "\x1b"} & set(text)
        assert sorted(path.name for path in bench.directory.iterdir()) == sorted(
            ["fibackup-store.json", *(p.name for p in bench.directory.glob(f"*{domain.uuid}"))]
        )
    finally:
        domain.close()


@pytest.mark.parametrize(
    "name", ["..", ".", "../../up", "/etc", "a" * 255, "é" * 125, "\x1b[31m", "\n", "lock", "~"]
)
def test_no_name_leads_out_of_the_store(bench: Bench, tmp_path: Path, name: str) -> None:
    """A domain's directory in the store is called by its UUID; its name is decoration at most."""
    around = sorted(tmp_path.iterdir())
    uuid = "5ba1a3f7-8a0c-4f1b-9b4b-000000000002"
    with bench.store.locked(uuid, name, exclusive=True):
        (made,) = (path for path in bench.directory.iterdir() if path.is_dir())
        assert made.name.endswith(uuid)
        assert made.name.isascii()
        assert made.name.isprintable()
        assert sorted(tmp_path.iterdir()) == around
        assert bench.store.domains() == (uuid,)
    assert bench.store.domains() == ()  # nothing was stored


@pytest.mark.parametrize("name", ["..", "-rf", "é" * 125, RTL, CSI, "$(x)"])
def test_a_name_in_a_manifest_is_only_text(
    bench: Bench, block_domain: MakeBlockDomain, name: str
) -> None:
    """A point whose manifest has a hostile domain name is listed and restored by that name."""
    domain = block_domain()
    point = bench.backs_up(domain)
    (manifest,) = bench.directory.glob(f"*/{point.id}.json")
    manifest.write_text(render_manifest(evolve(point, domain=name)))
    manifest.with_name("points.sha256").unlink()  # it would tell that this is another manifest
    listed = run_cli("list", "--store", bench.directory)
    assert point.id in listed.stdout
    into = bench.out / "by-name"
    restored = run_cli("restore", "-s", bench.directory, "--into", into, "-q", "--", name)
    assert (restored.returncode, restored.stdout, restored.stderr) == (0, "", "")
    assert not {"\u202e", "\x9b"} & set(listed.stdout + listed.stderr)
    reference = domain.reference_directory / "point1.vda.raw"
    assert differences(into / "vda.qcow2", "qcow2", reference) == ""


# -- backing chains ------------------------------------------------------------------------------


def test_relative_backing_names_are_followed(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """A chain whose headers name files beside themselves is read through and stored whole."""
    (tmp_path / "golden").mkdir()
    base, middle, top = tmp_path / "golden/base.raw", tmp_path / "middle.qcow2", tmp_path / "top"
    base.write_bytes(b"golden" * 100_000 + bytes(4 * MIB - 600_000))
    qemu_img("create", "-f", "qcow2", "-b", "golden/base.raw", "-F", "raw", middle)
    qemu_img("create", "-f", "qcow2", "-b", "./golden/../middle.qcow2", "-F", "qcow2", top)
    domain = block_domain(DiskSpec(path=top, size_bytes=4 * MIB))
    first = bench.backs_up(domain)
    assert len(first.disks[0].images) == 3
    second = bench.backs_up(domain, 2)
    assert second.kind is fb.DiskKind.INCREMENT


def test_a_json_backing_name_is_refused(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """A header that names its backing file as JSON is refused: no such name is ever followed."""
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    raw_file(base)
    name = f'json:{{"file":{{"driver":"file","filename":"{base}"}}}}'
    qemu_img("create", "-u", "-f", "qcow2", "-b", name, "-F", "raw", top, str(4 * MIB))
    domain = block_domain(DiskSpec(path=top, size_bytes=4 * MIB))
    with bench.unchanged(domain), pytest.raises(fb.ChainError, match="cannot be trusted") as caught:
        bench.plan(domain)
    assert (caught.value.target, caught.value.path) == ("vda", str(top))
    domain.destroy()
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", base, "-F", "raw", top)
    domain.start()
    bench.backs_up(domain)


@pytest.mark.parametrize("says", ["another base", "no base"])
def test_a_header_that_contradicts_libvirt_is_refused(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path, says: str
) -> None:
    """When libvirt and the header name two backing files, nobody's word is taken."""
    one, other, top = (tmp_path / name for name in ("one.qcow2", "other.qcow2", "top.qcow2"))
    for path in (one, other):
        create_image(DiskSpec(size_bytes=4 * MIB), path)
    qemu_img("create", "-f", "qcow2", "-b", one, "-F", "qcow2", top)
    store = (
        f"<backingStore type='file'><format type='qcow2'/><source file='{other}'/>"
        "<backingStore/></backingStore>"
        if says == "another base"
        else "<backingStore/>"
    )
    domain = block_domain(DiskSpec(path=top, size_bytes=4 * MIB, disk_xml=store))
    with bench.unchanged(domain), pytest.raises(fb.ChainError, match="its header names") as caught:
        bench.plan(domain)
    assert (caught.value.target, caught.value.path) == ("vda", str(top))
    assert str(one) in str(caught.value)
    domain.destroy()
    xml = domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    root = ET.fromstring(xml)
    (disk,) = root.iterfind("devices/disk")
    wrong = disk.find("backingStore")
    assert wrong is not None
    disk.remove(wrong)
    domain.dom = domain.hypervisor.connection.defineXML(ET.tostring(root, encoding="unicode"))
    domain.start()
    bench.backs_up(domain)


def test_a_loop_of_headers_is_refused(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """Images that lie on each other in a circle are refused after looking at one header."""
    one, two = tmp_path / "one.qcow2", tmp_path / "two.qcow2"
    create_image(DiskSpec(size_bytes=4 * MIB), one)
    domain = block_domain(DiskSpec(path=one, size_bytes=4 * MIB), start=False)
    qemu_img("create", "-u", "-f", "qcow2", "-b", one, "-F", "qcow2", two, str(4 * MIB))
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", two, "-F", "qcow2", one)
    with bench.unchanged(domain), pytest.raises(fb.ChainError, match="its header names"):
        bench.plan(as_running(bench, domain))
    with pytest.raises(libvirt.libvirtError):
        domain.start()
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "", one)
    domain.start()
    bench.backs_up(domain)


@pytest.mark.parametrize(
    ("depth", "loops", "reason"), [(230, False, "230 images deep"), (5, True, "loops")]
)
def test_impossible_chains_in_the_definition_are_refused(
    bench: Bench,
    block_domain: MakeBlockDomain,
    tmp_path: Path,
    depth: int,
    loops: bool,  # noqa: FBT001 - a parameter of the case
    reason: str,
) -> None:
    """A definition whose explicit chain loops or is too deep is refused by its text alone."""
    names = [
        f"{tmp_path}/{number if not loops else number % 2}.qcow2" for number in range(1, depth)
    ]
    below = "<backingStore/>"
    for name in reversed(names):
        source = f"<format type='qcow2'/><source file={quoteattr(name)}/>"
        below = f"<backingStore type='file'>{source}{below}</backingStore>"
    domain = block_domain(DiskSpec(disk_xml=below), start=False)
    with bench.unchanged(domain), pytest.raises(fb.ChainError, match=reason) as caught:
        bench.host.read_domain(domain.uuid)
    assert (caught.value.domain, caught.value.target) == (domain.name, "vda")


def test_a_chain_of_300_images_is_refused(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """A chain that libvirt itself would not even read is refused too, and quickly."""
    below = "<backingStore/>"
    for number in range(299):
        source = f"<format type='qcow2'/><source file='/{number}'/>"
        below = f"<backingStore type='file'>{source}{below}</backingStore>"
    domain = block_domain(start=False)
    xml = domain.dom.XMLDesc(0).replace("<target dev='vda'", f"{below}<target dev='vda'")
    with bench.unchanged(domain), pytest.raises(fb.ChainError, match="300 images deep"):
        fb.parse_domain_xml(xml)


# -- images --------------------------------------------------------------------------------------


def test_an_image_with_a_data_file_is_refused(
    bench: Bench, block_domain: MakeBlockDomain, tmp_path: Path
) -> None:
    """A qcow2 image whose data lies in another file is refused: one file would not be the disk."""
    data = tmp_path / "data.raw"
    domain = block_domain(
        DiskSpec(size_bytes=4 * MIB, options=(f"data_file={data}",)), DiskSpec(target="vdb")
    )
    with bench.unchanged(domain), pytest.raises(fb.ChainError, match="data-file") as caught:
        bench.plan(domain)
    assert (caught.value.target, caught.value.path) == ("vda", str(domain.path("vda")))
    bench.backs_up(domain, exclude=("vda",))


def test_an_image_marked_corrupt_is_refused(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """An image that QEMU has marked corrupt is refused, with the command to look at it."""
    domain = block_domain()
    bench.backs_up(domain)
    image = domain.active("vda")
    with image.open("r+b") as stream:
        stream.seek(79)
        stream.write(b"\2")
    with bench.unchanged(domain), pytest.raises(fb.ChainError, match=r"corrupt.*qemu-img check"):
        bench.plan(domain)
    with image.open("r+b") as stream:
        stream.seek(79)
        stream.write(b"\0")
    bench.backs_up(domain, 2)


def test_an_image_that_is_not_there_is_refused(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """A running domain whose image was moved away is refused, and no snapshot is put on top."""
    domain = block_domain()
    bench.backs_up(domain)
    for image in (domain.active("vda"), domain.path("vda")):
        hidden = image.with_name("hidden")
        image.rename(hidden)
        with bench.unchanged(domain), pytest.raises(fb.ChainError, match="No such file") as caught:
            bench.plan(domain)
        assert caught.value.path == str(image)
        hidden.rename(image)
    assert bench.backs_up(domain, 2).kind is fb.DiskKind.INCREMENT


@as_root
def test_an_image_that_may_not_be_read_is_refused(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """Whoever may not read an image is told its owner, its mode and who he is."""
    domain = block_domain()
    script = (
        "from pathlib import PurePosixPath as P; import os, sys, fibackup as fb\n"
        "from fibackup.host.images import examine_chain\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "image = fb.Image(P(sys.argv[1]), 'qcow2')\n"
        "print(examine_chain(fb.BackingChain('vda', (image,))).active.problem)\n"
    )
    domain.path("vda").chmod(0o600)
    said = subprocess.run(
        [sys.executable, "-c", script, domain.path("vda")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    ).stdout
    assert said.startswith("Permission denied (owner 0:0, mode 0600, we are 65534:65534")
    read = bench.host.read_domain(domain.uuid)
    chain = read.disks[0].chain
    assert chain is not None
    broken = evolve(chain, images=(evolve(chain.active, problem=said.strip()),))
    with pytest.raises(fb.ChainError, match=r"cannot be trusted: Permission denied \(owner 0:0"):
        bench.plan(evolve(read, disks=(evolve(read.disks[0], chain=broken),)))
    bench.backs_up(domain)


@pytest.mark.parametrize("plant", ["file", "empty file", "dangling link", "directory"])
def test_the_name_of_an_overlay_is_taken(
    bench: Bench, block_domain: MakeBlockDomain, plant: str
) -> None:
    """What takes an overlay's name after planning makes the plan stale, and is left alone."""
    domain = block_domain()
    bench.backs_up(domain)
    plan = bench.plan(domain)
    place = Path(plan.expects.absent[0])
    canary = domain.directory / "canary"
    canary.write_text("canary")
    if plant == "directory":
        place.mkdir()
    elif plant == "dangling link":
        place.symlink_to(domain.directory / "made-through-the-link")
    else:
        place.write_text("mine" if plant == "file" else "")
    with bench.unchanged(domain), pytest.raises(fb.StalePlanError, match="taken") as caught:
        fb.Executor(bench.host, bench.store).run(plan)
    assert caught.value.path == str(place)
    assert canary.read_text() == "canary"
    assert not (domain.directory / "made-through-the-link").exists()
    assert bench.backs_up(domain, 2, later=5).kind is fb.DiskKind.INCREMENT


def test_a_plan_of_another_time_is_stale(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """A plan is refused once another run has been there, or the chain is another."""
    domain = block_domain()
    plan = bench.plan(domain)
    bench.backs_up(domain)
    with bench.unchanged(domain), pytest.raises(fb.StalePlanError, match="plan again"):
        fb.Executor(bench.host, bench.store).run(plan)
    assert bench.backs_up(domain, 2).kind is fb.DiskKind.INCREMENT


def forge(disk: Path, canary: Path, size_bytes: int) -> None:
    """Write a raw disk that begins with a qcow2 header whose backing file is *canary*."""
    qemu_img("create", "-u", "-f", "qcow2", "-b", canary, "-F", "raw", disk, str(size_bytes))
    with disk.open("r+b") as stream:
        stream.seek(0, os.SEEK_END)
        stream.truncate(size_bytes)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_forged_header_on_a_raw_disk_is_only_data(
    private_daemon: PrivateDaemon,
    block_domain: MakeBlockDomain,
    tmp_path: Path,
    image_format: str,
) -> None:
    """A guest that writes a qcow2 header onto its raw disk gets those bytes back, and no secret."""
    secret = b"the host's secret, 5b0c7d1e"
    canary, disk = tmp_path / "canary-of-the-host", tmp_path / "disk.raw"
    canary.write_bytes(secret * 100)
    forge(disk, canary, 4 * MIB)
    forged = disk.read_bytes()
    assert str(canary).encode() in forged
    domain = block_domain(DiskSpec(path=disk, format="raw", size_bytes=4 * MIB), on=private_daemon)
    store, into, trace = tmp_path / "store", tmp_path / "into", tmp_path / "trace"
    store.mkdir()
    spy = ("strace", "-f", "-e", "trace=open,openat,openat2,execve", "-s", "4096", "-A", "-o")
    strace = (*spy, str(trace))
    saved = run_cli(
        "backup", "-c", private_daemon.uri, "-s", store, "--allow-paused", domain.uuid,
        wrapper=strace,
    )  # fmt: skip
    assert saved.returncode == 0, saved.stderr
    restored = run_cli(
        "restore", "-s", store, "--into", into, "--format", image_format, domain.uuid,
        wrapper=strace,
    )  # fmt: skip
    assert restored.returncode == 0, restored.stderr
    seen = trace.read_text()
    assert str(disk) in seen
    assert "fibackup-store.json" in seen
    assert canary.name not in seen
    everything = [p for top in (store, into) for p in top.rglob("*") if p.is_file()]
    assert not any(secret in path.read_bytes() for path in everything)
    result = into / f"vda.{image_format}"
    if image_format == "raw":
        assert result.read_bytes() == forged
    else:
        assert differences(result, "qcow2", disk) == ""
