"""A stored XML as the definition of a restored domain."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import PurePosixPath
from types import MappingProxyType

import pytest
from attrs import evolve

from fibackup.errors import ParseError
from fibackup.parse.definition import NewDefinition, Redefined, redefine
from fibackup.parse.ledger_xml import LEDGER_URI

OLD, NEW = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a", "f06b3a2e-0000-4000-8000-000000000001"
EMULATOR = "/usr/bin/qemu-system-x86_64"
STORED = f"""
<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name>
  <uuid>{OLD}</uuid>
  <genid>aaaaaaaa-0000-4000-8000-000000000000</genid>
  <metadata><fibackup:ledger xmlns:fibackup="{LEDGER_URI}" version="1"/></metadata>
  <sysinfo type='smbios'><system>
    <entry name='manufacturer'>me</entry><entry name='uuid'>{OLD}</entry>
  </system></sysinfo>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <nvram type='file'><source file='/var/lib/libvirt/qemu/nvram/web1_VARS.fd'/></nvram>
  </os>
  <devices>
    <emulator>{EMULATOR}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/i/web1.bimg-A' index='4'/>
      <backingStore type='file'><format type='raw'/><source file='/i/web1'/></backingStore>
      <mirror type='file' job='copy'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'><source file='/i/vdb'/><target dev='vdb'/></disk>
    <disk type='file' device='cdrom'><source file='/iso'/><target dev='sda'/><readonly/></disk>
    <disk type='block' device='floppy'><source dev='/dev/fd0'/><target dev='fda'/></disk>
    <disk type='file' device='cdrom'><target dev='sdb'/></disk>
    <interface type='network'>
      <mac address='52:54:00:01:02:03'/><target dev='mytap'/>
      <virtualport><parameters interfaceid='x' profileid='y'/></virtualport>
    </interface>
    <interface type='network'><mac address='52:54:00:01:02:04'/></interface>
    <channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-3-web1/agent'/>
      <source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <vsock><cid auto='no' address='3'/></vsock>
    <tpm><backend type='emulator'><source type='dir' path='/tpm'/></backend></tpm>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+1:+2</label></seclabel>
</domain>
"""
FOREIGN = STORED.replace(
    "</devices>",
    "<hostdev mode='subsystem' type='pci'/>"
    "<disk type='file'><source file='/other'/><target dev='vdz'/></disk>"
    "<disk type='file'><source file='/shared'/><target dev='vdy'/><shareable/></disk></devices>"
    "<qemu:commandline><qemu:arg value='-x'/></qemu:commandline><seclabel type='none'/>",
)
CLONE = NewDefinition(
    name="web1-test",
    uuid=NEW,
    clone=True,
    sources=MappingProxyType({"vda": (PurePosixPath("/new/vda.qcow2"), "qcow2")}),
    nvram=PurePosixPath("/new/nvram.fd"),
    held=frozenset({"vda", "vdb"}),
    emulators=(EMULATOR,),
)
SAME = evolve(CLONE, name="web1", uuid=OLD, clone=False)


def tree(found: Redefined) -> ET.Element:
    """Return the definition."""
    return ET.fromstring(found.xml)


def macs(found: Redefined) -> list[str | None]:
    """Return the MAC addresses."""
    return [node.get("address") for node in tree(found).iterfind("devices/interface/mac")]


def test_a_clone_shares_nothing_that_two_domains_must_not_share() -> None:
    """Name, UUID, MAC addresses, taps, port ids, NVRAM, the TPM's place, the context id."""
    found = redefine(STORED, CLONE)
    root = tree(found)
    assert (root.findtext("name"), root.findtext("uuid")) == ("web1-test", NEW)
    assert root.findtext("sysinfo/system/entry[@name='uuid']") == NEW
    assert root.findtext("sysinfo/system/entry[@name='manufacturer']") == "me"
    assert OLD not in found.xml
    assert len(set(macs(found))) == 2
    assert all(mac and mac.startswith("52:54:00:") for mac in macs(found))
    assert not set(macs(found)) & set(macs(redefine(STORED, SAME)))
    assert "mytap" not in found.xml
    assert root.find("devices/interface/virtualport/parameters[@interfaceid]") is None
    assert root.find("devices/interface/virtualport/parameters[@profileid]") is not None
    cid = root.find("devices/vsock/cid")
    assert cid is not None
    assert cid.attrib == {"auto": "yes"}
    assert redefine(STORED, CLONE) == found
    assert macs(redefine(STORED, evolve(CLONE, uuid=NEW.replace("1", "2")))) != macs(found)


def test_the_original_keeps_what_it_is_known_by() -> None:
    """UUID, MAC addresses, its tap and its port."""
    found = redefine(STORED, SAME)
    assert (tree(found).findtext("name"), tree(found).findtext("uuid")) == ("web1", OLD)
    assert macs(found) == ["52:54:00:01:02:03", "52:54:00:01:02:04"]
    assert "mytap" in found.xml
    assert "interfaceid" in found.xml


@pytest.mark.parametrize("wish", [CLONE, SAME])
def test_what_belonged_to_the_old_place_is_gone(wish: NewDefinition) -> None:
    """Chains, indexes, labels that libvirt chose, the ledger, sockets, a known generation."""
    root = tree(redefine(STORED, wish))
    assert "id" not in root.attrib
    for path in ("metadata", "seclabel", "devices/disk/backingStore", "devices/disk/mirror"):
        assert root.find(path) is None, path
    assert root.find("devices/tpm/backend/source") is None
    assert root.findtext("genid") == ""
    assert [node.attrib for node in root.iterfind("devices/channel/source")] == [{"mode": "bind"}]
    nvram = root.find("os/nvram")
    assert nvram is not None
    assert (nvram.attrib, len(nvram), nvram.text) == ({}, 0, "/new/nvram.fd")
    source = root.find("devices/disk/source")
    assert source is not None
    assert source.attrib == {"file": "/new/vda.qcow2"}


def test_disks_that_are_not_restored_are_not_in_the_definition() -> None:
    """The new domain must not write the original's; drives are empty."""
    found = redefine(STORED, CLONE)
    targets = [node.get("dev") for node in tree(found).iterfind("devices/disk/target")]
    assert targets == ["vda", "sda", "fda", "sdb"]
    assert found.notes == (
        "disk vdb is not restored, and not in the definition",
        "disk sda is empty; it had /iso",
        "disk fda is empty; it had /dev/fd0",
    )
    assert (found.foreign, found.kept_files, found.has_nvram) == ((), (), True)


def test_nothing_hides_behind_a_first_element() -> None:
    """A second source, or driver, would count once the first is another or gone."""
    stored = STORED.replace("<source file='/iso'/>", "<source file='/iso'/><source file='/x'/>")
    stored = stored.replace("<driver name='qemu' type='qcow2'/>", "<driver/><driver type='raw'/>")
    root = tree(redefine(stored, CLONE))
    vda, cdrom = root.findall("devices/disk")[:2]
    assert cdrom.findall("source") == []
    assert [each.get("type") for each in vda.findall("driver")] == ["qcow2"]


def test_foreign_parts_are_taken_out() -> None:
    """And named; nothing else changes."""
    found = redefine(FOREIGN, CLONE)
    assert found.xml == redefine(STORED, CLONE).xml.replace("<domain ", "<domain ")
    assert found.foreign == (
        "qemu:commandline",
        "seclabel (none)",
        "hostdev (pci)",
        "disk vdz, /other: not in the point",
        "disk vdy, /shared: not in the point",
    )
    assert found.kept_files == ()


def test_foreign_parts_are_kept() -> None:
    """With their prefix; media stay in their drives; disks that it may write are named."""
    found = redefine(FOREIGN, evolve(CLONE, keep=True))
    for text in (
        '<seclabel type="none" />',
        '<qemu:arg value="-x" />',
        "<hostdev",
        '"/iso"',
        '"/dev/fd0"',
        '"/shared"',
    ):
        assert text in found.xml, text
    assert found.kept_files == (PurePosixPath("/other"),)
    assert found.notes == ("disk vdb is not restored, and not in the definition",)


def test_the_difference_is_that_of_what_changes() -> None:
    """Both are laid out alike, so that quotes and white space do not count."""
    lines = redefine(STORED, SAME).difference.splitlines()
    assert lines[:2] == ["--- stored", "+++ defined"]
    assert '-      <source file="/i/web1.bimg-A" />' in lines
    assert '+      <source file="/new/vda.qcow2" />' in lines
    assert not any("<emulator" in line for line in lines)


@pytest.mark.parametrize("wish", [CLONE, SAME])
def test_the_difference_leaves_out_what_always_goes(wish: NewDefinition) -> None:
    """Nobody has to decide about ledger, chains and what one run of the domain was given."""
    overlays = "".join(
        f"<overlay target='vda' path='/i/web1.bimg-{each}' point='{each}'/>" for each in range(9)
    )
    chain = "".join(
        f"<backingStore type='file'><format type='qcow2'/><source file='/i/web1.bimg-{each}'/>"
        for each in range(9)
    )
    stored = STORED.replace('version="1"/>', f'version="1">{overlays}</fibackup:ledger>').replace(
        "<mirror", f"{chain}{'</backingStore>' * 9}<mirror"
    )
    difference = redefine(stored, wish).difference
    assert difference == redefine(STORED, wish).difference
    for words in ("ledger", "backingStore", "mirror", "index", "seclabel", " id=", "<metadata"):
        assert words not in difference
    assert '+      <source file="/new/vda.qcow2" />' in difference


def test_the_store_stays_its_owners_under_a_linked_disk() -> None:
    """Every image is named, and libvirt is told to leave it as it is; the chain ends there."""
    under = (PurePosixPath("/s/B.qcow2"), PurePosixPath("/s/A.qcow2"))
    found = redefine(STORED, evolve(CLONE, under=MappingProxyType({"vda": under})))
    node = tree(found).find("devices/disk")
    seen = []
    while node is not None:
        source = node.find("source")
        seen.append(source.get("file") if source is not None else "end")
        label = source.find("seclabel") if source is not None else None
        if node.tag == "backingStore" and source is not None:
            assert label is not None
            assert label.attrib == {"model": "dac", "relabel": "no"}
            assert [child.tag for child in node] == ["format", "source", "backingStore"]
        node = node.find("backingStore")
    assert seen == ["/new/vda.qcow2", "/s/B.qcow2", "/s/A.qcow2", "end"]
    assert found.kept_files == ()


@pytest.mark.parametrize(
    ("os", "nvram"),
    [
        ("", None),
        ("<os/>", None),
        ("<os><nvram template='/usr/share/OVMF/V.fd'/></os>", "/new/nvram.fd"),
        ("<os firmware='efi'/>", "/new/nvram.fd"),
    ],
)
def test_an_nvram_is_placed_where_the_domain_has_one(os: str, nvram: str | None) -> None:
    """Also where libvirt would choose the place."""
    disk = "<disk><source file='/i'/><target dev='vda'/></disk>"
    found = redefine(f"<domain>{os}<devices>{disk}</devices></domain>", CLONE)
    assert tree(found).findtext("os/nvram") == nvram
    assert found.has_nvram is (nvram is not None)
    assert tree(found).findtext("name") == "web1-test"


def test_other_metadata_stays() -> None:
    """It is not ours."""
    xml = STORED.replace("<metadata>", "<metadata><o:x xmlns:o='urn:o'/>")
    assert "<o:x" in redefine(xml, CLONE).xml


def test_an_xml_without_the_disk_is_refused() -> None:
    """A restored image that no disk has is no small matter."""
    with pytest.raises(ParseError, match="no disk vda"):
        redefine("<domain><devices/></domain>", CLONE)
    odd = "<domain><devices><disk><source file='/i'/><target dev='vda'/></disk></devices></domain>"
    assert redefine(odd, CLONE).xml
