"""A freeze that was not had, has gone by itself, or is interrupted."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fibackup.errors import AgentError, CancelledError, StepError
from fibackup.host.cancel import CancelToken
from fibackup.host.executor import Executor
from fibackup.model.ledger import RunPhase
from fibackup.model.point import Consistency
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.recover import plan_recovery
from fibackup.plan.report import Report
from fibackup.testing import FakeHost, FakeStore

NOW = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)


def backup(host: FakeHost, store: FakeStore, quiesce: Quiesce) -> Report:
    """Take a point."""
    domain = host.read_domain("web1")
    policy = BackupPolicy(quiesce=quiesce)
    history = store.read_history(domain.uuid)
    plan = plan_backup(domain, history, now=host.now, policy=policy)
    return Executor(host, store).run(plan)


def test_a_guest_that_somebody_froze_is_not_thawed() -> None:
    """We neither freeze nor thaw it: an error, or a point that is labelled so."""
    host = FakeHost()
    store = FakeStore(host)
    uuid = host.add_domain("web1")
    assert host.freeze(uuid, 1)
    host.calls.clear()
    with pytest.raises(StepError) as failure:
        backup(host, store, Quiesce.REQUIRE)
    cause = failure.value.__cause__
    assert isinstance(cause, AgentError)
    assert not cause.maybe_frozen
    assert "frozen already" in failure.value.reason
    assert "no snapshot was taken" in failure.value.state
    assert host.read_domain("web1").ledger.run is None
    report = backup(host, store, Quiesce.TRY)
    assert "thaw" not in host.calls
    assert host.is_frozen("web1")
    assert report.point is not None
    assert report.point.consistency is Consistency.CRASH
    assert "frozen already" in report.point.consistency_detail


class ExpiringHost(FakeHost):
    """A guest that lets its freeze go by itself, as VSS does after some seconds."""

    def thaw(self, uuid: str, timeout_seconds: float) -> int:
        """Find nothing frozen any more."""
        super().thaw(uuid, timeout_seconds)
        return 0


def test_a_freeze_that_expired_makes_no_point_that_must_be_quiesced() -> None:
    """The run ends behind its snapshot, no thaw is due, and the next point takes the layers."""
    host = ExpiringHost()
    store = FakeStore(host)
    uuid = host.add_domain("web1", {"vda": {0: 7}})
    backup(host, store, Quiesce.OFF)
    host.write("web1", "vda", 1, 8)
    with pytest.raises(StepError, match="expired") as failure:
        backup(host, store, Quiesce.REQUIRE)
    cause = failure.value.__cause__
    assert isinstance(cause, AgentError)
    assert not cause.maybe_frozen
    assert "delete neither" in failure.value.state
    assert failure.value.next_command.startswith("fibackup backup")
    run = host.read_domain("web1").ledger.run
    assert run is not None
    assert not run.frozen
    recovery = plan_recovery(host.read_domain("web1"), store.read_history(uuid), now=NOW)
    Executor(host, None).run(recovery)
    assert len(store.read_history(uuid).points) == 1
    host.write("web1", "vda", 2, 9)
    point = backup(host, store, Quiesce.TRY).point
    assert point is not None
    assert str(point.kind) == "increment"
    assert "expired" in point.consistency_detail
    assert store.restore(uuid, point.id, "vda") == host.guest_sees("web1", "vda")


@pytest.mark.parametrize("quiesce", [Quiesce.OFF, Quiesce.REQUIRE])
@pytest.mark.parametrize("call", ["take_snapshot", "thaw"])
def test_a_stop_at_the_snapshot_comes_after_the_ledger_knows_it(
    call: str, quiesce: Quiesce
) -> None:
    """A run that is cancelled while the guest is frozen leaves a point that can be finished."""
    host = FakeHost()
    store = FakeStore(host)
    uuid = host.add_domain("web1", {"vda": {0: 7}})
    cancel = CancelToken()
    original = host._due

    def due(name: str) -> tuple[BaseException | None, BaseException | None]:
        if name == call or (name == "take_snapshot" and quiesce is Quiesce.OFF):
            cancel.cancel()
        return original(name)

    host._due = due  # type: ignore[method-assign]
    plan = plan_backup(
        host.read_domain("web1"),
        store.read_history(uuid),
        now=NOW,
        policy=BackupPolicy(quiesce=quiesce),
    )
    with pytest.raises(StepError) as failure:
        Executor(host, store).run(plan, cancel=cancel)
    assert isinstance(failure.value.__cause__, CancelledError)
    assert failure.value.done[-1] == "write the domain's ledger: what was taken"
    run = host.read_domain("web1").ledger.run
    assert run is not None
    assert (run.phase, run.frozen) == (RunPhase.TAKEN, False)
    recovery = plan_recovery(host.read_domain("web1"), store.read_history(uuid), now=NOW)
    Executor(host, store).run(recovery)
    assert [point.id for point in store.read_history(uuid).points] == [plan.point]
