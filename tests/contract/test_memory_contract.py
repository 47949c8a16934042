"""What `Host` and `PointStore` promise about points with the guest's memory."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from fibackup.errors import DestinationExistsError, DomainBusyError, HostError, VerifyError
from fibackup.host.cancel import CancelToken
from fibackup.host.events import CopyProgress, Event, ignore_events
from fibackup.host.executor import Executor
from fibackup.model.ledger import Ledger
from fibackup.model.point import Consistency, FileRole, StoredFile
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy
from fibackup.plan.report import Report
from fibackup.plan.restore import plan_restore
from fibackup.plan.steps import CopyMemory, RestoreMemory, ResumeDomain

if TYPE_CHECKING:
    from pathlib import Path

    from contract.conftest import World


def take(world: World, seen: list[Event] | None = None) -> Report:
    """Take a point with memory."""
    plan = plan_backup(
        world.host.read_domain(world.uuid),
        world.store.read_history(world.uuid),
        now=datetime.now(UTC),
        policy=BackupPolicy(memory=True, allow_paused=True),
    )
    return Executor(world.host, world.store).run(
        plan, on_event=([] if seen is None else seen).append
    )


def memory_of(report: Report) -> StoredFile:
    """Return the stored memory of a point."""
    assert report.point is not None
    [file] = [file for file in report.point.files if file.role is FileRole.MEMORY]
    return file


def test_memory_goes_into_the_store_and_off_the_host(world: World) -> None:
    """The point says so, and the ledger has forgotten the file."""
    seen: list[Event] = []
    report = take(world, seen)
    assert report.point is not None
    assert report.point.consistency is Consistency.MEMORY
    size = memory_of(report).size_bytes
    assert CopyProgress("memory", memory_of(report).name, size, size) in seen
    [step] = [step for step in report.plan.steps if isinstance(step, CopyMemory)]
    assert world.host.occupied((step.source,)) == ()
    assert world.host.read_domain(world.uuid).ledger.memory is None
    assert world.store.read_history(world.uuid).points == (report.point,)


def test_memory_that_is_gone_is_deleted(world: World) -> None:
    """A run that deleted it may have ended before it could say so."""
    path = PurePosixPath("/no/such/disk.bimg-20261124T040000Z.mem")
    world.host.write_ledger(world.uuid, Ledger(memory=path))
    world.host.delete_memory(world.uuid, path)


def test_memory_that_is_not_there_is_not_stored(world: World) -> None:
    """An error, and no file."""
    step = CopyMemory(PurePosixPath("/no/such/file.mem"), "20261124T040000Z.mem", 1)
    with (
        world.store.locked(world.uuid, "contract", exclusive=True),
        pytest.raises(HostError),
    ):
        world.store.copy_memory(world.uuid, step, ignore_events, CancelToken())


def test_stored_memory_is_checked_while_it_is_written(world: World, tmp_path: Path) -> None:
    """A wrong hash is found, and nothing is overwritten."""
    file = memory_of(take(world))
    step = RestoreMemory(file, PurePosixPath(tmp_path / "into" / file.name))
    wrong = evolve(step, file=evolve(file, sha256="0" * 64))
    with pytest.raises(VerifyError):
        world.store.restore_memory(world.uuid, wrong, ignore_events, CancelToken())
    assert world.store.occupied((step.destination,)) == ()
    world.store.restore_memory(world.uuid, step, ignore_events, CancelToken())
    assert world.store.occupied((step.destination,)) == (step.destination,)
    with pytest.raises(DestinationExistsError):
        world.store.restore_memory(world.uuid, step, ignore_events, CancelToken())


def test_the_stored_xml_is_checked_while_it_is_read(world: World) -> None:
    """It is the domain's, or an error."""
    report = take(world)
    assert report.point is not None
    [file] = [each for each in report.point.files if each.role is FileRole.DOMAIN_XML]
    assert world.uuid in world.store.read_config(world.uuid, file)
    with pytest.raises(VerifyError):
        world.store.read_config(world.uuid, evolve(file, sha256="0" * 64))


def test_a_guest_that_runs_is_not_brought_back(world: World, tmp_path: Path) -> None:
    """Neither by the executor, which looks first, nor by the host itself."""
    report = take(world)
    assert report.point is not None
    history = world.store.read_history(world.uuid)
    into = PurePosixPath(tmp_path / "into")
    plan = plan_restore(history, report.point.id, into=into, memory=True)
    with pytest.raises(DomainBusyError):
        Executor(world.host, world.store).run(plan)
    assert world.store.occupied(plan.expects.absent) == ()
    for step in plan.steps:
        if isinstance(step, RestoreMemory):
            world.store.restore_memory(world.uuid, step, ignore_events, CancelToken())
        if isinstance(step, ResumeDomain):
            config = world.store.read_config(world.uuid, step.config)
            with pytest.raises(HostError):
                world.host.resume_domain(world.uuid, step, config)
