"""Sizes, durations and names as people read them."""

import pytest

from fibackup.units import GiB, KiB, MiB, TiB, counted, format_bytes, format_seconds, printable


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (64 * MiB, "64 MiB"),
        (1000 * KiB, "1000 KiB"),
        (MiB - 1, "1023 KiB"),
        (int(2.5 * GiB), "2.5 GiB"),
        (5000 * TiB, "5000 TiB"),
        (-1536, "-1.5 KiB"),
    ],
)
def test_a_size_is_shown_in_its_largest_unit(size: int, text: str) -> None:
    """A size has at most three digits where it can, and never an exponent."""
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.25, "0.25 s"),
        (9.99, "10 s"),
        (12.3, "12 s"),
        (59.4, "59 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
    ],
)
def test_a_duration_is_shown_in_seconds_or_minutes(seconds: float, text: str) -> None:
    """Durations from 60 seconds on, rounded, are shown in minutes."""
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web1", "web1"),
        ("caf\u00e9 \u65e5\u672c", "caf\u00e9 \u65e5\u672c"),
        ("a\nb\x1b[31m", "a\\x0ab\\x1b[31m"),
        ("\x7f\x85\u00e9", "\\x7f\\x85\u00e9"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("bytes \udcff", "bytes \\udcff"),
    ],
)
def test_a_name_cannot_steer_the_terminal(text: str, shown: str) -> None:
    """Control, bidirectional and undecodable characters are escaped; letters of any script stay."""
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 points"), (1, "1 point"), (2, "2 points"), (100, "100 points")]
)
def test_one_of_a_thing_is_no_plural(number: int, text: str) -> None:
    """All others are."""
    assert counted(number, "point") == text
