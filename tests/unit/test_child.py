"""Children end with this process, however that ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fibackup.host import child
from fibackup.host.child import bound_to_us, limit_address_space, limit_files

GIB, MIB = 1024**3, 1024**2
SLEEP = "/usr/bin/sleep"
PARENT = f"""
import subprocess
from fibackup.host.child import bound_to_us
with subprocess.Popen(bound_to_us(["{SLEEP}", "600"])) as sleeper:
    print(sleeper.pid, flush=True)
"""


def _lives(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _name(pid: int) -> str:
    """Return the name of the program that a process runs now."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_a_child_is_killed_with_its_parent() -> None:
    """By SIGKILL, which nobody can answer."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        deadline = time.monotonic() + 20
        while _name(pid) != "sleep" and time.monotonic() < deadline:
            time.sleep(0.01)  # until then it is setpriv, which may not have asked yet
        assert _name(pid) == "sleep"
        assert _lives(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 20
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    alive = _lives(pid)
    if alive:
        os.kill(pid, signal.SIGKILL)
    assert not alive


def test_a_child_runs_as_it_would_and_keeps_its_id() -> None:
    """One program becomes the other: its output, its exit code, its number."""
    words = ["/bin/sh", "-c", "echo $$; exit 3"]
    with subprocess.Popen(bound_to_us(words), stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        assert int(shell.stdout.readline()) == shell.pid
    assert shell.returncode == 3


@pytest.mark.parametrize("program", [None, "/bin/false", "/nowhere/setpriv"])
def test_without_such_a_setpriv_it_runs_alone(
    monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    """Older ones do not know the option."""
    child._prefix.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("fibackup.host.child.shutil.which", lambda *_, **__: program)
        assert bound_to_us([SLEEP, "1"]) == [SLEEP, "1"]
    child._prefix.cache_clear()


@pytest.mark.parametrize("images", [1, 5000, 10**9])
def test_a_child_may_open_what_its_images_need(images: int) -> None:
    """Files within its hard limit, and address space for the tables of each image."""
    with subprocess.Popen([SLEEP, "600"]) as sleeper:
        limit_files(sleeper.pid, images)
        limit_address_space(sleeper.pid, images)
        soft, _ = resource.prlimit(sleeper.pid, resource.RLIMIT_NOFILE)
        space, _ = resource.prlimit(sleeper.pid, resource.RLIMIT_AS)
        core = resource.prlimit(sleeper.pid, resource.RLIMIT_CORE)
        sleeper.kill()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = {1: 4096, 5000: 10_000, 10**9: 20_000}[images]
    assert soft == (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    assert space == 8 * GIB + {1: 1, 5000: 5000, 10**9: 10_000}[images] * 64 * MIB
    assert core == (0, 0)


def test_a_hard_limit_is_not_raised() -> None:
    """Only a privileged process could."""
    with subprocess.Popen([SLEEP, "600"]) as sleeper:
        resource.prlimit(sleeper.pid, resource.RLIMIT_NOFILE, (200, 500))
        resource.prlimit(sleeper.pid, resource.RLIMIT_AS, (GIB, 2 * GIB))
        limit_files(sleeper.pid, 5000)
        limit_address_space(sleeper.pid, 5000)
        files = resource.prlimit(sleeper.pid, resource.RLIMIT_NOFILE)
        space = resource.prlimit(sleeper.pid, resource.RLIMIT_AS)
        sleeper.kill()
    assert (files, space) == ((500, 500), (2 * GIB, 2 * GIB))


def test_a_child_that_has_ended_needs_no_limit() -> None:
    """It may be faster than its parent."""
    with subprocess.Popen([SLEEP, "0"]) as sleeper:
        sleeper.wait()
        limit_files(sleeper.pid)
        limit_address_space(sleeper.pid)
