"""
Which versions of libvirt, QEMU and qemu-img will do, and which are known to do harm.

::

    too old            RequirementError, before anything is touched
    known to be bad    RequirementError when the work would meet the fault, else nothing
    known to be odd    a warning that says what to expect
    chain too deep     RequirementError before the snapshot that would make it
"""

from __future__ import annotations

import re
from enum import StrEnum

from attrs import frozen

from fibackup.errors import RequirementError
from fibackup.model.point import Versions

__all__ = ["KNOWN_FAULTS", "Fault", "Work", "check_compression", "check_depth", "check_versions"]

_NUMBER = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?")
_COMPRESSION = (6, 1, 0)
_OLDEST = {"libvirt": (6, 0, 0), "qemu": (4, 2, 0), "qemu-img": (4, 2, 0)}


class Work(StrEnum):
    """What is going to be done."""

    BACKUP = "backup"
    CONSOLIDATE = "consolidate"


@frozen
class Fault:
    """
    A fault of some versions.

    Attributes:
        program: ``"libvirt"``, ``"qemu"`` or ``"qemu-img"``.
        first: The first version that has it.
        fixed: The first later one that has not.
        work: The kinds of work that meet it.
        refused: True: that work is refused; False: it is warned of.
        words: What happens, and what to do.
        source: Where it is documented.
    """

    program: str
    first: tuple[int, int, int]
    fixed: tuple[int, int, int]
    work: frozenset[Work]
    refused: bool
    words: str
    source: str


_ALL = frozenset(Work)
_COMMIT = frozenset({Work.CONSOLIDATE})

KNOWN_FAULTS = (
    Fault(
        "libvirt",
        (6, 4, 0),
        (6, 5, 0),
        _COMMIT,
        refused=True,
        words="its daemon crashes in a block commit; upgrade it, or back up without consolidation",
        source="libvirt NEWS 6.5.0",
    ),
    Fault(
        "libvirt",
        (6, 5, 0),
        (6, 6, 0),
        _COMMIT,
        refused=False,
        words="a second commit into one base may fail; nothing is lost then, try again",
        source="libvirt NEWS 6.6.0",
    ),
    Fault(
        "libvirt",
        (7, 0, 0),
        (7, 1, 0),
        _ALL,
        refused=False,
        words="a snapshot call may never return when QEMU dies meanwhile; restart the daemon then",
        source="libvirt issue 36",
    ),
)
"""Faults that this library can meet. Libvirt 9.0.0, whose jobs can keep a disk from being detached
later, is not among them: Debian's 9.0.0 has the fix, under the same number. The depth that libvirt
10.8 to 11.10 can start depends on the domain: `check_depth`."""

_SHALLOW = ((10, 8, 0), (12, 0, 0), 25)
"""First version that starts no deeper chain, first later one that does, number of images."""


def check_versions(
    found: Versions, qemu_img: str | None = None, *, work: Work = Work.BACKUP
) -> tuple[str, ...]:
    """
    Refuse versions that are too old, or that have a fault which the work would meet.

    Args:
        found: The versions of libvirt and of QEMU; one that cannot be read passes.
        qemu_img: The version of qemu-img, or None where none is needed.
        work: What is going to be done.

    Returns:
        Warnings.

    Raises:
        RequirementError: With program, version and remedy. Nothing was touched.

    Source:
        libvirt and QEMU release notes, as `KNOWN_FAULTS` names them.
    """
    programs = {"libvirt": found.libvirt, "qemu": found.qemu, "qemu-img": qemu_img or ""}
    warnings: list[str] = []
    for program, text in programs.items():
        number = _number(text)
        if number is None:
            continue
        if number < _OLDEST[program]:
            needed = ".".join(map(str, _OLDEST[program][:2]))
            raise RequirementError(
                reason=f"{program} {text} is too old; {needed} or later is needed"
            )
        for fault in KNOWN_FAULTS:
            if fault.program != program or not fault.first <= number < fault.fixed:
                continue
            words = f"{program} {text}: {fault.words} ({fault.source})"
            if work in fault.work and fault.refused:
                raise RequirementError(reason=words)
            if work in fault.work:
                warnings.append(words)
    return tuple(warnings)


def check_compression(qemu_img: str | None) -> None:
    """
    Refuse a qemu-img that cannot write compressed images, or cannot prove what it wrote.

    Args:
        qemu_img: Its version; one that cannot be read passes.

    Raises:
        RequirementError: It is too old. Nothing was touched.

    Source:
        QEMU 6.1, ``qemu-img map`` says ``present``; zstd is older (5.1).
    """
    number = _number(qemu_img or "")
    if number is not None and number < _COMPRESSION:
        needed = ".".join(map(str, _COMPRESSION[:2]))
        raise RequirementError(
            reason=f"qemu-img {qemu_img} is too old to compress; {needed} or later is needed",
            remedy="upgrade it, or back up without compression",
        )


def check_depth(found: Versions, target: str, depth: int) -> None:
    """
    Refuse an overlay after which this libvirt could not start the domain any more.

    Args:
        found: The versions; a libvirt that cannot be read passes.
        target: The disk.
        depth: The images of its chain, the new overlay included.

    Raises:
        RequirementError: With the disk and the remedy. Nothing was touched.

    Source:
        libvirt NEWS 12.0.0: more than about 25 layers.
    """
    first, fixed, most = _SHALLOW
    number = _number(found.libvirt)
    if number is not None and first <= number < fixed and depth > most:
        raise RequirementError(
            target=target,
            reason=f"libvirt {found.libvirt} starts no domain with a chain of {depth} images, "
            f"{most} at most (libvirt NEWS 12.0.0)",
            remedy="consolidate first: fibackup consolidate",
        )


def _number(text: str) -> tuple[int, int, int] | None:
    """Return a version as numbers; None for what is no version, or no release such as 0.0.0."""
    match = _NUMBER.search(text)
    if match is None:
        return None
    number = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    return number if any(number) else None
