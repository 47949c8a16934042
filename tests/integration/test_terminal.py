"""A terminal that goes away in the middle of a run, as an SSH connection does."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import fibackup as fb
from hypervisor import MIB, DiskSpec, MakeBlockDomain, PrivateDaemon, differences

pytestmark = pytest.mark.libvirt

SOURCE = Path(fb.__file__).resolve().parents[1]


def fibackup(
    *words: str | Path, terminal: int | None = None, ignore: bool = False
) -> subprocess.Popen[bytes]:
    """Start the command line as the leader of a session, perhaps on a terminal, as a shell does."""
    argv = [sys.executable, "-m", "fibackup", *map(str, words)]
    # The tests themselves may have been started by something that ignores it.
    argv = ["env", "--default-signal=HUP", *argv]
    # A process that nohup(1) starts ignores SIGHUP, and its children do.
    if ignore:
        argv = ["nohup", *argv[2:]]
    if terminal is not None:
        argv = ["setsid", "--ctty", "--wait", *argv]
    return subprocess.Popen(
        argv,
        stdin=terminal if terminal is not None else subprocess.DEVNULL,
        stdout=terminal if terminal is not None else subprocess.DEVNULL,
        stderr=terminal if terminal is not None else subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        start_new_session=terminal is None,
    )


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_terminal_that_goes_away_ends_the_run_cleanly(
    block_domain: MakeBlockDomain, private_daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """Nothing half-written is left, no lock, and the next run picks up what was frozen."""
    store, into = tmp_path / "store", tmp_path / "into"
    store.mkdir()
    domain = block_domain(DiskSpec(size_bytes=512 * MIB), on=private_daemon)
    domain.write("vda", 0, 256 * MIB, 7)
    words = ("backup", "-c", private_daemon.uri, "-s", store, "--allow-paused", domain.uuid)
    ours, theirs = pty.openpty()
    process = fibackup(*words, terminal=theirs)
    os.close(theirs)
    wait_until(lambda: list(store.rglob(".*.qcow2.tmp")) or process.poll() is not None)
    os.close(ours)
    assert process.wait(60) not in {0, -signal.SIGHUP}
    wait_until(lambda: not list(store.rglob(".*.tmp")))
    assert list(store.glob("*/*.json")) == []
    reference = domain.reference("vda", "point")
    assert fibackup(*words).wait(60) == 0
    assert fibackup("restore", "-s", store, domain.uuid, "--into", into).wait(60) == 0
    assert differences(into / "vda.qcow2", "qcow2", reference) == ""


@pytest.mark.parametrize(("ignore", "code"), [(True, 0), (False, 128 + signal.SIGHUP)])
def test_a_run_under_nohup_goes_on(
    block_domain: MakeBlockDomain,
    private_daemon: PrivateDaemon,
    tmp_path: Path,
    ignore: bool,  # noqa: FBT001 - a parameter of the case
    code: int,
) -> None:
    """SIGHUP is a signal like the others, unless whoever started the run has it ignored."""
    store = tmp_path / "store"
    store.mkdir()
    domain = block_domain(DiskSpec(size_bytes=512 * MIB), on=private_daemon)
    domain.write("vda", 0, 256 * MIB, 7)
    words = ("backup", "-c", private_daemon.uri, "-s", store, "--allow-paused", domain.uuid)
    process = fibackup(*words, ignore=ignore)
    wait_until(lambda: list(store.rglob(".*.qcow2.tmp")) or process.poll() is not None)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == code
    assert list(store.rglob(".*.tmp")) == []
