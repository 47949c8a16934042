"""What a domain keeps outside of its disks, with real firmware and a real swtpm."""

from __future__ import annotations

import io
import json
import tarfile
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import libvirt
import pytest

from fibackup import (
    BackupPolicy,
    Event,
    Executor,
    FileRole,
    LibvirtHost,
    RestorePoint,
    SaveDomainConfig,
    StepFinished,
    Store,
    plan_backup,
)
from hypervisor import BlockDomain, MakeBlockDomain

pytestmark = pytest.mark.libvirt

TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"


def with_firmware(domain: BlockDomain) -> None:
    """Let a domain that is off have UEFI firmware."""
    root = ET.fromstring(domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    os = root.find("os")
    assert os is not None
    os.set("firmware", "efi")
    domain.dom = domain.hypervisor.connection.defineXML(ET.tostring(root, encoding="unicode"))


def take(
    domain: BlockDomain, host: LibvirtHost, store: Store, *, secrets: bool = False
) -> RestorePoint:
    """Take a point."""
    plan = plan_backup(
        host.read_domain(domain.uuid),
        store.read_history(domain.uuid),
        now=datetime.now(UTC),
        policy=BackupPolicy(allow_paused=True, secrets=secrets),
    )
    point = Executor(host, store).run(plan).point
    assert point is not None
    return point


def stored(store: Store, point: RestorePoint, role: FileRole) -> bytes:
    """Return a file of a point."""
    [name] = [file.name for file in point.files if file.role is role]
    [path] = Path(store.path).glob(f"*/{name}")
    return path.read_bytes()


@pytest.mark.parametrize("running", [False, True])
def test_a_point_has_firmware_variables_and_tpm(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, *, running: bool
) -> None:
    """Of a domain that runs and of one that is off; the XML need not say where the NVRAM is."""
    domain = block_domain(devices_xml=TPM, start=False)
    with_firmware(domain)
    domain.start()
    live = ET.fromstring(domain.dom.XMLDesc(0)).findtext("os/nvram")
    assert live is not None
    if not running:
        domain.destroy()
    Path(live).write_bytes(Path(live).read_bytes()[:-3] + b"set")
    domain.dom.setAutostart(1)
    point = take(domain, host, store)
    assert point.warnings == () or all("NVRAM" not in each for each in point.warnings)
    assert stored(store, point, FileRole.NVRAM) == Path(live).read_bytes()
    assert dict(point.facts)["autostart"] == "yes"
    assert dict(point.facts)["firmware"] == "efi"
    with tarfile.open(fileobj=io.BytesIO(stored(store, point, FileRole.TPM_STATE))) as archive:
        [member] = archive.getmembers()
        assert (member.name, member.isreg()) == ("tpm2/tpm2-00.permall", True)
        file = archive.extractfile(member)
        assert file is not None
        [there] = Path(live).parents[2].glob(f"swtpm/{domain.uuid}/tpm2/*.permall")
        assert file.read() == there.read_bytes()


def test_a_domain_that_was_never_started_has_no_state(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store
) -> None:
    """The point is taken, and says what it lacks."""
    domain = block_domain(devices_xml=TPM, start=False)
    with_firmware(domain)
    point = take(domain, host, store)
    assert [file.role for file in point.files] == [FileRole.DOMAIN_XML]
    missing = {name for name, _ in point.facts if name.startswith("missing-")}
    assert missing == {"missing-nvram", "missing-tpm-state"}
    assert len(point.warnings) == 2


def test_passwords_are_stored_when_asked_for(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store
) -> None:
    """And not otherwise."""
    vnc = "<graphics type='vnc' autoport='yes' passwd='hunter2'/>"
    domain = block_domain(devices_xml=vnc, start=False)
    for secrets in (False, True):
        point = take(domain, host, store, secrets=secrets)
        xml = stored(store, point, FileRole.DOMAIN_XML)
        assert (b"hunter2" in xml) is secrets


def test_the_stored_xml_is_what_libvirt_gave(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store
) -> None:
    """The inactive one, to the byte; what a domain has only while it runs is not in it."""
    domain = block_domain(devices_xml="<serial type='pty'/>")
    given: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepFinished) and isinstance(event.step, SaveDomainConfig):
            given.append(domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    plan = plan_backup(
        host.read_domain(domain.uuid),
        store.read_history(domain.uuid),
        now=datetime.now(UTC),
        policy=BackupPolicy(allow_paused=True),
    )
    point = Executor(host, store).run(plan, on_event=listen).point
    assert point is not None
    assert [stored(store, point, FileRole.DOMAIN_XML).decode()] == given
    live = ET.fromstring(domain.dom.XMLDesc(0)).find("devices/serial/source")
    assert live is not None
    assert str(live.get("path")) not in given[0]


@pytest.mark.parametrize("autostart", [False, True])
def test_a_manifest_says_what_the_host_was(
    block_domain: MakeBlockDomain, host: LibvirtHost, store: Store, *, autostart: bool
) -> None:
    """Versions, machine type, emulator, and whether the domain starts with the host."""
    domain = block_domain(start=False)
    domain.dom.setAutostart(int(autostart))
    point = take(domain, host, store)
    root = ET.fromstring(domain.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    kind = root.find("os/type")
    assert kind is not None
    connection = domain.hypervisor.connection
    [path] = Path(store.path).glob(f"*/{point.id}.json")
    manifest = json.loads(path.read_text("utf-8"))["point"]
    assert manifest["versions"] == {
        "fibackup": version("fibackup"),
        "libvirt": dotted(connection.getLibVersion()),
        "qemu": dotted(connection.getVersion()),
    }
    facts = dict(manifest["facts"])
    assert facts["machine"] == kind.get("machine")
    assert facts["machine"].startswith("pc-q35-")  # not the alias, which another QEMU reads anew
    assert facts["arch"] == kind.get("arch")
    assert facts["virtualization"] == "qemu"
    assert facts["emulator"] == root.findtext("devices/emulator")
    assert facts["autostart"] == ("yes" if autostart else "no")


def dotted(version: int) -> str:
    """Return a version as people write it."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"
