"""
libvirt's domain XML to a `Domain`: what the domain is, and what lies under its disks.

::

    <disk type="file">
      <driver type="qcow2"/>
      <source file="/b"/>                 active layer    Image(/b, qcow2)
      <backingStore type="file">
        <format type="raw"/>
        <source file="/a"/>               base            Image(/a, raw)
        <backingStore/>                   end of the chain
      </backingStore>
      <target dev="vda"/>
    </disk>

Unknown elements are libvirt's business and are passed over. What does bear on the data of a disk
is never guessed: a layer that is no plain file makes the whole disk one without a chain, with the
reason in its `Disk.source_type`. A volume of a storage pool is the file that the caller found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TypeAlias
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from fibackup.errors import ChainError, ModelError, ParseError
from fibackup.model.chain import BackingChain, Image
from fibackup.model.domain import Disk, Domain
from fibackup.parse.ledger_xml import LEDGER_URI
from fibackup.parse.machine_state import has_nvram, has_tpm
from fibackup.parse.memory_blockers import memory_blockers, memory_bytes
from fibackup.parse.volumes import Volumes, resolve_volumes, volumes_in
from fibackup.parse.xml_tree import keep_breaks, parse_xml

__all__ = [
    "disk_images",
    "disk_targets",
    "domain_facts",
    "has_passwords",
    "named_images",
    "parse_domain_xml",
    "volume_names",
    "with_disk_sources",
    "with_passwords",
    "without_ledger",
]

_DEVICES = frozenset({"disk", "cdrom", "floppy", "lun"})
_AGENT = "org.qemu.guest_agent.0"
_UNDECLARED = "raw"  # libvirt never probes: a disk without <driver type> is raw

_PASSWORD = ("passwd", "passwdValidTo")

_NO_VOLUMES: Volumes = MappingProxyType({})
_NOTHING_UNDER: Mapping[str, tuple[PurePosixPath, ...]] = MappingProxyType({})
_NAMESPACE = re.compile(r"""\sxmlns:([A-Za-z_][A-Za-z0-9_.-]*)=["']([^"'&<]+)["']""", re.ASCII)

Layers: TypeAlias = tuple[tuple[str, Element], ...]
"""A disk's element and the ``backingStore`` elements under it, each with its path."""


def parse_domain_xml(
    live: str, inactive: str | None = None, *, volumes: Volumes = _NO_VOLUMES
) -> Domain:
    """
    Return the domain that libvirt's XML describes.

    Args:
        live: ``virDomainGetXMLDesc(0)``: as the domain is now.
        inactive: The same with ``VIR_DOMAIN_XML_INACTIVE``: its persistent definition; None when
            it has none, or when that does not matter.
        volumes: Storage pools and volumes, each with the absolute path of the file that it is; a
            volume that is not here is no file.

    Returns:
        The domain; its state is unknown and its ledger empty, as the XML does not tell.

    Raises:
        ParseError: Not the XML of one domain. Nothing was touched.
        ChainError: A chain loops, or is deeper than libvirt allows. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``disk``, ``backingStore``, ``mirror``, ``channel``.
    """
    root = domain_root(live, volumes)
    name, uuid = _child_text(root, "name"), _child_text(root, "uuid")
    config: dict[str, str] = {}
    if inactive is not None:
        definition = domain_root(inactive, volumes)
        if _child_text(definition, "uuid") != uuid:
            raise ParseError(where="uuid", reason="the definition is another domain's", domain=name)
        config = _config_sources(definition)
    try:
        return Domain(
            name=name,
            uuid=uuid,
            disks=tuple(_disk(node, where, config) for where, node in _disks(root)),
            agent_connected=_agent_connected(root),
            memory_blockers=memory_blockers(root),
            memory_bytes=memory_bytes(root),
            has_nvram=has_nvram(root),
            has_tpm=has_tpm(root),
        )
    except ParseError:
        raise
    except ChainError as error:
        raise ChainError(
            reason=error.reason, domain=name, target=error.target, path=error.path
        ) from None
    except ModelError as error:
        raise ParseError(where="domain", reason=error.reason, domain=name) from None


def volume_names(xml: str) -> tuple[tuple[str, str], ...]:
    """
    Return the volumes that a domain's disks name, anywhere in their chains.

    Args:
        xml: The domain's XML.

    Returns:
        ``(pool, volume)``, each once.

    Raises:
        ParseError: Not the XML of a domain. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``source`` with ``pool`` and ``volume``.
    """
    disks = _disks(domain_root(xml))
    return tuple(dict.fromkeys(name for _, disk in disks for name in volumes_in(disk)))


def disk_targets(xml: str) -> tuple[str, ...]:
    """
    Return the targets of a domain's disks, in the order of the XML.

    Args:
        xml: The domain's XML.

    Raises:
        ParseError: Not the XML of a domain, or a disk without a target. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``disk``, ``target``.
    """
    return tuple(_target(node, where)[0] for where, node in _disks(domain_root(xml)))


def named_images(xml: str, *, volumes: Volumes = _NO_VOLUMES) -> tuple[Image, ...]:
    """
    Return every file that a domain's disks name: in chains, beside them, and under what is no file.

    Args:
        xml: The domain's XML, live or inactive.
        volumes: As for `parse_domain_xml`.

    Returns:
        The images, each with the format that the XML declares, ``"raw"`` where it declares none.

    Raises:
        ParseError: Not the XML of a domain. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``source``, ``backingStore``, ``mirror``, ``dataStore``.
    """
    return tuple(
        Image(path, _declared(node) or _UNDECLARED)
        for _, disk in _disks(domain_root(xml, volumes))
        for node in disk.iter()
        if (file := _file(node)) and (path := PurePosixPath(file)).is_absolute()
    )


def disk_images(
    xml: str, *, volumes: Volumes = _NO_VOLUMES
) -> tuple[tuple[str, tuple[Image, ...]], ...]:
    """
    Return every file and device that each disk of a domain names, as `named_images` does.

    Args:
        xml: The domain's XML, live or inactive.
        volumes: As for `parse_domain_xml`.

    Returns:
        Targets with their images. ``header_backing`` is what the XML says of the image below:
        ``""`` where there is none or no file, None where the XML leaves that to the header.

    Raises:
        ParseError: Not the XML of a domain. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``source``, ``backingStore``, ``mirror``, ``dataStore``.
    """
    return tuple(
        (_target(disk, where)[0], tuple(_named(disk)))
        for where, disk in _disks(domain_root(xml, volumes))
    )


def _named(disk: Element) -> Iterator[Image]:
    for node in disk.iter():
        path = _file_or_device(node)
        if path is not None and PurePosixPath(path).is_absolute():
            below = node.find("backingStore")
            said = None if below is None else _file_or_device(below) or ""
            yield Image(PurePosixPath(path), _declared(node) or _UNDECLARED, header_backing=said)


def _file_or_device(node: Element) -> str | None:
    source = node.find("source")
    return None if source is None else source.get("file") or source.get("dev")


def _declared(node: Element) -> str | None:
    """Return the format of a disk, or of what lies under or beside one."""
    declared = node.find("driver" if node.tag == "disk" else "format")
    return declared.get("type") if declared is not None else None


def domain_facts(xml: str) -> tuple[tuple[str, str], ...]:
    """
    Return what a restore should know of the machine that the XML describes.

    Args:
        xml: The domain's XML.

    Returns:
        ``(name, value)`` sorted by name: ``arch``, ``emulator``, ``firmware``, ``loader``,
        ``machine``, ``virtualization``; what the XML does not say is left out.

    Raises:
        ParseError: Not the XML of a domain. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``domain type``, ``os/type``, ``emulator``.
    """
    root = domain_root(xml)
    kind, os = root.find("os/type"), root.find("os")
    found = {
        "arch": kind.get("arch") if kind is not None else None,
        "emulator": root.findtext("devices/emulator"),
        "firmware": os.get("firmware") if os is not None else None,
        "loader": root.findtext("os/loader"),
        "machine": kind.get("machine") if kind is not None else None,
        "virtualization": root.get("type"),
    }
    return tuple((name, value) for name, value in sorted(found.items()) if value)


def with_disk_sources(
    xml: str,
    sources: Mapping[str, tuple[PurePosixPath, str]],
    *,
    under: Mapping[str, tuple[PurePosixPath, ...]] = _NOTHING_UNDER,
    keep_others: bool = False,
) -> str:
    """
    Return a domain's XML with other images under its disks.

    Args:
        xml: The domain's XML, live or inactive.
        sources: Targets, each with the absolute path of its image and the image's format.
        under: Of these targets, the qcow2 images under that image, the nearest first; libvirt
            leaves their owners as they are. Without them libvirt follows the header.
        keep_others: True: what is written down about the chains of other disks stays.

    Returns:
        The XML in which these disks are files with these images. What libvirt had written down
        about the chains is gone from every disk: ``backingStore``, ``mirror`` and ``index``;
        with *keep_others* from these alone.

    Raises:
        ParseError: Not the XML of a domain, or it has no disk of that target. Nothing was touched.

    Source:
        libvirt, "Domain XML format": an explicit ``backingStore`` wins over the image's header.
    """
    root = domain_root(xml)
    missing = dict(sources)
    for where, node in _disks(root):
        target, _ = _target(node, where)
        if keep_others and target not in sources:
            continue
        for tag in ("backingStore", "mirror"):
            for each in node.findall(tag):
                node.remove(each)
        for source in node.findall("source"):
            source.attrib.pop("index", None)
        found = missing.pop(target, None)
        if found is not None:
            _replace_source(node, *found)
            _lay_on(node, under.get(target, ()))
    if missing:
        raise ParseError(where="devices", reason=f"no disk {', '.join(sorted(missing))}")
    return domain_text(root, xml)


def _replace_source(disk: Element, path: PurePosixPath, image_format: str) -> None:
    """Put one image under a disk; secrets, slices and labels belonged to the old one."""
    place = next((number for number, each in enumerate(disk) if each.tag == "source"), 0)
    for source in disk.findall("source"):
        disk.remove(source)
    disk.insert(place, ET.Element("source", file=str(path)))
    drivers = disk.findall("driver")
    for each in drivers[1:]:
        disk.remove(each)
    driver = drivers[0] if drivers else None
    if driver is None:
        driver = ET.Element("driver", name="qemu")
        disk.insert(0, driver)
    driver.set("type", image_format)
    disk.set("type", "file")


def _lay_on(disk: Element, images: tuple[PurePosixPath, ...]) -> None:
    """
    Write down which qcow2 images are under a disk, and that libvirt gives none to another owner.

    libvirt would change the owner of what it finds in the header by itself.
    """
    place = next(number for number, each in enumerate(disk, 1) if each.tag == "source")
    for path in images:
        below = ET.Element("backingStore", type="file")
        ET.SubElement(below, "format", type="qcow2")
        source = ET.SubElement(below, "source", file=str(path))
        ET.SubElement(source, "seclabel", model="dac", relabel="no")
        disk.insert(place, below)
        disk, place = below, len(below)
    if images:
        ET.SubElement(disk, "backingStore")


def without_ledger(xml: str) -> str:
    """
    Return a domain's XML without what fibackup keeps in its metadata.

    A domain on restored images is not the one that the ledger was about.

    Args:
        xml: The domain's XML.

    Raises:
        ParseError: Not the XML of a domain. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``metadata``.
    """
    root = domain_root(xml)
    for metadata in root.findall("metadata"):
        for each in list(metadata):
            if each.tag.startswith(f"{{{LEDGER_URI}}}"):
                metadata.remove(each)
    return domain_text(root, xml)


def has_passwords(xml: str) -> bool:
    """
    Tell whether a domain's XML has a password of its graphics.

    Args:
        xml: The domain's XML, of ``VIR_DOMAIN_XML_SECURE``.

    Raises:
        ParseError: Not the XML of a domain. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``graphics``, ``passwd``: its only secret.
    """
    return any(each.get("passwd") for each in domain_root(xml).iterfind("devices/graphics"))


def with_passwords(xml: str, secure: str) -> str:
    """
    Return a domain's XML with the passwords of its graphics that it was stored without.

    Args:
        xml: The domain's XML; a password that it has stays.
        secure: Another XML of the same domain, with passwords; with other graphics it has none to
            give.

    Raises:
        ParseError: Not the XML of a domain. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``graphics``, ``passwd``.
    """
    root = domain_root(xml)
    mine = root.findall("devices/graphics")
    theirs = domain_root(secure).findall("devices/graphics")
    if [each.get("type") for each in mine] == [each.get("type") for each in theirs]:
        for own, other in zip(mine, theirs, strict=True):
            for name in _PASSWORD if own.get("passwd") is None else ():
                if (value := other.get(name)) is not None:
                    own.set(name, value)
    return domain_text(root, xml)


def domain_text(root: Element, original: str) -> str:
    """Return a tree as XML, with the prefixes that the original has for its namespaces."""
    prefixes: dict[str, str] = {}
    for prefix, uri in _NAMESPACE.findall(original):
        if prefix not in prefixes.values():
            prefixes.setdefault(uri, prefix)
    used: dict[str, str] = {}
    for node in root.iter():
        uri, brace, name = node.tag[1:].partition("}")
        if brace and uri in prefixes:
            node.tag = f"{prefixes[uri]}:{name}"
            used[prefixes[uri]] = uri
    for prefix, uri in used.items():
        root.set(f"xmlns:{prefix}", uri)
    return ET.tostring(root, encoding="unicode")


def domain_root(text: str, volumes: Volumes = _NO_VOLUMES) -> Element:
    """Return the ``domain`` element of a domain's XML, or raise `ParseError`."""
    root = parse_xml(keep_breaks(text), "domain")
    if root.tag != "domain":
        raise ParseError(where=root.tag, reason="expected <domain>")
    for _, disk in _disks(root):
        resolve_volumes(disk, volumes)
    return root


def _child_text(root: Element, tag: str) -> str:
    text = root.findtext(tag)
    if not text:
        raise ParseError(where=tag, reason="missing or empty")
    return text


def _disks(root: Element) -> list[tuple[str, Element]]:
    nodes = root.findall("devices/disk")
    return [(f"devices/disk[{number}]", node) for number, node in enumerate(nodes, 1)]


def _config_sources(definition: Element) -> dict[str, str]:
    """Map targets to the files that the persistent definition has for them."""
    found: dict[str, str] = {}
    for where, node in _disks(definition):
        source = node.find("source")
        if source is not None and (file := source.get("file")):
            found[_target(node, where)[0]] = file
    return found


def _agent_connected(root: Element) -> bool:
    targets = root.findall("devices/channel/target")
    return any(t.get("name") == _AGENT and t.get("state") == "connected" for t in targets)


def _target(node: Element, where: str) -> tuple[str, str | None]:
    """Return the target and the bus of a disk."""
    target = node.find("target")
    dev = target.get("dev") if target is not None else None
    if target is None or not dev:
        raise ParseError(where=f"{where}/target", reason="a disk without a target")
    return dev, target.get("bus")


def _disk(node: Element, where: str, config: dict[str, str]) -> Disk:
    target, bus = _target(node, where)
    device = node.get("device", "disk")
    if device not in _DEVICES:
        raise ParseError(where=where, reason=f"unknown device {device!r}")
    layers = tuple(_layers(node, where))
    obstacle = _obstacle(layers)
    images = () if obstacle is not None else _images(layers)
    mirror = node.find("mirror")
    source_type = node.get("type", "file") if obstacle is None else obstacle
    try:
        return Disk(
            target=target,
            device=device,
            source_type=source_type,
            bus=bus,
            chain=BackingChain(target, images) if images else None,
            readonly=node.find("readonly") is not None,
            shareable=node.find("shareable") is not None,
            transient=node.find("transient") is not None,
            snapshot=node.get("snapshot"),
            encrypted=any(_is_encrypted(layer) for _, layer in layers),
            block_job=mirror.get("job", "copy") if mirror is not None else None,
            mirror_ready=mirror.get("ready", "") if mirror is not None else None,
            config_source=config.get(target),
            chain_ends=_ends(layers[-1][1]),
        )
    except (ChainError, ParseError):
        raise
    except ModelError as error:
        raise ParseError(where=where, reason=error.reason, target=target) from None


def _layers(disk: Element, where: str) -> Iterator[tuple[str, Element]]:
    """Follow the layers down by a loop: a chain is as deep as its author likes."""
    node: Element | None = disk
    while node is not None:
        yield where, node
        where = f"{where}/backingStore"
        below = node.findall("backingStore")
        if len(below) > 1:
            raise ParseError(where=where, reason="an image lies on one image, not on several")
        node = below[0] if below else None
        if node is not None and node.get("type") is None:
            if len(node):
                raise ParseError(where=where, reason="a backing store without a type")
            return  # <backingStore/>: the chain ends here, and libvirt knows it


def _ends(last: Element) -> bool:
    """Tell whether nothing is to be opened below the last layer, whatever its header names."""
    return last.find("backingStore") is not None


def _is_encrypted(node: Element) -> bool:
    return node.find("encryption") is not None or node.find("source/encryption") is not None


def _obstacle(layers: Layers) -> str | None:
    """Return what keeps a disk with a file on top from being a chain of whole files."""
    if _file(layers[0][1]) is None:
        return None  # an empty drive, or no file at all: the type of the source says it
    for number, (_, node) in enumerate(layers):
        kind = node.get("type", "file")
        if number and kind != "file":
            return f"file over {kind}"
        if node.find("source/slices") is not None:
            return "slice of a file"
        if node.find("source/dataStore") is not None:
            return "file with a data store"
    return None


def _images(layers: Layers) -> tuple[Image, ...]:
    """Return the images, active layer first; none when the top layer is no file."""
    (where, disk), *below = layers
    if _file(disk) is None:
        return ()
    driver = disk.find("driver")
    top_format = driver.get("type") if driver is not None else None
    top = _image(disk, where, top_format or _UNDECLARED)
    return (top, *(_image(node, at, _backing_format(node, at)) for at, node in below))


def _image(node: Element, where: str, image_format: str) -> Image:
    file = _file(node)
    if not file:
        raise ParseError(where=f"{where}/source", reason="a layer without a path")
    try:
        return Image(PurePosixPath(file), image_format)
    except ModelError as error:
        raise ParseError(where=f"{where}/source", reason=error.reason) from None


def _file(node: Element) -> str | None:
    source = node.find("source")
    return source.get("file") if source is not None else None


def _backing_format(node: Element, where: str) -> str:
    declared = node.find("format")
    name = declared.get("type") if declared is not None else None
    if not name:
        raise ParseError(where=f"{where}/format", reason="a backing store without a format")
    return name
