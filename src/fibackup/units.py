"""
Sizes, durations and numbers of things as people read them; binary units, as qemu-img prints them.

    1536            -> "1.5 KiB"
    67108864        -> "64 MiB"
"""

from __future__ import annotations

__all__ = ["GiB", "KiB", "MiB", "TiB", "counted", "format_bytes", "format_seconds", "printable"]

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

_UNITS = ((TiB, "TiB"), (GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB"))


def format_bytes(size_bytes: int) -> str:
    """
    Return *size_bytes* in the largest binary unit that leaves a number of 1 or more.

    Args:
        size_bytes: A size in bytes; negative sizes keep their sign.

    Returns:
        Three significant digits at most, such as ``"1.5 KiB"``, ``"64 MiB"`` or ``"17 B"``.

    Source:
        IEC 80000-13 (binary prefixes).
    """
    for factor, unit in _UNITS:
        if abs(size_bytes) >= factor:
            return (
                f"{size_bytes / factor:.3g} {unit}"
                if abs(size_bytes) < 999 * factor
                else (f"{size_bytes // factor} {unit}")
            )
    return f"{size_bytes} B"


def counted(number: int, word: str) -> str:
    """
    Return *number* of what *word* names.

    Args:
        number: 0 or more.
        word: One of them, of which the plural has an ``s`` more.

    Returns:
        Such as ``"1 point"`` or ``"3 points"``.

    Source:
        English; there is no standard for it.
    """
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def format_seconds(seconds: float) -> str:
    """
    Return *seconds* as ``"0.25 s"``, ``"12 s"`` or ``"3 min 5 s"``.

    Args:
        seconds: A duration in seconds, 0 or more.

    Returns:
        Text for people; never parse it.

    Source:
        The project's own convention (docs/glossary.md).
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


_INVISIBLE = frozenset(
    [
        *range(0x20),
        *range(0x7F, 0xA0),
        0x061C,
        0x200E,
        0x200F,
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    ]
)


def printable(text: str) -> str:
    r"""
    Return *text* with control and bidirectional characters escaped, fit for one line of a terminal.

    Args:
        text: Any text, such as a domain's name or a path.

    Returns:
        The text, with each such character (newline too) as ``\xNN`` or ``\uNNNN``.

    Source:
        Unicode categories Cc and bidirectional controls; names may carry terminal escapes.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if _is_hidden(ord(char)) else char for char in text)


def _is_hidden(code: int) -> bool:
    return code in _INVISIBLE or 0xD800 <= code <= 0xDFFF


def _escape(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"
