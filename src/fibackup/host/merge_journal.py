"""
The journal of a merge, as readers need it: while it is there, its point is the one that counts.

::

    merge.json    {"target": "vda", "file": "K.merged", "name": "K", "point": ..., "gone": ["A"]}

`fibackup.host.merge` writes it, and does what it says.
"""

from __future__ import annotations

from fibackup.errors import ManifestError
from fibackup.host.files import read_small
from fibackup.model.journal import Merge
from fibackup.parse.manifest import parse_merge

__all__ = ["MERGE_FILE", "merge_fault", "read_merge"]

MERGE_FILE = "merge.json"
"""Name of the journal of a merge, in the domain's directory."""


def read_merge(dir_fd: int) -> Merge | None:
    """
    Return the merge that a killed run has left to be finished, or None.

    Args:
        dir_fd: The domain's directory.

    Raises:
        ManifestError: The journal is damaged.
    """
    try:
        return parse_merge(read_small(MERGE_FILE, dir_fd), path=MERGE_FILE)
    except FileNotFoundError:
        return None


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
