"""
Say what a damaged small file of a domain means, and what becomes of it: one wording for all.

::

    list, backup, prune    warnings
    prune                  refuses, where the file is needed to tell what may go
    verify                 faults, of no point
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fibackup.model.point import History
from fibackup.model.records import (
    LINKED_FILE,
    MERGE_FILE,
    RECORD_FILE,
    REMOVAL_FILE,
    SEALS_FILE,
)
from fibackup.model.verification import Fault, FaultKind

__all__ = [
    "GONE",
    "damage_warnings",
    "describe_damaged",
    "describe_orphans",
    "going_warnings",
    "record_faults",
    "record_warnings",
    "unexplained_images",
]

GONE = "it is gone"
"""What is wrong with a file that must be there, and is not."""

_MEANINGS = {
    SEALS_FILE: (
        "it cannot be told whether a point was lost; the next backup or prune writes it anew"
    ),
    RECORD_FILE: (
        "what verifications have found wrong is forgotten; fibackup verify reads everything again, "
        "and writes it anew"
    ),
    MERGE_FILE: (
        "it cannot be told what a prune was about to do, and nothing is pruned while it is there; "
        "when fibackup verify says that every point is whole, remove it"
    ),
    REMOVAL_FILE: (
        "it cannot be told which points a prune was taking away; the next backup or prune removes "
        "it, and leaves what no point names any more"
    ),
    LINKED_FILE: (
        "it cannot be told which linked disks lie on the points, and nothing is pruned while it is "
        "there; when none is needed any more, or each has been made independent, remove it"
    ),
}
_KINDS = {
    SEALS_FILE: FaultKind.SEALS,
    RECORD_FILE: FaultKind.RECORD,
    MERGE_FILE: FaultKind.JOURNAL,
    REMOVAL_FILE: FaultKind.JOURNAL,
    LINKED_FILE: FaultKind.RECORD,
}


def describe_damaged(file: str, reason: str) -> str:
    """
    Say that a file is damaged, what cannot be told without it, and what to do.

    Args:
        file: Its name, one of `fibackup.model.records`.
        reason: What is wrong with it.

    Returns:
        A sentence without a final stop.

    Source:
        docs/store-format.md.
    """
    what = "is gone" if reason == GONE else f"is damaged ({reason})"
    return f"{file} {what}: {_MEANINGS[file]}"


def record_warnings(history: History) -> Iterator[str]:
    """
    Say which small files are damaged, which points are on their way out, and what is of no point.

    Args:
        history: What the store holds of the domain.

    Yields:
        Sentences without a final stop.

    Source:
        docs/store-format.md.
    """
    yield from damage_warnings(history)
    yield from going_warnings(history)
    if unexplained_images(history) and SEALS_FILE not in dict(history.damaged_records):
        yield describe_orphans(history)


def damage_warnings(history: History) -> Iterator[str]:
    """
    Say which small files are damaged.

    Args:
        history: What the store holds of the domain.

    Yields:
        Sentences without a final stop.

    Source:
        docs/store-format.md.
    """
    for file, reason in history.damaged_records:
        words = describe_damaged(file, reason)
        if file == SEALS_FILE and history.orphans:
            words += f"; of no point there is: {', '.join(sorted(history.orphans))}"
        yield words


def unexplained_images(history: History) -> frozenset[str]:
    """
    Return images that may be all that is left of points of which nothing is known.

    Args:
        history: What the store holds of the domain.

    Returns:
        None while manifests are known to be damaged or gone: the images may be theirs.

    Source:
        docs/verify.md, "What is found".
    """
    return frozenset() if history.unreadable or history.lost else history.orphans


def describe_orphans(history: History) -> str:
    """
    Say that there are images of points of which nothing is known, and what to do.

    Args:
        history: What the store holds of the domain; with such images.

    Returns:
        Sentences without a final stop.

    Source:
        docs/verify.md, "What is found".
    """
    first, *others = sorted(history.orphans)
    more = f", and {len(others)} more," if others else ""
    words = (
        f"{first}{more} is of no point, and no run has left it: the manifest of its "
        "point may be gone, and it cannot be told what that needs. Nothing is dropped until "
        "the manifest is back, or the image moved away"
    )
    above = _above_orphans(history)
    if not above:
        return words
    lie = "lies" if len(above) == 1 else "lie"
    return (
        f"{words}; {', '.join(above)} {lie} on it, and can be restored by hand alone "
        "(docs/restore.md), and no more when it is away"
    )


def _above_orphans(history: History) -> list[str]:
    """Return the points that read through images of no point, oldest first."""
    dark = {(file.partition("/")[0], file.rpartition("/")[2][:16]) for file in history.orphans}
    found: dict[str, None] = {}
    for point in history.points:  # a parent comes before what lies on it
        for disk in point.disks:
            if disk.parent is not None and (disk.target, disk.parent) in dark:
                dark.add((disk.target, point.id))
                found[point.id] = None
    return list(found)


def going_warnings(history: History) -> Iterator[str]:
    """
    Say which points that are listed still are on their way out.

    Args:
        history: What the store holds of the domain.

    Yields:
        A sentence without a final stop, when there are such.

    Source:
        docs/prune.md, "When it is interrupted".
    """
    if history.going:
        yield (
            f"{REMOVAL_FILE}: a prune takes away {', '.join(sorted(history.going))}; if it was "
            "interrupted, the next backup or prune finishes it, unless a rule or --protect of that "
            "prune, or a file <id>.protected beside a manifest, keeps one of them: then all stay"
        )


def record_faults(damaged: Mapping[str, str]) -> Iterator[Fault]:
    """
    Give the faults of a verification that damaged small files are; they spoil no point.

    Args:
        damaged: What is wrong with each.

    Source:
        docs/verify.md, "What is found".
    """
    for file, reason in damaged.items():
        yield Fault(_KINDS[file], file, f"{reason}: {_MEANINGS[file]}")
