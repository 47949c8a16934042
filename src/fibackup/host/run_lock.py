"""
One run at a time on a domain of this host, whatever store it writes to, or none.

::

    $FIBACKUP_RUN_DIR             where it is set
    /run/fibackup                 as root
    $XDG_RUNTIME_DIR/fibackup     as anybody else; /tmp/fibackup-UID where that is not set
      `-- UUID.lock               flock; its owner signs it; never removed
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from fibackup.host.files import open_directory, os_errors, refuse_strangers
from fibackup.host.lock import hold_store_lock

__all__ = ["hold_domain_lock", "run_directory"]


def run_directory() -> str:
    """
    Return the directory of the locks.

    Source:
        file-hierarchy(7), "/run"; XDG Base Directory Specification.
    """
    chosen = os.environ.get("FIBACKUP_RUN_DIR")
    if chosen:
        return os.path.abspath(chosen)
    if os.geteuid() == 0:
        return "/run/fibackup"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return os.path.join(runtime, "fibackup")
    return f"/tmp/fibackup-{os.geteuid()}"  # noqa: S108 - owner and mode are checked


@contextmanager
def hold_domain_lock(uuid: str) -> Generator[None]:
    """
    Hold the lock on a domain of this host.

    Args:
        uuid: The domain's UUID.

    Yields:
        While the lock is held.

    Raises:
        LockedError: Another run works on the domain; ``owner`` says which.
        PermissionDeniedError: The directory of the locks is not ours alone.

    Source:
        flock(2): the kernel ends it with the process, so it is never stale.
    """
    place = run_directory()
    name = f"{uuid}.lock"
    with os_errors(place):
        os.makedirs(place, mode=0o700, exist_ok=True)
    with os_errors(os.path.join(place, name)), open_directory(place) as fd:
        refuse_strangers(fd, place, "the directory of the locks")
        with hold_store_lock(name, fd, exclusive=True):
            yield
