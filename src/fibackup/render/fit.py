"""Make text fit: how wide it is, its middle left out, and nothing in it that acts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from html import escape

from fibackup.units import printable

__all__ = ["clean", "columns_of", "join_fitting", "markup", "shorten"]

_NOT_IN_XML = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}


def columns_of(text: str) -> int:
    """
    Return how many columns of a terminal a text takes.

    Args:
        text: Text without control characters.

    Source:
        Unicode Standard Annex 11: wide and fullwidth characters take two columns.
    """
    if text.isascii():
        return len(text)
    return sum(map(_columns_of_char, text))


def _columns_of_char(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, width: int, mark: str = "...") -> str:
    """
    Leave out the middle of a text that is too wide: names differ at both ends.

    Args:
        text: Text without control characters.
        width: Columns that it may take, 1 or more.
        mark: What stands for the middle.

    Returns:
        Text of *width* columns at most.

    Source:
        The project's own convention.
    """
    if columns_of(text) <= width:
        return text
    room = width - columns_of(mark)
    if room < 2:
        return _take(text, width)
    tail = room // 2
    return _take(text, room - tail) + mark + _take(text[::-1], tail)[::-1]


def _take(text: str, width: int) -> str:
    """Return as much of the beginning as fits."""
    used = 0
    for index, char in enumerate(text):
        used += _columns_of_char(char)
        if used > width:
            return text[:index]
    return text


def join_fitting(words: Iterable[str], width: int, between: str) -> str:
    """
    Join words as long as they fit; one that is too wide is left out, later ones may still come.

    Args:
        words: The most important one first.
        width: Columns that the result may take.
        between: What stands between two.

    Returns:
        Text of *width* columns at most.

    Source:
        The project's own convention.
    """
    out = ""
    for word in filter(None, words):
        longer = f"{out}{between}{word}" if out else word
        if columns_of(longer) <= width:
            out = longer
    return out


def clean(text: str) -> str:
    """
    Return *text* on one line, with everything escaped that is hidden or that XML has no place for.

    Args:
        text: Any text.

    Source:
        `fibackup.printable`; XML 1.0, ``Char``.
    """
    return printable(text).translate(_NOT_IN_XML)


def markup(text: str) -> str:
    """
    Return *text* for HTML and XML, as content or in quotes.

    Args:
        text: Any text.

    Source:
        XML 1.0, "Predefined Entities".
    """
    return escape(clean(text), quote=True)
