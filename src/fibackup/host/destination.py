"""
Where a restored file is written: beside its name, which it gets when it is complete.

::

    INTO/                    made, durably, when it is missing
    INTO/.vda.qcow2.tmp      written under a lock: one that nobody holds is a killed run's, and goes
    INTO/vda.qcow2           by `publish_file`, which replaces nothing
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from threading import Lock

from fibackup.errors import LockedError
from fibackup.host.files import TEMP_SUFFIX, make_directories, os_errors, temporary_file
from fibackup.host.lock import hold_alone

__all__ = ["destination_directory", "temporary_destination"]

_making_directories = Lock()  # a directory is there when its mode is right


@contextmanager
def destination_directory(path: PurePosixPath) -> Generator[int]:
    """Open the directory of a restored file; it is made, durably, when it is missing."""
    with os_errors(str(path.parent)):
        with _making_directories:
            make_directories(str(path.parent))
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def temporary_destination(name: str, directory: int) -> Generator[int]:
    """Open the temporary file; one that a killed restore left is removed, a live one respected."""
    _remove_stale(name, directory)
    with temporary_file(name, directory) as fd:
        _hold(fd, f".{name}{TEMP_SUFFIX}", directory)
        yield fd


def _hold(fd: int, temp: str, directory: int) -> None:
    """Lock it; who began at the same moment may have taken it for a killed run's, and have it."""
    with suppress(BlockingIOError, FileNotFoundError):
        hold_alone(fd)
        found = os.stat(temp, dir_fd=directory, follow_symlinks=False)
        if os.path.samestat(found, os.fstat(fd)):
            return
    raise LockedError(reason="another restore writes there", path=temp)


def _remove_stale(name: str, directory: int) -> None:
    temp = f".{name}{TEMP_SUFFIX}"
    with suppress(FileNotFoundError):
        fd = os.open(temp, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            hold_alone(fd)
            os.unlink(temp, dir_fd=directory)
        except BlockingIOError:
            raise LockedError(reason="another restore writes there", path=temp) from None
        finally:
            os.close(fd)
