"""
Backups of running domains, judged by what a restore brings back.

::

    guest writes ---> backup ---> guest writes ---> backup ---> ...
         |                             |
    reference 1                   reference 2        a raw file each, kept beside QEMU

    the end: every point restored flat, as qcow2 and as raw, is its reference, byte for byte
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt
import pytest

from fibackup import (
    BackupPolicy,
    DiskKind,
    DomainBusyError,
    Event,
    Executor,
    ImageFormat,
    LibvirtHost,
    Plan,
    PointDisk,
    Quiesce,
    Report,
    RestorePoint,
    StepError,
    StepFinished,
    Store,
    TakeSnapshot,
)
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    Embedded,
    MakeBlockDomain,
    convert,
    create_image,
    differences,
)
from hypervisor.domain_xml import disk_xml
from hypervisor.host import run
from hypervisor.series import PointSeries, series_with_stores

pytestmark = pytest.mark.libvirt

KIB = 1024
SCSI = "<controller type='scsi' index='0' model='virtio-scsi'/>"


@dataclass(frozen=True)
class Restored:
    """A disk of a point that was restored flat, and what the guest had on it."""

    target: str
    format: str
    path: Path
    reference: Path

    def check(self) -> None:
        """Assert that the image is right, sound, alone, and for nobody else to read."""
        assert differences(self.path, self.format, self.reference) == "", f"{self}"
        assert stat.S_IMODE(self.path.stat().st_mode) == 0o600
        if self.format == "raw":
            assert self.path.stat().st_size == self.reference.stat().st_size
            return
        info = json.loads(run("qemu-img", "info", "--output=json", "-f", "qcow2", self.path))
        assert "backing-filename" not in info
        run("qemu-img", "check", "-q", "-f", "qcow2", self.path)


class Series(PointSeries):
    """The points that one domain has in one store, and what the guest had at each of them."""

    def plan(self, *, full: bool = False, exclude: Sequence[str] = ()) -> Plan:
        """Plan the next point."""
        return self.plan_point(_policy(full=full, exclude=exclude))

    def backup(self, *, full: bool = False, exclude: Sequence[str] = ()) -> Report:
        """Make the next point, and keep what the guest has on its disks."""
        return self.take(_policy(full=full, exclude=exclude))

    def restored(self, store: Store | None = None) -> Iterator[Restored]:
        """Restore each point in both formats; an image is gone after its turn."""
        for point in self.references:
            for image_format in ImageFormat:
                for image, reference in self.again(point, image_format=image_format, store=store):
                    assert image.virtual_size_bytes == reference.stat().st_size
                    yield Restored(image.target, image.format, Path(image.path), reference)

    def check(self, store: Store | None = None) -> None:
        """Assert that every point so far brings back what the guest had."""
        assert self.references
        for image in self.restored(store):
            image.check()


def _policy(*, full: bool, exclude: Sequence[str]) -> BackupPolicy:
    return BackupPolicy(full=full, exclude=tuple(exclude), quiesce=Quiesce.OFF, allow_paused=True)


def point_of(report: Report) -> RestorePoint:
    """Return the point that a backup made."""
    assert report.point is not None
    return report.point


def disk_of(report: Report, target: str) -> PointDisk:
    """Return a disk of the point that a backup made."""
    return point_of(report).disk(target)


def kinds(report: Report) -> dict[str, str]:
    """Return, for each disk, whether it is a full or an increment."""
    return {disk.target: str(disk.kind) for disk in point_of(report).disks}


def foreign_snapshot(domain: BlockDomain, mark: str) -> None:
    """Take an external snapshot of all disks, as another tool would."""
    disks = "".join(
        f"<disk name='{target}' snapshot='external' type='file'><driver type='qcow2'/>"
        f"<source file='{domain.directory / target}.{mark}'/></disk>"
        for target in domain.disks
    )
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    )
    domain.dom.snapshotCreateXML(f"<domainsnapshot><disks>{disks}</disks></domainsnapshot>", flags)


MakeSeries = Callable[[BlockDomain], Series]


@pytest.fixture
def series(tmp_path: Path, hypervisor: Embedded) -> Iterator[MakeSeries]:
    """Give a factory of series, each with a store of its own."""
    with series_with_stores(Series, tmp_path, hypervisor) as make:
        yield make


# -- disks of every kind -------------------------------------------------------------------------

SHAPES = {
    "vda": "qcow2",
    "vdb": "raw",
    "vdc": "qcow2 over a compressed qcow2 template",
    "vdd": "qcow2 over qcow2 over raw",
    "vde": "qcow2 over raw",
    "vdf": "version 2",
    "vdg": "clusters of 512 bytes",
    "vdh": "clusters of 2 MiB",
    "vdi": "extended L2 entries",
    "vdj": "lazy refcounts, preallocated",
    "sda": "raw on SCSI, not a multiple of a cluster",
    "sdb": "zstd on SATA",
}


def shapes(directory: Path) -> tuple[DiskSpec, ...]:
    """Return a disk of every kind, with templates in a directory."""
    raw, template, middle = (directory / name for name in ("t.raw", "t.qcow2", "middle.qcow2"))
    raw.write_bytes(b"\7" * (3 * MIB) + bytes(MIB) + b"\x08" * 777 * 512 + bytes(MIB - 777 * 512))
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, template)
    create_image(DiskSpec(backing=raw, backing_format="raw"), middle)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 100k", middle)
    return (
        DiskSpec(target="vda"),
        DiskSpec(target="vdb", format="raw"),
        DiskSpec(target="vdc", backing=template),
        DiskSpec(target="vdd", backing=middle),
        DiskSpec(target="vde", backing=raw, backing_format="raw"),
        DiskSpec(target="vdf", qcow2_version="v2"),
        DiskSpec(target="vdg", options=("cluster_size=512",), size_bytes=8 * MIB),
        DiskSpec(target="vdh", options=("cluster_size=2M",)),
        DiskSpec(target="vdi", options=("extended_l2=on", "cluster_size=128k")),
        DiskSpec(target="vdj", options=("lazy_refcounts=on", "preallocation=metadata")),
        DiskSpec(target="sda", bus="scsi", format="raw", size_bytes=8 * MIB + 512),
        DiskSpec(target="sdb", bus="sata", options=("compression_type=zstd",)),
    )


@pytest.fixture(scope="module")
def story(hypervisor: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Series]:
    """Give three points of a domain with every kind of disk, made under the umask 000."""
    scratch = tmp_path_factory.mktemp("shapes")
    scratch.chmod(0o755)
    (scratch / "store").mkdir()
    domain = hypervisor.block_domain(*shapes(scratch), devices_xml=SCSI)
    try:
        with Store.create(scratch / "store") as store:
            made = Series(domain, LibvirtHost(hypervisor.connection), store, scratch)
            for number in range(3):
                for target in domain.disks:
                    domain.write(target, number * 512 * KIB, 300 * 512, 0x10 + number)
                    domain.write(target, 3 * MIB + number * 512, 512, 0x20 + number)
                with umask_000():
                    made.backup()
            yield made
    finally:
        domain.close()


@contextmanager
def umask_000() -> Iterator[None]:
    """Let everybody read what is made with the default mode."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def stored_images(story: Series) -> list[tuple[Path, str | None, str]]:
    """Return path, backing name and sha256 of every stored image, as the manifests say."""
    return [
        (story.directory / disk.target / image.name, image.backing, image.sha256)
        for point in story.history.points
        for disk in point.disks
        for image in disk.images
    ]


def test_every_kind_of_disk_comes_back(story: Series) -> None:
    """
    Every point of every kind of disk, restored flat to qcow2 and raw, is what the guest had.

    A restored image is 0600 under the umask 000, and needs no other file.
    """
    assert set(story.domain.disks) == set(SHAPES)
    assert [len(references) for references in story.references.values()] == [len(SHAPES)] * 3
    with umask_000():
        story.check()


def test_the_first_point_is_full_and_the_others_are_increments(story: Series) -> None:
    """Every disk has one full, of all its layers, and then increments of one layer each."""
    first, *others = story.history.points
    depths = {disk.target: len(disk.images) for disk in first.disks}
    assert depths == dict.fromkeys(SHAPES, 1) | {"vdc": 2, "vdd": 3, "vde": 2}
    assert {disk.kind for disk in first.disks} == {DiskKind.FULL}
    assert {disk.reason for disk in first.disks} == {"the first point of this disk in this store"}
    for before, point in itertools.pairwise(story.history.points):
        assert {disk.parent for disk in point.disks} == {before.id}
        assert {len(disk.images) for disk in point.disks} == {1}
    assert len(others) == 2


def test_stored_images_are_sound(story: Series) -> None:
    """`qemu-img check` finds neither an error nor a leak in any stored image."""
    for path, _, _ in stored_images(story):
        found = json.loads(run("qemu-img", "check", "--output=json", "-f", "qcow2", path))
        assert found["check-errors"] == 0
        assert found.get("leaks", 0) == 0, path


def test_stored_images_name_their_backing_file_by_name(story: Series) -> None:
    """A stored image names its backing file, and the format of it, without a directory."""
    for path, backing, _ in stored_images(story):
        info = json.loads(run("qemu-img", "info", "--output=json", "-f", "qcow2", path))
        assert info.get("backing-filename") == backing
        assert info.get("backing-filename-format") == (backing and "qcow2")
        assert "/" not in (backing or "")


def test_sha256sum_agrees_with_the_manifest(story: Series) -> None:
    """The sha256 in a manifest is the one that sha256sum prints for the file."""
    for path, _, recorded in stored_images(story):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded
    paths = {path: recorded for path, _, recorded in stored_images(story)}
    said = run("sha256sum", *paths)
    assert said.split()[::2] == list(paths.values())


def test_nobody_else_may_read_the_store(story: Series) -> None:
    """Files of a store are 0600 and its directories 0700, even under the umask 000."""
    inside = [path for path in Path(story.store.path).rglob("*") if path.is_dir()]
    files = [path for path in Path(story.store.path).rglob("*") if not path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in inside} == {0o700}
    assert {stat.S_IMODE(path.lstat().st_mode) for path in files} == {0o600}


def test_nothing_half_done_is_left(story: Series) -> None:
    """After a run a store has neither receipts nor temporary files."""
    names = [path.name for path in Path(story.store.path).rglob("*") if path.is_file()]
    assert [name for name in names if name.startswith(".") or name.endswith(".receipt")] == []


def test_stored_images_are_sparse(story: Series) -> None:
    """A stored image takes no more of the disk than its source, or than what the guest wrote."""
    for point in story.history.points:
        for disk in point.disks:
            for image in disk.images:
                stored = (story.directory / disk.target / image.name).stat().st_blocks * 512
                source = Path(image.source.path).stat().st_blocks * 512
                metadata = 768 * KIB if image.source.format == "raw" else 16 * KIB
                assert stored <= source + metadata, f"{disk.target} {image.name}"


def test_a_point_is_restored_by_hand(story: Series, tmp_path: Path) -> None:
    """`qemu-img convert` of a point's stored image alone brings the disk back."""
    for point, references in story.references.items():
        for target, reference in references.items():
            image = story.directory / target / f"{point}.qcow2"
            by_hand = convert(image, "qcow2", tmp_path / "by-hand.raw")
            assert differences(by_hand, "raw", reference) == ""


def test_the_copy_of_a_store_works_anywhere(story: Series, tmp_path: Path) -> None:
    """A store that was copied with `cp -r`, times and all else lost, brings back every point."""
    elsewhere = tmp_path / "else where"
    run("cp", "-r", str(story.store.path), elsewhere)
    with Store.open(elsewhere) as store:
        story.check(store)


# -- one series, many events ---------------------------------------------------------------------


def quiet(_: BlockDomain, __: str) -> None:
    """Write nothing."""


def write_everywhere(domain: BlockDomain, target: str) -> None:
    """Write every byte of a disk."""
    domain.write(target, 0, 32 * MIB, 0x5A)


def write_scattered(domain: BlockDomain, target: str) -> None:
    """Write sectors that share clusters with older data."""
    for number in range(8):
        domain.write(target, number * 3 * MIB + 512 * number, 512, 0x60 + number)


def discard(domain: BlockDomain, target: str) -> None:
    """Discard whole clusters, and pieces of some."""
    domain.discard(target, 8 * MIB, 4 * MIB)
    domain.discard(target, 20 * MIB + 4096, 100 * KIB)


def write_zeroes(domain: BlockDomain, target: str) -> None:
    """Write zeros, with and without giving the room back."""
    domain.write_zeroes(target, 16 * MIB, 2 * MIB)
    domain.write_zeroes(target, 28 * MIB + 512, MIB, unmap=True)


def trim(domain: BlockDomain, target: str) -> None:
    """Discard the whole disk, as mkfs does."""
    domain.discard(target, 0, 32 * MIB)


def rewrite_trimmed(domain: BlockDomain, target: str) -> None:
    """Write a little into what was discarded."""
    domain.write(target, 9 * MIB, 64 * KIB, 0x77)


def test_what_a_guest_can_do_between_two_points(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """Full writes, discards, zeros, trims and silence between points all come back."""
    vda, vdb = DiskSpec(size_bytes=32 * MIB), DiskSpec(target="vdb", format="raw")
    made = series(block_domain(vda, replace(vdb, size_bytes=32 * MIB)))
    events = [
        quiet, write_everywhere, quiet, write_scattered, discard, write_zeroes, trim,
        rewrite_trimmed, write_everywhere, quiet,
    ]  # fmt: skip
    for number, event in enumerate(events):
        for target in made.domain.disks:
            event(made.domain, target)
        report = made.backup()
        assert set(kinds(report).values()) == {"increment" if number else "full"}
        if event is quiet and number:
            assert report.copied_bytes <= 2 * 512 * KIB
    made.check()


def test_layers_of_others_are_stored(block_domain: MakeBlockDomain, series: MakeSeries) -> None:
    """Layers that others put on since the last point are all in the next increment."""
    made = series(block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw")))
    for number in range(4):
        for target in made.domain.disks:
            made.domain.write(target, number * MIB, MIB, 0x30 + number)
        if number == 0:
            made.backup()
        else:
            foreign_snapshot(made.domain, f"foreign-{number}")
    for target in made.domain.disks:
        made.domain.write(target, 2 * MIB + 4096, MIB, 0x3F)
    report = made.backup()
    assert kinds(report) == {"vda": "increment", "vdb": "increment"}
    for target in made.domain.disks:
        assert len(disk_of(report, target).images) == 4
        made.domain.write(target, 0, 512, 0x40)
    assert {len(disk.images) for disk in point_of(made.backup()).disks} == {1}
    made.check()


def test_a_disk_left_out_comes_in_later(block_domain: MakeBlockDomain, series: MakeSeries) -> None:
    """A disk that was excluded starts with a full, and goes on after a pause without a new one."""
    made = series(block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw")))
    found = []
    for number, exclude in enumerate([("vdb",), (), ("vdb",), ("vda",), ()]):
        for target in made.domain.disks:
            made.domain.write(target, number * MIB + 512, MIB, 0x50 + number)
        found.append(made.backup(exclude=exclude))
    assert [kinds(report) for report in found] == [
        {"vda": "full"},
        {"vda": "increment", "vdb": "full"},
        {"vda": "increment"},
        {"vdb": "increment"},
        {"vda": "increment", "vdb": "increment"},
    ]
    assert disk_of(found[1], "vdb").reason == "the first point of this disk in this store"
    assert disk_of(found[3], "vdb").parent == point_of(found[1]).id
    assert disk_of(found[4], "vda").parent == point_of(found[2]).id
    assert point_of(found[2]).skipped == (("vdb", "excluded"),)
    made.check()


def attach(domain: BlockDomain, spec: DiskSpec) -> None:
    """Plug a disk in."""
    domain.disks = {**domain.disks, spec.target: spec}
    path = spec.path_in(domain.directory)
    create_image(spec, path)
    with domain._mirror(spec.target).open("wb") as mirror:
        mirror.truncate(spec.size_bytes)
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
    domain.dom.attachDeviceFlags(disk_xml(spec, path), flags)


def detach(domain: BlockDomain, target: str) -> None:
    """Unplug a SCSI disk, which needs no help of the guest."""
    for flags in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
        found = domain.dom.XMLDesc(
            0 if flags == libvirt.VIR_DOMAIN_AFFECT_LIVE else libvirt.VIR_DOMAIN_XML_INACTIVE
        )
        [disk] = (
            text
            for text in re.findall(r"<disk type='file'.*?</disk>", found, re.DOTALL)
            if f"<target dev='{target}'" in text
        )
        domain.dom.detachDeviceFlags(disk, flags)
    assert f"<target dev='{target}'" not in domain.dom.XMLDesc(0)
    domain.disks = {name: spec for name, spec in domain.disks.items() if name != target}


def test_disks_come_go_and_change(
    block_domain: MakeBlockDomain, series: MakeSeries, tmp_path: Path
) -> None:
    """A disk that is new or another one gets a full and the reason; the others stay incremental."""
    tmp_path.chmod(0o755)
    scsi = DiskSpec(target="sda", bus="scsi")
    made = series(block_domain(DiskSpec(), scsi, devices_xml=SCSI))
    domain = made.domain

    def step(offset: int) -> Report:
        for target in domain.disks:
            domain.write(target, offset * MIB, MIB, 0x70 + offset)
        return made.backup()

    assert kinds(step(0)) == {"vda": "full", "sda": "full"}
    attach(domain, DiskSpec(target="sdb", bus="scsi", format="raw", size_bytes=32 * MIB))
    added = step(1)
    assert kinds(added) == {"vda": "increment", "sda": "increment", "sdb": "full"}
    assert disk_of(added, "sdb").reason == "the first point of this disk in this store"
    detach(domain, "sdb")
    assert kinds(step(2)) == {"vda": "increment", "sda": "increment"}
    detach(domain, "sda")
    attach(domain, DiskSpec(target="sda", bus="scsi", path=domain.directory / "other.qcow2"))
    replaced = step(3)
    assert kinds(replaced) == {"vda": "increment", "sda": "full"}
    assert "the disk was replaced" in disk_of(replaced, "sda").reason
    assert kinds(step(4)) == {"vda": "increment", "sda": "increment"}
    made.check()


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_resized_disk_gets_a_full(
    block_domain: MakeBlockDomain, series: MakeSeries, image_format: str
) -> None:
    """A resized disk gets a full with the two sizes as its reason, the other an increment."""
    spec = DiskSpec(format="raw" if image_format == "raw" else "qcow2")
    made = series(block_domain(spec, DiskSpec(target="vdb")))
    found = []
    for number, size in enumerate([64, 64, 80, 80]):
        if number == 2:
            made.domain.resize("vda", size * MIB)
        made.domain.write("vda", (size - 1) * MIB, MIB, 0x11 + number)
        made.domain.write("vdb", number * MIB, MIB, 0x21 + number)
        found.append(made.backup())
    assert [kinds(report)["vda"] for report in found] == ["full", "increment", "full", "increment"]
    assert {kinds(report)["vdb"] for report in found[1:]} == {"increment"}
    reason = disk_of(found[2], "vda").reason
    assert reason.startswith("resized")
    assert {str(64 * MIB), str(80 * MIB)} <= set(reason.split())
    assert point_of(found[1]).id in reason
    assert disk_of(found[2], "vda").virtual_size_bytes == 80 * MIB
    made.check()


def test_a_restart_of_the_guest_costs_no_full(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """After the guest was switched off and on the next point is an increment."""
    made = series(block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw")))
    for number in range(3):
        for target in made.domain.disks:
            made.domain.write(target, number * MIB, 2 * MIB, 0x31 + number)
        report = made.backup()
        assert set(kinds(report).values()) == {"increment" if number else "full"}
        for target in made.domain.disks:
            made.domain.write(target, number * MIB + 512, 512, 0x41)
        made.domain.destroy()
        made.domain.start()
    made.check()


# -- what others do to the images ----------------------------------------------------------------


def written(path: Path, image_format: str) -> str:
    """Write into an image, as an outsider would."""
    run("qemu-io", "-f", image_format, "-c", "write -P 0xEE 40M 64k", path)
    return "mtime"


def touched(path: Path, _: str) -> str:
    """Change nothing but the time."""
    os.utime(path)
    return "mtime"


def copied(path: Path, _: str) -> str:
    """Put an equal file in the place of an image."""
    twin = path.with_name("twin")
    run("cp", "--preserve=all", "--sparse=always", path, twin)
    twin.rename(path)
    return "inode"


Meddle = Callable[[Path, str], str]


def switched_off(made: Series, points: int) -> list[tuple[Path, str]]:
    """Make points, switch the guest off; return the layer that each point froze."""
    domain, layers = made.domain, []
    for number in range(points):
        for target in domain.disks:
            domain.write(target, number * MIB, MIB, 0x51 + number)
        layers.append((domain.active("vda"), domain.active_format("vda")))
        made.backup()
    domain.destroy()
    return layers


def meddled(made: Series, meddle: Meddle, layer: tuple[Path, str]) -> str:
    """Change a layer behind the guest's back, and let the guest go on; return what is other."""
    domain, wrote = made.domain, meddle is written
    what = meddle(*layer)
    if wrote:
        domain._mirror_fill("vda", 40 * MIB, 64 * KIB, 0xEE)
    domain.start()
    assert domain.reads("vda", 40 * MIB, 64 * KIB, 0xEE if wrote else 0)
    domain.write("vda", 5 * MIB, MIB, 0x61)
    return what


@pytest.mark.parametrize("meddle", [written, touched, copied])
def test_a_base_that_an_outsider_touched_forces_a_full(
    block_domain: MakeBlockDomain, series: MakeSeries, meddle: Meddle
) -> None:
    """Plan, report and manifest say why the disk gets a full; the other one stays incremental."""
    made = series(block_domain(DiskSpec(format="raw"), DiskSpec(target="vdb")))
    base, _ = switched_off(made, points=2)
    what = meddled(made, meddle, base)
    plan = made.plan()
    [decision] = (each for each in plan.decisions if each.target == "vda")
    assert decision.kind is DiskKind.FULL
    assert f"{base[0]} changed since point" in decision.reason
    assert re.search(rf"changed since point .*\b{what}\b", decision.reason)
    assert decision.reason in str(plan)
    report = made.backup()
    assert kinds(report) == {"vda": "full", "vdb": "increment"}
    assert disk_of(report, "vda").reason == decision.reason
    assert decision.reason in " ".join(str(report).split())  # folded, between words
    manifest = (made.directory / f"{point_of(report).id}.json").read_text()
    assert json.dumps(decision.reason) in manifest
    made.domain.write("vda", 6 * MIB, MIB, 0x62)
    assert kinds(made.backup()) == {"vda": "increment", "vdb": "increment"}
    made.check()


@pytest.mark.parametrize("meddle", [written, copied])
def test_a_frozen_overlay_that_an_outsider_touched_is_stored_again(
    block_domain: MakeBlockDomain, series: MakeSeries, meddle: Meddle
) -> None:
    """The next point lies on the last one whose layers are untouched, and has all layers above."""
    made = series(block_domain(DiskSpec(format="raw"), DiskSpec(target="vdb")))
    _, overlay, _ = switched_off(made, points=3)
    meddled(made, meddle, overlay)
    report = made.backup()
    assert kinds(report) == {"vda": "increment", "vdb": "increment"}
    first, _, third, _ = made.references
    assert disk_of(report, "vda").parent == first
    assert len(disk_of(report, "vda").images) == 3
    assert disk_of(report, "vdb").parent == third
    made.domain.write("vda", 6 * MIB, MIB, 0x62)
    last = made.backup()
    assert disk_of(last, "vda").parent == point_of(report).id
    made.check()


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_layer_that_changes_before_it_is_copied_stops_the_run(
    block_domain: MakeBlockDomain, series: MakeSeries, image_format: str
) -> None:
    """What is not as it was right after the snapshot is not copied; the next run is right."""
    made = series(block_domain(DiskSpec(format="raw" if image_format == "raw" else "qcow2")))
    made.domain.write("vda", 0, MIB, 0x71)
    frozen = made.domain.active("vda")

    def touch(event: Event) -> None:
        if isinstance(event, StepFinished) and isinstance(event.step, TakeSnapshot):
            os.utime(frozen)

    with pytest.raises(StepError, match=r"not frozen: .*\bmtime\b") as failure:
        Executor(made.host, made.store).run(made.plan(), on_event=touch)
    assert isinstance(failure.value.__cause__, DomainBusyError)
    assert failure.value.target == "vda"
    assert str(made.domain.active("vda")) in failure.value.state
    assert made.history.points == ()
    made.domain.write("vda", MIB, MIB, 0x72)
    assert len(disk_of(made.backup(), "vda").images) == 2
    made.check()


# -- stores --------------------------------------------------------------------------------------


def test_a_store_that_moved_goes_on(
    block_domain: MakeBlockDomain, series: MakeSeries, tmp_path: Path
) -> None:
    """A store under another path takes the next increment and brings back every point."""
    made = series(block_domain())
    made.domain.write("vda", 0, MIB, 1)
    made.backup()
    Path(made.store.path).rename(tmp_path / "moved")
    with Store.open(tmp_path / "moved") as store:
        made.store = store
        made.domain.write("vda", 512, MIB, 2)
        assert kinds(made.backup()) == {"vda": "increment"}
        made.check()


def test_two_stores_in_turns(block_domain: MakeBlockDomain, series: MakeSeries) -> None:
    """Backups into two stores in turns are increments in both, and both are right."""
    domain = block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw"))
    both = [series(domain), series(domain)]
    for number, turn in enumerate([0, 1, 0, 1, 1, 0]):
        for target in domain.disks:
            domain.write(target, number * MIB, 3 * MIB, 0x21 + number)
        report = both[turn].backup()
        assert set(kinds(report).values()) == {"full" if number < 2 else "increment"}
    assert [len(made.history.points) for made in both] == [3, 3]
    for made in both:
        made.check()


def test_a_full_that_was_asked_for(block_domain: MakeBlockDomain, series: MakeSeries) -> None:
    """A full on demand stands alone, and the increments after it lie on it."""
    made = series(block_domain())
    found = []
    for number, full in enumerate([False, False, True, False]):
        made.domain.write("vda", number * MIB, 2 * MIB, 0x33 + number)
        found.append(made.backup(full=full))
    assert [kinds(report)["vda"] for report in found] == ["full", "increment", "full", "increment"]
    assert disk_of(found[2], "vda").reason == "a full was asked for"
    assert disk_of(found[3], "vda").parent == point_of(found[2]).id
    made.check()


def test_the_oracle_notices_one_wrong_byte(
    block_domain: MakeBlockDomain, series: MakeSeries
) -> None:
    """The comparison of these tests fails when the guest had one byte more than the point."""
    made = series(block_domain())
    made.domain.write("vda", 0, MIB, 1)
    report = made.backup()
    with made.references[point_of(report).id]["vda"].open("r+b") as reference:
        reference.seek(MIB)
        reference.write(b"\1")
    with pytest.raises(AssertionError, match="Content mismatch"):
        made.check()
