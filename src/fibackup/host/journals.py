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

from fibackup.host.files import read_small
from fibackup.model.journal import Merge, Removal
from fibackup.model.linked import LinkedDisks
from fibackup.model.records import LINKED_FILE, MERGE_FILE, REMOVAL_FILE
from fibackup.parse.manifest import parse_linked, parse_merge, parse_removal

__all__ = ["read_linked", "read_merge", "read_removal"]


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
