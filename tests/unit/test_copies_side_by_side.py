"""Disks that are copied side by side: a cancel and Ctrl-C stop them all, a failure does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Barrier, Event
from threading import enumerate as enumerate_threads

import pytest
from typing_extensions import override

from fibackup.errors import CancelledError, StepError, StoreError
from fibackup.host import side_by_side
from fibackup.host.cancel import CancelToken
from fibackup.host.events import OnEvent
from fibackup.host.executor import Executor
from fibackup.model.point import StoredImage
from fibackup.plan.backup import plan_backup
from fibackup.plan.recover import plan_recovery
from fibackup.plan.steps import CopyImage, Plan
from fibackup.testing import FakeHost, FakeStore

DISKS = ("vda", "vdb")


class Lanes(FakeStore):
    """A store in which each copy waits for something before it begins."""

    def __init__(self, host: FakeHost, wait_for: Callable[[CopyImage, CancelToken], None]) -> None:
        """Have no points."""
        super().__init__(host)
        self.wait_for = wait_for
        self.ended: list[str] = []

    @override
    def copy_image(
        self, uuid: str, step: CopyImage, on_event: OnEvent, cancel: CancelToken
    ) -> StoredImage:
        """Wait, then do it."""
        try:
            self.wait_for(step, cancel)
            return super().copy_image(uuid, step, on_event, cancel)
        finally:
            self.ended.append(step.target)


def until_cancelled(cancel: CancelToken) -> None:
    """Work on until somebody says stop."""
    for _ in range(1000):
        cancel.check()
        time.sleep(0.01)
    pytest.fail("nobody stopped it")


def copying_threads() -> list[str]:
    """Name the threads that still copy."""
    return [thread.name for thread in enumerate_threads() if "fibackup-copy" in thread.name]


class World:
    """A domain with two disks, and a store that waits."""

    def __init__(self, wait_for: Callable[[CopyImage, CancelToken], None]) -> None:
        """Take no point."""
        self.host = FakeHost()
        self.uuid = self.host.add_domain("web1", {"vda": {0: 1}, "vdb": {1: 2}})
        self.store = Lanes(self.host, wait_for)

    def plan(self) -> Plan:
        """Plan the first point."""
        domain, history = self.host.read_domain("web1"), self.store.read_history(self.uuid)
        return plan_backup(domain, history, now=self.host.now)

    def run(self, *, cancel: CancelToken | None = None) -> None:
        """Take the first point."""
        Executor(self.host, self.store).run(self.plan(), cancel=cancel)


@pytest.mark.parametrize("bad", DISKS)
def test_a_copy_that_fails_lets_the_others_end(bad: str) -> None:
    """A copy may have taken hours; the next run copies only the disk that failed."""
    failed = Event()

    def wait_for(step: CopyImage, cancel: CancelToken) -> None:
        if step.target == bad:
            failed.set()
            raise StoreError(reason="it cannot be read")
        assert failed.wait(10)
        time.sleep(0.1)
        cancel.check()

    world = World(wait_for)
    with pytest.raises(StepError, match="it cannot be read") as caught:
        world.run()
    assert isinstance(caught.value.__cause__, StoreError)
    assert {*world.store.ended} == {*DISKS}
    assert copying_threads() == []
    domain, history = world.host.read_domain("web1"), world.store.read_history(world.uuid)
    plan = plan_recovery(domain, history, now=world.host.now)
    assert [copy.target for copy in plan.copies] == [bad]


def test_a_cancelled_backup_stops_every_copy() -> None:
    """By the token of the caller."""
    token = CancelToken()

    def wait_for(step: CopyImage, cancel: CancelToken) -> None:
        if step.target == "vdb":
            token.cancel()
        until_cancelled(cancel)

    world = World(wait_for)
    with pytest.raises(StepError) as caught:
        world.run(cancel=token)
    assert isinstance(caught.value.__cause__, CancelledError)
    assert copying_threads() == []


def test_an_interrupt_waits_for_the_copies_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a notebook: when the call has come back, nobody writes any more."""
    begun = Barrier(3)

    def interrupted(_futures: object) -> None:
        begun.wait(10)
        raise KeyboardInterrupt

    def wait_for(_step: CopyImage, cancel: CancelToken) -> None:
        begun.wait(10)
        until_cancelled(cancel)

    monkeypatch.setattr(side_by_side, "wait", interrupted)
    world = World(wait_for)
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert {*world.store.ended} == {*DISKS}
    assert copying_threads() == []
