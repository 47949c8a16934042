"""
Backups of domains that are off, judged by what a restore brings back.

::

    off ---> full ---> off ---> nothing copied ---> on, written, off ---> increment ---> on ---> ...
"""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
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

pytestmark = pytest.mark.libvirt


@dataclass
class Bench:
    """A daemon, a store, and what the disks held at each point."""

    daemon: PrivateDaemon
    host: fb.LibvirtHost
    store: fb.Store
    out: Path
    references: dict[tuple[str, str], dict[str, Path]] = field(default_factory=dict)

    def plan(self, domain: BlockDomain) -> fb.Plan:
        """Plan the next point."""
        policy = fb.BackupPolicy(quiesce=fb.Quiesce.OFF, allow_paused=True)
        history = self.store.read_history(domain.uuid)
        now = datetime.now(UTC)
        return fb.plan_backup(self.host.read_domain(domain.uuid), history, now=now, policy=policy)

    def backup(
        self, domain: BlockDomain, on_event: fb.OnEvent = fb.ignore_events
    ) -> fb.RestorePoint:
        """Take a point; one of a domain that is off leaves its images and its XML as they are."""
        before = picture(domain)
        off = not domain.is_active
        point = fb.Executor(self.host, self.store).run(self.plan(domain), on_event=on_event).point
        assert point is not None
        assert not off or picture(domain) == before
        assert (point.consistency is fb.Consistency.OFFLINE) == off
        self.references[domain.uuid, point.id] = {
            target: domain.reference(target, f"p{len(self.references)}") for target in domain.disks
        }
        return point

    def restores(self) -> None:
        """Compare every point with what the disks held."""
        assert self.references
        for (uuid, point), references in self.references.items():
            into = self.out / f"{uuid}-{point}"
            history = self.store.read_history(uuid)
            plan = fb.plan_restore(history, point, into=PurePosixPath(into))
            fb.Executor(None, self.store).run(plan)
            for target, reference in references.items():
                assert differences(into / f"{target}.qcow2", "qcow2", reference) == ""


def picture(domain: BlockDomain) -> object:
    """Return all that a backup of a domain that is off must leave as it was."""
    files = {
        path: (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode, found.st_uid)
        for path, found in ((each, each.stat()) for each in domain.directory.rglob("*"))
    }
    return files, domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), domain.dom.state()[0]


def shapes(point: fb.RestorePoint) -> dict[str, tuple[str, str | None, int]]:
    """Return kind, parent and number of new images of each disk."""
    return {d.target: (str(d.kind), d.parent, len(d.images)) for d in point.disks}


@pytest.fixture
def bench(private_daemon: PrivateDaemon, tmp_path: Path) -> Iterator[Bench]:
    """Give a bench with an empty store."""
    directory = tmp_path / "store"
    directory.mkdir()
    with fb.Store.create(directory) as store:
        yield Bench(
            private_daemon, fb.LibvirtHost(private_daemon.connection), store, tmp_path / "out"
        )


def test_full_then_nothing_then_an_increment_then_on_line(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """Nothing is copied without a write, one image with one, and going on line costs no full."""
    domain = block_domain(
        DiskSpec(), DiskSpec(target="vdb", format="raw"), on=bench.daemon, start=False
    )
    domain.write("vda", 0, MIB, 1)
    domain.write("vdb", MIB, MIB, 2)
    first = bench.backup(domain)
    assert shapes(first) == {"vda": ("full", None, 1), "vdb": ("full", None, 1)}
    second = bench.backup(domain)
    assert shapes(second) == {
        "vda": ("increment", first.id, 0),
        "vdb": ("increment", first.id, 0),
    }
    domain.start()
    domain.write("vda", 2 * MIB, MIB, 3)
    online = bench.backup(domain)
    domain.write("vda", 3 * MIB, MIB, 4)
    domain.destroy()
    off = bench.backup(domain)
    assert shapes(off)["vda"] == ("increment", online.id, 1)
    assert off.disk("vda").virtual_size_bytes == 64 * MIB
    assert shapes(bench.backup(domain))["vda"] == ("increment", off.id, 0)
    domain.start()
    domain.write("vda", 4 * MIB, MIB, 5)
    domain.write("vdb", 4 * MIB, MIB, 6)
    last = bench.backup(domain)
    assert shapes(last) == {"vda": ("increment", online.id, 1), "vdb": ("increment", online.id, 1)}
    bench.restores()


def test_a_start_in_mid_copy_fails_and_works_afterwards(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """QEMU's image lock keeps the domain off while an image is copied, and no longer."""
    domain = block_domain(on=bench.daemon, start=False)
    domain.write("vda", 0, 24 * MIB, 1)
    refusals: list[str] = []

    def start(event: fb.Event) -> None:
        if isinstance(event, fb.CopyProgress) and not refusals:
            with pytest.raises(libvirt.libvirtError) as caught:
                domain.start()
            refusals.append(str(caught.value))

    bench.backup(domain, on_event=start)
    assert "lock" in refusals[0]
    domain.start()
    assert domain.is_active
    domain.write("vda", 0, MIB, 2)
    bench.backup(domain)
    bench.restores()


def test_a_start_between_the_copies_spoils_the_point(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """A domain that runs at the end gets no point; off again, it gets one."""
    domain = block_domain(on=bench.daemon, start=False)
    domain.write("vda", 0, MIB, 1)

    def start(event: fb.Event) -> None:
        if isinstance(event, fb.StepFinished) and isinstance(event.step, fb.InParallel):
            domain.start()

    with pytest.raises(fb.StepError) as caught:
        fb.Executor(bench.host, bench.store).run(bench.plan(domain), on_event=start)
    assert isinstance(caught.value.__cause__, fb.DomainBusyError)
    assert bench.store.read_history(domain.uuid).points == ()
    domain.destroy()
    bench.backup(domain)
    bench.restores()


def test_a_chain_of_a_domain_that_is_off_is_followed_by_its_headers(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """Libvirt shows the active layer alone; all three images of the chain are stored."""
    place = bench.daemon.images / f"chain-{bench.out.parent.name[-20:]}"
    place.mkdir()
    base, middle, top = (place / name for name in ("base.raw", "middle.qcow2", "top.qcow2"))
    create_image(DiskSpec(format="raw"), base)
    create_image(DiskSpec(backing=base, backing_format="raw"), middle)
    create_image(DiskSpec(backing=middle), top)
    for path, image_format, offset in ((base, "raw", 0), (middle, "qcow2", MIB)):
        words = ["qemu-io", "-f", image_format, "-c", f"write -P 7 {offset} 1M", str(path)]
        subprocess.run(words, check=True, capture_output=True)
    domain = block_domain(DiskSpec(path=top, backing=middle), on=bench.daemon, start=False)
    domain.write("vda", 2 * MIB, MIB, 8)
    live = ET.fromstring(domain.dom.XMLDesc(0)).find("devices/disk/backingStore")
    assert live is None or live.find("source") is None
    point = bench.backup(domain)
    assert [image.source.path for image in point.disk("vda").images] == [
        str(top),
        str(middle),
        str(base),
    ]
    assert shapes(bench.backup(domain)) == {"vda": ("increment", point.id, 0)}
    bench.restores()


def test_a_definition_that_ends_the_chain_above_a_base_is_refused(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """QEMU opens no base there: a point with it would not be what the guest reads."""
    place = bench.daemon.images / f"ends-{bench.out.parent.name[-20:]}"
    place.mkdir()
    base, top = place / "base.qcow2", place / "top.qcow2"
    create_image(DiskSpec(), base)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", str(base)],
        check=True,
        capture_output=True,
    )
    create_image(DiskSpec(backing=base), top)
    domain = block_domain(DiskSpec(path=top, backing=base), on=bench.daemon, start=False)
    end_chain(bench, domain)
    before = picture(domain)
    with pytest.raises(fb.ChainError, match=r"base\.qcow2, libvirt says there is none"):
        bench.plan(domain)
    assert picture(domain) == before
    domain.dom.create()
    with pytest.raises(fb.ChainError, match=r"base\.qcow2, libvirt says there is none"):
        bench.plan(domain)


def test_a_definition_that_ends_the_chain_grows_with_it(
    bench: Bench, block_domain: MakeBlockDomain
) -> None:
    """Libvirt writes each overlay above what the definition said; off again, all of it is known."""
    domain = block_domain(on=bench.daemon, start=False)
    end_chain(bench, domain)
    domain.dom.create()
    full = bench.backup(domain)
    domain.write("vda", 0, MIB, 1)
    second = bench.backup(domain)
    domain.write("vda", MIB, MIB, 2)
    domain.destroy()
    third = bench.backup(domain)
    assert [point.disk("vda").parent for point in (full, second, third)] == [
        None,
        full.id,
        second.id,
    ]
    bench.restores()


def end_chain(bench: Bench, domain: BlockDomain) -> None:
    """Have the definition say that nothing is to be opened below the disk's image."""
    definition = ET.fromstring(domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    disk = definition.find("devices/disk")
    assert disk is not None
    for stale in disk.findall("backingStore"):
        disk.remove(stale)
    ET.SubElement(disk, "backingStore")
    bench.daemon.connection.defineXML(ET.tostring(definition, encoding="unicode"))


def test_a_managed_save_is_refused(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """Its memory belongs to the disks as they are; without it the domain is backed up."""
    domain = block_domain(on=bench.daemon)
    domain.write("vda", 0, MIB, 1)
    domain.dom.managedSave(0)
    before = picture(domain)
    with pytest.raises(fb.DomainStateError, match="managed-save") as caught:
        bench.plan(domain)
    assert f"virsh managedsave-remove {domain.uuid}" in str(caught.value)
    assert picture(domain) == before
    domain.dom.managedSaveRemove(0)
    bench.backup(domain)
    bench.restores()


def test_off_is_refused_when_so_wished(bench: Bench, block_domain: MakeBlockDomain) -> None:
    """BackupPolicy(offline=False) asks for running domains only."""
    domain = block_domain(on=bench.daemon, start=False)
    found, history = bench.host.read_domain(domain.uuid), bench.store.read_history(domain.uuid)
    policy = fb.BackupPolicy(offline=False)
    with pytest.raises(fb.DomainStateError, match="virsh start"):
        fb.plan_backup(found, history, now=datetime.now(UTC), policy=policy)
