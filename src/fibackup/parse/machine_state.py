"""
What a domain keeps outside of its disks: where its XML says that this is.

::

    <os firmware="efi">                        variables at libvirt's own place
    <os><nvram template="...">/p/web1_VARS.fd  variables in a file
    <tpm><backend type="emulator"/>            swtpm, its state at libvirt's own place
    <tpm><backend type="emulator"><source type="dir" path="/p"/>
"""

from __future__ import annotations

from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from attrs import frozen

from fibackup.errors import ParseError
from fibackup.parse.xml_tree import parse_xml

__all__ = ["TpmBackend", "find_nvram", "find_tpm", "has_nvram", "has_tpm"]


@frozen
class TpmBackend:
    """
    What is behind a domain's TPM.

    Attributes:
        kind: ``"emulator"``, ``"passthrough"`` or ``"external"``.
        version: ``"2.0"`` or ``"1.2"``.
        place: The directory of its state, None where libvirt chooses it.
        in_file: True when *place* is one file, not a directory.
    """

    kind: str
    version: str
    place: PurePosixPath | None
    in_file: bool


def has_nvram(root: Element) -> bool:
    """
    Tell whether a domain's firmware keeps variables.

    Args:
        root: The ``domain`` element.

    Source:
        libvirt, "Domain XML format": ``os/nvram``, ``os firmware``.
    """
    os = root.find("os")
    return os is not None and (os.get("firmware") == "efi" or os.find("nvram") is not None)


def has_tpm(root: Element) -> bool:
    """
    Tell whether a domain has a TPM, of whatever kind.

    Args:
        root: The ``domain`` element.

    Source:
        libvirt, "Domain XML format": ``tpm``.
    """
    return root.find("devices/tpm") is not None


def find_nvram(xml: str) -> PurePosixPath | None:
    """
    Return the file of the firmware's variables that the XML names.

    Args:
        xml: The domain's XML; the one of a running domain says more.

    Returns:
        The file; None where the XML leaves the place to libvirt.

    Raises:
        ParseError: Not XML, or the variables are no file. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``os/nvram``.
    """
    node = parse_xml(xml, "domain").find("os/nvram")
    if node is None:
        return None
    kind = node.get("type", "file")
    if kind != "file":
        raise ParseError(where="os/nvram", reason=f"the variables are of type {kind}, no file")
    source = node.find("source")
    text = (source.get("file") if source is not None else node.text) or ""
    if not text.strip():
        return None
    if not text.strip().startswith("/"):
        raise ParseError(where="os/nvram", reason=f"{text!r} is not an absolute path")
    return PurePosixPath(text.strip())


def find_tpm(xml: str) -> TpmBackend:
    """
    Return what is behind the TPM that the XML describes.

    Args:
        xml: The domain's XML.

    Raises:
        ParseError: Not XML, or no TPM. Nothing was touched.

    Source:
        libvirt, "Domain XML format": ``tpm/backend``, ``tpm/backend/source``.
    """
    backend = parse_xml(xml, "domain").find("devices/tpm/backend")
    if backend is None:
        raise ParseError(where="devices/tpm", reason="no TPM with a backend")
    source = backend.find("source")
    path = source.get("path") if source is not None else None
    return TpmBackend(
        kind=backend.get("type", "unknown"),
        version=backend.get("version", "2.0"),
        place=PurePosixPath(path) if path else None,
        in_file=source is not None and source.get("type") == "file",
    )
