"""Every error says what holds now and what to run next, for people and for scripts."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest

import fibackup as fb
from fibackup.cli.advice import after_faults, next_command, reaching, state_of
from fibackup.cli.exits import exit_code
from fibackup.cli.output import Failure, complain, report_failure
from fibackup.cli.parser import build_parser
from fibackup.testing import FakeHost, FakeStore

NOW = datetime(2026, 11, 24, 4, 4, 7, tzinfo=UTC)
UUID = "7c3c4f8a-63ca-5da2-bb74-dc6f8fc4553a"
ERRORS = [name for name in fb.__all__ if name.endswith("Error") and name != "StepError"]


def parsed(verb: str = "backup", **more: object) -> argparse.Namespace:
    """Return what the parser would."""
    words: dict[str, object] = {"verb": verb, "json": True, "json_lines": False, **more}
    return argparse.Namespace(**words)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_says_that_nothing_was_changed_and_what_to_do(name: str) -> None:
    """For people a sentence, or a command that can be pasted; there is always a next step."""
    more = {"remedy": "resume it"} if name == "DomainStateError" else {}
    error = getattr(fb, name)(reason="no", domain="web 1", path="/a b", **more)
    guest = "" if name == "NoSuchDomainError" else "; the guest writes where it wrote before"
    assert state_of(error, parsed()) == f"nothing was changed{guest}"
    assert state_of(error, parsed("list")) == "nothing was changed"
    command = next_command(error, parsed(store="/back up"))
    assert command
    if command.startswith("fibackup "):
        assert "--store" in shlex.split(command)
        assert "/back up" in shlex.split(command)


def test_commands_reach_the_same_hypervisor() -> None:
    """A URI that was given is given again; words stay words."""
    uri = "qemu+unix:///system?socket=/a b"
    arguments = parsed(connect=uri, store="/s")
    found = next_command(fb.NoSuchDomainError(reason="no"), arguments)
    assert shlex.split(found) == ["virsh", "-c", uri, "list", "--all"]
    found = next_command(fb.LibvirtError(reason="no", domain="web 1"), arguments)
    assert shlex.split(found) == ["fibackup", "doctor", "-c", uri, "--store", "/s", "web 1"]
    found = next_command(fb.LibvirtError(reason="no"), parsed("doctor", connect=uri))
    assert shlex.split(found) == ["virsh", "-c", uri, "version"]
    assert reaching(found, parsed("doctor", connect=uri)) == found
    assert "docs" in next_command(fb.QemuImgError(reason="no"), parsed("doctor"))
    found = next_command(fb.VerifyError(reason="no"), arguments)
    assert shlex.split(found) == ["fibackup", "verify", "--store", "/s"]  # it needs none
    found = next_command(fb.NoSuchPointError(reason="no"), arguments)
    assert shlex.split(found) == ["fibackup", "list", "--store", "/s"]
    found = next_command(fb.PolicyError(reason="no"), arguments)
    assert found == "correct the command: fibackup backup --help"
    found = reaching("resume it: virsh resume web1; or allow a paused domain", arguments)
    assert found.startswith(f"resume it: virsh -c {shlex.quote(uri)} resume web1;")
    assert next_command(fb.StalePlanError(reason="no"), arguments) == "run the same command again"


def test_a_disk_that_was_found_wrong_can_be_had_all_the_same() -> None:
    """Verifying again helps only where it was wrong by accident."""
    error = fb.VerifyError(reason="no", found=datetime(2026, 11, 24, tzinfo=UTC))
    found = next_command(error, parsed("restore", store="/s t"))
    assert found == (
        "restore another point; fibackup verify --store '/s t' --deep reads this one again; "
        "or restore it as it is, with --found-wrong"
    )
    assert "--found-wrong" not in next_command(fb.VerifyError(reason="no"), parsed("restore"))


def test_what_keeps_us_out_says_what_lets_us_in() -> None:
    """Where the error knows it, that is the next step; else to give access."""
    error = fb.PermissionDeniedError(reason="no", path="/backup", remedy="chmod go-w /backup")
    found = next_command(error, parsed(store="/backup"))
    assert found == "chmod go-w /backup, then run the same command again"
    found = next_command(fb.PermissionDeniedError(reason="no", path="/a"), parsed())
    assert found.startswith("give access to /a, then")


IMAGE = fb.Fault(fb.FaultKind.SHA256, "vda/20261124T040407Z.qcow2", "no", ("20261124T040407Z",))
DISK = fb.Fault(fb.FaultKind.DISK, "vda/20261124T040407Z.qcow2", "no", ("20261124T040407Z",))
LOST = fb.Fault(fb.FaultKind.LOST, "20261124T040407Z.json", "no", ("20261124T040407Z",))
MEMORY = fb.Fault(fb.FaultKind.SIZE, "20261124T040407Z.mem", "no", ("20261124T040407Z",))
SEALS = fb.Fault(fb.FaultKind.SEALS, "points.sha256", "no")
LINKED = fb.Fault(fb.FaultKind.RECORD, "linked.json", "no")
COPY = fb.Fault(fb.FaultKind.COPY, "old-web1", "no")
ELSE = "take each file from another copy of the store; without a copy, the"
BACKUP = "fibackup backup --store /s 'web 1'"


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ((IMAGE,), f"{ELSE} next backup lies on what is right: {BACKUP}"),
        (
            (IMAGE, SEALS, MEMORY),
            f"{ELSE} next backup lies on what is right, and writes the seals anew: {BACKUP}",
        ),
        ((MEMORY,), f"{ELSE} disks can be restored all the same"),
        ((SEALS,), f"the next backup writes the seals anew: {BACKUP}"),
        (
            (DISK,),
            (
                f"{ELSE} next backup lies on what is right: {BACKUP}; "
                "when the files are right: fibackup verify --store /s --deep 'web 1'"
            ),
        ),
        (
            (LOST,),
            (
                "take each file from another copy of the store; a manifest that no copy has: move "
                "it away, if it is there, and points.sha256 too, then the point is given up; "
                f"without a copy, the next backup lies on what is right: {BACKUP}"
            ),
        ),
        ((LINKED,), "do what each line says"),
        (
            (LINKED, SEALS),
            f"do what each line says; the next backup writes the seals anew: {BACKUP}",
        ),
        ((COPY, IMAGE), "do what each line says"),
    ],
)
def test_a_verification_says_what_helps_against_what_it_has_found(
    faults: tuple[fb.Fault, ...], words: str
) -> None:
    """It does not lead to itself, and to a backup only where that helps."""
    arguments = parsed("verify", store="/s", deep=False)
    assert after_faults(faults, arguments, "web 1") == words
    error = fb.VerifyError(reason="no", domain="web 1")
    assert state_of(error, arguments) == "no point was changed"
    assert "another copy" in next_command(error, arguments)


PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
SECTIONS = PAGE.split("\n## ")[1:]


@pytest.mark.parametrize("name", [*ERRORS, "StepError"])
def test_the_page_says_of_each_error_cause_state_and_next_step(name: str) -> None:
    """In its row; what is left behind stands there, or above the table for all of its rows."""
    if name == "FibackupError":  # the root, which is never raised itself
        assert "`FibackupError` is the root" in PAGE
        return
    (section,) = (each for each in SECTIONS if f"\n| `{name}` |" in each)
    head, _, table = section.partition("\n| Class |")
    columns = [cell.strip() for cell in table.splitlines()[0].split("|") if cell.strip()]
    (row,) = (line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
    cells = re.split(r" (?:\| |\|$)", row.removeprefix("| "))
    assert all(cell.strip() for cell in cells[:-1]), row
    assert len(cells) - 1 == len(columns) + 1
    assert columns[0] == "Cause"
    assert columns[-1] == "Next step"
    assert "State left behind" in columns or "nothing was touched" in head.lower()


def test_the_page_has_the_exit_code_of_each_error() -> None:
    """All that have one of their own; the others are 1."""
    _, _, table = PAGE.partition("\n| Code |")
    told = {
        name: int(code.split()[0])
        for code, names in re.findall(r"^\| (\d+[^|]*) \|[^|]*\|(.*)\|$", table, re.MULTILINE)
        for name in re.findall(r"`(\w+Error)`", names)
    }
    assert told.pop("CancelledError") == 128
    for name in ERRORS:
        if name != "CancelledError":
            assert exit_code(getattr(fb, name)(reason="no")) == told.get(name, 1), name


class World:
    """A domain and a store whose path has a space."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.store = FakeStore(self.host)
        self.uuid = self.host.add_domain("web1", {"vda": {0: 7}, "vdb": {0: 8}})

    def plan(self, **policy: object) -> fb.Plan:
        """Plan a backup without a freeze."""
        return fb.plan_backup(
            self.host.read_domain("web1"),
            self.store.read_history(self.uuid),
            now=NOW,
            policy=fb.BackupPolicy(quiesce=fb.Quiesce.OFF, **policy),  # type: ignore[arg-type]
        )

    def fails_in(self, step: type[fb.Step], error: BaseException) -> fb.StepError:
        """Run a backup whose step of that kind fails."""

        def listen(event: fb.Event) -> None:
            if isinstance(event, fb.StepStarted) and isinstance(event.step, step):
                self.host.fail_at(1, error, lasting=False)

        with pytest.raises(fb.StepError) as caught:
            fb.Executor(self.host, self.store).run(self.plan(), on_event=listen)
        return caught.value


def test_a_run_that_failed_behind_its_snapshot_says_where_the_guest_writes() -> None:
    """The overlays are named, and that they stay; the next command is fit for a shell."""
    world = World()
    error = world.fails_in(fb.InParallel, fb.NoSpaceError(reason="No space left on device"))
    for disk in world.host.read_domain("web1").disks:
        assert disk.chain is not None
        assert f"{disk.target} to {disk.chain.active.path}" in error.state
    assert "delete neither" in error.state
    assert shlex.split(error.next_command)[:3] == ["fibackup", "backup", "--store"]
    assert shlex.split(error.next_command)[-1] == world.uuid


def test_a_run_that_failed_behind_its_point_says_that_it_is_complete() -> None:
    """What is published stays, whatever comes after it."""
    world = World()
    published: list[str] = []

    def listen(event: fb.Event) -> None:
        if isinstance(event, fb.StepFinished) and isinstance(event.step, fb.PublishPoint):
            published.append(event.step.point)
            world.host.fail_at(1, fb.LibvirtError(reason="gone"))

    with pytest.raises(fb.StepError) as caught:
        fb.Executor(world.host, world.store).run(world.plan(), on_event=listen)
    assert f"point {published[0]} is published and complete" in caught.value.state


def test_people_and_scripts_are_told_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines on stderr are the fields of the JSON, and nothing is said twice."""
    world = World()
    error = world.fails_in(fb.InParallel, fb.NoSpaceError(reason="No space left on device"))
    arguments = parsed(connect="qemu:///x")
    assert report_failure(arguments, error) == 1
    out, err = capsys.readouterr()
    (result,) = json.loads(out)["results"]
    found = result["error"]
    assert (result["domain"], found["type"]) == ("web1", "NoSpaceError")
    assert err.splitlines() == [
        f"fibackup: error: {found['message']}",
        f"fibackup:   state: {found['state']}",
        f"fibackup:   next: {found['next_command']}",
    ]
    assert found["next_command"].startswith("fibackup backup -c qemu:///x --store ")
    assert len(found["done"]) == error.index
    assert re.search(r"failed: No space left on device", found["message"])


@pytest.mark.parametrize(
    ("error", "arguments", "words"),
    [
        (
            fb.DomainBusyError(reason="it runs", remedy="shut it down: virsh shutdown web1"),
            parsed("restore", connect="qemu:///x"),
            "shut it down: virsh -c qemu:///x shutdown web1",
        ),
        (fb.DomainBusyError(reason="it is busy"), parsed(), "run the same command again"),
        (
            fb.RequirementError(reason="it is elsewhere", remedy="run fibackup on host2"),
            parsed(),
            "run fibackup on host2",
        ),
        (
            fb.NoSpaceError(reason="full", path="/no/such/place/.vdb.qcow2.tmp"),
            parsed(),
            "make room in /no/such/place, then run the same command again",
        ),
    ],
)
def test_what_helps_comes_from_the_error(
    error: fb.FibackupError, arguments: argparse.Namespace, words: str
) -> None:
    """Where it knows better than its class; a file that is gone is not what is full."""
    assert next_command(error, arguments) == words


def test_memory_is_told_only_of_what_it_allows() -> None:
    """A guest that goes on from its memory keeps its devices."""
    error = fb.ForeignConfigError(reason="no")
    assert "--foreign drop" in next_command(error, parsed("restore", memory=False))
    found = next_command(error, parsed("restore", memory=True))
    assert "--foreign keep" in found
    assert "drop" not in found


@pytest.mark.parametrize("verb", ["restore", "prune"])
@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (fb.NoSpaceError(reason="full", path="/"), "make room in /"),
        (fb.PermissionDeniedError(reason="no", path="/x"), "give access to /x"),
        (fb.RequirementError(reason="no"), "install or upgrade"),
        (fb.LockedError(reason="somebody reads"), "wait for the other run, then run the same"),
        (fb.StoreError(reason="no"), "fibackup list"),
    ],
)
def test_a_step_that_failed_for_a_curable_cause_is_told_the_cure(
    verb: str, cause: fb.FibackupError, words: str
) -> None:
    """What the restore made is removed and a prune goes on: they are run again."""
    error = fb.StepError(
        reason="failed", plan=World().plan(), index=0, next_command="fibackup list --store /s"
    )
    error.__cause__ = cause
    assert next_command(error, parsed(verb, store="/s")).startswith(words)


@pytest.mark.parametrize(
    ("words", "wishes"),
    [
        ("web1", ""),
        ("--full -q --exclude vdb web1 --compress", " --full --exclude vdb --compress"),
        ("-c test:///default --disk=vda --jobs 2 web1 --hook 'a b'", " --disk=vda --hook 'a b'"),
        ("--all --freeze-timeout 5 -v -- web1", " --freeze-timeout 5"),
        ("-qnctest:///default --full -vq web1", " --full"),
    ],
)
def test_a_backup_that_failed_is_run_again_with_its_wishes(words: str, wishes: str) -> None:
    """What is asked for with it stays asked for; the others of the run are not taken again."""
    arguments = build_parser().parse_args(["backup", "--store", "/s", *shlex.split(words)])
    error = fb.StepError(
        reason="no", plan=World().plan(), index=0, next_command=f"fibackup backup --store /s {UUID}"
    )
    arguments.connect = None
    assert next_command(error, arguments) == f"fibackup backup --store /s{wishes} {UUID}"
    listing = fb.StepError(reason="no", plan=World().plan(), index=0, next_command="fibackup list")
    assert next_command(listing, arguments) == "fibackup list"


@pytest.mark.parametrize("words", ["-m blockpull", "-mblockpull", "-qmblockpull", "-qm blockpull"])
def test_a_consolidation_that_failed_goes_on_in_its_direction(words: str) -> None:
    """However its method was written."""
    arguments = build_parser().parse_args(["consolidate", *words.split(), "web1"])
    error = fb.StepError(
        reason="no", plan=World().plan(), index=0, next_command=f"fibackup consolidate {UUID}"
    )
    assert next_command(error, arguments) == f"fibackup consolidate -m blockpull {UUID}"


def test_a_prune_that_a_linked_disk_holds_back_says_how_to_free_it() -> None:
    """Not what the points are; and never to shut the domain off, as nothing would hold it then."""
    error = fb.StepError(reason="no", plan=World().plan(), index=0, next_command="fibackup list")
    error.__cause__ = fb.DomainBusyError(reason="open", remedy="virsh blockpull DOMAIN DISK")
    assert next_command(error, parsed("prune", store="/s")) == "virsh blockpull DOMAIN DISK"


def test_a_remedy_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """In a line of its own, as that of every other error."""
    error = fb.DomainStateError(reason="the domain is paused", remedy="virsh resume web1")
    complain(Failure(error, parsed()))
    said = capsys.readouterr().err
    assert said.count("virsh resume web1") == 1
    assert said.endswith("\nfibackup:   next: virsh resume web1\n")
