"""What `Host` and `PointStore` promise about a domain that a restore defines."""

from __future__ import annotations

from hashlib import sha256
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from attrs import evolve

from fibackup.errors import (
    DestinationExistsError,
    DomainBusyError,
    DomainExistsError,
    LibvirtError,
    NoSuchDomainError,
    VerifyError,
)
from fibackup.host.executor import Executor
from fibackup.model.domain import DomainState
from fibackup.model.point import FileRole
from fibackup.plan.define import NewDomain
from fibackup.plan.restore import plan_restore
from fibackup.plan.steps import DefineDomain, RestoreNvram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contract.conftest import Points, World

NAME = "contract-clone"


@pytest.fixture
def clone(world: World, points: Points, tmp_path: Path) -> Iterator[DefineDomain]:
    """Restore the disks of a point, and give the step that defines a domain with them."""
    world.write("vda", 1, 7)
    point = points.take().point
    assert point is not None
    [config] = [file for file in point.files if file.role is FileRole.DOMAIN_XML]
    wish = NewDomain(
        f"{NAME}-{uuid4().hex[:6]}",
        world.store.read_config(world.uuid, config),
        world.host.read_host(),
        str(uuid4()),
    )
    history = world.store.read_history(world.uuid)
    into = PurePosixPath(tmp_path / "into")
    plan = plan_restore(history, point.id, into=into, define=wish)
    Executor(None, world.store).run(evolve(plan, steps=plan.restores))
    [step] = [step for step in plan.steps if isinstance(step, DefineDomain)]
    yield step
    world.host.undefine_domain(step)


def test_a_domain_is_defined_once(world: World, clone: DefineDomain) -> None:
    """It is off, it has the disks; a second time its name and its UUID are taken."""
    before = world.host.read_domain(world.uuid)
    world.host.define_domain(clone)
    found = world.host.read_domain(clone.uuid)
    assert (found.name, found.state) == (clone.name, DomainState.SHUTOFF)
    assert [disk.target for disk in found.disks] == ["vda", "vdb"]
    assert (clone.name, clone.uuid) in world.host.read_host().domains
    for taken in (clone, evolve(clone, uuid=str(uuid4())), evolve(clone, name="other")):
        with pytest.raises(DomainExistsError):
            world.host.define_domain(taken)
    assert world.host.read_domain(clone.uuid) == found
    assert world.host.read_domain(world.uuid) == before


@pytest.mark.parametrize("autostart", [False, True])
def test_a_domain_starts_with_the_host_when_it_is_to(
    world: World, clone: DefineDomain, *, autostart: bool
) -> None:
    """As the original did."""
    world.host.define_domain(evolve(clone, autostart=autostart))
    assert world.host.autostart(clone.uuid) is autostart


def test_a_smoke_start_leaves_the_domain_off(world: World, clone: DefineDomain) -> None:
    """And then it can be started; one that runs is not tried."""
    world.host.define_domain(clone)
    world.host.smoke_start(clone.uuid)
    assert world.host.read_domain(clone.uuid).state is DomainState.SHUTOFF
    world.host.start_domain(clone.uuid)
    assert world.host.read_domain(clone.uuid).state is DomainState.RUNNING
    with pytest.raises(LibvirtError):
        world.host.smoke_start(clone.uuid)
    assert world.host.read_domain(clone.uuid).state is DomainState.RUNNING


def test_a_domain_is_forgotten_also_while_it_runs(world: World, clone: DefineDomain) -> None:
    """One that is not there is fine, and the original is not touched."""
    before = world.host.read_domain(world.uuid)
    world.host.undefine_domain(clone)
    world.host.define_domain(clone)
    world.host.smoke_start(clone.uuid)
    world.host.start_domain(clone.uuid)
    world.host.undefine_domain(clone)
    with pytest.raises(NoSuchDomainError):
        world.host.read_domain(clone.uuid)
    world.host.undefine_domain(clone)
    assert world.host.read_domain(world.uuid) == before


def test_a_domain_with_other_disks_is_not_forgotten(world: World, clone: DefineDomain) -> None:
    """Somebody has made it another one since."""
    world.host.define_domain(clone)
    other = evolve(clone, xml=clone.xml.replace("vda.qcow2", "other.qcow2"))
    with pytest.raises(DomainBusyError):
        world.host.undefine_domain(other)
    assert world.host.read_domain(clone.uuid).name == clone.name


def test_a_domain_without_a_tpm_has_no_state_of_one(world: World, clone: DefineDomain) -> None:
    """Neither before it is defined nor after."""
    assert world.host.find_tpm_state(clone.uuid) is None
    world.host.define_domain(clone)
    assert world.host.find_tpm_state(clone.uuid) is None


def test_state_is_read_and_written_only_as_it_was_stored(
    world: World, points: Points, tmp_path: Path
) -> None:
    """Byte for byte, once; what is not what the point says is not written."""
    point = points.take().point
    assert point is not None
    [good] = [file for file in point.files if file.role is FileRole.DOMAIN_XML]
    data = world.store.read_state(world.uuid, good)
    assert (len(data), sha256(data).hexdigest()) == (good.size_bytes, good.sha256)
    into = PurePosixPath(tmp_path / "into")
    step = RestoreNvram(good, into / "nvram.fd")
    for _ in range(2):
        world.store.make_directory(into)
    for wrong in (evolve(good, sha256="0" * 64), evolve(good, size_bytes=7)):
        with pytest.raises(VerifyError):
            world.store.read_state(world.uuid, wrong)
        with pytest.raises(VerifyError):
            world.store.restore_nvram(world.uuid, evolve(step, file=wrong))
    assert world.store.occupied((step.destination,)) == ()
    world.store.restore_nvram(world.uuid, step)
    assert all(world.store.inodes((step.destination,)))
    with pytest.raises(DestinationExistsError):
        world.store.restore_nvram(world.uuid, step)
