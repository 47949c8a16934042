"""
What lies in the directory of a domain that no point names, and why.

::

    20261121T040407Z.json       a point
    20261121T040407Z.xml        named by it
    vda/20261122T040407Z.qcow2  nobody names it: of a killed run, or of a manifest that is gone
    notes.txt                   a stranger
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fibackup.model.checks import is_target
from fibackup.model.records import (
    LINKED_FILE,
    MERGE_FILE,
    RECORD_FILE,
    REMOVAL_FILE,
    SEALS_FILE,
)
from fibackup.model.verification import Fault, FaultKind, FoundFile, Survey
from fibackup.plan.records import unexplained_images

__all__ = ["faults_of_orphans", "lying_about"]

_OF_THE_STORE = frozenset(
    {
        "lock",
        "lock.readers",
        "lock.verified",
        LINKED_FILE,
        MERGE_FILE,
        RECORD_FILE,
        REMOVAL_FILE,
        SEALS_FILE,
    }
)
_RECEIPT = ".receipt"
_MANIFEST = ".json"
_IMAGE = re.compile(r"([0-9]{8}T[0-9]{6}Z)(?:-[0-9]+)?\.qcow2(?:\.(?:receipt|merged))?", re.ASCII)
_OTHER = re.compile(r"([0-9]{8}T[0-9]{6}Z)\.(?:json|xml|nvram|tpm|mem)", re.ASCII)
_PROTECTED = re.compile(r"[0-9]{8}T[0-9]{6}Z\.protected", re.ASCII)
_TEMPORARY = re.compile(r"\..+\.tmp", re.DOTALL)


def faults_of_orphans(survey: Survey) -> Iterator[Fault]:
    """
    Give the images that may be all that is left of points: no seal tells what was published.

    Args:
        survey: What lies in the domain's directory.

    Source:
        docs/recover.md.
    """
    history = survey.history
    if survey.busy or {point.id for point in history.points} - {*survey.unsealed}:
        return
    reason = (
        "the manifest of its point may be gone, and no seal tells which points there were: take "
        "manifests and points.sha256 from another copy of the store, or move the image away"
    )
    for file in sorted(unexplained_images(history)):
        yield Fault(FaultKind.LOST, file, reason)


def lying_about(
    survey: Survey,
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """
    Return what no point names.

    Args:
        survey: What lies in the domain's directory.

    Returns:
        Leftovers, which a run of ours may have left, and strangers; each with the reason.

    Source:
        docs/verify.md, "What is found".
    """
    history = survey.history
    named = {name for name, _ in history.named_files}
    gone = {file.removesuffix(_MANIFEST) for file, _ in history.unreadable} | set(history.lost)
    named.update(fault.file for fault in faults_of_orphans(survey))
    complete = {f"{each.target}/{each.image.name}" for each in history.receipts}
    leftovers: list[tuple[str, str]] = []
    strangers: list[tuple[str, str]] = []
    for file in survey.files:
        if file.name in named:
            continue
        why = _why_left(file, gone, complete, history.orphans)
        if why is None:
            strangers.append((file.name, "no fibackup writes such a file"))
        elif why and not survey.busy:
            leftovers.append((file.name, why))
    return tuple(leftovers), tuple(strangers)


def _why_left(
    file: FoundFile, gone: set[str], complete: set[str], orphans: frozenset[str]
) -> str | None:
    """Return why a file lies there; empty when it should, None when nobody knows."""
    target, _, name = file.name.rpartition("/")
    if not file.regular or (target and not is_target(target)):
        return None
    if _TEMPORARY.fullmatch(name):
        return "left half-written by a killed run; the next backup removes it"
    if not target and (name in _OF_THE_STORE or _PROTECTED.fullmatch(name)):
        return ""
    match = (_IMAGE if target else _OTHER).fullmatch(name)
    if match is None:
        return None
    if match[1] in gone or name.endswith(_MANIFEST):
        return ""  # it belongs to a point of which nothing is known, or is a manifest
    if name.endswith(_RECEIPT):
        return "a receipt; the next backup uses it, or it is of a point that is complete"
    if file.name in complete:
        words = "complete, but in no point yet; the next backup takes it over if it can"
        return f"{words}, and once two points of the disk have not, it goes"
    if file.name in orphans:
        return "the manifest of its point may be gone; nothing is pruned while it is there"
    if target:
        return "no point names it: left by a killed run"
    return "no point names it: the manifest of its point is gone, and nothing else needs it"
