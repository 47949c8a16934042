"""A disk that comes or goes while a backup begins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from fibackup.errors import StalePlanError, StepError
from fibackup.host.executor import Executor
from fibackup.model.snapshot import Snapshot
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.steps import Plan, Step, TakeSnapshot, WhileFrozen
from fibackup.testing import FakeHost, FakeStore


def comes(host: FakeHost) -> None:
    """Attach a disk."""
    host.attach_disk("web1", "vdz")


def goes(host: FakeHost) -> None:
    """Detach a disk."""
    host.detach_disk("web1", "vdb")


CHANGES = pytest.mark.parametrize(
    ("change", "words"), [(comes, "disk vdz was attached"), (goes, "disk vdb was detached")]
)


class Late(FakeHost):
    """A host on which a disk is attached in the instant before the snapshot."""

    def take_snapshot(self, uuid: str, snapshot: Snapshot) -> datetime:
        """Take it, and give the new disk what libvirt gives a disk that is not named."""
        moment = super().take_snapshot(uuid, snapshot)
        base = self.add_image("/images/new.qcow2")
        top = self.add_image(f"/images/new.{snapshot.name}", backing=base)
        self.attach_disk("web1", "vdy")
        self.attach_disk("web1", "vdz", path=top)
        return moment


def begin(host: FakeHost, quiesce: Quiesce = Quiesce.TRY) -> tuple[FakeStore, Plan]:
    """Make a domain with two disks and a store, and plan a backup."""
    store, uuid = FakeStore(host), host.add_domain("web1", {"vda": {}, "vdb": {}})
    return store, plan_again(host, store, uuid, quiesce)


def plan_again(host: FakeHost, store: FakeStore, uuid: str, quiesce: Quiesce) -> Plan:
    """Plan a backup."""
    domain, history = host.read_domain(uuid), store.read_history(uuid)
    return plan_backup(domain, history, now=host.now, policy=BackupPolicy(quiesce=quiesce))


@CHANGES
def test_a_plan_is_for_the_disks_that_the_domain_had(
    change: Callable[[FakeHost], None], words: str
) -> None:
    """With one more or one less, also one that was excluded, nothing is touched."""
    host = FakeHost()
    store, plan = begin(host)
    change(host)
    host.calls.clear()
    with pytest.raises(StalePlanError, match="plan"):
        Executor(host, store).run(plan)
    assert not {"write_ledger", "freeze", "take_snapshot"} & set(host.calls)
    host = FakeHost()
    store = FakeStore(host)
    uuid = host.add_domain("web1", {"vda": {}, "vdb": {}})
    history, policy = store.read_history(uuid), BackupPolicy(disks=("vda",))
    plan = plan_backup(host.read_domain(uuid), history, now=host.now, policy=policy)
    change(host)
    with pytest.raises(StalePlanError, match=words):
        Executor(host, store).run(plan)


@CHANGES
@pytest.mark.parametrize("quiesce", [Quiesce.TRY, Quiesce.OFF])
def test_the_disks_are_compared_again_right_before_the_snapshot(
    change: Callable[[FakeHost], None], words: str, quiesce: Quiesce
) -> None:
    """
    No overlay is made, the guest is thawed, and the ledger has no intent.

    The next plan takes the disks that are there by then.
    """
    host = FakeHost()
    store, plan = begin(host, quiesce)

    def gate(step: Step) -> None:
        if isinstance(step, (TakeSnapshot, WhileFrozen)):
            change(host)

    with pytest.raises(StepError, match=words) as caught:
        Executor(host, store).run(plan, gate=gate)
    assert isinstance(caught.value.__cause__, StalePlanError)
    assert "no snapshot was taken" in caught.value.state
    assert not host.is_frozen("web1")
    domain = host.read_domain("web1")
    assert domain.ledger.run is None
    assert all(disk.chain is not None and disk.chain.depth == 1 for disk in domain.disks)
    point = Executor(host, store).run(plan_again(host, store, plan.uuid, quiesce)).point
    assert point is not None
    assert [disk.target for disk in point.disks] == [disk.target for disk in domain.disks]


def test_an_overlay_that_libvirt_made_for_a_new_disk_is_told_of() -> None:
    """The point stands; a disk that came after the snapshot is none of it."""
    host = Late()
    store, plan = begin(host)
    report = Executor(host, store).run(plan)
    assert report.point is not None
    assert [disk.target for disk in report.point.disks] == ["vda", "vdb"]
    (warning,) = report.warnings
    assert "disk vdz was attached" in warning
    assert f"/images/new.fibackup-{plan.point}" in warning
