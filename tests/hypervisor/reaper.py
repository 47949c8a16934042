"""
QEMUs that have ended are reaped at once, whatever process 1 of the machine is.

libvirt starts QEMU as a daemon: its parent is process 1, and `virDomainDestroy` waits until that
one has reaped it. In containers process 1 may do so late, or never. A "child subreaper" takes its
place for our own descendants::

    process 1                             process 1
      '- QEMU (zombie, for seconds)         '- pytest (subreaper, reaps daemons only)
    pytest                                        '- QEMU

A daemon has left our session, setsid(2). The QEMUs that libvirt asks what they can do have not:
libvirt itself waits for these.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36
_SESSION: Final = 5
"""Field of /proc/PID/stat, proc_pid_stat(5)."""

_PAUSE_SECONDS: Final = 0.02


@functools.cache
def ensure_reaper() -> None:
    """Adopt orphans and reap the QEMUs among them, in a daemon thread, once per process."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
        threading.Thread(target=_reap_for_ever, name="qemu-reaper", daemon=True).start()


def _reap_for_ever() -> None:
    while True:
        for pid in _dead_qemus():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_PAUSE_SECONDS)


def _dead_qemus() -> Iterator[int]:
    for thread in Path("/proc/self/task").iterdir():
        for pid in _words(thread / "children"):
            fields = _words(Path("/proc") / pid / "stat")
            if (
                len(fields) > _SESSION
                and fields[1].startswith("(qemu-system")
                and fields[2] == "Z"
                and int(fields[_SESSION]) != os.getsid(0)
            ):
                yield int(pid)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").split()
    except OSError:
        return []
