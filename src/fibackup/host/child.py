"""
Children that do not outlive this process, however it ends, and do not take more than they need.

::

    fibackup ---- setpriv --pdeathsig KILL -- qemu-img convert ...
       X  kill -9                                 X  the kernel ends it too

    limits        address space    8 GiB + 64 MiB for each image that it opens
                  files            4096, or 2 for each image, within the hard limit

Ctrl-C and SIGTERM are answered by the code that waits for a child; of SIGKILL only the kernel can
tell. Without util-linux 2.33 a child works on to its end, or waits for ever.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from fibackup.model.chain import MAX_STORED_DEPTH

__all__ = ["bound_to_us", "limit_address_space", "limit_files"]

_PLACES = "/usr/bin:/bin:/usr/sbin:/sbin"
_SECONDS = 10.0
_FILES = 4096
_FILES_PER_IMAGE = 2
_ADDRESS_SPACE_BYTES = 8 * 1024**3
_ADDRESS_SPACE_PER_IMAGE_BYTES = 64 * 1024**2


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


def limit_files(pid: int, images: int = 1) -> None:
    """
    Limit the files that a child may open, and let it write no core.

    Args:
        pid: The child.
        images: Images that it opens, those under others included.

    Source:
        setrlimit(2): only a privileged process may raise a hard limit.
    """
    wanted = max(_FILES, _FILES_PER_IMAGE * min(images, MAX_STORED_DEPTH))
    with suppress(ProcessLookupError):  # it has ended
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, files))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def limit_address_space(pid: int, images: int = 1) -> None:
    """
    Limit the memory that a child may ask for, as an image with absurd tables would make it do.

    Args:
        pid: The child.
        images: Images that it opens, those under others included.

    Source:
        QEMU docs/qcow2-cache.txt: for each image that is open a cache of L2 tables, 32 MiB at most,
        and one of refcount blocks, four clusters.
    """
    most = _ADDRESS_SPACE_BYTES + _ADDRESS_SPACE_PER_IMAGE_BYTES * min(images, MAX_STORED_DEPTH)
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.prlimit(pid, resource.RLIMIT_AS, (most, most))


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
