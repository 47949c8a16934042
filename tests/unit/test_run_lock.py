"""The lock on a domain of this host: where it is, who holds it, what it refuses."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fibackup.errors import FibackupError, LockedError, PermissionDeniedError
from fibackup.host.run_lock import hold_domain_lock, run_directory

UUID = "5ba1a3f7-8a0c-4f1b-9b4b-000000000001"
HOLD = """
import sys
from fibackup.host.run_lock import hold_domain_lock
with hold_domain_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the directory of the locks; it does not exist yet."""
    found = tmp_path / "deep" / "run"
    monkeypatch.setenv("FIBACKUP_RUN_DIR", str(found))
    return found


def hold() -> None:
    """Take the lock, and give it back."""
    with hold_domain_lock(UUID):
        pass


def test_the_environment_chooses_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then root's own, then the user's; what is set to nothing is not set."""
    monkeypatch.setenv("FIBACKUP_RUN_DIR", "/chosen")
    assert run_directory() == "/chosen"
    monkeypatch.setenv("FIBACKUP_RUN_DIR", "")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert run_directory() == "/run/fibackup"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run_directory() == "/run/user/1000/fibackup"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert run_directory() == "/tmp/fibackup-1000"  # noqa: S108


def test_one_at_a_time_and_the_file_stays(place: Path) -> None:
    """The second one is refused with the owner's pid; the file is there afterwards."""
    with hold_domain_lock(UUID):
        with pytest.raises(LockedError) as caught:
            hold()
        assert f"pid {os.getpid()} on " in caught.value.owner
        assert caught.value.path == str(place / f"{UUID}.lock")
    lock = place / f"{UUID}.lock"
    inode = lock.stat().st_ino
    hold()
    assert lock.stat().st_ino == inode
    assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_it_ends_with_its_process(place: Path) -> None:
    """Even when that is killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, UUID],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(LockedError) as caught:
        hold()
    assert f"pid {child.pid} " in caught.value.owner
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            hold()
        except LockedError:
            continue
        break
    assert (place / f"{UUID}.lock").exists()


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "directory"])
def test_a_lock_that_is_something_else_is_refused(place: Path, kind: str) -> None:
    """Neither followed nor written."""
    place.mkdir(parents=True, mode=0o700)
    victim, lock = place / "victim", place / f"{UUID}.lock"
    victim.write_text("mine")
    match kind:
        case "link":
            lock.symlink_to(victim)
        case "hard link":
            lock.hardlink_to(victim)
        case "fifo":
            os.mkfifo(lock)
        case _:
            lock.mkdir()
    with pytest.raises(FibackupError) as caught:
        hold()
    assert not isinstance(caught.value, LockedError)
    assert victim.read_text() == "mine"


def test_a_directory_that_others_can_write_is_refused(place: Path) -> None:
    """They could take the lock away, and put another one there."""
    place.mkdir(parents=True)
    place.chmod(0o777)
    with pytest.raises(PermissionDeniedError, match="chmod go-w"):
        hold()
    place.chmod(0o700)
    hold()
    moved = place.with_name("elsewhere")
    place.rename(moved)
    place.symlink_to(moved)
    with pytest.raises(FibackupError):
        hold()
