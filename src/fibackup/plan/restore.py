"""
Plan a restore: which stored images make up each disk, and where they are written.

::

    store   20261122T...qcow2 <- 20261123T...qcow2 <- 20261124T...qcow2      point 20261124T...
    flat    INTO/vda.qcow2                                                   needs no other file
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePosixPath

from fibackup.errors import PolicyError, VerifyError
from fibackup.model.point import History
from fibackup.plan.memory import check_memory_restore, memory_steps
from fibackup.plan.steps import Decision, Expectation, FlattenImage, Plan

__all__ = ["ImageFormat", "plan_restore"]


class ImageFormat(StrEnum):
    """Format of a restored image."""

    QCOW2 = "qcow2"
    RAW = "raw"


def plan_restore(
    history: History,
    point: str,
    *,
    into: PurePosixPath,
    disks: Sequence[str] = (),
    image_format: ImageFormat = ImageFormat.QCOW2,
    memory: bool = False,
    paused: bool = False,
) -> Plan:
    """
    Plan to write disks of a point as flat images.

    Args:
        history: What the store holds of the domain.
        point: Id of the point, or ``"latest"``.
        into: Absolute path of the directory for ``<target>.qcow2`` or ``<target>.raw``.
        disks: Targets to restore; empty means all of the point.
        image_format: Format to write.
        memory: True: bring the guest back running where it was; all disks are restored.
        paused: True: with *memory*, leave the guest paused.

    Returns:
        A plan with one `FlattenImage` for each disk; with memory, then `RestoreMemory` and
        `ResumeDomain`. Running it overwrites nothing.

    Raises:
        NoSuchPointError: No such point, or the point has no such disk. Nothing was touched.
        ManifestError: The images of a disk do not reach a base. Nothing was touched.
        VerifyError: An image that a disk needs is missing or cut. Nothing was touched.
        PolicyError: *into* is relative, or the memory is wanted and the point has none, or not all
            of its disks are. Nothing was touched.

    Source:
        docs/design.md, "Store"; qemu-img(1), ``convert``.
    """
    if not into.is_absolute():
        raise PolicyError(
            reason="the directory to restore into must be an absolute path", path=str(into)
        )
    found = history.point(point)
    targets = tuple(dict.fromkeys(disks)) or tuple(disk.target for disk in found.disks)
    if memory or paused:
        check_memory_restore(found, targets, memory=memory)
    for target in targets:
        _refuse_damage(history, found.id, target)
    steps = tuple(
        FlattenImage(
            target=found.disk(target).target,
            images=history.images(found.id, target),
            destination=into / f"{target}.{image_format}",
            format=str(image_format),
        )
        for target in targets
    )
    resuming = memory_steps(found, steps, into, paused=paused) if memory else ()
    return Plan(
        verb="restore",
        domain=found.domain,
        uuid=found.uuid,
        store=history.store,
        point=found.id,
        expects=Expectation(
            sequence=_sequence(history),
            absent=tuple(step.destination for step in (*steps, *resuming[:1])),
        ),
        decisions=tuple(
            Decision(step.target, found.disk(step.target).kind, f"{len(step.images)} stored images")
            for step in steps
        ),
        steps=(*steps, *resuming),
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
