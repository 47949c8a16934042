"""Pictures on the command line: how wide the terminal is, and where an SVG goes."""

from __future__ import annotations

import os
import shutil
import stat
import sys

import fibackup as fb

__all__ = ["terminal_width", "write_svg"]

_WIDTH_WITHOUT_TERMINAL = 100
_BEGINS = b"<svg "


def terminal_width() -> int:
    """
    Return how many columns a drawing may take on stdout.

    Returns:
        Those of the terminal, or of ``COLUMNS``; 100 where stdout is none.

    Source:
        The project's own convention; `shutil.get_terminal_size`.
    """
    if not sys.stdout.isatty():
        return _WIDTH_WITHOUT_TERMINAL
    return shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 24)).columns


def write_svg(path: str, text: str) -> None:
    """
    Write a picture to a file, whole or not at all; an older picture there is replaced.

    Args:
        path: The file; ``"-"``: stdout.
        text: The picture.

    Raises:
        DestinationExistsError: The file is there and is not an SVG picture, but a disk image,
            perhaps. Nothing was touched.
        OSError: It cannot be written.

    Source:
        rename(2): it replaces a file in one step.
    """
    if path == "-":
        print(text, end="")
        return
    _refuse_what_is_no_picture(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _refuse_what_is_no_picture(path: str) -> None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            if file.read(len(_BEGINS)) in {b"", _BEGINS}:
                return
    raise fb.DestinationExistsError(
        reason="it is there, and is not an SVG picture: it is left as it is", path=path
    )
