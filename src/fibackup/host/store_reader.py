"""
A backup directory, for those who only look: domains, points, what was verified, what is wrong.

::

    StoreReader    domains, histories, records, surveys; no lock, and nothing is written
        ^
        |
      Store        takes points, restores, verifies, prunes: see `fibackup.host.store`

It imports no step of a plan and no tool, so a list starts in half the time.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from types import TracebackType
from typing import Self

from attrs import evolve

from fibackup.errors import HostError, NotAStoreError, StoreError
from fibackup.host.files import open_directory, os_errors
from fibackup.host.history import read_history
from fibackup.host.lock import look_at_lock
from fibackup.host.manifests import Manifests
from fibackup.host.record import sound_record
from fibackup.host.store_file import STORE_FILE, misnamed, read_store_file, uuid_of
from fibackup.host.store_files import directories_in, exists, is_manifest, list_directory
from fibackup.host.survey import list_files, survey_faults
from fibackup.model.point import History
from fibackup.model.records import RECORD_FILE
from fibackup.model.verification import Survey, VerificationRecord
from fibackup.render.drawable import Drawable, Picture

__all__ = [
    "BESIDE_A_STORE",
    "COMPRESS_FILE",
    "WRITERS_LOCK",
    "StoreReader",
]

WRITERS_LOCK = "lock"
"""Name of the lock of the one writer, in a domain's directory."""

BESIDE_A_STORE = frozenset({"lost+found"})
"""What an empty file system has, and a store's directory may have."""

COMPRESS_FILE = "compress"
"""Name of the file that makes new points compressed; it may lie there before the store does."""


class StoreReader(Drawable):
    """
    A backup directory, to be looked at: nothing is written, no lock is taken, no tool is needed.

    Thread-safe: it keeps one descriptor of its directory and no other state. While a writer is at
    work it reads again, and shows what is published.

    Open one with `StoreReader.open`; use it as a context manager, or call `close`. A `Store` is one
    too.
    """

    def __init__(self, path: PurePosixPath, uuid: str, fd: int) -> None:
        """Keep an open directory; callers use the class methods."""
        self.path = path
        self._uuid = uuid
        self._fd = fd

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """
        Open an existing store.

        Args:
            path: The directory.

        Returns:
            The store.

        Raises:
            NotAStoreError: The directory is missing, or has neither ``fibackup-store.json`` nor
                points: an unmounted disk, perhaps.
            FormatTooNewError: A newer fibackup made it.
            ManifestError: Its ``fibackup-store.json`` is damaged, or gone although there are
                points, or all points are of one other store; the reason says how to write it anew.

        Source:
            docs/store-format.md, ``fibackup-store.json``.
        """
        where = PurePosixPath(os.path.abspath(path))
        try:
            fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotAStoreError(reason="there is no such directory", path=str(where)) from None
        except OSError:
            with os_errors(str(where)):
                raise
        try:
            with os_errors(str(where / STORE_FILE)):
                return cls(where, read_store_file(fd, where), fd)
        except BaseException:
            os.close(fd)
            raise

    @property
    def uuid(self) -> str:
        """The store's UUID."""
        return self._uuid

    def close(self) -> None:
        """
        Close the directory; twice is fine.

        Source:
            close(2).
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the directory."""
        self.close()

    def __repr__(self) -> str:
        """Return path and UUID."""
        return f"<{type(self).__name__} {str(self.path)!r} {self._uuid}>"

    def picture(self) -> Picture:
        """
        Return what is known without reading; `read_history` reads.

        Source:
            docs/explore.md.
        """
        state = "open" if self._fd >= 0 else "closed"
        return Picture(title=f"store {self.path}", facts=(state, self._uuid))

    # --- reading --------------------------------------------------------------------------------

    def domains(self) -> tuple[str, ...]:
        """
        Return the UUIDs of the domains that the store has a directory for, sorted.

        Source:
            docs/store-format.md, "Directories".
        """
        found = (uuid_of(name) for name in list_directory(self._fd))
        return tuple(sorted({uuid for uuid in found if uuid is not None}))

    def directories(self, uuid: str) -> tuple[str, ...]:
        """
        Return the names of a domain's directories; more than one when somebody made a copy beside.

        The first is read; nothing is written or restored while there are others.

        Args:
            uuid: The domain.

        Source:
            docs/store-format.md, "Directories".
        """
        return self._by_uuid().get(uuid, ())

    def _by_uuid(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for name in sorted(list_directory(self._fd)):
            uuid = uuid_of(name)
            if uuid is not None:
                found.setdefault(uuid, []).append(name)
        return {
            uuid: tuple(names if len(names) == 1 else self._with_points(names))
            for uuid, names in found.items()
        }

    def _with_points(self, names: list[str]) -> list[str]:
        """Leave out what is no directory, or an empty one; but leave one."""
        inside = directories_in(self._fd)
        real = [name for name in names if name in inside]
        full = [name for name in real if self._has_points(name)]
        return full or real[:1] or names[:1]

    def _has_points(self, name: str) -> bool:
        try:
            with open_directory(name, self._fd) as fd:
                return any(map(is_manifest, list_directory(fd)))
        except PermissionError:  # it may have some: that is told of this domain, and of no other
            return True

    def read_history(self, uuid: str) -> History:
        """See `PointStore.read_history`."""
        with os_errors(str(self.path)):
            directories = self.directories(uuid)
        if not directories:
            return History(store=self._uuid, path=self.path, uuid=uuid, compress=self._compresses())
        name, *others = directories
        with self._directory(name) as fd:
            found, _ = self._history(fd, name, uuid)
        return evolve(found, copies=tuple(others)) if others else found

    def _history(self, fd: int, name: str, uuid: str) -> tuple[History, Manifests]:
        return read_history(
            fd, self.path / name, store=self._uuid, uuid=uuid, compress=self._compresses()
        )

    def _compresses(self) -> bool:
        return exists(COMPRESS_FILE, self._fd)

    def read_record(self, uuid: str) -> VerificationRecord:
        """See `PointStore.read_record`."""
        with os_errors(str(self.path)):
            name = self._find(uuid)
            if name is None:
                return VerificationRecord()
            with self._directory(name) as fd:
                return _record(fd)[0]

    def survey(self, uuid: str) -> Survey:
        """See `PointStore.survey`."""
        with os_errors(str(self.path)):
            directories = self.directories(uuid)
        if not directories:
            return Survey(history=self.read_history(uuid))
        name = directories[0]
        with self._directory(name) as fd:
            before = look_at_lock(WRITERS_LOCK, fd)
            files = list_files(fd)
            history, manifests = self._history(fd, name, uuid)
            record, fault = _record(fd)
            damaged = dict(history.damaged_records)
            if fault is not None:
                damaged[RECORD_FILE] = fault
            busy = before.held or look_at_lock(WRITERS_LOCK, fd) != before
        return Survey(
            history=history,
            files=files,
            record=record,
            digests=tuple(sorted(manifests.digests.items())),
            unsealed=tuple(sorted(manifests.unsealed & {point.id for point in history.points})),
            faults=survey_faults(directories, damaged),
            busy=busy,
        )

    def strangers(self) -> tuple[str, ...]:
        """
        Return what lies in the store beside its files and the directories of domains, sorted.

        Source:
            docs/store-format.md, "Directories".
        """
        with os_errors(str(self.path)):
            names = sorted(
                set(list_directory(self._fd)) - BESIDE_A_STORE - {STORE_FILE, COMPRESS_FILE}
            )
            inside = directories_in(self._fd)
            return tuple(name for name in names if uuid_of(name) is None or name not in inside)

    def misnamed(self) -> dict[str, str]:
        """
        Return directories that hold points, and whose names do not say of which domain.

        Returns:
            The name that each should have; empty when there is another directory of that domain, or
            its points are of another store.

        Source:
            docs/store-format.md, "Directories".
        """
        with os_errors(str(self.path)):
            return misnamed(self._fd, self._uuid)

    # --- directories ----------------------------------------------------------------------------

    @contextmanager
    def _directory(self, name: str) -> Generator[int]:
        """Open what is named as a domain's directory; errors inside tell its path."""
        place = f"{self.path}/{name}"
        with os_errors(place, inside=True), ExitStack() as held:
            try:
                fd = held.enter_context(open_directory(name, self._fd))
            except NotADirectoryError as error:
                reason = (
                    f"{error.strerror}, but named as one of a domain: move it away, or put that in "
                    "its place"
                )
                raise HostError(reason=reason, path=place) from error
            yield fd

    @contextmanager
    def _domain(self, uuid: str) -> Generator[tuple[int, PurePosixPath]]:
        name = self._find(uuid)
        if name is None:
            raise StoreError(
                reason=f"the store has no directory for domain {uuid}", path=str(self.path)
            )
        with open_directory(name, self._fd) as fd:
            yield fd, self.path / name

    def _find(self, uuid: str) -> str | None:
        return next(iter(self.directories(uuid)), None)


def _record(fd: int) -> tuple[VerificationRecord, str | None]:
    """Return the record of verifications; an empty one, and why, when it cannot be had."""
    try:
        return sound_record(fd)
    except PermissionError as error:  # another user's: the history warns of it
        return VerificationRecord(), error.strerror
