"""
``verified.json``: when each file of a domain was last verified, kept beside the points.

It is written anew while a verification goes on, every few seconds and at its end, so that one that
is interrupted has lost little. It says nothing of the guest's data; without it, all is read again.
Several verifications may run at a time: each takes the lock, reads, adds its own, writes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from threading import Lock

from fibackup.errors import ManifestError, StoreError
from fibackup.host.files import forget_temporary, open_lasting, read_small, replace_file
from fibackup.host.lock import refuse_strange
from fibackup.host.store_files import list_directory
from fibackup.model.records import LINKED_FILE, RECORD_FILE
from fibackup.model.verification import (
    CheckedContent,
    CheckedFile,
    ContentCheck,
    FileCheck,
    VerificationRecord,
)
from fibackup.parse.manifest import parse_record, render_record

__all__ = [
    "RECORD_LOCK",
    "WRITTEN_BY_READERS",
    "Recorder",
    "forget_entries",
    "forget_unwritten",
    "hold_record_lock",
    "read_record",
    "record_of_faults",
    "replace_record",
    "sound_record",
]

RECORD_LOCK = "lock.verified"
"""Name of the lock that is held while one of `WRITTEN_BY_READERS` is written."""

WRITTEN_BY_READERS = (RECORD_FILE, LINKED_FILE)
"""What is written without the writer's lock; a writer leaves it alone while it is being written."""

_log = logging.getLogger("fibackup.store")
_EVERY_SECONDS = 10.0
_CHECKSUM = b'"checksum": "sha256:'
_FAULT, _NO_FAULT = b'"fault":', b'"fault": ""'  # as they are written; else it is parsed


def read_record(dir_fd: int) -> VerificationRecord:
    """
    Return the record; an empty one when nothing was verified yet.

    Args:
        dir_fd: The domain's directory.

    Raises:
        ManifestError: It is damaged.
        FormatTooNewError: A newer fibackup wrote it.

    Source:
        docs/store-format.md, ``verified.json``.
    """
    try:
        return parse_record(read_small(RECORD_FILE, dir_fd), path=RECORD_FILE)
    except FileNotFoundError:
        return VerificationRecord()


def record_of_faults(dir_fd: int) -> tuple[VerificationRecord, str | None]:
    """
    Return the record if it tells of anything that was wrong, else an empty one.

    Most records tell of nothing wrong, and that shows without parsing them. One that is damaged
    tells nothing: a backup and a restore go on without it.

    Args:
        dir_fd: The domain's directory.

    Returns:
        The record, and what is wrong with it, or None; what does not show without parsing, and
        tells of nothing wrong, counts as sound.

    Source:
        docs/store-format.md, ``verified.json``.
    """
    try:
        data = read_small(RECORD_FILE, dir_fd)
        whole = data.startswith(b"{") and data.endswith(b"}\n") and _CHECKSUM in data
        if not whole or data.count(_FAULT) != data.count(_NO_FAULT):
            return parse_record(data, path=RECORD_FILE), None
    except FileNotFoundError:
        pass
    except OSError as error:
        return VerificationRecord(), error.strerror
    except StoreError as error:  # damaged, or a newer fibackup's
        return VerificationRecord(), error.reason
    return VerificationRecord(), None


class Recorder:
    """
    Collects what a verification finds, and writes it now and then; thread-safe.

    A store that cannot be written does not end a verification: it is only not remembered.

    Args:
        dir_fd: The domain's directory; it stays open while the recorder is used.
        run: Number of the verification.
        named: Files that points name. What the record has of others, now, goes; not what another
            verification adds of points that are published meanwhile. None: nothing goes, because
            there are points of which it is not known what they name.
        trust: Takes out of what is there what newer entries must not make a reference.
        settle: Takes out of what is written the faults that it shows to have ended.
        clock: Seconds that only go up.
    """

    def __init__(
        self,
        dir_fd: int,
        run: int,
        named: Collection[str] | None,
        *,
        trust: Callable[[VerificationRecord], VerificationRecord] = lambda record: record,
        settle: Callable[[VerificationRecord], VerificationRecord] = lambda record: record,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing."""
        self._fd = dir_fd
        self._trust = trust
        self._settle = settle
        self._run = run
        there = sound_record(dir_fd)[0].named
        self._gone = there - {*named} if named is not None else frozenset[str]()
        self._clock = clock
        self._lock = Lock()
        self._written = clock()
        self._files: list[CheckedFile] = []
        self._contents: list[CheckedContent] = []

    def add(self, check: FileCheck | ContentCheck) -> None:
        """
        Remember a check; write, when the last time was some seconds ago.

        Args:
            check: What came of a file or a disk.

        Source:
            docs/store-format.md, ``verified.json``.
        """
        entry = check.entry(self._run)
        with self._lock:
            if isinstance(entry, CheckedFile):
                self._files.append(entry)
            elif isinstance(entry, CheckedContent):
                self._contents.append(entry)
            if self._clock() - self._written >= _EVERY_SECONDS:
                self._write()

    def finish(self) -> None:
        """
        Write what is not written yet.

        Source:
            docs/store-format.md, ``verified.json``.
        """
        with self._lock:
            if self._files or self._contents:
                self._write()

    def _write(self) -> None:
        self._written = self._clock()
        try:
            with hold_record_lock(self._fd):
                record = self._trust(sound_record(self._fd)[0]).with_entries(
                    self._files, self._contents, forget=self._gone
                )
                replace_record(RECORD_FILE, render_record(self._settle(record)), self._fd)
        except (OSError, StoreError) as error:
            _log.warning("the verification cannot be recorded: %s", error)
        else:
            self._files, self._contents = [], []


def sound_record(dir_fd: int) -> tuple[VerificationRecord, str | None]:
    """Return the record, and what is wrong with it: an empty one, when it is damaged."""
    try:
        return read_record(dir_fd), None
    except ManifestError as error:
        return VerificationRecord(), error.reason


def forget_entries(names: Collection[str], dir_fd: int) -> None:
    """
    Forget what was read of images that had these names before: a clock may give an id again.

    Args:
        names: Images in the domain's directory that no point has yet.
        dir_fd: The domain's directory.

    Source:
        docs/store-format.md, ``verified.json``.
    """
    try:
        data = read_small(RECORD_FILE, dir_fd)
        if any(f'"{name}"'.encode() in data for name in names):
            with hold_record_lock(dir_fd):
                record = read_record(dir_fd).with_entries(forget=names)
                replace_record(RECORD_FILE, render_record(record), dir_fd)
    except FileNotFoundError:
        pass
    except (OSError, StoreError) as error:
        _log.warning("what was verified before cannot be forgotten: %s", error)


def forget_unwritten(dir_fd: int) -> None:
    """
    Remove what a killed reader has left of a file that readers write, unless another is at it.

    Args:
        dir_fd: The domain's directory.
    """
    with suppress(OSError, StoreError), hold_record_lock(dir_fd, wait=False):
        for name in WRITTEN_BY_READERS:
            forget_temporary(name, dir_fd)


def replace_record(name: str, text: str, dir_fd: int) -> None:
    """
    Write one of the files that readers write, in place of the old one.

    Args:
        name: Its name.
        text: Its content.
        dir_fd: The domain's directory; the caller holds the lock, so what is half-written there is
            a killed reader's.

    Source:
        docs/store-format.md, "Locks".
    """
    forget_temporary(name, dir_fd)
    replace_file(name, text.encode(), dir_fd)


@contextmanager
def hold_record_lock(dir_fd: int, *, wait: bool = True) -> Generator[None]:
    """
    Hold the lock on the files that readers write, for as long as it takes to write one.

    Args:
        dir_fd: The domain's directory.
        wait: False: fail at once when another has it.

    Source:
        docs/store-format.md, "Locks"; flock(2).
    """
    fd = open_lasting(RECORD_LOCK, dir_fd)
    try:
        refuse_strange(fd, RECORD_LOCK, alone=_is_another_lock(fd, dir_fd))
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _is_another_lock(fd: int, dir_fd: int) -> bool:
    """Tell whether the lock is one file with another, which this run holds, and would wait for."""
    if os.fstat(fd).st_nlink == 1:
        return False
    others = (
        name for name in list_directory(dir_fd) if name.startswith("lock") and name != RECORD_LOCK
    )
    return any(_is(name, fd, dir_fd) for name in others)


def _is(name: str, fd: int, dir_fd: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), os.fstat(fd))
    return False
