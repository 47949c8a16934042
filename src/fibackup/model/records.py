"""
The small files beside a domain's points that tell of all of them.

::

    points.sha256    seals: the hash of each manifest that was published
    verified.json    when each file was last read, and what was wrong
    merge.json       journal: an image is about to take the place of others
    prune.json       journal: points are being taken away
    linked.json      disks that restores have put on the stored images

No point is lost with one of them; what cannot be told without it, `fibackup.plan.records` says.
"""

from __future__ import annotations

__all__ = ["LINKED_FILE", "MERGE_FILE", "RECORD_FILE", "REMOVAL_FILE", "SEALS_FILE"]

SEALS_FILE = "points.sha256"
"""Name of the list of seals, in the domain's directory."""

RECORD_FILE = "verified.json"
"""Name of the record of verifications, in the domain's directory."""

MERGE_FILE = "merge.json"
"""Name of the journal of a merge, in the domain's directory."""

REMOVAL_FILE = "prune.json"
"""Name of the journal of a removal, in the domain's directory."""

LINKED_FILE = "linked.json"
"""Name of the list of linked disks, in the domain's directory."""
