"""
Testing code that uses fibackup, without libvirt, QEMU, or a disk: `fibackup.testing`.

::

    python -m pytest examples/fake_host.py      or, without pytest: python examples/fake_host.py

`back_up_and_bill` stands for your code. Its parameters are the two seams, `Host` and `PointStore`,
so the tests below hand it fakes, whose images hold content and whose calls fail when they are told
to. In production the same function gets `LibvirtHost` and `Store`.
"""

# ruff: noqa: S101 - assert is how tests speak

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import fibackup as fb
from fibackup.testing import FakeHost, FakeStore

NOW = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)


# --- your code ----------------------------------------------------------------------------------


def back_up_and_bill(host: fb.Host, store: fb.PointStore, name: str, now: datetime) -> int:
    """Take a point; return the bytes to bill, 0 for a run that failed."""
    domain = host.read_domain(name)
    plan = fb.plan_backup(domain, store.read_history(domain.uuid), now=now)
    try:
        return fb.Executor(host, store).run(plan).copied_bytes
    except fb.StepError:
        return 0


# --- your tests ---------------------------------------------------------------------------------


def test_an_increment_costs_what_was_written() -> None:
    """The second bill is for the clusters that the guest has written since the first."""
    host = FakeHost()
    store = FakeStore(host)
    host.add_domain("web1", {"vda": dict.fromkeys(range(10), 1)})
    full = back_up_and_bill(host, store, "web1", NOW)
    host.write("web1", "vda", 3, 2)
    increment = back_up_and_bill(host, store, "web1", NOW)
    assert 0 < increment < full


def test_every_point_gives_back_what_the_guest_had() -> None:
    """A restore of any point reads as the disk did at that moment."""
    host = FakeHost()
    store = FakeStore(host)
    uuid = host.add_domain("web1", {"vda": {0: 7}})
    had = {}
    for value in (7, 8, 9):
        host.write("web1", "vda", 0, value)
        back_up_and_bill(host, store, "web1", NOW)
        had[store.read_history(uuid).points[-1].id] = {0: value}
    assert {point: store.restore(uuid, point, "vda") for point in had} == had


def test_a_run_that_fails_is_not_billed_and_loses_nothing() -> None:
    """Whichever call fails, the guest keeps its content, and the next run makes a good point."""
    for number in range(1, 30):
        host = FakeHost()
        store = FakeStore(host)
        uuid = host.add_domain("web1", {"vda": {0: 7}})
        domain = host.read_domain("web1")
        plan = fb.plan_backup(domain, store.read_history(uuid), now=NOW)
        host.fail_at(number)
        with contextlib.suppress(fb.FibackupError):
            fb.Executor(host, store).run(plan)
        host.heal()
        assert host.guest_sees("web1", "vda") == {0: 7}
        assert back_up_and_bill(host, store, "web1", NOW) > 0
        point = store.read_history(uuid).points[-1].id
        assert store.restore(uuid, point, "vda") == {0: 7}


if __name__ == "__main__":
    test_an_increment_costs_what_was_written()
    test_every_point_gives_back_what_the_guest_had()
    test_a_run_that_fails_is_not_billed_and_loses_nothing()
    print("3 tests passed")
