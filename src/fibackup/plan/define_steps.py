"""
The steps that make a domain of restored disks.

::

    MakeDirectory     QEMU may pass through it
    ...               the disks
    RestoreNvram      a file beside the disks, which the definition names
    DefineDomain      the XML, as the plan shows it
    RestoreTpm        where libvirt keeps the state of the new domain's TPM
    SmokeStart        paused, then off again: every image opens
    StartDomain       only when asked for
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TypeAlias, assert_never

from attrs import frozen

from fibackup.model.point import StoredFile
from fibackup.plan.restore_steps import (
    CopyStored,
    CreateLinked,
    DiskRestore,
    FlattenImage,
    RestoreDisks,
    describe_disk,
)
from fibackup.units import printable

__all__ = [
    "DefineDomain",
    "DefineStep",
    "MakeDirectory",
    "RestoreNvram",
    "RestoreTpm",
    "SmokeStart",
    "StartDomain",
    "describe_restore",
]


@frozen
class MakeDirectory:
    """
    Make a directory that others may pass through, and not list; one that is there stays as it is.

    Attributes:
        path: The directory.
    """

    path: PurePosixPath


@frozen
class RestoreNvram:
    """
    Write the firmware's NVRAM of a point to a file.

    Attributes:
        file: The stored file.
        destination: The file to write; it must not exist.
    """

    file: StoredFile
    destination: PurePosixPath


@frozen
class RestoreTpm:
    """
    Put the state of a point's TPM where libvirt keeps that of a domain.

    Attributes:
        file: The stored archive.
        uuid: The domain that gets it; it must not have any.
    """

    file: StoredFile
    uuid: str


@frozen
class DefineDomain:
    """
    Define a domain that is not there yet.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        clone: True: it is another domain than the one in the point.
        config: The stored XML that the definition was made from.
        xml: The definition.
        difference: A unified diff of both.
        notes: What is not in the definition, or was kept although it reaches out of the guest.
        kept_files: Images that came with the XML; no other domain may use them.
        autostart: True: libvirt starts it with the host.
    """

    name: str
    uuid: str
    clone: bool
    config: StoredFile
    xml: str
    difference: str
    notes: tuple[str, ...] = ()
    kept_files: tuple[PurePosixPath, ...] = ()
    autostart: bool = False


@frozen
class SmokeStart:
    """
    Start a domain paused, and end it: its images open, and its devices can be had.

    Attributes:
        uuid: The domain.
    """

    uuid: str


@frozen
class StartDomain:
    """
    Start a domain.

    Attributes:
        uuid: The domain.
    """

    uuid: str


DefineStep: TypeAlias = (
    MakeDirectory | RestoreNvram | RestoreTpm | DefineDomain | SmokeStart | StartDomain
)
"""A step that makes a domain of restored disks."""


def describe_restore(step: DiskRestore | RestoreDisks | DefineStep) -> tuple[str, ...]:
    """
    Return a step's headline, then its details, one a line.

    Args:
        step: The step.

    Source:
        The step's own fields.
    """
    match step:
        case FlattenImage() | CopyStored() | CreateLinked():
            return (describe_disk(step),)
        case RestoreDisks():
            lines = tuple(f"   {describe_disk(disk)}" for disk in step.disks)
            return (f"bring {len(lines)} disks back:", *lines)
        case MakeDirectory():
            return (f"make {printable(str(step.path))}, which QEMU may pass through",)
        case RestoreNvram():
            return (f"write the firmware's NVRAM to {printable(str(step.destination))}",)
        case RestoreTpm():
            return ("put the state of the TPM where libvirt looks for it",)
        case DefineDomain():
            return _describe_define(step)
        case SmokeStart():
            return ("start the domain paused, and end it: its images must open",)
        case StartDomain():
            return ("start the domain",)
        case _:  # pragma: no cover - mypy and pyright prove it
            assert_never(step)


def _describe_define(step: DefineDomain) -> tuple[str, ...]:
    kind = "a new domain" if step.clone else "the domain again, as itself"
    start = ", which starts with the host" if step.autostart else ""
    return (
        f"define {kind}: {printable(step.name)}, {step.uuid}{start}:",
        *(f"   {printable(note)}" for note in step.notes),
        *(f"   {printable(line)}" for line in step.difference.splitlines()),
    )
