"""
Take points away: first what kept points need becomes theirs, then the others go.

::

    heirs       each manifest is replaced by one that names the inherited images too
    prune.json  from here on it will be finished, by whoever writes next
    manifests   of the dropped points, the newest first; now they are gone
    files       that nothing names
    prune.json  removed

At each moment every published point names what it needs, and that is there. Seals go before the
manifests they are about, and come back at the end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Container, Sequence
from contextlib import suppress

from fibackup.errors import ManifestError
from fibackup.host.files import (
    fsync_directory,
    open_directory,
    replace_file,
    write_once,
)
from fibackup.host.journals import read_removal
from fibackup.host.linked import needed_files, refuse_needed
from fibackup.host.seals import MANIFEST_SUFFIX, seal_points, unseal_points
from fibackup.model.journal import Removal
from fibackup.model.point import History
from fibackup.model.records import REMOVAL_FILE
from fibackup.parse.manifest import render_manifest, render_removal
from fibackup.plan.prune_steps import DropPoints
from fibackup.plan.records import describe_damaged
from fibackup.plan.removal import left_to_remove

__all__ = ["drop_points", "recover_removal"]

_BLOCK_BYTES = 512
_log = logging.getLogger("fibackup.store")


def drop_points(step: DropPoints, dir_fd: int) -> int:
    """
    Run a step on a domain's directory, whose locks the caller holds: writer's and readers'.

    Args:
        step: What to drop.
        dir_fd: The domain's directory.

    Returns:
        Bytes that the file system gets back.

    Raises:
        DomainBusyError: A domain runs on one of the images, or a linked disk lies on it; or on
            one that an interrupted prune could not take away for that. Nothing was touched.
    """
    waiting = read_removal(dir_fd)
    refuse_needed(step.files if waiting is None else (*step.files, *waiting.files), dir_fd)
    unseal_points((*(point.id for point in step.heirs), *step.points), dir_fd)
    for point in step.heirs:
        replace_file(point.id + MANIFEST_SUFFIX, render_manifest(point).encode(), dir_fd)
    if not step.points:
        seal_points("", dir_fd)
        return 0
    removal = Removal(step.points, step.files)
    write_once(REMOVAL_FILE, render_removal(removal).encode(), dir_fd)
    return _finish(removal, dir_fd)


def _finish(removal: Removal, dir_fd: int) -> int:
    """
    Remove manifests, then files, then the journal; what is gone already is fine.

    Args:
        removal: What goes.
        dir_fd: The domain's directory, under both locks.

    Returns:
        Bytes that the file system gets back.
    """
    _unpublish(removal.points, dir_fd)
    freed = _delete(removal.files, dir_fd)
    seal_points("", dir_fd)  # before the journal goes: whoever dies between is finished by the next
    _abandon(dir_fd)
    return freed


def _unpublish(points: Sequence[str], dir_fd: int) -> None:
    unseal_points(points, dir_fd)
    for point in reversed(points):  # what lies on another goes before it
        _unlink(point + MANIFEST_SUFFIX, dir_fd)
    fsync_directory(dir_fd)


def _delete(files: Sequence[str], dir_fd: int) -> int:
    freed = 0
    folders: dict[str, list[str]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        folders.setdefault(folder, []).append(name)
    for folder, names in folders.items():
        with suppress(FileNotFoundError), open_directory(folder or ".", dir_fd) as fd:
            freed += sum(_unlink(name, fd, folder) for name in names)
            fsync_directory(fd)
    return freed


def _abandon(dir_fd: int) -> None:
    """Remove the journal."""
    _unlink(REMOVAL_FILE, dir_fd)
    fsync_directory(dir_fd)


def _unlink(name: str, dir_fd: int, folder: str = "") -> int:
    """Remove a file; return what the file system gets back."""
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{folder or '.'}/{name}") from error
    return found.st_blocks * _BLOCK_BYTES if found.st_nlink == 1 else 0


def recover_removal(
    dir_fd: int, history: History, spared: Callable[[History], Container[str]]
) -> None:
    """
    Finish what a killed run has left; a journal that is damaged only goes.

    What is not to go any more stays: see `left_to_remove`.

    Args:
        dir_fd: The domain's directory, under both locks.
        history: What the store holds, read under these locks.
        spared: Which points the caller keeps, besides those that have a file.
    """
    try:
        removal = read_removal(dir_fd)
    except ManifestError as error:
        _log.warning("%s", describe_damaged(REMOVAL_FILE, error.reason))
        _abandon(dir_fd)
        return
    if removal is None:
        return
    used = needed_files(removal.files, dir_fd)
    left = left_to_remove(removal, history, spared(history), used)
    if left is not None:
        _finish(left, dir_fd)
