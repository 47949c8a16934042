"""
The journals of a prune, as readers need them.

::

    merge.json    {"target": "vda", "file": "K.merged", "name": "K", "point": ..., "gone": ["A"]}
    prune.json    {"points": [...], "files": ["vda/B.qcow2"]}

While there is a merge, its point is the one that counts. `fibackup.host.merge` and
`fibackup.host.prune` write them, and do what they say.
"""

from __future__ import annotations

from fibackup.errors import ManifestError
from fibackup.host.files import read_small
from fibackup.model.journal import Merge, Removal
from fibackup.parse.manifest import parse_merge, parse_removal

__all__ = ["MERGE_FILE", "REMOVAL_FILE", "merge_fault", "read_merge", "read_removal"]

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
    try:
        read_merge(dir_fd)
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
