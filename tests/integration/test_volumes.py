"""
Disks that are volumes of a storage pool: the files that they are, found by libvirt's own words.

::

    <disk type='volume'> pool, volume  ---->  file      as it was defined
    overlay <- <backingStore type='volume'>             after the first snapshot
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import libvirt
import pytest

import fibackup as fb
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    MakeBlockDomain,
    PrivateDaemon,
    create_image,
    differences,
)
from hypervisor.images import ImageFormat

pytestmark = pytest.mark.libvirt

POOL = 'the pool\'s "name"'
INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE


@dataclass(frozen=True)
class Pool:
    """A pool of files, a host, and a store."""

    daemon: PrivateDaemon
    place: Path
    store: fb.Store
    out: Path

    @property
    def handle(self) -> libvirt.virStoragePool:
        """The pool."""
        return self.daemon.connection.storagePoolLookupByName(POOL)

    def spec(self, target: str, image_format: ImageFormat) -> DiskSpec:
        """Make a volume."""
        spec = DiskSpec(target=target, format=image_format, path=self.place / f"{target}.img")
        create_image(spec, self.place / f"{target}.img")
        self.handle.refresh(0)
        return spec

    def by_name(self, domain: BlockDomain) -> None:
        """Define a domain that is off anew, with volumes in the place of the pool's files."""
        root = ET.fromstring(domain.dom.XMLDesc(INACTIVE))
        for disk in root.iterfind("devices/disk"):
            source = disk.find("source")
            assert source is not None
            path = Path(source.attrib.pop("file"))
            assert path.parent == self.place
            disk.set("type", "volume")
            source.attrib.update(pool=POOL, volume=path.name)
        xml = ET.tostring(root, encoding="unicode")
        domain.dom = self.daemon.connection.defineXML(xml)

    def backup(self, domain: BlockDomain, *, consolidate: bool = False) -> fb.RestorePoint:
        """Take a point."""
        policy = fb.BackupPolicy(allow_paused=True, quiesce=fb.Quiesce.OFF, consolidate=consolidate)
        with fb.LibvirtHost.open(self.daemon.uri) as host:
            found, history = host.read_domain(domain.uuid), self.store.read_history(domain.uuid)
            plan = fb.plan_backup(found, history, now=datetime.now(UTC), policy=policy)
            point = fb.Executor(host, self.store).run(plan).point
        assert point is not None
        return point

    def consolidate(self, domain: BlockDomain) -> None:
        """Commit everything into the volumes."""
        policy = fb.ConsolidationPolicy(allow_paused=True)
        with fb.LibvirtHost.open(self.daemon.uri) as host:
            plan = fb.plan_consolidation(host.read_domain(domain.uuid), policy=policy)
            fb.Executor(host, None).run(plan)

    def check(self, domain: BlockDomain, point: str, references: dict[str, Path]) -> None:
        """Assert that a point brings back what the guest had."""
        history = self.store.read_history(domain.uuid)
        into = PurePosixPath(self.out / point)
        report = fb.Executor(None, self.store).run(fb.plan_restore(history, point, into=into))
        assert {image.target for image in report.restored} == set(references)
        for image in report.restored:
            assert differences(Path(image.path), "qcow2", references[image.target]) == ""


@pytest.fixture
def pool(private_daemon: PrivateDaemon, tmp_path: Path) -> Iterator[Pool]:
    """Give a pool that runs."""
    place = private_daemon.images / "pool"
    place.mkdir()
    root = ET.Element("pool", type="dir")
    ET.SubElement(root, "name").text = POOL
    ET.SubElement(ET.SubElement(root, "target"), "path").text = str(place)
    made = private_daemon.connection.storagePoolDefineXML(ET.tostring(root, encoding="unicode"))
    made.create()
    (tmp_path / "store").mkdir()
    with fb.Store.create(tmp_path / "store") as store:
        found = Pool(private_daemon, place, store, tmp_path / "out")
        yield found
    for path in place.iterdir():
        path.unlink()
    if found.handle.isActive():
        found.handle.destroy()
    found.handle.undefine()
    place.rmdir()


def write_and_remember(domain: BlockDomain, number: int) -> dict[str, Path]:
    """Write as the guest, and keep what it has then."""
    for target in domain.disks:
        domain.write(target, number * MIB, MIB + 512, 0x30 + number)
    return {target: domain.reference(target, f"point{number}") for target in domain.disks}


def test_volumes_are_backed_up_as_the_files_that_they_are(
    pool: Pool, block_domain: MakeBlockDomain
) -> None:
    """A full and increments, over restarts of guest and daemon, and with consolidation."""
    specs = pool.spec("vda", "qcow2"), pool.spec("vdb", "raw")
    domain = block_domain(*specs, on=pool.daemon, start=False)
    pool.by_name(domain)
    domain.start()
    points = []
    for number in range(5):
        references = write_and_remember(domain, number)
        points.append((pool.backup(domain, consolidate=number > 2), references))
        if number == 1:
            domain.destroy()
            pool.daemon.restart()
            domain.dom = pool.daemon.connection.lookupByUUIDString(domain.uuid)
            domain.start()
    assert 'type="volume"' in domain.dom.XMLDesc(0).replace("'", '"')
    kinds = [str(point.kind) for point, _ in points]
    assert kinds == ["full"] + ["increment"] * 4
    for point, references in points:
        pool.check(domain, point.id, references)
    with fb.LibvirtHost.open(pool.daemon.uri) as host:
        chains = [disk.chain for disk in host.read_domain(domain.uuid).disks]
    assert [chain.depth for chain in chains if chain is not None] == [2, 2]
    bases = [Path(chain.base.path) for chain in chains if chain is not None]
    assert bases == [spec.path for spec in specs]
    pool.consolidate(domain)
    assert [domain.dom.XMLDesc(0).count(kind) for kind in ("type='volume'", "bimg")] == [2, 0]
    references = write_and_remember(domain, 5)
    pool.check(domain, pool.backup(domain).id, references)
    domain.close()


def test_a_domain_that_is_off_has_volumes_too(pool: Pool, block_domain: MakeBlockDomain) -> None:
    """Its volume is copied, and the template under it."""
    template = pool.spec("template", "raw")
    assert template.path is not None
    with template.path.open("r+b") as stream:
        stream.write(b"golden")
    create_image(DiskSpec(backing=template.path, backing_format="raw"), pool.place / "vda.img")
    pool.handle.refresh(0)
    disk = DiskSpec(path=pool.place / "vda.img")
    domain = block_domain(disk, on=pool.daemon, start=False)
    reference = {"vda": domain.reference("vda", "off")}
    pool.by_name(domain)
    point = pool.backup(domain)
    assert point.consistency is fb.Consistency.OFFLINE
    assert len(point.disk("vda").images) == 2
    pool.check(domain, point.id, reference)
    domain.close()


def test_a_volume_of_a_pool_that_is_not_active_is_found_all_the_same(
    pool: Pool, block_domain: MakeBlockDomain
) -> None:
    """The guest runs on without its pool, whose directory is in its definition."""
    domain = block_domain(pool.spec("vda", "qcow2"), on=pool.daemon, start=False)
    pool.by_name(domain)
    domain.start()
    pool.handle.destroy()
    references = write_and_remember(domain, 1)
    pool.check(domain, pool.backup(domain).id, references)
    domain.close()


def test_a_volume_that_libvirt_does_not_know_is_unsupported(
    pool: Pool, block_domain: MakeBlockDomain
) -> None:
    """It is refused with the disk's name, and nothing is changed."""
    domain = block_domain(pool.spec("vda", "qcow2"), on=pool.daemon, start=False)
    pool.by_name(domain)
    xml = domain.dom.XMLDesc(INACTIVE).replace("vda.img", "gone.img")
    domain.dom = pool.daemon.connection.defineXML(xml)
    before = sorted(pool.place.iterdir())
    with pytest.raises(fb.UnsupportedDiskError, match="volume: ") as caught:
        pool.backup(domain)
    assert caught.value.target == "vda"
    assert sorted(pool.place.iterdir()) == before
    assert pool.store.read_history(domain.uuid).points == ()
    domain.close()


@pytest.mark.parametrize("active", [True, False])
def test_a_base_that_another_domain_has_as_a_volume_is_shared(
    pool: Pool,
    block_domain: MakeBlockDomain,
    active: bool,  # noqa: FBT001 - a parameter of the case
) -> None:
    """Nothing is committed into it, whatever state that domain and its pool are in."""
    spec = pool.spec("vda", "qcow2")
    other = block_domain(spec, on=pool.daemon, start=False)
    pool.by_name(other)
    domain = block_domain(spec, on=pool.daemon)
    domain.write("vda", 0, MIB, 1)
    pool.backup(domain)
    pool.backup(domain)
    if not active:
        pool.handle.destroy()
    with fb.LibvirtHost.open(pool.daemon.uri) as host:
        found = host.read_domain(domain.uuid)
        chain = found.disk("vda").chain
        assert chain is not None
        uses = host.image_uses(domain.uuid, chain.paths)
        assert [(use.domain, use.path) for use in uses] == [(other.name, chain.base.path)]
        policy = fb.ConsolidationPolicy(allow_paused=True)
        with pytest.raises(fb.SharedBaseError, match=other.name):
            fb.plan_consolidation(found, uses=uses, policy=policy)
    domain.close()
    other.close()
