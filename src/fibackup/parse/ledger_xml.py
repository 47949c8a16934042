"""
The ledger to XML for libvirt's metadata, and back.

libvirt adds our namespace when it is set, and takes it off when it is read; it prints the element
as it likes. All data lies in attributes, percent-encoded, because paths are bytes and XML 1.0
cannot carry all of them::

    <ledger version="1">
      <run point="20261124T040407Z" store="..." phase="intent" frozen="no"/>
      <store uuid="..." path="/backup" point="20261123T040406Z"/>
      <overlay target="vda" path="/d.bimg-A" below="/d.qcow2" point="A" store="..." sha256="..."/>
      <image path="/d.qcow2" format="qcow2">
        <identity inode="12" size="196616" mtime_ns="1795493046000000000"/>
      </image>
    </ledger>
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TypeAlias
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET

from fibackup.errors import ModelError, ParseError
from fibackup.model.chain import FileIdentity
from fibackup.model.ledger import FrozenImage, KnownStore, Ledger, Overlay, Run, RunPhase
from fibackup.parse.xml_tree import parse_xml

__all__ = ["LEDGER_PREFIX", "LEDGER_URI", "LEDGER_VERSION", "parse_ledger", "render_ledger"]

LEDGER_URI = "urn:fibackup:ledger:1"
"""Namespace of the element: the key under which libvirt finds it."""

LEDGER_PREFIX = "fibackup"
"""Prefix that libvirt is asked to write before the element's name."""

LEDGER_VERSION = "1"
"""Version of what is inside."""

_NUMBER = re.compile(r"-?[0-9]{1,30}", re.ASCII)

_Nodes: TypeAlias = dict[str, list[tuple[str, ET.Element]]]


def render_ledger(ledger: Ledger) -> str:
    """
    Return a ledger as the XML element that libvirt keeps with a domain.

    Args:
        ledger: Any ledger.

    Returns:
        One element in ASCII, without a namespace: libvirt adds it.

    Raises:
        ParseError: A text has surrogates that stand for no byte. Nothing was touched.

    Source:
        libvirt ``virDomainSetMetadata`` with ``VIR_DOMAIN_METADATA_ELEMENT``.
    """
    root = ET.Element("ledger", version=LEDGER_VERSION)
    if ledger.run is not None:
        run = ledger.run
        frozen = "yes" if run.frozen else "no"
        _add(
            root,
            "run",
            point=run.point,
            store=run.store,
            phase=run.phase,
            frozen=frozen,
            suspended="yes" if run.suspended else None,
        )
    if ledger.memory is not None:
        _add(root, "memory", path=str(ledger.memory))
    for store in ledger.stores:
        _add(root, "store", uuid=store.uuid, path=store.path, point=store.point)
    for overlay in ledger.overlays:
        _add_overlay(root, overlay)
    for image in ledger.images:
        _add_image(root, image)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _add(parent: ET.Element, tag: str, **values: str | None) -> ET.Element:
    """Add an element; values that are None are left out."""
    known = {name: _quote(value, tag) for name, value in values.items() if value is not None}
    return ET.SubElement(parent, tag, known)


def _add_overlay(root: ET.Element, overlay: Overlay) -> None:
    _add(
        root,
        "overlay",
        target=overlay.target,
        path=str(overlay.path),
        below=str(overlay.below),
        point=overlay.point,
        store=overlay.store,
        sha256=overlay.sha256,
        stale="yes" if overlay.stale else None,
        freed="yes" if overlay.freed else None,
    )


def _add_image(root: ET.Element, image: FrozenImage) -> None:
    backing = None if image.backing is None else str(image.backing)
    node = _add(root, "image", path=str(image.path), format=image.format, backing=backing)
    if (identity := image.identity) is not None:
        _add(
            node,
            "identity",
            inode=str(identity.inode),
            size=str(identity.size_bytes),
            mtime_ns=str(identity.mtime_ns),
        )


def _quote(value: str, where: str) -> str:
    try:
        return quote(value, safe="/", errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise ParseError(where=where, reason=f"{value!r}: {error.reason}") from None


def parse_ledger(text: str) -> Ledger:
    """
    Return the ledger that libvirt kept with a domain.

    Args:
        text: What ``virDomainGetMetadata`` gave: the element with or without our namespace.

    Returns:
        The ledger, equal to the one that was rendered.

    Raises:
        ParseError: Another version, or anything that `render_ledger` does not write. Nothing was
            touched.

    Source:
        libvirt ``virDomainGetMetadata``, which takes the namespace off.
    """
    root = parse_xml(text, "ledger")
    if _tag(root) != "ledger":
        raise ParseError(where=root.tag, reason="expected <ledger>")
    version = _values(root, "ledger", {"version"})["version"]
    if version != LEDGER_VERSION:
        raise ParseError(where="ledger", reason=f"unknown version {version!r}")
    nodes = _sorted_children(root, "ledger", ("run", "memory", "store", "overlay", "image"))
    try:
        return Ledger(
            overlays=tuple(_overlay(where, node) for where, node in nodes["overlay"]),
            images=tuple(_image(where, node) for where, node in nodes["image"]),
            stores=tuple(_store(where, node) for where, node in nodes["store"]),
            run=_run(*_only(nodes["run"])) if nodes["run"] else None,
            memory=_memory(*_only(nodes["memory"])) if nodes["memory"] else None,
        )
    except ParseError:
        raise
    except ModelError as error:
        raise ParseError(where="ledger", reason=error.reason) from None


def _tag(node: ET.Element) -> str:
    return node.tag.removeprefix(f"{{{LEDGER_URI}}}")


def _sorted_children(node: ET.Element, where: str, tags: tuple[str, ...]) -> _Nodes:
    """Return the children by tag, each with its path; refuse other tags, and text."""
    found: _Nodes = {tag: [] for tag in tags}
    texts = [node.text, *(child.tail for child in node)]
    if any(text is not None and text.strip() for text in texts):
        raise ParseError(where=where, reason="text where none belongs")
    for child in node:
        tag = _tag(child)
        if tag not in found:
            raise ParseError(where=where, reason=f"unknown element {child.tag!r}")
        found[tag].append((f"{where}/{tag}[{len(found[tag]) + 1}]", child))
    return found


def _only(nodes: list[tuple[str, ET.Element]]) -> tuple[str, ET.Element]:
    if len(nodes) > 1:
        raise ParseError(where=nodes[1][0], reason="stands there twice")
    return nodes[0]


def _values(
    node: ET.Element, where: str, needed: set[str], optional: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Return the attributes, decoded; refuse missing, unknown and oddly written ones."""
    found = set(node.keys())
    if not needed <= found or not found <= needed | optional:
        names = ", ".join(sorted(needed ^ (found - optional)))
        raise ParseError(where=where, reason=f"missing or unknown attributes: {names}")
    values = {name: unquote(value, errors="surrogateescape") for name, value in node.items()}
    for name, value in node.items():
        if _quote(values[name], where) != value:
            raise ParseError(where=f"{where}/@{name}", reason=f"{value!r} is not percent-encoded")
    return values


def _leaf(
    node: ET.Element, where: str, needed: set[str], optional: frozenset[str] = frozenset()
) -> dict[str, str]:
    _sorted_children(node, where, ())
    return _values(node, where, needed, optional)


def _run(where: str, node: ET.Element) -> Run:
    needed = {"point", "store", "phase", "frozen"}
    values = _leaf(node, where, needed, frozenset({"suspended"}))
    if values["frozen"] not in {"yes", "no"} or values["phase"] not in set(RunPhase):
        raise ParseError(where=where, reason="unknown phase, or frozen is neither yes nor no")
    return Run(
        point=values["point"],
        store=values["store"],
        phase=RunPhase(values["phase"]),
        frozen=values["frozen"] == "yes",
        suspended=_yes(f"{where}/@suspended", values.get("suspended")),
    )


def _memory(where: str, node: ET.Element) -> PurePosixPath:
    return PurePosixPath(_leaf(node, where, {"path"})["path"])


def _store(where: str, node: ET.Element) -> KnownStore:
    return KnownStore(**_leaf(node, where, {"uuid", "path", "point"}))


def _yes(where: str, value: str | None) -> bool:
    if value not in {None, "yes"}:
        raise ParseError(where=where, reason=f"{value!r} is not 'yes'")
    return value is not None


def _overlay(where: str, node: ET.Element) -> Overlay:
    needed = {"target", "path", "below", "point", "store"}
    values = _leaf(node, where, needed, frozenset({"sha256", "stale", "freed"}))
    return Overlay(
        target=values["target"],
        path=PurePosixPath(values["path"]),
        below=PurePosixPath(values["below"]),
        point=values["point"],
        store=values["store"],
        sha256=values.get("sha256"),
        stale=_yes(f"{where}/@stale", values.get("stale")),
        freed=_yes(f"{where}/@freed", values.get("freed")),
    )


def _image(where: str, node: ET.Element) -> FrozenImage:
    values = _values(node, where, {"path", "format"}, frozenset({"backing"}))
    inner = _sorted_children(node, where, ("identity",))["identity"]
    backing = values.get("backing")
    return FrozenImage(
        path=PurePosixPath(values["path"]),
        format=values["format"],
        backing=None if backing is None else PurePosixPath(backing),
        identity=_identity(*_only(inner)) if inner else None,
    )


def _identity(where: str, node: ET.Element) -> FileIdentity:
    values = _leaf(node, where, {"inode", "size", "mtime_ns"})
    for name, value in values.items():
        if not _NUMBER.fullmatch(value):
            raise ParseError(where=f"{where}/@{name}", reason=f"{value!r} is not a number")
    return FileIdentity(int(values["inode"]), int(values["size"]), int(values["mtime_ns"]))
