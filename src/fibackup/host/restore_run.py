"""
The steps of a restore, as the executor runs them: all of them, or nothing stays.

::

    vda.qcow2     made, inode 71
    vdb.qcow2     made, inode 72
    web1 defined
    smoke start   fails  -->  undefine web1, remove vdb.qcow2, vda.qcow2, the directory

What is undone is what this run made and nobody has used: each file was absent when the run began,
was written by a step of the plan, and is the same inode still.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import ParamSpec, assert_never

from fibackup.errors import FibackupError
from fibackup.host.api import PointStore
from fibackup.host.events import CancelToken, OnEvent
from fibackup.plan.report import RestoredImage
from fibackup.plan.steps import CopyStored, CreateLinked, DiskRestore, FlattenImage, Plan

__all__ = ["RestoreRun"]

_P = ParamSpec("_P")


class RestoreRun:
    """
    One restore: what its steps made so far.

    Args:
        store: Where the point is.
        plan: The plan.
        emit: Gets the events.
        cancel: Asked while copying.
    """

    def __init__(self, store: PointStore, plan: Plan, emit: OnEvent, cancel: CancelToken) -> None:
        """Note which directories are not there yet."""
        self._store = store
        self._plan = plan
        self._emit = emit
        self._cancel = cancel
        self._files: list[tuple[PurePosixPath, int]] = []
        self._unrecorded: tuple[PurePosixPath, ...] = ()
        self._absent = self._absent_directories()
        self.restored: list[RestoredImage] = []

    def _absent_directories(self) -> tuple[PurePosixPath, ...]:
        """Return the missing directories of what will be made, the deepest first."""
        found = dict.fromkeys(
            parent for path in self._plan.expects.absent for parent in path.parents
        )
        there = frozenset(self._store.occupied(tuple(found)))
        return tuple(sorted(set(found) - there, key=lambda path: len(path.parts), reverse=True))

    def disk(self, step: DiskRestore) -> None:
        """
        Bring a disk back.

        Args:
            step: How.
        """
        uuid, emit, cancel = self._plan.uuid, self._emit, self._cancel
        match step:
            case FlattenImage():
                image = self._store.flatten(uuid, step, emit, cancel)
            case CopyStored():
                image = self._store.copy_chain(uuid, step, emit, cancel)
            case CreateLinked():
                image = self._store.create_linked(uuid, step, emit, cancel)
            case _:
                assert_never(step)
        self.made(step.destinations)
        self.restored.append(image)

    def made(self, paths: tuple[PurePosixPath, ...]) -> None:
        """
        Remember files that a step has made.

        Args:
            paths: The files.
        """
        self._unrecorded = paths
        self._record()

    def undo(self) -> tuple[str, ...]:
        """
        Remove what was made, the last first.

        Returns:
            What could not be removed, in words.
        """
        left: list[str] = []
        if self._unrecorded:
            _try(left, self._record)
        for path, inode in reversed(self._files):
            _try(left, self._store.discard, path, inode)
        for path in self._absent:
            _try(left, self._store.remove_directory, path)
        return tuple(left)

    def _record(self) -> None:
        inodes = self._store.inodes(self._unrecorded)
        self._files.extend(zip(self._unrecorded, inodes, strict=True))
        self._unrecorded = ()


def _try(left: list[str], action: Callable[_P, None], *args: _P.args, **options: _P.kwargs) -> None:
    try:
        action(*args, **options)
    except FibackupError as error:
        left.append(str(error))
