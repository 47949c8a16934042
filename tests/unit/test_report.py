"""Facts about reports."""

from pathlib import PurePosixPath

import pytest
from attrs import evolve

from fibackup.errors import ParseError
from fibackup.host.executor import Executor
from fibackup.plan.backup import plan_backup
from fibackup.plan.report import Report, RestoredImage
from fibackup.plan.restore import plan_restore
from fibackup.plan.verify import plan_verify
from fibackup.testing import FakeHost, FakeStore


def reports() -> tuple[Report, Report]:
    """Return the report of a backup and of a restore."""
    host = FakeHost()
    uuid = host.add_domain("web1", {"vda": {0: 1}})
    store = FakeStore(host)
    plan = plan_backup(host.read_domain(uuid), store.read_history(uuid), now=host.now)
    backup = Executor(host, store).run(plan)
    into = PurePosixPath("/into")
    restore = plan_restore(store.read_history(uuid), "latest", into=into)
    return backup, Executor(None, store).run(restore)


def test_a_report_says_what_was_done() -> None:
    """Point, bytes, time frozen, every step, and what was warned of."""
    backup = evolve(reports()[0], frozen_seconds=1.5, seconds=2.0, warnings=("careful\x1b",))
    text = str(backup)
    assert text.startswith("backup of web1 done in 2 s")
    assert "copied 128 KiB" in text
    assert "the guest was frozen for 1.5 s" in text
    assert "publish point" in text
    assert "careful" in text.splitlines()[-1]
    assert "\x1b" not in text


def test_a_report_of_a_restore_names_the_files() -> None:
    """With format and size."""
    restore = reports()[1]
    assert restore.point is None
    assert [image.path for image in restore.restored] == [PurePosixPath("/into/vda.qcow2")]
    assert isinstance(restore.restored[0], RestoredImage)
    assert "vda: /into/vda.qcow2 (qcow2, 1 MiB virtual)" in str(restore)
    assert "frozen" not in str(restore)


def test_a_report_of_a_verification_has_its_verdict() -> None:
    """Line by line, as the verdict says it."""
    host = FakeHost()
    uuid = host.add_domain("web1", {"vda": {0: 1}})
    store = FakeStore(host)
    plan = plan_backup(host.read_domain(uuid), store.read_history(uuid), now=host.now)
    Executor(host, store).run(plan)
    report = Executor(None, store).run(plan_verify(store.survey(uuid), now=host.now))
    assert report.verification is not None
    lines = [line.strip() for line in str(report).splitlines()]
    verdict = [line.strip() for line in str(report.verification).splitlines()]
    assert set(verdict) <= set(lines)


def test_a_report_comes_back_from_json() -> None:
    """Equal, for both verbs."""
    for report in reports():
        assert Report.from_json(report.to_json()) == report


def test_json_that_is_no_report_is_refused() -> None:
    """A plan is none."""
    with pytest.raises(ParseError):
        Report.from_json(reports()[0].plan.to_json())
