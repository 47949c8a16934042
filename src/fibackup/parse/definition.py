"""
A stored domain XML as the definition of a restored domain.

::

    stored                                      defined
    <domain id="3">                             <domain>
      <name>web1</name><uuid>7c...</uuid>         <name>web1-test</name><uuid>f0...</uuid>   a clone
      <metadata><fibackup:ledger/></metadata>     <metadata/>
      <os><nvram>/var/.../web1_VARS.fd            <os><nvram>/images/test/nvram.fd
      <disk><source file="/i/web1.bimg-X"/>       <disk><source file="/images/test/vda.qcow2"/>
            <backingStore>...</backingStore>
      <interface><mac address="52:54:00:01:.."/>  <interface><mac address="52:54:00:9e:.."/>
      <seclabel type="dynamic"/>

What reaches out of the guest is found by `find_foreign`, and kept or taken out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from pathlib import PurePosixPath
from types import MappingProxyType
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from attrs import frozen

from fibackup.parse.domain_xml import (
    domain_root,
    domain_text,
    with_disk_sources,
    without_ledger,
)
from fibackup.parse.foreign import find_foreign
from fibackup.parse.machine_state import has_nvram

__all__ = ["Foreign", "NewDefinition", "Redefined", "redefine"]

_MEDIA = frozenset({"cdrom", "floppy"})


class Foreign(StrEnum):
    """
    What is done with parts of a stored XML that reach out of the guest.

    `REFUSE`: there is no plan. `DROP`: they are taken out. `KEEP`: they are kept as they are.
    """

    REFUSE = "refuse"
    DROP = "drop"
    KEEP = "keep"


@frozen
class NewDefinition:
    """
    How a restored domain is to differ from the stored one.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        clone: True: it is another domain, with MAC addresses of its own.
        sources: Restored disks: path and format of the image.
        nvram: Where its NVRAM is.
        under: Of these disks, the qcow2 images under that image, where they are in the store.
        held: Targets of the disks that the point holds, restored or not.
        emulators: What the host has for emulators.
        keep: True: what reaches out of the guest stays; False: it is taken out.
    """

    name: str
    uuid: str
    clone: bool
    sources: Mapping[str, tuple[PurePosixPath, str]]
    nvram: PurePosixPath
    under: Mapping[str, tuple[PurePosixPath, ...]] = MappingProxyType({})
    held: frozenset[str] = frozenset()
    emulators: tuple[str, ...] = ()
    keep: bool = False


@frozen
class Redefined:
    """
    A definition, and how it differs from the stored XML.

    Attributes:
        xml: The definition.
        difference: A unified diff of the stored XML and the definition, both laid out alike,
            without what always goes: ledger, chains, and what one run of the domain was given.
        foreign: What reaches out of the guest, in words; kept or taken out.
        notes: What else is not as it was, in words.
        kept_files: Images that the domain may write, and that are not the restored ones.
        has_nvram: True when the domain has an NVRAM, at the place that was wished for.
    """

    xml: str
    difference: str
    foreign: tuple[str, ...]
    notes: tuple[str, ...]
    kept_files: tuple[PurePosixPath, ...]
    has_nvram: bool


def redefine(xml: str, wish: NewDefinition) -> Redefined:
    """
    Return the definition of a restored domain.

    Args:
        xml: The stored XML.
        wish: How it is to differ.

    Returns:
        The definition. Gone are chains, mirrors and indexes of disks, labels that libvirt chose,
        the ledger, places of sockets and TPM state, and the generation id, which is a new one.

    Raises:
        ParseError: Not the XML of a domain, or it lacks a disk of *sources*. Nothing was touched.

    Source:
        libvirt, "Domain XML format".
    """
    text = with_disk_sources(without_ledger(xml), wish.sources, under=wish.under)
    root = domain_root(text)
    foreign = find_foreign(root, held=wish.held, emulators=wish.emulators)
    notes = _leave_out(root, wish)
    for part in () if wish.keep else foreign:
        part.parent.remove(part.node)
    if not wish.keep:
        notes = (*notes, *_empty_drives(root, wish))
    _clean(root)
    _name(root, wish)
    placed = _place_nvram(root, wish)
    if wish.clone:
        _make_another(root, wish.uuid)
    kept = _kept_files(root, wish)
    defined = _laid_out(root, xml)
    return Redefined(
        xml=defined,
        difference=_difference(_laid_out(_comparable(xml), xml), defined),
        foreign=tuple(part.words for part in foreign),
        notes=notes,
        kept_files=kept,
        has_nvram=placed,
    )


def _comparable(xml: str) -> Element:
    """Return the stored XML without what always goes, and nobody has to decide about."""
    root = domain_root(with_disk_sources(without_ledger(xml), {}))
    _forget_run(root)
    return root


def _kept_files(root: Element, wish: NewDefinition) -> tuple[PurePosixPath, ...]:
    """Return the images that came with the XML and that the domain may write."""
    found: dict[PurePosixPath, None] = {}
    for disk in root.iterfind("devices/disk"):
        source = disk.find("source")
        file = source.get("file") if source is not None else None
        spared = disk.get("device") in _MEDIA or any(
            disk.find(each) is not None for each in ("readonly", "shareable")
        )
        if file and not spared and _target(disk) not in wish.sources:
            found[PurePosixPath(file)] = None
    return tuple(found)


def _leave_out(root: Element, wish: NewDefinition) -> tuple[str, ...]:
    """Take out the disks that the point holds and that are not restored: they are another's."""
    notes: list[str] = []
    for devices in root.findall("devices"):
        for disk in devices.findall("disk"):
            target = _target(disk)
            if target in wish.held and target not in wish.sources:
                devices.remove(disk)
                notes.append(f"disk {target} is not restored, and not in the definition")
    return tuple(notes)


def _empty_drives(root: Element, wish: NewDefinition) -> tuple[str, ...]:
    """Take the media out of drives: they are files of the host."""
    notes: list[str] = []
    for disk in root.iterfind("devices/disk"):
        source, target = disk.find("source"), _target(disk)
        if disk.get("device") in _MEDIA and target not in wish.sources and source is not None:
            for each in disk.findall("source"):
                disk.remove(each)
            disk.set("type", "file")
            medium = source.get("file") or source.get("dev") or ""
            notes.append(f"disk {target} is empty; it had {medium}")
    return tuple(notes)


def _target(disk: Element) -> str:
    target = disk.find("target")
    return target.get("dev", "") if target is not None else ""


def _forget_run(root: Element) -> None:
    """Take out what one run of the domain was given, and metadata without anything in it."""
    root.attrib.pop("id", None)
    for metadata in root.findall("metadata"):
        if not len(metadata):
            root.remove(metadata)
    for label in root.findall("seclabel"):
        if label.get("type", "dynamic") == "dynamic":
            root.remove(label)


def _clean(root: Element) -> None:
    """Take out what belongs to one run of the domain, or to the place where it was."""
    _forget_run(root)
    for generation in root.findall("genid"):
        generation.text = None  # a guest learns from a new one that it was set back
    for backend in root.iterfind("devices/tpm/backend"):
        for source in backend.findall("source"):
            backend.remove(source)
    for channel in root.iterfind("devices/channel"):
        for source in channel.findall("source"):
            if "/channel/target/" in source.get("path", ""):
                channel.remove(source)


def _name(root: Element, wish: NewDefinition) -> None:
    for tag, text in (("name", wish.name), ("uuid", wish.uuid)):
        node = root.find(tag)
        if node is None:
            node = ET.SubElement(root, tag)
        node.text = text
    for entry in root.iterfind("sysinfo/system/entry[@name='uuid']"):
        entry.text = wish.uuid


def _place_nvram(root: Element, wish: NewDefinition) -> bool:
    """Name the place of the NVRAM, and tell whether the domain has one."""
    os = root.find("os")
    if os is None or not has_nvram(root):
        return False
    node = os.find("nvram")
    if node is None:
        node = ET.SubElement(os, "nvram")
    for child in list(node):
        node.remove(child)
    node.attrib.pop("type", None)
    node.text = str(wish.nvram)
    return True


def _make_another(root: Element, uuid: str) -> None:
    """Give a clone what two domains must not share."""
    for number, interface in enumerate(root.iterfind("devices/interface")):
        for mac in interface.findall("mac"):
            mac.set("address", _mac(uuid, number))
        for target in interface.findall("target"):
            target.attrib.pop("dev", None)
        for parameters in interface.iterfind("virtualport/parameters"):
            parameters.attrib.pop("interfaceid", None)
    for cid in root.iterfind("devices/vsock/cid"):
        cid.attrib.pop("address", None)
        cid.set("auto", "yes")


def _mac(uuid: str, number: int) -> str:
    """Return an address of QEMU's range that depends on the domain's UUID."""
    digest = sha256(f"{uuid} {number}".encode()).hexdigest()
    return ":".join(("52:54:00", digest[:2], digest[2:4], digest[4:6]))


def _laid_out(root: Element, original: str) -> str:
    ET.indent(root)
    return domain_text(root, original) + "\n"


def _difference(stored: str, defined: str) -> str:
    lines = difflib.unified_diff(
        stored.splitlines(), defined.splitlines(), "stored", "defined", n=1, lineterm=""
    )
    return "\n".join(lines)
