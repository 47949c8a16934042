"""A guest that somebody else has frozen: what test_linux_guest.py shows of the real one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fibackup.errors import AgentError, StepError
from fibackup.host.executor import Executor
from fibackup.model.point import Consistency
from fibackup.plan.backup import plan_backup
from fibackup.plan.policy import BackupPolicy, Quiesce
from fibackup.plan.report import Report
from fibackup.testing import FakeHost, FakeStore

NOW = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)


def backup(host: FakeHost, store: FakeStore, quiesce: Quiesce) -> Report:
    """Take a point."""
    domain = host.read_domain("web1")
    policy = BackupPolicy(quiesce=quiesce)
    plan = plan_backup(domain, store.read_history(domain.uuid), now=NOW, policy=policy)
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
