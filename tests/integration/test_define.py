"""Restores that define a domain, in real libvirt: clones, the original, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from uuid import uuid4

import libvirt
import pytest

import fibackup
from fibackup import (
    BackupPolicy,
    DefineDomain,
    DestinationExistsError,
    DomainExistsError,
    Executor,
    FileRole,
    Foreign,
    ForeignConfigError,
    ImageFormat,
    LibvirtHost,
    NewDomain,
    Plan,
    RestoreForm,
    SharedBaseError,
    StepError,
    Store,
    plan_backup,
    plan_restore,
)
from hypervisor import (
    MIB,
    BlockDomain,
    DiskSpec,
    Embedded,
    GuestOptions,
    LinuxGuest,
    MakeBlockDomain,
    MakeLinuxGuest,
    PrivateDaemon,
    differences,
    read_records,
)
from hypervisor.connected import destroy_domain, undefine_domain

pytestmark = pytest.mark.libvirt

UEFI_AND_TPM = """
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
<interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
"""
UNDEFINE_NVRAM = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
KEEP_TPM = 64  # VIR_DOMAIN_UNDEFINE_KEEP_TPM; older bindings lack the name
SOURCE = Path(fibackup.__file__).resolve().parents[1]


@pytest.fixture
def host(hypervisor: Embedded) -> Iterator[LibvirtHost]:
    """Give the host, and forget the domains that the test has restored."""
    connection = hypervisor.connection
    before = {each.UUIDString() for each in connection.listAllDomains(0)}
    yield LibvirtHost(connection)
    for each in connection.listAllDomains(0):
        if each.UUIDString() not in before:
            destroy_domain(each)
            undefine_domain(each)


@dataclass
class Scene:
    """A domain, its store, and a directory to restore into."""

    domain: BlockDomain
    host: LibvirtHost
    store: Store
    into: Path
    reference: dict[str, Path]

    @property
    def connection(self) -> libvirt.virConnect:
        """The connection to libvirt."""
        return self.domain.hypervisor.connection

    def plan(
        self, name: str = "clone", form: RestoreForm = RestoreForm.FLAT, **more: object
    ) -> Plan:
        """Plan a restore of the newest point that defines a domain."""
        return plan_clone(self.host, self.store, self.domain.uuid, self.into, name, form, **more)

    def run(self, plan: Plan) -> None:
        """Run a plan."""
        Executor(self.host, self.store).run(plan)

    def lookup(self, name: str = "clone") -> libvirt.virDomain:
        """Return the domain that was restored."""
        return self.connection.lookupByName(name)

    def names(self) -> set[str]:
        """Return the names of all domains."""
        return {each.name() for each in self.connection.listAllDomains(0)}

    def picture(self) -> tuple[object, ...]:
        """Return all that a restore must leave as it was: the original and the store."""
        return (
            self.domain.dom.XMLDesc(0),
            self.domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE),
            self.domain.dom.state()[0],
            picture(self.domain.directory),
            picture(Path(self.store.path)),
        )


def plan_clone(
    host: LibvirtHost,
    store: Store,
    uuid: str,
    into: Path,
    name: str,
    form: RestoreForm = RestoreForm.FLAT,
    **more: object,
) -> Plan:
    """Plan a restore of the newest point of a domain that defines one."""
    history = store.read_history(uuid)
    assert history.latest is not None
    [config] = [file for file in history.latest.files if file.role is FileRole.DOMAIN_XML]
    wishes = {key: more.pop(key) for key in ("disks", "image_format") if key in more}
    define = NewDomain(
        name,
        store.read_config(uuid, config),
        host.read_host(),
        str(uuid4()),
        **more,  # type: ignore[arg-type]
    )
    return plan_restore(
        history,
        "latest",
        into=PurePosixPath(into),
        form=form,
        define=define,
        **wishes,  # type: ignore[arg-type]
    )


def picture(place: Path) -> dict[str, tuple[str, int, int, int]]:
    """Return hash, mode, owner and mtime of every file below a place, but of locks and notes."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and not path.name.startswith(("lock", "linked.json")):
            digest, status = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat()
            found[str(path)] = digest, status.st_mode, status.st_uid, status.st_mtime_ns
    return found


def take(host: LibvirtHost, store: Store, uuid: str) -> None:
    """Take a point."""
    plan = plan_backup(
        host.read_domain(uuid),
        store.read_history(uuid),
        now=datetime.now(UTC),
        policy=BackupPolicy(allow_paused=True),
    )
    Executor(host, store).run(plan)


def images(dom: libvirt.virDomain) -> dict[str, Path]:
    """Return the top images of a domain, as it is defined."""
    found = {}
    root = ET.fromstring(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    for disk in root.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        assert target is not None
        assert source is not None
        found[target.get("dev", "")] = Path(source.get("file", ""))
    return found


def text(dom: libvirt.virDomain, path: str, flags: int = 0) -> str:
    """Return the text of an element of a domain's XML."""
    return ET.fromstring(dom.XMLDesc(flags)).findtext(path) or ""


def tpm_directory(scene: Scene, uuid: str) -> Path:
    """Return where the state of a domain's TPM is."""
    assert isinstance(scene.domain.hypervisor, Embedded)
    return Path(scene.domain.hypervisor.root, "lib/swtpm", uuid)


def tpm_state(scene: Scene, uuid: str) -> bytes:
    """Return the state of a domain's TPM."""
    [path] = tpm_directory(scene, uuid).glob("tpm2/*.permall")
    return path.read_bytes()


def let_have_firmware(domain: BlockDomain) -> None:
    """Let a domain that is off have UEFI firmware."""
    root = ET.fromstring(domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    os_node = root.find("os")
    assert os_node is not None
    os_node.set("firmware", "efi")
    domain.dom = domain.hypervisor.connection.defineXML(ET.tostring(root, encoding="unicode"))


def make_scene(domain: BlockDomain, host: LibvirtHost, store: Store, tmp_path: Path) -> Scene:
    """Take two points of a running domain, whose guest writes on."""
    domain.start()
    reference: dict[str, Path] = {}
    for number in (1, 2):
        for target in domain.disks:
            domain.write(target, number * MIB, 2 * MIB, number)
        reference = {target: domain.reference(target, f"p{number}") for target in domain.disks}
        take(host, store, domain.uuid)
    domain.write("vda", 0, MIB, 7)
    return Scene(domain, host, store, tmp_path / "restored" / "here", reference)


@pytest.fixture
def scene(block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, tmp_path: Path) -> Scene:
    """Give a running domain with two disks and two points."""
    domain = block_domain(DiskSpec(), DiskSpec(target="vdb", format="raw"), start=False)
    return make_scene(domain, host, store, tmp_path)


@pytest.fixture
def modern(block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, tmp_path: Path) -> Scene:
    """Give one with UEFI firmware, a TPM and a network card."""
    domain = block_domain(DiskSpec(), start=False, devices_xml=UEFI_AND_TPM)
    let_have_firmware(domain)
    return make_scene(domain, host, store, tmp_path)


# -- clones --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", RestoreForm)
def test_a_clone_has_the_disks_of_the_point(scene: Scene, form: RestoreForm) -> None:
    """It was started once and is off; XML that libvirt finds valid; the original runs on."""
    before = scene.picture()
    plan = scene.plan(form=form)
    scene.run(plan)
    dom = scene.lookup()
    assert not dom.isActive()
    assert dom.UUIDString() != scene.domain.uuid
    for target, image in images(dom).items():
        assert differences(image, "qcow2", scene.reference[target]) == ""
        assert scene.into in image.parents
    assert {path.stat().st_mode & 0o777 for path in scene.into.rglob("*") if path.is_dir()} <= {
        0o711
    }
    assert scene.into.stat().st_mode & 0o777 == 0o711
    xml = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    scene.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    assert "urn:fibackup" not in xml
    assert scene.picture() == before
    take(scene.host, scene.store, dom.UUIDString())  # it is a domain like any other


def test_a_linked_domain_writes_into_its_overlay(scene: Scene, tmp_path: Path) -> None:
    """The store stays as it was, to the owner and the mtime; pulled local it needs it no more."""
    before = picture(Path(scene.store.path))
    scene.run(scene.plan(form=RestoreForm.LINKED))
    assert picture(Path(scene.store.path)) == before
    dom = scene.lookup()
    dom.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    write = json.dumps({
        "execute": "human-monitor-command",
        "arguments": {"command-line": f'qemu-io -d {_device(dom, "vda")} "write -P 9 5M 1M"'},
    })  # fmt: skip
    _monitor(dom, write)
    assert picture(Path(scene.store.path)) == before
    dom.resume()
    for target in ("vda", "vdb"):
        dom.blockPull(target, 0, 0)
        while dom.blockJobInfo(target, 0):
            pass
    assert picture(Path(scene.store.path)) == before
    dom.destroy()
    Path(scene.store.path).rename(tmp_path / "away")
    with scene.reference["vda"].open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"\x09" * MIB)
    for target, image in images(dom).items():
        assert differences(image, "qcow2", scene.reference[target]) == ""
    dom.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


def _device(dom: libvirt.virDomain, target: str) -> str:
    """Return QEMU's path of a disk."""
    for disk in ET.fromstring(dom.XMLDesc(0)).iterfind("devices/disk"):
        place, alias = disk.find("target"), disk.find("alias")
        if place is not None and alias is not None and place.get("dev") == target:
            return f"/machine/peripheral/{alias.get('name')}/virtio-backend"
    raise AssertionError(target)


def _monitor(dom: libvirt.virDomain, command: str) -> None:
    import libvirt_qemu

    answer = json.loads(libvirt_qemu.qemuMonitorCommand(dom, command, 0))
    assert "rror" not in str(answer["return"]), answer


def test_firmware_variables_and_tpm_come_back(modern: Scene) -> None:
    """Byte for byte, where libvirt looks for them; a clone has another MAC address."""
    before = modern.picture()
    live = Path(text(modern.domain.dom, "os/nvram"))
    modern.run(modern.plan())
    dom = modern.lookup()
    nvram = Path(text(dom, "os/nvram"))
    assert nvram == modern.into / "nvram.fd"
    assert nvram.read_bytes() == live.read_bytes()
    assert nvram.stat().st_mode & 0o777 == 0o600
    assert tpm_state(modern, dom.UUIDString()) == tpm_state(modern, modern.domain.uuid)
    mac = ET.fromstring(dom.XMLDesc(0)).find("devices/interface/mac")
    assert mac is not None
    assert mac.get("address") != "52:54:00:11:22:33"
    assert modern.picture() == before


def test_the_original_comes_back_as_itself(modern: Scene, tmp_path: Path) -> None:
    """After it is gone, with all that it had: UUID, MAC, NVRAM, TPM, autostart; and it starts."""
    dom, uuid, name = modern.domain.dom, modern.domain.uuid, modern.domain.name
    dom.setAutostart(1)
    take(modern.host, modern.store, uuid)
    reference = modern.domain.reference("vda", "last")
    nvram, tpm = Path(text(dom, "os/nvram")).read_bytes(), tpm_state(modern, uuid)
    dom.destroy()
    dom.undefineFlags(UNDEFINE_NVRAM | KEEP_TPM)
    kept = tpm_directory(modern, uuid)
    with pytest.raises(DestinationExistsError, match="a state of its TPM"):
        modern.run(modern.plan(name, start=True))
    assert tpm_state(modern, uuid) == tpm
    assert name not in modern.names()
    assert not modern.into.exists()
    kept.rename(tmp_path / "tpm")
    modern.run(modern.plan(name, start=True))
    back = modern.lookup(name)
    assert (back.UUIDString(), back.autostart()) == (uuid, 1)
    assert back.isActive()
    back.destroy()
    mac = ET.fromstring(back.XMLDesc(0)).find("devices/interface/mac")
    assert mac is not None
    assert mac.get("address") == "52:54:00:11:22:33"
    assert len(Path(text(back, "os/nvram")).read_bytes()) == len(nvram)
    assert len(tpm_state(modern, uuid)) == len(tpm)
    assert differences(images(back)["vda"], "qcow2", reference) == ""
    modern.domain.dom = back


def test_a_restored_linux_guest_boots_on_linked_disks(
    linux_guest: MakeLinuxGuest, host: LibvirtHost, store: Store, tmp_path: Path
) -> None:
    """It mounts its disks and writes on where the point was; the store stays as it was."""
    guest: LinuxGuest = linux_guest(options=GuestOptions())
    guest.wait_acked(3)
    take(host, store, guest.uuid)
    acked = guest.wait_more(3)
    guest.destroy()
    undefine_domain(guest.dom)
    before = picture(Path(store.path))
    with pytest.raises(ForeignConfigError) as caught:
        plan_clone(host, store, guest.uuid, tmp_path / "no", guest.name, RestoreForm.LINKED)
    assert {part.split(" ")[0] for part in caught.value.parts} >= {"os/kernel", "os/initrd"}
    plan = plan_clone(
        host, store, guest.uuid, tmp_path / "linked", guest.name, RestoreForm.LINKED,
        foreign=Foreign.KEEP, start=True,
    )  # fmt: skip
    boots = guest.boots()
    Executor(host, store).run(plan)
    guest.dom = guest.hypervisor.connection.lookupByUUIDString(guest.uuid)
    guest.wait_acked(acked + 1)
    assert guest.boots() == boots + 1
    assert picture(Path(store.path)) == before
    guest.shutdown()
    raw = tmp_path / "vda.raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", images(guest.dom)["vda"], raw],
        check=True,
    )
    records = read_records(raw, "vda", replay_journal=False)
    assert records == list(range(1, len(records) + 1))
    assert len(records) > 3
    guest.close()


def test_the_smoke_start_never_lets_the_guest_run(scene: Scene) -> None:
    """It is started, paused and ended; only with `start` does it run in the end."""
    seen: list[tuple[str, int]] = []

    def listen(_: object, dom: libvirt.virDomain, event: int, __: int, ___: object) -> None:
        if event != libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:  # QEMU's own, which may come too late
            seen.append((dom.name(), event))

    kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
    handle = scene.connection.domainEventRegisterAny(None, kind, listen, None)
    try:
        scene.run(scene.plan("tried"))
        scene.into = scene.into.with_name("other")
        scene.run(scene.plan("used", start=True))
        deadline = time.monotonic() + 30
        while len([name for name, _ in seen if name == "used"]) < 6:
            assert time.monotonic() < deadline, seen
            time.sleep(0.05)
    finally:
        scene.connection.domainEventDeregisterAny(handle)
    tried = [
        libvirt.VIR_DOMAIN_EVENT_DEFINED,
        libvirt.VIR_DOMAIN_EVENT_STARTED,
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED,
        libvirt.VIR_DOMAIN_EVENT_STOPPED,
    ]
    assert [event for name, event in seen if name == "tried"] == tried
    used = [event for name, event in seen if name == "used"]
    assert used[: len(tried)] == tried
    runs = {libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_RESUMED}
    assert set(used[len(tried) :]) == runs


# -- refused -------------------------------------------------------------------------------------


def test_nothing_that_is_defined_is_overwritten(scene: Scene) -> None:
    """Neither the original's name nor, by the host, a name or a UUID that is taken since."""
    before = scene.picture()
    with pytest.raises(DomainExistsError):
        scene.plan(scene.domain.name)
    plan = scene.plan()
    [step] = [step for step in plan.steps if isinstance(step, DefineDomain)]
    scene.host.define_domain(step)
    with pytest.raises(DomainExistsError):
        scene.host.define_domain(step)
    with pytest.raises(DomainExistsError):
        scene.run(plan)
    assert not scene.into.exists()
    assert scene.picture() == before


def test_no_file_is_overwritten(scene: Scene) -> None:
    """Nor is a domain defined then."""
    scene.into.mkdir(parents=True)
    (scene.into / "vdb.qcow2").write_text("mine")
    with pytest.raises(DestinationExistsError):
        scene.run(scene.plan())
    assert [path.name for path in scene.into.iterdir()] == ["vdb.qcow2"]
    assert (scene.into / "vdb.qcow2").read_text() == "mine"
    assert "clone" not in scene.names()


def test_a_disk_of_another_domain_is_never_given_to_the_new_one(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, tmp_path: Path
) -> None:
    """A disk that was not in the backup: refused, left out, or refused because it is in use."""
    domain = block_domain(
        DiskSpec(), DiskSpec(target="vdb", format="raw", disk_xml="<shareable/>"), start=False
    )
    plan = plan_backup(
        host.read_domain(domain.uuid),
        store.read_history(domain.uuid),
        now=datetime.now(UTC),
        policy=BackupPolicy(disks=("vda",)),
    )
    Executor(host, store).run(plan)
    # The stored XML is what a hostile or an old store may have: the disk as an ordinary one.
    root = ET.fromstring(domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    assert root.find("devices/disk/shareable") is not None
    into = tmp_path / "restored"
    with pytest.raises(ForeignConfigError, match=r"disk vdb, .*vdb\.raw: not in the point"):
        plan_clone(host, store, domain.uuid, into, "clone")
    dropped = plan_clone(host, store, domain.uuid, into, "clone", foreign=Foreign.DROP)
    Executor(host, store).run(dropped)
    assert set(images(host_lookup(domain, "clone"))) == {"vda"}


def host_lookup(domain: BlockDomain, name: str) -> libvirt.virDomain:
    """Return a domain by its name."""
    return domain.hypervisor.connection.lookupByName(name)


def test_a_disk_that_another_domain_writes_is_refused(scene: Scene) -> None:
    """Although somebody wanted to keep what the XML brings in."""
    policy = BackupPolicy(disks=("vda",), allow_paused=True)
    plan = plan_backup(
        scene.host.read_domain(scene.domain.uuid),
        scene.store.read_history(scene.domain.uuid),
        now=datetime.now(UTC),
        policy=policy,
    )
    Executor(scene.host, scene.store).run(plan)
    before = scene.picture()
    with pytest.raises(SharedBaseError) as caught:
        scene.run(scene.plan(foreign=Foreign.KEEP))
    assert caught.value.dependents == (scene.domain.name,)
    assert not scene.into.exists()
    assert scene.picture() == before
    assert "clone" not in scene.names()


def test_chosen_disks_alone_in_a_chosen_format(scene: Scene) -> None:
    """The domain has that disk, raw and declared so, and no other; the original's is not in it."""
    scene.run(scene.plan(disks=("vdb",), image_format=ImageFormat.RAW))
    dom = scene.lookup()
    assert images(dom) == {"vdb": scene.into / "vdb.raw"}
    driver = ET.fromstring(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).find("devices/disk/driver")
    assert driver is not None
    assert driver.get("type") == "raw"
    assert differences(scene.into / "vdb.raw", "raw", scene.reference["vdb"]) == ""
    assert sorted(path.name for path in scene.into.iterdir()) == ["vdb.raw"]


# -- what the XML brings in ----------------------------------------------------------------------


BROUGHT_IN = {
    "qemu:commandline": (
        "</domain>",
        (
            "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
            "<qemu:env name='X' value='y'/></qemu:commandline></domain>"
        ),
    ),
    "emulator (/tmp/evil), not of this host": (
        "<emulator>/usr/bin/qemu-system-x86_64</emulator>",
        "<emulator>/tmp/evil</emulator>",
    ),
    "hostdev (pci)": (
        "</devices>",
        (
            "<hostdev mode='subsystem' type='pci' managed='yes'><source>"
            "<address domain='0' bus='0' slot='31' function='0'/></source></hostdev></devices>"
        ),
    ),
    "filesystem (mount)": (
        "</devices>",
        "<filesystem type='mount'><source dir='/etc'/><target dir='x'/></filesystem></devices>",
    ),
    "disk vdx, /etc/shadow: not in the point": (
        "</devices>",
        (
            "<disk type='file'><driver name='qemu' type='raw'/><source file='/etc/shadow'/>"
            "<target dev='vdx' bus='virtio'/></disk></devices>"
        ),
    ),
}


class Hostile(LibvirtHost):
    """A host whose domains have XML that reaches out of them."""

    changes: tuple[tuple[str, str], ...] = ()

    def domain_config(self, uuid: str, *, secrets: bool = False) -> str:
        """Return the XML, with more in it."""
        config = super().domain_config(uuid, secrets=secrets)
        for old, new in self.changes:
            assert config.count(old) == 1, (old, config)
            config = config.replace(old, new)
        return config


def brought(scene: Scene, *parts: str) -> None:
    """Take a point whose XML has these parts."""
    hostile = Hostile(scene.connection)
    hostile.changes = tuple(BROUGHT_IN[part] for part in parts)
    take(hostile, scene.store, scene.domain.uuid)


@pytest.mark.parametrize("part", BROUGHT_IN)
def test_what_the_xml_brings_in_is_refused_and_shown(scene: Scene, part: str) -> None:
    """Named, with the difference that it makes to take it out; nothing is made."""
    brought(scene, part)
    before, names = scene.picture(), scene.names()
    with pytest.raises(ForeignConfigError) as caught:
        scene.plan()
    assert caught.value.parts == (part,)
    gone = [line for line in caught.value.difference.splitlines() if line.startswith("-")]
    word = part.partition(" ")[0].removeprefix("qemu:")
    assert any(word in line for line in gone), gone
    assert part in str(caught.value)
    assert (scene.picture(), scene.names()) == (before, names)
    assert not scene.into.exists()


def test_what_the_xml_brings_in_is_taken_out(scene: Scene) -> None:
    """All of it, as the dry run shows; the domain is tried without it."""
    brought(scene, *BROUGHT_IN)
    plan = scene.plan(foreign=Foreign.DROP)
    for part in BROUGHT_IN:
        assert f"taken out: {part}" in str(plan)
    scene.run(plan)
    xml = scene.lookup().XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for word in ("commandline", "evil", "hostdev", "filesystem", "shadow"):
        assert word not in xml
    assert set(images(scene.lookup())) == {"vda", "vdb"}


def test_what_is_allowed_stays(scene: Scene) -> None:
    """An option of QEMU that somebody wants."""
    brought(scene, "qemu:commandline")
    scene.run(scene.plan(foreign=Foreign.KEEP))
    xml = scene.lookup().XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert "<qemu:env name='X' value='y'/>" in xml


def test_a_domains_own_disk_is_never_the_destination(scene: Scene, tmp_path: Path) -> None:
    """Whichever way its directory is named; it runs, and has what it had."""
    before = scene.picture()
    (tmp_path / "link").symlink_to(scene.domain.directory)
    for place in (scene.domain.directory, tmp_path / "link"):
        scene.into = place
        for form in (RestoreForm.FLAT, RestoreForm.LINKED):
            with pytest.raises(DestinationExistsError):
                scene.run(scene.plan(form=form))
    assert scene.picture() == before
    assert "clone" not in scene.names()


# -- a domain that does not start ----------------------------------------------------------------


@pytest.mark.parametrize("form", RestoreForm)
def test_a_domain_that_does_not_start_leaves_nothing(
    block_domain: MakeBlockDomain,
    host: LibvirtHost,
    store: Store,
    tmp_path: Path,
    form: RestoreForm,
) -> None:
    """Its network is missing: neither definition nor files nor the state of its TPM stay."""
    network = "<interface type='bridge'><source bridge='no-such-br'/></interface>"
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    domain = block_domain(DiskSpec(), start=False, devices_xml=tpm)
    let_have_firmware(domain)
    domain.start()
    domain.destroy()
    root = ET.fromstring(domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    devices = root.find("devices")
    assert devices is not None
    devices.append(ET.fromstring(network))
    domain.dom = domain.hypervisor.connection.defineXML(ET.tostring(root, encoding="unicode"))
    take(host, store, domain.uuid)
    before = picture(Path(store.path)), picture(domain.directory)
    into = tmp_path / "not" / "there"
    plan = plan_clone(host, store, domain.uuid, into, "clone", form)
    [step] = [step for step in plan.steps if isinstance(step, DefineDomain)]
    with pytest.raises(StepError) as caught:
        Executor(host, store).run(plan)
    assert "no-such-br" in str(caught.value)
    assert "start the domain paused" in caught.value.reason
    assert "what the restore had made is removed" in caught.value.state
    assert not (tmp_path / "not").exists()
    assert "clone" not in {each.name() for each in domain.hypervisor.connection.listAllDomains(0)}
    assert not list(domain.hypervisor.images.parent.glob(f"lib/swtpm/{step.uuid}"))
    assert (picture(Path(store.path)), picture(domain.directory)) == before


# -- the command line ----------------------------------------------------------------------------


def cli(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "fibackup", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "NO_COLOR": "1"},
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done
    return done


def test_the_command_line_defines_and_starts(
    block_domain: MakeBlockDomain, private_daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """A dry run shows the difference and makes nothing; a name that is taken is an error."""
    domain = block_domain(DiskSpec(), on=private_daemon)
    domain.write("vda", 0, MIB, 3)
    reference = domain.reference("vda", "p1")
    place, into, name = tmp_path / "store", tmp_path / "clone", f"{domain.name}-clone"
    place.mkdir()
    connect = ("-c", private_daemon.uri)
    cli("backup", *connect, "-s", place, "--allow-paused", domain.name)
    words = ("restore", *connect, "-s", place, domain.name, "--into", into)
    assert "goes with --define" in cli(*words, "--start", code=2).stderr
    assert "goes without --define" in cli(*words, "--memory", "--define", name, code=2).stderr
    assert "keeps its devices" in cli(*words, "--memory", "--foreign", "drop", code=2).stderr
    shown = cli(*words, "--define", name, "--as", "linked", "--dry-run").stdout
    assert f"+  <name>{name}</name>" in shown
    assert not into.exists()
    done = cli(*words, "--define", name, "--as", "linked", "--start", "--json")
    [result] = json.loads(done.stdout)["results"]
    assert result["ok"] is True
    dom = private_daemon.connection.lookupByName(name)
    assert dom.isActive()
    refused = cli(*words[:-1], tmp_path / "other", "--define", name, code=1)
    assert "is defined" in refused.stderr
    assert not (tmp_path / "other").exists()
    destroy_domain(dom)
    assert differences(into / "vda.qcow2", "qcow2", reference) == ""
    undefine_domain(dom)


# -- another host --------------------------------------------------------------------------------


def test_a_restore_needs_nothing_of_the_source_host(
    scene: Scene, private_daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """On another host, from a copy of the store; domain, images and the store itself are gone."""
    name, uuid, dom = scene.domain.name, scene.domain.uuid, scene.domain.dom
    reference = {
        target: shutil.copyfile(path, tmp_path / f"{target}.raw")
        for target, path in scene.reference.items()
    }
    copy = tmp_path / "a copy"
    shutil.copytree(scene.store.path, copy)
    dom.destroy()
    undefine_domain(dom)
    shutil.rmtree(scene.domain.directory)
    shutil.rmtree(scene.store.path)
    for form, wished in zip(RestoreForm, (name, f"{name}-chain", f"{name}-linked"), strict=True):
        into = tmp_path / f"into {form}"
        cli("restore", "-s", copy, uuid, "--into", into / "disks", "--as", form)
        words = ("-c", private_daemon.uri, "-s", copy, uuid, "--into", into / "domain")
        cli("restore", *words, "--as", form, "--define", wished, "--start")
        there = private_daemon.connection.lookupByName(wished)
        assert there.isActive()
        assert (there.UUIDString() == uuid) is (wished == name)
        found = images(there)
        destroy_domain(there)
        undefine_domain(there)
        for target, path in reference.items():
            assert differences(found[target], "qcow2", path) == ""
            inside = found[target].relative_to(into / "domain")
            assert differences(into / "disks" / inside, "qcow2", path) == ""
    shutil.copytree(copy, scene.store.path)
