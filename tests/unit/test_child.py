"""Children end with this process, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fibackup.host import child
from fibackup.host.child import bound_to_us

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
