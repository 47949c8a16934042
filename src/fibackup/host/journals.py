"""
The small files of a domain that say what is under way, as readers need them.

::

    merge.json    {"target": "vda", "file": "K.merged", "name": "K", "point": ..., "gone": ["A"]}
    prune.json    {"points": [...], "files": ["vda/B.qcow2"]}
    linked.json   {"disks": [{"overlay": "/images/now/vda.qcow2", "images": ["B.qcow2"], ...}]}

While there is a merge, its point is the one that counts. `fibackup.host.merge`,
`fibackup.host.prune` and `fibackup.host.linked` write them, and do what they say.
"""

from __future__ import annotations

from collections.abc import Callable

from fibackup.errors import ManifestError
from fibackup.host.files import read_small
from fibackup.model.journal import Merge, Removal
from fibackup.model.linked import LinkedDisks
from fibackup.parse.manifest import parse_linked, parse_merge, parse_removal

__all__ = [
    "LINKED_FILE",
    "MERGE_FILE",
    "REMOVAL_FILE",
    "linked_fault",
    "merge_fault",
    "read_linked",
    "read_merge",
    "read_removal",
]

LINKED_FILE = "linked.json"
"""Name of the list of linked disks, in the domain's directory."""

MERGE_FILE = "merge.json"
"""Name of the journal of a merge, in the domain's directory."""

REMOVAL_FILE = "prune.json"
"""Name of the journal of a removal, in the domain's directory."""


def read_merge(dir_fd: int) -> Merge | None:
    """
    Return the merge that a killed run has left to be finished, or None.

    Args:
        dir_fd: The domain's directory.

    Raises:
        ManifestError: The journal is damaged.
    """
    data = _read(MERGE_FILE, dir_fd)
    return None if data is None else parse_merge(data, path=MERGE_FILE)


def merge_fault(dir_fd: int) -> str | None:
    """
    Return what is wrong with the journal, or None.

    Args:
        dir_fd: The domain's directory.
    """
    return _fault(read_merge, dir_fd)


def read_linked(dir_fd: int) -> LinkedDisks:
    """
    Return what restores have put on the images of the domain's points.

    Args:
        dir_fd: The domain's directory.

    Raises:
        ManifestError: The list is damaged.
    """
    data = _read(LINKED_FILE, dir_fd)
    return LinkedDisks() if data is None else parse_linked(data, path=LINKED_FILE)


def linked_fault(dir_fd: int) -> str | None:
    """
    Return what is wrong with the list of linked disks, or None.

    Args:
        dir_fd: The domain's directory.
    """
    return _fault(read_linked, dir_fd)


def _fault(read: Callable[[int], object], dir_fd: int) -> str | None:
    try:
        read(dir_fd)
    except ManifestError as error:
        return error.reason
    return None


def read_removal(dir_fd: int) -> Removal | None:
    """
    Return the removal that a killed run has left to be finished, or None.

    Args:
        dir_fd: The domain's directory.

    Raises:
        ManifestError: The journal is damaged.
    """
    data = _read(REMOVAL_FILE, dir_fd)
    return None if data is None else parse_removal(data, path=REMOVAL_FILE)


def _read(name: str, dir_fd: int) -> bytes | None:
    try:
        return read_small(name, dir_fd)
    except FileNotFoundError:
        return None
