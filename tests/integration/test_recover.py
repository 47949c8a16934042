"""
Runs that are killed anywhere, and what a recovery makes of them.

::

    a run, before whose n-th call the client, QEMU or the daemon gets a SIGKILL
    recover                  once; a second time there is nothing to do
    backup --consolidate     or at once, which begins with the same check:
                             a point that is right, two images in each chain
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fibackup import DomainStateError, LibvirtHost, Method, Store
from fibackup.cli import main
from hypervisor import MIB, DiskSpec, MakeBlockDomain, PrivateDaemon
from integration.forks import Forks
from integration.rig import PLAIN, Rig, wait_until

pytestmark = pytest.mark.libvirt

TWO = (DiskSpec(size_bytes=32 * MIB), DiskSpec(target="vdb", size_bytes=32 * MIB))


@pytest.fixture
def rig(
    private_daemon: PrivateDaemon,
    block_domain: MakeBlockDomain,
    forks: Forks,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Rig]:
    """Give a domain with two disks, or with those that the test asks for, and an empty store."""
    domain = block_domain(*getattr(request, "param", TWO), on=private_daemon)
    (tmp_path / "store").mkdir()
    with Store.create(tmp_path / "store") as store:
        yield Rig(private_daemon, domain, store, tmp_path, forks)


# --- killed between any two calls ---------------------------------------------------------------


def is_killed(rig: Rig, act: str, number: int, victim: str) -> str:
    """Let a process be killed before the n-th call of an act; return the call, "" when it ended."""
    done, call = rig.run_of(act, number, victim)
    if not call:
        assert done.returncode == 0, done
    elif victim == "client":
        assert done.returncode == -signal.SIGKILL
    elif victim == "daemon":
        rig.restart_daemon()
    else:
        wait_until(lambda: not rig.domain.is_active)
    return call


def settle(rig: Rig, number: int, own: set[str], *, paused: bool = True) -> None:
    """
    Recover and back up, or just back up by the command; nothing lies around that is not told.

    What was a disk's own image before a pull is left to the owner.
    """
    said = ""
    if number % 2:
        said = "".join(rig.recover().warnings)
    rig.start(paused=paused)
    rig.check_live()
    if number % 2:
        rig.write()
        rig.backup()
    else:
        done = rig.backup_command("--consolidate")
        said = done.stdout + done.stderr
    assert rig.read().ledger.run is None
    left = rig.images() - rig.chain_names() - own
    assert all(f"{name} is in no chain any more" in said for name in left), (left, said)
    assert {disk.target for disk in rig.history().points[-1].disks} == set(rig.domain.disks)
    for name in left:
        (rig.domain.directory / name).unlink()


ACTS = [
    pytest.param("rolling", TWO),
    *(pytest.param(act, TWO[:1]) for act in ("commit", "keep", "pull", "memory")),
    pytest.param("off", TWO),
]
HEARTS = {
    "backup": {"take_snapshot"},
    "rolling": {"take_snapshot", "run_block_job"},
    "memory": {"take_snapshot", "copy_memory"},
    "off": {"commit_offline"},
}
"""The calls without which an act was not there; a consolidation's is its block job."""

CONSOLIDATIONS = {"commit", "keep", "pull", "off"}


def prepare(rig: Rig, act: str) -> None:
    """Give the act something to do: new data, an overlay to consolidate, a domain that is off."""
    rig.write()
    if act in CONSOLIDATIONS:
        rig.backup(PLAIN)
        rig.write()
    if act == "off":
        rig.domain.destroy()


@pytest.mark.parametrize(("act", "rig"), ACTS, indirect=["rig"])
def test_a_client_that_is_killed_before_any_call_is_recovered(rig: Rig, act: str) -> None:
    """Of backup and consolidation: every point is what the guest had, the guest is unharmed."""
    runs = act in {"pull", "memory"}
    rig.start(paused=not runs)
    rig.write()
    rig.backup()
    killed: list[str] = []
    own: set[str] = set()
    for number in itertools.count(1):
        own |= {chain[-1] for chain in rig.chains()}
        prepare(rig, act)
        call = is_killed(rig, act, number, "client")
        if not call:
            break
        killed.append(call)
        settle(rig, number, own, paused=not runs)
    assert len(killed) >= 5
    assert HEARTS.get(act, {"run_block_job"}) <= set(killed)
    rig.check()


@pytest.mark.parametrize("act", ["backup", "rolling", "commit", "pull"])
@pytest.mark.parametrize("victim", ["qemu", "daemon"])
def test_a_hypervisor_that_is_killed_before_any_call_is_recovered(
    rig: Rig, act: str, victim: str
) -> None:
    """With two disks: the run fails in words; what the guest had flushed is there, every point."""
    runs = act == "pull"
    rig.start(paused=not runs)
    rig.write()
    rig.backup()
    killed: list[str] = []
    own: set[str] = set()
    for number in itertools.count(1):
        own |= {chain[-1] for chain in rig.chains()}
        prepare(rig, act)
        call = is_killed(rig, act, number, victim)
        if not call:
            break
        killed.append(call)
        settle(rig, number, own, paused=not runs)
    assert len(killed) >= 4
    assert HEARTS.get(act, {"run_block_job"}) <= set(killed)
    rig.check()


# --- killed while a job runs --------------------------------------------------------------------


@contextmanager
def a_job_whose_client_is_killed(rig: Rig, method: Method, *, keep: bool) -> Iterator[None]:
    """Let a slow block job run on a chain of three images, and kill its client."""
    for _ in range(2):
        rig.write()
        rig.backup(PLAIN)
        rig.write(12 * MIB)
    rig.start(paused=method is not Method.BLOCKPULL)  # which is refused when paused
    bandwidth = MIB if method is Method.BLOCKPULL else 4 * MIB  # it reads what it has not, 3 MiB
    words = [rig.daemon.uri, rig.domain.uuid, str(method), str(int(keep)), str(bandwidth)]
    child = rig.forks.start("job", words)
    try:
        deadline = time.monotonic() + 20
        while "running" not in child.said():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    yield


def the_rest_is_right(rig: Rig) -> None:
    """Assert that a backup after the recovery, and all before, are what the guest had."""
    rig.write()
    rig.backup()
    rig.check_live()
    rig.check()


METHODS = [
    pytest.param(Method.BLOCKCOMMIT, False, id="active commit"),
    pytest.param(Method.BLOCKCOMMIT, True, id="commit"),
    pytest.param(Method.BLOCKPULL, False, id="pull"),
]


@pytest.mark.parametrize("by", ["recover", "backup", "recover after a restart of the daemon"])
@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_a_job_that_still_runs_is_finished(
    rig: Rig, method: Method, *, keep: bool, by: str
) -> None:
    """By a recovery, or by the next backup, which begins with one; what it freed is deleted."""
    with a_job_whose_client_is_killed(rig, method, keep=keep):
        if "daemon" in by:
            rig.restart_daemon()
        assert len(rig.jobs()) == 1
        with pytest.raises(DomainStateError, match="fibackup recover"):
            rig.backup()
        if by == "backup":
            assert "that a killed run left" in rig.backup_command("--dry-run").stdout
            rig.backup_command()
        else:
            assert "that a killed run left" in str(rig.recover())
    assert rig.jobs() == []
    base = {rig.domain.path(target).name for target in rig.domain.disks}
    assert rig.images() - base <= rig.chain_names()
    the_rest_is_right(rig)


@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_a_hypervisor_that_is_killed_in_a_job_loses_nothing(
    rig: Rig, method: Method, *, keep: bool
) -> None:
    """The overlays are kept, the guest starts with what it had, and the next point is right."""
    with a_job_whose_client_is_killed(rig, method, keep=keep):
        [pid] = rig.daemon.qemus()
        before = rig.images()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not rig.domain.is_active)
        rig.recover()
        assert rig.images() == before
        rig.domain.start()
    the_rest_is_right(rig)


# --- the commands -------------------------------------------------------------------------------


def killed_in_a_copy(rig: Rig, *, first: bool = False) -> str:
    """Let a run be killed right before its copy; return the point that it was to make."""
    rig.write()
    if not first:
        rig.backup()
        rig.write()
    calls = (is_killed(rig, "backup", number, "client") for number in itertools.count(4))
    assert next(call for call in calls if call in {"copy_image", ""}) == "copy_image"
    run = rig.read().ledger.run
    assert run is not None
    return run.point


def test_the_command_finds_the_store_by_the_ledger(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fibackup recover` finishes a point without being told the store; then there is nothing."""
    point = killed_in_a_copy(rig)
    words = ["-c", rig.daemon.uri, rig.domain.name]
    assert main(["recover", "--dry-run", *words]) == 0
    assert "publish point" in capsys.readouterr().out
    assert main(["recover", "-q", *words]) == 0
    assert rig.history().points[-1].id == point
    capsys.readouterr()
    assert main(["recover", *words]) == 0
    assert "nothing to recover" in capsys.readouterr().out
    rig.check()


def test_a_store_that_the_ledger_does_not_know_is_named_by_the_doctor(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it the first point stays unfinished, which is exit code 4, again and again."""
    point = killed_in_a_copy(rig, first=True)
    words = ["-c", rig.daemon.uri, rig.domain.name]
    for _ in range(2):
        assert main(["recover", *words]) == 4
        assert "--store DIR" in capsys.readouterr().out
    main(["doctor", *words])
    assert "-> fibackup recover -c" in capsys.readouterr().out
    main(["doctor", "--store", str(rig.store.path), *words])
    (command,) = re.findall("-> (fibackup recover .*)", capsys.readouterr().out)
    assert main(shlex.split(command)[1:]) == 0
    assert rig.history().points[-1].id == point
    assert rig.read().ledger.run is None
    rig.check()


def test_a_point_that_is_being_made_now_is_not_called_unfinished(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its run holds the domain: that is what is said, and nothing of its store."""
    killed_in_a_copy(rig, first=True)
    words = ["-c", rig.daemon.uri, rig.domain.name]
    with LibvirtHost.open(rig.daemon.uri) as host, host.locked(rig.domain.uuid):
        for verb in (["recover"], ["consolidate", "--allow-paused"]):
            assert main([*verb, *words]) == 11
            said = "".join(capsys.readouterr())
            assert "not at hand" not in said


@pytest.mark.parametrize(
    "words", [("backup",), ("consolidate", "--allow-paused"), ("-c",), ("-b",)]
)
def test_every_command_that_changes_a_domain_begins_with_a_recovery(
    rig: Rig, words: tuple[str, ...]
) -> None:
    """The unfinished point is published first, by both programs, for points and for chains."""
    point = killed_in_a_copy(rig)
    if words[0] == "backup":
        done = rig.backup_command()
    elif words[0] == "consolidate":
        done = rig.command(*words)
    else:
        place = (str(rig.store.path),) if words[0] == "-b" else ()
        uri = {"LIBVIRT_DEFAULT_URI": rig.daemon.uri}
        done = rig.forks.run("fi-backup", *words, *place, rig.domain.uuid, env=uri)
    assert done.returncode == 0, done
    first, finished, *rest = rig.history().points
    assert (finished.id, len(rest)) == (point, words[0] in {"backup", "-b"})
    assert finished.parent == first.id
    assert "finished by recover" in finished.consistency_detail
    for each in rest:
        rig.remember(each.id)
    rig.check_live()
    rig.check()


def test_a_disk_that_is_left_out_leaves_the_unfinished_point(rig: Rig) -> None:
    """With --exclude the killed run's point is not finished: the next one takes its layers."""
    point = killed_in_a_copy(rig)
    rig.backup_command("--exclude", "vdb")
    assert rig.history().find(point) is None
    assert len(rig.history().points) == 2
    rig.backup()
    rig.check()


def test_a_command_says_what_it_has_recovered(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has the report of the recovery beside that of the backup; a dry run shows it first."""
    point = killed_in_a_copy(rig)
    words = ["backup", "-c", rig.daemon.uri, "--store", str(rig.store.path), "--allow-paused"]
    assert main([*words, "--dry-run", rig.domain.uuid]) == 0
    said = capsys.readouterr().out
    assert f"publish point {point}" in said
    assert "then a backup" in said
    assert main([*words, "--json", "--no-progress", rig.domain.uuid]) == 0
    said = capsys.readouterr().out
    assert f'"point": "{point}"' in said
    assert '"recovery": {' in said
    with LibvirtHost.open(rig.daemon.uri) as host:
        assert rig.plan_recovery(host).steps == ()
