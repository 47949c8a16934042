"""A domain's XML on other images, without what was written down about the old ones."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import PurePosixPath

import pytest

from fibackup.errors import ParseError
from fibackup.parse.domain_xml import parse_domain_xml, with_disk_sources, without_ledger
from fibackup.parse.ledger_xml import LEDGER_URI

UUID = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a"
NEW = PurePosixPath('/new/a "b"&<c>.qcow2')
LIVE = f"""
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name><uuid>{UUID}</uuid>
  <metadata>
    <os:libosinfo xmlns:os="http://libosinfo.org/1.0"><os:os id="x"/></os:libosinfo>
    <fibackup:ledger xmlns:fibackup="{LEDGER_URI}" version="1"/>
  </metadata>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' discard='unmap'/>
      <source file='/old/vda' index='4'><seclabel model='dac' relabel='no'/></source>
      <backingStore type='file' index='1'>
        <format type='raw'/><source file='/old/base'/>
      </backingStore>
      <mirror type='file' job='copy'/>
      <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>
    </disk>
    <disk type='volume' device='disk'>
      <source pool='p' volume='v'/><target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/><source file='/iso&#10;x' index='2'/><backingStore/>
      <target dev='sda' bus='sata'/><readonly/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/></disk>
  </devices>
  <qemu:commandline><qemu:arg value='-snapshot'/></qemu:commandline>
</domain>
"""


def disks(xml: str) -> dict[str, ET.Element]:
    """Return the disks by target."""
    found = {}
    for disk in ET.fromstring(xml).iterfind("devices/disk"):
        target = disk.find("target")
        assert target is not None
        found[target.get("dev", "")] = disk
    return found


def test_a_disk_gets_another_image_and_its_format() -> None:
    """The new source has nothing of the old one, the driver keeps its other options."""
    xml = with_disk_sources(LIVE, {"vda": (NEW, "qcow2")})
    disk = disks(xml)["vda"]
    assert [child.tag for child in disk] == ["driver", "source", "target", "alias"]
    source, driver = disk.find("source"), disk.find("driver")
    assert source is not None
    assert driver is not None
    assert (source.attrib, len(source)) == ({"file": str(NEW)}, 0)
    assert driver.attrib == {"name": "qemu", "type": "qcow2", "discard": "unmap"}
    chain = parse_domain_xml(xml).disk("vda").chain
    assert chain is not None
    assert [(image.path, image.format) for image in chain] == [(NEW, "qcow2")]


def test_a_disk_of_another_kind_becomes_a_file() -> None:
    """A volume is a file after its restore, with the driver that it did not have."""
    disk = disks(with_disk_sources(LIVE, {"vdb": (NEW, "raw")}))["vdb"]
    assert disk.get("type") == "file"
    assert [child.tag for child in disk] == ["driver", "source", "target"]
    assert [driver.attrib for driver in disk.findall("driver")] == [{"name": "qemu", "type": "raw"}]


def test_an_empty_drive_can_get_an_image() -> None:
    """The source comes before the target."""
    disk = disks(with_disk_sources(LIVE, {"sdb": (NEW, "raw")}))["sdb"]
    assert [child.tag for child in disk] == ["driver", "source", "target"]


def test_what_was_written_down_about_chains_is_gone_from_every_disk() -> None:
    """Disks that keep their image lose ``index``, ``backingStore`` and ``mirror`` too."""
    found = disks(with_disk_sources(LIVE, {}))
    assert not [
        tag for each in found.values() for tag in ("backingStore", "mirror") if each.find(tag)
    ]
    assert [child.tag for child in found["sda"]] == ["driver", "source", "target", "readonly"]
    source = found["sda"].find("source")
    assert source is not None
    assert source.attrib == {"file": "/iso\nx"}


def test_what_is_written_down_about_other_disks_can_stay() -> None:
    """Their headers may not say what libvirt has to know."""
    before = disks(with_disk_sources(LIVE, {"vda": (NEW, "qcow2")}, keep_others=True))
    assert before["vda"].find("backingStore") is None
    for target, node in disks(LIVE).items():
        if target != "vda":
            assert ET.tostring(before[target]) == ET.tostring(node)


def test_everything_else_stays_with_its_prefixes() -> None:
    """Name, UUID, metadata and QEMU's own arguments."""
    xml = with_disk_sources(LIVE, {"vda": (NEW, "qcow2")})
    for words in ("<qemu:arg value=", "<os:os id=", 'xmlns:qemu="', "<fibackup:ledger", UUID):
        assert words in xml, words
    assert with_disk_sources(xml, {"vda": (NEW, "qcow2")}) == xml


def test_a_prefix_with_two_meanings_keeps_the_first() -> None:
    """The other namespace gets a prefix of its own; no element changes its namespace."""
    text = (
        f"<domain><name>n</name><uuid>{UUID}</uuid><metadata>"
        "<a:x xmlns:a='urn:one'/><a:x xmlns:a='urn:two'/></metadata></domain>"
    )
    tags = [node.tag for node in ET.fromstring(with_disk_sources(text, {})).iter()]
    assert tags[-2:] == ["{urn:one}x", "{urn:two}x"]


def test_a_disk_that_is_not_there_is_refused() -> None:
    """A restored image without a disk is no small matter."""
    with pytest.raises(ParseError, match="no disk vdz"):
        with_disk_sources(LIVE, {"vdz": (NEW, "raw"), "vda": (NEW, "raw")})


def test_the_ledger_can_be_taken_out() -> None:
    """Ours goes, other metadata stays; without metadata there is nothing to do."""
    xml = without_ledger(LIVE)
    assert LEDGER_URI not in xml
    assert "os:libosinfo" in xml
    assert without_ledger(xml) == xml
    assert without_ledger("<domain />") == "<domain />"
