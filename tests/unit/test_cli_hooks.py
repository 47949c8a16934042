"""Hooks hear each phase as JSON on stdin; before-freeze can say no, the others only warn."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import fibackup as fb
from fibackup.cli.hooks import Hooks
from fibackup.cli.parser import build_parser
from fibackup.cli.progress import Display
from fibackup.cli.runs import run_plan
from fibackup.cli.signals import Signals
from fibackup.testing import FakeHost, FakeStore

NOW = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)
SCRIPT = """
import json, os, sys, time
told = json.load(sys.stdin)
assert os.environ["FIBACKUP_PHASE"] == told["phase"]
with open({log!r}, "a") as log:
    log.write(json.dumps({{"hook": {name!r}, **told}}) + "\\n")
print("said by {name}")
answer = {answers!r}.get(told["phase"], 0)
if answer == "sleep":
    time.sleep(600)
sys.exit(answer)
"""
Answers = dict[str, int | str]
Told = list[dict[str, Any]]


class World:
    """A domain, a store, and hooks that write down what they are told."""

    def __init__(self, tmp_path: Path, *, quiesce: fb.Quiesce = fb.Quiesce.REQUIRE) -> None:
        self.host = FakeHost()
        self.store = FakeStore(self.host)
        self.uuid = self.host.add_domain("web1", {"vda": {0: 7}, "vdb": {0: 8}})
        self.policy = fb.BackupPolicy(quiesce=quiesce)
        self._tmp_path = tmp_path
        self._log = tmp_path / "log"

    def hook(self, name: str, **answers: int | str) -> str:
        """Write a hook that gives these answers, and return its command."""
        path = self._tmp_path / f"{name}.py"
        words = {key.replace("_", "-"): value for key, value in answers.items()}
        path.write_text(SCRIPT.format(log=str(self._log), name=name, answers=words))
        return f"{sys.executable} '{path}'"

    def arguments(
        self, *commands: str, limit: str = "30", more: tuple[str, ...] = ()
    ) -> argparse.Namespace:
        """Return a parsed command line."""
        options = [word for command in commands for word in ("--hook", command)]
        words = ("backup", "-s", "/backup", "-q", "--hook-timeout", limit, *options, *more, "web1")
        found = build_parser().parse_args(words)
        found.display = Display(found)
        return found

    def run(
        self,
        arguments: argparse.Namespace,
        listen: Callable[[fb.Event], object] = fb.ignore_events,
    ) -> Hooks:
        """Run a backup with hooks."""

        class Listening(Hooks):
            """Hooks, and the test listens too."""

            def event(self, event: fb.Event) -> None:
                """See `Hooks.event`."""
                listen(event)
                super().event(event)

        hooks = Listening(arguments, "web1", self.uuid)
        domain, history = self.host.read_domain("web1"), self.store.read_history(self.uuid)
        with hooks.watching():
            plan = fb.plan_backup(domain, history, now=NOW, policy=self.policy)
            run_plan(arguments, fb.Executor(self.host, self.store), plan, Signals(), hooks)
        return hooks

    def told(self) -> Told:
        """Return what the hooks were told."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def phases(self) -> list[tuple[str, str]]:
        """Return who was told which phase, in order."""
        return [(each["hook"], each["phase"]) for each in self.told()]


def test_each_phase_is_told_in_its_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two hooks: before in their order, after in the opposite one; facts come as JSON."""
    world = World(tmp_path)
    hooks = world.run(world.arguments(world.hook("a"), world.hook("b")))
    assert hooks.warnings == []
    assert world.phases() == [
        ("a", "before-freeze"),
        ("b", "before-freeze"),
        ("b", "after-thaw"),
        ("a", "after-thaw"),
        ("a", "published"),
        ("b", "published"),
    ]
    first, *_, last = world.told()
    for told in (first, last):
        assert told.pop("time").endswith("Z")
        assert (told["schema"], told["domain"], told["uuid"]) == (1, "web1", world.uuid)
        assert (told["store"], told["disks"]) == ("/backup", ["vda", "vdb"])
        assert told["point"] == "20261124T040407Z"
    assert {each["disk"] for each in last["images"]} == {"vda", "vdb"}
    assert all(len(each["sha256"]) == 64 for each in last["images"])
    out, err = capfd.readouterr()
    assert "said by" not in out  # data of ours only
    assert err.count("said by") == 6


@pytest.mark.parametrize("quiesce", [fb.Quiesce.OFF, fb.Quiesce.REQUIRE])
def test_before_freeze_can_say_no(tmp_path: Path, quiesce: fb.Quiesce) -> None:
    """Nothing is frozen or snapshotted then; hooks that were called hear after-thaw and failed."""
    world = World(tmp_path, quiesce=quiesce)
    chain = world.host.read_domain("web1").disks[0].chain
    arguments = world.arguments(world.hook("a"), world.hook("b", before_freeze=3), world.hook("c"))
    with pytest.raises(fb.StepError, match=r"b.py.*before-freeze: exit code 3") as caught:
        world.run(arguments)
    assert "no snapshot was taken" in caught.value.state
    assert world.host.read_domain("web1").disks[0].chain == chain
    assert world.store.read_history(world.uuid).points == ()
    assert world.phases() == [
        ("a", "before-freeze"),
        ("b", "before-freeze"),
        ("b", "after-thaw"),
        ("a", "after-thaw"),
        ("a", "failed"),
        ("b", "failed"),
        ("c", "failed"),
    ]
    error = world.told()[-1]["error"]
    assert (error["exit_code"], error["type"]) == (1, "HostError")
    assert "no snapshot was taken" in error["state"]


def test_a_hook_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """With all its children, when its time is over."""
    world = World(tmp_path)
    start = time.monotonic()
    with pytest.raises(fb.StepError, match="did not end within 2 s"):
        world.run(world.arguments(world.hook("a", before_freeze="sleep"), limit="2"))
    assert time.monotonic() - start < 60
    assert world.phases()[-1] == ("a", "failed")


@pytest.mark.parametrize("phase", ["after_thaw", "published"])
def test_a_hook_that_fails_later_is_a_warning(tmp_path: Path, phase: str) -> None:
    """The point is there, and stays."""
    world = World(tmp_path)
    hooks = world.run(world.arguments(world.hook("a", **{phase: 1})))
    assert len(world.store.read_history(world.uuid).points) == 1
    (warning,) = hooks.warnings
    assert warning.endswith(f"{phase.replace('_', '-')}: exit code 1")


def test_a_snapshot_that_fails_is_followed_by_after_thaw(tmp_path: Path) -> None:
    """Whoever was told to hold on is told to go on."""
    world = World(tmp_path)

    def listen(event: fb.Event) -> None:
        if isinstance(event, fb.StepStarted) and isinstance(event.step, fb.WhileFrozen):
            world.host.fail_at(1, fb.LibvirtError(reason="no snapshot today"))

    with pytest.raises(fb.StepError, match="no snapshot today"):
        world.run(world.arguments(world.hook("a")), listen)
    assert [phase for _, phase in world.phases()] == ["before-freeze", "after-thaw", "failed"]


def test_a_failure_behind_the_point_is_told_as_both(tmp_path: Path) -> None:
    """A point that was published is told so, whatever failed after it."""
    world = World(tmp_path)

    def listen(event: fb.Event) -> None:
        if isinstance(event, fb.StepFinished) and isinstance(event.step, fb.PublishPoint):
            world.host.fail_at(1, fb.LibvirtError(reason="gone"))

    with pytest.raises(fb.StepError, match="gone"):
        world.run(world.arguments(world.hook("a")), listen)
    assert [phase for _, phase in world.phases()] == [
        "before-freeze", "after-thaw", "published", "failed",
    ]  # fmt: skip


def test_what_cannot_be_run_says_no(tmp_path: Path) -> None:
    """A hook that is missing, or ended by a signal, is one that failed."""
    world = World(tmp_path)
    with pytest.raises(fb.StepError, match="cannot be run: No such file"):
        world.run(world.arguments("/no/such/hook"))
    with pytest.raises(fb.StepError, match="ended by signal 9"):
        world.run(world.arguments("sh -c 'kill -9 $$'"))


def test_a_hook_need_not_read(tmp_path: Path) -> None:
    """A hook that ends without reading its stdin is a good one."""
    world = World(tmp_path)
    assert world.run(world.arguments("true")).warnings == []


def test_a_dry_run_calls_no_hook(tmp_path: Path) -> None:
    """Nothing happens, so nobody is told."""
    world = World(tmp_path)
    arguments = world.arguments(world.hook("a"), more=("--dry-run",))
    with pytest.raises(fb.HostError, match="x"), Hooks(arguments, "web1").watching():
        raise fb.HostError(reason="x")
    assert world.told() == []


def test_other_ends_are_followed_by_after_thaw_too(tmp_path: Path) -> None:
    """Also when it is no error of ours that ends the run."""
    world = World(tmp_path)

    def listen(event: fb.Event) -> None:
        if isinstance(event, fb.StepStarted) and isinstance(event.step, fb.WhileFrozen):
            world.host.fail_at(1, MemoryError())

    with pytest.raises(MemoryError):
        world.run(world.arguments(world.hook("a")), listen)
    assert [phase for _, phase in world.phases()] == ["before-freeze", "after-thaw"]


@pytest.mark.parametrize("command", ["", " ", "'unclosed"])
def test_what_is_no_command_is_a_usage_error(command: str) -> None:
    """It is refused before anything is begun."""
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(("backup", "-s", "/b", "--hook", command, "web1"))
    assert ended.value.code == 2
