"""
How many files this process may open.

A restore holds every image of a chain open, of several disks at a time.
"""

from __future__ import annotations

import resource
from contextlib import suppress

__all__ = ["allow_open_files"]

_ENOUGH = 65536


def allow_open_files() -> None:
    """
    Raise the soft limit, within the hard one; 1024 is a default for programs that use select(2).

    Source:
        setrlimit(2); systemd.exec(5), ``LimitNOFILE=``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
