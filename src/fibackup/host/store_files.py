"""
What the files of a store are called, and how its small ones are read.

::

    20261124T040407Z.qcow2.receipt    the image is complete, and in no point yet
    .NAME.tmp                         being written, or waiting for its name
"""

from __future__ import annotations

import os
import re

from fibackup.errors import ManifestError
from fibackup.host.files import TEMP_SUFFIX, open_directory, read_small

__all__ = [
    "PROTECTED_SUFFIX",
    "RECEIPT",
    "directories_in",
    "exists",
    "is_manifest",
    "is_stored_image",
    "is_temporary",
    "list_directory",
    "list_entries",
    "read_text",
]

RECEIPT = ".receipt"
"""How the name of a receipt ends, after the name of its image."""

PROTECTED_SUFFIX = ".protected"
"""How the name of the file ends that keeps a point, after the id of the point."""

_MANIFEST = re.compile(r"[0-9]{8}T[0-9]{6}Z\.json", re.ASCII)
_IMAGE = re.compile(r"[^/]+/[0-9]{8}T[0-9]{6}Z(-[0-9]+)?\.qcow2", re.ASCII)


def list_directory(fd: int) -> list[str]:
    """
    List a directory through a descriptor of its own.

    Threads would share the position of one, and on btrfs and FUSE an older one does not show what
    was made since it was opened.

    Args:
        fd: The directory, open.

    Source:
        readdir(3); Linux fs/btrfs/inode.c, ``btrfs_opendir``.
    """
    with open_directory(".", fd) as own:
        return os.listdir(own)


def is_temporary(name: str) -> bool:
    """Tell whether a file name is that of a file that is being written."""
    return name.startswith(".") and name.endswith(TEMP_SUFFIX)


def list_entries(fd: int) -> dict[str, bool]:
    """Return the names in a directory, and of each whether it is a directory; links are none."""
    with open_directory(".", fd) as own, os.scandir(own) as entries:
        return {each.name: each.is_dir(follow_symlinks=False) for each in entries}


def is_stored_image(file: str) -> bool:
    """Tell whether a file has the name of an image, such as ``vda/20261124T040407Z-1.qcow2``."""
    return _IMAGE.fullmatch(file) is not None


def is_manifest(name: str) -> bool:
    """Tell whether a file has the name of a manifest, such as ``20261124T040407Z.json``."""
    return _MANIFEST.fullmatch(name) is not None


def directories_in(fd: int) -> frozenset[str]:
    """Return the names in a directory that are directories; links are none."""
    return frozenset(name for name, inside in list_entries(fd).items() if inside)


def exists(name: str, dir_fd: int) -> bool:
    """Tell whether there is anything of this name, be it a link that leads nowhere."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def read_text(fd: int, name: str, path: str) -> str:
    """Read a small file of the store, not through a link."""
    try:
        return read_small(name, fd).decode()
    except UnicodeDecodeError as error:
        raise ManifestError(reason=f"not UTF-8: {error}", path=path) from None
