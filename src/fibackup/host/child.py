"""
Children that do not outlive this process, however it ends.

::

    fibackup ---- setpriv --pdeathsig KILL -- qemu-img convert ...
       X  kill -9                                 X  the kernel ends it too

Ctrl-C and SIGTERM are answered by the code that waits for a child; of SIGKILL only the kernel can
tell. Without util-linux 2.33 a child works on to its end, or waits for ever.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

__all__ = ["bound_to_us"]

_PLACES = "/usr/bin:/bin:/usr/sbin:/sbin"
_SECONDS = 10.0


def bound_to_us(argv: Sequence[str]) -> list[str]:
    """
    Return a command that is killed when the thread that starts it ends.

    That thread has to wait for it. The process keeps its id: one program becomes the other.

    Args:
        argv: The program, absolute, and its arguments.

    Source:
        setpriv(1), ``--pdeathsig``; PR_SET_PDEATHSIG(2const).
    """
    return [*_prefix(), *argv]


@cache
def _prefix() -> tuple[str, ...]:
    """Return what goes before a command; nothing, when this machine's setpriv cannot do it."""
    program = shutil.which("setpriv", path=_PLACES)
    if program is None:
        return ()
    prefix = (program, "--pdeathsig", "KILL", "--")
    try:
        done = subprocess.run(
            [*prefix, program, "--version"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if done.returncode == 0 else ()
