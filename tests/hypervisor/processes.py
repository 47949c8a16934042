"""
The processes of one hypervisor root, found by the root's path, ended by pid.

A process belongs to a root when it is a QEMU or a libvirt daemon, and the root's path is in its
command line (embedded and session drivers) or among its mounts (the private daemon and its
domains)::

    /proc/PID/cmdline     qemu-system-x86_64 ... "file":"ROOT/lib/qemu/domain-1-web/master-key.aes"
    /proc/PID/mountinfo   ... ROOT/private/run /run/libvirt ...
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Final

from hypervisor.host import HarnessError

_PROGRAMS: Final = ("qemu-system", "qemu-kvm", "kvm", "libvirtd", "virtlogd", "virtlockd")


def processes_of(root: Path) -> list[int]:
    """Return the pids of the QEMUs and daemons that belong to `root`."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _belongs(entry, root)
    ]


def end_processes_of(root: Path, *, patience_seconds: float = 5) -> list[int]:
    """End every process of `root`, first politely; return the pids that were found."""
    found = processes_of(root)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_of(root):
            _send(pid, number)
        if _wait_until_gone(root, patience_seconds):
            return found
    raise HarnessError(f"processes of {root} do not end: {processes_of(root)}")


def _belongs(entry: Path, root: Path) -> bool:
    words = _read(entry / "cmdline").split(b"\0")
    if not words[0].rpartition(b"/")[2].decode(errors="replace").startswith(_PROGRAMS):
        return False
    needle = f"{root}/".encode()
    return any(needle in word for word in words) or needle in _read(entry / "mountinfo")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait_until_gone(root: Path, patience_seconds: float) -> bool:
    deadline = time.monotonic() + patience_seconds
    while processes_of(root):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
