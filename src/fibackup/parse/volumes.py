"""
Volumes of storage pools, in the disks of a domain: libvirt's XML has names, never the files.

::

    <disk type="volume"><source pool="p" volume="v"/>    +   (p, v): /pool/v
    <disk type="file"><source file="/pool/v" .../>       =   what the rest of the parser reads
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import TypeAlias
from xml.etree.ElementTree import Element

from fibackup.errors import ParseError
from fibackup.parse.xml_tree import keep_breaks, parse_xml

__all__ = ["Volumes", "pool_directory", "resolve_volumes", "volumes_in"]

Volumes: TypeAlias = Mapping[tuple[str, str], PurePosixPath]
"""``(pool, volume)`` to the absolute path of the file."""

_OF_FILES = frozenset({"dir", "fs", "netfs"})


def volumes_in(disk: Element) -> Iterator[tuple[str, str]]:
    """
    Iterate over the volumes of a disk's layers.

    Args:
        disk: The ``disk`` element.

    Yields:
        ``(pool, volume)``.

    Source:
        libvirt, "Domain XML format": ``source`` with ``pool`` and ``volume``.
    """
    for source in disk.iter("source"):
        name = _name(source)
        if name is not None:
            yield name


def _name(source: Element) -> tuple[str, str] | None:
    pool, volume = source.get("pool"), source.get("volume")
    return (pool, volume) if pool and volume else None


def resolve_volumes(disk: Element, volumes: Volumes) -> None:
    """
    Turn the volumes of a disk's layers into the files that they are; others stay volumes.

    Args:
        disk: The ``disk`` element, which is changed.
        volumes: The files.

    Source:
        libvirt ``virStorageVolGetPath``.
    """
    for layer in disk.iter():
        source = layer.find("source")
        name = _name(source) if source is not None else None
        path = volumes.get(name) if name is not None else None
        if source is not None and path is not None:
            layer.set("type", "file")
            source.set("file", str(path))


def pool_directory(xml: str) -> PurePosixPath | None:
    """
    Return the directory whose files are the volumes of a pool.

    Args:
        xml: The pool's XML.

    Returns:
        Its absolute path; None when the pool has no directory of files.

    Raises:
        ParseError: Not the XML of a pool. Nothing was touched.

    Source:
        libvirt, "Storage pool and volume XML format": pools of type ``dir``, ``fs``, ``netfs``.
    """
    root = parse_xml(keep_breaks(xml), "pool")
    if root.tag != "pool":
        raise ParseError(where=root.tag, reason="expected <pool>")
    path = PurePosixPath(root.findtext("target/path") or "")
    return path if root.get("type") in _OF_FILES and path.is_absolute() else None
