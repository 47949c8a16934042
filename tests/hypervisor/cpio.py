"""The kernel's initramfs format, cpio "newc": files and the directories above them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_DIRECTORY: Final = 0o040755
_FILE: Final = 0o100755
_DEVICE: Final = 0o020600


def initramfs(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of executable files, the directories above them, and /dev/console."""
    parts = [
        _entry(number, name, _DIRECTORY, b"") for number, name in enumerate(_directories(files), 1)
    ]
    parts.append(_entry(len(parts) + 1, "dev/console", _DEVICE, b"", device=(5, 1)))
    for name, content in files.items():
        parts.append(_entry(len(parts) + 1, name, _FILE, content))
    return b"".join([*parts, _entry(0, "TRAILER!!!", 0, b"")])


def _directories(files: Mapping[str, bytes]) -> list[str]:
    found = {"dev"}
    for name in files:
        parts = name.split("/")
        found.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    return sorted(found)


def _entry(
    number: int, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
) -> bytes:
    encoded = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
