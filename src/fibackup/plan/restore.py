"""
Plan a restore: which stored images make up each disk, and where they are written.

::

    store   20261122T...qcow2 <- 20261123T...qcow2 <- 20261124T...qcow2      point 20261124T...
    flat    INTO/vda.qcow2                                                   needs no other file
    chain   INTO/vda/20261122T...qcow2 <- ...                                the images as they are
    linked  the store's own images <- INTO/vda.qcow2                         there at once
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from os import PathLike
from pathlib import PurePosixPath

from fibackup.errors import PolicyError, VerifyError
from fibackup.model.point import History, WrongDisk
from fibackup.model.records import RECORD_FILE
from fibackup.plan.define import Definition, NewDomain, plan_definition
from fibackup.plan.memory import check_memory_restore, memory_steps
from fibackup.plan.records import describe_damaged
from fibackup.plan.steps import (
    CopyStored,
    CreateLinked,
    Decision,
    DiskRestore,
    Expectation,
    FlattenImage,
    MakeDirectory,
    Plan,
    RestoreDisks,
)
from fibackup.plan.wishes import refuse_text, refuse_unknown
from fibackup.units import counted

__all__ = ["ImageFormat", "RestoreForm", "plan_restore"]


class ImageFormat(StrEnum):
    """Format of a restored image."""

    QCOW2 = "qcow2"
    RAW = "raw"


class RestoreForm(StrEnum):
    """
    What a restored disk is made of.

    `FLAT`: one image that needs no other. `CHAIN`: copies of the stored images, as they are.
    `LINKED`: an overlay on the store's own image.
    """

    FLAT = "flat"
    CHAIN = "chain"
    LINKED = "linked"


def plan_restore(
    history: History,
    point: str,
    *,
    into: str | PathLike[str],
    disks: Sequence[str] = (),
    form: RestoreForm = RestoreForm.FLAT,
    image_format: ImageFormat = ImageFormat.QCOW2,
    verify: bool = True,
    found_wrong: bool = False,
    memory: bool = False,
    paused: bool = False,
    keep_foreign: bool = False,
    define: NewDomain | None = None,
) -> Plan:
    """
    Plan to bring disks of a point back.

    Args:
        history: What the store holds of the domain.
        point: Id of the point, or ``"latest"``.
        into: Absolute path of the directory for ``<target>.qcow2`` or ``<target>.raw``, or for
            ``<target>/`` with a chain.
        disks: Targets to restore; empty means all of the point.
        form: One flat image, the chain of stored images, or an overlay on the store's image.
        image_format: Format to write; only a flat image can be raw.
        verify: False: an overlay on the store's image is made without reading the stored images.
        found_wrong: True: restore also disks that a verification in depth has read, and found to be
            others than they had been; the plan warns of each.
        memory: True: bring the guest back running where it was; all disks are restored.
        paused: True: with *memory*, leave the guest paused.
        keep_foreign: True: with *memory*, the stored XML may reach out of the guest; else the run
            refuses such a one before its first step.
        define: The domain to define with the restored disks.

    Returns:
        A plan with a step for each disk, `FlattenImage`, `CopyStored` or `CreateLinked`, two or
        more of them in one `RestoreDisks` (`Plan.restores` has them either way). For a domain
        that is to run they follow `MakeDirectory`; with memory, then `RestoreMemory` and
        `ResumeDomain`; with a domain to define, then `DefineDomain`, `SmokeStart` and what it
        needs. Running it overwrites nothing, and a run that fails
        removes what it had made.

    Raises:
        StoreError: The store has several directories of the domain. Nothing was touched.
        NoSuchPointError: No such point, or the point has no such disk. Nothing was touched.
        ManifestError: The images of a disk do not reach a base. Nothing was touched.
        VerifyError: An image that a disk needs is missing or cut, or a verification in depth has
            found the disk wrong, and *found_wrong* is not set. Nothing was touched.
        PolicyError: *into* is relative, or the memory is wanted and the point has none, or not all
            of its disks are, or the form cannot have the format, or a guest is to go on from its
            memory in another domain, or a wish is not of its type. Nothing was touched.
        DomainExistsError: A domain of the wished name is defined. Nothing was touched.
        ForeignConfigError: The XML of the point reaches out of the guest. Nothing was touched.
        ParseError: The XML of the point cannot be understood. Nothing was touched.

    Source:
        docs/design.md, "Store"; qemu-img(1), ``convert``.
    """
    refuse_text("disks", disks)
    refuse_unknown("form", form, RestoreForm)
    refuse_unknown("image_format", image_format, ImageFormat)
    directory = _directory(into)
    _check_wishes(form, image_format, verify=verify)
    if memory and define is not None:
        raise PolicyError(
            reason="memory brings the guest back as itself, also when its domain is gone: "
            "it goes without a domain to define"
        )
    history.refuse_copies()  # the newest point of an older copy is not the domain's newest
    found = history.point(point)
    targets = tuple(dict.fromkeys(disks)) or tuple(disk.target for disk in found.disks)
    if memory or paused:
        check_memory_restore(found, targets, memory=memory)
    for target in targets:
        _refuse_damage(history, found.id, target)
    wrong = tuple(
        each for each in history.wrong_disks if each.point == found.id and each.target in targets
    )
    if not found_wrong:
        _refuse_wrong(history, tuple(each for each in wrong if each.otherwise))
    steps = tuple(
        _disk(history, found.id, target, directory, form, image_format, verify=verify)
        for target in targets
    )
    resuming = (
        memory_steps(found, steps, directory, paused=paused, keep_foreign=keep_foreign)
        if memory
        else ()
    )
    passage = _passages(steps, directory) if memory or define is not None else ()
    domain = (
        plan_definition(history, found, steps, directory, define)
        if define is not None
        else Definition()
    )
    return Plan(
        verb="restore",
        domain=found.domain,
        uuid=found.uuid,
        store=history.store,
        point=found.id,
        expects=Expectation(
            sequence=_sequence(history),
            absent=(
                *(path for step in steps for path in step.destinations),
                *(step.destination for step in resuming[:1]),
                *domain.absent,
            ),
        ),
        decisions=tuple(
            Decision(
                step.target, found.disk(step.target).kind, counted(len(step.images), "stored image")
            )
            for step in steps
        ),
        steps=(*passage, *_side_by_side(steps), *resuming, *domain.after),
        warnings=(
            *_warnings(history, form),
            *_unchecked(history, steps),
            *(
                describe_damaged(*each)
                for each in history.damaged_records
                if each[0] == RECORD_FILE
            ),
            *map(str, wrong),
            *domain.warnings,
        ),
    )


def _directory(into: object) -> PurePosixPath:
    """Return where to restore into; also what no type checker has seen is refused in words."""
    try:
        directory = PurePosixPath(into)  # type: ignore[arg-type]
    except TypeError:
        raise PolicyError(reason=f"the directory to restore into is {into!r}, no path") from None
    if not directory.is_absolute():
        raise PolicyError(
            reason="the directory to restore into must be an absolute path", path=str(directory)
        )
    return directory


def _check_wishes(form: RestoreForm, image_format: ImageFormat, *, verify: bool) -> None:
    if form is not RestoreForm.FLAT and image_format is not ImageFormat.QCOW2:
        raise PolicyError(reason=f"a restored {form} is qcow2; only a flat image can be raw")
    if form is not RestoreForm.LINKED and not verify:
        raise PolicyError(reason=f"a restored {form} is always checked: its images are read anyway")


def _disk(
    history: History,
    point: str,
    target: str,
    into: PurePosixPath,
    form: RestoreForm,
    image_format: ImageFormat,
    *,
    verify: bool,
) -> DiskRestore:
    images = history.images(point, target)
    if form is RestoreForm.CHAIN:
        return CopyStored(target, images, into / target)
    destination = into / f"{target}.{image_format}"
    if form is RestoreForm.LINKED:
        return CreateLinked(target, images, destination, verify)
    return FlattenImage(target, images, destination, str(image_format))


def _passages(steps: tuple[DiskRestore, ...], into: PurePosixPath) -> tuple[MakeDirectory, ...]:
    """Return the steps that let QEMU, whose user may be another, through to its images."""
    parents = dict.fromkeys((into, *(step.destination.parent for step in steps)))
    return tuple(map(MakeDirectory, parents))


def _side_by_side(steps: tuple[DiskRestore, ...]) -> tuple[DiskRestore | RestoreDisks, ...]:
    return (RestoreDisks(steps),) if len(steps) > 1 else steps


def _warnings(history: History, form: RestoreForm) -> tuple[str, ...]:
    if form is not RestoreForm.LINKED:
        return ()
    words = f"the disks need the store at {history.path} until they are pulled local"
    return (f"{words}; until then remove none of its images, and leave the disks where they are",)


def _unchecked(history: History, steps: tuple[DiskRestore, ...]) -> Iterator[str]:
    """Say which files were wrong when they were read last; all others are read by the restore."""
    for step in steps:
        if isinstance(step, CreateLinked) and not step.verify:
            files = (f"{step.target}/{image.name}" for image in step.images)
            for file in filter(history.found_wrong.__contains__, files):
                yield f"{file} was found wrong by a verification, and is not checked now"


def _refuse_wrong(history: History, wrong: Sequence[WrongDisk]) -> None:
    """Refuse disks that do not show what the guest had: no sha256 of an image tells that."""
    for first in wrong[:1]:
        alone = len(wrong) == 1
        raise VerifyError(
            domain=history.point(first.point).domain,
            target=first.target if alone else None,
            reason=first.words if alone else "; ".join(map(str, wrong)),
            path=str(history.path / history.directory / first.file),
            found=first.found,
        )


def _refuse_damage(history: History, point: str, target: str) -> None:
    history.point(point).disk(target)
    damage = history.damage(point, target)
    if damage is not None:
        raise VerifyError(
            target=target,
            reason=f"point {point} needs {damage}, which is missing or has another size",
            path=str(history.path),
        )


def _sequence(history: History) -> int:
    return history.points[-1].sequence
