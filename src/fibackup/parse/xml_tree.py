"""
XML text to an element tree, for text that nobody vouches for.

::

    text --> at most 4 MiB --> no DOCTYPE --> at most 1000 deep --> Element
                  |                 |                 |
                  `-----------------+-----------------'--> ParseError

Without a DOCTYPE there are no entities to expand and no external ones to fetch.
"""

from __future__ import annotations

import re
from typing import NoReturn
from xml.etree import ElementTree as ET

from typing_extensions import override

from fibackup.errors import ParseError
from fibackup.units import MiB

__all__ = ["MAX_XML_BYTES", "MAX_XML_DEPTH", "keep_breaks", "parse_xml"]

MAX_XML_BYTES = 4 * MiB
"""libvirt's own limit for text in a remote call (``VIR_NET_MESSAGE_STRING_MAX``)."""

MAX_XML_DEPTH = 1000
"""Deeper than the longest backing chain that libvirt takes, which nests about 210 elements."""

_ATTRIBUTE = re.compile(r"""="[^"<]*"|='[^'<]*'""")
_BREAKS = {ord(char): f"&#{ord(char)};" for char in "\t\n\r"}


class _StrictBuilder(ET.TreeBuilder):
    """Builds a tree; stops at a DOCTYPE, and at an element that lies too deep."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._depth = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        """Refuse: document types bring entities, and entities read files and fill memory."""
        del name, pubid, system
        raise ParseError(where=self._where, reason="a DOCTYPE is refused")

    @override
    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self._depth += 1
        if self._depth > MAX_XML_DEPTH:
            raise ParseError(where=self._where, reason=f"more than {MAX_XML_DEPTH} elements deep")
        return super().start(tag, attrs)

    @override
    def end(self, tag: str, /) -> ET.Element:
        self._depth -= 1
        return super().end(tag)


def keep_breaks(text: str) -> str:
    """
    Return XML with line breaks and tabs in attributes as references, so that they survive.

    libvirt prints those of a path as they are, and any XML parser would read them as spaces: the
    path of another file. (The same words outside a tag mean the same either way.)

    Args:
        text: The document.

    Source:
        XML 1.0, section 3.3.3 (attribute-value normalization).
    """
    return _ATTRIBUTE.sub(lambda found: found[0].translate(_BREAKS), text)


def parse_xml(text: str, where: str) -> ET.Element:
    """
    Return the root element of an XML document.

    Args:
        text: The document.
        where: What it is, for errors, such as ``"domain"``.

    Returns:
        The root, with its children.

    Raises:
        ParseError: Not well-formed, too long, too deep, or with a DOCTYPE. Nothing was touched.

    Source:
        XML 1.0, without its section 2.8 (document type declarations).
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ParseError(where=where, reason=f"not Unicode text: {error.reason}") from None
    if len(data) > MAX_XML_BYTES:
        raise ParseError(where=where, reason=f"longer than {MAX_XML_BYTES} bytes")
    parser = ET.XMLParser(target=_StrictBuilder(where), encoding="utf-8")
    try:
        parser.feed(data)
        return parser.close()
    except ET.ParseError as error:
        raise ParseError(where=where, reason=f"not XML: {error}") from None
