"""
Plan the domain that a restore defines: another one, or the original again.

::

    NAME is the original's, neither NAME nor its UUID is defined     the same identity
    NAME is free, anything else                                      a clone: new UUID, new MACs
    NAME is defined                                                  refused
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from types import MappingProxyType

from attrs import field, frozen

from fibackup.errors import DomainExistsError, ForeignConfigError, PolicyError, VerifyError
from fibackup.model.checks import UUID_PATTERN, matches
from fibackup.model.host_facts import HostFacts
from fibackup.model.point import FileRole, History, RestorePoint, StoredFile
from fibackup.parse.definition import Foreign, NewDefinition, Redefined, redefine
from fibackup.parse.domain_xml import domain_root
from fibackup.plan.steps import (
    CreateLinked,
    DefineDomain,
    DiskRestore,
    RestoreNvram,
    RestoreTpm,
    SmokeStart,
    StartDomain,
    Step,
)
from fibackup.plan.wishes import flag, member

__all__ = ["Definition", "NewDomain", "plan_definition"]

_NVRAM = "nvram.fd"
_NAME = re.compile(r"[^/\n]*[^/\s][^/\n]*")  # virDomainDefPostParse, virXMLCheckIllegalChars


@frozen
class NewDomain:
    """
    The domain that a restore is to define.

    Attributes:
        name: Its name.
        config: The stored XML of the point.
        host: The host, just read.
        uuid: A new UUID, chosen at random by the caller; a clone gets it.
        foreign: What is done with parts of the XML that reach out of the guest.
        start: True: it is started in the end.
    """

    name: str = field(validator=matches(_NAME, "is no name that libvirt takes"))
    config: str
    host: HostFacts
    uuid: str = field(validator=matches(UUID_PATTERN, "is not a UUID"))
    foreign: Foreign = field(default=Foreign.REFUSE, validator=member(Foreign))
    start: bool = field(default=False, validator=flag)


@frozen
class Definition:
    """
    The parts of a plan that define a domain.

    Attributes:
        after: Steps after the disks.
        absent: Files that the steps make.
        warnings: What the user should know.
    """

    after: tuple[Step, ...] = ()
    absent: tuple[PurePosixPath, ...] = ()
    warnings: tuple[str, ...] = ()


def plan_definition(
    history: History,
    point: RestorePoint,
    disks: tuple[DiskRestore, ...],
    into: PurePosixPath,
    wish: NewDomain,
) -> Definition:
    """
    Plan the definition of a domain with restored disks.

    Args:
        history: What the store holds of the domain.
        point: The point.
        disks: The steps that restore its disks.
        into: The directory of the restored files.
        wish: The domain.

    Returns:
        The steps after those of the disks.

    Raises:
        DomainExistsError: The name is taken. Nothing was touched.
        ForeignConfigError: The XML has parts that reach out of the guest. Nothing was touched.
        VerifyError: The XML is not the one of the point. Nothing was touched.
        ParseError: The XML cannot be understood, or lacks a disk. Nothing was touched.
        PolicyError: The disks lie in a store without a directory. Nothing was touched.

    Source:
        docs/restore.md, "A domain of it".
    """
    config = _config(point, wish)
    clone = wish.name != point.domain or point.uuid in wish.host.uuids
    if wish.name in wish.host.names or (clone and wish.uuid in wish.host.uuids):
        raise DomainExistsError(
            domain=wish.name,
            reason="a domain of this name is defined; nothing is ever overwritten",
        )
    nvram = into / _NVRAM
    change = NewDefinition(
        name=wish.name,
        uuid=wish.uuid if clone else point.uuid,
        clone=clone,
        sources=MappingProxyType({step.target: (step.destination, step.format) for step in disks}),
        under=_under(history, disks),
        held=frozenset(disk.target for disk in point.disks),
        nvram=nvram,
        emulators=wish.host.emulators,
        keep=wish.foreign is Foreign.KEEP,
    )
    found = redefine(wish.config, change)
    if found.foreign and wish.foreign is Foreign.REFUSE:
        raise ForeignConfigError(
            domain=point.domain,
            reason=f"the XML of point {point.id} reaches out of the guest",
            parts=found.foreign,
            difference=found.difference,
        )
    stored_nvram, tpm = _file(point, FileRole.NVRAM), _file(point, FileRole.TPM_STATE)
    restored_nvram = (
        (RestoreNvram(stored_nvram, nvram),) if stored_nvram and found.has_nvram else ()
    )
    return Definition(
        after=(
            *restored_nvram,
            DefineDomain(
                name=change.name,
                uuid=change.uuid,
                clone=clone,
                config=config,
                xml=found.xml,
                difference=found.difference,
                notes=_notes(found, wish.foreign),
                kept_files=found.kept_files,
                autostart=not clone and dict(point.facts).get("autostart") == "yes",
            ),
            *((RestoreTpm(tpm, change.uuid),) if tpm else ()),
            SmokeStart(change.uuid),
            *((StartDomain(change.uuid),) if wish.start else ()),
        ),
        absent=(nvram,) if found.has_nvram else (),
        warnings=_warnings(point, found),
    )


def _config(point: RestorePoint, wish: NewDomain) -> StoredFile:
    """Return the stored XML's record; the text must be the one that it describes."""
    config = next(file for file in point.files if file.role is FileRole.DOMAIN_XML)
    if not config.describes(wish.config.encode()):
        raise VerifyError(
            domain=point.domain,
            reason=f"the XML is not the one of point {point.id}",
            path=config.name,
        )
    return config


def _file(point: RestorePoint, role: FileRole) -> StoredFile | None:
    return next((file for file in point.files if file.role is role), None)


def _under(
    history: History, disks: tuple[DiskRestore, ...]
) -> MappingProxyType[str, tuple[PurePosixPath, ...]]:
    """Return the store's own images under each linked disk."""
    linked = [step for step in disks if isinstance(step, CreateLinked)]
    if linked and not history.directory:
        raise PolicyError(reason="the store does not say where its images are")
    place = history.path / history.directory
    return MappingProxyType(
        {
            step.target: tuple(place / step.target / image.name for image in step.images)
            for step in linked
        }
    )


def _notes(found: Redefined, foreign: Foreign) -> tuple[str, ...]:
    what = "kept" if foreign is Foreign.KEEP else "taken out"
    return (*found.notes, *(f"{what}: {words}" for words in found.foreign))


def _warnings(point: RestorePoint, found: Redefined) -> tuple[str, ...]:
    """Say what the new domain lacks although the original had it."""
    roles = {file.role for file in point.files}
    lacks = found.has_nvram and FileRole.NVRAM not in roles
    missing = ("the point has no NVRAM: the firmware begins with empty variables",) if lacks else ()
    facts = dict(point.facts)
    no_tpm = "missing-tpm-state" in facts
    tpm = ("the point has no state of the TPM: the guest finds an empty one",) if no_tpm else ()
    graphics = domain_root(found.xml).find("devices/graphics")
    no_passwords = "missing-passwords" in facts and graphics is not None
    words = "the point has no passwords: set that of VNC or SPICE anew, or anybody may connect"
    return (*missing, *tpm, *((words,) if no_passwords else ()))
